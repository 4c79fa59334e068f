"""The best images of a word as one ZIP, with a manifest of where each came from and whose it is."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tezawari.collect.store import RankedPass, Store, StoredImage, shown
from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import written_aside

MANIFEST = "manifest.csv"

_MOST_NAME_BYTES = 120
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
# Windows takes these for devices, whatever follows the first dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
_OF_THE_FIND = ("position", "source", "image_url", "page_url", "title", "author", "licence", "licence_url")
_NO_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can hold
_UNIX, _PLAIN_FILE = 3, 0o100644 << 16


@dataclass(frozen=True)
class Exported:
    """What an export wrote: how many images, by which pass of the ranking, and the bytes of the file."""

    images: int
    pass_number: int
    bytes: int


def export_word(
    store: Store, word: str, file: Path, count: int | None = None, pass_number: int | None = None
) -> Exported:
    """Write the best images of a word and ``manifest.csv`` as a ZIP that appears whole or not at all.

    The images lie in a folder named by the word (:func:`safe_name`), ``001.jpg`` the best, in the order of
    :meth:`~tezawari.collect.store.Store.best_images`. Equal contents give equal bytes: nothing in the file depends on
    the clock, the machine or a compressor.

    Args:
        store: where the word was collected.
        word: a word that has been ranked.
        file: the ZIP; its folder is made where needed.
        count: the most images; None for all.
        pass_number: of the ranking, from 1; None for the last.

    Raises:
        UserError: an unknown word or pass, nothing ranked, an image file that is gone or damaged, or a disk that will
            not take the file.
    """
    passes = store.rankings(word)
    if not passes:
        raise UserError(
            f"nothing is ranked yet for {shown(word)}: tezawari collect {shown(word)} --store {store.folder} does it"
        )
    images = store.best_images(word, pass_number)[:count]
    if not images:
        raise UserError(f"no image of {shown(word)} is left to export: all were annotated as negatives")
    annotations = store.annotations(word)
    names = image_names(word, images)
    manifest = _manifest(images, names, passes, annotations)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_aside(file, file.with_name(f".{os.getpid()}.writing")) as stream,
            zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive,
        ):
            archive.writestr(_entry(MANIFEST), manifest)
            for name, image in zip(names, images):
                archive.writestr(_entry(name), _content(store, word, image))
        size = file.stat().st_size
    except OSError as error:
        raise UserError(f"{file} cannot be written: {describe_os_error(error)}; name another file by --zip") from error
    return Exported(len(images), passes[-1].number if pass_number is None else pass_number, size)


def image_names(word: str, images: Sequence[StoredImage]) -> list[str]:
    """Return the name in the ZIP of each image: ``WORD/001.jpg``, as many digits as needed and at least three."""
    digits = max(3, len(str(len(images))))
    folder = safe_name(word)
    return [f"{folder}/{rank:0{digits}d}{image.path.suffix}" for rank, image in enumerate(images, 1)]


def safe_name(word: str) -> str:
    """Return a name for files and folders that every system takes: NFC, at most 120 bytes, nothing reserved.

    A word that is such a name is its own. Any other has its forbidden characters replaced, is cut short where it is
    long, and ends in eight digits of its SHA-256, so that different words keep different names.
    """
    word = unicodedata.normalize("NFC", word)
    name = _FORBIDDEN.sub("_", word).encode("utf-8", "replace")[:_MOST_NAME_BYTES].decode("utf-8", "ignore")
    # Explorer and the shell drop what a name ends in; a leading dot hides it, and two lead out of the folder.
    name = name.strip(" .")
    if name == word and not _RESERVED.fullmatch(name):
        return name
    digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    shortened = name.encode()[: _MOST_NAME_BYTES - 10].decode("utf-8", "ignore").strip(" .")
    return f"_{shortened}-{digest}"


def _manifest(
    images: Sequence[StoredImage],
    names: Sequence[str],
    passes: Sequence[RankedPass],
    annotations: dict[str, bool],
) -> str:
    places = [{sha256: place for place, sha256 in enumerate(ranked.scores, 1)} for ranked in passes]
    rows = []
    for rank, (name, image) in enumerate(zip(names, images), 1):
        row: dict[str, object] = {"rank": rank, "file": name}
        for ranked, place in zip(passes, places):
            # An image that only another pass ranks has no score in this one.
            row[f"pass_{ranked.number}_score"] = repr(ranked.scores[image.sha256]) if image.sha256 in place else ""
            row[f"pass_{ranked.number}_rank"] = place.get(image.sha256, "")
        noted = annotations.get(image.sha256)
        row["annotation"] = "" if noted is None else "positive" if noted else "negative"
        row |= {each: getattr(image.found, each) for each in _OF_THE_FIND}
        row |= {"sha256": image.sha256, "width": image.width, "height": image.height, "features": passes[-1].features}
        rows.append(row)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _NO_DATE)
    entry.create_system, entry.external_attr = _UNIX, _PLAIN_FILE  # otherwise those of the system it runs on
    return entry


def _content(store: Store, word: str, image: StoredImage) -> bytes:
    again = f"tezawari collect {shown(word)} --store {store.folder} fetches it again"
    try:
        content = image.path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{image.path}: the image file is gone: {again}") from None
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise UserError(f"{image.path}: the image file is damaged: delete it, then {again}")
    return content
