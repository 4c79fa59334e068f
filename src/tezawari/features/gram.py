"""Gram matrices: which channels of a layer fire together, wherever they do."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Normalization = Literal["chw", "hw", "none"]


def gram_matrix(features: Tensor, normalization: Normalization = "chw") -> Tensor:
    """Return the Gram matrices ``G = F Fᵀ / n`` (B, C, C) of features (B, C, H, W); Gatys et al. (2016), eq. 3.

    ``normalization``: ``"chw"`` divides by C·H·W (Johnson et al., 2016), ``"hw"`` by H·W (independent of the image's
    size, comparable between images), ``"none"`` by 1 (Gatys et al.). Raises ``ValueError`` for another word.
    """
    b, c, h, w = features.shape
    divisors = {"chw": c * h * w, "hw": h * w, "none": 1}
    if normalization not in divisors:
        raise ValueError(f"normalization is one of {', '.join(divisors)}, not {normalization!r}")
    # Channels-last features give (B, HW, C) without a copy; for others `reshape` makes one.
    rows = features.permute(0, 2, 3, 1).reshape(b, h * w, c)
    return rows.transpose(1, 2) @ rows / divisors[normalization]
