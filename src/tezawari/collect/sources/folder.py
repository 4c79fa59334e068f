"""A folder of image files as a source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tezawari.collect.found import FoundImage
from tezawari.collect.sources.source import check_search
from tezawari.core.errors import UserError

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class Folder:
    """The image files of the subfolder that is called like the query, or of the whole folder where there is none.

    Subfolders of theirs are included, hidden files and folders are not. Names are compared in NFC, without regard to
    case. The order is that of the paths, numbers in them by value: ``2.jpg`` before ``10.jpg``.

    Raises UserError, at the search, for a file whose name is no UTF-8.
    """

    name = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images of the folder; see :class:`~tezawari.collect.sources.source.Source`."""
        folder = self._folder_of(check_search(query, language, limit))
        return islice(self._found(folder), limit)

    def _folder_of(self, query: str) -> Path:
        same = [path for path in self._root.iterdir() if _folded(path.name) == _folded(query) and path.is_dir()]
        return min(same, default=self._root)

    def _found(self, folder: Path) -> Iterator[FoundImage]:
        for position, path in enumerate(_images(folder), start=1):
            yield FoundImage(image_url=str(path), source=self.name, position=position, title=path.stem)


def natural_order(path: Path) -> list[list[tuple[int, int | str]]]:
    """Return a key that sorts paths part by part, digits by the number they write, letters without regard to case."""
    return [
        [(0, int(piece)) if piece.isdecimal() else (1, piece.casefold()) for piece in re.split(r"(\d+)", part) if piece]
        for part in path.parts
    ]


def _images(folder: Path) -> list[Path]:
    images = []
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in inside.parts):
            continue
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {str(path)!a} is no UTF-8: rename the file") from None
        if path.is_file():
            images.append(path)
    return sorted(images, key=lambda path: (natural_order(path), path))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
