"""The best images of collected words: a class a word, no masks."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from tezawari.collect.duplicates import near_duplicates
from tezawari.collect.store import DEFAULT_FOLDER, Store, StoredImage, open_store, shown
from tezawari.core.errors import UserError
from tezawari.data.content_style import KEPT_SCALE, decode
from tezawari.data.labelled import LabelledData, LabelledSet
from tezawari.data.labelled_image import LabelledImage, some

log = logging.getLogger(__name__)

_FEWEST_IMAGES = 2  # of a word: one to train on, one held out


class WordsData(LabelledData):
    """The ``keep`` best images of each word of a store that ``tezawari collect`` filled: one class a word, no masks.

    The best are those of the last re-ranking, annotated positives first and annotated negatives left out; a word that
    was never ranked gives its images in the order of the search, which is logged. ``words`` names the classes in their
    order (None: all words of the store, sorted). An image of several words carries all their labels and is there once.

    ``val_fraction`` of each word (at least one image) is held out: those whose SHA-256, mixed with ``seed``, comes
    first. So an image stays on its side while others are added or the ranking changes, as far as the fraction lets it.
    Near duplicates of different words lie on the same side. Images are read with their shorter side at most twice
    ``image_size``, and stay in memory up to ``cache_mb`` megabytes in all.

    Raises :class:`UserError` for a store that is missing, an unknown word, and a word with fewer than two images.
    """

    def __init__(
        self,
        store: str = str(DEFAULT_FOLDER),
        database: str | None = None,
        words: list[str] | None = None,
        keep: int = 50,
        val_fraction: float = 0.2,
        cache_mb: int = 1024,
        image_size: int = 320,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__("labels", image_size, batch_size, epoch_size, num_workers, seed)
        self.store = store
        self.database = database
        self.words = words
        self.keep = keep
        self.val_fraction = val_fraction
        self.cache_mb = cache_mb

    def find(self) -> LabelledSet:
        """Ask the store for the best images of each word, decode them and hold some of each word out."""
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: must lie between 0 and 1")
        if self.keep < _FEWEST_IMAGES:
            raise UserError(f"data.keep={self.keep}: must be at least {_FEWEST_IMAGES}")
        with open_store(Path(self.store), self.database, create=False) as store:
            words = store.words() if self.words is None else self.words
            if not words or len(set(words)) < len(words):
                raise UserError(f"data.words={words}: name at least one word, and each once")
            best = {word: self._best(store, word) for word in words}
        held_out = self._held_out(best)
        labels: dict[str, tuple[int, ...]] = {}
        images: dict[str, StoredImage] = {}
        for place, of_word in enumerate(best.values()):
            for image in of_word:
                labels[image.sha256] = (*labels.get(image.sha256, ()), place)
                images[image.sha256] = image
        examples = self._examples(images, labels)
        train = [example for sha256, example in examples.items() if sha256 not in held_out]
        val = [example for sha256, example in examples.items() if sha256 in held_out]
        _require_both(list(best), train, val)
        return LabelledSet(list(best), train, val)

    def _best(self, store: Store, word: str) -> list[StoredImage]:
        images = store.best_images(word)
        more = f"tezawari collect {shown(word)} --store {self.store}"
        if len(images) < _FEWEST_IMAGES:
            raise UserError(
                f"{shown(word)}: {len(images)} images of {self.keep} in the store {self.store}, at least "
                f"{_FEWEST_IMAGES} needed, one of them to hold out: {more}"
            )
        if len(images) < self.keep:
            log.warning("%s: only %d images of %d: %s may find more", shown(word), len(images), self.keep, more)
        if not store.rankings(word):
            log.warning("%s: not ranked yet, so the first %d of the search are taken", shown(word), self.keep)
        return images[: self.keep]

    def _held_out(self, best: Mapping[str, Sequence[StoredImage]]) -> set[str]:
        """Return the SHA-256 of what is held out."""
        images = list({image.sha256: image for of_word in best.values() for image in of_word}.values())
        first = near_duplicates([image.perceptual_hash for image in images])
        order = {image.sha256: self._place(images[leader].sha256) for image, leader in zip(images, first)}
        places_out: set[bytes] = set()
        for of_word in best.values():
            places = sorted(order[image.sha256] for image in of_word)
            places_out |= set(places[: min(max(1, round(len(places) * self.val_fraction)), len(places) - 1)])
        # By place, so that what one word holds out is held out under other words too, near duplicates included.
        return {sha256 for sha256, place in order.items() if place in places_out}

    def _place(self, sha256: str) -> bytes:
        return hashlib.sha256(f"{self.seed} {sha256}".encode()).digest()

    def _examples(
        self, images: Mapping[str, StoredImage], labels: Mapping[str, tuple[int, ...]]
    ) -> dict[str, LabelledImage]:
        side = KEPT_SCALE * self.image_size
        budget = self.cache_mb * 2**20
        examples = {}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(partial(_decode, side=side, store=self.store), images.values())
            for (sha256, image), pixels in zip(images.items(), decoded):
                if pixels.nbytes <= budget:
                    budget -= pixels.nbytes
                    examples[sha256] = LabelledImage(sha256, labels[sha256], pixels)
                else:
                    examples[sha256] = LabelledImage(sha256, labels[sha256], image.path, max_short_side=side)
        return examples


def _decode(image: StoredImage, side: int, store: str) -> np.ndarray:
    if not image.path.is_file():
        raise UserError(f"{image.path}: the image file is gone: tezawari collect WORD --store {store} fetches it again")
    return decode(image.path, side)


def _require_both(words: list[str], train: Sequence[LabelledImage], val: Sequence[LabelledImage]) -> None:
    for part, examples in (("train on", train), ("hold out", val)):
        present = {label for example in examples for label in example.labels}
        empty = [shown(word) for place, word in enumerate(words) if place not in present]
        if empty:
            raise UserError(
                f"{some(empty)}: no image left to {part}, for they share theirs with other words: collect more, "
                "or leave a word out by data.words"
            )
