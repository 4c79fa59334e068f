"""``tezawari words`` from its options to its tables."""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from tezawari.core.errors import UserError
from tezawari.words.lexicon import load_lexicon, select
from tezawari.words.words_command import add_arguments, run


@pytest.fixture
def words(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*given: object) -> str:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        assert run(parser.parse_args([str(word) for word in given])) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "titles.txt"
    texts = [
        "ふわふわの犬",
        "もふもふ子犬",
        "フワフワ犬 公園",
        "ふわふわのケーキ",
        "革の靴",
        "革の犬の首輪",
        "犬小屋がぼろぼろ",
    ]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _display_width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


def test_csv_holds_the_whole_lexicon(words: Callable[..., str]) -> None:
    rows = _rows(words("--csv"))
    assert [(row["word"], row["romaji"], row["gloss"]) for row in rows] == [
        (entry.word, entry.romaji, entry.gloss) for entry in load_lexicon()
    ]
    assert [row["senses"].split() for row in rows] == [list(entry.senses) for entry in load_lexicon()]
    first = rows[0]
    assert (first["kind"], first["reading"], first["katakana"]) == ("onomatopoeia", "ふわふわ", "フワフワ")


def test_kind_and_sense_choose(words: Callable[..., str]) -> None:
    rows = _rows(words("--csv", "--kind", "adjective", "--sense", "food"))
    assert [row["word"] for row in rows] == [entry.word for entry in select("adjective", "food")]


def test_words_are_looked_up(words: Callable[..., str]) -> None:
    rows = _rows(words("wood", "FUWAFUWA", "フワフワ", "なめらか", "--csv"))
    assert [row["word"] for row in rows] == ["木", "ふわふわ", "なめらか"]


def test_the_columns_of_a_table_line_up_in_east_asian_width(words: Callable[..., str], captions: Path) -> None:
    for table in (words(), words("--combine", "犬", "--captions", captions)):
        lines = table.splitlines()
        assert len({_display_width(line) for line in lines}) == 1
        borders = {
            tuple(_display_width(line[:place]) for place, sign in enumerate(line) if sign in "│┃") for line in lines
        }
        assert len(borders - {()}) == 1
    assert len(words().splitlines()) == 4 + len(load_lexicon())
    assert "kind" in words()
    assert "kind" not in words("--kind", "material")  # for all rows would say the same


def test_a_narrow_terminal_keeps_words_whole(words: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    table = words("--kind", "onomatopoeia")
    assert max(map(_display_width, table.splitlines())) <= 80
    assert "…" not in table
    for entry in select("onomatopoeia"):
        assert f" {entry.word} " in table
        assert all(part in table for part in entry.gloss.split())


def test_combinations_of_captions(words: Callable[..., str], captions: Path) -> None:
    rows = _rows(words("--combine", "犬", "--captions", captions, "--csv"))
    assert [(row["noun"], row["word"], row["count"], row["query"]) for row in rows] == [
        ("犬", "ふわふわ", "2", "ふわふわ 犬"),
        ("犬", "もふもふ", "1", "もふもふ 犬"),
    ]
    rows = _rows(words("--combine", "犬", "--captions", captions, "--csv", "--by", "pmi", "--top", "1"))
    assert [row["word"] for row in rows] == ["もふもふ"]
    rows = _rows(words("--combine", "犬", "--captions", captions, "--csv", "--kind", "material"))
    assert [row["word"] for row in rows] == ["革"]
    rows = _rows(words("mofumofu", "--combine", "犬", "--captions", captions, "--csv"))
    assert [row["word"] for row in rows] == ["もふもふ"]
    table = words("--combine", "犬", "--captions", captions, "--fewest", "2")
    assert "soft and light" in table
    assert "もふもふ" not in table


def test_combinations_written_as_csv_are_a_counts_file(
    words: Callable[..., str], captions: Path, tmp_path: Path
) -> None:
    written = words("--combine", "犬", "--captions", captions, "--csv")
    counts = tmp_path / "counts.csv"
    counts.write_text(written, encoding="utf-8")
    again = words("--combine", "犬", "--counts", counts, "--csv")
    assert [(row["word"], row["count"]) for row in _rows(again)] == [
        (row["word"], row["count"]) for row in _rows(written)
    ]
    rows = _rows(words("もふもふ", "--combine", "犬", "--counts", counts, "--csv"))
    assert [row["word"] for row in rows] == ["もふもふ"]


def test_a_word_of_a_counts_file_is_printed_as_it_is(words: Callable[..., str], tmp_path: Path) -> None:
    counts = tmp_path / "counts.csv"
    counts.write_text("noun,word,count\n犬,[red]おとなしい,3\n", encoding="utf-8")
    assert "[red]おとなしい" in words("--combine", "犬", "--counts", counts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["fuwafuwq"], r"did you mean ふわふわ \(fuwafuwa\)"),
        (["--kind", "material", "--sense", "touch"], "leave out --kind or --sense"),
        (["ふわふわ", "--kind", "material"], "leave out --kind or --sense"),
        (["--combine", "犬"], "--combine needs what to count: --captions FILE"),
        (["--captions", "titles.txt"], "--captions is for combinations: name the noun with --combine"),
        (["--counts", "counts.csv"], "--counts is for combinations"),
        (["--combine", "犬", "--captions", "none.txt"], "there is no file none.txt"),
        (["--combine", "", "--captions", "titles.txt"], "the noun is empty"),
        (["--combine", "猫", "--captions", "titles.txt"], "nothing that was counted says 猫"),
        (["--combine", "犬", "--captions", "titles.txt", "--top", "0"], "must be 1 or more"),
    ],
)
def test_mistakes_are_named(
    words: Callable[..., str], captions: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], message: str
) -> None:
    monkeypatch.chdir(captions.parent)
    with pytest.raises(UserError, match=message):
        words(*given)


def test_an_output_without_japanese_is_refused_before_the_table() -> None:
    script = (
        "import argparse, sys\n"
        "from tezawari.core.errors import run_guarded\n"
        "from tezawari.words.words_command import add_arguments, run\n"
        "parser = argparse.ArgumentParser()\n"
        "add_arguments(parser)\n"
        "sys.exit(run_guarded(lambda: run(parser.parse_args(['fuwafuwa']))))\n"
    )
    for encoding, code in (("ascii", 2), ("cp932", 2), ("utf-8", 0)):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, env=environment, timeout=300, check=False
        )
        assert done.returncode == code, done.stderr
        if code:
            assert done.stdout == b""
            assert b"set PYTHONIOENCODING=utf-8" in done.stderr
            assert b"Traceback" not in done.stderr
        else:
            assert "ふわふわ" in done.stdout.decode()
