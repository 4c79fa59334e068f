"""How accuracy is measured: which images teach and which are tested (METHODS §9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

from tezawari.core.errors import UserError

Protocol = Literal["half", "5fold"]
TITLES: dict[Protocol, str] = {"half": "random half splits, averaged", "5fold": "5-fold, 60/20/20"}

_FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Places of images, ascending: to train on, to choose settings by (may be empty), and to test."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def make_splits(protocol: Protocol, labels: np.ndarray, halvings: int, seed: int) -> list[Split]:
    """Return the splits of a protocol: :func:`half_splits` or :func:`five_folds`."""
    return half_splits(labels, halvings, seed) if protocol == "half" else five_folds(labels, seed)


def half_splits(labels: np.ndarray, count: int, seed: int) -> list[Split]:
    """Return ``count`` random halvings of every class: one half to train on, the other to test.

    The protocol of the Flickr Material Database (Liu et al., CVPR 2010; Sharan et al., IJCV 2013). Of an odd number of
    images the larger half is trained on. [ours]

    Args:
        labels: (N,) integers.
        count: of halvings, each drawn anew.
        seed: of the draws; halving k is the same whatever ``count`` is.

    Raises:
        UserError: a class of fewer than two images.
    """
    return [
        _split([(places[: -(-len(places) // 2)], [], places[len(places) - len(places) // 2 :]) for places in shuffled])
        for shuffled in (_shuffled_classes(labels, seed, number, fewest=2) for number in range(count))
    ]


def five_folds(labels: np.ndarray, seed: int) -> list[Split]:
    """Return five splits: a fifth of every class to test, the next fifth to choose settings by, the rest to train on.

    Each image is tested once.

    Args:
        labels: (N,) integers.
        seed: divides each class.

    Raises:
        UserError: a class of fewer than five images.
    """
    shuffled = _shuffled_classes(labels, seed, 0, fewest=_FOLDS)
    splits = []
    for fold in range(_FOLDS):
        of_classes = []
        for places in shuffled:
            fifth = (np.arange(len(places)) - fold) % _FOLDS
            of_classes.append((places[fifth > 1], places[fifth == 1], places[fifth == 0]))
        splits.append(_split(of_classes))
    return splits


def mean_and_split_margin(accuracies: np.ndarray, test_by_train: float) -> tuple[float, float]:
    """Return the mean of accuracies (S,), S ≥ 2, and half of its 95 % confidence interval.

    Student's t with the variance multiplied by ``1/S + test_by_train`` (Nadeau & Bengio, 2003): splits share their
    images, so that more of them cannot make the interval arbitrarily narrow.

    Args:
        accuracies: of one method, one a split.
        test_by_train: tested images to a trained one, in a split.
    """
    count = len(accuracies)
    reach = student.ppf(0.975, count - 1) * (accuracies.var(ddof=1) * (1 / count + test_by_train)) ** 0.5
    return float(accuracies.mean()), float(reach)


def _shuffled_classes(labels: np.ndarray, seed: int, drawing: int, fewest: int) -> list[np.ndarray]:
    shuffled = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) < fewest:
            raise UserError(f"a class has {len(places)} images, and this protocol needs {fewest} of each: add some")
        shuffled.append(np.random.default_rng([seed, drawing, int(label)]).permutation(places))
    return shuffled


def _split(of_classes: list[tuple[np.ndarray, list[int] | np.ndarray, np.ndarray]]) -> Split:
    train, val, test = (np.sort(np.concatenate(part)).astype(np.int64) for part in zip(*of_classes))
    return Split(train, val, test)
