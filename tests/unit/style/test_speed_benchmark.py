"""``evaluate.py benchmark=style_speed``, through its entry point, at sizes that take seconds."""

from __future__ import annotations

import copy
import csv
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tezawari.cli import evaluate
from tezawari.core import timing
from tezawari.core.errors import UserError
from tezawari.export.onnx import Exported, export_onnx
from tezawari.style import speed_benchmark
from tezawari.style.network import ConditionalNetwork, build_network
from tezawari.style.package import save_network
from tezawari.style.peak_memory import Job, PeakMemory, PhotoJob, StylizeJob, measure
from tezawari.style.speed_candidates import STYLIZING, TRAINING
from tezawari.style.speed_report import ratio, targets

ROOT = Path(__file__).resolve().parents[3]
TINY = ["sizes=[64]", "repeats=1", "train_size=32", "batch_size=2", "train_steps=1", "photo_size=[40,32]"]
PARTS = {"training": TRAINING, "stylise": STYLIZING}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile is asked for as always, and then runs eagerly; a turn is one run, on one thread."""
    monkeypatch.setattr(speed_benchmark, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_PEAK_SIDES", (128,))
    monkeypatch.setattr(timing, "_PEAK_REPEATS", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
    torch.set_num_threads(threads)


def run(output_dir: Path, *words: str) -> int:
    return evaluate(["benchmark=style_speed", f"output_dir={output_dir}", *(f"benchmark.{w}" for w in words)], ROOT)


def read(output_dir: Path, name: str) -> list[dict[str, str]]:
    with (output_dir / "style_speed" / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def export_one_size(network: ConditionalNetwork, path: Path) -> Exported:
    """Export for 64 px alone, which takes seconds; what is exported else is tested with the exporter."""
    inputs = {"content_image": torch.rand(1, 3, 64, 64), "style_weights": torch.eye(network.num_styles)[:1]}
    return export_onnx(copy.deepcopy(network), inputs, ["stylized"], path)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs whose memory would be measured; none is run."""
    asked: list[Job] = []

    def fake(job: Job, threads: int) -> PeakMemory:
        assert threads == torch.get_num_threads()
        asked.append(job)
        return PeakMemory(100.0, 100.0 + len(asked), 0.5)

    monkeypatch.setattr(speed_benchmark, "measure", fake)
    return asked


def test_everything_is_measured_and_agrees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, jobs: list[Job]
) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    monkeypatch.setattr(speed_benchmark, "export_style_network", export_one_size)
    assert run(tmp_path, *TINY, "compile=false", "bf16=true") == 0
    printed = capsys.readouterr()
    assert "restyling, 64 px: 1 turns" in printed.err
    assert "| textbook, transposed" in printed.out
    for name, candidates in PARTS.items():
        rows = read(tmp_path, name)
        assert [row["candidate"] for row in rows] == [c.name for c in candidates if not c.compiled]
        seconds = [float(row["step_s"] if name == "training" else row["latency_ms"]) for row in rows]
        for row, own in zip(rows, seconds):
            # The times in the file are rounded; so are the ratios.
            assert float(row["times_textbook_transposed"]) == pytest.approx(seconds[0] / own, rel=0.05, abs=0.006)
            assert float(row["times_textbook_resize"]) == pytest.approx(seconds[1] / own, rel=0.05, abs=0.006)
            assert float(row["gflop_per_s"]) > 0
            assert float(row["share_of_peak"]) > 0
        assert [row["peak_mb"] for row in rows] == [f"{100 + i}" for i in _numbers(jobs, name)]
    for row in read(tmp_path, "stylise"):
        textbook = row["candidate"].startswith("textbook")
        assert (row["difference_255"] == "") == textbook
        if not textbook:
            assert float(row["difference_255"]) < (0.01 if row["precision"] == "fp32" else 2)
    (photo,) = (job for job in jobs if isinstance(job, PhotoJob))
    assert (photo.width, photo.height) == (40, 32)
    assert {path.name for path in (tmp_path / "style_speed").iterdir()} == {
        "training.csv",
        "stylise.csv",
        "memory.csv",
        "summary.md",
        "speed.png",
    }
    assert (tmp_path / "style_speed" / "speed.png").stat().st_size < 300_000


