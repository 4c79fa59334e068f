"""``tezawari collect --accept …`` and ``tezawari measure`` on a store of generated pictures."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tezawari.cli import main
from tezawari.collect.contact_sheet import short_ids
from tezawari.collect.store import Store, open_store

pytest.importorskip("matplotlib", reason="the confusion matrix needs matplotlib, of the extra sweep")

COLORS = {
    "あかあか": (200, 40, 40),
    "みどり": (40, 200, 40),
    "あおあお": (40, 40, 200),
    "まだら 犬": None,
    "むら 犬": None,
}
IMAGES, RANDOM = 10, 34
BARE = ["--weights", "random", "--layer", "block0"]


def _noise(path: Path, seed: int, color: tuple[int, int, int] | None) -> None:
    """A picture of coarse noise around a colour, or, without one, of fine black and white noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    side = 12 if color else 96
    noise = rng.normal(color or 128, 60 if color else 90, (side, side, 3 if color else 1)).clip(0, 255).astype(np.uint8)
    Image.fromarray(np.broadcast_to(noise, (side, side, 3)).copy()).resize((96, 96), Image.Resampling.BICUBIC).save(
        path
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``store``, of all words, and ``negatives``."""
    base = tmp_path_factory.mktemp("measured")
    for number, (word, color) in enumerate(COLORS.items()):
        for image in range(IMAGES):
            _noise(base / "web" / word / f"{image}.png", 100 * number + image, color)
    for image in range(RANDOM):
        color = tuple(np.random.default_rng(image).integers(40, 216, 3).tolist())
        _noise(base / "negatives" / f"{image}.png", 9000 + image, color)
    # One of the word's own is among the random ones, and is not to be measured against itself.
    _noise(base / "negatives" / "own.png", 0, COLORS["あかあか"])
    words = [*COLORS, "--source", str(base / "web"), "--negatives", str(base / "negatives"), *BARE]
    assert main(["collect", *words, "--store", str(base / "store")]) == 0
    return base


@pytest.fixture
def measure(base: Path, tmp_path: Path) -> Callable[..., int]:
    fixed = ["--store", str(base / "store"), "--out", str(tmp_path / "out"), *BARE, "--repeats", "1"]
    return lambda *words: main(["measure", *words, *fixed])


def _negatives(base: Path) -> list[str]:
    return ["--negatives", str(base / "negatives")]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- recognisability --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranked(base: Path) -> tuple[Path, str]:
    """The folder of a measurement of three words, and what was printed."""
    out = base / "ranked"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("sys.stdout.write", lambda text: printed.append(text) or len(text))
        words = ["あかあか", "みどり", "まだら 犬", "--keep", "10", "--top", "1", *_negatives(base), *BARE]
        assert main(["measure", *words, "--store", str(base / "store"), "--out", str(out)]) == 0
    return out, "".join(printed)


def test_every_word_has_its_average_precisions_and_its_entropy(ranked: tuple[Path, str]) -> None:
    rows = _rows(ranked[0] / "words.csv")
    of_words = [row for row in rows if not row["word"].startswith("random set")]
    assert {(row["word"], row["method"]) for row in of_words} == {
        (word, method)
        for word in ("あかあか", "みどり", "まだら 犬")
        for method in ("block0", "colour histogram", "region entropy")
    }
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    colour = {row["word"]: float(row["value"]) for row in rows if row["method"] == "colour histogram"}
    assert (
        min(colour["あかあか"], colour["まだら 犬"])
        > 0.9
        > max(value for word, value in colour.items() if word.startswith("random set"))
    )


def test_a_words_own_image_is_none_of_the_random_ones(ranked: tuple[Path, str]) -> None:
    assert f"3 words × 10 images against {RANDOM} random ones" in ranked[1]


def test_the_page_shows_the_first_and_the_last_words_pictures(ranked: tuple[Path, str]) -> None:
    page = (ranked[0] / "words.html").read_text(encoding="utf-8")
    first, last = page.index("<h2>First"), page.index("<h2>Last")
    end = page.index("<h2>All words")
    assert page[first:last].count("<img") == page[last:end].count("<img") == 6 + 3
    assert page[first:last].count("<h3>1. ") == page[last:end].count("<h3>3. ") == 1
    scores = [float(score) for score in re.findall(r"<figcaption>([-+][\d.]+)<", page[first:last])]
    assert scores == sorted(scores, reverse=True)
    assert "http" not in re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", page), "no link to a file, nothing loaded"


def test_features_are_kept(base: Path, measure: Callable[..., int], ranked: tuple[Path, str], tmp_path: Path) -> None:
    cache = base / "store" / "features"
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    assert measure("みどり", "あかあか", "--keep", "10", *_negatives(base)) == 0
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in cache.glob("*.npy")}.items()
    before, after = (
        {
            row["word"]: row["value"]
            for row in _rows(file)
            if row["method"] == "region entropy" and row["word"] == "みどり"
        }
        for file in (ranked[0] / "words.csv", tmp_path / "out" / "words.csv")
    )
    assert before.keys() == after.keys() == {"みどり"}


def test_hostile_titles_and_links_stay_text(tmp_path: Path) -> None:
    from tezawari.collect.found import FoundImage
    from tezawari.words.image_features import Picture
    from tezawari.words.measured_pages import _figure

    picture = Picture("", lambda: np.zeros((224, 224, 3), np.uint8))
    found = FoundImage("u", "s", 1, "javascript:alert(1)", '"><script>', "", "by", "")
    made = _figure(picture, found, 1.0)
    assert "javascript" not in made
    assert "<script" not in made


# --- discriminability -------------------------------------------------------------------------------------------------


def test_words_of_a_noun_are_told_apart_with_matrix_picture_and_page(
    measure: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--noun", "犬", "--with", "まだら", "むら", "--keep", "10") == 0
    rows = _rows(tmp_path / "out" / "confusion.csv")
    assert [row["word"] for row in rows] == ["まだら", "むら"]
    for row in rows:
        assert float(row["まだら"]) + float(row["むら"]) == pytest.approx(10)
    with Image.open(tmp_path / "out" / "confusion.png") as figure:
        assert min(figure.size) > 200
    page = (tmp_path / "out" / "confusion.html").read_text(encoding="utf-8")
    assert page.count("class='share'") == 4
    assert "guessing 50.0" in capsys.readouterr().out


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["あかあか"], "add --negatives FOLDER"),
        (["あかあか", "--negatives", "{base}/nowhere"], "there is no such folder"),
        (["きいろ", "--negatives", "{base}/negatives"], "lacks きいろ: tezawari collect きいろ --store"),
        (["あかあか", "--negatives", "{base}/negatives"], "50 images are measured of each word, but あかあか has 10"),
        (["--negatives", "{base}/negatives"], "no word of the store"),
        (["あかあか", "--keep", "4"], "--keep 4: must be at least 5"),
        (["あかあか", "--folds", "51"], "fewer images of a word than --folds 51"),
        (
            ["あかあか", "--keep", "10", "--negatives", "{base}/web/みどり"],
            "10 random images, but at least twice the 10",
        ),
        (["--noun", "犬"], "at least two words by --with"),
        (["--with", "まだら"], "add --noun NOUN"),
        (["--noun", "犬", "--with", "まだら", "ふわ"], "lacks ふわ 犬: tezawari collect 'ふわ 犬' --store"),
        (["あかあか", "--noun", "犬", "--with", "まだら", "むら"], "leave out WORD and --negatives"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_type(
    words: list[str], said: str, base: Path, measure: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(*(word.format(base=base) for word in words)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert said in line


# --- annotating -------------------------------------------------------------------------------------------------------


@pytest.fixture
def annotate(base: Path) -> Callable[..., int]:
    fixed = [*_negatives(base), "--store", str(base / "store"), *BARE]
    return lambda *words: main(["collect", "あおあお", *words, *fixed])


@pytest.fixture
def store(base: Path) -> Iterator[Store]:
    with open_store(base / "store", create=False) as store:
        yield store


def test_what_is_accepted_comes_first_and_what_is_rejected_goes(
    annotate: Callable[..., int], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [image.sha256 for image in store.images_of("あおあお")]
    ids = short_ids(images)
    ranking = [image.sha256 for image in store.best_images("あおあお")]
    best, worst = ranking[0], ranking[-1]
    scores = store.rankings("あおあお")[-1].scores
    assert annotate("--accept", ids[worst], "--reject", ids[best]) == 0
    assert "1 images annotated as positives, 1 as negatives" in capsys.readouterr().out
    after = [image.sha256 for image in store.best_images("あおあお")]
    assert after[0] == worst
    assert best not in after
    assert store.rankings("あおあお")[-1].scores != scores, "ranked again"
    assert annotate("--forget", ids[worst], ids[best]) == 0
    assert store.annotations("あおあお") == {}
    assert [image.sha256 for image in store.best_images("あおあお")] == ranking


def test_the_contact_sheet_frames_what_is_annotated(annotate: Callable[..., int], base: Path, store: Store) -> None:
    first = store.images_of("あおあお")[0].sha256
    frames = {}
    for option in ("--accept", "--reject", "--forget"):
        assert annotate(option, first[:10]) == 0
        with Image.open(base / "store" / "sheets" / "あおあお.png") as sheet:
            frames[option] = sheet.convert("RGB").getpixel((64 + 1, 4 + 1))
    assert frames["--accept"][1] > 1.5 * frames["--accept"][0]
    assert frames["--reject"][0] > 1.5 * frames["--reject"][1]
    assert frames["--forget"] not in (frames["--accept"], frames["--reject"])


def test_short_ids_tell_images_apart() -> None:
    assert short_ids(["a" * 64, "b" * 64]) == {"a" * 64: "a" * 8, "b" * 64: "b" * 8}
    near = ["a" * 20 + "b" * 44, "a" * 64]
    assert len(set(short_ids(near).values())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--accept", "zzzz"], "zzzz: no image of あおあお"),
        (["--accept", ""], "10 images of あおあお begin so: give more letters"),
        (["みどり", "--accept", "ab"], "name one at a time"),
    ],
)
def test_an_id_that_names_no_image_changes_nothing(
    words: list[str], said: str, annotate: Callable[..., int], store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert annotate(*words) == 2
    assert said in capsys.readouterr().err
    assert store.annotations("あおあお") == {}


def test_an_image_is_not_accepted_and_rejected_at_once(annotate: Callable[..., int], store: Store) -> None:
    first = store.images_of("あおあお")[0].sha256
    assert annotate("--accept", first[:12], "--reject", first) == 2
    assert store.annotations("あおあお") == {}
