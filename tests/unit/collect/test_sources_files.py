"""Lists, tables and folders as sources."""

from __future__ import annotations

import csv
import os
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tezawari.collect.found import FoundImage
from tezawari.collect.sources import open_source
from tezawari.collect.sources.captions import matching_form
from tezawari.collect.sources.folder import natural_order
from tezawari.core.errors import UserError


def found(path: Path, query: str = "ふわふわ", limit: int = 1000) -> list[FoundImage]:
    return list(open_source(str(path)).search(query, "ja", limit))


def urls(images: list[FoundImage]) -> list[str]:
    return [image.image_url for image in images]


def error_of(path: Path, query: str = "ふわふわ") -> str:
    with pytest.raises(UserError) as caught:
        found(path, query)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Lists of URLs.


def test_a_list_gives_its_urls_in_order_whatever_the_query(tmp_path: Path) -> None:
    path = tmp_path / "links.txt"
    path.write_text(
        "\ufeff# mine\r\nhttps://a.org/1.jpg\r\n\r\n  HTTP://b.org/ふ.png?x=1#y  \nhttps://a.org/1.jpg", "utf-8"
    )
    expected = ["https://a.org/1.jpg", "HTTP://b.org/ふ.png?x=1#y", "https://a.org/1.jpg"]
    assert found(path) == [FoundImage(url, "url-list", n) for n, url in enumerate(expected, start=1)]
    assert urls(found(path, "other", 2)) == expected[:2]


@pytest.mark.parametrize("line", ["a.org/1.jpg", "file:///etc/passwd", "https://a.org/1.jpg a caption", "javascript:1"])
def test_a_line_that_is_no_url_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "links.txt"
    path.write_text(f"https://a.org/1.jpg\n\n{line}\n", "utf-8")
    assert f"links.txt, line 3: {line[:80]!r} is no URL" in error_of(path)


def test_a_list_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "links.txt"
    path.write_bytes("https://a.org/ふ".encode("shift_jis"))
    assert "links.txt is no text in UTF-8" in error_of(path)


def test_an_empty_list_finds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "links.txt"
    path.write_text("")
    assert found(path) == []


# Tables of URLs and captions, each written as CSV, TSV and Parquet.


def write_csv(path: Path, rows: list[dict[str, str | None]]) -> Path:
    path = path / "table.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_tsv(path: Path, rows: list[dict[str, str | None]]) -> Path:
    path = path / "table.tsv"
    lines = ["\t".join(rows[0]), *("\t".join(value or "" for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines), "utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, str | None]]) -> Path:
    path = path / "table.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=3)
    return path


Write = Callable[[Path, list[dict[str, str | None]]], Path]
each_format = pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet])


@each_format
def test_a_table_gives_the_images_whose_captions_hold_the_query(tmp_path: Path, write: Write) -> None:
    rows: list[dict[str, str | None]] = [
        {"URL": "https://a.org/1", "TEXT": "A ふわふわ, white cat", "other": "x"},
        {"URL": "https://a.org/2", "TEXT": "a rough stone", "other": "ふわふわ"},
        {"URL": "https://a.org/3", "TEXT": None, "other": "x"},
        {"URL": None, "TEXT": "ふわふわ without a link", "other": "x"},
        {"URL": "https://a.org/5", "TEXT": "もふもふ・ふわふわ", "other": "x"},
    ]
    path = write(tmp_path, rows)
    assert found(path) == [
        FoundImage("https://a.org/1", "captions", 1, title="A ふわふわ, white cat"),
        FoundImage("https://a.org/5", "captions", 2, title="もふもふ・ふわふわ"),
    ]
    assert urls(found(path, limit=1)) == ["https://a.org/1"]
    assert found(path, "ごつごつ") == []


@each_format
def test_what_a_table_says_of_an_image_is_kept(tmp_path: Path, write: Write) -> None:
    row: dict[str, str | None] = {
        "license": "by 4.0",
        "page_url": "https://a.org/p",
        "Caption": "fur",
        "Author": "Ms A",
        "licence_url": "https://cc.org/by",
        "url": "https://a.org/1",
    }
    (image,) = found(write(tmp_path, [row]), "fur")
    assert image == FoundImage(
        "https://a.org/1", "captions", 1, "https://a.org/p", "fur", "Ms A", "by 4.0", "https://cc.org/by"
    )


