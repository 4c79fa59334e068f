"""Thumbnails of a collection's images, drawn once and kept beside the studio's database."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from tezawari.collect.contact_sheet import load_pixels
from tezawari.collect.store import StoredImage
from tezawari.core.files import written_aside

SIDE = 256
"""The longer side of a thumbnail, in pixels."""

_QUALITY = 82


def make_thumbnail(studio_folder: Path, image: StoredImage) -> Path:
    """Return the JPEG thumbnail of an image, at most 256 pixels each way, and draw it where there is none yet.

    Raises :class:`~tezawari.core.errors.UserError` for an image file that is gone or damaged.
    """
    path = studio_folder / "thumbnails" / image.sha256[:2] / f"{image.sha256}.jpg"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    Image.fromarray(load_pixels(image.path, SIDE)).save(stream, "JPEG", quality=_QUALITY)
    # Two requests may draw it at once: each writes a file of its own, and either may win.
    with written_aside(path, path.with_name(f".{path.name}.{os.urandom(4).hex()}")) as file:
        file.write(stream.getvalue())
    return path
