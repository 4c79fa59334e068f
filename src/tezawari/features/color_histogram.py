"""Colour histograms: which colours an image has, wherever they are."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from skimage.color import rgb2lab

ColorSpace = Literal["rgb", "lab"]

# The Lab values that sRGB can show. Wider bounds leave bins empty, and symmetric ones let grey fall on a bin's border.
_LAB_BOUNDS = ((0.0, 100.0), (-86.19, 98.24), (-107.87, 94.49))


def color_histogram(image: np.ndarray, bins: int = 8, space: ColorSpace = "lab") -> np.ndarray:
    """Return the square root of an image's joint colour histogram, (bins³,) float32 of Euclidean norm 1.

    The shares of the pixels sum to 1 (L1); the dot product of their square roots is the Bhattacharyya coefficient, so
    that a linear classifier compares colours by the Hellinger distance.

    Args:
        image: (H, W, 3) uint8 RGB.
        bins: how many each of the three channels is divided into.
        space: ``"lab"``, CIE Lab (D65) divided within what sRGB can show, or ``"rgb"``. [ours: Lab]

    Raises:
        ValueError: another shape or type, no pixels, or another space.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if space not in get_args(ColorSpace):
        raise ValueError(f"space is one of {', '.join(get_args(ColorSpace))}, not {space!r}")
    if space == "rgb":
        places = image.reshape(-1, 3).astype(np.int64) * bins // 256
    else:
        low, high = np.array(_LAB_BOUNDS, np.float32).T
        scaled = (rgb2lab(image.astype(np.float32) / 255).reshape(-1, 3) - low) / (high - low)
        places = np.clip(scaled * bins, 0, bins - 1).astype(np.int64)
    counts = np.bincount(np.ravel_multi_index(tuple(places.T), (bins,) * 3), minlength=bins**3)
    return np.sqrt(counts / len(places)).astype(np.float32)
