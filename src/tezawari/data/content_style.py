"""Content photos and style images for one network of many styles."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tezawari.core.errors import UserError
from tezawari.core.seeding import sample_rng
from tezawari.data.loader import ResumableData, ResumableLoader, SampleKey
from tezawari.data.photo import load_rgb

# A photo is shrunk until its shorter side is between once and this many times the side of the crop.
LARGEST_SCALE = 1.5
# Photos are kept at this many times the side of the crop: enough for the largest scale, and a bound on memory.
KEPT_SCALE = 2


@dataclass(frozen=True)
class ContentPhoto:
    """A photo to cut training samples from: decoded, or the file to decode it from each time."""

    name: str
    pixels: np.ndarray | None = None  # (H, W, 3) uint8
    path: Path | None = None
    max_short_side: int | None = None

    def load(self) -> np.ndarray:
        """Return the pixels (H, W, 3) uint8."""
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None
        return decode(self.path, self.max_short_side)


def decode(path: Path, max_short_side: int | None) -> np.ndarray:
    """Read a photo as (H, W, 3) uint8 whose shorter side is at most ``max_short_side``."""
    return np.ascontiguousarray(load_rgb(path, max_short_side=max_short_side).permute(1, 2, 0).numpy())


def random_crop(pixels: np.ndarray, rng: np.random.Generator, side: int) -> Tensor:
    """Cut a square from (H, W, 3) uint8 at random and return it as (3, side, side) float32 in [0, 1].

    It is what resizing the shorter side to between 1 and :data:`LARGEST_SCALE` times ``side``, cropping anywhere and
    mirroring every other time would give, done in one antialiased resampling of the crop alone.
    """
    height, width = pixels.shape[:2]
    edge = min(height, width) / rng.uniform(1.0, LARGEST_SCALE)
    top, left = rng.uniform(0, height - edge), rng.uniform(0, width - edge)
    crop = _resized_square(pixels, top, left, edge, side)
    return _to_float(crop[:, ::-1] if rng.random() < 0.5 else crop)


def central_crop(pixels: np.ndarray, side: int) -> Tensor:
    """Resize the central square of (H, W, 3) uint8 to (3, side, side) float32 in [0, 1]."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    return _to_float(_resized_square(pixels, (height - edge) / 2, (width - edge) / 2, edge, side))


def _resized_square(pixels: np.ndarray, top: float, left: float, edge: float, side: int) -> np.ndarray:
    y, x = math.floor(top), math.floor(left)
    around = pixels[y : math.ceil(top + edge), x : math.ceil(left + edge)]
    # Rounding may leave the far edge a hair outside of the picture, which Pillow refuses.
    bottom, right = min(top - y + edge, around.shape[0]), min(left - x + edge, around.shape[1])
    picture = Image.fromarray(np.ascontiguousarray(around))
    return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box=(left - x, top - y, right, bottom)))


def _to_float(pixels: np.ndarray) -> Tensor:
    # In numpy: torch would start its threads for this, which costs fifty times as much on a busy machine.
    return torch.from_numpy(np.multiply(pixels.transpose(2, 0, 1), np.float32(1 / 255), dtype=np.float32, order="C"))


class ContentStyleSamples(Dataset[dict[str, Any]]):
    """Random crops of photos, each with a style drawn uniformly; all draws are a function of (seed, key)."""

    def __init__(self, photos: Sequence[ContentPhoto], styles: int, image_size: int, seed: int) -> None:
        self.photos = photos
        self.styles = styles
        self.image_size = image_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        rng = sample_rng(self.seed, key.epoch, key.index)
        style = int(rng.integers(self.styles))
        photo = self.photos[key.index]
        return {"image": random_crop(photo.load(), rng, self.image_size), "style": style, "id": photo.name}


