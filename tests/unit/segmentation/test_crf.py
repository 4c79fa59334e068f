"""The CRF by its properties and against its equations; what would crash the library is refused before it is called."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tezawari.core.errors import UserError
from tezawari.segmentation.crf import CrfParameters, refine, refine_many

densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")

_WIDTHS = ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb")
_NUMBERS = (*_WIDTHS, "gaussian_weight", "bilateral_weight")


def _two_halves(height: int = 24, width: int = 32) -> np.ndarray:
    """A dark left and a bright right half."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, width // 2 :] = 210
    return image


def _noisy(seed: int = 0, classes: int = 2, height: int = 24, width: int = 32) -> np.ndarray:
    scores = np.random.default_rng(seed).random((classes, height, width)) + 0.2
    return (scores / scores.sum(0)).astype(np.float32)


def test_noise_is_removed_up_to_the_edge_of_the_image() -> None:
    image, rng = _two_halves(), np.random.default_rng(0)
    truth = np.zeros(image.shape[:2], np.int64)
    truth[:, 16:] = 1
    said = np.where(rng.random(truth.shape) < 0.25, 1 - truth, truth)
    probabilities = np.where(np.arange(2)[:, None, None] == said, 0.6, 0.4).astype(np.float32)
    refined = refine(image, probabilities)
    assert (probabilities.argmax(0) != truth).mean() > 0.15
    assert (refined.argmax(0) == truth).all()


def test_the_result_is_a_distribution_and_repeats() -> None:
    image, probabilities = _two_halves(), _noisy(classes=3)
    refined = refine(image, probabilities)
    assert refined.shape == probabilities.shape
    assert refined.dtype == np.float32
    assert refined.flags.c_contiguous
    assert refined.min() >= 0
    np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(refined, refine(image, probabilities))


def test_classes_keep_their_order() -> None:
    image, probabilities, order = _two_halves(), _noisy(classes=3), [2, 0, 1]
    np.testing.assert_allclose(refine(image, probabilities[order]), refine(image, probabilities)[order], atol=1e-5)


def test_classes_of_probability_zero_change_no_label() -> None:
    image, probabilities = _two_halves(), _noisy(classes=3)
    refined = refine(image, np.concatenate([probabilities, np.zeros((18, 24, 32), np.float32)]))
    np.testing.assert_array_equal(refined.argmax(0), refine(image, probabilities).argmax(0))


def test_mirrored_images_have_mirrored_results() -> None:
    """The lattice is not symmetric, so only nearly; rows taken for columns would be far off."""
    image, probabilities = _two_halves(), _noisy(1)
    image[:8] = 120
    mirrored = refine(image[:, ::-1], probabilities[..., ::-1])[..., ::-1]
    assert (mirrored.argmax(0) == refine(image, probabilities).argmax(0)).mean() > 0.97


def test_one_iteration_is_close_to_the_papers_sum_over_all_pairs() -> None:
    """Krähenbühl & Koltun (2011), algorithm 1, by brute force: the lattice only approximates the kernels."""
    image, probabilities = _two_halves(9, 12), _noisy(2, height=9, width=12)
    parameters = CrfParameters(1, 2.0, 1.5, 6.0, 20.0, 2.0)
    y, x = (axis.ravel() for axis in np.mgrid[:9, :12])
    near = (x[:, None] - x) ** 2.0 + (y[:, None] - y) ** 2.0
    colors = image.reshape(-1, 3).astype(float)
    alike = ((colors[:, None] - colors) ** 2).sum(-1)
    flat = probabilities.reshape(2, -1).astype(float)
    message = np.zeros_like(flat)
    for kernel, weight in (
        (np.exp(-near / (2 * 2.0**2)), 1.5),
        (np.exp(-near / (2 * 6.0**2) - alike / (2 * 20.0**2)), 2.0),
    ):
        norm = 1 / np.sqrt(kernel.sum(1))
        message += weight * (norm * ((flat * norm) @ kernel))
    expected = flat * np.exp(message)
    expected /= expected.sum(0)
    refined = refine(image, probabilities, parameters).reshape(2, -1)
    assert np.abs(refined - expected).max() < 0.05
    assert np.abs(refined - expected).mean() < 0.2 * np.abs(flat - expected).mean()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1)])
