"""Labelled images: views and letterboxes of pixels and masks, and what a mask file may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.seeding import sample_rng
from tezawari.data import labelled_image
from tezawari.data.labelled_image import (
    IGNORE_INDEX,
    UNKNOWN,
    LabelledImage,
    PixelCache,
    letterbox,
    multi_hot,
    random_view,
    read_coded_mask,
)

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def blocks(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image in flat blocks and the mask of which colour is where, as no resampling can blur within a block."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 5, (4, 4)), np.ones((height // 4, width // 4))).astype(np.uint8)
    return np.stack([mask * 50, 255 - mask * 50, mask * 20 + 7], axis=-1), mask


class Draws:
    """A generator whose draws are given: shares of a range, and whole numbers."""

    def __init__(self, share: float, offsets: tuple[int, int], mirror: float) -> None:
        self.share, self.offsets, self.mirror = share, list(offsets), mirror

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.share

    def integers(self, below: int) -> int:
        offset = self.offsets.pop(0)
        assert offset < below
        return offset

    def random(self) -> float:
        return self.mirror


def test_a_view_of_no_resizing_is_the_pixels_where_they_were_put() -> None:
    pixels = noise(20, 32)
    mask = np.random.default_rng(1).integers(0, 9, (20, 32), np.uint8)
    for mirror in (0.9, 0.1):
        image, labels = random_view(pixels, mask, Draws(0.5, (7, 0), mirror), 32)  # type: ignore[arg-type]
        assert labels is not None
        if mirror < 0.5:
            image, labels = image.flip(2), labels.flip(1)
        assert np.array_equal(np.rint(image[:, 7:27].numpy().transpose(1, 2, 0) * 255), pixels)
        assert np.array_equal(labels[7:27].numpy(), mask)
        outside = torch.cat([image[:, :7], image[:, 27:]], 1)
        assert torch.equal(outside, MEAN.expand_as(outside))
        assert (torch.cat([labels[:7], labels[27:]]) == IGNORE_INDEX).all()


def test_a_view_larger_than_the_square_is_a_crop_of_the_whole_resized() -> None:
    y, x = np.mgrid[0:1:91j, 0:1:121j]
    smooth = np.rint(np.stack([x, y, (x + y) / 2], -1) * 255).astype(np.uint8)
    mask = (8 * x).astype(np.uint8)
    image, labels = random_view(smooth, mask, Draws(1.0, (3, 17), 0.9), 60, (0.5, 1.5))  # type: ignore[arg-type]
    # The whole at 90 × 68 by other means: area averages, then the pixel under each centre.
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(smooth).permute(2, 0, 1)[None].float() / 255, (68, 90), mode="bilinear", antialias=True
    )[0]
    assert (image - whole[:, 3:63, 17:77]).abs().max() < 0.01
    rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in ((68, 91), (90, 121)))
    expected = mask[rows.astype(int)[3:63, None], columns.astype(int)[None, 17:77]]
    assert labels is not None
    assert np.array_equal(labels.numpy(), expected)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (40, 40), (60, 100), (400, 300)])
def test_image_and_mask_of_a_view_show_the_same_places(height: int, width: int) -> None:
    pixels, mask = blocks(height, width)
    for index in range(20):
        image, labels = random_view(pixels, mask, sample_rng(0, 0, index), 48)
        assert image.shape == (3, 48, 48)
        assert image.dtype == torch.float32
        assert labels is not None
        assert labels.shape == (48, 48)
        assert labels.dtype == torch.int64
        outside = (image == MEAN).all(0)
        assert torch.equal(outside, labels == IGNORE_INDEX)
        shown = torch.where(outside, 0.0, labels * (50 / 255))
        # Only what lies on a border of blocks may differ, by its blur.
        off = ((image[0] - shown).abs() > 0.1) & ~outside
        within = (_spread(labels) == 0) & ~outside
        assert within.any()
        assert not (off & within).any()


def _spread(labels: torch.Tensor) -> torch.Tensor:
    """The range of the labels in each pixel's 5 × 5 surroundings."""
    values = labels[None].float()
    top = torch.nn.functional.max_pool2d(values, 5, 1, 2)
    return (top + torch.nn.functional.max_pool2d(-values, 5, 1, 2))[0]


def test_views_vary_in_scale_place_and_side_and_are_settled_by_their_generator() -> None:
    pixels = np.full((30, 60, 3), 255, np.uint8)
    pixels[:, :30] = 0
    shares, tops, dark_left = [], [], 0
    for index in range(400):
        image, none = random_view(pixels, None, sample_rng(3, 0, index), 40)
        assert none is None
        assert torch.equal(image, random_view(pixels, None, sample_rng(3, 0, index), 40)[0])
        inside = ~(image == MEAN).all(0)
        rows = inside.any(1).nonzero()
        shares.append(len(rows) / 20)
        tops.append(int(rows[0]))
        first = image[0][inside][0]
        dark_left += int(first < 0.5)
    assert 0.69 < min(shares) < 0.75
    assert 1.25 < max(shares) < 1.31
    assert min(tops) == 0
    assert max(tops) > 20
    assert 150 < dark_left < 250


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5000), (5000, 1), (3, 7), (6000, 8400)])
def test_tiny_thin_and_enormous_images_have_views(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 200, np.uint8)
    mask = np.full((height, width), 3, np.uint8)
    image, labels = random_view(pixels, mask, sample_rng(0, 0, 0), 32)
    boxed, boxed_labels, (_, _, shown_height, shown_width) = letterbox(pixels, 32, mask)
    assert labels is not None
    assert boxed_labels is not None
    for view, mask_view in ((image, labels), (boxed, boxed_labels)):
        assert set(mask_view.unique().tolist()) <= {3, IGNORE_INDEX}
        assert (mask_view == 3).any()
        assert torch.allclose(view[:, mask_view == 3], torch.tensor(200 / 255))
    assert max(shown_height, shown_width) == 32
    assert min(shown_height, shown_width) >= 1
    assert int((boxed_labels == 3).sum()) == shown_height * shown_width


