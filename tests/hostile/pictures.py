"""Pictures, whole and hostile, as bytes."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

JPEG_SCAN = b"\xff\xda"


def encoded(
    format: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", seed: int = 0, **options: object
) -> bytes:
    """Return a picture of smooth noise, as a photograph would be to a codec."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, bands), np.uint8)
    image = Image.merge(mode, [Image.fromarray(small[..., band]).resize(size) for band in range(bands)])
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_16_bit() -> bytes:
    """Return a greyscale PNG of 16 bits a pixel."""
    file = BytesIO()
    Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20).save(file, "PNG")
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int, rows: int | None = None) -> bytes:
    """Return a PNG of side × side black pixels, a thousandth as large as what it decodes to; ``rows`` ends it early."""
    data = zlib.compress(bytes((side + 1) * (side if rows is None else rows)), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def with_png_chunks(png: bytes, chunks: bytes) -> bytes:
    """Return ``png`` with more chunks after its header."""
    return png[:33] + chunks + png[33:]


def gif_of_frames(frames: int, side: int = 64) -> bytes:
    """Return an animation of side × side; each frame repaints one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    duration = b"\x21\xf9\x04\x00\x0a\x00\x00\x00"
    # Codes of 3 bits, lowest first: clear (4), colour 0, end (5).
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02" + struct.pack("<H", 4 | 5 << 6) + b"\x00"
    return head + (duration + frame) * frames + b";"


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """Return a segment of a JPEG with its length."""
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_jpeg_segments(jpeg: bytes, segments: bytes) -> bytes:
    """Return ``jpeg`` with more segments at its beginning."""
    return jpeg[:2] + segments + jpeg[2:]


def overlapping_exif() -> bytes:
    """Return one segment of EXIF whose 5,000 entries all claim the same 60,000 bytes: 300 MB for one who copies."""
    entries = 5_000
    entry = b"".join(struct.pack(">HHII", 0x9000 + n, 7, 60_000, 8) for n in range(entries))
    tiff = b"MM\x00\x2a" + struct.pack(">IH", 8, entries) + entry + bytes(4)
    return jpeg_segment(0xE1, (b"Exif\x00\x00" + tiff)[:65_000])


def icc_segments(size: int) -> bytes:
    """Return a colour profile of ``size`` bytes in as many segments as it needs."""
    pieces = [bytes(min(65_000, size - start)) for start in range(0, size, 65_000)]
    return b"".join(
        jpeg_segment(0xE2, b"ICC_PROFILE\x00" + bytes([(n + 1) % 256, len(pieces) % 256]) + piece)
        for n, piece in enumerate(pieces)
    )


def jpeg_of_scans(scans: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    jpeg = encoded("JPEG", progressive=True)
    last = jpeg.rindex(JPEG_SCAN)
    return jpeg[:-2] + jpeg[last:-2] * scans + jpeg[-2:]
