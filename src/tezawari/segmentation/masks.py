"""From saliency maps to masks, masks as files, and both as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import write_atomically
from tezawari.data.labelled_image import IGNORE_INDEX

# Only formats that keep every value as it is: JPEG would invent labels along each edge.
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_INTEGER_MODES = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
_RANGE_TOLERANCE = 1e-4
_MOST_CLASSES = IGNORE_INDEX - 1
_OPACITY = 0.55
# A map's largest value, 1, would be infinite odds, and so would a background of nothing.
_SUREST, _LEAST_BACKGROUND = 0.999, 1e-6
_FONT_SIZE, _CHIP, _GAP = 12, 10, 5
# Black to white through red and yellow, at equal steps.
_HEAT = np.array([(0, 0, 0), (87, 15, 109), (187, 55, 84), (249, 142, 8), (252, 220, 90), (255, 255, 255)])


def class_probabilities(maps: np.ndarray | Tensor, background: float) -> np.ndarray:
    """Turn the maps of an image's candidate classes into probabilities with the background first.

    The odds of class c against the background are ``m_c (1 − b) / (b (1 − m_c))`` for its map's value m_c and the
    background score b: map and score are compared as log-odds. So a pixel belongs to the class of its largest map where
    that exceeds b, and a map that is near 1 is sure of its class whatever the score. [ours; METHODS §3 takes 1 − the
    foreground map for the background]

    Args:
        maps: (K', H, W) in [0, 1].
        background: between 0 and 1; what calibration chose for the method that made the maps.

    Returns:
        (1 + K', H, W) float32, positive for the background, summing to 1.

    Raises:
        UserError: a background score outside of its range.
        ValueError: maps of another shape or range, or not finite.
    """
    if not _LEAST_BACKGROUND <= background < 1:
        raise UserError(f"background={background}: must lie between 0 and 1, such as 0.3")
    scores = np.asarray(maps, dtype=np.float32)
    if scores.ndim != 3:
        raise ValueError(f"maps must be (K', H, W), not {scores.shape}")
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1 + _RANGE_TOLERANCE):
        raise ValueError(f"maps must lie in [0, 1], not {scores.min():g} … {scores.max():g}")
    sure = scores.clip(0, _SUREST)
    odds = sure * np.float32((1 - background) / background) / (1 - sure)
    odds = np.concatenate([np.ones((1, *scores.shape[1:]), np.float32), odds])
    return odds / odds.sum(0)


def mask_of(probabilities: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the most probable class of every pixel as a mask (H, W) uint8: 0 background, k the class at place k − 1.

    Equal probabilities go to the background first, then to the class that is named first.

    Args:
        probabilities: (1 + K', H, W), background first.
        classes: the K' classes' places, from 0.

    Raises:
        ValueError: another number of channels, or a place that no mask can hold.
    """
    if probabilities.ndim != 3 or len(probabilities) != 1 + len(classes):
        raise ValueError(
            f"{len(classes)} classes need probabilities ({1 + len(classes)}, H, W), not {probabilities.shape}"
        )
    if any(not 0 <= place < _MOST_CLASSES for place in classes):
        raise ValueError(f"places must lie in 0 … {_MOST_CLASSES - 1}: {list(classes)}")
    values = np.array([0, *(place + 1 for place in classes)], np.uint8)
    return values[probabilities.argmax(0)]


# --- files ------------------------------------------------------------------------------------------------------------


def voc_colors() -> np.ndarray:
    """Return the colour of each mask value, (256, 3) uint8: PASCAL VOC's, black for 0 and cream for 255.

    Bit i of a value's three lowest bits, then of the next three, … fills the channels' bits from the highest down.
    """
    values = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = (values >> (3 * step + channel)) & 1
            colors[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return colors


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (H, W) of values 0 … 255 as a palette PNG in VOC's colours, whole or not at all.

    Raises:
        UserError: where the file system refuses.
        ValueError: an array that is no mask.
    """
    if mask.ndim != 2 or mask.size == 0 or mask.dtype.kind not in "iu" or mask.min() < 0 or mask.max() > IGNORE_INDEX:
        raise ValueError(f"a mask must be (H, W) integers in 0 … 255, not {mask.shape} {mask.dtype}")
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(voc_colors().tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, stream.getvalue())
    except OSError as error:
        raise UserError(f"the mask {path} could not be written: {describe_os_error(error)}") from error


def read_mask(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask as (H, W) uint8: the indices of a palette picture, or the levels of a grey one.

    Grey of 16 or 32 bits is taken where all its values fit into 0 … 255. ``size`` is the (height, width) it must have.

    Raises:
        UserError: a file that is missing, damaged, lossy or in colour, holds other values, or has another size.
    """
    if not path.is_file():
        raise UserError(f"there is no mask {path}: check the path")
    try:
        with Image.open(path, formats=_LOSSLESS) as picture:
            mode = picture.mode
            values = _values(picture)
    except Image.UnidentifiedImageError as error:
        raise UserError(
            f"the mask {path} is damaged, or of a format that does not keep every value: save it as PNG, not as JPEG"
        ) from error
    except Exception as error:  # a damaged file makes Pillow's readers raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the mask {path} cannot be read ({reason}): write it again") from error
    if values is None:
        raise UserError(
            f"the mask {path} is of kind {mode}, not palette or grey: a mask holds one class number a pixel, so save it"
            " as an indexed or an 8-bit grey PNG"
        )
    if values.min() < 0 or values.max() > IGNORE_INDEX:
        raise UserError(
            f"the mask {path} holds values from {values.min()} to {values.max()}: they must lie in 0 … {IGNORE_INDEX}"
        )
    if size is not None and values.shape != tuple(size):
        raise UserError(
            f"the mask {path} is {values.shape[1]} × {values.shape[0]} pixels, its image {size[1]} × {size[0]}: resize"
            " the mask by nearest neighbour"
        )
    return values.astype(np.uint8)


def _values(picture: Image.Image) -> np.ndarray | None:
    """Return the numbers that a picture holds, or None for one that holds more than one a pixel, or fractions."""
    if picture.mode not in _INTEGER_MODES:
        return None
    return np.asarray(picture.convert("L") if picture.mode == "1" else picture)


# --- pictures ---------------------------------------------------------------------------------------------------------


def overlay(image: np.ndarray, mask: np.ndarray, class_names: Sequence[str] | None) -> np.ndarray:
    """Lay a mask over its image in VOC's colours, with a legend of the classes in it underneath.

    Background stays as it is; what is ignored is veiled in cream.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) of values 0 … 255.
        class_names: name k is that of the value k + 1; a value without a name is shown as its number. None leaves the
            legend out.

    Returns:
        (H', W', 3) uint8, the image in its upper left corner; H' = H and W' = W where there is nothing to explain.

    Raises:
        ValueError: an image and a mask of different sizes.
    """
    if image.shape != (*mask.shape, 3):
        raise ValueError(f"image {image.shape} and mask {mask.shape} differ in size")
    colors = voc_colors()
    covered = (mask != 0)[..., None]
    mixed = (1 - _OPACITY) * image + _OPACITY * colors[mask]
    picture = np.where(covered, np.rint(mixed), image).astype(np.uint8)
    if class_names is None:
        return picture
    shown = [int(value) for value in np.unique(mask) if value not in (0, IGNORE_INDEX)]
    entries = [(class_names[value - 1] if value <= len(class_names) else str(value), colors[value]) for value in shown]
    return _with_legend(picture, entries) if entries else picture


def heat_map(saliency_map: np.ndarray | Tensor) -> np.ndarray:
    """Colour a map (H, W) from black at 0 through red and yellow to white at 1, as (H, W, 3) uint8.

    Values outside of [0, 1] have the colour of the nearer end. Brightness rises with the value: it reads in grey too.
    """
    values = np.clip(np.asarray(saliency_map, dtype=np.float64), 0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    channels = [np.interp(values, steps, _HEAT[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _with_legend(picture: np.ndarray, entries: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Put a strip with a chip of colour and a name for each entry under a picture, in as many lines as it needs."""
    font = ImageFont.load_default(_FONT_SIZE)
    # Pillow's own font has no letters beyond Latin-1.
    names = [name.encode("latin-1", "replace").decode("latin-1") for name, _ in entries]
    widths = [_CHIP + 3 * _GAP + int(np.ceil(font.getlength(name))) for name in names]
    height, width = picture.shape[:2]
    total = max(width, _GAP + max(widths))
    line = _FONT_SIZE + _GAP
    places, left, top = [], _GAP, height + _GAP
    for needed in widths:
        if left > _GAP and left + needed > total:
            left, top = _GAP, top + line
        places.append((left, top))
        left += needed
    sheet = Image.new("RGB", (total, top + line), "white")
    sheet.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (x, y), name, (_, color) in zip(places, names, entries):
        draw.rectangle((x, y + 2, x + _CHIP - 1, y + 1 + _CHIP), fill=tuple(int(level) for level in color))
        draw.text((x + _CHIP + _GAP, y), name, "black", font)
    return np.asarray(sheet)
