"""Masks from maps, masks as files and as pictures; what is no mask is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data.labelled_image import IGNORE_INDEX
from tezawari.segmentation.masks import (
    class_probabilities,
    heat_map,
    mask_of,
    overlay,
    read_mask,
    voc_colors,
    write_mask,
)


def _mask(seed: int = 0, size: tuple[int, int] = (7, 11)) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2, 20, 254, 255], size).astype(np.uint8)


# --- from maps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [0.01, 0.3, 0.97])
def test_a_pixel_is_its_largest_map_where_that_exceeds_the_background(background: float) -> None:
    maps = np.random.default_rng(0).random((3, 20, 30)).astype(np.float32)
    probabilities = class_probabilities(maps, background)
    assert probabilities.shape == (4, 20, 30)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    classes = [4, 0, 19]
    expected = np.where(maps.max(0) > background, np.array([5, 1, 20])[maps.argmax(0)], 0)
    np.testing.assert_array_equal(mask_of(probabilities, classes), expected)


def test_one_class_is_as_probable_as_its_log_odds_against_the_background_say() -> None:
    maps = torch.linspace(0.01, 0.99, 99).view(1, 9, 11)
    wanted = torch.sigmoid(torch.logit(maps[0]) - torch.logit(torch.tensor(0.8)))
    np.testing.assert_allclose(class_probabilities(maps, 0.8)[1], wanted.numpy(), rtol=1e-4)
    assert class_probabilities(np.ones((1, 1, 1)), 0.8)[1, 0, 0] > 0.99


def test_empty_maps_are_background_and_tensors_are_taken() -> None:
    probabilities = class_probabilities(torch.zeros(2, 4, 5), 0.2)
    assert (probabilities[0] == 1).all()
    assert (mask_of(probabilities, [0, 1]) == 0).all()
    assert class_probabilities(np.zeros((0, 4, 5), np.float32), 0.2).shape == (1, 4, 5)


def test_equal_scores_go_to_the_background() -> None:
    assert (mask_of(class_probabilities(np.full((2, 3, 3), 0.5), 0.5), [0, 1]) == 0).all()


@pytest.mark.parametrize("background", [0.0, -0.1, 1.0, float("nan"), 1e-60])
def test_background_scores_out_of_range_are_refused(background: float) -> None:
    with pytest.raises(UserError, match="background="):
        class_probabilities(np.zeros((1, 2, 2)), background)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_maps_out_of_range_are_refused(value: float) -> None:
    maps = np.zeros((1, 2, 2))
    maps[0, 1, 1] = value
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        class_probabilities(maps, 0.3)


def test_channels_and_places_must_fit() -> None:
    with pytest.raises(ValueError, match=r"2 classes need probabilities \(3, H, W\)"):
        mask_of(np.zeros((2, 4, 4)), [0, 1])
    with pytest.raises(ValueError, match="places"):
        mask_of(np.zeros((2, 4, 4)), [IGNORE_INDEX - 1])  # its value would be the one that is ignored


# --- files ------------------------------------------------------------------------------------------------------------


def test_masks_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.png"
    for mask in (_mask(), _mask(1).astype(np.int64), np.full((1, 1), 255, np.uint8)):
        write_mask(path, mask)
        read = read_mask(path, mask.shape)
        np.testing.assert_array_equal(read, mask)
        assert read.dtype == np.uint8
        assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    with Image.open(path) as picture:
        assert picture.mode == "P"


def test_colors_are_those_of_voc(shared_dir: Path) -> None:
    colors = voc_colors()
    assert colors[[0, 1, 2, 3, 8, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [224, 224, 192],
    ]
    assert len({tuple(color) for color in colors.tolist()}) == 256
    official = sorted((shared_dir / "data" / "VOC2012" / "SegmentationClassAug").glob("*.png"))
    path = next(file for file in official if Image.open(file).mode == "P")
    with Image.open(path) as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(palette, colors[: len(palette)])
        np.testing.assert_array_equal(read_mask(path), np.asarray(picture))


@pytest.mark.parametrize("mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((0, 3), np.uint8), np.full((2, 2), 0.5)])
def test_arrays_that_are_no_mask_are_not_written(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a mask must be"):
        write_mask(tmp_path / "a.png", mask)
    with pytest.raises(ValueError, match="a mask must be"):
        write_mask(tmp_path / "a.png", np.full((2, 2), 256))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"mask .*folder\.png could not be written"):
        write_mask(tmp_path / "folder.png", _mask())
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_grey_of_any_depth_is_read_by_its_levels(tmp_path: Path) -> None:
    mask = _mask()
    for depth, kind in ((np.uint8, "png"), (np.uint16, "png"), (np.int32, "tiff")):
        path = tmp_path / f"{np.dtype(depth).name}.{kind}"
        Image.fromarray(mask.astype(depth)).save(path)
        np.testing.assert_array_equal(read_mask(path), mask)
    path = tmp_path / "two.png"
    Image.fromarray(mask == 255).save(path)
    np.testing.assert_array_equal(read_mask(path), np.where(mask == 255, 255, 0))


def test_values_beyond_a_mask_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png holds values from 0 to 256"):
        read_mask(tmp_path / "deep.png")
    Image.fromarray(np.array([[-1, 5]], np.int32)).save(tmp_path / "signed.tiff")
    with pytest.raises(UserError, match=r"signed\.tiff holds values from -1 to 5"):
        read_mask(tmp_path / "signed.tiff")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_and_alpha_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"a\.png is of kind {mode}, not palette or grey.*indexed"):
        read_mask(tmp_path / "a.png")


def test_fractions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 0.5, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="of kind F, not palette or grey"):
        read_mask(tmp_path / "a.tiff")


def test_another_size_is_refused(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", _mask(size=(7, 11)))
    with pytest.raises(UserError, match=r"a\.png is 11 × 7 pixels, its image 7 × 11: resize"):
        read_mask(tmp_path / "a.png", (11, 7))


def test_missing_damaged_and_lossy_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no mask .*none\.png"):
        read_mask(tmp_path / "none.png")
    with pytest.raises(UserError, match="no mask"):
        read_mask(tmp_path)
    Image.fromarray(_mask(size=(64, 64))).save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg is damaged, or of a format .* PNG, not as JPEG"):
        read_mask(tmp_path / "a.jpg")
    for content in (b"", b"not a picture"):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(UserError, match=r"b\.png is damaged"):
            read_mask(tmp_path / "b.png")
    write_mask(tmp_path / "c.png", _mask(size=(200, 200)))
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"c\.png cannot be read"):
        read_mask(tmp_path / "c.png")


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_an_overlay_leaves_the_background_and_tints_the_rest() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 200, 3), dtype=np.uint8)
    mask = np.zeros((60, 200), np.uint8)
    mask[10:30, 20:60], mask[40:50, 100:150] = 2, IGNORE_INDEX
    picture = overlay(image, mask, ["cat", "dog"])
    assert picture.dtype == np.uint8
    upper = picture[:60, :200]
    np.testing.assert_array_equal(upper[mask == 0], image[mask == 0])
    tint = voc_colors()[2].astype(float)
    towards = np.abs(upper[mask == 2] - tint).sum() < np.abs(image[mask == 2] - tint).sum()
    assert towards
    assert (upper[mask == IGNORE_INDEX] != image[mask == IGNORE_INDEX]).any(-1).mean() > 0.9


def test_the_legend_shows_the_classes_in_the_mask_only() -> None:
    image, mask = np.full((40, 300, 3), 90, np.uint8), np.zeros((40, 300), np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, ["cat"]), image)
    mask[:5], mask[5:9] = 1, 3
    assert overlay(image, mask, None).shape == image.shape
    legend = overlay(image, mask, ["cat", "dog", "cow"])[40:]
    colors = {tuple(color) for color in legend.reshape(-1, 3).tolist()}
    chips = [tuple(voc_colors()[value].tolist()) for value in (1, 2, 3)]
    assert [chip in colors for chip in chips] == [True, False, True]
    # The name has ink of its own: another one looks different.
    assert (legend != overlay(image, mask, ["cat", "dog", "yak"])[40:]).any()


def test_long_legends_wrap_and_odd_cases_are_drawn() -> None:
    mask = np.arange(1, 31, dtype=np.uint8).repeat(4).reshape(1, -1).repeat(20, 0)
    image = np.zeros((*mask.shape, 3), np.uint8)
    names = [f"material {number}" for number in range(30)]
    wrapped, one = overlay(image, mask, names), overlay(image, np.minimum(mask, 1), names)
    assert wrapped.shape[0] > 5 * (one.shape[0] - 20) + 20
    assert wrapped.shape[1] == 120
    tiny = overlay(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 9, np.uint8), ["ふわふわ"])
    assert tiny.shape[0] > 1
    with pytest.raises(ValueError, match="differ in size"):
        overlay(image, mask[:, :-1], names)


def test_heat_rises_from_black_to_white() -> None:
    colors = heat_map(np.linspace(0, 1, 101)[None])
    assert colors.shape == (1, 101, 3)
    assert colors.dtype == np.uint8
    assert colors[0, 0].tolist() == [0, 0, 0]
    assert colors[0, -1].tolist() == [255, 255, 255]
    grey = colors[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(grey) > 0).all()
    np.testing.assert_array_equal(heat_map(torch.tensor([[-1.0, 2.0]]))[0], colors[0, [0, -1]])
