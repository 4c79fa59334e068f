"""Contact sheets: photos down, styles across, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tezawari.data.sheet import draw_sheet, square
from tezawari.style.package import LoadedNetwork
from tezawari.style.tiling import stylize_image

_JPEG_QUALITY = 85


def save_contact_sheet(
    path: Path,
    trained: LoadedNetwork,
    photos: Sequence[Tensor],
    style_images: Sequence[Tensor] = (),
    side: int = 256,
) -> Path:
    """Draw photos down, styles across and one mix of all of them last; return the path.

    Args:
        path: the PNG or JPEG to write.
        trained: the network and its style names.
        photos: ``(3, H, W)`` RGB in [0, 1]; their central squares are used.
        style_images: the style pictures, drawn as a first row where given, in the order of the names.
        side: side of each picture, in pixels.
    """
    count = len(trained.style_names)
    conditions = [*torch.eye(count), torch.full((count,), 1 / count)]
    rows = []
    if len(style_images) == count:
        blank = torch.ones(3, side, side)
        rows.append([blank, *(square(image, side) for image in style_images), blank])
    for photo in photos:
        content = square(photo, side)
        rows.append([content, *(stylize_image(trained.network, content, style) for style in conditions)])
    draw_sheet(rows, ["photo", *trained.style_names, "mix of all"]).save(path, optimize=True, quality=_JPEG_QUALITY)
    return path
