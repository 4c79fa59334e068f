"""Say what is where in a photo, in a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tezawari.core.errors import UserError, did_you_mean
from tezawari.segmentation.crf import CrfParameters, refine
from tezawari.segmentation.masks import class_probabilities, mask_of
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.package import TrainedSegmentation, load_any
from tezawari.segmentation.pseudo_masks import photo_maps, segment_pixels, view_side
from tezawari.segmentation.saliency import Method
from tezawari.segmentation.segmenter import Segmenter

# Masks are made, and refined by the CRF, with the photo's longer side at no more than this many pixels, VOC's.
_WORK_SIDE = 500
DEFAULT_BACKGROUND = 0.4
_LEAST_PROBABILITY = 1e-8


@dataclass(frozen=True)
class Segmented:
    """What is where in a photo.

    ``mask`` (H, W) uint8: 0 background, k the class ``class_names[k - 1]``; ``classes``: the names that were looked
    for; ``maps``: of each the heat map (H, W) float32 in [0, 1].
    """

    mask: np.ndarray
    classes: tuple[str, ...]
    maps: dict[str, np.ndarray]


@dataclass(frozen=True)
class PhotoSegmenter:
    """A trained network made ready to segment photos.

    >>> segment = PhotoSegmenter.load(Path("outputs/saliency/RUN"))  # doctest: +SKIP
    >>> found = segment(photo_pixels, ["cat", "sofa"])               # doctest: +SKIP
    """

    trained: TrainedSegmentation

    @classmethod
    def load(cls, checkpoint: Path) -> PhotoSegmenter:
        """Read a saliency network or a segmenter: a file, or a run's folder, whose segmenter is preferred.

        Raises:
            UserError: when there is none, or it is damaged.
        """
        return cls(load_any(checkpoint))

    def places(self, image_labels: Sequence[str]) -> list[int]:
        """Return the places of classes among the network's; raises UserError for one that it does not know."""
        names = self.trained.class_names
        for name in image_labels:
            if name not in names:
                raise UserError(f"the network knows no {name}{did_you_mean(name, names)}")
        return sorted({names.index(name) for name in image_labels})

    def __call__(
        self,
        pixels: np.ndarray,
        image_labels: Sequence[str] | None = None,
        method: Method = "dcsm",
        background: float = DEFAULT_BACKGROUND,
        crf: CrfParameters | None = None,
    ) -> Segmented:
        """Segment one photo.

        Args:
            pixels: (H, W, 3) uint8, of any size.
            image_labels: names of the classes that are there; None looks for whatever the network finds.
            method: the saliency method; a segmenter has no use for it.
            background: the background's score beside saliency maps; a segmenter has its own.
            crf: None leaves the masks as they are.

        Raises:
            UserError: a label that the network does not know.
        """
        names = self.trained.class_names
        known = None if not image_labels else self.places(image_labels)
        small = _shrunk(pixels)
        network, side = self.trained.network, self.trained.image_size
        if isinstance(network, Segmenter):
            classes, maps, probabilities = _by_segmenter(network, small, known, side)
        else:
            classes, maps, probabilities = _by_saliency(network, small, known, view_side(side), method, background)
        if crf is not None:
            probabilities = refine(small, probabilities, crf)
        size = (pixels.shape[0], pixels.shape[1])
        heats = _enlarged(maps, size)
        return Segmented(
            mask_of(_enlarged(probabilities, size), classes),
            tuple(names[place] for place in classes),
            {names[place]: heat for place, heat in zip(classes, heats)},
        )


def _by_segmenter(
    segmenter: Segmenter, pixels: np.ndarray, known: list[int] | None, side: int
) -> tuple[list[int], np.ndarray, np.ndarray]:
    probabilities = segment_pixels(segmenter, pixels, side)
    if known is None:  # what wins nowhere was not found
        won = np.unique(probabilities.argmax(0))
        known = [int(place) - 1 for place in won if place > 0]
    kept = probabilities[[0, *(1 + place for place in known)]].clip(_LEAST_PROBABILITY)
    kept = kept / kept.sum(0)
    return known, kept[1:], kept


def _by_saliency(
    network: SaliencyNetwork, pixels: np.ndarray, known: list[int] | None, side: int, method: Method, background: float
) -> tuple[list[int], np.ndarray, np.ndarray]:
    found = photo_maps(network, pixels, side, known, method)
    classes = known if known is not None else found.amax((1, 2)).nonzero()[:, 0].tolist()
    return classes, found[classes].numpy(), class_probabilities(found[classes], background)


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = _WORK_SIDE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(pixels)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _enlarged(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if maps.shape[1:] == size or not len(maps):
        return maps if len(maps) else np.zeros((0, *size), np.float32)
    whole: Tensor = F.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear", align_corners=False)[0]
    return whole.numpy()
