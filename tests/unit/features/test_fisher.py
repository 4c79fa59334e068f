"""Fisher vectors against their derivatives taken numerically, SIFT against geometry, and encoders in files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import norm
from sklearn.svm import LinearSVC

from tezawari.core.errors import UserError
from tezawari.features.fisher import (
    FisherEncoder,
    dense_sift,
    fit_descriptors,
    fit_fisher,
    keypoint_sift,
    load_fisher,
    sift,
)

pytest.importorskip("cv2", reason="SIFT needs OpenCV")


def _texture(seed: int, angle: float = 0.0, side: int = 72) -> np.ndarray:
    """Noise stretched along ``angle`` degrees, at a random place."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((2 * side, 2 * side)), (1, 6))
    turned = ndimage.rotate(noise, angle, reshape=False)[side // 2 :, side // 2 :][:side, :side]
    grey = 128 + 50 * turned / turned.std()
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


def _descriptors(seed: int, count: int) -> np.ndarray:
    """Three blobs in 128 dimensions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).uniform(0, 0.2, (3, 128))
    return (centres[rng.integers(3, size=count)] + 0.02 * rng.standard_normal((count, 128))).astype(np.float32)


@pytest.fixture(scope="module")
def encoder() -> FisherEncoder:
    return fit_fisher([_texture(n, 30 * n) for n in range(6)], components=8, dimensions=16, descriptors=3000)


def _log_likelihood(rows: np.ndarray, weights: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> float:
    density = norm.logpdf(rows[:, None], means, deviations).sum(axis=2)
    return float(np.log(np.exp(density) @ weights).mean())


def test_it_is_the_normalised_gradient_of_the_log_likelihood() -> None:
    """By central differences in each mean and standard deviation, scaled by Fisher's information, rooted, norm 1."""
    rng = np.random.default_rng(1)
    weights, means, deviations = np.array([0.3, 0.7]), rng.standard_normal((2, 3)), rng.uniform(0.5, 2, (2, 3))
    axes = np.linalg.qr(rng.standard_normal((128, 3)))[0].T
    centre = rng.standard_normal(128)
    rows = rng.standard_normal((20, 128))
    encoder = FisherEncoder("dense", centre, axes, weights, means, deviations**2)
    laid, step = (rows - centre) @ axes.T, 1e-5
    expected = []
    for parameters, information in ((means, 1.0), (deviations, 2.0)):
        for k, d in np.ndindex(2, 3):
            sides = []
            for change in (step, -step):
                parameters[k, d] += change
                sides.append(_log_likelihood(laid, weights, means, deviations))
                parameters[k, d] -= change
            gradient = (sides[0] - sides[1]) / (2 * step)
            expected.append(gradient * deviations[k, d] / np.sqrt(information * weights[k]))
    rooted = np.sign(expected) * np.sqrt(np.abs(expected))
    wanted = rooted / np.linalg.norm(rooted)
    found = encoder.encode_descriptors(rows)
    assert found.shape == (encoder.size,) == (12,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:6], wanted[:6], atol=1e-5)
    # scikit-image takes the derivatives by the deviations with the other sign, which no linear classifier notices.
    np.testing.assert_allclose(-found[6:], wanted[6:], atol=1e-5)


def test_it_does_not_know_where_nor_how_many(encoder: FisherEncoder) -> None:
    found = sift(_texture(7), "dense")
    mixed = np.random.default_rng(0).permutation(found)
    one = encoder.encode_descriptors(found)
    np.testing.assert_allclose(encoder.encode_descriptors(mixed), one, atol=1e-4)
    np.testing.assert_allclose(encoder.encode_descriptors(np.concatenate([found, mixed])), one, atol=1e-4)


