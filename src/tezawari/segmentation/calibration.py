"""Choosing a saliency method's background score from training images and their labels, without a single mask.

Two criteria, both [ours]: what a classifier says when only a region or all but a region is shown
(:func:`occlusion`), and whether the CRF leaves the mask as it is (:func:`agreement`). Each is a score for every
threshold; :func:`best_threshold` picks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tezawari.segmentation.crf import refine_many
from tezawari.segmentation.masks import class_probabilities, mask_of

# ImageNet's mean colour: what lies outside of a training view too, so that the classifier knows it as nothing.
_FILL = (0.485, 0.456, 0.406)
_BATCH_SIZE = 16

Progress = Callable[[int, int], None]
RefineAll = Callable[[Iterable[tuple[np.ndarray, np.ndarray]]], Iterator[np.ndarray]]


def best_threshold(thresholds: Sequence[float], scores: Tensor) -> float:
    """Return the threshold of the highest of ``scores`` (T,), in the middle of those that are equally good.

    Raises:
        ValueError: no thresholds, another number of scores, or one that is not a number.
    """
    if len(thresholds) == 0 or scores.shape != (len(thresholds),) or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"{len(thresholds)} thresholds need as many finite scores, not {scores.tolist()}")
    best = (scores == scores.max()).nonzero().flatten().tolist()
    return float(thresholds[best[len(best) // 2]])


@torch.no_grad()
def occlusion(
    classify: Callable[[Tensor], Tensor],
    images: Sequence[Tensor],
    maps: Sequence[Tensor],
    labels: Sequence[Sequence[int]],
    thresholds: Sequence[float],
    area_weight: float = 2.0,
    progress: Progress | None = None,
) -> Tensor:
    """Score thresholds by what the classifier still sees of a class in its region, and no longer sees outside of it.

    The score of a threshold t is the mean over images and their labels c of
    ``p_c(only map_c > t shown) + 1 − p_c(only map_c ≤ t shown) − area_weight · area``, where the area is the share of
    the pixels with map_c > t, and what is not shown has the mean colour. [ours; the preservation and deletion of Fong
    & Vedaldi, ICCV 2017, for a given mask]

    Without the area the whole image would be the best region: it shows everything and leaves nothing. With weight 2,
    each of the two terms pays for the area once, and the two empty answers, the whole image and nothing of it, both
    score 0 for a classifier that is sure. With 1, regions came out too large: on 32 training images of VOC-8 it took
    0.8 for DCSM and 0.2 for CAM, where by their true masks 0.9 and 0.4 are best.

    Args:
        classify: images (B, 3, H, W) in [0, 1] → probabilities (B, K).
        images: N images (3, H, W) in [0, 1]; sizes may differ.
        maps: N times (K, H, W) in [0, 1].
        labels: N times the places of the image's classes, from 0.
        thresholds: T background scores.
        area_weight: what showing the whole image costs.
        progress: called with (images done, images in all).

    Returns:
        (T,) float64.

    Raises:
        ValueError: no image has a label, or the sequences differ in length.
    """
    _require_labelled(len(images), len(maps), labels)
    total, count = torch.zeros(len(thresholds), dtype=torch.float64), 0
    for done, (image, image_maps, places) in enumerate(zip(images, maps, labels), start=1):
        for place in places:
            regions = torch.stack([image_maps[place] > threshold for threshold in thresholds])
            total += shown_and_hidden(classify, image, regions, place, area_weight)
            count += 1
        if progress is not None:
            progress(done, len(images))
    return total / count


@torch.no_grad()
def shown_and_hidden(
    classify: Callable[[Tensor], Tensor], image: Tensor, regions: Tensor, place: int, area_weight: float = 2.0
) -> Tensor:
    """Return what :func:`occlusion` adds up, of one image and one class: a score for each of R regions.

    Args:
        classify: images (B, 3, H, W) in [0, 1] → probabilities (B, K).
        image: (3, H, W) in [0, 1].
        regions: (R, H, W) bool; equal ones are looked at once.
        place: of the class, from 0.
        area_weight: what showing the whole image costs.

    Returns:
        (R,) float64.
    """
    numbers: dict[bytes, int] = {}
    which = [numbers.setdefault(region.cpu().numpy().tobytes(), len(numbers)) for region in regions]
    distinct = regions[[which.index(number) for number in range(len(numbers))], None]
    shown = torch.cat([distinct, ~distinct])
    fill = image.new_tensor(_FILL)[:, None, None]
    seen = [classify(torch.where(part, image, fill))[:, place].double().cpu() for part in shown.split(_BATCH_SIZE)]
    kept, left = torch.cat(seen).chunk(2)
    return (kept + 1 - left)[which] - area_weight * regions.double().mean((1, 2)).cpu()


def agreement(
    images: Sequence[np.ndarray],
    maps: Sequence[Tensor],
    labels: Sequence[Sequence[int]],
    thresholds: Sequence[float],
    refine_all: RefineAll = refine_many,
    progress: Progress | None = None,
) -> Tensor:
    """Score thresholds by how little the CRF changes the masks that they give.

    The score is the mean over images of the mean IoU of the masks before and after, over the image's labels and the
    background. The background counts here, unlike in :func:`ease`: a mask that covers everything stays as it is too,
    but has no background. [ours]

    Args:
        images: N images (H, W, 3) uint8.
        maps: N times (K, H, W) in [0, 1].
        labels: N times the places of the image's classes, from 0.
        thresholds: T background scores, above 0 and at most 1.
        refine_all: a CRF over (image, probabilities) pairs, in order.
        progress: called with (images done, images in all), those without labels left out.

    Returns:
        (T,) float64 in [0, 1].

    Raises:
        ValueError: no image has a label, or the sequences differ in length.
    """
    _require_labelled(len(images), len(maps), labels)
    labelled = [place for place, of_image in enumerate(labels) if len(of_image)]
    looks = [(place, row) for place in labelled for row in range(len(thresholds))]

    def probabilities(place: int, row: int) -> np.ndarray:
        return class_probabilities(maps[place][list(labels[place])], thresholds[row])

    refined = refine_all((images[place], probabilities(place, row)) for place, row in looks)
    scores = torch.zeros(len(thresholds), dtype=torch.float64)
    for (place, row), after in zip(looks, refined, strict=True):
        classes = labels[place]
        before = mask_of(probabilities(place, row), classes)
        scores[row] += _mean_iou(before, mask_of(after, classes), [0, *(c + 1 for c in classes)])
        if progress is not None and row == len(thresholds) - 1:
            progress(labelled.index(place) + 1, len(labelled))
    return scores / len(labelled)


def ease(before: np.ndarray, after: np.ndarray, labels: Sequence[int]) -> float:
    """Return how easily an image was segmented: the mean over its labels of the IoU of its masks before and after CRF.

    METHODS §4, [ours]. A label that is in neither mask counts 0: what was not found was not easy.

    Args:
        before: the mask (H, W) without CRF.
        after: the mask (H, W) with it.
        labels: the places of the image's classes, from 0.

    Raises:
        ValueError: no labels, or masks of different sizes.
    """
    if len(labels) == 0:
        raise ValueError("an image without labels has no ease")
    return _mean_iou(before, after, [place + 1 for place in labels])


def _require_labelled(images: int, maps: int, labels: Sequence[Sequence[int]]) -> None:
    if not images == maps == len(labels):
        raise ValueError(f"{images} images, {maps} maps and {len(labels)} label lists must be as many")
    if not any(len(of_image) for of_image in labels):
        raise ValueError("calibration needs at least one image with a label")


def _mean_iou(before: np.ndarray, after: np.ndarray, values: Sequence[int]) -> float:
    if before.shape != after.shape:
        raise ValueError(f"masks {before.shape} and {after.shape} differ in size")
    scores = []
    for value in values:
        one, other = before == value, after == value
        union = np.count_nonzero(one | other)
        scores.append(np.count_nonzero(one & other) / union if union else 0.0)
    return float(np.mean(scores))
