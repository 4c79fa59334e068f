"""``evaluate.py benchmark=rerank`` on generated images, and the law of its searches against an exact count."""

from __future__ import annotations

import csv
import itertools
import shutil
import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import average_precision_score

from tezawari.cli import evaluate
from tezawari.words.folders_benchmark import find_words, load_square
from tezawari.words.rerank_benchmark import draw_search, mixed_in, simulate_search

pytest.importorskip("matplotlib", reason="the figure needs matplotlib, of the extra sweep")

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
IMAGES, RANDOM, SHARE = 16, 36, 0.5
LAYERS = ["block0", "block1"]
QUICK = ["benchmark.weights=random", f"benchmark.layers=[{','.join(LAYERS)}]", f"benchmark.shares=[{SHARE}]"]


def _noise(path: Path, seed: int, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    noise = rng.normal(rng.normal(color, 40), 30, (18, 20, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three words that are colours, and random images of every colour."""
    base = tmp_path_factory.mktemp("pictures")
    for number, (word, color) in enumerate(WORDS.items()):
        for image in range(IMAGES):
            _noise(base / "words" / word / f"{image}.png", 1000 * number + image, color)
    for image in range(RANDOM):
        color = np.random.default_rng(image).integers(90, 170, 3)
        _noise(base / "random" / f"{image}.png", 9000 + image, tuple(color.tolist()))
    return base


def _evaluate(pictures: Path, out: Path, *words: str) -> int:
    folders = [f"benchmark.images={pictures / 'words'}", f"benchmark.negatives={pictures / 'random'}"]
    return evaluate(["benchmark=rerank", *folders, *QUICK, f"output_dir={out}", *words], ROOT)


@pytest.fixture(scope="module")
def done(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a benchmark left."""
    out = tmp_path_factory.mktemp("out")
    assert _evaluate(pictures, out) == 0
    return out


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- the law of the searches ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 0.9), st.floats(1, 20), st.integers(0, 2**32 - 1))
def test_a_search_holds_every_image_of_the_word_and_the_share_of_others(
    images: int, share: float, worsening: float, seed: int
) -> None:
    right = simulate_search(images, share, worsening, np.random.default_rng(seed))
    assert right.sum() == images
    assert abs(len(right) * share - (~right).sum()) <= 0.5, "the nearest whole number of images"
    assert mixed_in(images, share) == (~right).sum()


@pytest.mark.parametrize("worsening", [1.0, 3.0])
def test_random_images_take_the_places_that_the_law_says(worsening: float) -> None:
    weights = np.linspace(1, worsening, 5)
    expected = np.zeros(5)
    for first, second, third in itertools.permutations(range(5), 3):
        left = weights.sum() - weights[first]
        chance = weights[first] / weights.sum() * weights[second] / left * weights[third] / (left - weights[second])
        expected[[first, second, third]] += chance
    rng = np.random.default_rng(0)
    count = 4000
    found = np.mean([~simulate_search(2, 0.6, worsening, rng) for _ in range(count)], axis=0)
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / count**0.5)


@settings(deadline=None)
@given(st.integers(1, 20), st.floats(0.1, 0.7), st.integers(0, 10), st.integers(0, 2**32 - 1))
def test_what_is_mixed_in_is_no_negative(images: int, share: float, further: int, seed: int) -> None:
    mixed = mixed_in(images, share)
    apart = mixed + further
    search = draw_search(images, apart + 7, share, 3.0, np.random.default_rng(seed))
    word, random = np.arange(images)[:, None], 1000 + np.arange(apart + 7)[:, None]
    results, negatives = search.gather(word, random, apart)
    assert sorted(results[search.right, 0]) == word[:, 0].tolist()
    assert (results[~search.right, 0] >= 1000).all()
    assert len(set(results[~search.right, 0].tolist()) | set(negatives[:, 0].tolist())) == mixed + 7, "none twice"
    assert len(negatives) == 7


# --- the whole benchmark ----------------------------------------------------------------------------------------------


