"""Data that needs no download: photos that installed packages carry, and materials from a generator."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.package_photos import package_photo
from tezawari.data.content_style import KEPT_SCALE, ContentPhoto, ContentStyleData, ContentStyleSet, decode
from tezawari.data.materials import MATERIALS, material_scene, material_texture
from tezawari.data.photo import load_rgb

# Names of photographs of tezawari.core.package_photos.
_TRAIN = ("astronaut", "camera", "coffee", "flower", "motorcycle", "rocket")
_HELD_OUT = ("chelsea", "china")
_STYLES = ("brick", "grass", "gravel", "hubble", "ihc", "retina")
# Plainly different from each other in colour and in texture, and none of them grey.
DEFAULT_STYLES = ("fabric", "foliage", "glass", "ihc", "paper", "plastic", "water", "wood")
# The paintings are the same for every run: only what is drawn from them depends on a run's seed.
_TEXTURE_SEED = 1
_SCENE_SEED = 0


class SampleData(ContentStyleData):
    """Six photographs and ``scenes`` generated scenes to train on, two and two held out, and a choice of styles.

    ``styles`` names them out of the ten materials of :data:`~tezawari.data.materials.MATERIALS` and brick, grass,
    gravel, hubble, ihc and retina; None is :data:`DEFAULT_STYLES`.

    Raises :class:`UserError` for an unknown style, or where an installed package no longer carries a photo.
    """

    def __init__(
        self,
        styles: list[str] | None = None,
        scenes: int = 6,
        image_size: int = 256,
        style_size: int = 384,
        batch_size: int = 4,
        epoch_size: int | None = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, style_size, batch_size, epoch_size, num_workers, seed)
        self.styles = sorted(set(DEFAULT_STYLES if styles is None else styles))
        self.scenes = scenes

    def find(self) -> ContentStyleSet:
        """Read the packages' photos and paint the rest."""
        known = [*MATERIALS, *_STYLES]
        for name in self.styles:
            if name not in known:
                raise UserError(f"data.styles: no sample style is called {name!r}{did_you_mean(name, known)}")
        if not self.styles:
            raise UserError(f"data.styles: name at least one of {', '.join(sorted(known))}")
        if self.scenes < 0:
            raise UserError(f"data.scenes={self.scenes}: must be at least 0")
        train = [self._photo(name) for name in _TRAIN] + [self._scene(number) for number in range(2, self.scenes + 2)]
        held_out = [self._photo(name) for name in _HELD_OUT] + [self._scene(number) for number in range(2)]
        return ContentStyleSet(train, held_out, {name: self._style(name) for name in self.styles})

    def _photo(self, name: str) -> ContentPhoto:
        return ContentPhoto(name, decode(_file(name), KEPT_SCALE * self.image_size))

    def _scene(self, number: int) -> ContentPhoto:
        return ContentPhoto(f"scene{number}", _paint_scene(number, round(1.25 * self.image_size)))

    def _style(self, name: str) -> Tensor:
        if name in MATERIALS:
            return _paint_style(name, self.style_size)
        return load_rgb(_file(name), max_short_side=2 * self.style_size).float().div_(255)


# Painting takes a third of a second a picture, and a sweep builds its data once a run.
@functools.lru_cache(maxsize=64)
def _paint_scene(number: int, size: int) -> np.ndarray:
    image, _ = material_scene(_SCENE_SEED, number, size)
    return np.ascontiguousarray(image.mul(255).round().byte().permute(1, 2, 0).numpy())


@functools.lru_cache(maxsize=32)
def _paint_style(name: str, size: int) -> Tensor:
    return material_texture(name, _TEXTURE_SEED, size)


def _file(name: str) -> Path:
    try:
        return package_photo(name)
    except UserError as error:
        raise UserError(f"{error}, or take data=images") from error
