"""``evaluate.py benchmark=recognisability`` on generated images, and its chance against an exact count."""

from __future__ import annotations

import csv
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import pearsonr, rankdata
from sklearn.metrics import average_precision_score

from tezawari.cli import evaluate
from tezawari.words.measures import chance, random_sets

pytest.importorskip("matplotlib", reason="the figure needs matplotlib, of the extra sweep")
pytest.importorskip("cv2", reason="Fisher vectors need OpenCV, of the extra words")

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
IMAGES, RANDOM, CONTROLS = 10, 40, 3
METHODS = ["block0", "block1", "Fisher vectors", "colour histogram"]
QUICK = [
    "benchmark.weights=random",
    "benchmark.layers=[block0,block1]",
    "benchmark.fisher_components=2",
    "benchmark.fisher_step=40",
    "benchmark.entropy_components=6",
    "benchmark.repeats=1",
    f"benchmark.controls={CONTROLS}",
]


def _noise(path: Path, seed: int, color: tuple[int, ...], spread: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).normal(color, spread, (20, 20, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words that are colours, and random images of every colour."""
    base = tmp_path_factory.mktemp("pictures")
    for number, (word, color) in enumerate(WORDS.items()):
        for image in range(IMAGES):
            _noise(base / "words" / word / f"{image}.png", 1000 * number + image, color, 5)
    for image in range(RANDOM):
        color = np.random.default_rng(image).integers(60, 200, 3)
        _noise(base / "random" / f"{image}.png", 9000 + image, tuple(color.tolist()), 5 + image)
    return base


def _evaluate(pictures: Path, out: Path, *words: str) -> int:
    folders = [f"benchmark.images={pictures / 'words'}", f"benchmark.negatives={pictures / 'random'}"]
    return evaluate(["benchmark=recognisability", *folders, *QUICK, f"output_dir={out}", *words], ROOT)


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a benchmark left."""
    out = tmp_path_factory.mktemp("out")
    assert _evaluate(pictures, out) == 0
    return out


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    """A folder to evaluate in, where the features are kept already."""
    shutil.copytree(done / "cache", tmp_path / "cache")
    return tmp_path


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def values(done: Path) -> dict[tuple[str, str], float]:
    """(Method, word) → value."""
    rows = _read(done / "recognisability" / "words.csv")
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    return {(row["method"], row["word"]): float(row["value"]) for row in rows}


@pytest.mark.parametrize(("positives", "negatives"), [(1, 0), (1, 4), (2, 3), (3, 5), (4, 1)])
def test_chance_is_the_mean_over_all_orders(positives: int, negatives: int) -> None:
    total = positives + negatives
    precisions = []
    for places in itertools.combinations(range(total), positives):
        truth = np.isin(np.arange(total), places)
        precisions.append(average_precision_score(truth, -np.arange(total)))
    assert chance(positives, negatives) == pytest.approx(np.mean(precisions))


def test_chance_of_the_talks_folds_is_about_one_per_cent() -> None:
    assert chance(10, 1000) == pytest.approx(0.0163, abs=1e-4)


def test_random_sets_are_drawn_apart_from_what_they_are_measured_against() -> None:
    rows = np.arange(30)
    sets = random_sets(rows, 8, 4, seed=3)
    for mine, others in sets:
        assert len(mine) == 8
        assert sorted([*mine, *others]) == rows.tolist()
    assert len({tuple(mine) for mine, _ in sets}) == 4


def test_every_feature_measures_every_word_and_every_random_set(values: dict[tuple[str, str], float]) -> None:
    names = [*WORDS, *(f"random set {number + 1}" for number in range(CONTROLS))]
    assert set(values) == set(itertools.product([*METHODS, "region entropy"], names))


def test_what_has_a_colour_of_its_own_is_recognised_and_what_is_random_is_not(
    values: dict[tuple[str, str], float], done: Path
) -> None:
    assert all(values["colour histogram", word] > 0.95 for word in WORDS)
    (row,) = [r for r in _read(done / "recognisability" / "summary.csv") if r["method"] == "colour histogram"]
    assert float(row["chance"]) == pytest.approx(chance(2, 8), abs=1e-5)
    assert float(row["control_chance"]) == pytest.approx(chance(2, 6), abs=1e-5)
    assert float(row["control_ap"]) == pytest.approx(float(row["control_chance"]), abs=0.3)
    entropies = [values["region entropy", f"random set {number + 1}"] for number in range(CONTROLS)]
    assert max(values["region entropy", word] for word in WORDS) < min(entropies)


def test_a_summary_is_of_its_words(values: dict[tuple[str, str], float], done: Path) -> None:
    *features, entropy = _read(done / "recognisability" / "summary.csv")
    assert [row["method"] for row in features] == METHODS
    assert [row["published_ap"] for row in features] == ["", "0.773", "0.150", ""]
    entropies = np.array([values["region entropy", word] for word in WORDS])
    for row in features:
        precisions = np.array([values[row["method"], word] for word in WORDS])
        assert float(row["ap"]) == pytest.approx(precisions.mean(), abs=1e-5)
        assert [float(row[f"ap/{word}"]) for word in WORDS] == pytest.approx(precisions.tolist(), abs=1e-5)
        if np.ptp(precisions) == 0:
            assert row["entropy_rho"] == ""
        else:
            rho = pearsonr(rankdata(entropies), rankdata(precisions)).statistic
            assert float(row["entropy_rho"]) == pytest.approx(rho, abs=1e-5)
    assert entropy["method"] == "region entropy"
    assert float(entropy["entropy"]) == pytest.approx(entropies.mean(), abs=1e-5)
    assert entropy["data"] == "3 words × 10 images against 40 random ones, 5 folds, efficientnet_lite0"


def test_files_are_tables_and_a_small_figure(done: Path) -> None:
    table = (done / "recognisability" / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == (2 + len(METHODS)) + (2 + len(WORDS) + 1)
    with Image.open(done / "recognisability" / "figure.png") as figure:
        assert min(figure.size) > 200
    assert (done / "recognisability" / "figure.png").stat().st_size < 300_000


def test_the_same_seed_gives_the_same_numbers_from_what_is_kept(
    copied: Path, done: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {path: path.stat().st_mtime_ns for path in (copied / "cache").glob("*.npy")}
    assert len(kept) == 3 * (len(WORDS) + 1)
    assert _evaluate(pictures, copied) == 0
    before, after = ((folder / "recognisability" / "words.csv").read_bytes() for folder in (done, copied))
    assert after == before
    assert {path: path.stat().st_mtime_ns for path in (copied / "cache").glob("*.npy")} == kept
    assert "SIFT" not in capsys.readouterr().err


def test_fisher_vectors_can_be_left_out_and_the_seed_divides_anew(copied: Path, done: Path, pictures: Path) -> None:
    before = {row["method"]: row["control_ap"] for row in _read(done / "recognisability" / "summary.csv")}
    assert _evaluate(pictures, copied, "benchmark.fisher_components=0", "benchmark.seed=4") == 0
    after = {row["method"]: row["control_ap"] for row in _read(copied / "recognisability" / "summary.csv")}
    assert "Fisher vectors" not in after
    assert after["block0"] != before["block0"]


@pytest.mark.parametrize(("kind", "said"), [("color-*.npy", "is damaged"), ("fisher-*.safetensors", "cannot be read")])
def test_a_damaged_file_is_named(
    kind: str, said: str, copied: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((copied / "cache").glob(kind))
    path.write_bytes(path.read_bytes()[:100])
    assert _evaluate(pictures, copied) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {path} {said}")
    assert "delete it, and it is made again" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.images=null"], "type benchmark.images=FOLDER"),
        (["benchmark.negatives={tmp}/nowhere"], "there is no such folder; type benchmark.negatives=FOLDER"),
        (["benchmark.negatives={tmp}/few"], "12 random images, but at least twice the 10 of a word are needed"),
        (["benchmark.folds=11"], "10 images are fewer than 11 folds"),
        (["benchmark.folds=1"], "benchmark.folds=1"),
        (["benchmark.controls=1"], "benchmark.controls=1"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in range(12):
        _noise(tmp_path / "few" / f"{image}.png", image, (90, 90, 90), 20)
    out = tmp_path / "out"
    assert _evaluate(pictures, out, *(word.format(tmp=tmp_path) for word in words)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("backbone ")]
    assert line.startswith("error: ")
    assert said in line
    assert not out.exists()


def test_a_vocabulary_that_the_images_cannot_fill_is_one_line(
    copied: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _evaluate(pictures, copied, "benchmark.entropy_components=2000") == 2
    assert "a generic mixture of 2000 components" in capsys.readouterr().err
