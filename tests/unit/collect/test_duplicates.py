"""Near duplicates: other versions of a picture join it, other pictures do not, flat ones never do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tests.unit.collect.store_material import encoded, picture

from tezawari.collect.duplicates import MOST_DIFFERENT_BITS, near_duplicates, perceptual_hash


def joined(*contents: bytes) -> list[int]:
    return near_duplicates([perceptual_hash(content) for content in contents])


@pytest.mark.parametrize(
    "other",
    [
        lambda p: encoded(p, quality=50),
        lambda p: encoded(p, "PNG"),
        lambda p: encoded(p, "WEBP", quality=60),
        lambda p: encoded(p.resize((600, 600), Image.Resampling.BICUBIC)),
        lambda p: encoded(p.resize((64, 64), Image.Resampling.BICUBIC)),
        lambda p: encoded(p.convert("L")),
        lambda p: encoded(p.convert("RGBA"), "PNG"),
        lambda p: encoded(p.quantize(64), "GIF"),
    ],
    ids=["quality", "png", "webp", "larger", "smaller", "grey", "alpha", "gif"],
)
def test_another_version_of_a_picture_joins_it(other: Callable[[Image.Image], bytes]) -> None:
    for seed in range(10):
        assert joined(encoded(picture(seed)), other(picture(seed))) == [0, 0]


def test_different_pictures_stay_apart() -> None:
    contents = [encoded(picture(seed)) for seed in range(60)]
    assert joined(*contents) == list(range(60))
    # A mirror image is another picture.
    assert joined(contents[0], encoded(ImageOps.mirror(picture(0)))) == [0, 1]


def test_a_picture_turned_by_its_exif_is_the_upright_one() -> None:
    turned = picture(0).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    assert joined(encoded(picture(0)), encoded(turned, exif=exif)) == [0, 0]
    assert joined(encoded(picture(0)), encoded(turned)) == [0, 1]


def test_16_bits_hash_like_8() -> None:
    grey = np.asarray(picture(3).convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert joined(encoded(Image.fromarray(grey), "PNG"), encoded(deep, "PNG")) == [0, 0]


def test_what_lies_under_transparency_does_not_count() -> None:
    shapes = []
    for hidden in ((255, 0, 0), (0, 0, 255)):
        rgba = picture(4).convert("RGBA")
        rgba.paste((*hidden, 0), (0, 0, 96, 40))
        shapes.append(encoded(rgba, "PNG"))
    assert perceptual_hash(shapes[0]) == perceptual_hash(shapes[1]) is not None


def _flat(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (96, 96), colour)


def _stripes(width: int, offset: int) -> Image.Image:
    row = np.where((np.arange(96) + offset) // width % 2, 230, 20).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (96, 96)).copy())


def _noisy(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(-3, 4, (96, 96))
    return Image.fromarray((200 + noise).astype(np.uint8))


@pytest.mark.parametrize(
    "pictures",
    [
        [_flat((200, 0, 0)), _flat((0, 0, 90))],
        [_stripes(12, 0), _stripes(12, 3)],
        [_noisy(0), _noisy(1)],
    ],
    ids=["flat", "stripes", "noise on a flat ground"],
)
def test_pictures_without_a_telling_hash_join_nothing(pictures: list[Image.Image]) -> None:
    contents = [encoded(each, "PNG") for each in pictures]
    assert [perceptual_hash(content) for content in contents] == [None, None]
    assert joined(*contents) == [0, 1]


def _hex(code: int) -> str:
    return f"{code:016x}"


def test_a_picture_joins_the_first_leader_and_chains_do_not_grow() -> None:
    steps = [0, 0b1111, 0b11111111, 0b111111111111]  # each 4 bits from the next
    assert near_duplicates([_hex(step) for step in steps]) == [0, 0, 2, 2]
    assert near_duplicates([_hex(0b111), _hex(0b111111), _hex(0b1111)]) == [0, 0, 0]
    assert near_duplicates([]) == []


_NEAR_HASHES = st.lists(st.none() | st.integers(0, 2**9 - 1).map(lambda code: code << 55), max_size=30)


@settings(max_examples=100, deadline=None)
@given(_NEAR_HASHES)
def test_joining_is_as_defined(codes: list[int | None]) -> None:
    expected: list[int] = []
    for place, code in enumerate(codes):
        near = (
            first
            for first in range(place)
            if expected[first] == first
            and code is not None
            and (other := codes[first]) is not None
            and (code ^ other).bit_count() <= MOST_DIFFERENT_BITS
        )
        expected.append(next(near, place))
    assert near_duplicates([None if code is None else _hex(code) for code in codes]) == expected


def test_a_jpeg_that_is_decoded_at_an_eighth_joins_its_small_version() -> None:
    large = encoded(picture(5).resize((3000, 3000), Image.Resampling.BICUBIC), quality=90)
    assert joined(large, encoded(picture(5))) == [0, 0]