def test_every_search_is_scored_as_scikit_learn_does(done: Path) -> None:
    rows = [row for row in _read(done / "rerank" / "searches.csv") if row["method"] == "search order"]
    assert len(rows) == len(WORDS) * 3
    for row in rows:
        rng = np.random.default_rng([0, int(row["repeat"]), round(1000 * SHARE), zlib.crc32(row["word"].encode())])
        right = simulate_search(IMAGES, SHARE, 3.0, rng)
        assert float(row["ap"]) == pytest.approx(average_precision_score(right, -np.arange(len(right))), abs=1e-5)


def test_a_summary_is_the_mean_over_words(done: Path) -> None:
    searches = _read(done / "rerank" / "searches.csv")
    summary = {row["method"]: row for row in _read(done / "rerank" / "summary.csv")}
    methods = ["search order", *(f"{layer}, pass {number}" for layer in LAYERS for number in (1, 2))]
    assert list(summary) == methods
    means = {
        (method, word): np.mean([float(r["ap"]) for r in searches if (r["method"], r["word"]) == (method, word)])
        for method in methods
        for word in WORDS
    }
    for method, row in summary.items():
        of_words = np.array([means[method, word] for word in WORDS])
        assert float(row["ap"]) == pytest.approx(of_words.mean(), abs=1e-5)
        assert float(row["ap_margin"]) == pytest.approx(4.302653 * of_words.std(ddof=1) / 3**0.5, abs=1e-5)
        assert float(row["gain"]) == pytest.approx(
            np.mean([means[method, word] - means["search order", word] for word in WORDS]), abs=1e-5
        )
        assert [float(row[f"ap/{word}"]) for word in WORDS] == pytest.approx(of_words.tolist(), abs=1e-5)
        assert row["n"] == "3"
        assert row["data"].startswith("3 words × 16 images among 50% random ones, 20 other random negatives")
        assert row["published_ap"] == ("0.896" if method == "block1, pass 2" else "")


def test_passes_clean_words_that_are_easily_told(done: Path) -> None:
    summary = {row["method"]: float(row["ap"]) for row in _read(done / "rerank" / "summary.csv")}
    assert summary["search order"] < 0.8
    assert summary["block1, pass 1"] > summary["search order"] + 0.1
    assert summary["block1, pass 2"] > summary["search order"] + 0.1