def test_thin_images_have_results(height: int, width: int) -> None:
    refined = refine(np.zeros((height, width, 3), np.uint8), _noisy(3, 2, height, width))
    assert refined.shape == (2, height, width)
    assert np.isfinite(refined).all()


def test_a_single_class_is_certain_and_zeros_are_allowed() -> None:
    assert (refine(_two_halves(), np.ones((1, 24, 32), np.float32)) == 1).all()
    certain = np.zeros((2, 24, 32), np.float32)
    certain[0] = 1
    assert (refine(_two_halves(), certain).argmax(0) == 0).all()


def test_read_only_and_strided_arrays_are_taken() -> None:
    image, probabilities = _two_halves(48, 32), _noisy()
    image.setflags(write=False)
    strided = image[::2]
    np.testing.assert_array_equal(refine(strided, probabilities), refine(strided.copy(), probabilities))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _NUMBERS)
@pytest.mark.parametrize("value", [0, 0.0, -1, 1e-6, math.nan, math.inf, -math.inf, 1e39, "3", None, True])
def test_values_that_crash_or_mean_nothing_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^crf\.{name}=.*from 0.001 to 1e\+06.*crf\.{name}=\d"):
        CrfParameters(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 2.5, math.nan, 10**9, 3 * 10**9, True])
def test_iterations_are_a_whole_number(value: Any) -> None:
    with pytest.raises(UserError, match=r"^crf\.iterations=.*whole number from 1 to 1000"):
        CrfParameters(iterations=value)


_CRASHES = {
    "gaussian_sxy": "field.addPairwiseGaussian(sxy=0, compat=3)",
    "bilateral_sxy": "field.addPairwiseBilateral(sxy=0, srgb=13, rgbim=image, compat=10)",
    "bilateral_srgb": "field.addPairwiseBilateral(sxy=80, srgb=0, rgbim=image, compat=10)",
}


@pytest.mark.parametrize("name", _WIDTHS)
def test_the_library_still_crashes_where_it_is_guarded(name: str) -> None:
    """When this fails, the library has learnt to check, and the guard may be loosened."""
    script = (
        "import numpy as np\nfrom pydensecrf import densecrf\nimage = np.zeros((30, 40, 3), np.uint8)\n"
        "field = densecrf.DenseCRF2D(40, 30, 2)\n" + _CRASHES[name]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)
    assert done.returncode < 0


@pytest.mark.parametrize(
    ("narrow", "named"),
    [
        ({"gaussian_sxy": 0.001}, "crf.gaussian_sxy=0.001"),
        ({"bilateral_sxy": 0.001}, "crf.bilateral_sxy=0.001"),
        ({"bilateral_srgb": 0.001}, "crf.bilateral_sxy=50 with crf.bilateral_srgb=0.001"),
    ],
)
def test_kernels_too_narrow_for_the_image_are_refused(narrow: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=f"{re.escape(named)}.* is too small for an image of 32 × 24 pixels: take"):
        refine(_two_halves(), _noisy(), CrfParameters(**narrow))  # type: ignore[arg-type]


def test_the_same_kernel_is_wide_enough_for_a_small_image() -> None:
    probabilities = _noisy(0, 2, 500, 375)
    parameters = CrfParameters(iterations=1, gaussian_sxy=0.03)
    with pytest.raises(UserError, match="too small for an image of 375 × 500"):
        refine(np.zeros((500, 375, 3), np.uint8), probabilities, parameters)
    small = probabilities[:, :24, :32]
    assert np.isfinite(refine(_two_halves(), small, parameters)).all()


