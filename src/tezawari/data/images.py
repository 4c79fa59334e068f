"""A folder of photos and a folder of styles."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.seeding import epoch_order
from tezawari.data.content_style import KEPT_SCALE, ContentPhoto, ContentStyleData, ContentStyleSet, decode
from tezawari.data.photo import load_rgb

log = logging.getLogger(__name__)

FEWEST_PHOTOS = 4
FEWEST_STYLES = 1
# A placeholder or an icon is no photo: its shorter side would have to be blown up more than this many times.
_MOST_ENLARGED = 8
_PACK_SUFFIX = ".safetensors"


class ImagesData(ContentStyleData):
    """Photos of ``content_dir`` and styles of ``style_dir``, both searched with their subfolders.

    Every file is decoded once at the start; what is damaged, no picture or tiny is skipped and named in a warning,
    hidden files silently. Decoded photos stay in memory as uint8, shorter side at most twice ``image_size``, up to
    ``cache_mb`` megabytes in all; the rest is decoded anew whenever a sample needs it. ``val_fraction`` of the photos
    (at least one) are held out, chosen by ``seed`` and the sorted names. Styles are named by their files' stems; beside
    pictures they may be style packs (``.safetensors``), which whoever trains reads.

    Raises :class:`UserError` for a folder that is missing or holds fewer than four photos or one style, and for two
    styles of one name.
    """

    def __init__(
        self,
        content_dir: str | None = None,
        style_dir: str | None = None,
        val_fraction: float = 0.1,
        cache_mb: int = 1024,
        image_size: int = 256,
        style_size: int = 384,
        batch_size: int = 4,
        epoch_size: int | None = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, style_size, batch_size, epoch_size, num_workers, seed)
        self.content_dir = content_dir
        self.style_dir = style_dir
        self.val_fraction = val_fraction
        self.cache_mb = cache_mb

    def find(self) -> ContentStyleSet:
        """Decode both folders."""
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: must lie between 0 and 1")
        styles, packs = self._styles()
        photos = self._photos()
        count = min(max(1, round(len(photos) * self.val_fraction)), len(photos) - 1)
        held_out = {int(place) for place in epoch_order(self.seed, 0, len(photos))[:count]}
        return ContentStyleSet(
            [photo for place, photo in enumerate(photos) if place not in held_out],
            [photo for place, photo in enumerate(photos) if place in held_out],
            styles,
            packs,
        )

    def _photos(self) -> list[ContentPhoto]:
        folder = _folder("content_dir", self.content_dir)
        side = KEPT_SCALE * self.image_size
        budget = self.cache_mb * 2**20
        photos, skipped = [], []
        for path, pixels in decoded_files(folder, side, self.image_size / _MOST_ENLARGED):
            name = path.relative_to(folder).as_posix()
            if isinstance(pixels, str):
                skipped.append(f"{name} ({pixels})")
            elif pixels.nbytes <= budget:
                budget -= pixels.nbytes
                photos.append(ContentPhoto(name, pixels))
            else:
                photos.append(ContentPhoto(name, path=path, max_short_side=side))
        report_skipped(folder, skipped)
        _require("content_dir", folder, len(photos), FEWEST_PHOTOS, "photos", len(skipped))
        return photos

    def _styles(self) -> tuple[dict[str, Tensor], dict[str, Path]]:
        folder = _folder("style_dir", self.style_dir)
        styles: dict[str, Tensor] = {}
        packs: dict[str, Path] = {}
        files: dict[str, str] = {}
        skipped = []
        for path, pixels in decoded_files(folder, 2 * self.style_size, self.style_size / _MOST_ENLARGED):
            name = path.relative_to(folder).as_posix()
            is_pack = path.suffix == _PACK_SUFFIX
            if isinstance(pixels, str) and not is_pack:
                skipped.append(f"{name} ({pixels})")
                continue
            if path.stem in files:
                raise UserError(
                    f"{folder}: {files[path.stem]} and {name} would both be the style {path.stem}; rename one"
                )
            files[path.stem] = name
            if is_pack:
                packs[path.stem] = path
            else:
                styles[path.stem] = load_rgb(path, max_short_side=2 * self.style_size).float().div_(255)
        report_skipped(folder, skipped)
        _require("style_dir", folder, len(files), FEWEST_STYLES, "styles", len(skipped))
        return dict(sorted(styles.items())), dict(sorted(packs.items()))


def _folder(setting: str, value: str | None) -> Path:
    if value is None:
        raise UserError("data=images needs two folders: type data.content_dir=FOLDER data.style_dir=FOLDER")
    folder = Path(value).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UserError(f"data.{setting}={value}: {what}; type data.{setting}=FOLDER")
    return folder


def decoded_files(folder: Path, side: int, smallest: float) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Yield the files of a folder and its subfolders, sorted, each with its pixels or with why it is skipped.

    Pixels are (H, W, 3) uint8, shorter side at most ``side``; a picture is skipped below ``smallest`` pixels. Hidden
    files are left out.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )

    def attempt(path: Path) -> np.ndarray | str:
        try:
            pixels = decode(path, side)
        except UserError as error:
            return str(error).removeprefix(f"{path}: ")
        return pixels if min(pixels.shape[:2]) >= smallest else f"only {pixels.shape[1]} × {pixels.shape[0]} pixels"

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(files, pool.map(attempt, files))


def report_skipped(folder: Path, skipped: list[str]) -> None:
    """Warn of the files that were skipped, if any were."""
    if skipped:
        log.warning("%s: skipped %d files: %s", folder, len(skipped), ", ".join(skipped))


def _require(setting: str, folder: Path, found: int, needed: int, what: str, skipped: int) -> None:
    if found < needed:
        also = f" ({skipped} files were skipped)" if skipped else ""
        raise UserError(
            f"data.{setting}={folder}: {found} {what} found{also}, at least {needed} needed: "
            "add some or name another folder"
        )
