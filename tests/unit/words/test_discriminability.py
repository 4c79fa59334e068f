"""Discriminability against scikit-learn's one-vs-rest machine in cross-validation, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.svm import LinearSVC

from tezawari.core.errors import UserError
from tezawari.words.discriminability import discriminability
from tezawari.words.intervals import repeated_cv_interval
from tezawari.words.recognisability import held_out


def _set(seed: int, sizes: list[int], distance: float) -> dict[str, np.ndarray]:
    """Normal features of expected norm 1, each word's moved by ``distance`` deviations along its own axis."""
    rng = np.random.default_rng(seed)
    images = {f"{name} dog": rng.standard_normal((size, 10)) for name, size in zip("abcdefgh", sizes)}
    for number, features in enumerate(images.values()):
        features[:, number] += distance
    return {word: features / 10**0.5 for word, features in images.items()}


def test_it_is_scikit_learns_cross_validation() -> None:
    sizes, seeds = [30, 24, 37], (2, 3)
    images = _set(0, sizes, 1.5)
    found = discriminability(images, folds=4, seeds=seeds)
    rows, truth = np.concatenate(list(images.values())).astype(np.float32), np.repeat([0, 1, 2], sizes)
    matrices, accuracies = [], []
    for masks in np.concatenate([held_out(size, 4, seeds) for size in sizes], axis=1).reshape(2, 4, -1):
        split = PredefinedSplit(masks.argmax(axis=0))
        predicted = cross_val_predict(LinearSVC(tol=1e-8, max_iter=100_000), rows, truth, cv=split)
        matrices.append(confusion_matrix(truth, predicted))
        accuracies.append([(predicted == truth)[mask].mean() for mask in masks])
    np.testing.assert_allclose(found.confusion, np.mean(matrices, axis=0))
    np.testing.assert_allclose(found.fold_accuracies, accuracies)
    assert found.accuracy == pytest.approx(np.trace(found.confusion) / 91)
    assert found.interval == repeated_cv_interval(np.array(accuracies), 91)
    assert 0.5 < found.accuracy < 0.95
    assert found.words == ("a dog", "b dog", "c dog")


def test_words_that_lie_apart_are_never_confused() -> None:
    found = discriminability(_set(1, [20, 30, 25], 30.0))
    np.testing.assert_allclose(found.confusion, np.diag([20, 30, 25]))
    assert found.accuracy == 1
    assert found.interval == (pytest.approx(0.025 ** (1 / 75)), 1)


def test_rows_are_what_an_image_is_and_columns_what_it_is_taken_for() -> None:
    """Of the second word's images all but five are of the first kind: the mistakes lie in its row, not its column."""
    images = _set(2, [60, 20, 40], 12.0)
    images["b dog"][5:] = _set(3, [15], 12.0)["a dog"]
    found = discriminability(images)
    assert found.confusion[1, 0] >= 13
    assert found.confusion[0, 1] <= 2
    assert found.confusion[1].sum() == pytest.approx(20)


def test_words_that_nothing_tells_apart_are_guessed() -> None:
    found = discriminability(_set(4, [50] * 6, 0.0), seeds=(0, 1))
    assert found.accuracy == pytest.approx(1 / 6, abs=0.07)
    assert found.interval[0] < 1 / 6 < found.interval[1]
    np.testing.assert_allclose(found.confusion.sum(axis=1), 50)
    assert found.fold_accuracies.shape == (2, 5)


def test_exchanging_words_exchanges_rows_and_columns() -> None:
    images = _set(5, [20, 20, 20], 1.5)
    one, other = discriminability(images), discriminability(dict(reversed(images.items())))
    np.testing.assert_allclose(other.confusion, one.confusion[::-1, ::-1])


def test_an_image_that_is_held_out_teaches_nothing() -> None:
    """An image of a feature of its own would be known for sure, had it been learnt from."""
    marked = 100 * np.eye(20)
    found = discriminability({"a dog": marked[:10], "b dog": marked[10:]})
    assert 0.2 < found.accuracy < 0.8


def test_progress_ends_at_all_words() -> None:
    calls: list[tuple[int, int]] = []
    discriminability(_set(7, [9, 8], 1.0), folds=3, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (2, 2)


def test_fewer_images_than_folds_are_an_error_that_names_the_word() -> None:
    with pytest.raises(UserError, match="b dog: 4 images are fewer than 5 folds"):
        discriminability(_set(8, [9, 4], 1.0))


def test_one_word_is_an_error() -> None:
    with pytest.raises(UserError, match="two words"):
        discriminability(_set(9, [9], 1.0))


def test_one_fold_is_no_cross_validation() -> None:
    with pytest.raises(ValueError, match="2 folds"):
        discriminability(_set(10, [9, 9], 1.0), folds=1)
