"""Recognisability against scikit-learn's own cross-validation, and where the answer is known: chance, and no doubt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.svm import LinearSVC

from tezawari.core.errors import UserError
from tezawari.words import recognisability as module
from tezawari.words.intervals import repeated_cv_interval
from tezawari.words.recognisability import average_precision, held_out, recognisability


def _set(
    seed: int, sizes: list[int], negatives: int, distance: float, dimensions: int = 16
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Normal features of expected norm 1; a word's lie ``distance`` deviations away, each word's in its direction."""
    rng = np.random.default_rng(seed)
    scale = dimensions**-0.5
    positives = {f"w{n}": scale * rng.standard_normal((size, dimensions)) for n, size in enumerate(sizes)}
    for number, rows in enumerate(positives.values()):
        rows[:, number % dimensions] += scale * distance
    return positives, scale * rng.standard_normal((negatives, dimensions))


def test_it_is_scikit_learns_cross_validation() -> None:
    positives, negatives = _set(0, [20, 26, 20], 200, 1.5)
    measured = recognisability(positives, negatives, folds=4, seeds=(0, 7))
    assert [result.word for result in measured] == ["w0", "w1", "w2"]
    for result in measured:
        own = positives[result.word]
        truth = np.repeat([1, 0], [len(own), 200])
        folds = np.concatenate([held_out(len(own), 4, (0, 7)), held_out(200, 4, (0, 7))], axis=1)
        typical = np.zeros((2, len(own)))
        for seed, masks in enumerate(folds.reshape(2, 4, -1)):
            # The bias is regularised as LinearSVC does.
            decided = cross_val_predict(
                LinearSVC(tol=1e-8, max_iter=100_000),
                np.concatenate([own, negatives]).astype(np.float32),
                truth,
                cv=PredefinedSplit(masks.argmax(axis=0)),
                method="decision_function",
            )
            expected = [average_precision_score(truth[mask], decided[mask]) for mask in masks]
            np.testing.assert_allclose(result.fold_precisions[seed], expected, atol=1e-3)
            for mask in masks:
                others = decided[mask & (truth == 0)]
                mine = mask[: len(own)]
                typical[seed, mine] = (decided[: len(own)][mine] - others.mean()) / others.std()
        np.testing.assert_allclose(result.positive_scores, typical.mean(axis=0), atol=1e-2)
        assert result.average_precision == pytest.approx(result.fold_precisions.mean())
        assert result.interval == repeated_cv_interval(result.fold_precisions, len(own))
        assert 0.1 < result.average_precision < 0.95


def test_random_labels_have_the_average_precision_of_chance() -> None:
    """50 against 5,000 in five folds: of a ranking by chance, with P of N, it is known exactly, and about 1 %."""
    n, p = 1010, 10
    harmonic = sum(1 / k for k in range(1, n + 1))
    chance = ((p - 1) / (n - 1) * (n - harmonic) + harmonic) / n
    assert chance == pytest.approx(0.01, abs=0.007)
    measured = recognisability(*_set(1, [50] * 20, 5000, 0.0, dimensions=6))
    assert np.mean([result.average_precision for result in measured]) == pytest.approx(chance, abs=0.003)
    assert max(result.average_precision for result in measured) < 0.06


def test_what_lies_apart_is_recognised_without_a_doubt() -> None:
    for result in recognisability(*_set(3, [10, 15], 100, 30.0)):
        assert result.average_precision == 1
        low, high = result.interval
        assert high == 1
        assert low == pytest.approx(0.025 ** (1 / len(result.positive_scores))), "so few images leave as much open"
        assert (result.positive_scores > 5).all()


def test_the_farther_apart_the_more_recognisable() -> None:
    precisions = [
        recognisability(*_set(4, [40], 400, distance))[0].average_precision for distance in (0.0, 1.0, 2.0, 4.0)
    ]
    assert precisions == sorted(precisions)
    assert precisions[-1] - precisions[0] > 0.7


def test_the_images_of_something_else_score_lowest() -> None:
    """Three of a word's images are random ones: those are what a page shows as its worst."""
    positives, negatives = _set(5, [20], 200, 7.0)
    positives["w0"][[2, 11, 17]] = _set(6, [], 3, 0.0)[1]
    (result,) = recognisability(positives, negatives, seeds=(0, 1))
    assert set(np.argsort(result.positive_scores)[:3]) == {2, 11, 17}


