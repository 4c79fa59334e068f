"""Painted textures, one material an image: nothing is downloaded."""

from __future__ import annotations

import functools

import numpy as np

from tezawari.core.errors import UserError
from tezawari.data.labelled import LabelledData, LabelledSet
from tezawari.data.labelled_image import LabelledImage
from tezawari.data.materials import MATERIALS, material_texture


class TexturesData(LabelledData):
    """Pictures that one of the ten :data:`~tezawari.data.materials.MATERIALS` fills, one label an image, no masks.

    Each is painted by a seed of its own, which chooses palette and layout; seeds of held-out pictures never paint one
    to train on. The pictures are ``image_size`` pixels wide and high, and the same for every ``seed``, on which only
    what is drawn from them depends. [ours: they are drawn, so that accuracy on them says that training works and
    nothing about photographs]

    Args:
        train_textures: of each material.
        val_textures: of each material.
        image_size, batch_size, epoch_size, num_workers, seed: :class:`~tezawari.data.labelled.LabelledData`'s.

    Raises:
        UserError: less than one texture of each material to train on or to hold out.
    """

    def __init__(
        self,
        train_textures: int = 12,
        val_textures: int = 4,
        image_size: int = 160,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__("labels", image_size, batch_size, epoch_size, num_workers, seed)
        self.train_textures = train_textures
        self.val_textures = val_textures

    def find(self) -> LabelledSet:
        """Name the textures; each is painted when it is first asked for."""
        for name in ("train_textures", "val_textures"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)}: must be at least 1")
        # Even seeds to train on, odd ones held out: more of either leaves the others as they are.
        train = self._textures("train", range(0, 2 * self.train_textures, 2))
        val = self._textures("val", range(1, 2 * self.val_textures, 2))
        return LabelledSet(list(MATERIALS), train, val)

    def _textures(self, split: str, seeds: range) -> list[LabelledImage]:
        return [
            LabelledImage(f"{split}/{name}{seed}", (place,), functools.partial(_painted, name, seed, self.image_size))
            for place, name in enumerate(MATERIALS)
            for seed in seeds
        ]


# Painting takes a tenth of a second a texture, and a sweep builds its data once a run.
@functools.lru_cache(maxsize=1024)
def _painted(name: str, seed: int, size: int) -> np.ndarray:
    image = material_texture(name, seed, size)
    return np.ascontiguousarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())
