"""Restore photos of any size with a trained network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.photo import MAX_PIXELS
from tezawari.style.inference import DeployedNetwork
from tezawari.style.inverse.model import finished
from tezawari.style.inverse.package import LoadedInverse, load_inverse
from tezawari.style.inverse.transforms import ForwardTransform, estimate_noise, resized, to_grey
from tezawari.style.tiling import stylize_image

_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Restorer:
    """A trained network made ready for use.

    >>> restorer = Restorer.load(Path("outputs/inverse/RUN"))  # doctest: +SKIP
    >>> larger = restorer.restore(photo.image, 4)  # doctest: +SKIP
    """

    trained: LoadedInverse

    @classmethod
    def load(cls, checkpoint: Path) -> Restorer:
        """Read a published network, a training checkpoint or the folder of a run; raises UserError for others."""
        return cls(load_inverse(checkpoint))

    @property
    def transform(self) -> ForwardTransform:
        """What the network undoes."""
        return self.trained.transform

    @cached_property
    def _network(self) -> DeployedNetwork:
        return DeployedNetwork(self.trained.network)

    @torch.inference_mode()
    def undo(self, degraded: Tensor, level: float, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """Undo the transform of a photo that has its final size.

        Args:
            degraded: ``(3, H, W)`` RGB in [0, 1]: grey, enlarged or noisy.
            level: how strongly it is degraded, see :class:`~tezawari.style.inverse.transforms.ForwardTransform`.
            progress: called with (tiles done, tiles in all) for photos larger than a tile.

        Returns:
            ``(3, H, W)`` RGB in [0, 1].

        Raises:
            UserError: when the photo is smaller than 16 pixels.
        """
        height, width = degraded.shape[-2:]
        if min(height, width) < _SMALLEST_SIDE:
            raise UserError(
                f"a photo of {width}x{height} pixels is too small to restore: it needs {_SMALLEST_SIDE} each way"
            )
        condition = torch.tensor([self.transform.condition(level)])
        answer = stylize_image(self._network, degraded, condition, progress=progress)
        return finished(self.transform.task, self.transform.start(degraded, level), answer)

    def restore(
        self, photo: Tensor, level: float | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Restore a photo as it comes: colour it by its lightness alone, enlarge it, or take its noise away.

        Args:
            photo: ``(3, H, W)`` RGB in [0, 1].
            level: the factor to enlarge by, or the noise's standard deviation in levels of 0 … 255; None enlarges by
                the smallest factor of the training and estimates the noise.
            progress: called with (tiles done, tiles in all) for photos larger than a tile.

        Returns:
            ``(3, H, W)`` RGB in [0, 1]; for ``superres`` larger by the factor.

        Raises:
            UserError: for a level that the network was not trained at, a photo that is too small, or one that would
                have more than 200 megapixels.
        """
        task, level = self.transform.task, self.level_of(photo, level)
        if task == "colorize":
            return self.undo(to_grey(photo), level, progress)
        if task == "denoise":
            return self.undo(photo, level, progress)
        height, width = (int(level) * int(side) for side in photo.shape[-2:])
        if height * width > MAX_PIXELS:
            raise UserError(
                f"enlarged {level:g} times it would have {width}x{height} pixels, more than {MAX_PIXELS}: "
                "enlarge a part of it"
            )
        return self.undo(resized(photo, height, width), level, progress)

    def level_of(self, photo: Tensor, level: float | None) -> float:
        """Return the level to restore ``photo`` at, checked; see :meth:`restore`."""
        transform = self.transform
        if transform.task == "colorize":
            if level not in (None, 1.0):
                raise UserError("this network adds colour, which has no level: leave --noise and --scale away")
            return 1.0
        if transform.task == "superres":
            if level is not None and level not in transform.scales:
                known = " or ".join(str(scale) for scale in sorted(set(transform.scales)))
                raise UserError(f"this network enlarges {known} times, not {level:g}: type --scale {known[0]}")
            return float(min(transform.scales)) if level is None else level
        if level is not None and not 0 <= level <= transform.max_noise:
            raise UserError(
                f"--noise {level:g}: this network was trained on noise from 0 to {transform.max_noise:g} levels of 255"
            )
        return min(estimate_noise(photo), transform.max_noise) if level is None else level
