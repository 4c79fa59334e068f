"""Image region entropy: how visual a word is, by how alike the regions are that make up its images.

Yanai & Barnard, *Image region entropy: a measure of "visualness" of web images associated with one concept*, ACM MM
2005; METHODS §1. Low entropy: what sets the word's images apart from others looks alike, so the word is visual.

Regions come as arrays (R, F), one an image: :func:`describe_regions` of :func:`grid_labels` or
:func:`segment_labels`, or :func:`map_regions` of a network's layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.stats import entropy as entropy_of
from scipy.stats import t as student
from skimage.color import rgb2lab
from skimage.segmentation import slic
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tezawari.core.errors import UserError
from tezawari.core.progress import Progress

_TEXTURE_SCALES = (1.0, 2.0, 4.0)
_UNSEEN = 0.1**2
_EM_ITERATIONS = 100


@dataclass(frozen=True)
class RegionModel:
    """The generic mixture of step 4, and the space of region vectors that all mixtures are fitted in."""

    space: Pipeline
    mixture: GaussianMixture

    def place(self, regions: np.ndarray) -> np.ndarray:
        """Lay regions (R, F) into the space: (R, D)."""
        return self.space.transform(regions)

    def memberships(self, placed: np.ndarray) -> np.ndarray:
        """Return ``P(c_j|r_i)``, (R, K), of regions that are laid into the space, (R, D)."""
        return self.mixture.predict_proba(placed)


@dataclass(frozen=True)
class RegionEntropy:
    """How visual a word is.

    ``entropy`` is H(X) in bits, from 0 (one component) to log2 K, the mean over seeds; ``interval`` its 95 %
    confidence interval; ``fold_entropies`` (seeds, folds) are those with one fold of the images left out;
    ``components`` (K,) is ``P(c_j|X)``; ``region_scores`` holds ``P(X|r_i)``, (R,) an image. Both are means over seeds.
    """

    word: str
    entropy: float
    interval: tuple[float, float]
    fold_entropies: np.ndarray
    components: np.ndarray
    region_scores: list[np.ndarray]


def grid_labels(height: int, width: int, rows: int = 5, columns: int = 5) -> np.ndarray:
    """Return a label map (H, W) of ``rows`` × ``columns`` rectangles, numbered from 0 in reading order.

    Raises ``ValueError`` where there are fewer pixels than rectangles along a side.
    """
    if not 1 <= rows <= height or not 1 <= columns <= width:
        raise ValueError(f"{height} × {width} pixels do not give {rows} × {columns} regions")
    down, across = np.arange(height) * rows // height, np.arange(width) * columns // width
    return down[:, None] * columns + across


def segment_labels(image: np.ndarray, segments: int = 25) -> np.ndarray:
    """Return a label map (H, W), from 0, of about ``segments`` regions of like colour (SLIC; Achanta et al., 2012).

    ``image`` is (H, W, 3) uint8 RGB. Differs from the paper, which segments by JSEG.
    """
    return slic(image, n_segments=segments, start_label=0)


def describe_regions(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return colour and texture of each region, (R, 18) float64: a vector for each label, by rising number.

    Mean and standard deviation of L, a and b; then, at each of three scales (1, 2, 4 pixels), the logarithms of the
    mean squared gradient of L across and down, and of its mean squared Laplacian, and the share of the diagonal in its
    gradient, in [−1, 1]. [ours; the paper has colours, oriented filters and shape]

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) integers.

    Raises:
        ValueError: the sizes differ, or the image is of another kind.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or labels.shape != image.shape[:2]:
        raise ValueError(f"an image (H, W, 3) uint8 needs labels (H, W), not {image.shape} {labels.shape}")
    lab = rgb2lab(image)
    numbers = np.unique(labels)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.mean(values, labels, numbers))

    columns = [mean(lab[..., channel]) for channel in range(3)]
    columns += [np.asarray(ndimage.standard_deviation(lab[..., channel], labels, numbers)) for channel in range(3)]
    for scale in _TEXTURE_SCALES:
        across, down = (ndimage.gaussian_filter(lab[..., 0], scale, order) for order in ((0, 1), (1, 0)))
        curved = ndimage.gaussian_laplace(lab[..., 0], scale)
        energies = [mean(across**2), mean(down**2), mean(curved**2)]
        # A tenth of a level of lightness is not seen; without it, the logarithm of what is plain would be −∞.
        columns += [np.log(energy + _UNSEEN) for energy in energies]
        columns.append(2 * mean(across * down) / (energies[0] + energies[1] + _UNSEEN))
    return np.stack(columns, axis=1)


def map_regions(features: np.ndarray) -> np.ndarray:
    """Return a network's features (C, H, W) as one region a position, (H·W, C), in reading order."""
    return features.reshape(len(features), -1).T


