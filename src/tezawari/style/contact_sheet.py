"""Contact sheets: photos down, styles across, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from tezawari.style.package import LoadedNetwork
from tezawari.style.tiling import stylize_image

_GAP = 4
_LABEL_HEIGHT = 18
_JPEG_QUALITY = 85


def to_pil(image: Tensor) -> Image.Image:
    """Turn ``(3, H, W)`` RGB in [0, 1] into an 8-bit picture."""
    levels = image.detach().clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy()))


def square(image: Tensor, side: int) -> Tensor:
    """Return the central square of ``(3, H, W)``, resized to ``side``."""
    edge = min(image.shape[-2:])
    top, left = (image.shape[-2] - edge) // 2, (image.shape[-1] - edge) // 2
    crop = image[None, :, top : top + edge, left : left + edge]
    return F.interpolate(crop, (side, side), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def draw_sheet(rows: Sequence[Sequence[Tensor]], columns: Sequence[str]) -> Image.Image:
    """Lay out equal pictures ``(3, H, W)`` in [0, 1] as a grid with a name over each column."""
    height, width = rows[0][0].shape[-2:]
    across, down = width + _GAP, height + _GAP
    sheet = Image.new("RGB", (across * len(columns) + _GAP, down * len(rows) + _GAP + _LABEL_HEIGHT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for column, name in enumerate(columns):
        draw.text((_GAP + column * across, 2), name.encode("latin-1", "replace").decode("latin-1"), "black", font)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(to_pil(picture), (_GAP + column * across, _GAP + _LABEL_HEIGHT + row * down))
    return sheet


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
