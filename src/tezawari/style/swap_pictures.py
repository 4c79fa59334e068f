"""Pictures of a material swap: the chain photo, region, swapped, re-segmented."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.data.sheet import draw_sheet, to_pil
from tezawari.segmentation.masks import overlay

COLUMNS = ("photo", "region", "swapped", "re-segmented")
_DIMMED = 0.25
_GREY = 0.55
_PANEL_SIDE = 400


def to_pixels(image: Tensor) -> np.ndarray:
    """Return (3, H, W) in [0, 1] as (H, W, 3) uint8, rounded as it is when it is written."""
    return np.array(to_pil(image))


def chain_panels(pixels: np.ndarray, mask: Tensor, swapped: np.ndarray, seen: np.ndarray | None) -> list[Tensor]:
    """Return the panels of :data:`COLUMNS`, each (3, H, W) in [0, 1]; without ``seen`` the last one is left out.

    Args:
        pixels: the photo (H, W, 3) uint8.
        mask: M (H, W) in [0, 1]; the rest of the photo is shown dimmed.
        swapped: the swapped photo (H, W, 3) uint8.
        seen: the mask (H, W) of the swapped photo.
    """
    photo, image = (torch.from_numpy(one).permute(2, 0, 1).float() / 255 for one in (pixels, swapped))
    dimmed = _DIMMED * photo.mean(0, keepdim=True) + (1 - _DIMMED) * _GREY
    panels = [photo, mask * photo + (1 - mask) * dimmed, image]
    if seen is not None:
        # The legend underneath is left out: panels are of one size.
        veiled = overlay(swapped, seen, ())[: pixels.shape[0], : pixels.shape[1]]
        panels.append(torch.from_numpy(np.array(veiled)).permute(2, 0, 1).float() / 255)
    return panels


def draw_chain(pixels: np.ndarray, mask: Tensor, swapped: np.ndarray, seen: np.ndarray | None) -> Tensor:
    """Draw the panels of :func:`chain_panels` in a row, each at most 400 pixels wide and high: (3, h, w) in [0, 1]."""
    panels = chain_panels(pixels, mask, swapped, seen)
    shrink = min(1.0, _PANEL_SIDE / max(panels[0].shape[-2:]))
    size = tuple(max(1, round(side * shrink)) for side in panels[0].shape[-2:])
    small = F.interpolate(torch.stack(panels), size, mode="bilinear", antialias=True, align_corners=False)
    sheet = draw_sheet([list(small)], COLUMNS[: len(panels)])
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1).float() / 255
