"""Discriminability: how well the words that go with one noun can be told from each other (METHODS §2).

The talk's protocol: 6 to 8 words (fluffy dog, wet dog, …) of 50 images each, a multi-class linear classifier in
five-fold cross-validation, and its confusion matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tezawari.core.errors import UserError
from tezawari.core.progress import Progress
from tezawari.features.linear_svm import fit_many
from tezawari.words.intervals import repeated_cv_interval
from tezawari.words.recognisability import as_rows, held_out, require_images


@dataclass(frozen=True)
class Discriminability:
    """How well words are told from each other.

    ``confusion`` (K, K) counts images by their word (rows) and the word they were taken for (columns), in the order of
    ``words``, the mean over seeds. ``accuracy`` in [0, 1] is its diagonal's share; ``interval`` is the 95 % confidence
    interval of the mean of ``fold_accuracies`` (seeds, folds).
    """

    words: tuple[str, ...]
    confusion: np.ndarray
    accuracy: float
    interval: tuple[float, float]
    fold_accuracies: np.ndarray


def discriminability(
    images: Mapping[str, np.ndarray],
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    cost: float = 1.0,
    progress: Progress | None = None,
) -> Discriminability:
    """Tell each image's word from the others', as one word against the rest; the highest score wins.

    Features are taken as they are: a linear machine wants vectors of Euclidean norm 1. No image may be of two words:
    it would be learnt as one and tested as the other.

    Args:
        images: for each word its images' features (P, D).
        folds: at least 2; each has its share of every word's images.
        seeds: each divides the images anew.
        cost: C of the machines (:func:`fit_many`; scikit-learn's ``LinearSVC`` has 1 too).
        progress: called with (words done, words in all).

    Raises:
        UserError: fewer than two words, or a word of fewer images than folds.
        ValueError: features of other shapes or not finite, fewer than 2 folds, or no seed.
    """
    if len(images) < 2:
        raise UserError(f"discriminability needs at least two words, not {len(images)}: name another")
    require_images({word: len(features) for word, features in images.items()}, folds)
    rows = torch.cat([as_rows(features) for features in images.values()])
    words = np.arange(len(images))
    truth = np.repeat(words, [len(features) for features in images.values()])
    out = np.concatenate([held_out(len(features), folds, seeds) for features in images.values()], axis=1)
    targets = np.where(out, 0, np.where(truth == words[:, None, None], 1, -1))
    machines = fit_many(rows, torch.from_numpy(targets), cost=cost, progress=progress)
    taken_for = machines.decide(rows).argmax(dim=0).numpy()
    confusion = np.zeros((len(images), len(images)))
    np.add.at(confusion, (np.broadcast_to(truth, out.shape)[out], taken_for[out]), 1 / len(seeds))
    accuracies = np.array([(taken[mask] == truth[mask]).mean() for taken, mask in zip(taken_for, out)])
    parts = accuracies.reshape(len(seeds), folds)
    accuracy = float(np.trace(confusion) / confusion.sum())
    return Discriminability(tuple(images), confusion, accuracy, repeated_cv_interval(parts, len(truth)), parts)
