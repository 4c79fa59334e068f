"""A small search for the CRF's parameters on training images and their labels, without a single mask."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.segmentation.calibration import Progress, shown_and_hidden
from tezawari.segmentation.crf import CrfParameters, refine_many
from tezawari.segmentation.masks import class_probabilities, mask_of


def crf_grid(
    bilateral_sxy: Sequence[float], bilateral_srgb: Sequence[float], bilateral_weight: Sequence[float]
) -> list[CrfParameters]:
    """Return every combination of the bilateral kernel's values, each checked; the other parameters are the defaults.

    Raises:
        UserError: a value that the CRF cannot take.
    """
    return [
        CrfParameters(bilateral_sxy=sxy, bilateral_srgb=srgb, bilateral_weight=weight)
        for sxy, srgb, weight in itertools.product(bilateral_sxy, bilateral_srgb, bilateral_weight)
    ]


def score_crf(
    classify: Callable[[Tensor], Tensor],
    images: Sequence[np.ndarray],
    views: Sequence[Tensor],
    maps: Sequence[Tensor],
    labels: Sequence[Sequence[int]],
    backgrounds: Sequence[float],
    parameters: Sequence[CrfParameters | None],
    workers: int = 2,
    progress: Progress | None = None,
) -> Tensor:
    """Score CRF parameters and background scores together, by what the classifier sees of a class in its mask.

    The score of a mask is that of :func:`tezawari.segmentation.calibration.shown_and_hidden`; here the region is what
    is left of a class after the CRF, not a map above a threshold. [ours]

    Args:
        classify: views (B, 3, h, w) in [0, 1] → probabilities (B, K).
        images: N photos (H, W, 3) uint8, at the size at which masks are made.
        views: the same (3, h, w) in [0, 1], at the size at which the classifier sees them.
        maps: N times (K', H, W) in [0, 1], of the image's labels in their order.
        labels: N times the K' places of the image's classes, from 0; at least one each.
        backgrounds: T background scores.
        parameters: P settings of the CRF; None leaves it out.
        workers: processes that refine.
        progress: called with (images done, images in all), each image counted once a setting.

    Returns:
        (P, T) float64: means over images and their labels.

    Raises:
        ValueError: an image without labels, or sequences of different lengths.
    """
    if not len(images) == len(views) == len(maps) == len(labels) or not all(len(places) for places in labels):
        raise ValueError("as many images, views and maps as label lists are needed, and a label in each")
    scores = torch.zeros(len(parameters), len(backgrounds), dtype=torch.float64)
    for row, setting in enumerate(parameters):
        made = (
            (image, class_probabilities(image_maps, background))
            for image, image_maps in zip(images, maps)
            for background in backgrounds
        )
        refined = (after for _, after in made) if setting is None else refine_many(made, setting, workers)
        for number, (view, places) in enumerate(zip(views, labels), start=1):
            masks = np.stack([mask_of(after, places) for after in itertools.islice(refined, len(backgrounds))])
            seen = F.interpolate(torch.from_numpy(masks)[:, None].float(), view.shape[1:], mode="nearest")[:, 0]
            for place in places:
                scores[row] += shown_and_hidden(classify, view, seen == place + 1, place)
            if progress is not None:
                progress(row * len(images) + number, len(parameters) * len(images))
    return scores / sum(len(places) for places in labels)
