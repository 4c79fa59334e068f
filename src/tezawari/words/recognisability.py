"""Recognisability: how well a word's images can be told from random ones (METHODS §2).

The talk's protocol: 50 images of the word against 5,000 random ones, five-fold cross-validation, a linear support
vector machine and its average precision on what was held out. Chance is then about 1 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tezawari.core.errors import UserError
from tezawari.core.progress import Progress
from tezawari.features.linear_svm import fit_many
from tezawari.words.intervals import repeated_cv_interval

# Of the words' features that are copied at once: all of 122 words of a network's layer, 40 of Fisher vectors.
_MOST_VALUES = 64_000_000


@dataclass(frozen=True)
class Recognisability:
    """How recognisable a word is.

    ``average_precision`` in [0, 1] is the mean of ``fold_precisions`` (seeds, folds), ``interval`` its 95 % confidence
    interval (:func:`repeated_cv_interval`). ``positive_scores`` (P,) says how typical each of the word's images is:
    by how many standard deviations the classifier that had not seen it puts it above the random images that it had not
    seen either, the mean over seeds. [ours: unlike its decision values, these compare between folds]
    """

    word: str
    average_precision: float
    interval: tuple[float, float]
    fold_precisions: np.ndarray
    positive_scores: np.ndarray


def recognisability(
    positives: Mapping[str, np.ndarray],
    negatives: np.ndarray,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    cost: float = 1.0,
    progress: Progress | None = None,
) -> list[Recognisability]:
    """Measure how recognisable words are, in the order given; all words share the negatives and their folds.

    What a word gets does not depend on the words measured beside it. Features are taken as they are: a linear machine
    wants vectors of Euclidean norm 1. No image may be among both sides, nor twice on one: it would be learnt from and
    held out at once.

    Args:
        positives: for each word its images' features (P, D).
        negatives: random images' features (M, D).
        folds: at least 2.
        seeds: each divides the images anew.
        cost: C of the machines (:func:`fit_many`; scikit-learn's ``LinearSVC`` has 1 too).
        progress: called with (words done, words in all).

    Raises:
        UserError: no words, or fewer images, of a word or random ones, than folds.
        ValueError: features of other shapes or not finite, fewer than 2 folds, or no seed.
    """
    if not positives:
        raise UserError("recognisability needs at least one word: name one")
    require_images({**{word: len(rows) for word, rows in positives.items()}, "random images": len(negatives)}, folds)
    shared, words = as_rows(negatives), list(positives)
    negatives_out = held_out(len(negatives), folds, seeds)
    longest = max(len(rows) for rows in positives.values())
    at_once = max(1, _MOST_VALUES // (longest * shared.shape[1]))
    measured: list[Recognisability] = []
    for first in range(0, len(words), at_once):
        some = [as_rows(positives[word]) for word in words[first : first + at_once]]
        out = [held_out(len(rows), folds, seeds) for rows in some]
        own = pad_sequence(some, batch_first=True)
        machines = fit_many(
            shared,
            torch.from_numpy(np.where(negatives_out, 0, -1))[None],
            own,
            # What pads the shorter words has target 0: it takes no part.
            pad_sequence([torch.from_numpy((~mask).astype(np.int8).T) for mask in out], batch_first=True).mT,
            cost,
            progress=_continued(progress, first, len(words)),
        )
        own_scores, shared_scores = machines.decide_own(own).numpy(), machines.decide(shared).numpy()
        measured += [
            _measure(*of_word, negatives_out, len(seeds))
            for of_word in zip(words[first : first + at_once], own_scores, out, shared_scores)
        ]
    return measured


def require_images(counts: Mapping[str, int], folds: int) -> None:
    """Raise :class:`UserError` for a word of fewer images than folds, saying what to do about it."""
    for word, count in counts.items():
        if count < folds:
            raise UserError(f"{word}: {count} images are fewer than {folds} folds: collect more, or take fewer folds")


def as_rows(features: np.ndarray) -> Tensor:
    """Return features (N, D) as a float32 tensor, which shares their memory where it can."""
    # Torch warns of memory that is read-only, such as a cache that is mapped.
    return torch.from_numpy(np.require(features, np.float32, ["C", "W"]))


def held_out(count: int, folds: int, seeds: Sequence[int]) -> np.ndarray:
    """Return which of ``count`` images each fold of each seed holds out, (seeds · folds, count) bool.

    A function of the arguments alone. Each seed holds out each image once; sizes of folds differ by at most 1. Raises
    ``ValueError`` for fewer than 2 folds, or no seed.
    """
    if folds < 2 or len(seeds) == 0:
        raise ValueError(f"cross-validation needs at least 2 folds and a seed, not {folds} and {len(seeds)}")
    fold_of = [np.random.default_rng([seed, count]).permutation(count) % folds for seed in seeds]
    return np.concatenate([numbers == np.arange(folds)[:, None] for numbers in fold_of])


def average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Return the average precision, in (0, 1], of a ranking by the scores (P,) of positives and (M,) of negatives.

    The mean over positives of the precision among all that score at least as high: what scikit-learn's
    ``average_precision_score`` is, ties included, many times as fast.
    """
    right = (positives >= positives[:, None]).sum(axis=1)
    wrong = (negatives >= positives[:, None]).sum(axis=1)
    return float((right / (right + wrong)).mean())


def _continued(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Let a part that counts from 0 report to ``progress`` of the whole."""
    return None if progress is None else lambda done, _: progress(before + done, total)


def _measure(
    word: str, own: np.ndarray, out: np.ndarray, shared: np.ndarray, shared_out: np.ndarray, seeds: int
) -> Recognisability:
    """Judge a word by decision values (F, P) of its images and (F, M) of random ones, where they were held out."""
    precisions = np.empty(len(out))
    scores = np.zeros(out.shape)
    for fold, (mine, others) in enumerate(zip(out, shared_out)):
        right, wrong = own[fold, : len(mine)][mine], shared[fold, others]
        precisions[fold] = average_precision(right, wrong)
        scores[fold, mine] = (right - wrong.mean()) / max(wrong.std(), np.finfo(np.float32).tiny)
    parts = precisions.reshape(seeds, -1)
    # A fold's row is zero but for what it held out, and each seed holds out each image once.
    interval = repeated_cv_interval(parts, out.shape[1])
    return Recognisability(word, float(parts.mean()), interval, parts, scores.sum(axis=0) / seeds)
