"""Sheets of heat maps and masks: rows are images, columns what a method makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tezawari.data.labelled_image import LabelledImage, letterbox
from tezawari.data.sheet import draw_sheet
from tezawari.segmentation.masks import heat_map, overlay
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.pseudo_masks import photo_maps, segment_pixels, view_side
from tezawari.segmentation.saliency import METHODS
from tezawari.segmentation.segmenter import Segmenter
from tezawari.segmentation.self_training.stages import Stage

_SIDE = 224
_HEAT = 0.6


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay the heat map of a saliency map (H, W) in [0, 1] over its photo (H, W, 3) uint8; returns the same."""
    strength = _HEAT * np.clip(heat, 0, 1)[..., None]
    return np.rint(pixels * (1 - strength) + heat_map(heat) * strength).astype(np.uint8)


def save_saliency_sheet(
    path: Path,
    network: SaliencyNetwork,
    class_names: Sequence[str],
    images: Sequence[LabelledImage],
    image_size: int,
) -> Path:
    """Draw the first label's heat map of each image under every saliency method; return the path.

    ``network`` is in evaluation mode, was trained at ``image_size`` pixels, and its weights are frozen.
    """
    rows = []
    for image in images:
        pixels, label = image.load_image(2 * _SIDE), image.labels[0] if image.labels else 0
        row = [pixels]
        for method in METHODS:
            maps = photo_maps(network, pixels, view_side(image_size), [label], method)
            row.append(heat_overlay(pixels, maps[label].numpy()))
        rows.append([square_of(picture) for picture in row])
    draw_sheet(rows, ["photo", *METHODS]).save(path, optimize=True)
    return path


def save_segmentation_sheet(
    path: Path, segmenter: Segmenter, class_names: Sequence[str], images: Sequence[LabelledImage], side: int
) -> Path:
    """Draw each image, its true mask where there is one, and the segmenter's; return the path."""
    rows = []
    for image in images:
        pixels = image.load_image()
        predicted = segment_pixels(segmenter, pixels, side).argmax(0).astype(np.uint8)
        true = image.load_mask()
        shown = [pixels, *([] if true is None else [overlay(pixels, true, class_names)])]
        rows.append([square_of(picture) for picture in [*shown, overlay(pixels, predicted, class_names)]])
    draw_sheet(rows, ["photo", *["true mask"] * (len(rows[0]) - 2), "segmenter"]).save(path, optimize=True)
    return path


def save_rounds_sheet(
    path: Path, images: Sequence[LabelledImage], stages: Sequence[Stage], class_names: Sequence[str]
) -> Path:
    """Draw training images and the masks that each round trained on; return the path."""
    rows = []
    for image in images:
        pixels = image.load_image()
        masks = [stage.mask(image.id) for stage in stages]
        rows.append(
            [square_of(picture) for picture in [pixels, *(overlay(pixels, mask, class_names) for mask in masks)]]
        )
    draw_sheet(rows, ["photo", *(f"masks of round {n}" for n in range(1, len(stages) + 1))]).save(path, optimize=True)
    return path


def square_of(pixels: np.ndarray, side: int = _SIDE) -> Tensor:
    """Return a whole picture (H, W, 3) uint8 in the middle of a square, (3, side, side) in [0, 1]."""
    return torch.as_tensor(letterbox(pixels, side)[0])
