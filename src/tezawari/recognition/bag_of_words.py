"""Bags of visual words: an image as how often it shows each of some typical SIFT descriptors."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import pairwise_distances_argmin

from tezawari.core.errors import UserError

_BATCH = 4096
_STARTS = 3


def fit_vocabulary(descriptors: np.ndarray, words: int, seed: int = 0) -> np.ndarray:
    """Return ``words`` visual words, (W, D) float32: the centres of k-means (Csurka et al., ECCV workshop 2004).

    Args:
        descriptors: (N, D) of many images.
        words: W.
        seed: of k-means.

    Raises:
        UserError: fewer descriptors than words.
    """
    if len(descriptors) < words:
        raise UserError(
            f"{words} visual words need at least {words} descriptors, the images have {len(descriptors)}: "
            "give more or larger images, or fewer words"
        )
    means = MiniBatchKMeans(words, batch_size=_BATCH, n_init=_STARTS, random_state=seed).fit(descriptors)
    return means.cluster_centers_.astype(np.float32)


def bag_of_words(descriptors: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Return the square root of the shares, (W,) float32 of norm 1, of descriptors (N, D) nearest to each word (W, D).

    So a linear classifier compares bags by the Hellinger distance. Without descriptors it is zero everywhere.
    """
    if len(descriptors) == 0:
        return np.zeros(len(vocabulary), np.float32)
    counts = np.bincount(pairwise_distances_argmin(descriptors, vocabulary), minlength=len(vocabulary))
    return np.sqrt(counts / len(descriptors)).astype(np.float32)
