"""The forward transforms whose inverses are learnt: to grey, to low resolution and back, to noise (METHODS §10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.core.errors import UserError, did_you_mean
from tezawari.style.color import lab_to_rgb, rgb_to_lab

Task = Literal["colorize", "superres", "denoise"]
TASKS: tuple[Task, ...] = get_args(Task)
LARGEST_NOISE = 128.0
SCALES = range(2, 9)
_LEVELS = 255.0
_WINDOW = 5
# In denoising papers the three usual standard deviations, here shares of the largest.
_TEST_SHARES = (0.3, 0.5, 1.0)


@dataclass(frozen=True)
class ForwardTransform:
    """One of the three transforms, with the range of levels that it is drawn at.

    A *level* says how strongly a photo is degraded: for ``denoise`` the standard deviation of the noise in levels of
    0 … 255, for ``superres`` the factor of the resolution, for ``colorize`` always 1.

    Attributes:
        task: the inverse to learn.
        max_noise: the largest standard deviation that ``denoise`` draws, in (0, 128].
        scales: the factors that ``superres`` draws from, whole numbers from 2 to 8.

    Raises:
        UserError: for an unknown task, or values outside these ranges.
    """

    task: Task
    max_noise: float = 50.0
    scales: tuple[int, ...] = (2, 4)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"model.task={self.task}: there is no such task{did_you_mean(self.task, TASKS)}")
        if not 0 < self.max_noise <= LARGEST_NOISE:
            raise UserError(f"model.max_noise={self.max_noise:g}: must lie above 0 and up to {LARGEST_NOISE:g}")
        if not self.scales or not set(self.scales) <= set(SCALES):
            raise UserError(
                f"model.scales={list(self.scales)}: name factors from {SCALES[0]} to {SCALES[-1]}, as in [2,4]"
            )

    def draw(self, rng: np.random.Generator) -> float:
        """Draw a level: uniform in [0, ``max_noise``], or one of ``scales``."""
        if self.task == "denoise":
            return float(rng.uniform(0.0, self.max_noise))
        if self.task == "superres":
            return float(self.scales[int(rng.integers(len(self.scales)))])
        return 1.0

    def test_levels(self) -> tuple[float, ...]:
        """Return the levels, rising, at which a network is measured: 15, 25 and 50 for noise up to 50."""
        if self.task == "denoise":
            return tuple(share * self.max_noise for share in _TEST_SHARES)
        return tuple(sorted({float(scale) for scale in self.scales})) if self.task == "superres" else (1.0,)

    def condition(self, level: float) -> float:
        """Return the condition of the network at ``level``: its share of the largest level, in [0, 1]. [ours]"""
        return level / {"denoise": self.max_noise, "superres": max(self.scales), "colorize": 1.0}[self.task]

    def describe(self, level: float) -> str:
        """Say in words what a photo degraded at ``level`` is."""
        return {"denoise": f"noise {level:g}", "superres": f"bicubic {level:g}x", "colorize": "grey"}[self.task]

    def __call__(self, image: Tensor, level: float, rng: np.random.Generator) -> Tensor:
        """Degrade a photo ``(3, H, W)`` in [0, 1] at ``level``; same shape and range, random by ``rng`` alone."""
        if self.task == "colorize":
            return to_grey(image)
        if self.task == "superres":
            return lower_resolution(image, int(level))
        return add_noise(image, level, rng)

    def start(self, degraded: Tensor, level: float) -> Tensor:
        """Return the picture ``(3, H, W)`` in [0, 1] that the network's answer is a difference from.

        It is the degraded photo, for ``denoise`` smoothed by :func:`local_wiener`: noise has no short code that would
        pass the network's bottleneck to be taken away, and what smoothing blurs has. [ours]
        """
        return local_wiener(degraded, level) if self.task == "denoise" else degraded


def to_grey(image: Tensor) -> Tensor:
    """Return the neutral colours of the same CIE Lab lightness; ``(…, 3, H, W)`` in [0, 1], shape kept."""
    lab = rgb_to_lab(image)
    lab[..., 1:, :, :] = 0
    return lab_to_rgb(lab)


def resized(image: Tensor, height: int, width: int) -> Tensor:
    """Resample ``(3, H, W)`` in [0, 1] to ``(3, height, width)`` by antialiased bicubic interpolation, clamped."""
    larger = F.interpolate(image[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return larger[0].clamp_(0, 1)


def lower_resolution(image: Tensor, scale: int) -> Tensor:
    """Reduce ``(3, H, W)`` in [0, 1] to 1/``scale`` of each side, rounded up, and enlarge it to its size again."""
    height, width = image.shape[-2:]
    return resized(resized(image, math.ceil(height / scale), math.ceil(width / scale)), height, width)


def add_noise(image: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """Add white Gaussian noise of standard deviation ``noise`` (levels of 0 … 255) to ``(3, H, W)`` in [0, 1].

    Clamped to [0, 1], as a file would be [ours]; papers mostly leave it unclamped.
    """
    drawn = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return (image + drawn.to(image) * (noise / _LEVELS)).clamp_(0, 1)


def local_wiener(image: Tensor, noise: float) -> Tensor:
    """Smooth ``(3, H, W)`` in [0, 1] where it varies no more than noise of this strength (in levels of 255) does.

    Lee, "Digital image enhancement and noise filtering by use of local statistics" (PAMI 1980): each pixel's deviation
    from the mean of its 5×5 window is scaled by the share of the window's variance that is not noise. The variance is
    that of all three channels [ours]. No noise gives the photo itself.
    """
    if noise == 0:
        return image
    around = F.pad(image[None], (_WINDOW // 2,) * 4, mode="reflect")
    mean = F.avg_pool2d(around, _WINDOW, stride=1)[0]
    variance = (F.avg_pool2d(around.square(), _WINDOW, stride=1)[0] - mean.square()).mean(0, keepdim=True)
    kept = (1 - (noise / _LEVELS) ** 2 / variance.clamp_min(torch.finfo(variance.dtype).tiny)).clamp_min(0)
    return (mean + kept * (image - mean)).clamp_(0, 1)


def estimate_noise(image: Tensor) -> float:
    """Estimate the standard deviation of white noise in ``(3, H, W)`` in [0, 1]; the answer in levels of 0 … 255.

    Immerkær, "Fast noise variance estimation" (CVIU 1996): the mean magnitude of a difference of two Laplacians, to
    which smooth regions and straight edges give nothing. Texture counts as noise.
    """
    kernel = image.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
    answer = F.conv2d(image[:, None], kernel[None, None])
    return math.sqrt(math.pi / 2) / 6 * float(answer.abs().mean()) * _LEVELS
