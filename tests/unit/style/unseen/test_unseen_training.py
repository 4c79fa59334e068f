"""``model=unseen_style`` through the real entry point: it learns, resumes exactly, and what it publishes is usable."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from tests.resume.kill_many import differences

from tezawari import cli
from tezawari.cli import evaluate, train
from tezawari.core.checkpoints import list_checkpoints
from tezawari.data.materials import material_texture
from tezawari.data.sheet import to_pil
from tezawari.style.unseen.lightning_module import UnseenStyle
from tezawari.style.unseen.package import load_unseen

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[4]
TINY = [
    "model=unseen_style",
    "model.embedding=4",
    "model.hidden=8",
    "model.projected=3",
    "data.paintings=1",
    "data.scenes=0",
    "data.image_size=32",
    "data.style_size=32",
    "trainer.log_every=1",
    "callbacks.progress=false",
]
SHORT = [
    "data.batch_size=2",
    "data.epoch_size=6",
    "trainer.max_steps=6",
    "trainer.val_every=3",
    "model.reconstruction_steps=2",
]


def run_of(folder: Path) -> Path:
    (run,) = folder.glob("unseenstyle/*/")
    return run


def curve(run: Path, metric: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert train([*TINY, *SHORT, f"output_dir={folder}"], ROOT) == 0
    return run_of(folder)


def test_training_lowers_the_loss_on_a_tiny_pool(tmp_path: Path) -> None:
    held_out = "data.held_out=[foliage,glass,leather,metal,paper,plastic,stone,water,gravel,grass,ihc,retina,hubble]"
    steps = ["data.batch_size=3", "trainer.max_steps=30", "trainer.val_every=0", "model.reconstruction_steps=0"]
    assert train([*TINY, *steps, held_out, "model.recolor=0", f"output_dir={tmp_path}"], ROOT) == 0
    losses = curve(run_of(tmp_path), "train/loss")
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_stopped_run_ends_as_the_untouched_one(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = UnseenStyle.training_step

    def interrupted(self: UnseenStyle, batch: dict[str, object], batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(UnseenStyle, "training_step", interrupted)
        assert train([*TINY, *SHORT, f"output_dir={tmp_path}"], ROOT) == 143
    assert list_checkpoints(run_of(tmp_path) / "checkpoints")[0].name == "step-000000004.ckpt"
    assert train([*TINY, *SHORT, f"output_dir={tmp_path}", "resume=auto"], ROOT) == 0
    assert list(differences(whole, run_of(tmp_path))) == []


def test_a_run_publishes_what_its_checkpoint_holds(whole: Path) -> None:
    artefacts = json.loads((whole / "record.json").read_text())["artefacts"]
    assert set(artefacts) == {"checkpoint", "metrics", "network", "contact sheet"}
    published, saved = load_unseen(whole), load_unseen(whole / artefacts["checkpoint"])
    theirs = saved.network.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in published.network.state_dict().items())
    assert published.meta["steps"] == 6
    assert curve(whole, "val/style_loss")
    with Image.open(whole / "contact_sheet.png") as sheet:
        # The photo, six styles and their mix; the styles themselves and four photos.
        assert 8 * 160 < sheet.width < 9 * 160
        assert 5 * 160 < sheet.height < 6 * 160


def _stylize(*words: str) -> int:
    return cli.main(["stylize", *words, "-o", "out"])


def test_the_command_line_takes_style_images(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.astronaut()).resize((51, 40)).save("a.png")
    for name in ("glass", "wood"):
        to_pil(material_texture(name, 5, 40)).save(f"{name}.png")
    images = ["--style-image", "glass.png", "--style-image", "wood.png"]
    assert _stylize("a.png", "--checkpoint", str(whole), *images) == 0
    assert capsys.readouterr().out.split() == ["out/a-glass.png", "out/a-wood.png"]
    pixels = [np.asarray(Image.open(f"out/a-{name}.png").convert("RGB")).astype(float) for name in ("glass", "wood")]
    assert pixels[0].shape == (40, 51, 3)
    assert np.abs(pixels[0] - pixels[1]).mean() > 0.1
    assert _stylize("a.png", "--checkpoint", str(whole), *images, "--style", "glass=1", "--style", "wood=1") == 0
    assert Path("out/a-glass=1+wood=1.png").is_file()


def test_a_region_is_swapped_into_a_style_that_no_training_saw(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.astronaut()).resize((51, 40)).save("a.png")
    to_pil(material_texture("glass", 5, 40)).save("glass.png")
    inside = np.zeros((40, 51), bool)
    inside[8:30, 10:40] = True
    Image.fromarray(inside.astype(np.uint8) * 255).save("mask.png")
    style = ["--checkpoint", str(whole), "--style-image", "glass.png", "--feather", "0"]
    assert cli.main(["swap", "a.png", "--mask", "mask.png", "--to", "glass", *style, "-o", "out"]) == 0
    old, new = (np.asarray(Image.open(path).convert("RGB")) for path in ("a.png", "out/a-to-glass.png"))
    changed = (old != new).any(-1)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--style-image", "none.png", "--checkpoint", "RUN"], "none.png"),
        (["--style-image", "a.png"], "--checkpoint"),
        (["--weights", "w.pth"], "--style-image FILE"),
        (["--style-image", "a.png", "--checkpoint", "RUN", "--style", "b"], "(known: a, all, random)"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    words: list[str],
    said: str,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.astronaut()).resize((51, 40)).save("a.png")
    assert _stylize("a.png", *(str(whole) if word == "RUN" else word for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.recolor=2"], "model.recolor=2"),
        (["model.embedding=0"], "model.embedding=0"),
        (["data.held_out=[wod]"], "did you mean wood"),
    ],
)
def test_a_mistake_in_training_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*TINY, *words, f"output_dir={tmp_path}"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.fixture(scope="module")
def measured(whole: Path) -> Path:
    """The folder that a whole benchmark of the run left."""
    words = [f"benchmark.checkpoint={whole}", "benchmark.max_photos=2", "benchmark.max_styles=3"]
    small = ["benchmark.image_size=64", "benchmark.tune_steps=2", "benchmark.gatys_pairs=2", "benchmark.gatys_steps=3"]
    assert evaluate(["benchmark=unseen_styles", *words, *small, f"output_dir={whole / 'out'}"], ROOT) == 0
    return whole / "out" / "unseen_styles"


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_method_is_measured_on_the_same_held_out_pairs(measured: Path) -> None:
    summary = {row["method"]: row for row in _rows(measured / "summary.csv")}
    methods = ["photo unchanged", "one pass", "style's parameters trained", "all parameters trained", "Gatys"]
    assert list(summary) == methods
    assert [summary[method]["n"] for method in methods] == ["6", "6", "6", "6", "2"]
    assert float(summary["photo unchanged"]["content_loss"]) == 0
    assert float(summary["all parameters trained"]["ratio_to_all_trained"]) == 1
    results = _rows(measured / "results.csv")
    assert {row["style"] for row in results} <= {"leather0", "leather1", "water0", "water1", "ihc", "retina"}
    one, all_trained = ([r for r in results if r["method"] == method] for method in (methods[1], methods[3]))
    styles = sorted({row["style"] for row in one})

    def mean(rows: list[dict[str, str]], style: str) -> float:
        return float(np.mean([float(row["style_loss"]) for row in rows if row["style"] == style]))

    ratio = np.mean([mean(one, style) / mean(all_trained, style) for style in styles])
    assert float(summary["one pass"]["ratio_to_all_trained"]) == pytest.approx(ratio, rel=1e-4)
    assert all(float(row["training_seconds"]) > 0 for row in all_trained)


def test_the_table_and_the_figure_show_every_method(measured: Path) -> None:
    table = (measured / "summary.md").read_text()
    assert all(f"| {name} " in table for name in ("photo unchanged", "one pass", "Gatys"))
    assert (measured / "figure.jpg").stat().st_size <= 300_000
    with Image.open(measured / "figure.jpg") as figure:
        # Three styles twice, each beside the photo and what four methods made.
        assert figure.width > 6 * 128
        assert figure.height > 6 * 128


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.checkpoint=null"], "benchmark.checkpoint=RUN"),
        (["benchmark.checkpoint={elsewhere}"], "lies in no run"),
        (["benchmark.image_size=32"], "at least 64"),
    ],
)
def test_a_mistake_in_the_benchmark_is_one_line(
    words: list[str], said: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "network.safetensors"
    elsewhere.write_bytes((whole / "network.safetensors").read_bytes())
    given = [word.format(elsewhere=elsewhere) for word in words]
    if not given[0].startswith("benchmark.checkpoint"):
        given.append(f"benchmark.checkpoint={whole}")
    assert evaluate(["benchmark=unseen_styles", *given, f"output_dir={tmp_path / 'out'}"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out").exists()
