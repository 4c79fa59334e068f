"""Bags of visual words against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tezawari.core.errors import UserError
from tezawari.recognition.bag_of_words import bag_of_words, fit_vocabulary


def test_words_are_where_descriptors_gather() -> None:
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((4, 8))
    found = fit_vocabulary(np.concatenate([centre + 0.1 * rng.standard_normal((50, 8)) for centre in centres]), 4)
    nearest = np.linalg.norm(found[:, None] - centres, axis=2)
    assert sorted(nearest.argmin(axis=1)) == [0, 1, 2, 3]
    assert nearest.min(axis=1).max() < 0.2
    assert found.dtype == np.float32


def test_a_bag_counts_the_nearest_word_of_each_descriptor() -> None:
    rng = np.random.default_rng(1)
    descriptors, vocabulary = rng.random((200, 6), np.float32), rng.random((7, 6), np.float32)
    counts = np.zeros(7)
    for descriptor in descriptors:
        counts[((vocabulary - descriptor) ** 2).sum(axis=1).argmin()] += 1
    bag = bag_of_words(descriptors, vocabulary)
    np.testing.assert_allclose(bag**2 * 200, counts, rtol=1e-5)
    assert np.linalg.norm(bag) == pytest.approx(1)


def test_an_image_without_descriptors_has_an_empty_bag() -> None:
    np.testing.assert_array_equal(bag_of_words(np.empty((0, 6), np.float32), np.eye(6, dtype=np.float32)), np.zeros(6))


def test_fewer_descriptors_than_words_is_one_line() -> None:
    with pytest.raises(UserError, match="5 visual words need at least 5 descriptors, the images have 4"):
        fit_vocabulary(np.eye(4), 5)