@pytest.mark.parametrize(
    ("query", "caption"),
    [
        ("ﾌﾜﾌﾜ", "フワフワの猫"),
        ("フワフワ", "ﾌﾜﾌﾜの猫"),
        ("がさがさ", "か\u3099さか\u3099さ"),
        ("STRASSE", "eine Straße"),
        ("ｆｌｕｆｆｙ", "FLUFFY"),
        ("ﬂuffy", "Fluffy"),
        ("a/b", "A/B"),
    ],
)
def test_case_and_width_do_not_matter(tmp_path: Path, query: str, caption: str) -> None:
    path = write_csv(tmp_path, [{"url": "https://a.org/1", "caption": caption}])
    assert len(found(path, query)) == 1


# Letters that normalisation changes: composed, apart, narrow, wide, ligatures, compatibility signs.
letters = st.text(st.sampled_from("がか\u3099ガｶﾞﾊﾟ゛ふAaａÅ\u212bßſK\u212aﬁ１1①ⅣΣς々ー "), max_size=8)


@given(letters, letters, letters)
@settings(max_examples=60, deadline=None)
def test_the_matching_form_is_stable_and_blind_to_case_and_composition(before: str, word: str, after: str) -> None:
    assert matching_form(matching_form(word)) == matching_form(word)
    assert matching_form(word.casefold()) == matching_form(word)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert matching_form(unicodedata.normalize(form, word)) == matching_form(word)
    # Between signs that nothing composes with, a word is found wherever it stands.
    assert matching_form(word) in matching_form(f"{before}|{word}|{after}")


@each_format
def test_a_table_without_one_of_its_two_columns_is_one_line_that_lists_them(tmp_path: Path, write: Write) -> None:
    message = error_of(write(tmp_path, [{"link": "https://a.org/1", "caption": "ふわふわ"}]))
    assert "has no column with the URL, called image_url or url (its columns: link, caption): rename one" in message
    message = error_of(write(tmp_path, [{"url": "https://a.org/1", "alt": "ふわふわ"}]))
    assert "has no column with the caption, called caption or text or title (its columns: url, alt)" in message


def test_quoted_captions_may_hold_commas_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('url,caption\nhttps://a.org/1,"soft,\n""ふわふわ"""\nhttps://a.org/2\n', "utf-8")
    assert found(path) == [FoundImage("https://a.org/1", "captions", 1, title='soft, "ふわふわ"')]


def test_parquet_text_that_is_declared_as_bytes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"url": [b"https://a.org/1"], "caption": ["ふわふわ".encode()]}), path)
    assert found(path) == [FoundImage("https://a.org/1", "captions", 1, title="ふわふわ")]


def test_large_tables_are_read_in_order_across_batches(tmp_path: Path) -> None:
    count = 10_000
    captions = ["ふわふわ" if n % 1000 == 0 else "x" for n in range(count)]
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"url": [f"https://a.org/{n}" for n in range(count)], "caption": captions}), path)
    assert urls(found(path)) == [f"https://a.org/{n}" for n in range(0, count, 1000)]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"url,caption\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_parquet_file_that_is_none_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    assert "table.parquet is no Parquet file, or damaged" in error_of(path)


def test_a_damaged_parquet_file_is_one_line_wherever_the_damage_is(tmp_path: Path) -> None:
    rows = pyarrow.table({"url": [f"https://a.org/{n}" for n in range(500)], "caption": ["ふわふわ"] * 500})
    path = tmp_path / "table.parquet"
    parquet.write_table(rows, path)
    whole = path.read_bytes()
    randomly = random.Random(0)
    messages = []
    for _ in range(40):
        place = randomly.randrange(len(whole) - 16)
        path.write_bytes(whole[:place] + randomly.randbytes(16) + whole[place + 16 :])
        try:
            found(path)
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert all("table.parquet" in message for message in messages)


def test_parquet_text_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    rows = pyarrow.table({"url": ["https://a.org/1"], "caption": ["ふわふわ!!!"]})
    parquet.write_table(rows, path, compression="none", use_dictionary=False, write_statistics=False)
    whole = path.read_bytes()
    assert whole.count(b"!!!") == 1
    path.write_bytes(whole.replace(b"!!!", b"\xff\xfe!"))
    assert "table.parquet is no Parquet file, or damaged" in error_of(path)


