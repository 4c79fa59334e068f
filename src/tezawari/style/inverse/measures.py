"""How near a restored picture is to the true one: PSNR, SSIM and a distance of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from tezawari.features.backbone import Backbone
from tezawari.style.inverse.model import perceptual_distance

MOST_PSNR = 100.0
"""PSNR, in dB, of equal pictures, whose own is infinite. [ours]"""


class Quality(NamedTuple):
    """What is measured of each picture of a batch; every tensor is ``(B,)``."""

    psnr: Tensor
    """In dB over all three channels of RGB, at most :data:`MOST_PSNR`."""
    ssim: Tensor
    """Of RGB, Gaussian window of σ = 1.5, mirrored at the borders: 1 for equal pictures."""
    perceptual_distance: Tensor
    """Relative squared distance of features: 0 for equal pictures."""


@torch.no_grad()
def quality(picture: Tensor, truth: Tensor, backbone: Backbone, layers: Sequence[str]) -> Quality:
    """Measure pictures ``(B, 3, H, W)`` in [0, 1] against the true ones, at least 16 pixels each way.

    Wang et al., "Image quality assessment" (TIP 2004) for SSIM; ``layers`` of ``backbone`` for the last measure.
    """
    psnr = peak_signal_noise_ratio(picture, truth, data_range=1.0, reduction="none", dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(picture, truth, data_range=1.0, reduction="none")
    assert isinstance(ssim, Tensor)
    distance = perceptual_distance(backbone, layers, picture, truth)
    return Quality(psnr.reshape(-1).clamp_max(MOST_PSNR), ssim.reshape(-1), distance)
