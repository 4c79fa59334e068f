"""What is read is what was written, and what cannot be read or written says so in one line."""

from __future__ import annotations

import io
import logging
import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from tezawari.core.errors import UserError
from tezawari.data.photo import Photo, load_rgb, photo_suffix, read_photo, write_photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(np.stack([x, y, 1 - x * y], axis=-1) * 255).astype(np.uint8)


def bytes_of(tensor: torch.Tensor, scale: int = 255) -> np.ndarray:
    return np.rint(tensor.numpy().transpose(1, 2, 0) * scale).astype(np.int64)


def reference_16_bit_png(pixels: np.ndarray, claim: tuple[int, int] | None = None) -> bytes:
    """A PNG without filters, written from the specification; its header may claim another height and width."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    height, width = claim or (height, width)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def read_16_bit_png(data: bytes) -> np.ndarray:
    """The pixels of a PNG whose rows use filter 0 or 2, read from the specification; checks every chunk's CRC."""
    place, body = 8, b""
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + length]
        assert struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0] == zlib.crc32(name + content)
        if name == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", content[:10])
            assert depth == 16
        if name == b"IDAT":
            body += content
        place += 12 + length
    channels = {2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(body), np.uint8).reshape(height, -1)
    assert set(rows[:, 0]) <= {0, 2}
    plain = np.zeros((height, width * channels * 2), np.uint8)
    for y in range(height):
        plain[y] = rows[y, 1:] + (plain[y - 1] if rows[y, 0] == 2 and y else 0)
    return plain.view(">u2").reshape(height, width, channels).astype(np.int64)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_read_and_written_upright_once(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = tmp_path / f"turned{suffix}"
    Image.fromarray(smooth()).save(source, exif=exif, icc_profile=SRGB, **({"quality": 95} if suffix != ".tif" else {}))
    with Image.open(source) as picture:
        # Pillow turns TIFF by itself when it decodes.
        expected = np.asarray(picture.copy() if suffix == ".tif" else ImageOps.exif_transpose(picture).convert("RGB"))
    photo = read_photo(source)
    assert np.array_equal(bytes_of(photo.image), expected)
    assert np.array_equal(load_rgb(source).numpy().transpose(1, 2, 0), expected)
    written = write_photo(tmp_path / "out", photo.image, like=photo)
    with Image.open(written) as picture:
        assert picture.format == photo.format
        assert picture.getexif().get(0x0112, 1) == 1
        assert picture.info["icc_profile"] == SRGB
    assert np.abs(bytes_of(read_photo(written).image) - expected).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bits_survive_reading_and_writing(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = noise(13, 9, channels, dtype=np.uint16)
    source = tmp_path / f"deep{suffix}"
    if suffix == ".png":
        source.write_bytes(reference_16_bit_png(pixels))
    else:
        tifffile.imwrite(source, pixels, photometric="rgb", extrasamples=["unassalpha"] if channels == 4 else None)
    photo = read_photo(source)
    assert photo.bits == 16
    assert np.array_equal(bytes_of(photo.image, 65535), pixels[..., :3])
    assert (photo.alpha is None) == (channels == 3)
    written = write_photo(tmp_path / "out", photo.image, like=photo)
    again = read_16_bit_png(written.read_bytes()) if suffix == ".png" else tifffile.imread(written)
    assert np.array_equal(again, pixels)
    assert np.array_equal(np.asarray(Image.open(written)), pixels >> 8)
    shallow = pixels[..., :3] if channels == 3 else None
    if shallow is not None:
        assert np.array_equal(load_rgb(source).numpy().transpose(1, 2, 0), shallow >> 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_becomes_sixteen_bit_colour(tmp_path: Path, suffix: str) -> None:
    pixels = noise(5, 7, dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / f"grey{suffix}")
    photo = read_photo(tmp_path / f"grey{suffix}")
    assert photo.bits == 16
    assert np.array_equal(bytes_of(photo.image, 65535), np.repeat(pixels[..., None], 3, axis=2))
    assert read_photo(write_photo(tmp_path / "out", photo.image, photo)).bits == 16


def test_sixteen_bits_that_only_pillow_reads_are_reduced_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = noise(4, 5, 4, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "cmyk.tif", pixels, photometric="separated")
    with caplog.at_level(logging.WARNING):
        photo = read_photo(tmp_path / "cmyk.tif")
    assert "reduced to 8" in caplog.text
    assert photo.bits == 8
    shallow = Image.frombytes("CMYK", (5, 4), (pixels >> 8).astype(np.uint8).tobytes())
    assert np.array_equal(bytes_of(photo.image), np.asarray(shallow.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_alpha(tmp_path: Path) -> None:
    pixels = noise(4, 4, 2, dtype=np.uint16)
    (tmp_path / "la.png").write_bytes(reference_16_bit_png(pixels))
    photo = read_photo(tmp_path / "la.png")
    assert photo.bits == 16
    assert photo.alpha is not None
    assert np.array_equal(bytes_of(photo.image, 65535), np.repeat(pixels[..., :1], 3, axis=2))
    assert np.array_equal(bytes_of(photo.alpha, 65535), pixels[..., 1:])


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_kept_apart_and_written_back(tmp_path: Path, suffix: str) -> None:
    pixels = np.concatenate([smooth(), noise(48, 64, 1) // 2 + 64], axis=-1)
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"alpha{suffix}", **options)
    photo = read_photo(tmp_path / f"alpha{suffix}")
    assert np.array_equal(bytes_of(photo.image), pixels[..., :3])
    assert photo.alpha is not None
    again = read_photo(write_photo(tmp_path / f"out{suffix}", 1 - photo.image, photo))
    assert again.alpha is not None
    assert np.array_equal(bytes_of(again.alpha), pixels[..., 3:])
    assert (again.image - (1 - photo.image)).abs().mean() < 0.03


def test_alpha_follows_a_picture_of_another_size_and_lies_over_white_in_jpeg(tmp_path: Path) -> None:
    photo = Photo(torch.zeros(3, 8, 8), alpha=torch.zeros(1, 8, 8), format="PNG")
    assert read_photo(write_photo(tmp_path / "a", torch.zeros(3, 16, 24), photo)).alpha.shape == (1, 16, 24)
    assert read_photo(write_photo(tmp_path / "a.jpg", torch.zeros(3, 16, 24), photo)).image.min() > 0.98


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "CMYK"])
def test_every_kind_of_pixel_becomes_the_rgb_that_pillow_makes_of_it(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(smooth()).convert(mode if mode != "PA" else "P")
    if mode == "PA":
        picture.info["transparency"] = 3
    path = tmp_path / ("kind.tif" if mode == "CMYK" else "kind.png")
    picture.save(path)
    expected = np.asarray(Image.open(path).convert("RGBA").convert("RGB"))
    photo = read_photo(path)
    assert np.array_equal(bytes_of(photo.image), expected)
    assert (photo.alpha is not None) == (mode in ("LA", "PA"))
    assert photo.mode == ("P" if mode == "PA" else mode)


def test_grey_with_a_profile_goes_through_it(tmp_path: Path) -> None:
    profile = gray_profile(gamma=1.0)
    Image.fromarray(np.full((4, 4), 128, np.uint8)).save(tmp_path / "linear.png", icc_profile=profile)
    photo = read_photo(tmp_path / "linear.png")
    assert float(photo.image.mean()) * 255 == pytest.approx(188, abs=2)  # sRGB's code for half of white
    assert photo.icc_profile is not None
    assert photo.icc_profile[16:20] == b"RGB "


def gray_profile(gamma: float) -> bytes:
    """The smallest ICC v2 grey profile: white point, a gamma curve, and a description."""
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", int(0.9642 * 65536), 65536, int(0.8249 * 65536))
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, int(gamma * 256)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(78 + 1)
    tags, body, place = b"", b"", 128 + 4 + 3 * 12
    for name, content in ((b"desc", text), (b"wtpt", white), (b"kTRC", curve)):
        content += bytes(-len(content) % 4)
        tags += struct.pack(">4sII", name, place + len(body), len(content))
        body += content
    size = place + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">iii", int(0.9642 * 65536), 65536, int(0.8249 * 65536))
    return header + bytes(128 - len(header)) + struct.pack(">I", 3) + tags + body


def test_formats_that_are_not_written_become_png_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.bmp")
    photo = read_photo(tmp_path / "a.bmp")
    assert photo_suffix(photo) == ".png"
    with caplog.at_level(logging.WARNING):
        written = write_photo(tmp_path / "out" / "a.bmp", photo.image, photo)
    assert written == tmp_path / "out" / "a.png"
    assert "PNG" in caplog.text
    assert np.array_equal(bytes_of(read_photo(written).image), smooth())


def test_a_named_format_is_obeyed_and_dots_in_a_name_are_no_suffix(tmp_path: Path) -> None:
    photo = Photo(torch.rand(3, 8, 8), format="JPEG")
    assert Image.open(write_photo(tmp_path / "a.PNG", photo.image, photo)).format == "PNG"
    assert write_photo(tmp_path / "v1.2", photo.image, photo).name == "v1.2.jpg"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 900), height=st.integers(1, 900), side=st.integers(1, 300))
def test_shrinking_bounds_the_asked_side_and_keeps_the_shape(
    tmp_path: Path, width: int, height: int, side: int
) -> None:
    Image.new("RGB", (width, height), (200, 100, 50)).save(tmp_path / "a.jpg")
    for tensor, measure in (
        (load_rgb(tmp_path / "a.jpg", max_side=side), max),
        (load_rgb(tmp_path / "a.jpg", max_short_side=side), min),
    ):
        assert tensor.dtype == torch.uint8
        assert measure(tensor.shape[1:]) == min(side, measure(width, height))
        shrink = measure(tensor.shape[1:]) / measure(width, height)
        assert abs(tensor.shape[2] - width * shrink) <= 1
        assert abs(tensor.shape[1] - height * shrink) <= 1


def test_transparent_parts_of_a_training_photo_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert load_rgb(tmp_path / "a.png").min() == 255


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(jpeg, "JPEG")
    Image.fromarray(noise(64, 64, 3)).save(png, "PNG")
    contents = {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>403 Forbidden</html>", "not a picture"),
        "cut.jpg": (jpeg.getvalue()[: len(jpeg.getvalue()) // 2], "damaged"),
        "cut.png": (png.getvalue()[: len(png.getvalue()) // 2], "damaged"),
        "header.png": (png.getvalue()[:20], "."),
        "bomb.png": (reference_16_bit_png(np.zeros((1, 1, 3)), claim=(20_000, 20_000)), "20000 × 20000"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    found = {name: (folder / name, word) for name, (_, word) in contents.items()}
    found["folder"] = (folder / "folder.jpg", "folder")
    found["pipe"] = (folder / "pipe.jpg", "special file")
    found["missing"] = (folder / "missing.jpg", "no such photo")
    return found


def test_what_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    for path, word in wrong_files(tmp_path).values():
        for read in (read_photo, load_rgb):
            with pytest.raises(UserError, match=word) as caught:
                read(path)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_the_limit_on_pixels_is_ours_alone(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="100 × 100"):
        read_photo(tmp_path / "a.png", max_pixels=9_999)
    assert read_photo(tmp_path / "a.png", max_pixels=10_000).image.shape == (3, 100, 100)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, suffix: str, bits: int) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    photo = Photo(torch.rand(3, 256, 256), bits=bits)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # The kernel refuses to write any file beyond 4 KB.
    try:
        with pytest.raises(UserError, match="cannot be written") as caught:
            write_photo(path, photo.image, photo)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ".part" not in str(caught.value)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, b"old")]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        write_photo(tmp_path / "file" / "out.png", torch.rand(3, 4, 4))


def test_a_written_file_gets_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    written = write_photo(tmp_path / "a.png", torch.rand(3, 4, 4))
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_size_that_the_format_cannot_hold_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        write_photo(tmp_path / "a.webp", torch.zeros(3, 1, 16_500))
    assert list(tmp_path.iterdir()) == []
