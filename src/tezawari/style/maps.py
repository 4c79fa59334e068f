"""Spatial styles: which style goes where, from a painted label image or from one grey map per style (METHODS §6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from tezawari.core.errors import UserError


def map_from_labels(labels: Tensor, vectors: Tensor) -> Tensor:
    """Return the style map (S, H, W) that has row k of ``vectors`` (K, S) wherever ``labels`` (H, W) is the integer k.

    Raises ``IndexError`` for a label outside [0, K).
    """
    return vectors[labels.long()].permute(2, 0, 1).contiguous()


def map_from_greys(greys: Tensor, vectors: Tensor) -> Tensor:
    """Return the style map (S, H, W) that adds up the rows of ``vectors`` (K, S) weighted by ``greys`` (K, H, W)."""
    return torch.einsum("khw,ks->shw", greys, vectors)


def feather(style_map: Tensor, sigma: float) -> Tensor:
    """Soften the borders of a map (S, H, W) by a Gaussian of ``sigma`` pixels (0: as it is).

    The map goes on as its border pixels beyond the image, and a constant map stays as it is. Where the weights sum to
    one number throughout the Gaussian's reach (3 σ) they still do; a map that sums to 1 everywhere does so exactly.
    Raises ``ValueError`` for a negative σ.
    """
    if sigma < 0:
        raise ValueError(f"a border cannot be softened by {sigma} pixels")
    if sigma == 0:
        return style_map
    kernel = _gaussian(sigma).to(style_map)
    soft = _blur_rows(_blur_rows(style_map, kernel).transpose(1, 2), kernel).transpose(1, 2)
    total = style_map.sum(0)
    if torch.allclose(total, torch.ones_like(total), atol=1e-4):
        soft = soft / soft.sum(0)
    return soft.contiguous()


def read_style_map(
    paths: Sequence[str | Path],
    vectors: Tensor,
    size: tuple[int, int],
    *,
    feather_px: float = 0.0,
    stride: int = 1,
) -> Tensor:
    """Read a style map (S, ⌈H/stride⌉, ⌈W/stride⌉) for a photo of ``size`` (H, W).

    ``vectors`` (K, S) are the asked styles (``mixing.parse_styles``). As many files as asked styles: file k is a grey
    map whose white is the whole of row k and whose black is none of it. One file and K > 1: a label image, palette or
    grey. If all its values are below K, value k is style k; else its distinct values in rising order must be K in
    number and are the styles in the order asked (black, white: first, second). ``feather_px`` is the σ of soft borders
    in the photo's pixels. ``stride`` averages over squares as it reads: ask for the network's bottleneck stride, and a
    24-megapixel photo's map costs little.

    Raises ``UserError`` for a file that is no image, is coloured, is not of the photo's size or has other values
    than asked styles, for another number of files, and for a negative ``feather_px``.
    """
    if feather_px < 0 or not math.isfinite(feather_px):
        raise UserError(f"soft borders are 0 or more pixels wide, not {feather_px:g}")
    asked = len(vectors)
    if len(paths) == asked:
        greys = torch.stack([_shrink(_read_grey(Path(path), size), stride) for path in paths])
    elif len(paths) == 1:
        labels = _read_labels(Path(paths[0]), asked, size)
        greys = torch.stack([_shrink(labels == k, stride) for k in range(asked)])
    else:
        raise UserError(
            f"{len(paths)} style maps for {asked} styles: give one label image, or one grey map for each style in order"
        )
    return map_from_greys(feather(greys, feather_px / stride), vectors)


def _read_grey(path: Path, size: tuple[int, int]) -> Tensor:
    """Read a grey map, (H, W) in [0, 1]."""
    values = _read_values(path, size)
    if values.dtype == np.bool_:
        return torch.from_numpy(values).float()
    # Pillow hands 16-bit greys over as 16 or as 32 bits, by version and format.
    deep = values.dtype != np.uint8
    return torch.from_numpy(values.astype(np.float32) / (65535 if deep else 255))


def _read_labels(path: Path, asked: int, size: tuple[int, int]) -> Tensor:
    """Read a label image as indices of asked styles, (H, W) int64 in [0, asked)."""
    values = _read_values(path, size, palette=True).astype(np.int64)
    distinct, ranks = np.unique(values, return_inverse=True)
    if distinct[-1] < asked:
        return torch.from_numpy(values)
    if len(distinct) != asked:
        raise UserError(
            f"{path}: the style map has {len(distinct)} different values for {asked} styles: paint it with exactly "
            f"{asked} greys, hard-edged, as PNG (or ask for one style per value)"
        )
    return torch.from_numpy(ranks.reshape(values.shape))


def _read_values(path: Path, size: tuple[int, int], *, palette: bool = False) -> np.ndarray:
    """Read the single channel of an image of ``size`` (H, W): grey values, or palette indices if ``palette``."""
    try:
        with Image.open(path) as opened:
            # The size is in the header: refuse before decoding, however large the file claims to be.
            turned = opened.getexif().get(0x0112, 1) >= 5
            height, width = opened.size if turned else opened.size[::-1]
            if (height, width) != size:
                raise UserError(
                    f"{path}: the style map is {width}×{height} pixels and the photo is {size[1]}×{size[0]}: "
                    f"resize the map to {size[1]}×{size[0]}"
                )
            image = ImageOps.exif_transpose(opened)
            if image.mode == "P" and not palette:
                image = image.convert("RGB")
            values = np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such style map") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the style map cannot be read as an image ({error})") from None
    if values.ndim == 3:
        channels = values[..., : 3 if values.shape[-1] >= 3 else 1]
        if (channels != channels[..., :1]).any():
            raise UserError(f"{path}: the style map is coloured: save it as a grey or palette PNG")
        values = channels[..., 0]
    return values


def _shrink(values: Tensor, stride: int) -> Tensor:
    height, width = values.shape
    if stride == 1:
        return values.float()
    rows = -(-height // stride)
    # Strips of whole squares: no floating copy of the whole map is ever made.
    padded_width = -(-width // stride) * stride
    out = torch.empty(rows, padded_width // stride)
    for row in range(rows):
        strip = values[row * stride : (row + 1) * stride].float()
        strip = F.pad(strip[None], (0, padded_width - width, 0, 0), mode="replicate")[0]
        out[row] = strip.view(strip.shape[0], -1, stride).mean((0, 2))
    return out


def _gaussian(sigma: float) -> Tensor:
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    # Divided first: the square of a very small σ is 0.
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    return kernel / kernel.sum()


def _blur_rows(maps: Tensor, kernel: Tensor) -> Tensor:
    """Blur (K, H, W) along W, the border pixels going on for ever."""
    radius = len(kernel) // 2
    rows = maps.reshape(-1, 1, maps.shape[-1])
    return F.conv1d(F.pad(rows, (radius, radius), mode="replicate"), kernel.view(1, 1, -1)).reshape(maps.shape)
