"""The Flickr Material Database: ten materials, a hundred photos each, with masks (Sharan et al. 2014)."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from pathlib import Path
from typing import Literal

import numpy as np

from tezawari.core.errors import UserError
from tezawari.core.seeding import epoch_order
from tezawari.data.labelled import LabelledData, LabelledSet, Supervision, download_folder, named_folder
from tezawari.data.labelled_image import LabelledImage, PixelCache, open_mask, some
from tezawari.data.materials import MATERIALS

log = logging.getLogger(__name__)

ARCHIVE_URL = "https://people.csail.mit.edu/celiu/CVPR2010/FMD/FMD.zip"
# The authors publish no checksum; this one is what two independent public loaders of the set check for.
ARCHIVE_MD5 = "0721ba72cd981aa9599a81bbfaaebd75"

Protocol = Literal["half", "5fold"]
_PARTS: dict[str, int] = {"half": 2, "5fold": 5}
_ROOT_EXAMPLE = "FOLDER/FMD (and data.download=true to have it downloaded there, 59 MB)"


class FmdData(LabelledData):
    """The folder of FMD.zip: ``image/<class>/<class>_<kind>_NNN_new.jpg`` and ``mask/`` with the same names.

    The classes are the ten of :data:`~tezawari.data.materials.MATERIALS`, one label an image. Kinds are ``moderate``
    (close-ups) and ``object`` (whole objects); the photos of foliage are all called ``final``. A mask is 1 + the class
    where its file is brighter than 127 and 0 elsewhere: the files are JPEGs, grey or coloured, with shades between.

    ``protocol="half"`` trains on one half of each class and holds the other out, ``split`` numbering as many random
    halvings as are wanted. ``protocol="5fold"`` trains on three fifths; fold ``split`` (0 … 4) is ``"test"`` and the
    next one is held out to choose by. Both keep the kinds in proportion; which photo falls where is settled by ``seed``
    [ours: the authors drew halves at random and published none].

    ``download`` fetches the authors' archive to ``root`` where there is none.

    Raises :class:`UserError` for a folder of another layout, a class with too few photos, and a photo without the mask
    that is needed.
    """

    def __init__(
        self,
        root: str | None = None,
        protocol: Protocol = "half",
        split: int = 0,
        supervision: Supervision = "labels",
        download: bool = False,
        cache_mb: int = 1024,
        image_size: int = 320,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(supervision, image_size, batch_size, epoch_size, num_workers, seed)
        self.root = root
        self.protocol = protocol
        self.split = split
        self.download = download
        self.cache_mb = cache_mb

    def find(self) -> LabelledSet:
        """Read the folder and divide it."""
        parts = _PARTS[self.protocol]
        if self.split < 0 or (self.protocol == "5fold" and self.split >= parts):
            allowed = "0 to 4" if self.protocol == "5fold" else "at least 0"
            raise UserError(f"data.split={self.split}: must be {allowed} with data.protocol={self.protocol}")
        root = self._folder()
        cache = PixelCache(self.cache_mb)
        divided: list[list[LabelledImage]] = [[] for _ in range(parts)]
        for place, name in enumerate(MATERIALS):
            photos = self._shuffled(_photos(root, name, parts), place)
            for number, path in enumerate(photos):
                divided[number % parts].append(_example(root, path, place, cache))
        for part in divided:
            part.sort(key=lambda example: example.id)
        if self.protocol == "half":
            train, val, test = divided[0], divided[1], []
        else:
            test, val, *others = divided[self.split :] + divided[: self.split]
            train = sorted(itertools.chain(*others), key=lambda example: example.id)
        # A mask that nobody may see need not exist.
        scored = [*val, *test, *(train if self.supervision == "full" else [])]
        missing = [example.id for example in scored if not _mask_path(root, example.id).is_file()]
        if missing:
            raise UserError(f"{_mask_path(root, missing[0])}: there is no such mask, nor of {len(missing) - 1} others")
        return LabelledSet(list(MATERIALS), train, val, test)

    def _folder(self) -> Path:
        if self.download and self.root is not None and not Path(self.root).expanduser().exists():
            target = Path(self.root).expanduser()
            target.parent.mkdir(parents=True, exist_ok=True)
            download_folder(ARCHIVE_URL, ARCHIVE_MD5, "", target)
        root = named_folder("fmd", self.root, _ROOT_EXAMPLE)
        for folder in (root / "image", root / "mask"):
            if not folder.is_dir():
                raise UserError(f"data.root={self.root}: holds no folder {folder.name}; name the folder of FMD.zip")
        return root

    def _shuffled(self, photos: list[Path], place: int) -> list[Path]:
        """Return a class's photos in random order, kind after kind, so that dealing them out deals out each kind."""
        drawing = self.split if self.protocol == "half" else 0
        order = epoch_order(self.seed, drawing * len(MATERIALS) + place, len(photos))
        return sorted((photos[i] for i in order), key=_kind)


def _photos(root: Path, name: str, fewest: int) -> list[Path]:
    folder = root / "image" / name
    files = sorted(folder.glob("*.jpg")) if folder.is_dir() else []
    photos = [path for path in files if _kind(path)]
    strangers = [path.name for path in files if not _kind(path)]
    if strangers:
        log.warning("%s: skipped %d files: %s", folder, len(strangers), some(strangers))
    if len(photos) < fewest:
        raise UserError(
            f"{folder}: {len(photos)} photos {name}_*_NNN_new.jpg found, at least {fewest} needed: "
            "complete the folder, or take data=images_by_class for photos of another layout"
        )
    return photos


def _kind(path: Path) -> str:
    match = re.fullmatch(rf"{path.parent.name}_([a-z]+)_\d+_new", path.stem)
    return match[1] if match else ""


def _example(root: Path, path: Path, place: int, cache: PixelCache) -> LabelledImage:
    image_id = f"{path.parent.name}/{path.stem}"
    mask = functools.partial(_read_mask, _mask_path(root, image_id), place + 1)
    return LabelledImage(image_id, (place,), path, mask, cache=cache)


def _mask_path(root: Path, image_id: str) -> Path:
    png = root / "mask" / f"{image_id}.png"
    return png if png.is_file() else png.with_suffix(".jpg")


def _read_mask(path: Path, value: int) -> np.ndarray:
    with open_mask(path) as picture:
        return np.where(np.asarray(picture.convert("L")) > 127, np.uint8(value), np.uint8(0))
