"""Pseudo masks of training images: from saliency maps or from a segmenter, under the image's own labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.core.seeding import epoch_order
from tezawari.data.labelled_image import IGNORE_INDEX, LabelledImage, letterbox, multi_hot
from tezawari.segmentation.calibration import best_threshold, ease, occlusion
from tezawari.segmentation.crf import CrfParameters, refine_many
from tezawari.segmentation.masks import class_probabilities, mask_of
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.saliency import Method, saliency_maps
from tezawari.segmentation.segmenter import Segmenter, predict_probabilities

THRESHOLDS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
_CALIBRATION_STREAM = 2**18
_VIEW = 4 / 3


@dataclass(frozen=True)
class PseudoMask:
    """What was made of one image: its mask (H, W) uint8 with 255 = ignore, and how easily it was segmented."""

    id: str
    mask: np.ndarray
    ease: float


@dataclass(frozen=True)
class Candidates:
    """The classes that may be in an image and how probable each is at every pixel.

    ``pixels`` (H, W, 3) uint8; ``classes``: K' places among the K classes; ``probabilities`` (1 + K', H, W) float32,
    background first, summing to 1.
    """

    id: str
    pixels: np.ndarray
    classes: tuple[int, ...]
    probabilities: np.ndarray


def from_saliency(
    network: SaliencyNetwork, images: Iterable[LabelledImage], side: int, method: Method, background: float
) -> Iterator[Candidates]:
    """Yield the candidates of images with known labels, by a saliency method and its background score.

    The network sees the images with their longer side at ``side`` pixels.
    """
    for image in images:
        pixels = image.load_image()
        maps = photo_maps(network, pixels, side, image.labels, method)
        yield Candidates(image.id, pixels, image.labels, class_probabilities(maps[list(image.labels)], background))


def view_side(image_size: int) -> int:
    """Return the longer side, in pixels, at which a saliency network sees photos: a third more than in training.

    In training an image's longer side is drawn between 0.7 and 1.3 times ``image_size``. Of 288, 384 and 500 px, 384
    gave a network trained at 288 the best labels and maps (50 images of VOC-8); large photos at full size are as far
    from training as small ones. [ours; Touvron et al., "Fixing the train-test resolution discrepancy", 2019]
    """
    return round(_VIEW * image_size)


def photo_maps(
    network: SaliencyNetwork, pixels: np.ndarray, side: int, image_labels: Sequence[int] | None, method: Method
) -> Tensor:
    """Return the saliency maps (K, H, W) in [0, 1] of a photo (H, W, 3) uint8, seen with its longer side at ``side``.

    ``image_labels``: places of the classes that are there; None takes what the network finds.
    """
    labels = None if image_labels is None else multi_hot(image_labels, network.num_classes).bool()[None]
    maps = saliency_maps(network, photo_view(pixels, side), labels, method).maps
    size = (pixels.shape[0], pixels.shape[1])
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)[0]


@torch.no_grad()
def photo_labels(network: SaliencyNetwork, pixels: np.ndarray, side: int) -> tuple[int, ...]:
    """Return the classes that a saliency network finds in a photo (H, W, 3) uint8 seen at ``side`` pixels.

    Those whose probability, of the mean logit of the photo and its mirror image, exceeds 0.5; else the most probable.
    """
    view = photo_view(pixels, side)
    logits = (network(view) + network(view.flip(-1)))[0] / 2
    return tuple((logits > 0).nonzero()[:, 0].tolist() or [int(logits.argmax())])


def photo_view(pixels: np.ndarray, side: int) -> Tensor:
    """Return a photo (H, W, 3) uint8 as (1, 3, h, w) in [0, 1], its longer side ``side`` pixels."""
    scale = side / max(pixels.shape[:2])
    size = [max(1, round(scale * length)) for length in pixels.shape[:2]]
    return F.interpolate(image_tensor(pixels), size, mode="bilinear", antialias=True)


def from_segmenter(segmenter: Segmenter, images: Iterable[LabelledImage], side: int) -> Iterator[Candidates]:
    """Yield the candidates of images with known labels, by a segmenter that sees them at ``side`` pixels."""
    for image in images:
        pixels = image.load_image()
        labels = multi_hot(image.labels, segmenter.num_classes).bool()
        probabilities = segment_pixels(segmenter, pixels, side, labels)
        kept = probabilities[[0, *(1 + place for place in image.labels)]]
        yield Candidates(image.id, pixels, image.labels, kept)


def segment_pixels(
    segmenter: Segmenter, pixels: np.ndarray, side: int, image_labels: Tensor | None = None
) -> np.ndarray:
    """Return the probabilities (1 + K, H, W) float32 of a photo (H, W, 3) uint8, seen with its longer side at ``side``.

    ``image_labels`` (K,) bool limits the classes; None allows all.
    """
    height, width = pixels.shape[:2]
    view, _, (top, left, inner_height, inner_width) = letterbox(pixels, side)
    labels = None if image_labels is None else image_labels[None]
    inside = predict_probabilities(segmenter, view[None], labels)[..., top : top + inner_height, :]
    inside = inside[..., left : left + inner_width]
    return F.interpolate(inside, (height, width), mode="bilinear", align_corners=False)[0].numpy()


def pseudo_masks(
    candidates: Iterable[Candidates],
    crf: CrfParameters | None,
    confidence: float = 0.0,
    workers: int = 2,
) -> Iterator[PseudoMask]:
    """Refine candidates by the CRF and take the most probable class of every pixel.

    The ease of an image is the mean over its labels of IoU(mask before CRF, mask after CRF) (METHODS §4, [ours]);
    without a CRF, the mean over its pixels of the largest probability.

    Args:
        candidates: of any number of images; taken one after another.
        crf: None takes the probabilities as they are.
        confidence: pixels whose largest probability is below this are 255, ignored in training. [ours]
        workers: processes that refine.
    """
    if crf is None:
        refined: Iterator[tuple[Candidates, np.ndarray]] = ((c, c.probabilities) for c in candidates)
    else:
        kept, sent = tee(candidates)
        refined = zip(kept, refine_many(((c.pixels, c.probabilities) for c in sent), crf, workers))
    for candidate, after in refined:
        mask = mask_of(after, candidate.classes)
        if crf is None:
            easy = float(after.max(0).mean())
        else:
            easy = ease(mask_of(candidate.probabilities, candidate.classes), mask, candidate.classes)
        mask[after.max(0) < confidence] = IGNORE_INDEX
        yield PseudoMask(candidate.id, mask, easy)


def by_id(
    make: Callable[[Iterable[LabelledImage]], Iterator[PseudoMask]], images: Sequence[LabelledImage]
) -> Callable[[Sequence[str]], Iterator[PseudoMask]]:
    """Return ``make`` as a function of images' ids, which is what a stage calls."""
    known = {image.id: image for image in images}
    return lambda ids: make(known[image_id] for image_id in ids)


