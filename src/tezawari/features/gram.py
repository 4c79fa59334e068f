"""Gram matrices: which channels of a layer fire together, wherever they do."""

from __future__ import annotations

from typing import Any, Literal

import torch
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
    gram: Tensor = _Products.apply(rows)
    return gram / divisors[normalization]


class _Products(torch.autograd.Function):
    """``Rᵀ R`` of rows (B, N, C), whose gradient is one product, R (S + Sᵀ): autograd makes two and adds them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.transpose(1, 2) @ rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows @ (gradient + gradient.transpose(1, 2)).to(rows.dtype)
