"""Whether bytes are a picture: every format, every cut, every size."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, features
from tests.hostile.pictures import (
    encoded,
    gif_of_frames,
    icc_segments,
    jpeg_of_scans,
    jpeg_segment,
    with_jpeg_segments,
)

from tezawari.collect.limits import Limits, Refusal
from tezawari.collect.picture_check import PixelShare, inspect_picture, prove_whole

LIMITS = Limits(max_pixels=200_000)
FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp"}
if features.check("avif"):
    FORMATS["AVIF"] = "avif"


def judged(content: bytes, limits: Limits = LIMITS) -> str:
    """Return the extension or the reason."""
    try:
        picture = inspect_picture(content, limits)
        prove_whole(picture)
        return picture.extension
    except Refusal as refusal:
        return refusal.refused.reason


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_known_by_its_bytes(format: str) -> None:
    content = encoded(format, size=(70, 50))
    picture = inspect_picture(content, LIMITS)
    assert (picture.extension, picture.width, picture.height) == (FORMATS[format], 70, 50)
    prove_whole(picture)


@pytest.mark.parametrize(
    ("format", "mode"),
    [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "L"), ("WEBP", "RGBA"), ("GIF", "L")],
)
def test_every_mode_is_decoded(format: str, mode: str) -> None:
    assert judged(encoded(format, mode=mode)) == FORMATS[format]


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "TGA", "ICO", "PDF", "EPS"])
def test_formats_that_are_not_of_the_web_are_refused(format: str) -> None:
    assert judged(encoded(format)) == "type"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_picture_that_was_cut_is_damaged(format: str, share: float) -> None:
    content = encoded(format, size=(300, 200))
    assert judged(content[: int(len(content) * share)]) in ("damaged", "type")
    assert judged(content) == FORMATS[format]


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_is_proved_whole_at_an_eighth_of_its_size(options: dict[str, bool]) -> None:
    """The oracle is a decoding at full size."""
    content = encoded("JPEG", size=(400, 300), **options)
    for share in np.linspace(0.4, 1, 25):
        part = content[: int(len(content) * share)]
        try:
            with Image.open(BytesIO(part)) as image:
                image.load()
            whole = True
        except OSError:
            whole = False
        assert (judged(part) == "jpg") == whole


@pytest.mark.parametrize("format", FORMATS)
def test_no_damage_raises_anything_but_a_refusal(format: str) -> None:
    content = encoded(format)
    draw = random.Random(0)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        assert judged(bytes(damaged)) in {*FORMATS.values(), "damaged", "type", "pixels", "bytes"}


def test_pixels_are_counted_at_the_limit() -> None:
    assert judged(encoded("PNG", size=(500, 400))) == "png"
    assert judged(encoded("PNG", size=(501, 400))) == "pixels"
    assert judged(encoded("PNG", size=(32, 500))) == "png"
    assert judged(encoded("PNG", size=(31, 500))) == "pixels"


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_frames_are_counted_at_the_limit(format: str) -> None:
    frames = [Image.new("RGB", (40, 40), (5 * n, 0, 9)) for n in range(10)]
    file = BytesIO()
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    with Image.open(BytesIO(file.getvalue())) as image:
        assert image.n_frames == 10  # type: ignore[attr-defined]
    assert judged(file.getvalue(), replace(LIMITS, max_frames=10)) == FORMATS[format]
    assert judged(file.getvalue(), replace(LIMITS, max_frames=9)) == "pixels"


def test_an_animation_is_refused_before_its_frames_are_read() -> None:
    content = gif_of_frames(400_000)
    started = time.process_time()
    assert judged(content) == "pixels"
    assert time.process_time() - started < 0.5


def test_metadata_is_counted_whatever_it_is_called() -> None:
    jpeg = encoded("JPEG")
    limits = replace(LIMITS, max_metadata_bytes=100_000)
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xFE):
        segment = jpeg_segment(marker, bytes(60_000))
        assert judged(with_jpeg_segments(jpeg, segment), limits) == "jpg"
        assert judged(with_jpeg_segments(jpeg, segment * 2), limits) == "bytes"
    exif = Image.Exif()
    exif[0x010E] = "x" * 150_000
    assert judged(encoded("WEBP", exif=exif), limits) == "bytes"
    assert judged(encoded("PNG", exif=exif), limits) == "bytes"
    assert judged(encoded("GIF", comment=b"x" * 150_000), limits) == "bytes"
    assert judged(encoded("PNG", icc_profile=random.Random(0).randbytes(150_000)), limits) == "bytes"


def test_metadata_in_a_million_pieces_is_refused_at_once() -> None:
    """Gathering it takes a time that grows with the square of the pieces."""
    content = with_jpeg_segments(encoded("JPEG"), jpeg_segment(0xE1, b"Exif\0\0abcd") * 1_000_000)
    started = time.process_time()
    assert judged(content) == "bytes"
    assert time.process_time() - started < 0.5


def test_a_photograph_with_a_thumbnail_and_a_profile_is_taken() -> None:
    thumbnail = jpeg_segment(0xE1, b"Exif\0\0" + encoded("JPEG", progressive=True))
    content = with_jpeg_segments(encoded("JPEG", progressive=True), thumbnail + icc_segments(600_000))
    assert judged(content) == "jpg"


def test_scans_are_counted_at_the_limit() -> None:
    usual = encoded("JPEG", progressive=True).count(b"\xff\xda")
    assert judged(jpeg_of_scans(100 - usual)) == "jpg"
    assert judged(jpeg_of_scans(101 - usual)) == "damaged"


def test_only_so_many_pixels_are_decoded_at_once_and_none_waits_for_ever() -> None:
    share = PixelShare(100)
    lock = threading.Lock()
    held = most = 0

    def work(pixels: int) -> None:
        nonlocal held, most
        with share.take(pixels):
            with lock:
                held += min(pixels, 100)
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= min(pixels, 100)

    draw = random.Random(0)
    threads = [threading.Thread(target=work, args=(draw.choice([1, 30, 60, 100, 500]),)) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 <= most <= 100


def test_a_small_picture_does_not_overtake_a_large_one_that_waits() -> None:
    share = PixelShare(100)
    order: list[int] = []

    def work(pixels: int) -> None:
        with share.take(pixels):
            order.append(pixels)

    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in (100, 10)]
    with share.take(50):
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == [100, 10]