def image_tensor(pixels: np.ndarray) -> Tensor:
    """Return a photo (H, W, 3) uint8 as a batch of one, (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255


def calibration_images(images: Sequence[LabelledImage], seed: int, count: int) -> list[LabelledImage]:
    """Draw ``count`` of the training images by ``seed``; all of them where there are fewer."""
    return [images[i] for i in epoch_order(seed, _CALIBRATION_STREAM, len(images))[:count]]


def calibrate_background(
    network: SaliencyNetwork,
    images: Sequence[LabelledImage],
    side: int,
    method: Method,
    seed: int,
    count: int = 32,
    thresholds: Sequence[float] = THRESHOLDS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, dict[str, float]]:
    """Choose a method's background score on training images and their labels, by :func:`calibration.occlusion`.

    Returns the score and, for the record, what each threshold scored.

    Args:
        network: makes the maps and judges what is left of an image.
        images: training images; ``count`` of them are drawn by ``seed``, every one where there are fewer.
        side: their longer side in pixels as the network sees them.
        method: the saliency method.
        seed: of the drawing.
        count: how many images.
        thresholds: what to choose from.
        progress: called with (images done, images in all).
    """
    chosen = calibration_images(images, seed, count)
    views, maps = [], []
    for done, image in enumerate(chosen, start=1):
        views.append(photo_view(image.load_image(), side))
        labels = multi_hot(image.labels, network.num_classes).bool()
        maps.append(saliency_maps(network, views[-1], labels[None], method).maps[0])
        if progress is not None:
            progress(done, len(chosen))
    scores = occlusion(
        lambda shown: network(shown).sigmoid(),
        [view[0] for view in views],
        maps,
        [i.labels for i in chosen],
        thresholds,
    )
    figures = {f"occlusion at {t:g}": round(float(score), 4) for t, score in zip(thresholds, scores)}
    return best_threshold(thresholds, scores), figures
