"""Photographs in and out of files: upright, with alpha, depth, format and colour profile kept."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn.functional import interpolate

from tezawari.core.errors import UserError, describe_os_error

log = logging.getLogger(__name__)

MAX_PIXELS = 200_000_000

# Pillow's other readers run external programs (EPS), hold no photographs, or are hardly ever used and little tested.
_READ_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "TGA")
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
_FORMAT_OF_SUFFIX = {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes}
_PICTURE_SUFFIXES = {*_FORMAT_OF_SUFFIX, ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".tga"}
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_ORIENTATION = 0x0112
_WHITE = {8: 255, 16: 65535}
_BOMB_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Photo:
    """A decoded photograph and what is needed to write another picture like it.

    ``image`` is (3, H, W) float32 RGB in [0, 1], upright by its EXIF orientation; ``alpha`` is (1, H, W) float32 in
    [0, 1] or None, and not multiplied in. ``format`` names the file's format as Pillow does, ``mode`` the kind of
    pixel it held and ``bits`` the depth that ``image`` was read at, 8 or 16. ``icc_profile`` is the profile of the RGB
    values in ``image``.
    """

    image: Tensor
    alpha: Tensor | None = None
    format: str = "PNG"
    icc_profile: bytes | None = None
    bits: int = 8
    mode: str = "RGB"


def read_photo(path: str | Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photograph of at most ``max_pixels`` pixels at its full depth.

    Grey, palette and CMYK pictures become RGB; CMYK and grey ones with a colour profile go through it and are sRGB
    then. PNG and TIFF are read at 16 bits; CMYK of 16 bits and TIFF in a compression that needs more than
    tifffile (LZW) are reduced to 8 with a warning. Of a file of several frames the first is read.

    Raises :class:`UserError` for a file that is missing, no picture, damaged or too large.
    """
    path = Path(path)
    with _opened(path, max_pixels) as picture:
        pixels = _decode(picture, path)
    rgb = _to_float(pixels.rgb, pixels.bits)
    alpha = None if pixels.alpha is None else _to_float(pixels.alpha[..., None], pixels.bits)
    return Photo(rgb, alpha, pixels.format, pixels.icc_profile, pixels.bits, pixels.mode)


def load_rgb(
    path: str | Path, max_side: int | None = None, max_short_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Tensor:
    """Read a photograph as (3, H, W) uint8 RGB, upright, transparent parts over white, shrunk to the sides asked.

    ``max_side`` bounds its longer side and ``max_short_side`` its shorter one, in pixels; nothing is enlarged.

    Raises :class:`UserError` for a file that is missing, no picture, damaged or too large.
    """
    path = Path(path)
    with _opened(path, max_pixels) as picture:
        longer, shorter = max(picture.size), min(picture.size)
        shrink = min(1.0, (max_side or longer) / longer, (max_short_side or shorter) / shorter)
        if shrink < 1.0:
            # A JPEG decodes faster at 1/2, 1/4 or 1/8; twice the wanted size leaves the resampling enough to average.
            width, height = picture.size
            picture.draft(None, (math.ceil(width * shrink * 2), math.ceil(height * shrink * 2)))
        pixels = _decode(picture, path)
    rgb = pixels.rgb if pixels.bits == 8 else (pixels.rgb >> 8).astype(np.uint8)
    if pixels.alpha is not None:
        alpha = pixels.alpha[..., None].astype(np.float32) / _WHITE[pixels.bits]
        rgb = np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)
    longer, shorter = max(1, round(longer * shrink)), max(1, round(shorter * shrink))
    height, width = (longer, shorter) if rgb.shape[0] >= rgb.shape[1] else (shorter, longer)
    if rgb.shape[:2] != (height, width):
        rgb = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0))
    return torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))


def photo_suffix(photo: Photo) -> str:
    """Return the file suffix, with its dot, of the format that a picture like ``photo`` is written in."""
    return _SUFFIXES[_written_format(photo.format)][0]