def test_what_was_timed_is_kept_when_memory_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(job: Job, threads: int) -> PeakMemory:
        raise KeyboardInterrupt

    monkeypatch.setattr(speed_benchmark, "measure", stopped)
    assert run(tmp_path, *TINY, "parts=[training,memory]", "compile=false") == 130
    rows = read(tmp_path, "training")
    assert float(rows[0]["step_s"]) > 0
    assert rows[0]["peak_mb"] == ""


def _numbers(jobs: list[Job], part: str) -> list[int]:
    return [number for number, job in enumerate(jobs, start=1) if job.part == part]


def test_what_is_not_installed_or_not_computed_here_is_a_row_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, jobs: list[Job]
) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(speed_benchmark, "computes_bf16", lambda: False)
    assert run(tmp_path, *TINY, "parts=[stylise,memory]") == 0
    rows = {row["candidate"]: row for row in read(tmp_path, "stylise")}
    assert set(rows) == {c.name for c in STYLIZING}
    assert rows["deepstylecam, ONNX Runtime"]["note"] == "not installed: onnxruntime"
    assert rows["deepstylecam, OpenVINO"]["note"] == "not installed: onnxruntime, openvino"
    assert "bfloat16" in rows["deepstylecam, deployed, bf16"]["note"]
    assert rows["deepstylecam, deployed, compiled"]["note"] == ""
    for row in rows.values():
        assert (row["note"] == "") == (row["latency_ms"] != "") == (row["share_of_peak"] != "")
    assert [job.name for job in jobs] == [name for name, row in rows.items() if not row["note"]]
    error = capsys.readouterr().err
    assert "pip install 'tezawari[export]'" in error
    assert "benchmark.bf16=true" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sizes=[100]"], "multiple of 32"),
        (["sizes=[32]"], "from 64"),
        (["sizes=[]"], "benchmark.sizes is empty"),
        (["parts=[]"], "benchmark.parts is empty"),
        (["parts=[memory]"], "add training or stylise"),
        (["parts=[stylize]"], "benchmark.parts"),
        (["train_size=50"], "benchmark.train_size=50"),
        (["batch_size=3"], "benchmark.batch_size=3"),
        (["photo_size=[100]"], "benchmark.photo_size=[100]"),
        (["repeats=0"], "benchmark.repeats=0"),
        (["repeat=3"], "did you mean"),
        (["checkpoint=nowhere.safetensors", "parts=[stylise]"], "nowhere.safetensors"),
        (["weights=nowhere.pth", "parts=[training]", "train_size=32"], "nowhere.pth"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_benchmark, "matmul_peak", lambda dtype: 1.0)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run(tmp_path, *words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_a_network_that_cannot_be_deployed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_benchmark, "matmul_peak", lambda dtype: 1.0)
    file = save_network(tmp_path / "n.safetensors", build_network("swift", 2, norm="instance"), ["a", "b"], {})
    assert run(tmp_path, f"checkpoint={file}", "parts=[stylise]") == 2
    assert "model.norm=instance" in capsys.readouterr().err


def test_equal_steps_are_compared_by_their_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["parts=[]", "equal_steps=2", "train_size=32", "batch_size=2", "bf16=true"]
    assert run(tmp_path, *words) == 0
    rows = read(tmp_path, "equal_steps")
    assert [(row["candidate"], row["precision"]) for row in rows] == [
        ("johnson, plain loss", "fp32"),
        ("deepstylecam", "bf16"),
        ("swift, two styles a photo", "bf16"),
    ]
    for row in rows:
        assert row["steps"] == "2"
        assert float(row["content_loss"]) > 0
        assert float(row["style_loss"]) > 0
    assert len({row["style_loss"] for row in rows}) == 3
    assert "mean nothing" in capsys.readouterr().err


