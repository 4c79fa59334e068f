"""Improved Fisher vectors of SIFT: an image as how its descriptors deviate from a mixture of Gaussians.

Differs from the talk: SIFT (Lowe, IJCV 2004) stands for SURF, which is patented and missing from OpenCV's wheels; both
have 128 values, and 256 components give the talk's 65,536. SIFT is taken densely by default [ours]: a texture has
something to say everywhere, not only at its blobs and corners. The optional package OpenCV computes it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from skimage.feature import fisher_vector
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from tezawari.core.errors import UserError
from tezawari.core.published import HEADER, write_published

Sampling = Literal["dense", "keypoints"]
Progress = Callable[[int, int], None]

_KIND = "fisher"
_TENSORS = ("mean", "axes", "weights", "means", "variances")
# OpenCV makes a bin 1.5 times as wide as the diameter of its keypoint.
_BIN_OF_KEYPOINT = 1.5
_EM_ITERATIONS = 30


@dataclass(frozen=True)
class FisherEncoder:
    """What is learnt from descriptors once, and turns any image into its Fisher vector.

    Of K components over D values: ``weights`` (K,), ``means`` (K, D) and ``variances`` (K, D) of the mixture. ``mean``
    (128,) is taken off a SIFT descriptor first, and ``axes`` (D, 128) are the principal axes it is laid on. All are
    float32. ``sampling`` says which descriptors of an image are taken.
    """

    sampling: Sampling
    mean: np.ndarray
    axes: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def size(self) -> int:
        """How many values a Fisher vector has: 2·K·D."""
        return 2 * self.means.size

    @cached_property
    def _mixture(self) -> GaussianMixture:
        mixture = GaussianMixture(len(self.weights), covariance_type="diag")
        mixture.weights_, mixture.means_, mixture.covariances_ = self.weights, self.means, self.variances
        mixture.precisions_cholesky_ = 1 / np.sqrt(self.variances)
        return mixture

    def encode(self, image: np.ndarray) -> np.ndarray:
        """Return the improved Fisher vector, (2·K·D,) float32, of an image (H, W, 3) uint8 RGB.

        Read images at about one size (``load_rgb(path, max_side=320)``): descriptors are taken at fixed scales in
        pixels. Raises ``ValueError`` for another shape or type.
        """
        return self.encode_descriptors(sift(image, self.sampling))

    def encode_descriptors(self, descriptors: np.ndarray) -> np.ndarray:
        """Return the improved Fisher vector, (2·K·D,) float32, of SIFT descriptors (N, 128).

        The gradients by the means, then by the standard deviations (Perronnin & Dance, 2007, without those by the
        weights), each value's signed square root, and the whole divided by its Euclidean norm (Perronnin et al., 2010,
        §3.1 and 3.2; without their spatial pyramid). The second half has scikit-image's sign, the opposite of the
        paper's, which no linear classifier notices. Without descriptors it is zero everywhere.
        """
        if len(descriptors) == 0:
            return np.zeros(self.size, np.float32)
        laid = (descriptors - self.mean) @ self.axes.T
        gradients = fisher_vector(laid, self._mixture)[len(self.weights) :]
        rooted = np.sign(gradients) * np.sqrt(np.abs(gradients))
        return (rooted / np.linalg.norm(rooted)).astype(np.float32)

    def save(self, path: Path) -> Path:
        """Write the encoder as safetensors, whole or not at all; return the path.

        Raises :class:`UserError` where the file system refuses.
        """
        tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _TENSORS}
        return write_published(path, tensors, {"format": 1, "kind": _KIND, "sampling": self.sampling})


def load_fisher(path: Path) -> FisherEncoder:
    """Read an encoder that :meth:`FisherEncoder.save` wrote; raises :class:`UserError` where the file holds none."""
    if not path.is_file():
        raise UserError(f"there is no Fisher encoder {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        tensors = load_file(path)
        if header.get("kind") != _KIND or header.get("sampling") not in get_args(Sampling):
            raise ValueError(f"its header says {header.get('kind', 'nothing')}")
        encoder = FisherEncoder(header["sampling"], **{name: tensors[name].numpy() for name in _TENSORS})
        k, d = encoder.means.shape
        if [getattr(encoder, name).shape for name in _TENSORS] != [(128,), (d, 128), (k,), (k, d), (k, d)]:
            raise ValueError("its tensors do not fit together")
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{path} cannot be read as a Fisher encoder ({error}): delete it, and it is made again"
        ) from error
    return encoder


def fit_fisher(
    images: Sequence[np.ndarray],
    components: int = 256,
    dimensions: int | None = 64,
    sampling: Sampling = "dense",
    descriptors: int = 100_000,
    seed: int = 0,
    progress: Progress | None = None,
) -> FisherEncoder:
    """Learn the principal axes and the mixture from some descriptors of each image.

    Args:
        images: (H, W, 3) uint8 RGB each; a sequence that reads them one by one will do.
        components: K.
        dimensions: D, how many principal axes are kept (Perronnin et al., 2010, §4: 64), or None for all 128 values
            as they are.
        sampling: :func:`sift`'s.
        descriptors: how many are drawn in all, equally many from each image as far as it has them.
        seed: of the draw and of the mixture's start.
        progress: called with (images done, images in all); fitting the mixture comes after.

    Raises:
        UserError: fewer descriptors than components or dimensions, or OpenCV is not installed.
    """
    share = -(-descriptors // max(1, len(images)))
    drawn = []
    for done, image in enumerate(images):
        found = sift(image, sampling)
        order = np.random.default_rng([seed, done]).permutation(len(found))
        drawn.append(found[order[:share]])
        if progress is not None:
            progress(done + 1, len(images))
    return fit_descriptors(
        np.concatenate([np.empty((0, 128), np.float32), *drawn]), components, dimensions, sampling, seed
    )


def fit_descriptors(
    descriptors: np.ndarray,
    components: int = 256,
    dimensions: int | None = 64,
    sampling: Sampling = "dense",
    seed: int = 0,
) -> FisherEncoder:
    """Learn what :func:`fit_fisher` does from descriptors (N, 128) that are already drawn; it says the rest."""
    needed = max(components, dimensions or 0)
    if len(descriptors) < needed:
        raise UserError(
            f"Fisher vectors of {components} components need at least {needed} descriptors, the images have "
            f"{len(descriptors)}: give more or larger images, or fewer components"
        )
    if dimensions is None:
        mean, axes = np.zeros(128, np.float32), np.eye(128, dtype=np.float32)
    else:
        pca = PCA(dimensions, random_state=seed).fit(descriptors)
        mean, axes = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
    mixture = GaussianMixture(components, covariance_type="diag", max_iter=_EM_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # A vocabulary needs no optimum: after these iterations the classifier no longer notices more of them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit((descriptors - mean) @ axes.T)
    fitted = (mixture.weights_, mixture.means_, mixture.covariances_)
    return FisherEncoder(sampling, mean, axes, *(values.astype(np.float32) for values in fitted))


def sift(image: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Return the SIFT descriptors, (N, 128) float32, of an image (H, W, 3) uint8 RGB.

    ``sampling``: ``"dense"`` is :func:`dense_sift`, ``"keypoints"`` is :func:`keypoint_sift`.

    Raises:
        ValueError: another sampling, or an image of another shape or type.
        UserError: OpenCV is not installed.
    """
    if sampling not in get_args(Sampling):
        raise ValueError(f"sampling is one of {', '.join(get_args(Sampling))}, not {sampling!r}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return dense_sift(image) if sampling == "dense" else keypoint_sift(image)


def dense_sift(image: np.ndarray, step: int = 6, bin_sizes: Sequence[int] = (4, 6, 8, 10)) -> np.ndarray:
    """Return upright SIFT descriptors, (N, 128) float32, on a grid: scale by scale, in reading order.

    Each is of a square of 4 × 4 bins that lies in the image; a smaller image has none, N = 0. [ours: grid and scales]

    Args:
        image: (H, W, 3) uint8 RGB.
        step: between the squares' centres, in pixels.
        bin_sizes: the sides of a bin, one a scale, in pixels.

    Raises:
        UserError: OpenCV is not installed.
    """
    cv2 = _opencv()
    height, width = image.shape[:2]
    squares = [
        cv2.KeyPoint(float(x), float(y), size / _BIN_OF_KEYPOINT, 0.0)
        for size in bin_sizes
        for y in range(2 * size, height - 2 * size + 1, step)
        for x in range(2 * size, width - 2 * size + 1, step)
    ]
    return _normalised(cv2.SIFT_create().compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), squares)[1])


def keypoint_sift(image: np.ndarray) -> np.ndarray:
    """Return the SIFT descriptors, (N, 128) float32, of an image's keypoints (Lowe, 2004).

    ``image`` is (H, W, 3) uint8 RGB. A picture without structure has none, N = 0.

    Raises:
        UserError: OpenCV is not installed.
    """
    cv2 = _opencv()
    return _normalised(cv2.SIFT_create().detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)[1])


def _normalised(found: np.ndarray | None) -> np.ndarray:
    """Bring what OpenCV found, 512 long and rounded, to Euclidean norm 1; descriptors of what is flat stay zero."""
    if found is None:
        return np.empty((0, 128), np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise UserError("Fisher vectors need OpenCV: type pip install 'tezawari[words]'") from error
    return cv2
