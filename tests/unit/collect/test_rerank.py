"""Re-ranking of search results by what the first of them look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from tezawari.collect.rerank import Pass, rerank
from tezawari.core.errors import UserError

_DIMS = 24


def _normalized(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _random_images(rng: np.random.Generator, count: int) -> np.ndarray:
    return _normalized(rng.normal(size=(count, _DIMS)))


def _search(rng: np.random.Generator, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Return the descriptors of results that get worse further down, and which of them are right."""
    right = rng.uniform(size=count) < np.linspace(0.8, 0.2, count)
    concept = np.r_[np.ones(6), np.zeros(_DIMS - 6)]
    return _normalized(rng.normal(size=(count, _DIMS)) + 0.7 * right[:, None] * concept), right


def test_average_precision_rises_pass_by_pass() -> None:
    precisions = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        descriptors, right = _search(rng)
        passes = rerank(descriptors, _random_images(rng, 300))
        by_search = average_precision_score(right, -np.arange(len(right)))
        precisions.append([by_search, *(average_precision_score(right, one.scores) for one in passes)])
    search, first, second = np.mean(precisions, axis=0)
    assert first > search + 0.05
    assert second > first + 0.01


def test_a_pass_scores_as_an_svm_on_the_best_of_the_ranking_before() -> None:
    rng = np.random.default_rng(0)
    descriptors, _ = _search(rng)
    negatives = _random_images(rng, 80)
    order = np.arange(len(descriptors))
    for one, wanted in zip(rerank(descriptors, negatives, (10, 20)), (10, 20), strict=True):
        assert sorted(one.positives) == sorted(order[:wanted])
        rows = np.concatenate([negatives, descriptors[order[:wanted]]])
        machine = LinearSVC(dual=False, tol=1e-10).fit(rows, np.r_[-np.ones(80), np.ones(wanted)])
        np.testing.assert_allclose(one.scores, machine.decision_function(descriptors), atol=1e-4)
        order = np.argsort(-one.scores, kind="stable")
        np.testing.assert_array_equal(one.ranks[order], np.arange(1, len(order) + 1))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), count=st.integers(1, 30), seed=st.integers(0, 1000))
def test_annotations_override_the_ranking(data: st.DataObject, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    places = data.draw(st.permutations(range(count)))
    positive = set(places[: data.draw(st.integers(0, count))])
    negative = set(places[len(positive) : len(positive) + data.draw(st.integers(0, count))])
    passes = rerank(
        _random_images(rng, count),
        _random_images(rng, 20),
        (3, 6),
        annotated_positive=positive,
        annotated_negative=negative,
    )
    for one, wanted in zip(passes, (3, 6), strict=True):
        assert positive <= set(one.positives)
        assert not negative & set(one.positives)
        assert len(one.positives) == max(len(positive), min(wanted, count - len(negative)))


def test_annotations_teach() -> None:
    rng = np.random.default_rng(3)
    descriptors, negatives = _random_images(rng, 30), _random_images(rng, 60)
    (plain,) = rerank(descriptors, negatives, (5,))
    (liked,) = rerank(descriptors, negatives, (5,), annotated_positive=[29])
    (disliked,) = rerank(descriptors, negatives, (5,), annotated_negative=[0])
    assert liked.ranks[29] < plain.ranks[29]
    assert disliked.ranks[0] > plain.ranks[0]


def test_one_image_annotated_as_both_is_refused() -> None:
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(UserError, match="image 3 of the search is annotated both"):
        rerank(rows, rows, annotated_positive=[2], annotated_negative={2})


def test_the_order_of_negatives_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    descriptors, negatives = _random_images(rng, 40), _random_images(rng, 70)
    one, other = rerank(descriptors, negatives)[-1], rerank(descriptors, negatives[::-1])[-1]
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_few_images_are_all_positives() -> None:
    rng = np.random.default_rng(2)
    first, second = rerank(_random_images(rng, 4), _random_images(rng, 30))
    assert sorted(first.positives) == sorted(second.positives) == [0, 1, 2, 3]
    assert sorted(second.ranks) == [1, 2, 3, 4]


def _keeps_the_search_order(one: Pass) -> bool:
    return one.ranks.tolist() == list(range(1, len(one.ranks) + 1)) and one.scores.dtype == np.float32


def test_nothing_to_learn_keeps_the_order_of_the_search() -> None:
    rows, nothing = np.eye(5, dtype=np.float32), np.zeros((0, 5), np.float32)
    assert all(_keeps_the_search_order(one) for one in rerank(rows, nothing))
    assert all(_keeps_the_search_order(one) and one.positives == () for one in rerank(nothing, rows))
    everything_disliked = rerank(rows, nothing, annotated_negative=range(5))
    assert all(_keeps_the_search_order(one) and one.positives == () for one in everything_disliked)


def test_images_without_descriptor_are_last_and_never_taught() -> None:
    rng = np.random.default_rng(4)
    descriptors, negatives = _random_images(rng, 30), _random_images(rng, 40)
    whole = rerank(np.delete(descriptors, [0, 7], axis=0), negatives)
    descriptors[0] = np.nan
    descriptors[7] = 0
    negatives = np.concatenate([negatives, np.full((1, _DIMS), np.inf, np.float32)])
    for one, expected in zip(rerank(descriptors, negatives), whole, strict=True):
        assert not {0, 7} & set(one.positives)
        assert one.ranks[[0, 7]].tolist() == [29, 30]
        assert np.isneginf(one.scores[[0, 7]]).all()
        np.testing.assert_array_equal(np.delete(one.scores, [0, 7]), expected.scores)


def test_copies_are_taught_once_and_ranked_together() -> None:
    rng = np.random.default_rng(5)
    descriptors = _random_images(rng, 20)
    descriptors[1] = descriptors[2] = descriptors[0]
    (one,) = rerank(descriptors, _random_images(rng, 40), (5,))
    assert one.positives == (0, 3, 4, 5, 6)
    assert len(set(one.scores[:3].tolist())) == 1
    assert one.ranks[1] == one.ranks[0] + 1
    assert one.ranks[2] == one.ranks[0] + 2
    (one,) = rerank(descriptors, _random_images(rng, 40), (5,), annotated_negative=[2])
    assert one.positives == (3, 4, 5, 6, 7)


def test_out_of_fold_scores_come_from_machines_that_did_not_see_the_image() -> None:
    rng = np.random.default_rng(6)
    descriptors, negatives = _random_images(rng, 25), _random_images(rng, 50)
    (plain,) = rerank(descriptors, negatives, (10,))
    (held_out,) = rerank(descriptors, negatives, (10,), folds=10)
    taught = list(plain.positives)
    assert (held_out.scores[taught] < plain.scores[taught]).all()
    np.testing.assert_allclose(np.delete(held_out.scores, taught), np.delete(plain.scores, taught), atol=1e-5)
    for place in taught:
        others = [other for other in taught if other != place]
        rows = np.concatenate([negatives, descriptors[others]])
        machine = LinearSVC(dual=False, tol=1e-10).fit(rows, np.r_[-np.ones(50), np.ones(9)])
        expected = machine.decision_function(descriptors[place : place + 1])[0]
        assert held_out.scores[place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": np.zeros((2, 3))}, "descriptors are"),
        ({"positives_of_pass": (10, 0)}, "at least 1"),
        ({"folds": 0}, "at least 1"),
        ({"annotated_positive": [4]}, "annotated image 4 is none of 4"),
        ({"annotated_negative": [-1]}, "annotated image -1"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rerank(**{"descriptors": np.eye(4), "negatives": np.eye(4), **arguments})  # type: ignore[arg-type]
