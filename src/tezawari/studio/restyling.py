"""Restyling as the studio does it: a mix of styles from sliders, styles painted on regions, photos kept in places."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tezawari.core.errors import UserError
from tezawari.data.photo import Photo, load_rgb, photo_suffix, read_photo, write_photo
from tezawari.studio.job_work import Bench, write_jpeg
from tezawari.studio.jobs import Report
from tezawari.style.maps import feather, map_from_greys
from tezawari.style.mixing import one_hot
from tezawari.style.stylize import Stylizer

KEEP_PAINT = 255
"""The label of a painted map where the photo stays as it is; 0 is the mix of the sliders, k the k-th style alone."""

_PREVIEW_SIDE = 640
_STYLE_SIDE = 160


def restyle_photo(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Restyle a photo by a mix of styles, or by a painted map; at the size of a preview or in full."""
    stored = bench.photo(request["photo"])
    report("restyling", 0, 1)
    if request["full"]:
        photo = read_photo(stored.path)
    else:
        photo = Photo(load_rgb(stored.path, max_side=_PREVIEW_SIDE).float() / 255, format="JPEG")
    stylizer = load_stylizer(bench.settings.checkpoint)
    mix = torch.tensor([request["weights"].get(name, 0.0) for name in stylizer.style_names], dtype=torch.float32)
    labels = bench.uploads.map_labels(request["map"], stored) if request["map"] else None
    if request["map"] and labels is None:
        raise UserError("the painted map is gone: paint again")
    image = restyle(stylizer, photo.image, mix, labels, request["feather"], request["keep_color"], report)
    path = write_photo(folder / f"restyled{photo_suffix(photo)}", image, photo)
    return {"files": [path.name], "width": int(image.shape[-1]), "height": int(image.shape[-2])}


def show_styles(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Restyle a small square of a photo in every style, for the sliders."""
    image = load_rgb(bench.photo(request["photo"]).preview, max_short_side=_STYLE_SIDE).float() / 255
    top, left = ((side - _STYLE_SIDE) // 2 for side in image.shape[-2:])
    tile = image[:, max(0, top) : max(0, top) + _STYLE_SIDE, max(0, left) : max(0, left) + _STYLE_SIDE]
    stylizer = load_stylizer(bench.settings.checkpoint)
    names = stylizer.style_names
    files = []
    for number, name in enumerate(names):
        report("restyling", number, len(names))
        restyled = stylizer(tile, stylizer.mix(name))
        files.append(write_jpeg(folder / f"style-{number}.jpg", _pixels(restyled)))
    return {"files": files, "names": names}


def restyle(
    stylizer: Stylizer,
    image: Tensor,
    mix: Tensor,
    labels: np.ndarray | None,
    softness: float,
    keep_color: bool,
    report: Report,
) -> Tensor:
    """Restyle a photo by a mix and a painted map; where neither asks for a style, the photo stays as it is.

    Args:
        stylizer: the network.
        image: (3, H, W) in [0, 1].
        mix: the sliders' weights (S,), non-negative, perhaps all 0.
        labels: (h, w) uint8 of any size in the photo's shape, or None: 0 takes the mix, k the k-th style alone,
            :data:`KEEP_PAINT` the photo itself; other values count as 0.
        softness: σ of the borders, as a share of the photo's longer side.
        keep_color: keep the photo's own colours.
        report: called with tiles done.

    Returns:
        (3, H, W) in [0, 1]. [ours]
    """
    tiles = functools.partial(report, "restyling")
    if labels is None:
        return stylizer(image, mix, keep_color, tiles) if float(mix.sum()) > 0 else image
    count, (height, width) = len(mix), image.shape[-2:]
    paints = torch.from_numpy(labels.astype(np.int64))
    paints = torch.where((paints > count) & (paints != KEEP_PAINT), 0, paints)
    stride = stylizer.trained.network.bottleneck_stride
    cells = (-(-height // stride), -(-width // stride))
    kept = paints == KEEP_PAINT
    if float(mix.sum()) == 0:
        kept |= paints == 0
    used = [number for number in torch.unique(paints).tolist() if number != KEEP_PAINT]
    if bool(kept.all()):
        return image
    greys = torch.stack([_resized((paints == number).float(), cells) for number in used])
    rows = torch.stack([mix if number == 0 else one_hot(number - 1, count) for number in used])
    # What is kept has no style of its own: the styles around it go on beneath, so that a soft border blends into them.
    style_map = feather(map_from_greys(greys, rows), softness * max(cells))
    total = style_map.sum(0)
    style_map = torch.where(total > 1e-3, style_map, rows.mean(0)[:, None, None])
    restyled = stylizer(image, style_map, keep_color, tiles)
    if not bool(kept.any()):
        return restyled
    share = feather(_resized(kept.float(), (height, width))[None], min(softness * max(height, width), 64.0))
    return restyled * (1 - share) + image * share


def _resized(grey: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(grey[None, None], size, mode="bilinear", antialias=True, align_corners=False)[0, 0]


def _pixels(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@functools.cache
def load_stylizer(checkpoint: Path | None) -> Stylizer:
    """Read a style network once; None is the one of the package. Raises what :meth:`Stylizer.load` does."""
    return Stylizer.load(checkpoint)
