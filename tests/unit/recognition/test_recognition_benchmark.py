"""``evaluate.py benchmark=material_recognition`` on generated images of three classes that are colours."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tezawari.cli import evaluate
from tezawari.recognition.protocols import mean_and_split_margin
from tezawari.recognition.recognition_benchmark import COLOR_SIFT, FINE_TUNED, FISHER, PROBE

pytest.importorskip("matplotlib", reason="the figure needs matplotlib, of the extra sweep")
pytest.importorskip("cv2", reason="SIFT needs OpenCV, of the extra words")
pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
CLASSES = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
IMAGES = 5
METHODS = [COLOR_SIFT, FISHER, PROBE]
HALF, FOLDS = "random half splits, averaged", "5-fold, 60/20/20"
QUICK = [
    "benchmark.weights=random",
    "benchmark.layer=block1",
    "benchmark.splits=2",
    "benchmark.sift_words=4",
    "benchmark.fisher_components=2",
    "benchmark.sift_step=40",
    "benchmark.steps=0",
    "benchmark.batch_size=2",
]


def _noise(path: Path, seed: int, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(color, 30, (40, 44, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pictures")
    for number, (name, color) in enumerate(CLASSES.items()):
        for image in range(IMAGES + number):  # the smallest class sets the number of all
            _noise(base / name / f"{image}.png", 1000 * number + image, color)
    return base


def _evaluate(pictures: Path | None, out: Path, *words: str) -> int:
    folder = f"benchmark.images={'null' if pictures is None else pictures}"
    return evaluate(["benchmark=material_recognition", folder, *QUICK, f"output_dir={out}", *words], ROOT)


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a benchmark without fine-tuning left."""
    out = tmp_path_factory.mktemp("out")
    assert _evaluate(pictures, out) == 0
    return out


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_summary_is_the_mean_over_splits_with_their_interval(done: Path) -> None:
    splits = _read(done / "material_recognition" / "splits.csv")
    summary = {row["method"]: row for row in _read(done / "material_recognition" / "summary.csv")}
    assert list(summary) == [f"{method}, {protocol}" for protocol in (HALF, FOLDS) for method in METHODS]
    # Of 5 images a class 3 are trained on and 2 tested; of five folds 3 and 1.
    for protocol, count, ratio in ((HALF, 2, 2 / 3), (FOLDS, 5, 1 / 3)):
        for method in METHODS:
            row = summary[f"{method}, {protocol}"]
            of_splits = np.array(
                [float(r["accuracy"]) for r in splits if (r["method"], r["protocol"]) == (method, protocol)]
            )
            assert len(of_splits) == count
            mean, margin = mean_and_split_margin(of_splits, ratio)
            assert float(row["accuracy"]) == pytest.approx(mean, abs=1e-5)
            assert float(row["accuracy_margin"]) == pytest.approx(margin, abs=1e-5)
            # Classes are equally large, so that their accuracies average to that of all.
            assert np.mean([float(row[f"accuracy/{name}"]) for name in CLASSES]) == pytest.approx(mean, abs=1e-5)
            assert row["n"] == "15"
            assert row["data"] == "3 classes × 5 images, efficientnet_lite0"


def test_the_published_numbers_stand_beside_their_generations(done: Path) -> None:
    for row in _read(done / "material_recognition" / "summary.csv"):
        method = row["method"].removesuffix(f", {HALF}").removesuffix(f", {FOLDS}")
        assert row["published_accuracy"] == {COLOR_SIFT: "0.446", FISHER: "0.656"}.get(method, "")


def test_classes_that_are_colours_are_told_by_colour(done: Path) -> None:
    summary = {row["method"]: float(row["accuracy"]) for row in _read(done / "material_recognition" / "summary.csv")}
    assert summary[f"{COLOR_SIFT}, {HALF}"] == 1
    assert summary[f"{PROBE}, {FOLDS}"] == 1


def test_files_are_a_table_and_a_small_figure(done: Path) -> None:
    table = (done / "material_recognition" / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == 1 + 1 + len(METHODS)
    for said in (HALF, FOLDS, "2 splits", "5 splits", "Chance: 33.3", "Flickr Material Database", "65.6"):
        assert said in table
    with Image.open(done / "material_recognition" / "confusion.png") as figure:
        assert min(figure.size) > 200
    assert (done / "material_recognition" / "confusion.png").stat().st_size < 400_000


def test_what_was_computed_is_not_computed_again_and_comes_out_the_same(
    done: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done / "cache", tmp_path / "cache")
    splits = tmp_path / "material_recognition" / "splits.csv"
    words = ["benchmark.protocols=[half]", "benchmark.steps=1"]
    assert _evaluate(pictures, tmp_path, *words) == 0
    told = capsys.readouterr().err
    assert "half split 2 of 2: fine-tuning: 1/1 steps" in told
    assert "SIFT" not in told
    assert "Fisher" not in told
    before = _read(splits)
    assert [row for row in before if row["method"] != FINE_TUNED] == [
        row for row in _read(done / "material_recognition" / "splits.csv") if row["protocol"] == HALF
    ]
    assert sum(row["method"] == FINE_TUNED for row in before) == 2
    assert [row["published_accuracy"] for row in _read(splits.with_name("summary.csv"))][-1] == "0.84"
    for kept in (tmp_path / "cache").glob("recognition-*.npy"):
        kept.unlink()
    assert _evaluate(pictures, tmp_path, *words) == 0
    told = capsys.readouterr().err
    assert "half split 2 of 2: words and Fisher vectors" in told
    assert "half split 2 of 2: fine-tuning" in told
    assert _read(splits) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.images=null"], "type benchmark.images=FOLDER"),
        (["benchmark.protocols=[half,half]"], "name each once"),
        (["benchmark.protocols=[thirds]"], "benchmark.protocols"),
        (["benchmark.protocols=[]"], "benchmark.protocols"),
        (["benchmark.splits=1"], "benchmark.splits=1"),
        (["benchmark.layer=block99"], "has no layer 'block99'"),
        (["benchmark.backbone=efficientnet_lite9", "benchmark.layer=null"], "efficientnet_lite9"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(pictures, tmp_path / "out", *words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("backbone ")]
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()