def test_words_do_not_depend_on_each_other_nor_on_their_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    positives, negatives = _set(7, [12, 9, 12], 60, 1.0)
    together = recognisability(positives, negatives)
    monkeypatch.setattr(module, "_MOST_VALUES", 1)
    by_one = recognisability(positives, negatives)
    (alone,) = recognisability({"w2": positives["w2"]}, negatives)
    for one, other in zip([*together, together[2]], [*by_one, alone]):
        assert one.word == other.word
        np.testing.assert_allclose(one.fold_precisions, other.fold_precisions, atol=1e-3)
        np.testing.assert_allclose(one.positive_scores, other.positive_scores, atol=1e-3)


def test_progress_counts_words(monkeypatch: pytest.MonkeyPatch) -> None:
    positives, negatives = _set(9, [6, 6, 6], 12, 1.0)
    monkeypatch.setattr(module, "_MOST_VALUES", 2 * 6 * 16)
    calls: list[tuple[int, int]] = []
    recognisability(positives, negatives, folds=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]


def test_a_read_only_cache_and_half_precision_will_do() -> None:
    positives, negatives = _set(10, [10], 30, 2.0)
    positives["w0"], negatives = positives["w0"].astype(np.float16), negatives.astype(np.float16)
    (half,) = recognisability(positives, negatives)
    exact = {"w0": positives["w0"].astype(np.float32)}
    exact["w0"].flags.writeable = False
    (whole,) = recognisability(exact, negatives.astype(np.float32))
    np.testing.assert_array_equal(half.positive_scores, whole.positive_scores)


@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    st.lists(st.integers(-5, 5), min_size=1, max_size=30),
)
@settings(max_examples=60, deadline=None)
def test_average_precision_is_scikit_learns_with_ties_too(positives: list[int], negatives: list[int]) -> None:
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    expected = average_precision_score(truth, positives + negatives)
    assert average_precision(np.array(positives), np.array(negatives)) == pytest.approx(expected)


@given(st.integers(2, 200), st.integers(2, 10), st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_each_seed_holds_each_image_out_once_in_folds_of_equal_size(count: int, folds: int, seeds: list[int]) -> None:
    out = held_out(count, folds, seeds)
    assert out.shape == (len(seeds) * folds, count)
    for part in out.reshape(len(seeds), folds, count):
        assert (part.sum(axis=0) == 1).all()
        assert part.sum(axis=1).max() - part.sum(axis=1).min() <= 1
    np.testing.assert_array_equal(out, held_out(count, folds, seeds))


def test_another_seed_divides_otherwise() -> None:
    one, other = held_out(50, 5, (0, 1)).reshape(2, 5, 50)
    assert (one != other).any()


def test_the_interval_holds_the_mean_of_many_words_like_it() -> None:
    """Words drawn alike, each against random images of its own: how often the interval is right is what it claims."""
    measured = [recognisability(*_set(100 + n, [40], 160, 2.0, dimensions=6))[0] for n in range(25)]
    mean = np.mean([result.average_precision for result in measured])
    assert 0.3 < mean < 0.8
    assert sum(result.interval[0] <= mean <= result.interval[1] for result in measured) >= 21
    assert np.median([result.interval[1] - result.interval[0] for result in measured]) < 0.5


def test_too_few_images_are_an_error_that_names_the_word() -> None:
    positives, negatives = _set(11, [6], 12, 1.0)
    with pytest.raises(UserError, match="ふわふわ: 4 images are fewer than 5 folds"):
        recognisability({**positives, "ふわふわ": negatives[:4]}, negatives)
    with pytest.raises(UserError, match="random images: 3"):
        recognisability(positives, negatives[:3])


def test_no_word_is_an_error() -> None:
    with pytest.raises(UserError, match="at least one word"):
        recognisability({}, np.zeros((9, 4)))


@pytest.mark.parametrize(("folds", "seeds"), [(1, (0,)), (5, ())])
def test_no_cross_validation_without_folds_and_seeds(folds: int, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="seed"):
        recognisability(*_set(12, [6], 12, 1.0), folds, seeds)


def test_features_that_are_no_numbers_are_refused() -> None:
    positives, negatives = _set(13, [6], 12, 1.0)
    negatives[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        recognisability(positives, negatives)


def test_features_of_another_length_are_refused() -> None:
    positives, negatives = _set(14, [6], 12, 1.0)
    with pytest.raises(ValueError, match="rows"):
        recognisability(positives, negatives[:, :5])
