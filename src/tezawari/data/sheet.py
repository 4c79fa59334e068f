"""Sheets of pictures: rows and columns with names, small enough to keep."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

_GAP = 4
_LABEL_HEIGHT = 18


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
    draw = ImageDraw.Draw(sheet)
    names = [name.encode("latin-1", "replace").decode("latin-1") for name in columns]
    font = _fitting_font(names, width)
    for column, name in enumerate(names):
        draw.text((_GAP + column * across, 2), name, "black", font)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(to_pil(picture), (_GAP + column * across, _GAP + _LABEL_HEIGHT + row * down))
    return sheet


def _fitting_font(names: Sequence[str], width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the largest font under which no name runs into its neighbour's column; the smallest where none fits."""
    fonts = [ImageFont.load_default(size) for size in range(12, 7, -1)]
    return next((font for font in fonts if max(map(font.getlength, names)) <= width), fonts[-1])


def encode_jpeg(picture: Image.Image, most_bytes: int) -> bytes:
    """Encode as the best JPEG of at most ``most_bytes``, or the smallest there is."""
    for quality in range(92, 30, -6):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= most_bytes:
            break
    return stream.getvalue()
