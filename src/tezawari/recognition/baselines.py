"""The generations before fine-tuning: fixed features of an image, and a linear support vector machine on them.

Colour and a bag of SIFT words stand for 2010 (Liu et al., CVPR 2010), Improved Fisher Vectors beside features of a
network for 2014 (Cimpoi et al., CVPR 2014), and the network's features alone are today's linear probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tezawari.core.progress import Progress
from tezawari.features.color_histogram import color_histogram
from tezawari.features.fisher import dense_sift, fit_descriptors
from tezawari.features.linear_svm import fit_many
from tezawari.recognition.bag_of_words import bag_of_words, fit_vocabulary
from tezawari.recognition.protocols import Split

COSTS = (0.1, 1.0, 10.0, 100.0)
"""Among which a machine's C is chosen, where there are images to choose by."""
_COST = 1.0
_DESCRIPTORS = 100_000


@dataclass(frozen=True)
class SiftRows:
    """Of N images: ``bags`` (N, W) of visual words, and ``fishers`` (N, 2·K·64), improved Fisher vectors; float32."""

    bags: np.ndarray
    fishers: np.ndarray


def sift_descriptors(images: Sequence[np.ndarray], step: int = 8, progress: Progress | None = None) -> list[np.ndarray]:
    """Return the dense SIFT descriptors of each image, (n, 128) float16: half the memory, and as fine as OpenCV's own.

    Args:
        images: (H, W, 3) uint8 RGB each. One of 224 px has about 2,500 descriptors at the default step, 0.6 MB.
        step: between the squares that are described, in pixels.
        progress: called with (images done, images in all).

    Raises:
        UserError: OpenCV is not installed.
    """
    found = []
    for done, image in enumerate(images, 1):
        found.append(dense_sift(image, step).astype(np.float16))
        if progress is not None:
            progress(done, len(images))
    return found


def sift_rows(
    descriptors: Sequence[np.ndarray],
    train: np.ndarray,
    words: int = 500,
    components: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> SiftRows:
    """Describe images by their SIFT in two ways; both vocabularies are learnt from the images of ``train`` alone.

    Differs from the papers: they have 1,000 words and more beside other features (2010), 256 components (2014).

    Args:
        descriptors: (n, 128) of each image: :func:`sift_descriptors`.
        train: places of the images to learn vocabularies from; about 100,000 descriptors are drawn from them.
        words: W, of the bags.
        components: K, of the Fisher vectors' mixture.
        seed: of all draws.
        progress: called with (images done, images in all); learning the vocabularies comes before.

    Raises:
        UserError: too few descriptors.
    """
    share = -(-_DESCRIPTORS // max(1, len(train)))
    orders = {
        place: np.random.default_rng([seed, place]).permutation(len(descriptors[place])) for place in train.tolist()
    }
    learnt_from = np.concatenate([descriptors[place][order[:share]] for place, order in orders.items()])
    learnt_from = learnt_from.astype(np.float32)
    vocabulary = fit_vocabulary(learnt_from, words, seed)
    encoder = fit_descriptors(learnt_from, components, seed=seed)
    bags, fishers = [], []
    for done, found in enumerate(descriptors, 1):
        bags.append(bag_of_words(found.astype(np.float32), vocabulary))
        fishers.append(encoder.encode_descriptors(found.astype(np.float32)))
        if progress is not None:
            progress(done, len(descriptors))
    return SiftRows(np.stack(bags), np.stack(fishers))


def color_rows(images: Sequence[np.ndarray], progress: Progress | None = None) -> np.ndarray:
    """Return the images' colour histograms (N, 512) float32 in Lab.

    Args:
        images: (H, W, 3) uint8 RGB each.
        progress: called with (images done, images in all).
    """
    rows = []
    for done, image in enumerate(images, 1):
        rows.append(color_histogram(image))
        if progress is not None:
            progress(done, len(images))
    return np.stack(rows)


def side_by_side(*blocks: np.ndarray) -> np.ndarray:
    """Join features (N, D₁), (N, D₂), … of norm 1 into (N, D₁ + D₂ + …) of norm 1, all of the same weight."""
    return np.concatenate(blocks, axis=1) / np.float32(len(blocks) ** 0.5)


def classify(rows: np.ndarray, labels: np.ndarray, split: Split) -> np.ndarray:
    """Return what the images of ``split.test`` are taken for, (T,) int64, by one linear machine a class.

    Each class is told from the rest by :func:`~tezawari.features.linear_svm.fit_many`; the highest score wins. C is 1;
    where ``split.val`` has images, it is the smallest of :data:`COSTS` among those that tell most of them right.

    Args:
        rows: features (N, D); a linear machine wants them of norm 1.
        labels: (N,) integers 0 … K − 1.
        split: of the N images.

    Raises:
        ValueError: features that are not finite.
    """
    taught = torch.from_numpy(np.ascontiguousarray(rows[split.train], np.float32))
    classes = np.arange(labels.max() + 1)
    targets = torch.from_numpy(np.where(labels[split.train] == classes[:, None], 1, -1))[:, None]

    def predictions(cost: float, places: np.ndarray) -> np.ndarray:
        asked = torch.from_numpy(np.ascontiguousarray(rows[places], np.float32))
        return fit_many(taught, targets, cost=cost).decide(asked)[:, 0].argmax(dim=0).numpy()

    if len(split.val) == 0:
        return predictions(_COST, split.test)
    # Of equals, `max` returns the first.
    best = max(COSTS, key=lambda cost: (predictions(cost, split.val) == labels[split.val]).mean())
    return predictions(best, split.test)