def named_after(folder: Path, photo: Path, label: str, photos: Sequence[Path]) -> Path:
    """Name a picture after its photo and what was made of it; ``photos`` of one name are told apart by a number."""
    same = [other for other in photos if other.stem == photo.stem]
    number = f"-{same.index(photo) + 1}" if len(same) > 1 else ""
    return folder / f"{photo.stem}{number}-{label}{photo.suffix or '.png'}"


def write_photo(path: str | Path, image: Tensor, like: Photo | None = None) -> Path:
    """Write ``image``, (3, H, W) in [0, 1], in the format of ``like`` and with its alpha, depth and profile.

    A suffix of ``path`` that names another format is obeyed instead; a suffix that is missing, or names a format that
    is not written (GIF, BMP, …: they become PNG), is added or replaced. JPEG is written at quality 95 without chroma
    subsampling, with alpha laid over white. Other metadata than the colour profile (EXIF, GPS) is not written. The
    file appears whole or not at all, in a folder that is made where needed.

    Returns the path that was written. Raises :class:`UserError` where it cannot be.
    """
    path, kind = _named_format(Path(path), like)
    bits = like.bits if like is not None and kind in ("PNG", "TIFF") else 8
    alpha = like.alpha if like is not None else None
    if like is not None and like.bits > bits:
        log.warning("%s: %s holds 8 bits a channel, the photo had %d", path, kind, like.bits)
    if alpha is not None and alpha.shape[1:] != image.shape[1:]:
        alpha = interpolate(alpha[None], size=image.shape[1:], mode="bilinear", antialias=True)[0]
    if alpha is not None and kind == "JPEG":
        log.warning("%s: JPEG holds no transparency, so it is laid over white", path)
        image, alpha = image * alpha + (1 - alpha), None
    pixels = _to_integers(image if alpha is None else torch.cat([image, alpha]), bits)
    with _replacing(path) as file:
        _encode(file, pixels, kind, like.icc_profile if like is not None else None)
    return path


