"""A list of URLs in a text file as a source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tezawari.collect.found import FoundImage
from tezawari.collect.sources.source import check_search
from tezawari.core.errors import UserError


class UrlList:
    """All images of a text file (UTF-8) with one http(s) URL a line, whatever the query.

    Empty lines and lines that begin with ``#`` are passed over. Raises UserError, while images are taken, for a file
    that cannot be read and a line that is no URL, which is named by its number.
    """

    name = "url-list"

    def __init__(self, path: Path) -> None:
        self._path = path

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images of the list in its order; see :class:`~tezawari.collect.sources.source.Source`."""
        check_search(query, language, limit)
        return islice(self._found(), limit)

    def _found(self) -> Iterator[FoundImage]:
        for position, url in enumerate(self._urls(), start=1):
            yield FoundImage(image_url=url, source=self.name, position=position)

    def _urls(self) -> Iterator[str]:
        try:
            with self._path.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    url = line.strip()
                    if not url or url.startswith("#"):
                        continue
                    if not url.lower().startswith(("http://", "https://")) or len(url.split()) != 1:
                        raise UserError(
                            f"{self._path}, line {number}: {url[:80]!r} is no URL: write one a line, http(s)://…"
                        )
                    yield url
        except UnicodeDecodeError as error:
            raise UserError(f"{self._path} is no text in UTF-8: save it as such") from error
