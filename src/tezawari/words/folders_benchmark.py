"""The images that benchmarks of words measure: folders of words' images, and of random ones."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tezawari.core.errors import UserError
from tezawari.data.content_style import decode
from tezawari.data.images import decoded_files, report_skipped
from tezawari.features.descriptors import IMAGE_SIZE
from tezawari.words.image_features import Picture, central_square

Folders = str | list[str]

CACHE_FOLDER = "cache"
# A placeholder or an icon is no picture of its word: it would have to be blown up more than this many times.
_MOST_ENLARGED = 16
FEWEST_IMAGES = 5
FEWEST_WORDS = 3


def find_words(images: Folders | None, max_images: int, seed: int) -> dict[str, list[Picture]]:
    """Return the images of each word: equally many, for what is measured hangs on their number.

    Raises :class:`UserError` for folders that are missing, and too few words or images.
    """
    if not images:
        raise UserError("no images are named: type benchmark.images=FOLDER, of one folder of images for each word")
    found: dict[str, list[Picture]] = {}
    seen: set[str] = set()
    for root in [images] if isinstance(images, str) else images:
        folders = sorted(path for path in _folder("images", root).iterdir() if _is_shown_folder(path))
        if not folders:
            raise UserError(f"benchmark.images={root}: holds no folder; there must be one of images for each word")
        for folder in folders:
            if folder.name in found:
                raise UserError(f"benchmark.images: {root} is not the first folder of a word {folder.name}: rename one")
            found[folder.name] = _find_pictures(folder, seen)
    if len(found) < FEWEST_WORDS:
        raise UserError(
            f"benchmark.images={images}: {len(found)} words, but an interval over words needs {FEWEST_WORDS}: add some"
        )
    smallest = min(found, key=lambda word: len(found[word]))
    count = min(max_images, len(found[smallest]))
    if count < FEWEST_IMAGES:
        where = f"word {smallest} has {len(found[smallest])} images" if count < max_images else f"max_images is {count}"
        raise UserError(f"benchmark.images={images}: {where}, at least {FEWEST_IMAGES} are needed")
    return {word: _draw(pictures, count, [seed, zlib.crc32(word.encode())]) for word, pictures in found.items()}


def find_random(negatives: str | None, words: Mapping[str, Sequence[Picture]]) -> list[Picture]:
    """Return the random images that are no word's; raises :class:`UserError` where the folder is missing."""
    if negatives is None:
        raise UserError("no random images are named: type benchmark.negatives=FOLDER")
    return _find_pictures(
        _folder("negatives", negatives), {picture.key for pictures in words.values() for picture in pictures}
    )


def require_layers(layers: list[str] | None) -> None:
    """Raise :class:`UserError` for a list of layers that names none."""
    if layers == []:
        raise UserError("benchmark.layers=[]: name at least one layer, or null for an early, a middle and a late one")


def load_square(path: Path) -> np.ndarray:
    """Return the central square (224, 224, 3) uint8 of an image file."""
    return central_square(decode(path, IMAGE_SIZE))


def _find_pictures(folder: Path, seen: set[str]) -> list[Picture]:
    """Return the pictures of a folder whose pixels are not yet ``seen``, and add them there."""
    pictures, skipped = [], []
    for path, pixels in decoded_files(folder, IMAGE_SIZE, IMAGE_SIZE / _MOST_ENLARGED):
        name = path.relative_to(folder).as_posix()
        if isinstance(pixels, str):
            skipped.append(f"{name} ({pixels})")
            continue
        key = hashlib.sha256(central_square(pixels).tobytes()).hexdigest()
        if key in seen:
            skipped.append(f"{name} (the same picture as another)")
            continue
        seen.add(key)
        pictures.append(Picture(key, partial(load_square, path)))
    report_skipped(folder, skipped)
    return pictures


def _folder(setting: str, value: str) -> Path:
    folder = Path(value).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UserError(f"benchmark.{setting}={value}: {what}; type benchmark.{setting}=FOLDER")
    return folder


def _is_shown_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _draw(pictures: Sequence[Picture], count: int, key: list[int]) -> list[Picture]:
    chosen = np.random.default_rng(key).permutation(len(pictures))[:count]
    return [pictures[place] for place in sorted(chosen.tolist())]
