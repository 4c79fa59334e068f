"""Opening a source by name, URL or path, and what may be asked of any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tezawari.collect.sources import APIS, open_source
from tezawari.collect.sources.source import check_search
from tezawari.core.errors import UserError


def test_apis_urls_and_paths_open_the_source_that_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("FLICKR_KEY", "BRAVE_KEY", "GOOGLE_KEY", "GOOGLE_CX"):
        monkeypatch.setenv(f"TEZAWARI_{variable}", "k")
    for name in ("links.txt", "table.CSV", "table.tsv", "table.parquet"):
        (tmp_path / name).touch()
    opened = {name: open_source(name).name for name in APIS}
    assert opened == {name: name for name in ("openverse", "commons", "flickr", "brave", "google")}
    assert open_source("https://search.example.org/v7.0/images/search").name == "bing-like"
    assert open_source(str(tmp_path)).name == "folder"
    assert open_source(str(tmp_path / "links.txt")).name == "url-list"
    assert {open_source(str(tmp_path / f"table.{kind}")).name for kind in ("CSV", "tsv", "parquet")} == {"captions"}


def test_a_name_goes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openverse").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_source("openverse").name == "openverse"
    assert open_source("./openverse").name == "folder"


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("openvers", "there is no source openvers (did you mean openverse?): name one of openverse, commons, flickr,"),
        ("bing", "the URL of an endpoint that answers as Bing did"),
        ("", "there is no source"),
        ("no/such/folder", "there is no such file or folder"),
        ("missing.parquet", "there is no such file or folder"),
        ("x" * 5000, "cannot be opened"),
    ],
)
def test_what_is_no_source_is_one_line(which: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        open_source(which)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_file_of_another_kind_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UserError, match="neither a folder nor a file called"):
        open_source(str(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "the query is empty"),
        (" \t\u3000\n", "the query is empty"),
        ("x" * 1001, "the query has 1,001 characters"),
        ("a\x00b", r"control character U\+0000"),
        ("a\nb", r"control character U\+000A"),
        ("a\x1b[31mb", r"control character U\+001B"),
        ("a\u2028b", r"control character U\+2028"),
        ("\ud83d", r"control character U\+D83D"),
    ],
)
def test_queries_that_none_can_answer_are_refused_at_the_call(tmp_path: Path, query: str, said: str) -> None:
    (tmp_path / "links.txt").touch()
    (tmp_path / "table.csv").touch()
    for which in ("openverse", str(tmp_path), str(tmp_path / "links.txt"), str(tmp_path / "table.csv")):
        with pytest.raises(UserError, match=said):
            open_source(which).search(query, "ja", 10)


@pytest.mark.parametrize(
    "query", ["AC/DC", "👩‍🔬🏳️‍🌈", "x" * 1000, "ふわふわ の 猫", "ﾌﾜﾌﾜ①", "'; drop table words; --", "日本語"]
)
def test_other_queries_pass_as_they_are(query: str) -> None:
    assert check_search(query, "", 1) == query


@given(st.text())
@settings(deadline=None)
def test_what_passes_passes_again_unchanged(query: str) -> None:
    try:
        passed = check_search(query, "ja", 1)
    except UserError:
        return
    assert check_search(passed, "ja", 1) == passed
    assert passed.encode()
    assert 0 < len(passed) <= 1000


@pytest.mark.parametrize("language", ["japanese", "JA", "ja_JP", "ja-jp", "j", "ja&x=1"])
def test_a_language_that_is_none_is_refused(language: str) -> None:
    with pytest.raises(UserError, match="must look like ja or ja-JP"):
        check_search("ふわふわ", language, 1)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(UserError, match=f"limit {limit}: must be at least 1"):
        check_search("ふわふわ", "ja", limit)
