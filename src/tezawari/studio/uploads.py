"""Photos and maps that a browser sends: judged before they are decoded, re-encoded, and named by the server.

What is kept is never what came: a photo is decoded within limits and written anew, without its metadata, so that no
byte of the sender's reaches anything that reads it later. Ids are random; no name of a file comes from outside.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tezawari.collect.limits import Limits, Refusal
from tezawari.collect.picture_check import PixelShare, inspect_picture, prove_whole
from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.data.photo import load_rgb, photo_suffix, read_photo, write_photo
from tezawari.studio.database import Database

ID = re.compile(r"[0-9a-f]{32}")
UPLOAD_BYTES = 32_000_000
MOST_MAP_PIXELS = 1 << 20

_LIMITS = Limits(max_bytes=UPLOAD_BYTES, max_pixels=40_000_000, min_side=16)
_KEPT = 100
_PREVIEW_SIDE = 1280
_PREVIEW_QUALITY = 88
# A map is painted on a preview, whose sides are rounded to whole pixels.
_ASPECT_TOLERANCE = 0.05


@dataclass(frozen=True)
class StoredPhoto:
    """A photo that was sent: the file it was re-encoded to, a JPEG of at most 1,280 pixels for screens, its size."""

    id: str
    path: Path
    preview: Path
    width: int
    height: int


class Uploads:
    """The photos and painted maps of a studio, the last hundred of each; safe to use in threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = database.folder / "photos"
        self._share = PixelShare(_LIMITS.max_pixels)
        self._folder.mkdir(parents=True, exist_ok=True)

    def sweep(self) -> None:
        """Remove what a server that was killed left half-way; for the server, when it starts."""
        for left in self._folder.glob("*.incoming"):
            left.unlink()

    def add_photo(self, content: bytes) -> StoredPhoto:
        """Judge, decode and re-encode a photo, and return where it is.

        Raises:
            Refusal: it is no picture, too large, too small, or damaged.
        """
        picture = inspect_picture(content, _LIMITS)
        with self._share.take(picture.width * picture.height):
            prove_whole(picture)
            return self._reencode(content)

    def photo(self, identity: str) -> StoredPhoto | None:
        """Return a photo by its id, or None where there is none, or no longer."""
        row = self._database.reading().execute("SELECT * FROM photos WHERE id = ?", (identity,)).fetchone()
        return None if row is None else self._stored(row)

    def add_map(self, photo: StoredPhoto, width: int, height: int, labels: bytes) -> str:
        """Keep a painted map, a byte a pixel row by row, for a photo; return its id.

        Raises:
            UserError: another number of bytes than pixels, too many of them, or another shape than the photo's.
        """
        if not 1 <= width * height <= MOST_MAP_PIXELS or len(labels) != width * height:
            raise UserError(f"a map of {width} × {height} pixels is that many bytes, {MOST_MAP_PIXELS} at most")
        if abs(width * photo.height / (height * photo.width) - 1) > _ASPECT_TOLERANCE:
            raise UserError(f"a map of {width} × {height} does not fit a photo of {photo.width} × {photo.height}")
        identity = secrets.token_hex(16)
        stream = io.BytesIO()
        Image.fromarray(np.frombuffer(labels, np.uint8).reshape(height, width)).save(stream, "PNG")
        write_atomically(self._map_path(identity), stream.getvalue())
        with self._database.writing() as connection:
            connection.execute("INSERT INTO maps (id, photo) VALUES (?, ?)", (identity, photo.id))
        self._forget("maps")
        return identity

    def map_labels(self, identity: str, photo: StoredPhoto) -> np.ndarray | None:
        """Return the labels (H, W) uint8 of a map that was painted for a photo, or None where there is none."""
        row = self._database.reading().execute("SELECT photo FROM maps WHERE id = ?", (identity,)).fetchone()
        if row is None or row["photo"] != photo.id:
            return None
        with Image.open(self._map_path(identity)) as picture:
            return np.asarray(picture)

    def _reencode(self, content: bytes) -> StoredPhoto:
        identity = secrets.token_hex(16)
        incoming = self._folder / f"{identity}.incoming"
        try:
            incoming.write_bytes(content)
            photo = read_photo(incoming, _LIMITS.max_pixels)
            path = write_photo(self._folder / f"{identity}{photo_suffix(photo)}", photo.image, photo)
        except UserError as error:
            raise Refusal("damaged", str(error).replace(str(incoming), "the photo")) from error
        finally:
            incoming.unlink(missing_ok=True)
        height, width = photo.image.shape[-2:]
        del photo
        stream = io.BytesIO()
        preview = load_rgb(path, max_side=_PREVIEW_SIDE).permute(1, 2, 0).numpy()
        Image.fromarray(preview).save(stream, "JPEG", quality=_PREVIEW_QUALITY)
        write_atomically(self._preview_path(identity), stream.getvalue())
        with self._database.writing() as connection:
            connection.execute(
                "INSERT INTO photos (id, file, width, height) VALUES (?, ?, ?, ?)", (identity, path.name, width, height)
            )
        self._forget("photos")
        stored = self.photo(identity)
        assert stored is not None
        return stored

    def _stored(self, row: sqlite3.Row) -> StoredPhoto:
        return StoredPhoto(
            row["id"], self._folder / row["file"], self._preview_path(row["id"]), row["width"], row["height"]
        )

    def _preview_path(self, identity: str) -> Path:
        return self._folder / f"{identity}.preview.jpg"

    def _map_path(self, identity: str) -> Path:
        return self._folder / f"{identity}.map.png"

    def _forget(self, table: str) -> None:
        with self._database.writing() as connection:
            rows = connection.execute(
                f"DELETE FROM {table} WHERE number <= (SELECT max(number) FROM {table}) - ? RETURNING id", (_KEPT,)
            ).fetchall()
        for row in rows:
            pattern = f"{row['id']}.map.png" if table == "maps" else f"{row['id']}.*"
            for path in self._folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