@dataclass(frozen=True)
class _Pixels:
    rgb: np.ndarray  # (H, W, 3) uint8 or uint16
    alpha: np.ndarray | None  # (H, W)
    bits: int
    mode: str
    format: str
    icc_profile: bytes | None


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture whose header promises at most ``max_pixels``, and say in one line what goes wrong until closed."""
    if not path.exists():
        raise UserError(f"{path}: no such photo; check the path")
    if not path.is_file():
        raise UserError(
            f"{path}: is a {'folder' if path.is_dir() else 'special file'}, not a photo; name a picture file"
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty")
    try:
        with _open_header(path) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise UserError(
                    f"{path}: {width} × {height} pixels are more than the {max_pixels / 1e6:g} million allowed; "
                    "shrink the photo first"
                )
            yield picture
    except UserError:
        raise
    except PermissionError:
        raise UserError(f"{path}: permission denied") from None
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory; shrink the photo first") from None
    except Image.UnidentifiedImageError:
        known = ", ".join(_read_formats())
        raise UserError(f"{path}: not a picture that can be read (known: {known})") from None
    except Exception as error:  # A damaged file makes Pillow's readers raise almost anything.
        raise UserError(f"{path}: the picture is damaged ({error})") from error


@functools.cache
def _read_formats() -> list[str]:
    Image.init()
    return [name for name in _READ_FORMATS if name in Image.OPEN]  # AVIF is younger than the oldest Pillow allowed.


def _open_header(path: Path) -> Image.Image:
    # Pillow's own limit is lower than ours and process-wide, so it is lifted only while our own check is still to come.
    with _BOMB_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_read_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode(picture: Image.Image, path: Path) -> _Pixels:
    mode, kind, profile = picture.mode, picture.format or "", picture.info.get("icc_profile")
    if kind == "MPO":  # A JPEG with further pictures behind it, as some phones write.
        kind = "JPEG"
    elif getattr(picture, "n_frames", 1) > 1:
        log.warning("%s: holds %d frames, of which only the first is read", path, picture.n_frames)  # type: ignore[attr-defined]
    deep = _decode_16_bits(picture, path)
    if deep is not None:
        channels, bits = deep, 16
        profile = profile if _profile_space(profile) == "RGB" else None
    else:
        channels, profile = _decode_8_bits(picture, profile, path)
        bits = 8
    channels = _upright(channels, _orientation(picture))
    alpha = channels[..., 3] if channels.shape[2] == 4 else None
    return _Pixels(channels[..., :3], alpha, bits, mode, kind, profile)


def _decode_16_bits(picture: Image.Image, path: Path) -> np.ndarray | None:
    """Return (H, W, 3 or 4) uint16, or None for a picture that has 8 bits or is only readable at 8."""
    if picture.mode in ("I", "F") and picture.format == "TIFF":
        raise UserError(f"{path}: holds 32 bits a channel, which are not read; save it with 8 or 16 first")
    if picture.mode.startswith("I"):
        # PNG's 16-bit grey is "I;16", or "I" in older Pillow.
        return np.repeat(np.asarray(picture).astype(np.uint16)[..., None], 3, axis=2)
    if not any(";16" in str(tile[3]) for tile in picture.tile):  # type: ignore[attr-defined]
        return None
    if picture.format == "PNG" and picture.mode in ("RGB", "RGBA"):
        return _decode_16_bit_png(picture, path)
    if picture.format == "TIFF" and picture.mode in ("RGB", "RGBA"):
        return _decode_16_bit_tiff(path)
    log.warning("%s: 16 bits a channel are reduced to 8", path)
    return None


def _decode_16_bit_png(picture: Image.Image, path: Path) -> np.ndarray:
    # Pillow keeps one byte of each big-endian pair: the high one. Told that the pairs are little-endian it keeps the
    # other, so decoding twice gives both. Grey with alpha is told to be four bytes a pixel, which gives both at once.
    if "LA;16B" in str(picture.tile[0][3]):  # type: ignore[attr-defined]
        grey, alpha = np.moveaxis(_decode_as(path, "LA;16B", "RGBA").view(">u2").astype(np.uint16), 2, 0)
        return np.stack([grey, grey, grey, alpha], axis=-1)
    return (np.asarray(picture).astype(np.uint16) << 8) | _decode_as(path, ";16B", ";16L")


def _decode_as(path: Path, layout: str, pretended: str) -> np.ndarray:
    with _open_header(path) as picture:
        picture.tile = [(*tile[:3], str(tile[3]).replace(layout, pretended)) for tile in picture.tile]  # type: ignore[attr-defined]
        return np.ascontiguousarray(picture)


def _decode_16_bit_tiff(path: Path) -> np.ndarray | None:
    import tifffile

    try:
        page = tifffile.imread(path, key=0)
    except Exception as error:  # A compression or layout that tifffile alone does not know; Pillow's libtiff may.
        log.warning("%s: 16 bits a channel are reduced to 8 (%s)", path, error)
        return None
    if page.ndim == 3 and page.shape[0] in (3, 4) and page.shape[2] not in (3, 4):
        page = page.transpose(1, 2, 0)
    if page.ndim != 3 or page.shape[2] not in (3, 4) or page.dtype != np.uint16:
        log.warning("%s: 16 bits a channel are reduced to 8 (unusual layout %s)", path, page.shape)
        return None
    return page


def _decode_8_bits(picture: Image.Image, profile: bytes | None, path: Path) -> tuple[np.ndarray, bytes | None]:
    """Return (H, W, 3 or 4) uint8 and the profile of these RGB values."""
    picture.load()
    if picture.has_transparency_data:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)
        rgba = picture.convert(straight).convert("RGBA")
        return np.asarray(rgba), profile if _profile_space(profile) == "RGB" else None
    if picture.mode == "LAB" or (
        profile and _profile_space(profile) in ("CMYK", "GRAY") and picture.mode in ("CMYK", "L")
    ):
        srgb = ImageCms.createProfile("sRGB")
        try:
            source: Any = ImageCms.createProfile("LAB") if picture.mode == "LAB" else io.BytesIO(profile or b"")
            converted = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
            return np.asarray(converted), ImageCms.ImageCmsProfile(srgb).tobytes()
        except ImageCms.PyCMSError as error:
            log.warning("%s: its colour profile is not usable (%s), so a plain conversion is used", path, error)
    return np.asarray(picture.convert("RGB")), profile if _profile_space(profile) == "RGB" else None


def _profile_space(profile: bytes | None) -> str:
    """Return the kind of pixels that an ICC profile describes: "RGB", "CMYK", "GRAY", …, or "" for no profile."""
    return profile[16:20].decode("ascii", "replace").strip() if profile else ""


def _orientation(picture: Image.Image) -> int:
    # Read after decoding: what Pillow has turned by itself (TIFF) no longer carries the tag.
    with contextlib.suppress(Exception):  # Damaged EXIF is no reason to refuse the pixels.
        return int(picture.getexif().get(_ORIENTATION, 1))
    return 1


def _upright(channels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, C) by the EXIF orientation, 1 to 8; any other value changes nothing."""
    if orientation in (5, 6, 7, 8):
        channels = channels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        channels = channels[::-1]
    if orientation in (2, 3, 6, 7):
        channels = channels[:, ::-1]
    return channels


