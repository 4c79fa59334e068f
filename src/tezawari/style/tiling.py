"""Restyling of photos of any size within bounded memory, without seams."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.style.inference import DeployedNetwork
from tezawari.style.network import ConditionalNetwork, map_cells

TILE = 768
"""Side, in pixels, of what one tile adds to the picture; with its overlap it takes about 600 MB."""


@torch.inference_mode()
def stylize_image(
    network: ConditionalNetwork | DeployedNetwork,
    content_image: Tensor,
    style: Tensor,
    tile: int = TILE,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Restyle one photo, tile by tile where it is larger than a tile.

    Each tile is computed with as much of its surroundings as the network sees, so that with batch normalisation the
    result is the untiled one, to rounding. With instance normalisation all tiles use the moments of the photo reduced
    to one tile's size, so that they fit each other, but differ a little from the untiled result.

    Args:
        network: in evaluation mode.
        content_image: ``(3, H, W)`` RGB in [0, 1], at least 16 pixels each way.
        style: style weights ``(S,)`` or a style map ``(S, h, w)`` of any resolution.
        tile: side of a tile in pixels.
        progress: called with (tiles done, tiles in all).

    Returns:
        ``(3, H, W)`` RGB in [0, 1].
    """
    height, width = content_image.shape[-2:]
    if max(height, width) <= tile + 2 * network.receptive_radius:
        return _run(network, content_image, style)[0]
    stride = network.bottleneck_stride
    step = max(stride, tile // stride * stride)
    overlap = -(-network.receptive_radius // stride) * stride
    cells = style if style.dim() == 1 else map_cells(style[None], height, width, stride)[0]
    corners = [(top, left) for top in range(0, height, step) for left in range(0, width, step)]
    stylized = torch.empty_like(content_image)
    with network.moments_of(*_reduced(content_image, style, tile)):
        for done, (top, left) in enumerate(corners, start=1):
            y0, x0 = max(0, top - overlap), max(0, left - overlap)
            y1, x1 = min(height, top + step + overlap), min(width, left + step + overlap)
            part = (
                cells
                if cells.dim() == 1
                else cells[:, y0 // stride : -(-y1 // stride), x0 // stride : -(-x1 // stride)]
            )
            restyled = _run(network, content_image[:, y0:y1, x0:x1], part)[0]
            bottom, right = min(height, top + step), min(width, left + step)
            stylized[:, top:bottom, left:right] = restyled[:, top - y0 : bottom - y0, left - x0 : right - x0]
            if progress is not None:
                progress(done, len(corners))
    return stylized


def _run(network: ConditionalNetwork | DeployedNetwork, image: Tensor, style: Tensor) -> Tensor:
    return network(image[None].contiguous(memory_format=torch.channels_last), style[None])


def _reduced(image: Tensor, style: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the photo with its longer side reduced to ``side``, and the style, each as a batch of one."""
    scale = side / max(image.shape[-2:])
    small = F.interpolate(image[None], scale_factor=scale, mode="area")
    return small, style[None]