def fit_region_model(
    regions: Sequence[np.ndarray], components: int = 250, dimensions: int | None = None, seed: int = 0
) -> RegionModel:
    """Fit the generic mixture to the regions of random images, once for all words.

    Vectors are standardised; with ``dimensions`` they are then laid on as many principal axes and scaled to variance 1
    on each, which the many channels of a network need. The mixture is diagonal there.

    Args:
        regions: (R, F) an image; R may differ.
        components: K (the paper: 250).
        dimensions: D, or None for all F.
        seed: of the mixture's start.

    Raises:
        UserError: fewer regions than components.
    """
    rows = np.concatenate(regions)
    if len(rows) < max(components, dimensions or 0):
        raise UserError(
            f"a generic mixture of {components} components needs at least as many regions, the {len(regions)} random "
            f"images have {len(rows)}: give more images, or fewer components"
        )
    steps = [StandardScaler()] if dimensions is None else [StandardScaler(), PCA(dimensions, whiten=True)]
    space = make_pipeline(*steps).fit(rows)
    return RegionModel(space, _fit_mixture(space.transform(rows), components, seed))


def score_regions(
    word: np.ndarray, others: np.ndarray, components: int = 15, kept: float = 0.25, iterations: int = 10, seed: int = 0
) -> np.ndarray:
    """Return ``P(X|r_i)``, (N,), of the regions of a word's images: steps 2 and 3.

    A mixture is fitted by EM to the regions of both sides. At first all regions of the word's images count as X, then
    the ``kept`` share with the highest ``P(X|r_i)`` [ours]; the rest joins the others, until the kept ones no longer
    change. The regions of both sides together stay the same, and with them the mixture, so it is fitted once.

    Args:
        word: (N, D), regions of the word's images.
        others: (M, D), regions of other images.
        components: of the mixture (the paper: about 15).
        kept: in (0, 1].
        iterations: at most as many.
        seed: of the mixture's start.
    """
    if not 0 < kept <= 1 or iterations < 1:
        raise ValueError(f"kept={kept} must lie in (0, 1] and iterations={iterations} be at least 1")
    rows = np.concatenate([word, others])
    memberships = _fit_mixture(rows, min(components, len(rows)), seed).predict_proba(rows)
    sizes = memberships.sum(axis=0)
    count = max(1, round(kept * len(word)))
    chosen = np.arange(len(word))
    for _ in range(iterations):
        of_word = memberships[chosen].sum(axis=0) / np.maximum(sizes, np.finfo(np.float64).tiny)
        scores = memberships[: len(word)] @ of_word
        best = best_rows(scores, count)
        if np.array_equal(best, chosen):
            break
        chosen = best
    return scores