def test_images_beyond_memory_are_refused() -> None:
    """Fifty million pixels that take no memory themselves."""
    image = np.broadcast_to(np.zeros(3, np.uint8), (5000, 10000, 3))
    probabilities = np.broadcast_to(np.float32(0.5), (2, 5000, 10000))
    with pytest.raises(
        UserError, match=r"10000 × 5000 pixels with 2 classes is too large .* shrink it to 10000000 pix"
    ):
        refine(image, probabilities)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_probabilities_that_are_not_finite_are_refused(value: float) -> None:
    probabilities = _noisy()
    probabilities[1, 3, 4] = value
    with pytest.raises(UserError, match="not all finite"):
        refine(_two_halves(), probabilities)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image, p: (image.astype(np.float32), p),
        lambda image, p: (image[..., 0], p),
        lambda image, p: (image[:0], p[:, :0]),
        lambda image, p: (image, p[:, :-1]),
        lambda image, p: (image, p[:0]),
        lambda image, p: (image, p[0]),
        lambda image, p: (image, p * 0.9),
        lambda image, p: (image, np.stack([p[0] + 1, p[1] - 1])),
    ],
)
def test_arrays_of_other_kinds_are_refused(
    spoil: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> None:
    with pytest.raises(ValueError, match="must be"):
        refine(*spoil(_two_halves(), _noisy()))


def test_without_the_library_one_line_says_what_to_type() -> None:
    """In a process of its own, which also shows that importing the module needs neither the library nor PyTorch."""
    script = (
        "import sys\nsys.modules['pydensecrf'] = None\n"
        "from tezawari.segmentation.crf import refine_many\nassert 'torch' not in sys.modules\n"
        "from tezawari.core.errors import run_guarded\nsys.exit(run_guarded(lambda: refine_many([])))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'tezawari[segmentation]', or take crf=none" in done.stderr


# --- many images ------------------------------------------------------------------------------------------------------


def _pairs(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for seed in range(count):
        yield _two_halves(24, 32 + seed), _noisy(seed, 2 + seed % 2, 24, 32 + seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_many_are_refined_in_order_and_alike(workers: int) -> None:
    parameters = CrfParameters(iterations=3)
    together = list(refine_many(_pairs(7), parameters, workers))
    assert len(together) == 7
    for refined, (image, probabilities) in zip(together, _pairs(7)):
        np.testing.assert_array_equal(refined, refine(image, probabilities, parameters))


def test_pairs_are_taken_only_a_little_ahead() -> None:
    taken = itertools.count()
    endless = ((_two_halves(), _noisy()) for _ in taken)
    results = refine_many(endless, workers=1)
    next(results)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert next(taken) <= 4


def test_a_mistake_in_a_worker_comes_back_as_it_is() -> None:
    with pytest.raises(UserError, match=r"crf\.gaussian_sxy=0\.001 is too small"):
        list(refine_many(_pairs(2), CrfParameters(gaussian_sxy=0.001), workers=1))


class _Killer:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (7,)


def test_a_worker_that_dies_is_one_clear_line() -> None:
    fatal: Any = _Killer()
    with pytest.raises(UserError, match=r"died \(exit code 7\) at image 2, .* fewer workers") as caught:
        list(refine_many([*_pairs(1), (fatal, fatal), *_pairs(2)], workers=1))
    assert "\n" not in str(caught.value)


def test_workers_cannot_be_negative() -> None:
    with pytest.raises(UserError, match=r"crf\.workers=-1"):
        refine_many([], workers=-1)


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        "import itertools, os, signal\nimport numpy as np\n"
        "from tezawari.segmentation.crf import refine_many\n"
        "pair = np.zeros((8, 8, 3), np.uint8), np.full((2, 8, 8), 0.5, np.float32)\n"
        "results = refine_many(itertools.repeat(pair), workers=2)\nnext(results)\n"
        "print('working', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # Workers inherit the error stream, so reading it to its end waits for them too. The script guards no main module:
    # it is not imported again.
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "working\n")
