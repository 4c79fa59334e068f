"""Whether bytes are a picture that may be taken: judged by its header first, then decoded once to prove it whole.

The format is what the bytes say, never what the server calls it. Before Pillow sees a JPEG, PNG or GIF, its segments
are walked without being read: Pillow gathers all metadata when it opens a file, in time that grows with the square of
the number of JPEG segments, and counts the frames of a GIF by reading all of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from tezawari.collect.limits import Limits, Refusal, quoted

# BMP and TIFF are left out: the web does not use them, and run lengths and strips of theirs are decoded in Python.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "AVIF": "avif"}
_OPENED = tuple(name for name in _EXTENSIONS if name != "MPO")  # a JPEG with more pictures behind it

# A progressive JPEG has about ten scans; each goes through the whole picture, and a scan may be of a few bytes only.
_MOST_SCANS = 100
# Of metadata, in one file; a photograph has some ten, and a large profile comes in pieces of 64 KB.
_MOST_SEGMENTS = 1_000
_STANDALONE_MARKERS = {0x01, 0xD8, *range(0xD0, 0xD8)}


@dataclass(frozen=True)
class Picture:
    """What the header of a picture says."""

    extension: str
    width: int
    height: int
    image: Image.Image
    """Opened, not decoded."""


@dataclass
class _Header:
    """What a walk over the segments of a file has met so far."""

    limits: Limits
    metadata_bytes: int = 0
    segments: int = 0
    frames: int = 0

    def add_metadata(self, size: int, segments: int = 1) -> None:
        self.metadata_bytes += size
        self.segments += segments
        if self.metadata_bytes > self.limits.max_metadata_bytes:
            raise Refusal("bytes", f"metadata of more than {self.limits.max_metadata_bytes} bytes")
        if self.segments > _MOST_SEGMENTS:
            raise Refusal("bytes", f"metadata in more than {_MOST_SEGMENTS} pieces")

    def add_frame(self) -> None:
        self.frames += 1
        self.require_frames(self.frames)

    def require_frames(self, frames: int) -> None:
        if frames > self.limits.max_frames:
            raise Refusal("pixels", f"an animation of more than {self.limits.max_frames} frames")


def inspect_picture(content: bytes, limits: Limits) -> Picture:
    """Judge a picture by its header, without decoding a pixel.

    Raises:
        Refusal: ``bytes`` for none or for too much metadata, ``type`` for what is not of a format that is read,
            ``pixels`` for too many (frames counted) or a side too short, ``damaged``.
    """
    if not content:
        raise Refusal("bytes", "an empty answer")
    image = _open(content, limits)
    picture = Picture(_EXTENSIONS[image.format or ""], *image.size, image)
    if picture.width * picture.height > limits.max_pixels:
        raise Refusal("pixels", f"{picture.width} × {picture.height} pixels, more than {limits.max_pixels} in all")
    if min(image.size) < limits.min_side:
        raise Refusal("pixels", f"{picture.width} × {picture.height} pixels, fewer than {limits.min_side} on a side")
    header = _Header(limits)
    header.require_frames(getattr(image, "n_frames", 1) if image.format != "GIF" else 1)
    header.add_metadata(sum(len(value) for value in image.info.values() if isinstance(value, (bytes, str))))
    return picture


def prove_whole(picture: Picture) -> None:
    """Decode a picture (the first frame of an animation).

    A JPEG is decoded at an eighth of its size, which goes through all of its data in less memory and time.

    Raises:
        Refusal: ``damaged``.
    """
    image = picture.image
    try:
        image.draft(image.mode, (max(1, picture.width // 8), max(1, picture.height // 8)))
        image.load()
    except Exception as error:
        raise _damaged(error) from error


def _open(content: bytes, limits: Limits) -> Image.Image:
    name = _sniff(content)
    if name in _WALKS:
        try:
            _WALKS[name](content, _Header(limits))
        except IndexError as error:
            raise Refusal("damaged", "the header ends early") from error
    # The plugin itself rather than Image.open, whose own limit is a warning to the terminal.
    factory = Image.OPEN[name][0]
    try:
        return factory(BytesIO(content), "")
    except Image.DecompressionBombError as error:
        raise Refusal("pixels", f"more pixels than {limits.max_pixels}") from error
    except Exception as error:  # plugins raise whatever the bytes lead them to
        raise _damaged(error) from error


def _sniff(content: bytes) -> str:
    Image.init()
    for name in _OPENED:
        accept = Image.OPEN[name][1] if name in Image.OPEN else None
        if accept is not None and accept(content[:16]) is True:
            return name
    raise Refusal("type", f"not a JPEG, PNG, GIF, WebP or AVIF picture: begins with {quoted(content[:16])}")


def _damaged(error: Exception) -> Refusal:
    return Refusal("damaged", f"cannot be decoded: {quoted(error)}")


def _walk_jpeg(content: bytes, header: _Header) -> None:
    """Count the segments before the first scan, and the scans.

    In the data of a scan 0xFF is followed by 0 or a restart marker, so the two bytes of a scan's marker are met only
    there or by chance in metadata, whose size is bounded.
    """
    place = 2
    while True:
        place = content.find(b"\xff", place)
        if place < 0:
            return
        marker = content[place + 1]
        if marker == 0xDA:
            break
        if marker in _STANDALONE_MARKERS:
            place += 2
        elif marker in (0x00, 0xFF):
            place += 1
        else:
            size = int.from_bytes(content[place + 2 : place + 4], "big")
            header.add_metadata(size)
            place += 2 + max(2, size)
    if content.count(b"\xff\xda", place) > _MOST_SCANS:
        raise Refusal("damaged", f"a JPEG of more than {_MOST_SCANS} scans")


def _walk_png(content: bytes, header: _Header) -> None:
    place = 8
    while place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if kind == b"IEND":
            return
        if kind == b"fcTL":
            header.add_frame()
        elif kind not in (b"IDAT", b"fdAT"):
            header.add_metadata(size)
        place += 12 + size


def _walk_gif(content: bytes, header: _Header) -> None:
    place = 13 + _palette_size(content[10])
    while place < len(content) and content[place] != 0x3B:
        if content[place] == 0x2C:
            header.add_frame()
            place += 10 + _palette_size(content[place + 9])
            place = _end_of_blocks(content, place + 1)
        elif content[place] == 0x21:
            start, place = place, _end_of_blocks(content, place + 2)
            # Every frame has an extension of a few bytes for its duration: only their sizes count.
            header.add_metadata(place - start, segments=0)
        else:
            place += 1


def _palette_size(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(content: bytes, place: int) -> int:
    while content[place]:
        place += 1 + content[place]
    return place + 1


_WALKS: dict[str, Callable[[bytes, _Header], None]] = {"JPEG": _walk_jpeg, "PNG": _walk_png, "GIF": _walk_gif}


class PixelShare:
    """Lets threads decode at once only as many pixels as one picture may have, first come first served."""

    def __init__(self, pixels: int) -> None:
        self._all = self._free = pixels
        self._changed = threading.Condition()
        # Whoever waits holds it, so that small pictures do not overtake a large one for ever.
        self._turnstile = threading.Lock()

    @contextlib.contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until ``pixels`` are free and hold them."""
        pixels = min(pixels, self._all)
        with self._turnstile, self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
