"""Many styles to learn from, so that a network learns what a style is, and some that it never sees."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.package_photos import package_photo
from tezawari.core.seeding import epoch_order
from tezawari.data.content_style import ContentStyleData, ContentStyleSet
from tezawari.data.materials import MATERIALS, material_texture
from tezawari.data.photo import load_rgb
from tezawari.data.sample import SampleData

# Of tezawari.core.package_photos: pictures of one texture each.
_PHOTOGRAPHED = ("brick", "grass", "gravel", "hubble", "ihc", "retina")
# A warm and a cool material, one smooth and one grained, and photographs unlike any painting.
DEFAULT_HELD_OUT = ("leather", "water", "ihc", "retina")
_HELD_OUT_PAINTINGS = 2
_GAMMA_SPREAD = 0.25


class StylePoolData(ContentStyleData):
    """The photos of :class:`~tezawari.data.sample.SampleData`, and hundreds of styles that need no download.

    ``paintings`` of each material of :data:`~tezawari.data.materials.MATERIALS`, each of a seed of its own, and the
    textures that scikit-image carries. ``held_out`` names those of either kind that are not trained on (None is
    :data:`DEFAULT_HELD_OUT`); of a material all paintings are held out, and two are looked at. [ours]

    Raises :class:`UserError` for an unknown name, where nothing is held out or nothing is left, and for less than one
    painting.
    """

    def __init__(
        self,
        paintings: int = 20,
        held_out: list[str] | None = None,
        scenes: int = 6,
        image_size: int = 128,
        style_size: int = 192,
        batch_size: int = 4,
        epoch_size: int | None = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(image_size, style_size, batch_size, epoch_size, num_workers, seed)
        self.paintings = paintings
        self.held_out = sorted(set(DEFAULT_HELD_OUT if held_out is None else held_out))
        self.scenes = scenes

    def find(self) -> ContentStyleSet:
        """Read the packages' photos and paint the rest."""
        known = [*MATERIALS, *_PHOTOGRAPHED]
        for name in self.held_out:
            if name not in known:
                raise UserError(f"data.held_out: no style of the pool is called {name!r}{did_you_mean(name, known)}")
        if not 0 < len(self.held_out) < len(known):
            raise UserError(f"data.held_out: name some of {', '.join(sorted(known))}, and not all")
        if self.paintings < 1:
            raise UserError(f"data.paintings={self.paintings}: must be at least 1")
        photos = SampleData(["paper"], self.scenes, self.image_size, style_size=16).find()
        styles = {}
        for material in MATERIALS:
            count = _HELD_OUT_PAINTINGS if material in self.held_out else self.paintings
            styles.update(
                {f"{material}{number}": _painted(material, number, self.style_size) for number in range(count)}
            )
        for name in _PHOTOGRAPHED:
            styles[name] = load_rgb(package_photo(name), max_short_side=2 * self.style_size).float().div_(255)
        return ContentStyleSet(photos.train, photos.held_out, styles)

    def held_out_styles(self) -> list[str]:
        """Return the names of the styles that are not trained on."""
        return [name for name in self.style_names if name.rstrip("0123456789") in self.held_out]


def split_styles(data: ContentStyleData, share: float) -> tuple[list[str], list[str]]:
    """Return the names of the styles to train on, and of those held out.

    A pool knows its own; of other data ``share`` of the styles are held out, at least one, chosen by the data's seed.

    Raises:
        UserError: fewer than two styles, or a share that is not between 0 and 1.
    """
    names = data.style_names
    if isinstance(data, StylePoolData):
        held_out = set(data.held_out_styles())
    else:
        if not 0 < share < 1:
            raise UserError(f"model.held_out_share={share:g}: must lie between 0 and 1")
        if len(names) < 2:
            raise UserError(
                f"the data have {len(names)} style, and one must be held out: add styles, the more the better"
            )
        count = min(max(1, round(len(names) * share)), len(names) - 1)
        held_out = {names[int(place)] for place in epoch_order(data.seed, 0, len(names))[:count]}
    return [name for name in names if name not in held_out], [name for name in names if name in held_out]


def random_style(image: Tensor, rng: np.random.Generator, side: int, recolor: float) -> Tensor:
    """Cut a square from a style (3, H, W) uint8 at random, not scaled; return it as (3, side, side) float32 in [0, 1].

    A style smaller than ``side`` is repeated by reflection. Every other one is mirrored, and ``recolor`` of them get
    other colours: their channels change places, and each its gamma. A pool of few palettes then has many. [ours]
    """
    height, width = image.shape[-2:]
    top, left = (int(rng.integers(max(1, size - side + 1))) for size in (height, width))
    crop = image[:, _reflected(top, side, height)][..., _reflected(left, side, width)]
    style = crop.float().div_(255)
    if rng.random() < 0.5:
        style = style.flip(-1)
    if rng.random() < recolor:
        gammas = [math.exp(exponent) for exponent in rng.normal(0, _GAMMA_SPREAD, 3)]
        style = style[torch.from_numpy(rng.permutation(3))].pow_(torch.tensor(gammas)[:, None, None])
    return style


def _reflected(first: int, count: int, size: int) -> Sequence[int]:
    """Return ``count`` places from ``first`` on along a side of ``size`` pixels, turning round at its ends."""
    around = torch.arange(first, first + count) % max(1, 2 * size - 2)
    return torch.minimum(around, 2 * size - 2 - around).clamp_min(0).tolist()


# Painting takes a twentieth of a second a texture, and a sweep builds its data once a run.
@functools.lru_cache(maxsize=512)
def _painted(name: str, seed: int, size: int) -> Tensor:
    return material_texture(name, seed, size)