def test_an_image_is_encoded_by_its_descriptors(encoder: FisherEncoder) -> None:
    image = _texture(8)
    vector = encoder.encode(image)
    np.testing.assert_array_equal(vector, encoder.encode_descriptors(dense_sift(image)))
    assert vector.shape == (2 * 8 * 16,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_what_the_mixture_was_fitted_to_has_hardly_a_gradient() -> None:
    """At the optimum the gradient vanishes; other descriptors pull the mixture away."""
    drawn = _descriptors(2, 2000)
    encoder = fit_descriptors(drawn, components=3, dimensions=4)
    from skimage.feature import fisher_vector

    def pull(rows: np.ndarray) -> float:
        return float(np.linalg.norm(fisher_vector((rows - encoder.mean) @ encoder.axes.T, encoder._mixture)[3:]))

    assert pull(drawn) < 0.02
    assert pull(drawn + np.float32(0.02)) > 10 * pull(drawn)


def test_an_image_without_descriptors_has_a_vector_of_zeros() -> None:
    encoder = fit_descriptors(_descriptors(3, 50), components=2, dimensions=3, sampling="keypoints")
    np.testing.assert_array_equal(encoder.encode(np.full((40, 40, 3), 90, np.uint8)), np.zeros(12, np.float32))


def test_256_components_of_all_values_have_the_talks_length() -> None:
    values = np.ones((256, 128), np.float32)
    encoder = FisherEncoder("dense", values[0], np.eye(128), values[:, 0] / 256, values, values)
    assert encoder.size == 65_536


def test_without_principal_axes_descriptors_stay_as_they_are() -> None:
    encoder = fit_descriptors(_descriptors(4, 100), components=3, dimensions=None)
    assert encoder.means.shape == (3, 128)
    np.testing.assert_array_equal((np.eye(128) - encoder.mean) @ encoder.axes.T, np.eye(128))
    centres = np.random.default_rng(0).uniform(0, 0.2, (3, 128))
    nearest = np.linalg.norm(encoder.means[:, None] - centres, axis=2).min(axis=1)
    assert (nearest < 0.1).all()


def test_textures_are_told_apart(encoder: FisherEncoder) -> None:
    """A linear machine on vectors of unseen images knows how the grain runs, which no colour says."""
    angles = [0, 60, 120]
    vectors = np.stack([encoder.encode(_texture(100 + n, angles[n % 3])) for n in range(24)])
    truth = np.arange(24) % 3
    machine = LinearSVC().fit(vectors[:12], truth[:12])
    assert machine.score(vectors[12:], truth[12:]) == 1


def test_the_seed_decides() -> None:
    images = [_texture(n) for n in range(3)]
    first, again = (fit_fisher(images, components=4, dimensions=8, descriptors=300, seed=1) for _ in range(2))
    other = fit_fisher(images, components=4, dimensions=8, descriptors=300, seed=2)
    np.testing.assert_array_equal(first.means, again.means)
    assert not np.allclose(first.means, other.means)


def test_each_image_gives_its_share() -> None:
    """A large image has many times the descriptors of a small one, and no more to say about the mixture."""
    calls: list[tuple[int, int]] = []
    images = [np.tile(_texture(0, 0), (3, 3, 1)), _texture(1, 90)]
    encoder = fit_fisher(
        images, components=2, dimensions=4, descriptors=200, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(1, 2), (2, 2)]
    shares = [
        np.random.default_rng([0, n]).permutation(sift(image, "dense"))[:100].mean(axis=0)
        for n, image in enumerate(images)
    ]
    whole = [sift(image, "dense").mean(axis=0) for image in images]
    halfway = np.linalg.norm(encoder.mean - (whole[0] + whole[1]) / 2)
    assert halfway < 0.3 * np.linalg.norm(whole[0] - whole[1])
    np.testing.assert_allclose(encoder.mean, np.mean(shares, axis=0), atol=0.02)


def test_a_saved_encoder_gives_the_same_vectors(encoder: FisherEncoder, tmp_path: Path) -> None:
    path = encoder.save(tmp_path / "fisher.safetensors")
    loaded = load_fisher(path)
    assert loaded.sampling == "dense"
    np.testing.assert_array_equal(loaded.encode(_texture(9)), encoder.encode(_texture(9)))
    assert [file.name for file in tmp_path.iterdir()] == ["fisher.safetensors"]


def test_a_file_that_holds_no_encoder_is_an_error_that_names_it(encoder: FisherEncoder, tmp_path: Path) -> None:
    path = tmp_path / "fisher.safetensors"
    with pytest.raises(UserError, match="there is no"):
        load_fisher(path)
    encoder.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"fisher\.safetensors cannot be read"):
        load_fisher(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"fisher\.safetensors cannot be read"):
        load_fisher(path)
    torch.save({"mean": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=r"fisher\.safetensors cannot be read"):
        load_fisher(path)
    unlike = FisherEncoder("dense", *(np.zeros(3, np.float32) for _ in range(4)), np.zeros((3, 2), np.float32))
    unlike.save(path)
    with pytest.raises(UserError, match=r"fisher\.safetensors cannot be read"):
        load_fisher(path)


def test_a_folder_that_is_not_there_is_an_error(encoder: FisherEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        encoder.save(tmp_path / "missing" / "fisher.safetensors")


def test_too_few_descriptors_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UserError, match="256 components"):
        fit_fisher([_texture(0, side=30)])
    with pytest.raises(UserError, match="have 0"):
        fit_fisher([], components=2)


def test_a_machine_without_opencv_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for take in (dense_sift, keypoint_sift):
        with pytest.raises(UserError, match=r"tezawari\[words\]"):
            take(_texture(0))


def test_the_grid_covers_the_image_with_squares_inside_of_it() -> None:
    image = _texture(0, side=72)[:50]
    found = dense_sift(image, step=6, bin_sizes=(4, 10))
    small = len(range(8, 43, 6)) * len(range(8, 65, 6))
    large = len(range(20, 31, 6)) * len(range(20, 53, 6))
    assert found.shape == (small + large, 128)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_bin_sees_what_lies_in_it() -> None:
    """A single vertical edge, in the second column of bins: all its gradient is there, and points right."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 12:] = 255
    (found,) = dense_sift(image, step=40, bin_sizes=(8,))
    bins = found.reshape(4, 4, 8)  # rows, columns, orientations from the right
    assert (bins.sum(axis=(0, 2)).argsort()[-1:] == [1]).all()
    assert bins[:, 1, 0].sum() > 0.6 * found.sum()
    (turned,) = dense_sift(np.rot90(image).copy(), step=40, bin_sizes=(8,))
    assert turned.reshape(4, 4, 8)[2, :, 2].sum() > 0.6 * turned.sum()


def test_a_larger_scale_sees_the_larger_image_alike() -> None:
    image = ndimage.gaussian_filter(_texture(3, 20, side=64), (2, 2, 0))
    double = ndimage.zoom(image, (2, 2, 1), order=1, mode="grid-constant", grid_mode=True)
    one = dense_sift(image, step=6, bin_sizes=(5,))
    other = dense_sift(double, step=12, bin_sizes=(10,))
    assert one.shape == other.shape
    assert np.median((one * other).sum(axis=1)) > 0.95


def test_descriptors_know_neither_brightness_nor_contrast() -> None:
    image = _texture(4)
    paler = (60 + image // 4 * 2).astype(np.uint8)
    assert np.median((dense_sift(image) * dense_sift(paler)).sum(axis=1)) > 0.98


def test_what_is_flat_has_descriptors_of_zeros_and_no_keypoints() -> None:
    flat = np.full((50, 50, 3), 77, np.uint8)
    assert len(dense_sift(flat)) > 0
    assert not dense_sift(flat).any()
    assert keypoint_sift(flat).shape == (0, 128)


def test_keypoints_are_found_again_in_a_turned_image() -> None:
    """Keypoints turn with the image, the grid does not."""
    image = ndimage.gaussian_filter(_texture(5, 10, side=120), (1, 1, 0))
    turned = np.rot90(image).copy()

    def best_match(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.median((one @ other.T).max(axis=1)))

    upright, round_ = keypoint_sift(image), keypoint_sift(turned)
    assert len(upright) > 20
    np.testing.assert_allclose(np.linalg.norm(upright, axis=1), 1, atol=1e-5)
    assert best_match(upright, round_) > 0.95
    assert best_match(upright, round_) > best_match(dense_sift(image), dense_sift(turned)) + 0.02


def test_an_image_smaller_than_a_square_has_no_descriptors() -> None:
    assert dense_sift(_texture(0)[:12, :12].copy()).shape == (0, 128)


@pytest.mark.parametrize("image", [np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32)])
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        sift(image, "dense")


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="keypoints"):
        sift(_texture(0), "sparse")  # type: ignore[arg-type]
