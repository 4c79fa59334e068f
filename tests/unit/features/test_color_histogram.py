"""Colour histograms against counting by hand, and against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2lab

from tezawari.features.color_histogram import _LAB_BOUNDS, ColorSpace, color_histogram


def _noise(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_rgb_histogram_is_numpys() -> None:
    image = _noise(0)
    counts, _ = np.histogramdd(image.reshape(-1, 3), bins=5, range=[(0, 256)] * 3)
    # Integers fall into a bin by floor(value · bins / 256), just as real numbers do.
    np.testing.assert_allclose(color_histogram(image, 5, "rgb"), np.sqrt(counts.ravel() / 600), rtol=1e-6)


def test_lab_histogram_is_numpys() -> None:
    image = _noise(1)
    lab = rgb2lab(image.astype(np.float32) / 255).reshape(-1, 3)
    counts, _ = np.histogramdd(lab, bins=4, range=_LAB_BOUNDS)
    np.testing.assert_allclose(color_histogram(image, 4, "lab") ** 2, counts.ravel() / 600, atol=2 / 600)


def test_the_bounds_of_lab_are_those_of_srgb() -> None:
    side = np.linspace(0, 1, 52)
    faces = np.stack(np.meshgrid(side, side, side), -1).reshape(-1, 3)
    lab = rgb2lab(faces[None])[0]
    for channel, (low, high) in enumerate(_LAB_BOUNDS):
        assert low <= lab[:, channel].min() + 0.01
        assert high >= lab[:, channel].max() - 0.01
        assert lab[:, channel].max() - lab[:, channel].min() > 0.99 * (high - low)


@given(seed=st.integers(0, 99), bins=st.integers(1, 9), space=st.sampled_from(["rgb", "lab"]))
@settings(max_examples=20, deadline=None)
def test_its_square_is_a_distribution_that_does_not_know_where(seed: int, bins: int, space: ColorSpace) -> None:
    image = _noise(seed)
    histogram = color_histogram(image, bins, space)
    assert histogram.shape == (bins**3,)
    assert histogram.dtype == np.float32
    assert (histogram**2).sum() == pytest.approx(1, abs=1e-5)
    moved = np.random.default_rng(seed).permutation(image.reshape(-1, 3)).reshape(30, 20, 3)
    np.testing.assert_array_equal(color_histogram(moved, bins, space), histogram)
    np.testing.assert_allclose(color_histogram(image.repeat(2, 0), bins, space), histogram, rtol=1e-6)


def test_distance_is_hellingers() -> None:
    one, other = np.zeros((1, 4, 3), np.uint8), np.zeros((1, 4, 3), np.uint8)
    other[0, :3] = 255  # a quarter of the pixels agree
    assert color_histogram(one) @ color_histogram(other) == pytest.approx(np.sqrt(1 * 0.25))


def test_greys_of_a_noisy_photo_fall_into_one_bin_a_lightness() -> None:
    """A tint that nobody sees must not move a grey to another bin."""
    grey = np.full((40, 40, 3), 128, np.int64) + np.random.default_rng(0).integers(-2, 3, (40, 40, 3))
    assert (color_histogram(grey.astype(np.uint8), 8) > 0).sum() <= 2


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        color_histogram(image)


def test_an_unknown_space_is_refused() -> None:
    with pytest.raises(ValueError, match="lab"):
        color_histogram(_noise(0), 8, "hsv")  # type: ignore[arg-type]