def _to_float(channels: np.ndarray, bits: int) -> Tensor:
    planes = np.ascontiguousarray(channels.transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes).div_(_WHITE[bits])


def _to_integers(image: Tensor, bits: int) -> np.ndarray:
    channels, height, width = image.shape
    pixels = np.empty((height, width, channels), np.uint8 if bits == 8 else np.uint16)
    for top in range(0, height, 256):  # In strips: a float copy of a large photo would cost four times the photo.
        strip = image[:, top : top + 256].detach().float().cpu().clamp(0, 1).mul_(_WHITE[bits]).round_()
        pixels[top : top + 256] = strip.permute(1, 2, 0).numpy()
    return pixels


def _written_format(kind: str) -> str:
    return kind if kind in _SUFFIXES else "PNG"


def _named_format(path: Path, like: Photo | None) -> tuple[Path, str]:
    suffix = path.suffix.lower()
    if suffix in _FORMAT_OF_SUFFIX:
        return path, _FORMAT_OF_SUFFIX[suffix]
    kind = _written_format(like.format) if like is not None else "PNG"
    stem = path.name[: -len(suffix)] if suffix in _PICTURE_SUFFIXES else path.name
    named = path.with_name(stem + _SUFFIXES[kind][0])
    if suffix in _PICTURE_SUFFIXES or (like is not None and kind != like.format):
        log.warning("%s: written as %s, since %s is not written", named, kind, suffix or (like and like.format))
    return named, kind


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` that takes its place when all went well, and is removed otherwise."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        reason = describe_os_error(OSError(error.errno, error.strerror)) if error.errno else str(error)
        raise UserError(f"{path}: cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _encode(file: IO[bytes], pixels: np.ndarray, kind: str, icc_profile: bytes | None) -> None:
    if pixels.dtype == np.uint16:
        (_encode_16_bit_png if kind == "PNG" else _encode_16_bit_tiff)(file, pixels, icc_profile)
        return
    try:
        Image.fromarray(pixels).save(file, kind, icc_profile=icc_profile, **_SAVE_OPTIONS[kind])
    except (ValueError, struct.error) as error:
        raise OSError(f"{kind} cannot hold it ({error})") from error


def _encode_16_bit_tiff(file: IO[bytes], pixels: np.ndarray, icc_profile: bytes | None) -> None:
    import tifffile

    tifffile.imwrite(
        file,
        pixels,
        photometric="rgb",
        compression="zlib",
        iccprofile=icc_profile,
        extrasamples=["unassalpha"] if pixels.shape[2] == 4 else None,
        metadata=None,
    )


def _encode_16_bit_png(file: IO[bytes], pixels: np.ndarray, icc_profile: bytes | None) -> None:
    # Pillow writes no 16-bit colour. Each row is coded as its difference from the row above (filter 2).
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    coded = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    coded[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=coded[1:, 1:])
    file.write(b"\x89PNG\r\n\x1a\n")
    _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0))
    if icc_profile is not None:
        _write_chunk(file, b"iCCP", b"profile\0\0" + zlib.compress(icc_profile))
    _write_chunk(file, b"IDAT", zlib.compress(coded.data, 4))
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: IO[bytes], name: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name))))
