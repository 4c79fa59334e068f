"""Which images a self-training round shows when: easy ones first, and more often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch.utils.data import Dataset

from tezawari.core.seeding import epoch_order, sample_rng
from tezawari.data.labelled_image import LabelledImage, multi_hot, random_view

if TYPE_CHECKING:  # that module loads Lightning
    from tezawari.data.loader import SampleKey

Order = Literal["easy", "random"]
_EASY_SCALE = (0.5, 1.5)
_RANDOM_STREAM = 2**20  # of epoch_order: apart from the orders that loaders draw


@dataclass(frozen=True)
class Curriculum:
    """What the rounds of a self-training loop show.

    A round begins with the share ``first_share`` of the images that are the easiest, takes in harder ones evenly and
    shows all of them from the moment ``all_from`` (a share of the round) on. With ``augment``, the easiest
    ``first_share`` are shown once more in every pass, at scales that vary more. [ours: the talk says "learn easy ones
    first, and augment with easy images" and no numbers]

    ``order="random"`` replaces the ranking by a random one and leaves the rest as it is: the control.
    """

    order: Order = "easy"
    augment: bool = True
    first_share: float = 0.5
    all_from: float = 0.5

    def included(self, progress: float, count: int) -> int:
        """Return how many of ``count`` images are shown at ``progress`` in [0, 1] of a round."""
        grown = min(1.0, progress / self.all_from) if self.all_from > 0 else 1.0
        return max(1, min(count, round(count * (self.first_share + (1 - self.first_share) * grown))))

    def pass_of(self, ranked: Sequence[str], progress: float) -> list[tuple[str, bool]]:
        """Return what a pass at ``progress`` of a round shows: (image, whether it is an easy one's second showing)."""
        shown = [(image_id, False) for image_id in ranked[: self.included(progress, len(ranked))]]
        easy = round(len(ranked) * self.first_share) if self.augment else 0
        return shown + [(image_id, True) for image_id in ranked[:easy]]

    def plan(self, ranked: Sequence[str], samples: int, seed: int, round_index: int) -> list[tuple[str, bool]]:
        """Return the whole round: ``samples`` showings, each pass in an order of its own that (seed, round) settle."""
        if self.order == "random":
            ranked = [ranked[i] for i in epoch_order(seed, _RANDOM_STREAM + round_index, len(ranked))]
        plan: list[tuple[str, bool]] = []
        visit = 0
        while len(plan) < samples:
            shown = self.pass_of(ranked, len(plan) / samples)
            plan += [shown[i] for i in epoch_order(seed, _RANDOM_STREAM * (2 + round_index) + visit, len(shown))]
            visit += 1
        return plan[:samples]


class PhaseSamples(Dataset[dict[str, Any]]):
    """The samples of a run in phases of equal length, every one a function of (seed, position) and the stages on disk.

    In a phase without pseudo masks the images are shown with their labels alone; in one with masks, by the curriculum.

    Args:
        images: the training images.
        num_classes: K.
        image_size: side of the square views, in pixels.
        phase_samples: how many samples a phase has.
        masks_of: phase → None, or the images' ids from easy to hard and a function from id to mask (H, W) uint8.
        curriculum: what a phase with masks shows.
        seed: of everything random.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        num_classes: int,
        image_size: int,
        phase_samples: int,
        masks_of: Callable[[int], tuple[list[str], Callable[[str], np.ndarray]] | None],
        curriculum: Curriculum,
        seed: int,
    ) -> None:
        self.images = {image.id: image for image in images}
        self.num_classes = num_classes
        self.image_size = image_size
        self.phase_samples = phase_samples
        self.masks_of = masks_of
        self.curriculum = curriculum
        self.seed = seed
        self._phase = -1
        self._plan: list[tuple[str, bool]] = []
        self._mask: Callable[[str], np.ndarray] | None = None

    def __len__(self) -> int:
        return self.phase_samples

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """Return sample ``key.index`` of phase ``key.epoch``; the loader must not shuffle."""
        if key.epoch != self._phase:
            self._enter(key.epoch)
        image_id, again = self._plan[key.index]
        image = self.images[image_id]
        rng = sample_rng(self.seed, key.epoch, key.index)
        mask = self._mask(image_id) if self._mask is not None else None
        scale = {"scale": _EASY_SCALE} if again else {}
        view, view_mask = random_view(image.load_image(), mask, rng, self.image_size, **scale)
        sample: dict[str, Any] = {"image": view, "labels": multi_hot(image.labels, self.num_classes), "id": image_id}
        return sample if view_mask is None else {**sample, "mask": view_mask}

    def _enter(self, phase: int) -> None:
        supervision = self.masks_of(phase)
        if supervision is None:
            everything = Curriculum(augment=False, first_share=1.0)
            self._plan, self._mask = everything.plan(sorted(self.images), self.phase_samples, self.seed, phase), None
        else:
            ranked, self._mask = supervision
            self._plan = self.curriculum.plan(ranked, self.phase_samples, self.seed, phase)
        self._phase = phase
