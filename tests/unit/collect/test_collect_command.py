"""``tezawari collect`` as a whole: from a folder, a list of URLs and a search endpoint to ranked sets and a sheet."""

from __future__ import annotations

import csv
import io
import re
import shlex
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.collect.api_server import Reply, Request, serve
from tests.unit.collect.store_material import encoded, picture

from tezawari.cli import main
from tezawari.collect.store import open_store

# A bare network's first block: fast, and told from the negatives well enough.
RANKING = ("--weights", "random", "--layer", "block0")


@pytest.fixture
def negatives(tmp_path: Path) -> Path:
    folder = tmp_path / "negatives"
    folder.mkdir()
    for place in range(6):
        (folder / f"{place}.png").write_bytes(encoded(picture(500 + place), "PNG"))
    return folder


@pytest.fixture
def collect(tmp_path: Path, negatives: Path) -> Callable[..., int]:
    """Run ``tezawari collect`` with a store, a bare network and a few negatives of the test's own."""
    fixed = ["--store", str(tmp_path / "store"), "--negatives", str(negatives), *RANKING]
    return lambda *words: main(["collect", *words, *fixed])


def pictures_in(folder: Path, count: int, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for place in range(count):
        (folder / f"{place}.jpg").write_bytes(encoded(picture(first + place)))
    return folder


def cells(output: str, word: str) -> list[str]:
    """Return the row of a word in the printed table."""
    line = next(line for line in output.splitlines() if re.match(rf"│ {re.escape(word)} ", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_folder_becomes_ranked_sets_with_sheets_and_exports(
    tmp_path: Path, collect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    pictures_in(source / "ふわふわ", 14)
    pictures_in(source / "ごつごつ", 12, first=40)
    (source / "ふわふわ" / "again.jpg").write_bytes((source / "ふわふわ" / "3.jpg").read_bytes())
    (source / "ふわふわ" / "no picture.png").write_bytes(b"text")
    assert collect("ふわふわ", "ごつごつ", "--source", str(source), "--keep", "5") == 0
    output = capsys.readouterr()
    # word, found, fetched, refused, exact and near duplicates, kept
    assert cells(output.out, "ふわふわ") == ["ふわふわ", "16", "15", "1 (type 1)", "1", "0", "5"]
    assert cells(output.out, "ごつごつ") == ["ごつごつ", "12", "12", "0", "0", "0", "5"]
    assert "fetching: 28/28 images" in output.err
    assert "against 6 images of" in output.err
    sheet = tmp_path / "store" / "sheets" / "ふわふわ.png"
    assert str(sheet) in output.out
    with Image.open(sheet) as drawn, open_store(tmp_path / "store", create=False) as store:
        assert drawn.height > 3 * 128
        assert [ranked.number for ranked in store.rankings("ふわふわ")] == [1, 2]
        assert len(store.best_images("ふわふわ")) == 14
    export = next(line for line in output.out.splitlines() if line.startswith("  tezawari export ふわふわ"))
    typed = shlex.split(export)
    assert typed[3:5] == ["--zip", "ふわふわ.zip"]
    assert main([*typed[1:4], str(tmp_path / "set.zip"), *typed[5:]]) == 0
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert len(archive.namelist()) == 6


def test_an_endpoint_is_searched_once_and_its_images_come_with_their_licences(
    tmp_path: Path, collect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    images = {f"/{place}.jpg": encoded(picture(place)) for place in range(12)}

    def reply(request: Request) -> Reply:
        if request.path == "/search":
            assert request.query["q"] == "ざらざら"
            return Reply(
                {
                    "value": [
                        {"contentUrl": f"{server.url}{path}", "name": path, "creativeCommons": "by 4.0"}
                        for path in images
                    ]
                }
            )
        if request.path in images:
            return Reply(images[request.path], headers={"Content-Type": "image/jpeg"})
        return Reply(status=404)

    with serve(reply) as server:
        asked = ("ざらざら", "--source", f"{server.url}/search", "--limit", "10")
        assert collect(*asked) == 0
        assert cells(capsys.readouterr().out, "ざらざら")[1:4] == ["10", "0", "10 (address 10)"]
        assert [request.path for request in server.requests] == ["/search"]
        assert collect(*asked, "--allow-private") == 0
        assert cells(capsys.readouterr().out, "ざらざら")[1:4] == ["10", "10", "0"]
        before = len(server.requests)
        assert collect(*asked, "--allow-private") == 0
        assert len(server.requests) == before
        assert collect(*asked, "--allow-private", "--retry") == 0
        assert [request.path for request in server.requests[before:]] == ["/search"]
    assert main(["export", "ざらざら", "--zip", str(tmp_path / "a.zip"), "--store", str(tmp_path / "store")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        manifest = csv.DictReader(io.StringIO(archive.read("manifest.csv").decode()))
        assert {row["licence"] for row in manifest} == {"by 4.0"}


def test_a_word_is_searched_beside_nouns_and_all_of_it_is_the_word_s(
    collect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    images = {f"/{place}.jpg": encoded(picture(place)) for place in range(14)}
    found = {"もこもこ": list(images)[:8], "もこもこ 犬": list(images)[6:]}

    def reply(request: Request) -> Reply:
        if request.path == "/search":
            return Reply({"value": [{"contentUrl": f"{server.url}{path}"} for path in found[request.query["q"]]]})
        if request.path in images:
            return Reply(images[request.path], headers={"Content-Type": "image/jpeg"})
        return Reply(status=404)

    with serve(reply) as server:
        assert collect("もこもこ", "--source", f"{server.url}/search", "--with", "犬", "--allow-private") == 0
    assert cells(capsys.readouterr().out, "もこもこ")[1:3] == ["14", "14"]


def test_a_dead_network_is_one_line_and_what_is_stored_is_ranked(
    tmp_path: Path, collect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    source = pictures_in(tmp_path / "source", 11)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{one.getsockname()[1]}"
    urls = tmp_path / "urls.txt"
    urls.write_text("\n".join(f"{dead}/{place}.jpg" for place in range(4)))
    assert collect("つるつる", "--source", str(source), "--source", str(urls), "--allow-private") == 2
    output = capsys.readouterr()
    assert [line for line in output.err.splitlines() if line.startswith("error: ")] == [
        line for line in output.err.splitlines() if "4 images in a row could not be reached" in line
    ]
    # word, found, waiting, fetched
    assert cells(output.out, "つるつる")[1:4] == ["15", "4", "11"]
    with open_store(tmp_path / "store", create=False) as store:
        assert len(store.rankings("つるつる")) == 2


def test_a_word_without_results_is_said_and_the_others_go_on(
    tmp_path: Path, collect: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "captions.csv"
    pictures = pictures_in(tmp_path / "web", 3)
    table.write_text("url,caption\n" + "\n".join(f"{pictures}/{place}.jpg,さらさら" for place in range(3)))
    assert collect("ねばねば", "さらさら", "--source", str(table)) == 2
    output = capsys.readouterr()
    errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ねばねば: nothing was found")
    # A table of the network's must not name files of this machine.
    assert cells(output.out, "さらさら")[1:4] == ["3", "0", "3 (address 3)"]
    assert not (tmp_path / "store" / "sheets").exists()


def test_odd_words_are_words(tmp_path: Path, collect: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures_in(tmp_path / "source", 3)
    odd = ["red/green\\..", "🧶👩‍🔬", "わ" * 1000, "か\N{COMBINING KATAKANA-HIRAGANA VOICED SOUND MARK}さ", "[bold]"]
    assert collect(*odd, "--source", str(source)) == 0
    sheets = list((tmp_path / "store" / "sheets").iterdir())
    assert len(sheets) == 5
    assert {path.suffix for path in sheets} == {".png"}
    output = capsys.readouterr().out
    assert "がさ" in output
    assert "│ [bold] " in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ふわふわ", "--source", "opnverse"], "there is no source opnverse (did you mean openverse"),
        (["ふわふわ", "--source", "no/such/folder"], "there is no such file or folder"),
        (["わ" * 1001, "--source", "."], "1,001 characters"),
        (["", "--source", "."], "the query is empty"),
        (["a\nb", "--source", "."], "control character"),
        (["ふわふわ", "--source", ".", "--limit", "0"], "limit 0"),
        (["ふわふわ", "--source", ".", "--keep", "0"], "--keep 0"),
        (["ふわふわ", "--source", ".", "--workers", "0"], "--workers 0"),
        (["ふわふわ", "--source", ".", "--language", "日本語"], "language"),
        (["ふわふわ", "--source", ".", "--layer", "block77"], "no layer 'block77'"),
        (["ふわふわ", "--source", ".", "--backbone", "efficientnet_lite"], "efficientnet_lite"),
        (["ふわふわ", "--source", ".", "--negatives", "no/such"], "--negatives no/such: there is no such folder"),
        (["ふわふわ", "--source", ".", "--database", "nonsense"], "SQLAlchemy"),
        (["ふわふわ", "--source", ".", "--with", "犬"], "犬: nouns go with search APIs only"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["collect", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    if (tmp_path / "collected" / "store.sqlite").exists():
        with open_store(tmp_path / "collected", create=False) as store:
            assert store.words() == []


def test_by_default_photographs_are_the_negatives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = pictures_in(tmp_path / "source" / "a", 4).parent
    pictures_in(source / "b", 3, first=20)
    assert main(["collect", "a", "b", "--source", str(source), "--store", str(tmp_path / "store"), *RANKING]) == 0
    said = capsys.readouterr().err
    for word in "ab":
        assert re.search(rf"ranking {word} by .*block0 against \d\d\d crops of 14 photographs", said)
