"""A table of URLs and captions, CSV or Parquet, as a source: the way large public sets of image links come."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tezawari.collect.found import FoundImage
from tezawari.collect.sources.api import clean
from tezawari.collect.sources.source import check_search
from tezawari.core.errors import UserError

SUFFIXES = (".csv", ".tsv", ".parquet")

# What columns are called in sets that are in use, in lower case; the first name that a table has is taken.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "image_url": ("image_url", "url"),
    "title": ("caption", "text", "title"),
    "page_url": ("page_url",),
    "author": ("author", "creator"),
    "licence": ("licence", "license"),
    "licence_url": ("licence_url", "license_url"),
}
_REQUIRED = {"image_url": "URL", "title": "caption"}
_ROWS_AT_ONCE = 4096

_Row = Mapping[str, str]


class Captions:
    """The images of a table whose captions hold the query, in the order of the rows.

    The table is CSV (UTF-8, with a header line; tab-separated if it is called ``.tsv``) or Parquet, with a column
    ``image_url`` or ``url`` and a column ``caption``, ``text`` or ``title``; the columns ``page_url``, ``author``,
    ``licence`` and ``licence_url`` are kept where there are any. Names may be in upper or lower case. The query is
    looked for as a substring after compatibility normalisation and case folding (NFKC), so that ﾌﾜﾌﾜ finds フワフワ.
    Rows are read a few thousand at a time, never the whole table.

    Raises UserError, while images are taken, for a table that cannot be read or lacks one of the two columns.
    """

    name = "captions"

    def __init__(self, path: Path) -> None:
        self._path = path

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images whose captions hold the query; see :class:`~tezawari.collect.sources.source.Source`."""
        return islice(self._found(check_search(query, language, limit)), limit)

    def _found(self, query: str) -> Iterator[FoundImage]:
        wanted = matching_form(query)
        rows = _parquet_rows(self._path) if self._path.suffix.lower() == ".parquet" else _csv_rows(self._path)
        matching = (row for row in rows if row["image_url"].strip() and wanted in matching_form(row["title"]))
        for position, row in enumerate(matching, start=1):
            fields = {name: clean(value) for name, value in row.items()}
            yield FoundImage(source=self.name, position=position, **fields)


def matching_form(words: str) -> str:
    """Return words in the form in which those that differ in case or width only are the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", words).casefold())


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Return the fields that a table has, each with the name of its column."""
    by_name = {column.strip().lower(): column for column in reversed(header)}
    found = {}
    for field, names in _COLUMNS.items():
        name = next((name for name in names if name in by_name), None)
        if name is not None:
            found[field] = by_name[name]
        elif field in _REQUIRED:
            raise UserError(
                f"{path} has no column with the {_REQUIRED[field]}, called {' or '.join(names)}"
                f" (its columns: {', '.join(header)[:200]}): rename one"
            )
    return found


def _csv_rows(path: Path) -> Iterator[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            columns = _columns(path, table.fieldnames or ())
            for row in table:
                # A short row lacks its last columns.
                yield {field: row[column] or "" for field, column in columns.items()}
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: save it as such") from error
    except csv.Error as error:
        raise UserError(f"{path} is no table of comma-separated values ({error})") from error


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(f"{path} needs pyarrow to be read: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow.names)
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(columns.values())):
                values: list[list[Any]] = [batch.column(column).to_pylist() for column in columns.values()]
                for row in zip(*values):
                    yield {field: _word(value) for field, value in zip(columns, row)}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no Parquet file, or damaged: {str(error).splitlines()[0][:160]}") from error


def _word(value: object) -> str:
    if isinstance(value, bytes):  # text that its writer did not declare to be such
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)
