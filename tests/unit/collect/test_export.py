"""Exports: the best images with all that is known of them, equal bytes, names for every system."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import shutil
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.collect.store_material import FEATURES, collect, encoded, fetched, find, picture, rank_by_content

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.export import MANIFEST, export_word, safe_name
from tezawari.collect.export_command import add_arguments, parse_count, run
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError, run_guarded

WORD = "ふわふわ"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    with open_store(folder) as opened:
        collect(opened, WORD, 12)
        rank_by_content(opened, WORD)
    return folder


@pytest.fixture
def store(filled: Path, tmp_path: Path) -> Iterator[Store]:
    """A store of 12 ranked images of a word."""
    with open_store(Path(shutil.copytree(filled, tmp_path / "set"))) as opened:
        yield opened


def manifest(file: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(file) as archive:
        return list(csv.DictReader(io.StringIO(archive.read(MANIFEST).decode("utf-8"), newline="")))


def test_the_manifest_tells_of_every_image(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "out" / "set.zip"
    exported = export_word(store, WORD, file, 5)
    assert (exported.images, exported.pass_number, exported.bytes) == (5, 2, file.stat().st_size)
    best = store.best_images(WORD)[:5]
    first, second = store.rankings(WORD)
    rows = manifest(file)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == [MANIFEST, *(row["file"] for row in rows)]
        assert archive.testzip() is None
        for row, image in zip(rows, best):
            assert row["file"] == f"{WORD}/{int(row['rank']):03d}.jpg"
            assert hashlib.sha256(archive.read(row["file"])).hexdigest() == row["sha256"] == image.sha256
            assert (row["width"], row["height"]) == (str(image.width), str(image.height))
            for name in ("image_url", "page_url", "title", "author", "licence", "licence_url", "source"):
                assert row[name] == getattr(image.found, name) != ""
            assert row["position"] == str(image.found.position)
            assert float(row["pass_1_score"]) == first.scores[image.sha256]
            assert float(row["pass_2_score"]) == second.scores[image.sha256]
            assert row["pass_2_rank"] == row["rank"]
            assert list(first.scores)[int(row["pass_1_rank"]) - 1] == image.sha256
            assert (row["features"], row["annotation"]) == (FEATURES, "")


def test_a_pass_and_a_count_can_be_chosen(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "set.zip"
    assert export_word(store, WORD, file, None, 1).images == 12
    assert [row["pass_1_rank"] for row in manifest(file)] == [str(rank) for rank in range(1, 13)]
    assert export_word(store, WORD, file, 100).images == 12
    with pytest.raises(UserError, match=r"ふわふわ has no ranking pass 3 \(known: 1, 2\)"):
        export_word(store, WORD, file, 50, 3)


def test_annotated_images_are_exported_first_or_not_at_all(store: Store, tmp_path: Path) -> None:
    best = [image.sha256 for image in store.best_images(WORD)]
    store.annotate(WORD, best[0], False)
    store.annotate(WORD, best[7], True)
    export_word(store, WORD, tmp_path / "set.zip", 3)
    rows = manifest(tmp_path / "set.zip")
    assert [(row["sha256"], row["annotation"]) for row in rows] == [(best[7], "positive"), (best[1], ""), (best[2], "")]
    for sha256 in best:
        store.annotate(WORD, sha256, False)
    with pytest.raises(UserError, match="all were annotated as negatives"):
        export_word(store, WORD, tmp_path / "none.zip")


def test_equal_contents_give_equal_bytes(store: Store, tmp_path: Path) -> None:
    export_word(store, WORD, tmp_path / "first.zip")
    with open_store(tmp_path / "elsewhere") as other:
        # The same pictures, another word before them, fetched in the opposite order.
        collect(other, "ざらざら", 3, first_seed=100)
        query = other.begin_query(WORD, "openverse", "ja", 12)
        other.add_found(query, [find(place + 1, f"{WORD}{place}") for place in range(12)])
        for find_id, found in reversed(other.waiting(WORD)):
            content = encoded(picture(found.position - 1))
            other.keep(find_id, fetched(content), perceptual_hash(content))
        rank_by_content(other, WORD)
        export_word(other, WORD, tmp_path / "second.zip")
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.compress_type == zipfile.ZIP_STORED
            assert entry.external_attr >> 16 == 0o100644


@pytest.mark.parametrize("change", ["gone", "damaged"])
def test_a_failed_export_leaves_the_last_one(store: Store, tmp_path: Path, change: str) -> None:
    file = tmp_path / "out" / "set.zip"
    export_word(store, WORD, file)
    before = file.read_bytes()
    last = store.best_images(WORD)[-1]
    content = bytearray(last.path.read_bytes())
    content[-10] ^= 1
    last.path.unlink()
    if change == "damaged":
        last.path.write_bytes(content)
    with pytest.raises(UserError, match=rf"the image file is {change}: .*tezawari collect ふわふわ --store"):
        export_word(store, WORD, file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


# --- names ------------------------------------------------------------------------------------------------------------

_DEVICES = ["CON", "con", "Prn", "AUX", "NUL", "COM1", "lpt9", "COM¹", "con.txt", "nul.tar.gz", "CONIN$", "aux "]
_ODD = [
    "a/b",
    "a:b",
    "a\\b",
    "..",
    ".",
    "...",
    "名前.",
    "x ",
    " x",
    ".hidden",
    "a?b*",
    'a"b',
    "a|b",
    "a\nb",
    "a\0b",
    "/",
]


@pytest.mark.parametrize("word", ["ふわふわ", "fluffy", "dog ふわふわ", "🧸", "v1.2", "console", "com10", "が"])
def test_a_word_that_is_a_name_is_its_own(word: str) -> None:
    assert safe_name(word) == word


def test_words_in_two_normalisations_share_a_name() -> None:
    assert safe_name("か\u3099") == safe_name("が") == "が"


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=300))
@example("長" * 1000)
@example("🧑‍🧑‍🧒" * 200)
@example("a" * 119 + ".b")
def test_every_name_is_safe(word: str) -> None:
    _assert_safe(safe_name(word))


@pytest.mark.parametrize("word", [*_DEVICES, *_ODD])
def test_odd_words_get_safe_names_of_their_own(word: str) -> None:
    name = safe_name(word)
    _assert_safe(name)
    assert name != word
    assert name.endswith(hashlib.sha256(unicodedata.normalize("NFC", word).encode()).hexdigest()[:8])


def test_different_words_get_different_names() -> None:
    words = [*_DEVICES, *_ODD, "a_b", "長" * 1000, "長" * 1001, "x", "hidden", "名前"]
    assert len({safe_name(word) for word in words}) == len(words)


def _assert_safe(name: str) -> None:
    assert 0 < len(name.encode()) <= 120
    assert unicodedata.is_normalized("NFC", name)
    assert not set(name) & set('<>:"/\\|?*')
    assert all(ord(character) >= 32 for character in name)
    assert name[0] not in " ." and name[-1] not in " ."  # noqa: PT018
    device = name.split(".")[0].strip().upper()
    assert device not in {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    assert not (device[:3] in {"COM", "LPT"} and len(device) == 4 and device[3] in "0123456789¹²³")


@pytest.mark.parametrize("word", ["a/b", "CON", "..", "🪨 rough", "長" * 1000])
def test_any_word_unpacks_inside_its_folder(word: str, tmp_path: Path) -> None:
    with open_store(tmp_path / "set") as store:
        collect(store, word, 2)
        rank_by_content(store, word)
        export_word(store, word, tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
        for row in manifest(tmp_path / "set.zip"):
            assert (tmp_path / "unpacked" / row["file"]).is_file()
    assert len(list((tmp_path / "unpacked").glob("*/*.jpg"))) == 2


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run_guarded(lambda: run(parser.parse_args(words)))


def test_the_command_says_what_it_wrote(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--zip", str(tmp_path / "set.zip"), "--store", str(store.folder)]
    assert command(WORD, *where) == 0
    assert "12 images of ふわふわ (of 50 asked for), ranked by pass 2" in capsys.readouterr().out
    assert command(WORD, *where, "--count", "3", "--pass", "1") == 0
    assert "3 images of ふわふわ, ranked by pass 1" in capsys.readouterr().out
    assert len(manifest(tmp_path / "set.zip")) == 3
    assert command(WORD, *where, "--count", "all") == 0
    assert len(manifest(tmp_path / "set.zip")) == 12


def test_mistakes_are_one_line_and_exit_code_2(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(store, "ざらざら", 2, first_seed=50)
    (tmp_path / "file").write_text("")
    file, folder = str(tmp_path / "set.zip"), str(store.folder)
    mistakes = {
        ("ふわふね", "--zip", file, "--store", folder): "did you mean ふわふわ?",
        ("ざらざら", "--zip", file, "--store", folder): "nothing is ranked yet for ざらざら: tezawari collect ざらざら",
        (WORD, "--zip", file, "--store", str(tmp_path / "none")): "there is no store",
        (WORD, "--zip", str(tmp_path), "--store", folder): "is a folder; name a file in it",
        (WORD, "--zip", str(tmp_path / "file" / "x.zip"), "--store", folder): "cannot be written: ",
        (WORD, "--zip", file, "--store", folder, "--count", "0"): "--count 0: a number from 1, or all",
        (WORD, "--zip", file, "--store", folder, "--pass", "7"): "has no ranking pass 7 (known: 1, 2)",
    }
    for words, message in mistakes.items():
        assert command(*words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not Path(file).exists()


@pytest.mark.parametrize("text", ["-1", "five", "1.5", "", "５"])
def test_a_count_is_a_number_or_all(text: str) -> None:
    with pytest.raises(UserError, match="a number from 1, or all"):
        parse_count(text)
    assert (parse_count("all"), parse_count("50")) == (None, 50)
