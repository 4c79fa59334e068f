"""How well masks agree with the truth: everything is read off confusion matrices, so images simply add up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tezawari.data.labelled_image import IGNORE_INDEX

_BOOTSTRAP_STREAM = 4


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Count pixels by their true class (rows) and their predicted one (columns).

    Args:
        prediction: integers in [0, ``num_classes``), any shape.
        target: the same shape; pixels of ``ignore_index`` count nowhere.
        num_classes: C, the background included.

    Returns:
        (C, C) int64.

    Raises:
        ValueError: different shapes, or a value that is no class. A *predicted* ``ignore_index`` is none where the
            truth is known: leaving out the pixels that a method shuns would flatter it.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    counted = target != ignore_index
    predicted, true = prediction[counted].long(), target[counted].long()
    for name, values in (("prediction", predicted), ("target", true)):
        if len(values) and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(
                f"{name} holds values from {int(values.min())} to {int(values.max())}, not 0 … {num_classes - 1}"
            )
    return torch.bincount(true * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def iou_per_class(confusion: Tensor) -> Tensor:
    """Return intersection over union of each class, (…, C) float64 in [0, 1], of matrices (…, C, C).

    NaN for a class that is in neither the prediction nor the truth.
    """
    counts = confusion.double()
    both = counts.diagonal(dim1=-2, dim2=-1)
    return both / (counts.sum(-1) + counts.sum(-2) - both)


def mean_iou(confusion: Tensor, with_background: bool = True) -> Tensor:
    """Return the mean of :func:`iou_per_class` over the classes that occur, (…) float64.

    PASCAL VOC counts the background as a class; without it, what is mistaken for background still counts against the
    classes. NaN where no class occurs.
    """
    return iou_per_class(confusion)[..., 0 if with_background else 1 :].nanmean(-1)


def pixel_accuracy(confusion: Tensor) -> Tensor:
    """Return the share of pixels of the right class, (…) float64; NaN of no pixels."""
    counts = confusion.double()
    return counts.diagonal(dim1=-2, dim2=-1).sum(-1) / counts.sum((-2, -1))


def bootstrap(
    per_image_confusions: Tensor,
    statistic: Callable[[Tensor], Tensor] = mean_iou,
    samples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of a statistic by resampling the images (Efron's percentile bootstrap).

    Pixels of one image are not independent of each other, so whole images are drawn, with replacement.

    Args:
        per_image_confusions: (N, C, C), one matrix an image.
        statistic: matrices (…, C, C) → numbers (…), such as :func:`mean_iou` or :func:`pixel_accuracy`.
        samples: how many sets of N images are drawn.
        seed: of the drawing.

    Returns:
        (low, high); NaN both for fewer than two images, which say nothing about others.
    """
    count = len(per_image_confusions)
    if count < 2:
        return float("nan"), float("nan")
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([_BOOTSTRAP_STREAM, seed])))
    # How often each image is drawn is multinomial, so a whole set is one row of weights.
    weights = torch.from_numpy(rng.multinomial(count, np.full(count, 1 / count), size=samples)).double()
    drawn = (weights @ per_image_confusions.double().flatten(1)).unflatten(1, per_image_confusions.shape[1:])
    low, high = statistic(drawn).nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(low), float(high)