def test_without_pyarrow_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path, [{"url": "https://a.org/1", "caption": "ふわふわ"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs pyarrow to be read: pip install pyarrow" in error_of(path)


def test_a_csv_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("url,caption\nhttps://a.org,ふ".encode("euc_jp"))
    assert "table.csv is no text in UTF-8" in error_of(path)
    path.write_text("url,caption\nhttps://a.org," + "ふ" * 200_000, "utf-8")
    assert "table.csv is no table of comma-separated values" in error_of(path)
    path.write_text("")
    assert "has no column with the URL" in error_of(path)


# Folders.


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_folder_gives_the_subfolder_that_is_called_like_the_query(tmp_path: Path) -> None:
    touch(tmp_path / "ふわふわ" / "a.jpg", tmp_path / "ふわふわ" / "more" / "b.PNG", tmp_path / "ごつごつ" / "c.jpg")
    assert found(tmp_path) == [
        FoundImage(str(tmp_path / "ふわふわ" / "a.jpg"), "folder", 1, title="a"),
        FoundImage(str(tmp_path / "ふわふわ" / "more" / "b.PNG"), "folder", 2, title="b"),
    ]


def test_a_folder_without_such_a_subfolder_gives_all_its_images(tmp_path: Path) -> None:
    touch(tmp_path / "b.jpg", tmp_path / "x" / "a.webp", tmp_path / "ふわふわ.jpg")
    assert [Path(url).name for url in urls(found(tmp_path))] == ["b.jpg", "a.webp", "ふわふわ.jpg"]


@pytest.mark.parametrize("query", ["GASA がさ", "gasa か\u3099さ"])
def test_names_of_subfolders_are_compared_in_nfc_and_without_case(tmp_path: Path, query: str) -> None:
    touch(tmp_path / "Gasa か\u3099さ" / "a.jpg", tmp_path / "b.jpg")
    assert [Path(url).name for url in urls(found(tmp_path, query))] == ["a.jpg"]


@pytest.mark.parametrize("query", ["..", "../secret", "/etc", ".", "*", "sub/deep"])
def test_no_query_leads_out_of_the_folder(tmp_path: Path, query: str) -> None:
    touch(tmp_path / "root" / "a.jpg", tmp_path / "root" / "sub" / "deep" / "b.jpg", tmp_path / "secret" / "s.jpg")
    assert [Path(url).name for url in urls(found(tmp_path / "root", query))] == ["a.jpg", "b.jpg"]


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / ".b.jpg", tmp_path / ".cache" / "c.jpg", tmp_path / "d.txt", tmp_path / "jpg")
    (tmp_path / "e.jpg").mkdir()
    assert [Path(url).name for url in urls(found(tmp_path))] == ["a.jpg"]


def test_numbers_in_names_count_by_their_value(tmp_path: Path) -> None:
    names = [
        "1.jpg",
        "2.jpg",
        "10.jpg",
        "img1.jpg",
        "Img2.jpg",
        "img02b.jpg",
        "img10.jpg",
        "img１1.jpg",
        "ふ3.jpg",
        "ふ20.jpg",
    ]
    shuffled = names[:]
    random.Random(1).shuffle(shuffled)
    touch(*(tmp_path / name for name in shuffled))
    assert [Path(url).name for url in urls(found(tmp_path))] == names


@given(st.lists(st.text(st.sampled_from("abA019"), min_size=1, max_size=5), unique=True, max_size=8), st.randoms())
@settings(max_examples=60, deadline=None)
def test_natural_order_is_one_order_whatever_it_starts_from(names: list[str], randomly: random.Random) -> None:
    paths = [Path(name) for name in names]
    ordered = sorted(paths, key=lambda path: (natural_order(path), path))
    randomly.shuffle(paths)
    assert sorted(paths, key=lambda path: (natural_order(path), path)) == ordered


@given(st.integers(0, 10**20), st.integers(0, 10**20))
@settings(max_examples=60, deadline=None)
def test_natural_order_of_numbers_is_theirs(one: int, other: int) -> None:
    assert (natural_order(Path(f"x{one}.jpg")) < natural_order(Path(f"x{other}.jpg"))) == (one < other)


def test_an_empty_folder_finds_nothing(tmp_path: Path) -> None:
    assert found(tmp_path) == []


def test_relative_folders_give_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "pictures" / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert urls(found(Path("pictures"))) == [str(tmp_path / "pictures" / "a.jpg")]


def test_a_name_that_is_no_utf8_is_one_line(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):  # noqa: PTH123 - pathlib takes no bytes
        pass
    message = error_of(tmp_path)
    assert "is no UTF-8: rename the file" in message
    message.encode()