def test_files_are_a_table_and_a_small_figure(done: Path) -> None:
    table = (done / "rerank" / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == 1 + 1 + 5
    assert "| search order" in table
    with Image.open(done / "rerank" / "figure.png") as figure:
        assert min(figure.size) > 200
    assert (done / "rerank" / "figure.png").stat().st_size < 300_000


def test_the_same_seed_gives_the_same_numbers_and_describes_no_image_again(
    done: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done / "cache", tmp_path / "cache")

    def rows() -> int:
        with sqlite3.connect(tmp_path / "cache" / "descriptors.sqlite") as database:
            return database.execute("SELECT count(*) FROM descriptor").fetchone()[0]

    before, count = (done / "rerank" / "searches.csv").read_bytes(), rows()
    assert _evaluate(pictures, tmp_path) == 0
    assert (tmp_path / "rerank" / "searches.csv").read_bytes() == before
    assert rows() == count == len(LAYERS) * (len(WORDS) * IMAGES + RANDOM)
    printed = capsys.readouterr().err.splitlines()
    (described,) = [line for line in printed if line.startswith("describing")]
    assert described.startswith(f"describing by efficientnet_lite0: {count // 2}/{count // 2} images, ")
    assert _evaluate(pictures, tmp_path, "benchmark.seed=1", "benchmark.repeats=1") == 0
    assert _read(tmp_path / "rerank" / "searches.csv")[0]["ap"] != before.decode().splitlines()[1].split(",")[-1]


def test_a_words_searches_do_not_hang_on_the_words_beside_it(done: Path, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "cache", tmp_path / "cache")
    for image in range(IMAGES):
        _noise(tmp_path / "more" / "amber" / f"{image}.png", 5000 + image, (200, 160, 40))
    both = f"benchmark.images=[{tmp_path / 'more'},{pictures / 'words'}]"
    assert _evaluate(pictures, tmp_path, both) == 0
    new = {(r["word"], r["repeat"], r["method"]): r["ap"] for r in _read(tmp_path / "rerank" / "searches.csv")}
    assert {word for word, _, _ in new} == {"amber", *WORDS}
    for row in _read(done / "rerank" / "searches.csv"):
        found = float(new[row["word"], row["repeat"], row["method"]])
        assert found == pytest.approx(float(row["ap"]), abs=5e-3)


# --- images -----------------------------------------------------------------------------------------------------------


def test_only_the_central_square_is_seen(tmp_path: Path) -> None:
    square = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    for name, before, after in (("wide", (0, 30), (0, 30)), ("tall", (11, 0), (11, 0)), ("square", (0, 0), (0, 0))):
        padded = np.pad(square, [(before[0], after[0]), (before[1], after[1]), (0, 0)])
        Image.fromarray(padded).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(load_square(tmp_path / f"{name}.png"), square)


def test_all_words_have_as_many_images_as_the_smallest_and_no_picture_twice(tmp_path: Path) -> None:
    for word, count in (("a", 9), ("b", 7), ("c", 12)):
        for image in range(count):
            _noise(tmp_path / word / f"{image}.png", 100 * ord(word) + image, (100, 100, 100))
    (tmp_path / "c" / "again.png").write_bytes((tmp_path / "c" / "0.png").read_bytes())
    (tmp_path / "c" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    for most, expected in ((50, 7), (6, 6)):
        words = find_words(str(tmp_path), most, 0)
        assert {word: len(pictures) for word, pictures in words.items()} == dict.fromkeys("abc", expected)
        assert len({picture.key for pictures in words.values() for picture in pictures}) == 3 * expected
    drawn = {tuple(picture.key for picture in find_words(str(tmp_path), 6, seed)["c"]) for seed in range(5)}
    assert len(drawn) > 1, "the seed draws"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.images=null"], "type benchmark.images=FOLDER"),
        (["benchmark.negatives=null"], "type benchmark.negatives=FOLDER"),
        (["benchmark.images={tmp}/nowhere"], "there is no such folder; type benchmark.images=FOLDER"),
        (["benchmark.negatives={tmp}/file"], "is a file, not a folder; type benchmark.negatives=FOLDER"),
        (["benchmark.images={pictures}/random"], "holds no folder"),
        (["benchmark.images={tmp}/two"], "2 words, but an interval over words needs 3"),
        (["benchmark.images=[{pictures}/words,{pictures}/words]"], "is not the first folder of a word blue"),
        (["benchmark.images={tmp}/few"], "word b has 1 images, at least 5 are needed"),
        (["benchmark.max_images=4"], "max_images is 4, at least 5 are needed"),
        (["benchmark.shares=[0.7]"], "36 random images, but 37 to mix in and at least 20 others"),
        (["benchmark.shares=[1.0]"], "benchmark.shares"),
        (["benchmark.worsening=0.5"], "benchmark.worsening=0.5"),
        (["benchmark.layers=[block99]"], "has no layer 'block99'"),
        (["benchmark.layers=[]"], "benchmark.layers=[]: name at least one"),
        (["benchmark.backbone=efficientnet_lite9", "benchmark.layers=null"], "efficientnet_lite9"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for place in ("two/a/0", "two/b/0", *(f"few/{word}/{n}" for word in "ac" for n in range(5)), "few/b/0"):
        _noise(tmp_path / f"{place}.png", zlib.crc32(place.encode()), (90, 90, 90))
    out = tmp_path / "out"
    assert _evaluate(pictures, out, *(word.format(tmp=tmp_path, pictures=pictures) for word in words)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("backbone ")]
    assert line.startswith("error: ")
    assert said in line
    assert not out.exists()