class HeldOutPairs(Dataset[dict[str, Any]]):
    """The held-out photos' central crops, gone round until every photo and every style has had its turn."""

    def __init__(self, photos: Sequence[ContentPhoto], styles: int, image_size: int) -> None:
        self.photos = photos
        self.styles = styles
        self.image_size = image_size

    def __len__(self) -> int:
        return max(len(self.photos), self.styles)

    def __getitem__(self, index: int) -> dict[str, Any]:
        photo = self.photos[index % len(self.photos)]
        image = central_crop(photo.load(), self.image_size)
        return {"image": image, "style": index % self.styles, "id": photo.name}


@dataclass(frozen=True)
class ContentStyleSet:
    """What a data module found: photos to train on, photos held out, and styles by name.

    A style is a picture (3, H, W) float32 in [0, 1], or the file of a style pack.
    """

    train: list[ContentPhoto]
    held_out: list[ContentPhoto]
    styles: dict[str, Tensor]
    packs: dict[str, Path] = field(default_factory=dict)

    @property
    def style_names(self) -> list[str]:
        """All styles' names: the pictures', then the packs'."""
        return [*self.styles, *self.packs]


class ContentStyleData(ResumableData):
    """Batches of content photos with a style each, for training one network of many styles.

    A batch is ``image`` (B, 3, S, S) float32 in [0, 1], ``style`` (B,) int64 and ``id``, B names of photos. Every draw
    is a function of (seed, pass over the photos, photo). Reading happens once, in :meth:`setup` or when the styles are
    first asked for, before any worker is forked, so that workers share the decoded photos.
    """

    def __init__(
        self, image_size: int, style_size: int, batch_size: int, epoch_size: int | None, num_workers: int, seed: int
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.style_size = style_size
        self.batch_size = batch_size
        self.epoch_size = epoch_size
        self.num_workers = num_workers
        self.seed = seed
        self._found: ContentStyleSet | None = None

    @abstractmethod
    def find(self) -> ContentStyleSet:
        """Read the photos and the styles."""

    def setup(self, stage: str | None = None) -> None:
        """Read the photos and the styles, once. Raises :class:`UserError` for settings or files that will not do."""
        self._set()

    def _set(self) -> ContentStyleSet:
        if self._found is None:
            smallest = {"image_size": 16, "style_size": 16, "batch_size": 1, "num_workers": 0, "seed": 0}
            for name, least in smallest.items():
                if getattr(self, name) < least:
                    raise UserError(f"data.{name}={getattr(self, name)}: must be at least {least}")
            self._found = self.find()
        return self._found

    @property
    def style_names(self) -> list[str]:
        """The names of the styles, in the order of ``style`` in a batch: those of pictures, then those of packs."""
        return self._set().style_names

    def style_images(self) -> list[Tensor]:
        """Return the style pictures in the order of the names: (3, H, W) in [0, 1], shorter side ``style_size``."""
        return [shorter_side_to(image, self.style_size) for image in self._set().styles.values()]

    def style_packs(self) -> list[Path]:
        """Return the files of the style packs, whose names come after those of the pictures."""
        return list(self._set().packs.values())

    def validation_photos(self) -> list[Tensor]:
        """Return the held-out photos whole, (3, H, W) float32 in [0, 1]."""
        return [_to_float(photo.load()) for photo in self._set().held_out]

    def make_train_loader(self) -> ResumableLoader:
        """Return the loader of random crops of the training photos."""
        found = self._set()
        samples = ContentStyleSamples(found.train, len(found.style_names), self.image_size, self.seed)
        return ResumableLoader(samples, self.batch_size, self.seed, self.num_workers, self.epoch_size)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of the held-out photos: always the same crops with the same styles."""
        found = self._set()
        pairs = HeldOutPairs(found.held_out, len(found.style_names), self.image_size)
        # Without a generator of its own, every pass over it would draw from the global one.
        return DataLoader(pairs, self.batch_size, generator=torch.Generator().manual_seed(self.seed))


def shorter_side_to(image: Tensor, side: int) -> Tensor:
    """Resize (3, H, W) in [0, 1] so that its shorter side is ``side``."""
    height, width = image.shape[1:]
    if min(height, width) == side:
        return image
    size = (round(height * side / min(height, width)), round(width * side / min(height, width)))
    return F.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp_(0, 1)
