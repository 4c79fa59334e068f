"""One vector an image and layer: what a network's layer holds of an image, wherever it is in it.

Each is computed once: :class:`DescriptorCache` keeps them by the content of the image and by all that they depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tezawari.core.errors import UserError, describe_os_error
from tezawari.features.backbone import Backbone, available_layers
from tezawari.features.efficientnet import NAME as EFFICIENTNET

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
LoadImage = Callable[[], np.ndarray]
Item = TypeVar("Item")

IMAGE_SIZE = 224
BATCH_SIZE = 16
_GREY = (127, 127, 127)
# Changes with everything between an image's pixels and its descriptors that no argument tells.
_METHOD = "letterbox bicubic, mean and deviation, signed root, l2; 1"
# What a writer waits for another process's transaction, which takes milliseconds.
_LOCK_SECONDS = 60
# SQLite's parameters in one statement are limited to 999 in old versions.
_KEYS_A_QUERY = 500


def early_middle_late(name: str) -> tuple[str, str, str]:
    """Return an early, a middle and a late layer of a backbone for describing images, in depth order. [ours]

    EfficientNet-Lite0: expanded features of the sixth, twelfth and last block; VGG: after the third, fourth and last
    stage; others: stages at a third, two thirds and the end. Raises :class:`UserError` for an unknown backbone, and for
    one of fewer than three layers.
    """
    layers = available_layers(name)
    if name == EFFICIENTNET:
        return "block5", "block11", "block15"
    if name.startswith("vgg") and all(layer.startswith(("conv", "relu")) for layer in layers):
        third, fourth, last = ([layer for layer in layers if layer.startswith(f"relu{s}_")][-1] for s in (3, 4, 5))
        return third, fourth, last
    if len(layers) < 3:
        raise UserError(f"backbone {name} has only {len(layers)} layers: name the layers to use, or another backbone")
    count = len(layers)
    return layers[(count - 1) // 3], layers[(2 * count - 1) // 3], layers[-1]


def letterbox(pixels: np.ndarray, size: int = IMAGE_SIZE) -> np.ndarray:
    """Return an image (H, W, 3) uint8 shrunk or enlarged into a grey square (size, size, 3), its whole in the middle.

    Nothing is cut off and shapes keep their proportions. Raises ``ValueError`` for other pixels. [ours]
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise ValueError(f"an image is (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}")
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    inside = max(1, round(width * scale)), max(1, round(height * scale))
    resized = Image.fromarray(pixels).resize(inside, Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (size, size), _GREY)
    square.paste(resized, ((size - inside[0]) // 2, (size - inside[1]) // 2))
    return np.asarray(square)


def pool(features: Tensor) -> Tensor:
    """Return the descriptors (B, 2 C) float32 of features (B, C, h, w).

    Mean and standard deviation of each channel over the positions, their signed square roots, then the whole divided by
    its L2 norm. Features that are zero everywhere give zeros. [ours; signed roots and L2 as for Fisher vectors,
    Perronnin et al., ECCV 2010]
    """
    deviation, mean = torch.std_mean(features.float(), dim=(2, 3), correction=0)
    both = torch.cat([mean, deviation], dim=1)
    return torch.nn.functional.normalize(both.sign() * both.abs().sqrt(), dim=1)


@torch.no_grad()
def describe(
    backbone: Backbone,
    images: Iterable[np.ndarray],
    layers: Sequence[str],
    image_size: int = IMAGE_SIZE,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Return the descriptors (N, D) float32 of ``images`` for each of ``layers``; D is twice the layer's channels.

    The images go through :func:`letterbox`, the backbone no deeper than needed, and :func:`pool`.

    Args:
        backbone: loaded with ``layers``.
        images: (H, W, 3) uint8 RGB of any sizes; taken one batch at a time.
        layers: names of layers.
        image_size: side of the square in pixels.
        batch_size: images that go through the backbone together.
        progress: called with (images done, images in all, or 0 where ``images`` has no length).

    Raises:
        UserError: the backbone was loaded without a layer, or the square is too small for it.
        ValueError: an image of other pixels.
    """
    found: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    total, done = len(images) if isinstance(images, Sequence) else 0, 0
    for batch in _batches(images, batch_size):
        squares = np.stack([letterbox(pixels, image_size) for pixels in batch])
        tensor = torch.from_numpy(squares).permute(0, 3, 1, 2).to(_device(backbone)).float().div_(255)
        for layer, features in backbone(tensor, layers).items():
            found[layer].append(pool(features).cpu().numpy())
        done += len(batch)
        if progress is not None:
            progress(done, total)
    return {
        layer: np.concatenate(parts) if parts else np.zeros((0, 2 * backbone.channels[layer]), np.float32)
        for layer, parts in found.items()
    }


def fingerprint(backbone: Backbone, image_size: int = IMAGE_SIZE) -> str:
    """Return a SHA-256 of all that descriptors depend on beside image and layer: network, weights, preprocessing.

    Hashes the weights up to the deepest layer loaded, so that the same file under two names is one, and a file that
    changed under its name is another. Two depths of a network have different fingerprints: load all the layers to be
    compared at once.
    """
    digest = hashlib.sha256(json.dumps([backbone.name, image_size, _METHOD]).encode())
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class DescriptorCache:
    """Descriptors on disk: each image and layer is computed once.

    One SQLite database (WAL) in ``folder``: whatever stops a process, batches that were finished stay, and several
    processes may read and write at once. Rows carry a checksum of their values; a row that is damaged is logged and
    computed again, a database that is damaged is set aside and begun anew.

    Raises :class:`UserError` where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, backbone: Backbone, image_size: int = IMAGE_SIZE) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.path = Path(folder).expanduser() / "descriptors.sqlite"
        self._fingerprint = fingerprint(backbone, image_size)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the descriptors' cache {folder}: {describe_os_error(error)}") from error
        try:
            self._create()
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)

    def describe(
        self,
        images: Mapping[str, LoadImage],
        layers: Sequence[str],
        batch_size: int = BATCH_SIZE,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Return the descriptors (N, D) float32 of ``images``, in their order, for each of ``layers``.

        Only what the cache lacks is loaded, in batches of ``batch_size``, each of which is kept as soon as it is
        computed.

        Args:
            images: SHA-256 of an image's bytes → a function that returns its pixels (H, W, 3) uint8 RGB.
            layers: names of layers that the backbone was loaded with.
            batch_size: images that go through the backbone together.
            progress: called with (images done, images in all), cached ones included.

        Raises:
            UserError: as :func:`describe` and the disk say.
        """
        keys = list(images)
        found = {
            layer: np.full((len(keys), 2 * self.backbone.channels[layer]), np.nan, np.float32)
            for layer in self._known(layers)
        }
        missing = self._read(keys, found)
        done = len(keys) - len(missing)
        if progress is not None and done:
            progress(done, len(keys))
        # Another process may have computed them meanwhile, but looking again would cost more than it saves.
        for places, batch in self._computed(_batches(missing, batch_size), list(images.values()), layers):
            for layer, values in batch.items():
                found[layer][places] = values
            self._write([keys[place] for place in places], batch)
            done += len(places)
            if progress is not None:
                progress(done, len(keys))
        return found

    def _computed(
        self, batches: Iterable[Sequence[int]], images: Sequence[LoadImage], layers: Sequence[str]
    ) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
        """Yield batches of places among ``images`` with their descriptors, in any order."""
        for places in batches:
            pixels = [images[place]() for place in places]
            yield places, describe(self.backbone, pixels, layers, self.image_size, len(places))

    def _known(self, layers: Sequence[str]) -> Sequence[str]:
        for layer in layers:
            if layer not in self.backbone.layers:
                raise UserError(f"backbone {self.backbone.name} was loaded without layer {layer!r}")
        return layers

    def _read(self, keys: list[str], found: dict[str, np.ndarray]) -> list[int]:
        """Fill ``found`` with what is cached; return the places of the images that lack a layer."""
        place_of = {key: place for place, key in enumerate(keys)}
        lacking: set[int] = set()
        for layer, values in found.items():
            left = set(range(len(keys)))
            for some in _batches(keys, _KEYS_A_QUERY):
                for key, blob, checksum in self._rows(layer, some):
                    if len(blob) != values[0].nbytes or _checksum(blob) != checksum:
                        log.warning("%s: the descriptor of image %s is damaged: computing it again", self.path, key)
                        continue
                    values[place_of[key]] = np.frombuffer(blob, "<f4")
                    left.discard(place_of[key])
            lacking |= left
        return sorted(lacking)

    def _rows(self, layer: str, keys: Sequence[str]) -> list[tuple[str, bytes, bytes]]:
        marks = ",".join("?" * len(keys))
        query = f"SELECT image, vector, checksum FROM descriptor WHERE source = ? AND layer = ? AND image IN ({marks})"
        try:
            with contextlib.closing(self._open()) as database:
                return database.execute(query, (self._fingerprint, layer, *keys)).fetchall()
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)
            return []

    def _write(self, keys: Sequence[str], batch: Mapping[str, np.ndarray]) -> None:
        rows = []
        for layer, values in batch.items():
            for key, value in zip(keys, values):
                blob = value.astype("<f4").tobytes()
                rows.append((self._fingerprint, layer, key, blob, _checksum(blob)))
        try:
            with contextlib.closing(self._open()) as database, database:
                database.executemany("INSERT OR REPLACE INTO descriptor VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error
        except sqlite3.DatabaseError as error:
            self._begin_anew(error)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=_LOCK_SECONDS)
        # After a power cut the last batches may be missing, never half: they are computed again.
        database.execute("PRAGMA synchronous = NORMAL")
        return database

    def _create(self) -> None:
        try:
            with contextlib.closing(self._open()) as database, database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS descriptor (source TEXT, layer TEXT, image TEXT, vector BLOB NOT NULL,"
                    " checksum BLOB NOT NULL, PRIMARY KEY (source, layer, image)) WITHOUT ROWID"
                )
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error

    def _refused(self, error: sqlite3.OperationalError) -> UserError:
        return UserError(
            f"the descriptors' cache {self.path}: {error}; nothing is lost: make room or stop the other program, then "
            "type the same command again"
        )

    def _begin_anew(self, error: sqlite3.DatabaseError) -> None:
        aside = self.path.with_name(f"{self.path.name}.{time.time_ns()}.{os.getpid()}.damaged")
        log.warning("%s is damaged (%s): set aside as %s, and its descriptors computed again", self.path, error, aside)
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            self.path.rename(aside)
        for ending in ("-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
        self._create()


def _checksum(blob: bytes) -> bytes:
    return hashlib.blake2b(blob, digest_size=8).digest()


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.parameters()).device


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
