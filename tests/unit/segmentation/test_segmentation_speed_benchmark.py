"""``evaluate.py benchmark=segmentation_speed``, through its entry point, at a size that takes seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tezawari.cli import evaluate
from tezawari.segmentation.saliency import METHODS

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
TINY = ["size=[48,40]", "images=2", "num_classes=3", "candidates=2"]


def run(output_dir: Path, *words: str) -> int:
    named = {word.partition("=")[0] for word in words}
    usual = [word for word in TINY if word.partition("=")[0] not in named]
    words = tuple(f"benchmark.{word}" for word in (*usual, *words))
    return evaluate(["benchmark=segmentation_speed", f"output_dir={output_dir}", *words], ROOT)


def read(output_dir: Path) -> dict[str, dict[str, str]]:
    with (output_dir / "segmentation_speed" / "results.csv").open(newline="", encoding="utf-8") as file:
        return {row["what"]: row for row in csv.DictReader(file)}


def test_everything_is_timed_and_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")
    assert run(tmp_path, "crf.iterations=2") == 0
    rows = read(tmp_path)
    crf = ["CRF on 3 candidates", "CRF on all 4 classes", "end to end: dcsm and CRF"]
    assert list(rows) == [*METHODS, "dcsm, naive loop", *crf]
    times = {name: float(row["milliseconds"]) for name, row in rows.items()}
    assert min(times.values()) > 0
    for name, unit, beside in (("dcsm, naive loop", "dcsm", "dcsm"), (crf[1], "candidates", crf[0])):
        ratio, _, said = rows[name]["ratio"].partition(" × ")
        assert said == unit
        # The times in the file are rounded; so is the ratio.
        assert float(ratio) == pytest.approx(times[name] / times[beside], rel=0.05, abs=0.06)
    assert times[crf[2]] == pytest.approx(times["dcsm"] + times[crf[0]], abs=0.02)
    assert float(rows["dcsm, naive loop"]["same"]) < 1e-3, "the literal loop gives the same maps"
    assert float(rows[crf[1]]["same"].rstrip("%")) > 90
    for row in rows.values():
        assert (row["size"], row["num_classes"], row["candidates"]) == ("48x40", "3", "2")
        assert row["backbone"] == "efficientnet_lite0"
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 2 + len(rows)
    assert "48 × 40 pixels with 2 of 3 classes" in printed


def test_parts_can_be_left_out(tmp_path: Path) -> None:
    assert run(tmp_path, "naive=false", "crf=null", "images=1", "backbone=resnet18") == 0
    assert list(read(tmp_path)) == list(METHODS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["num_classes=1", "candidates=1"], "benchmark.candidates=1, benchmark.num_classes=1"),
        (["candidates=9"], "benchmark.candidates=9"),
        (["images=0"], "benchmark.images=0"),
        (["size=[64]"], "benchmark.size"),
        (["backbone=resnet"], "resnet"),
        (["weights=nowhere.pth"], "nowhere.pth"),
        (["crf.gaussian_sxy=-1"], "crf.gaussian_sxy=-1"),
        (["repeats=3"], "benchmark has no setting repeats"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, *words, *(["naive=false"] if "naive" not in words else [])) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line
    assert not list(tmp_path.iterdir())
