"""A contact sheet of a word: its first images in the order of the search, and of each pass of the ranking."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tezawari.collect.export import safe_name
from tezawari.collect.store import Store
from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import written_aside

FOLDER = "sheets"

_COLUMNS = 10
_SIDE = 128
_GAP = 4
_LABEL_WIDTH = 64
_CAPTION_HEIGHT = 16
_FRAME = 4
_ANNOTATED = {True: "#188038", False: "#c5221f"}
_SHORTEST_ID = 8


def save_contact_sheet(store: Store, word: str) -> Path:
    """Draw the first ten images of a word, a row for the search and for each pass; return the PNG in the store.

    The rows of passes are what an export of that pass would begin with: annotated positives first, no negatives.
    Images are cut to their central squares. Under each is its short id (:func:`short_ids`), by which it can be
    annotated; annotated positives are framed in green, negatives in red.

    Raises:
        UserError: an unknown word, an image file that is gone or damaged, or a disk that will not take the sheet.
    """
    images = store.images_of(word)
    noted, ids = store.annotations(word), short_ids([image.sha256 for image in images])
    rows = [("search", images[:_COLUMNS])]
    for ranked in store.rankings(word):
        rows.append((f"pass {ranked.number}", store.best_images(word, ranked.number)[:_COLUMNS]))
    sheet = draw_rows(
        [
            (label, [Tile(_square(image.path), ids[image.sha256], noted.get(image.sha256)) for image in some])
            for label, some in rows
        ]
    )
    file = store.folder / FOLDER / f"{safe_name(word)}.png"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(file, file.with_name(f".{os.getpid()}.writing")) as stream:
            sheet.save(stream, "PNG")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {describe_os_error(error)}; what is stored is kept") from error
    return file


def short_ids(names: Collection[str]) -> dict[str, str]:
    """Return for each SHA-256 its first letters: eight, or as many more as tell all of them apart."""
    length = _SHORTEST_ID
    while len({name[:length] for name in names}) < len(set(names)):
        length += 1
    return {name: name[:length] for name in names}


@dataclass(frozen=True)
class Tile:
    """A picture of 128 × 128 on a sheet, what stands under it, and whether it is annotated as positive or negative."""

    picture: Image.Image
    caption: str
    annotated: bool | None


def draw_rows(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Lay out tiles in rows of ten places, each row with its name before it."""
    across, down = _SIDE + _GAP, _SIDE + _CAPTION_HEIGHT + _GAP
    sheet = Image.new("RGB", (_LABEL_WIDTH + _COLUMNS * across + _GAP, len(rows) * down + _GAP), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(12)
    for row, (label, tiles) in enumerate(rows):
        top = _GAP + row * down
        draw.text((_GAP, top + _SIDE // 2), label, "black", font, anchor="lm")
        for column, tile in enumerate(tiles):
            left = _LABEL_WIDTH + column * across
            sheet.paste(tile.picture, (left, top))
            color = "black" if tile.annotated is None else _ANNOTATED[tile.annotated]
            draw.text((left + _SIDE // 2, top + _SIDE + _CAPTION_HEIGHT // 2), tile.caption, color, small, anchor="mm")
            if tile.annotated is not None:
                draw.rectangle((left, top, left + _SIDE - 1, top + _SIDE - 1), outline=color, width=_FRAME)
    return sheet


def load_pixels(path: Path, longest: int) -> np.ndarray:
    """Return a stored picture as (H, W, 3) uint8 RGB, upright, transparent parts white, its longer side at most so.

    Of an animation it is the first frame; 16 bits are reduced to 8. Large pictures never take their full size in
    memory once they are returned.

    Raises :class:`UserError` for a file that is gone, or damaged since it was stored.
    """
    return decode_pixels(read_picture(path), longest, str(path))


def read_picture(path: Path) -> bytes:
    """Return the bytes of a stored picture; raises :class:`UserError` where the file is gone or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: the image file is gone: the same command fetches it again") from None
    except OSError as error:
        raise UserError(f"the image cannot be read: {describe_os_error(error)}") from error


def decode_pixels(content: bytes, longest: int, name: str) -> np.ndarray:
    """Return the pixels of a picture's bytes as :func:`load_pixels` does; ``name`` is for the error."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            shrink = min(1.0, longest / max(picture.size))
            # JPEG decodes to twice the wanted size at a fraction of the cost, and leaves enough to average.
            picture.draft(None, (math.ceil(2 * shrink * picture.width), math.ceil(2 * shrink * picture.height)))
            rgb = _rgb(ImageOps.exif_transpose(picture))
    except Exception as error:  # a damaged file makes Pillow raise almost anything
        raise UserError(
            f"{name}: the image is damaged ({error}): delete the file, then type the same command again"
        ) from error
    rgb.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(rgb)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits, which Pillow would clip
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _square(path: Path) -> Image.Image:
    return ImageOps.fit(Image.fromarray(load_pixels(path, 4 * _SIDE)), (_SIDE, _SIDE))
