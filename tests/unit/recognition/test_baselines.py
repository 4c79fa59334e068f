"""The generations before fine-tuning: their features see no tested image, and their machine is scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from tezawari.recognition.baselines import COSTS, classify, color_rows, side_by_side, sift_descriptors, sift_rows
from tezawari.recognition.protocols import Split, five_folds, half_splits


def _features(sizes: list[int], distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normal features of norm 1, each class's moved along its own axis."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.random.default_rng(seed).standard_normal((len(labels), 12))
    rows[np.arange(len(labels)), labels] += distance
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def _scikit_learn(
    rows: np.ndarray, labels: np.ndarray, cost: float, train: np.ndarray, asked: np.ndarray
) -> np.ndarray:
    return LinearSVC(C=cost, tol=1e-8, max_iter=100_000).fit(rows[train], labels[train]).predict(rows[asked])


def test_without_images_to_choose_by_it_is_scikit_learns_machine() -> None:
    rows, labels = _features([30, 24, 37], 1.5)
    for split in half_splits(labels, 3, 0):
        found = classify(rows, labels, split)
        np.testing.assert_array_equal(found, _scikit_learn(rows, labels, 1.0, split.train, split.test))
        assert 0.5 < (found == labels[split.test]).mean() < 1


def _hidden_behind_noise() -> tuple[np.ndarray, np.ndarray]:
    """Two classes that lie apart in the small difference of two features, which a weak machine does not look at."""
    labels, noise = np.repeat([0, 1], 40), np.random.default_rng(0).normal(0, 0.5, 80)
    return np.stack([0.08 * labels + noise, noise], axis=1).astype(np.float32), labels


@pytest.mark.parametrize("hidden", [False, True])
def test_the_cost_is_the_smallest_that_tells_most_of_the_images_to_choose_by(hidden: bool) -> None:
    rows, labels = _hidden_behind_noise() if hidden else _features([15, 15, 15], 1.0)
    for fold in five_folds(labels, 3)[:2]:
        found = {
            cost: [_scikit_learn(rows, labels, cost, fold.train, asked) for asked in (fold.val, fold.test)]
            for cost in COSTS
        }
        right = [(of_val == labels[fold.val]).sum() for of_val, _ in found.values()]
        best = COSTS[int(np.argmax(right))]
        assert (best > 1) == hidden
        np.testing.assert_array_equal(classify(rows, labels, fold), found[best][1])


def test_tested_labels_change_nothing() -> None:
    rows, labels = _features([20, 20, 20], 1.0)
    (split,) = half_splits(labels, 1, 0)
    other = labels.copy()
    other[split.test] = np.random.default_rng(0).permutation(labels[split.test])
    np.testing.assert_array_equal(classify(rows, other, split), classify(rows, labels, split))


def test_features_that_say_nothing_give_chance() -> None:
    rows, labels = _features([100] * 4, 0.0)
    rights = [(classify(rows, labels, split) == labels[split.test]).mean() for split in half_splits(labels, 3, 0)]
    assert abs(np.mean(rights) - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5


def test_blocks_side_by_side_weigh_the_same() -> None:
    first, second = np.eye(3, 4, dtype=np.float32), np.full((3, 9), 1 / 3, np.float32)
    joined = side_by_side(first, second)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(joined @ joined.T, (first @ first.T + second @ second.T) / 2, rtol=1e-6)


def _striped(number: int, angle: float) -> np.ndarray:
    """Stripes of random width and phase that run along ``angle``, grey."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:64, :64]
    wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) / rng.uniform(1.5, 2.5) + rng.uniform(0, 6))
    return np.repeat(((wave + 1) * 100 + rng.uniform(0, 50, (64, 64)))[..., None], 3, 2).astype(np.uint8)


@pytest.fixture(scope="module")
def striped() -> tuple[list[np.ndarray], np.ndarray]:
    """Two classes that differ in the direction of their stripes alone."""
    labels = np.repeat([0, 1], 12)
    return [_striped(number, label * np.pi / 2) for number, label in enumerate(labels)], labels


def test_sift_tells_stripes_by_their_direction_and_colour_does_not(
    striped: tuple[list[np.ndarray], np.ndarray],
) -> None:
    pytest.importorskip("cv2", reason="SIFT needs OpenCV, of the extra words")
    images, labels = striped
    (split,) = half_splits(labels, 1, 0)
    told: list[tuple[int, int]] = []
    descriptors = sift_descriptors(images, 8, lambda done, total: told.append((done, total)))
    rows = sift_rows(descriptors, split.train, 10, 4, progress=lambda done, total: told.append((done, total)))
    assert told == 2 * [(done, 24) for done in range(1, 25)]
    assert rows.bags.shape == (24, 10)
    assert rows.fishers.shape == (24, 2 * 4 * 64)
    for features in (rows.bags, rows.fishers):
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
        np.testing.assert_array_equal(classify(features, labels, split), labels[split.test])
    assert (classify(color_rows(images), labels, split) == labels[split.test]).mean() < 0.9


def test_vocabularies_see_no_image_but_those_to_train_on(striped: tuple[list[np.ndarray], np.ndarray]) -> None:
    pytest.importorskip("cv2", reason="SIFT needs OpenCV, of the extra words")
    images, _ = striped
    split = Split(np.arange(0, 24, 2), np.array([], int), np.arange(1, 24, 2))
    rows = sift_rows(sift_descriptors(images), split.train, 10, 4)
    changed = list(images)
    for place in split.test:
        changed[place] = np.random.default_rng(place).integers(0, 256, (64, 64, 3), np.uint8)
    again = sift_rows(sift_descriptors(changed), split.train, 10, 4)
    for before, after in ((rows.bags, again.bags), (rows.fishers, again.fishers)):
        np.testing.assert_array_equal(before[split.train], after[split.train])
        assert (np.abs(before - after)[split.test].max(axis=1) > 0.01).all()


def test_colours_are_a_row_an_image() -> None:
    images = [np.full((8, 8, 3), color, np.uint8) for color in ((200, 10, 10), (10, 200, 10), (200, 10, 10))]
    told: list[int] = []
    rows = color_rows(images, lambda done, total: told.append(done))
    assert rows.shape == (3, 512)
    np.testing.assert_allclose(rows @ rows.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)
    assert told == [1, 2, 3]
