"""Intervals against scipy's exact ones, and against how often they hold what is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from tezawari.words.intervals import mean_and_margin, repeated_cv_interval
from tezawari.words.measures import chance
from tezawari.words.recognisability import average_precision


def test_a_mean_has_students_interval() -> None:
    values = np.random.default_rng(0).normal(size=9)
    mean, margin = mean_and_margin(values)
    expected = stats.t.interval(0.95, 8, values.mean(), values.std(ddof=1) / 3)
    assert (mean - margin, mean + margin) == pytest.approx(expected)


@pytest.mark.parametrize("right", [0, 40])
def test_folds_that_agree_have_clopper_and_pearsons_interval(right: int) -> None:
    exact = stats.binomtest(right, 40).proportion_ci(method="exact")
    assert repeated_cv_interval(np.full((3, 5), right / 40), 40) == pytest.approx((exact.low, exact.high))


def test_no_more_images_count_than_there_are() -> None:
    parts = 0.5 + np.array([[1e-6, -1e-6, 0.0, 0.0, 0.0]])
    exact = stats.binomtest(20, 40).proportion_ci(method="exact")
    assert repeated_cv_interval(parts, 40) == pytest.approx((exact.low, exact.high), abs=1e-3)


def test_in_the_middle_it_is_about_students_with_the_folds_overlap() -> None:
    parts = np.array([[0.5, 0.52, 0.47, 0.53, 0.48]])
    low, high = repeated_cv_interval(parts, 10_000)
    plain = stats.t.interval(0.95, 4, loc=parts.mean(), scale=stats.sem(parts[0]))
    wider = np.sqrt(1 + 5 / 4)  # (1/5 + 1/4) instead of 1/5
    assert high - low == pytest.approx((plain[1] - plain[0]) * wider, rel=0.05)
    assert (low + high) / 2 == pytest.approx(parts.mean(), abs=0.01)


def test_repeating_the_same_never_makes_an_interval_narrower_than_the_images_allow() -> None:
    parts = np.random.default_rng(0).uniform(0.4, 0.6, (1, 5))
    low, high = repeated_cv_interval(np.repeat(parts, 1000, axis=0), 10_000)
    floor = 2 * stats.norm.ppf(0.975) * parts.std() * np.sqrt(1 / 4)
    assert floor * 0.97 < high - low < floor * 1.1


@given(
    arrays(
        np.float64, st.tuples(st.integers(1, 3), st.integers(2, 6)), elements=st.integers(0, 100).map(lambda n: n / 100)
    )
)
@settings(max_examples=60, deadline=None)
def test_it_holds_the_mean_within_what_a_share_can_be(parts: np.ndarray) -> None:
    low, high = repeated_cv_interval(parts, 50)
    assert 0 <= low <= parts.mean() <= high <= 1
    assert low < high
    mirrored = repeated_cv_interval(1 - parts, 50)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_it_holds_chance_where_students_is_too_narrow() -> None:
    """Of words that nothing tells from random images the truth is known: the mean over all orders."""
    rng = np.random.default_rng(1)
    truth, words = chance(10, 400), 150
    parts = np.array([[average_precision(rng.random(10), rng.random(400)) for _ in range(5)] for _ in range(words)])[
        :, None
    ]
    intervals = np.array([repeated_cv_interval(of_word, 50) for of_word in parts])
    held = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    reach = stats.t.ppf(0.975, 4) * parts[:, 0].std(axis=1, ddof=1) * np.sqrt(1 / 5 + 1 / 4)
    students = (np.abs(parts.mean(axis=(1, 2)) - truth) <= reach).mean()
    assert students < 0.93 < 0.95 <= held
    assert np.median(intervals[:, 1]) < 0.2
