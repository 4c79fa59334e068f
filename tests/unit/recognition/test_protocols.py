"""The protocols' splits: who teaches, who chooses and who is tested; and the interval of a mean over splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from tezawari.core.errors import UserError
from tezawari.recognition.protocols import Split, five_folds, half_splits, make_splits, mean_and_split_margin

SIZES = st.lists(st.integers(5, 23), min_size=2, max_size=5)
SEEDS = st.integers(0, 2**32 - 1)


def _labels(sizes: list[int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def _counts(labels: np.ndarray, places: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels[places], minlength=classes)


def _same(first: Split, second: Split) -> bool:
    return all(np.array_equal(getattr(first, part), getattr(second, part)) for part in ("train", "val", "test"))


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_halves_share_every_class_and_no_image(sizes: list[int], seed: int) -> None:
    labels = _labels(sizes, seed)
    for split in half_splits(labels, 3, seed):
        assert sorted([*split.train, *split.test]) == list(range(len(labels)))
        assert len(split.val) == 0
        np.testing.assert_array_equal(_counts(labels, split.test, len(sizes)), np.array(sizes) // 2)


@settings(deadline=None)
@given(SIZES, SEEDS)
def test_five_folds_test_every_image_once_and_choose_by_it_once(sizes: list[int], seed: int) -> None:
    labels = _labels(sizes, seed)
    folds = five_folds(labels, seed)
    for part in ("test", "val"):
        assert sorted(np.concatenate([getattr(fold, part) for fold in folds])) == list(range(len(labels)))
    for number, fold in enumerate(folds):
        assert sorted([*fold.train, *fold.val, *fold.test]) == list(range(len(labels)))
        np.testing.assert_array_equal(fold.val, folds[(number + 1) % 5].test)
        for part, share in ((fold.train, 0.6), (fold.val, 0.2), (fold.test, 0.2)):
            assert (np.abs(_counts(labels, part, len(sizes)) - share * np.array(sizes)) < 1.5).all()


def test_halvings_differ_from_each_other_and_hang_on_nothing_but_the_seed() -> None:
    labels = _labels([20, 20], 0)
    three, five = half_splits(labels, 3, 7), half_splits(labels, 5, 7)
    assert all(_same(one, other) for one, other in zip(three, five))
    assert not _same(five[0], five[1])
    assert not _same(five[0], half_splits(labels, 1, 8)[0])
    assert not _same(five_folds(labels, 7)[0], five_folds(labels, 8)[0])
    assert _same(make_splits("half", labels, 2, 7)[1], three[1])
    assert _same(make_splits("5fold", labels, 2, 7)[4], five_folds(labels, 7)[4])


@pytest.mark.parametrize(("size", "protocol", "fewest"), [(1, "half", 2), (4, "5fold", 5)])
def test_a_class_that_cannot_be_divided_is_said(size: int, protocol: str, fewest: int) -> None:
    with pytest.raises(UserError, match=f"has {size} images, and this protocol needs {fewest}"):
        make_splits(protocol, np.repeat([0, 1], [9, size]), 2, 0)  # type: ignore[arg-type]


def test_a_margin_without_overlap_is_students_and_grows_with_it() -> None:
    accuracies = np.random.default_rng(0).normal(0.7, 0.05, 6)
    mean, margin = mean_and_split_margin(accuracies, 0.0)
    low, high = student.interval(0.95, 5, accuracies.mean(), accuracies.std(ddof=1) / 6**0.5)
    assert (mean - margin, mean + margin) == pytest.approx((low, high))
    assert mean_and_split_margin(accuracies, 1.0)[1] == pytest.approx(margin * 7**0.5)


def test_a_margin_holds_what_it_promises_for_overlapping_halves() -> None:
    """Splits of one small sample agree with each other more than with the truth: Student's interval is too short."""
    rng, covered, naive = np.random.default_rng(1), 0, 0
    for _ in range(300):
        right = rng.random(40) < 0.7
        accuracies = np.array([right[rng.permutation(40)[:20]].mean() for _ in range(10)])
        for ratio in (1.0, 0.0):
            mean, margin = mean_and_split_margin(accuracies, ratio)
            inside = abs(mean - 0.7) <= margin
            covered += inside * (ratio == 1.0)
            naive += inside * (ratio == 0.0)
    assert covered / 300 > 0.9
    assert naive / 300 < 0.8