@pytest.mark.parametrize(("height", "width", "box"), [(30, 60, (10, 0, 20, 40)), (81, 40, (0, 10, 40, 20))])
def test_a_letterbox_shows_the_whole_image_in_the_middle(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    pixels, mask = noise(height, width), np.arange(height * width).reshape(height, width).astype(np.uint8) % 7
    image, labels, found = letterbox(pixels, 40, mask)
    assert found == box
    top, left, shown_height, shown_width = box
    inside = image[:, top : top + shown_height, left : left + shown_width]
    expected = np.asarray(Image.fromarray(pixels).resize((shown_width, shown_height), Image.Resampling.BILINEAR))
    assert np.array_equal(np.rint(inside.numpy().transpose(1, 2, 0) * 255), expected)
    assert labels is not None
    assert int((labels != IGNORE_INDEX).sum()) == shown_height * shown_width
    assert torch.equal((image == MEAN).all(0), labels == IGNORE_INDEX)
    assert letterbox(pixels, 40)[1] is None


def test_a_mask_of_another_size_than_its_pixels_has_no_view() -> None:
    with pytest.raises(ValueError, match="the mask is of"):
        random_view(noise(8, 8), np.zeros((8, 9), np.uint8), sample_rng(0, 0, 0), 16)


# --- files ------------------------------------------------------------------------------------------------------------


def codes() -> np.ndarray:
    table = np.full(256, UNKNOWN, np.int16)
    table[[0, 1, 2, 255]] = [0, 2, 255, 255]
    return table


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_mask_file_means_what_its_codes_say(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    picture = Image.fromarray(values)
    if mode == "P":
        picture = picture.convert("P")
        picture.putdata(values.ravel().tolist())
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    picture.save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == mode
    read = read_coded_mask(tmp_path / "m.png", codes())
    assert read.dtype == np.uint8
    assert read.tolist() == [[0, 2, 255], [255, 2, 0]]


def test_mask_files_that_will_not_do_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    with pytest.raises(UserError, match=r"m\.png: there is no such mask"):
        read_coded_mask(path, codes())
    for mode in ("RGB", "I;16", "1", "LA"):
        Image.new(mode, (4, 3)).save(path)
        with pytest.raises(UserError, match=r"m\.png: a mask is a palette or grey picture of 8 bits"):
            read_coded_mask(path, codes())
    Image.fromarray(np.array([[0, 77], [3, 1]], np.uint8)).save(path)
    with pytest.raises(UserError, match=r"m\.png: holds 3, 77, which stand for no class \(0 … 2, 255"):
        read_coded_mask(path, codes())
    Image.fromarray(noise(40, 40)[..., 0]).save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"m\.png: the mask cannot be read"):
        read_coded_mask(path, codes())


def test_a_mask_must_have_its_images_size(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    Image.fromarray(noise(20, 30)).save(tmp_path / "a.png")
    loaded = LabelledImage("a", (0,), tmp_path / "a.png", mask).load_mask()
    assert loaded is not None
    assert loaded.shape == (20, 30)
    for image in (tmp_path / "a.png", noise(20, 30)):
        with pytest.raises(UserError, match="a: its mask has 20 × 30 pixels and the image 30 × 20"):
            LabelledImage("a", (0,), image, mask.T).load_mask()


def test_a_turned_photo_has_the_mask_of_how_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    example = LabelledImage("turned", (0,), tmp_path / "turned.jpg", np.zeros((30, 20), np.uint8))
    mask = example.load_mask()
    assert mask is not None
    assert mask.shape == example.load_image().shape[:2] == (30, 20)


def test_a_missing_or_damaged_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jpg: no such photo"):
        LabelledImage("a", (0,), tmp_path / "a.jpg").load_image()
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    damaged = LabelledImage("b", (0,), tmp_path / "b.jpg", np.zeros((2, 2), np.uint8))
    for load in (damaged.load_image, damaged.load_mask):
        with pytest.raises(UserError, match=r"b\.jpg: not a picture"):
            load()


def test_images_are_shrunk_when_asked_and_never_enlarged(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 80)).save(tmp_path / "a.png")
    for image in (noise(40, 80), tmp_path / "a.png"):
        example = LabelledImage("a", (0,), image, cache=PixelCache(1))
        assert example.load_image(20).shape == (10, 20, 3)
        assert np.array_equal(example.load_image(), noise(40, 80))
        assert np.array_equal(example.load_image(500), noise(40, 80))
    assert LabelledImage("a", (0,), tmp_path / "a.png", max_short_side=20).load_image().shape == (20, 40, 3)


def test_a_cache_decodes_once_what_fits_and_the_rest_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(noise(400, 400, number)).save(path)
    decoded = []
    load = labelled_image.load_rgb
    monkeypatch.setattr(labelled_image, "load_rgb", lambda path, *sides: decoded.append(path) or load(path, *sides))
    cache = PixelCache(1)
    for _ in range(2):
        for number, path in enumerate(paths):
            assert np.array_equal(cache.read(path), noise(400, 400, number))
    assert decoded == [*paths, *paths[2:]] or decoded == [*paths, *paths[1:]]
    assert len(decoded) == 3 + (3 - 2**20 // (400 * 400 * 3))


def test_labels_as_a_vector() -> None:
    assert multi_hot((0, 3), 5).tolist() == [1, 0, 0, 1, 0]
    assert multi_hot((), 2).tolist() == [0, 0]
