"""Painted scenes of materials with labels and masks: nothing is downloaded."""

from __future__ import annotations

import functools

import numpy as np

from tezawari.core.errors import UserError
from tezawari.data.labelled import LabelledData, LabelledSet, Supervision
from tezawari.data.labelled_image import LabelledImage
from tezawari.data.materials import MATERIALS, material_scene, scene_mask

# The paintings are the same for every run: only what is drawn from them depends on a run's seed.
_SCENE_SEEDS = {"train": 1, "val": 2}
# A material of fewer pixels than this share of a scene does not count as shown in it.
_SMALLEST_SHARE = 0.01


class ScenesData(LabelledData):
    """Scenes of two to four of the ten :data:`~tezawari.data.materials.MATERIALS` in front of a plain backdrop.

    The scenes are ``image_size`` pixels wide and high. A scene's labels are the materials that cover at least 1 % of
    it [ours]; its mask is what was painted where, to the pixel.

    Raises :class:`UserError` for less than one scene to train on or to hold out.
    """

    def __init__(
        self,
        train_scenes: int = 160,
        val_scenes: int = 40,
        supervision: Supervision = "labels",
        image_size: int = 160,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(supervision, image_size, batch_size, epoch_size, num_workers, seed)
        self.train_scenes = train_scenes
        self.val_scenes = val_scenes

    def find(self) -> LabelledSet:
        """Lay the scenes out; each is painted when it is first asked for."""
        for name in ("train_scenes", "val_scenes"):
            if getattr(self, name) < 1:
                raise UserError(f"data.{name}={getattr(self, name)}: must be at least 1")
        train = [_scene("train", number, self.image_size) for number in range(self.train_scenes)]
        return LabelledSet(
            list(MATERIALS), train, [_scene("val", number, self.image_size) for number in range(self.val_scenes)]
        )


# Painting takes a third of a second a scene, and a sweep builds its data once a run.
@functools.lru_cache(maxsize=1024)
def _painted(split: str, number: int, size: int) -> np.ndarray:
    image, _ = material_scene(_SCENE_SEEDS[split], number, size)
    return np.ascontiguousarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())


def _scene(split: str, number: int, size: int) -> LabelledImage:
    values = scene_mask(_SCENE_SEEDS[split], number, size).numpy().astype(np.uint8)
    shares = np.bincount(values.ravel(), minlength=len(MATERIALS) + 1)[1:] / values.size
    labels = tuple(int(place) for place in np.flatnonzero(shares >= _SMALLEST_SHARE))
    return LabelledImage(f"{split}{number}", labels, functools.partial(_painted, split, number, size), values)