def test_memory_is_that_of_a_process_of_its_own(tmp_path: Path) -> None:
    file = save_network(tmp_path / "n.safetensors", build_network("deepstylecam", 2), ["a", "b"], {})
    ballast = torch.ones(300_000_000)  # 1.2 GB of this process, which the other one must not be charged with
    found = measure(StylizeJob("deepstylecam, eager", 256, str(file), ""), threads=1)
    assert 100 < found.loaded < found.peak < ballast.numel() * 4 / 1e6
    assert found.seconds > 0


def test_memory_that_cannot_be_measured_loses_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Job, threads: int) -> PeakMemory:
        raise UserError("the memory ran out")

    monkeypatch.setattr(speed_benchmark, "measure", fail)
    monkeypatch.setattr(speed_benchmark, "TRAINING", TRAINING[:3])
    assert run(tmp_path, *TINY, "parts=[training,memory]", "compile=false") == 0
    assert all(row["step_s"] and not row["peak_mb"] for row in read(tmp_path, "training"))
    assert [row["note"] for row in read(tmp_path, "memory")] == ["the memory ran out"] * 3
    assert "the memory ran out" in capsys.readouterr().err


def test_a_failed_measurement_names_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"40 × 32 px, was not measured.*missing\.safetensors"):
        measure(PhotoJob(str(tmp_path / "missing.safetensors"), "a.jpg", "b.jpg", 40, 32), threads=1)


def test_candidates_take_turns() -> None:
    order: list[str] = []

    def sleeper(name: str, seconds: float) -> Callable[[], None]:
        def sleep() -> None:
            order.append(name)
            time.sleep(seconds)

        return sleep

    runs = {"slow": sleeper("slow", 0.03), "quick": sleeper("quick", 0.01)}
    timings = timing.time_in_turns(runs, turns=3)
    assert order == ["slow", "quick"] * 3
    assert timings["slow"].median >= timings["slow"].fastest >= 0.03
    assert timings["quick"].median >= timings["quick"].fastest >= 0.01
    assert timings["quick"].fastest < timings["slow"].fastest
    order.clear()
    timing.time_in_turns(runs, turns=1, turn_seconds=0.055)
    assert order[:2] == ["slow", "slow"]
    assert 2 < order.count("quick") <= 6


def test_targets_compare_like_with_like() -> None:
    from tezawari.style.speed_report import Machine, MemoryRow, Report, StylizeRow

    rows = [
        StylizeRow("textbook, transposed", "fp32", 512, timing.Timing(2.0, 2.0), 10.0),
        StylizeRow("textbook, transposed", "fp32", 256, timing.Timing(0.5, 0.5), 2.5),
        StylizeRow("deepstylecam, eager", "fp32", 512, timing.Timing(0.5, 0.5), 1.0, 0.0),
        StylizeRow("deepstylecam, deployed", "fp32", 512, timing.Timing(0.25, 0.25), 1.0, 0.25),
        StylizeRow("deepstylecam, OpenVINO", "fp32", 512, timing.Timing(0.1, 0.1), 1.0, 0.5),
        StylizeRow("deepstylecam, eager", "fp32", 256, timing.Timing(0.01, 0.01), 1.0, 0.0),
        StylizeRow("deepstylecam, deployed, bf16", "bf16", 512, None, 1.0, None, "left out"),
    ]
    memory = [MemoryRow("photo", "ours", "6000 × 4000 px", 500, 1500, 30)]
    memory.append(MemoryRow("photo", "ours", "9000 × 6000 px", None, None, None, "the memory ran out"))
    machine = Machine("a processor", 2, 2, "", "2024-01-01", "", {"fp32": 100.0})
    assert ratio(rows[5], rows, "textbook, transposed") == 50
    assert ratio(rows[6], rows, "textbook, transposed") is None
    assert ratio(rows[2], rows, "textbook, resize") is None
    inside, outside, difference, photo = targets(Report(machine, [], rows, memory))
    assert "8.0× (deepstylecam, deployed)" in inside
    assert "20.0× (deepstylecam, OpenVINO)" in outside
    assert "0.50/255 (deepstylecam, OpenVINO, 512 px)" in difference
    assert "1500 MB" in photo
