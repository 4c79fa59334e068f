"""Re-ranking the words of a store: descriptors that are computed once, negatives, and both passes kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tezawari.collect.contact_sheet import decode_pixels, load_pixels, read_picture
from tezawari.collect.rerank import rerank
from tezawari.collect.sources.folder import SUFFIXES, natural_order
from tezawari.collect.store import Store, shown
from tezawari.core.errors import UserError
from tezawari.core.package_photos import PHOTOS, package_photo
from tezawari.features.backbone import load_backbone
from tezawari.features.descriptors import (
    BATCH_SIZE,
    IMAGE_SIZE,
    DescriptorCache,
    LoadImage,
    early_middle_late,
    letterbox,
)
from tezawari.features.efficientnet import NAME as EFFICIENTNET

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# Twice what the backbone sees: no more is kept in memory, and resizing has enough to average.
_LONGEST = 2 * IMAGE_SIZE
# What the first layers make of so few images stays in the processor's cache: in batches of 16 each takes almost twice
# as long. And in batches of up to 4 a descriptor came out the same to the last bit whatever shared its batch, so that a
# ranking that was stopped and taken up again ends with the same scores; not so in batches of 16.
_BATCH_SIZE = 4
# Images that are decoded while the network is busy with those before.
_AHEAD = 16
# As many as the talk's random images.
_MOST_OF_A_FOLDER = 5_000
# Close views of materials are what words of touch look like: as negatives they would teach the contrary.
_MATERIALS = {"brick", "grass", "gravel"}
_CROPS = (1, 2, 3)  # into how many parts each side of a photograph is cut


@dataclass(frozen=True)
class PackedPicture:
    """The bytes of a picture's file, decoded when called, wherever that is; ``name`` is for the error."""

    content: bytes
    name: str

    def __call__(self) -> np.ndarray:
        return decode_pixels(self.content, _LONGEST, self.name)


@dataclass(frozen=True)
class PictureFile:
    """A picture's file on this machine, read and decoded when called."""

    path: Path

    def __call__(self) -> np.ndarray:
        return load_pixels(self.path, _LONGEST)

    def packed(self) -> PackedPicture:
        """Read the file, for where it cannot be read."""
        return PackedPicture(read_picture(self.path), str(self.path))


class AheadDescriptors(DescriptorCache):
    """A cache of descriptors whose images a thread loads while the network is busy (:func:`loaded_ahead`)."""

    def describe(
        self,
        images: Mapping[str, LoadImage],
        layers: Sequence[str],
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Return descriptors as :meth:`~tezawari.features.descriptors.DescriptorCache.describe` does."""
        with loaded_ahead(images, self.image_size) as ahead:
            return super().describe(ahead, layers, batch_size, progress)


@dataclass(frozen=True)
class Negatives:
    """Random images to tell a word's images from: how each is loaded, by its SHA-256, and in words what they are."""

    images: dict[str, LoadImage]
    description: str


def default_layer(backbone: str) -> str:
    """Return the layer that a backbone's images are ranked by: ``block8`` of EfficientNet-Lite0, else a middle one.

    [ours; of blocks 5, 8, 11, 13 and 15, measured on five texture words half or 70 % of whose results were random
    images: mean average precision of the search order 66, of the second pass by block 8 98.5 against random images
    (late blocks 99) and 94.8 against crops of few photographs, where it is best (late blocks 91)]
    """
    return "block8" if backbone == EFFICIENTNET else early_middle_late(backbone)[1]


def open_descriptors(folder: Path, backbone: str, layer: str, weights: str | None = None) -> DescriptorCache:
    """Load a backbone up to a layer and open the cache of its descriptors in a store's folder.

    Raises :class:`UserError` as :func:`~tezawari.features.backbone.load_backbone` does, and for a folder that cannot
    be written.
    """
    return AheadDescriptors(folder / "descriptors", load_backbone(backbone, [layer], weights))


def use_one_thread() -> None:
    """Compute on one thread from now on: a forked process has none of the threads of the one that it comes from."""
    torch.set_num_threads(1)


def negatives_of_folder(folder: Path) -> Negatives:
    """Return the pictures of a folder and its subfolders, the first 5,000 in the order of their names, as negatives.

    Files that are no pictures are left out with a warning. Raises :class:`UserError` where none is left.
    """
    if not folder.is_dir():
        raise UserError(f"--negatives {folder}: there is no such folder")
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    images: dict[str, LoadImage] = {}
    for path in sorted(paths, key=natural_order)[:_MOST_OF_A_FOLDER]:
        try:
            with Image.open(path):
                pass
        except Exception:
            log.warning("%s: is no picture that can be read: left out of the negatives", path)
            continue
        images[hashlib.sha256(path.read_bytes()).hexdigest()] = PictureFile(path)
    if not images:
        raise UserError(f"--negatives {folder}: holds no picture ({', '.join(sorted(SUFFIXES))})")
    return Negatives(images, f"{len(images)} images of {folder}")


def negatives_of_photos() -> Negatives:
    """Return crops of the photographs that installed packages carry as negatives.

    Of each the whole, its quarters and its ninths; no close views of materials. [ours] Against them five texture words
    whose results were half or 70 % random had a mean average precision of 94.8 after two passes, against unrelated
    random photographs 98.5. The images of a store's other words did worse than either: words are often of one kind.
    """
    crops = photo_crops()
    return Negatives(crops, f"{len(crops)} crops of {len(PHOTOS) - len(_MATERIALS)} photographs of installed packages")


def photo_crops() -> dict[str, LoadImage]:
    """Return crops of installed packages' photographs, by a SHA-256 of the file and the place in it."""
    crops: dict[str, LoadImage] = {}
    for name in PHOTOS:
        if name in _MATERIALS:
            continue
        path = package_photo(name)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for parts in _CROPS:
            for place in range(parts**2):
                key = hashlib.sha256(f"{digest} {parts} {place}".encode()).hexdigest()
                crops[key] = partial(_crop, path, parts, place)
    return crops


def _crop(path: Path, parts: int, place: int) -> np.ndarray:
    pixels = _photo(path)
    row, column = divmod(place, parts)
    height, width = pixels.shape[0] // parts, pixels.shape[1] // parts
    return pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]