def best_rows(scores: np.ndarray, count: int) -> np.ndarray:
    """Return where the ``count`` highest of ``scores`` (N,) are, in rising order; of equal ones the first."""
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def component_weights(memberships: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return ``Σ_i P(c_j|r_i) P(X|r_i)``, (K,), of memberships (N, K) and scores (N,): step 4 but for its sum."""
    return scores @ memberships


def entropy_in_bits(weights: np.ndarray) -> float:
    """Return ``−Σ_j p_j log2 p_j`` of non-negative weights (K,), normalised to p; ``ValueError`` for all zero."""
    if not weights.sum() > 0:
        raise ValueError("weights that are all zero have no entropy")
    return float(entropy_of(weights, base=2))


def region_entropy(
    words: Mapping[str, Sequence[np.ndarray]],
    others: Sequence[np.ndarray],
    model: RegionModel,
    components: int = 15,
    kept: float = 0.25,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    progress: Progress | None = None,
) -> list[RegionEntropy]:
    """Measure how visual words are, in the order given: steps 2 to 4 of METHODS §1.

    For each word and seed as many of the other images as the word has are drawn against it [ours], and step 4's sums
    run over the kept regions. An entropy grows with the number of images, so compare words that have equally many.

    The interval is a jackknife over folds of the word's images, with what :func:`score_regions` says held fixed, and
    the spread of the seeds beside it [ours].

    Args:
        words: for each word its images' regions, (R, F) an image.
        others: regions of images of other things, (R, F) an image.
        model: :func:`fit_region_model`'s, on random images.
        components, kept: :func:`score_regions`'s.
        folds: parts of the images, each left out once, at least 2.
        seeds: of the draw, the mixtures' starts and the folds.
        progress: called with (words done, words in all).

    Raises:
        UserError: a word of fewer images than folds, or no other images.
    """
    if folds < 2 or len(seeds) == 0:
        raise ValueError(f"an interval needs at least 2 folds and a seed, not {folds} and {len(seeds)}")
    if len(others) == 0:
        raise UserError("region entropy needs other images beside the word's: give some random ones")
    placed_others = [model.place(regions) for regions in others]
    measured = []
    for word, images in words.items():
        if len(images) < folds:
            raise UserError(
                f"{word}: {len(images)} images are fewer than {folds} folds: collect more, or take fewer folds"
            )
        placed = [model.place(regions) for regions in images]
        measured.append(_measure(word, placed, placed_others, model, components, kept, folds, seeds))
        if progress is not None:
            progress(len(measured), len(words))
    return measured


def _measure(
    word: str,
    images: list[np.ndarray],
    others: list[np.ndarray],
    model: RegionModel,
    components: int,
    kept: float,
    folds: int,
    seeds: Sequence[int],
) -> RegionEntropy:
    rows = np.concatenate(images)
    memberships = model.memberships(rows)
    sizes = [len(regions) for regions in images]
    image_of = np.repeat(np.arange(len(images)), sizes)
    scores_of, weights_of, entropies, left_out = [], [], [], []
    for seed in seeds:
        generator = np.random.default_rng([seed, len(images)])
        drawn = generator.permutation(len(others))[: len(images)]
        scores = score_regions(rows, np.concatenate([others[i] for i in drawn]), components, kept, seed=seed)
        best = best_rows(scores, max(1, round(kept * len(rows))))
        fold_of = generator.permutation(np.arange(len(images)) % folds)[image_of[best]]
        by_fold = np.stack(
            [component_weights(memberships[best[fold_of == f]], scores[best[fold_of == f]]) for f in range(folds)]
        )
        total = by_fold.sum(axis=0)
        scores_of.append(scores)
        weights_of.append(total / total.sum())
        entropies.append(entropy_in_bits(total))
        # A fold that holds all that was kept leaves nothing, and so no entropy.
        left_out.append([entropy_in_bits(rest) if (rest := total - part).sum() > 0 else 0.0 for part in by_fold])
    mean = float(np.mean(entropies))
    fold_entropies = np.array(left_out)
    return RegionEntropy(
        word,
        mean,
        _interval(np.array(entropies), fold_entropies, np.log2(memberships.shape[1])),
        fold_entropies,
        np.mean(weights_of, axis=0),
        np.split(np.mean(scores_of, axis=0), np.cumsum(sizes)[:-1]),
    )


def _interval(entropies: np.ndarray, left_out: np.ndarray, highest: float) -> tuple[float, float]:
    """Return the 95 % interval of the mean of ``entropies`` (S,), given those with a fold left out (S, folds)."""
    folds = left_out.shape[1]
    variance = (folds - 1) * left_out.mean(axis=0).var()
    if len(entropies) > 1:
        variance += entropies.var(ddof=1) / len(entropies)
    reach = student.ppf(0.975, folds - 1) * variance**0.5
    return max(0.0, float(entropies.mean() - reach)), min(highest, float(entropies.mean() + reach))


def _fit_mixture(rows: np.ndarray, components: int, seed: int) -> GaussianMixture:
    # Standardised values have variances of about 1, and a component of a few like regions must not shrink to a point.
    mixture = GaussianMixture(
        components, covariance_type="diag", reg_covar=1e-3, max_iter=_EM_ITERATIONS, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last steps of EM move no region to another component
        return mixture.fit(rows)
