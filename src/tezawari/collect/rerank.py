"""Re-ranking what a search found: the first results teach a classifier what the word looks like.

Two passes as in the talk: the search's top 10 against random images rank all results, the new top 20 rank them again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tezawari.core.errors import UserError
from tezawari.features.linear_svm import fit_many

log = logging.getLogger(__name__)

POSITIVES_OF_PASS = (10, 20)


@dataclass(frozen=True)
class Pass:
    """What one pass says of N images, in the order of the search.

    ``scores`` (N,) float32, higher is more like the word: decision values of the SVM, −inf for an image without a
    usable descriptor. ``ranks`` (N,) int64 from 1, a permutation; equal scores keep the order before the pass.
    ``positives``: the places of the images that the pass was taught as positives.
    """

    scores: np.ndarray
    ranks: np.ndarray
    positives: tuple[int, ...]


def rerank(
    descriptors: np.ndarray,
    negatives: np.ndarray,
    positives_of_pass: Sequence[int] = POSITIVES_OF_PASS,
    annotated_positive: Collection[int] = (),
    annotated_negative: Collection[int] = (),
    cost: float = 1.0,
    folds: int = 1,
) -> list[Pass]:
    """Rank the images of a search by a linear SVM that learns from the best of the ranking before (METHODS §2).

    The positives of a pass are the images annotated so, filled up to its number with the best of the ranking before it
    (of the search, for the first) that are not annotated; annotated negatives are always among the negatives. Equal
    descriptors, of duplicates, are taught once, and what equals an annotated negative is no positive unless annotated.
    Annotations change scores only through the SVM: an annotated negative may be ranked anywhere.

    With ``folds`` of 2 or more, positives are scored by SVMs that did not train on them, as in cross-validation. [ours]

    Args:
        descriptors: (N, D), rows L2-normalised, in the order of the search. A row that is not finite, or zero, is never
            taught, and ranked last.
        negatives: (M, D) of random images; rows that are not finite are left out.
        positives_of_pass: how many positives each pass is taught, each at least 1. Where fewer images are usable, all
            of them are.
        annotated_positive: places in ``descriptors``.
        annotated_negative: places in ``descriptors``.
        cost: C of the SVM.
        folds: 1, or into how many parts the positives are divided.

    Returns:
        One :class:`Pass` for each of ``positives_of_pass``. Without a usable image or a usable negative nothing can be
        learnt: scores are 0 (−inf for unusable ones) and the ranks keep the order of the search.

    Raises:
        UserError: an image annotated as both.
        ValueError: shapes that do not fit, a place outside of the descriptors, or a number below 1.
    """
    count = len(descriptors)
    _check(descriptors, negatives, positives_of_pass, {*annotated_positive, *annotated_negative}, folds)
    both = sorted({*annotated_positive} & {*annotated_negative})
    if both:
        raise UserError(f"image {both[0] + 1} of the search is annotated both as positive and as negative: keep one")
    usable = np.isfinite(descriptors).all(axis=1) & (np.abs(np.nan_to_num(descriptors)).max(axis=1, initial=0) > 0)
    against = np.concatenate(
        [
            negatives[np.isfinite(negatives).all(axis=1)],
            descriptors[[i for i in sorted(annotated_negative) if usable[i]]],
        ]
    ).astype(np.float32)
    order = np.argsort(~usable, kind="stable")
    passes = []
    for wanted in positives_of_pass:
        positives = _choose(order, descriptors, usable, wanted, annotated_positive, annotated_negative)
        scores = np.where(usable, 0, -np.inf).astype(np.float32)
        if positives and len(against):
            scores[usable] = _scores(descriptors, usable, positives, against, cost, folds)
        # `order` first: equal scores keep it.
        order = order[np.argsort(-scores[order], kind="stable")]
        ranks = np.empty(count, np.int64)
        ranks[order] = np.arange(1, count + 1)
        passes.append(Pass(scores, ranks, tuple(positives)))
    return passes


def _check(
    descriptors: np.ndarray, negatives: np.ndarray, wanted: Sequence[int], annotated: Collection[int], folds: int
) -> None:
    if descriptors.ndim != 2 or negatives.ndim != 2 or descriptors.shape[1] != negatives.shape[1]:
        raise ValueError(f"descriptors are (N, D) and (M, D), not {descriptors.shape} and {negatives.shape}")
    if any(number < 1 for number in wanted) or folds < 1:
        raise ValueError(f"positives of a pass ({list(wanted)}) and folds ({folds}) are at least 1")
    for place in annotated:
        if not 0 <= place < len(descriptors):
            raise ValueError(f"annotated image {place} is none of {len(descriptors)}")


def _choose(
    order: np.ndarray,
    descriptors: np.ndarray,
    usable: np.ndarray,
    wanted: int,
    annotated_positive: Collection[int],
    annotated_negative: Collection[int],
) -> list[int]:
    """Return the places of a pass's positives: the annotated ones, then the best of ``order``, no two alike."""
    seen = {descriptors[place].tobytes() for place in annotated_negative}
    certain = {descriptors[place].tobytes(): place for place in sorted(annotated_positive) if usable[place]}
    chosen = list(certain.values())
    seen |= certain.keys()
    for place in order.tolist():
        content = descriptors[place].tobytes()
        if len(chosen) >= wanted:
            break
        if usable[place] and content not in seen:
            chosen.append(place)
            seen.add(content)
    return chosen


def _scores(
    descriptors: np.ndarray, usable: np.ndarray, positives: list[int], against: np.ndarray, cost: float, folds: int
) -> np.ndarray:
    """Return the decision values of the usable images, those of positives out of fold where there are folds."""
    taught = torch.from_numpy(np.concatenate([against, descriptors[positives].astype(np.float32)]))
    parts = min(folds, len(positives))
    # Problem 0 is taught all; problem f all but every parts-th positive.
    targets = torch.ones(1, 1 + (parts if parts > 1 else 0), len(taught))
    targets[..., : len(against)] = -1
    fold_of = np.arange(len(positives)) % parts
    for fold in range(targets.shape[1] - 1):
        targets[0, 1 + fold, len(against) + torch.from_numpy(np.flatnonzero(fold_of == fold))] = 0
    machines = fit_many(taught, targets, cost=cost)
    values = machines.decide(torch.from_numpy(descriptors[usable].astype(np.float32)))[0].numpy()
    scores = values[0].copy()
    if parts > 1:
        row_of = np.cumsum(usable) - 1
        for place, fold in zip(positives, fold_of.tolist()):
            scores[row_of[place]] = values[1 + fold, row_of[place]]
    return scores