@functools.lru_cache(maxsize=2)  # the crops of a photograph follow each other
def _photo(path: Path) -> np.ndarray:
    return load_pixels(path, max(_CROPS) * IMAGE_SIZE)


@contextlib.contextmanager
def loaded_ahead(loaders: Mapping[str, LoadImage], image_size: int) -> Iterator[dict[str, LoadImage]]:
    """Give loaders of the same images, which a thread loads and letterboxes before they are asked for.

    Whoever asks, asks in the order of ``loaders`` and may leave out any: an image is loaded once one of the 16 before
    it is asked for, so none is where none is asked for, and no more than 16 squares wait in memory.
    """
    places = {name: place for place, name in enumerate(loaders)}
    names = list(loaders)
    begun: dict[int, Future[np.ndarray]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="tezawari-decode") as pool:

        def load(name: str) -> np.ndarray:
            asked = places[name]
            for place in [place for place in begun if place < asked]:
                begun.pop(place).cancel()
            for place in range(asked, min(asked + _AHEAD, len(names))):
                if place not in begun:
                    begun[place] = pool.submit(lambda one=loaders[names[place]]: letterbox(one(), image_size))  # type: ignore[misc]
            return begun.pop(asked).result()

        try:
            yield {name: partial(load, name) for name in names}
        finally:
            pool.shutdown(cancel_futures=True)


def rank_word(
    store: Store,
    word: str,
    descriptors: DescriptorCache,
    layer: str,
    negatives: Negatives,
    progress: Progress | None = None,
) -> int:
    """Rank the images of a word in two passes by a layer's descriptors and keep scores and ranks in the store.

    What people said of images is honoured as :func:`~tezawari.collect.rerank.rerank` says. Images without a usable
    descriptor are not ranked. Returns the number of ranked images; where there are none the store is left as it is.

    Args:
        store: where the word's images are.
        word: a word of the store.
        descriptors: an open cache, of a backbone that was loaded with ``layer``.
        layer: what is compared.
        negatives: random images; what the word has itself is left out of them.
        progress: called with (descriptors done, descriptors in all).

    Raises:
        UserError: an unknown word, an image file that is gone or damaged, an image annotated as both, a full disk.
    """
    images = store.images_of(word)
    if not images:
        return 0
    own = {sha256 for image in images for sha256 in (image.sha256, *image.duplicates)}
    loaders: dict[str, LoadImage] = {image.sha256: PictureFile(image.path) for image in images}
    loaders |= {sha256: load for sha256, load in negatives.images.items() if sha256 not in own}
    rows = descriptors.describe(loaders, [layer], _BATCH_SIZE, progress)[layer]
    noted = store.annotations(word)
    passes = rerank(
        rows[: len(images)],
        rows[len(images) :],
        annotated_positive=[place for place, image in enumerate(images) if noted.get(image.sha256) is True],
        annotated_negative=[place for place, image in enumerate(images) if noted.get(image.sha256) is False],
    )
    ranked = []
    for one in passes:
        order = np.argsort(one.ranks, kind="stable").tolist()
        ranked.append([(images[place].sha256, float(one.scores[place])) for place in order])
    usable = [[(sha256, score) for sha256, score in entries if np.isfinite(score)] for entries in ranked]
    if len(usable[0]) < len(images):
        log.warning("%s: %d images have no usable descriptor: not ranked", shown(word), len(images) - len(usable[0]))
    store.save_rankings(word, f"{descriptors.backbone.name}/{layer}", usable)
    return len(usable[0])
