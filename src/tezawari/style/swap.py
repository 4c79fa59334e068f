"""Material swap: restyle one region of a photo and leave the rest alone (METHODS §7; Matsuo et al., ICMEW 2017).

The chain is segment → restyle → composite → segment again. Here is all of it that is arithmetic: regions, the
composite ``y = M·stylised + (1 − M)·photo``, and what a second look at the picture says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features.backbone import Backbone
from tezawari.segmentation.metrics import confusion_matrix, iou_per_class
from tezawari.style.color import preserve_color
from tezawari.style.gatys import Progress, paint
from tezawari.style.maps import feather
from tezawari.style.style_pack import StylePack
from tezawari.style.stylize import Stylizer

Restyle = Callable[[Tensor, Tensor], Tensor]
"""Photo (3, H, W) in [0, 1] and region (H, W) bool → a picture (3, H, W) whose region shows the target."""

# Steps between neighbouring pixels that a photo has anyway: all but the steepest twentieth.
_OWN_RANGE = 0.95
_SMALLEST_SCALE, _LARGEST_SCALE = 0.25, 4.0


@dataclass(frozen=True)
class Swapped:
    """A photo one region of which was restyled: ``image`` (3, H, W) in [0, 1], and its mask M (H, W) in [0, 1]."""

    image: Tensor
    mask: Tensor


def swap_material(
    photo: Tensor, region: Tensor, restyle: Restyle, *, feather_px: float = 0.0, keep_color: bool = False
) -> Swapped:
    """Restyle one region of a photo.

    Where M = 0 the photo is kept bit for bit, where M = 1 the restyled picture is: without ``feather_px`` nothing
    changes outside of the region, with it nothing beyond 3 · ``feather_px`` of it.

    Args:
        photo: (3, H, W) RGB in [0, 1].
        region: (H, W) bool, where the target material is to be.
        restyle: makes the restyled picture, such as :func:`by_network` and :func:`by_gatys` do.
        feather_px: σ in pixels of the Gaussian that softens the region's border; 0: a hard one.
        keep_color: keep the photo's a and b in Lab and take only the restyled lightness.

    Raises:
        UserError: a region of another size than the photo, or a border softened by less than 0 pixels.
    """
    if region.shape != photo.shape[-2:]:
        raise UserError(
            f"the mask is {region.shape[-1]} × {region.shape[-2]} pixels, the photo {photo.shape[-1]} × "
            f"{photo.shape[-2]}: resize the mask by nearest neighbour"
        )
    if not 0 <= feather_px < float("inf"):
        raise UserError(f"a soft border is 0 or more pixels wide, not {feather_px:g}")
    stylized = restyle(photo, region)
    if keep_color:
        stylized = preserve_color(stylized, photo)
    mask = feather(region[None].float(), feather_px)[0]
    return Swapped(composite(photo, stylized, mask), mask)


def composite(photo: Tensor, stylized: Tensor, mask: Tensor) -> Tensor:
    """Return ``M·stylised + (1 − M)·photo``; pictures are (3, H, W), M is (H, W) in [0, 1].

    Exactly the photo where M = 0 and exactly the restyled picture where M = 1.
    """
    return mask * stylized + (1 - mask) * photo


def region_of(mask: np.ndarray, value: int | None = None) -> Tensor:
    """Return the pixels (H, W) bool of a mask that hold ``value``; None: those that hold anything but 0."""
    return torch.from_numpy(mask != 0 if value is None else mask == value)


def check_region(region: Tensor, what: str) -> None:
    """Raise UserError, naming ``what``, for a region that is empty or leaves nothing of the photo."""
    if not region.any():
        raise UserError(f"{what} is empty, so there is nothing to restyle: paint the region in any value but 0")
    if region.all():
        raise UserError(
            f"{what} covers the whole photo, so there is no region to tell from the rest: to restyle all of it, "
            "type tezawari stylize PHOTO --style NAME"
        )


# --- restyling --------------------------------------------------------------------------------------------------------


def by_network(stylizer: Stylizer, style: Tensor, *, scale: float = 1.0) -> Restyle:
    """Return what restyles by a trained network.

    Args:
        stylizer: the network.
        style: style weights (S,).
        scale: the network sees the photo enlarged by this, and its picture is shrunk again, so that strokes of the
            size that it was trained on become finer by as much. [ours]

    Raises:
        UserError: a scale outside of 0.25 … 4.
    """
    _check_scale(scale)

    def restyle(photo: Tensor, region: Tensor) -> Tensor:
        size = (photo.shape[-2], photo.shape[-1])
        return _resize(stylizer(_resize(photo, _scaled(size, scale)), style), size)

    return restyle


def by_gatys(
    style: Tensor | StylePack,
    backbone: Backbone,
    *,
    scale: float = 1.0,
    steps: int = 100,
    content_weight: float = 1.0,
    style_weight: float | None = None,
    progress: Callable[[Progress], bool | None] | None = None,
) -> Restyle:
    """Return what restyles by optimising pixels (:func:`tezawari.style.gatys.paint`).

    Gram matrices are taken over the region's positions alone, so the rest of the photo has no part in the style.

    Args:
        style: an image (3, h, w) in [0, 1], which is shrunk to the photo's longer side, times ``scale``, or a pack.
        backbone: a loss network loaded with the layers of its recipe.
        scale: the photo is painted enlarged by this and shrunk again.
        steps: evaluations of the loss.
        content_weight: how strongly the photo's content holds.
        style_weight: how strongly the style does; None: what suits the backbone.
        progress: called after each step.

    Raises:
        UserError: a scale outside of 0.25 … 4, and what ``paint`` refuses.
    """
    _check_scale(scale)

    def restyle(photo: Tensor, region: Tensor) -> Tensor:
        size = (photo.shape[-2], photo.shape[-1])
        larger = _scaled(size, scale)
        painted = paint(
            _resize(photo, larger),
            [style],
            backbone=backbone,
            content_weight=content_weight,
            style_weight=style_weight,
            steps=steps,
            max_side=max(larger),
            guide=_resize(region[None].float(), larger),
            callback=progress,
        )
        return _resize(painted, size)

    return restyle


def _check_scale(scale: float) -> None:
    if not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
        raise UserError(f"scale={scale:g}: must lie between {_SMALLEST_SCALE:g} and {_LARGEST_SCALE:g}")


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True, align_corners=False)[0].clamp(0, 1)


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What a judge's mask says of a region that should show a target.

    ``shares``: the part of the region that has each value of the mask. ``confusion`` (2, 2) int64: pixels of the whole
    photo by whether they are the region's (rows) and whether they are seen as the target (columns).
    """

    shares: dict[int, float]
    confusion: Tensor

    @property
    def value(self) -> int:
        """The value of most of the region's pixels."""
        return max(self.shares, key=lambda value: (self.shares[value], -value))

    @property
    def pixel_accuracy(self) -> float:
        """The share of the region that is seen as the target."""
        return float(region_accuracy(self.confusion))

    @property
    def iou(self) -> float:
        """Intersection over union of the region and what is seen as the target, over the whole photo."""
        return float(iou_per_class(self.confusion)[1])


def judge_region(mask: np.ndarray, region: Tensor, target: int) -> Verdict:
    """Compare a mask (H, W) with a region (H, W) bool, not empty, that should have the value ``target`` there only."""
    values, counts = np.unique(mask[region.numpy()], return_counts=True)
    shares = {int(value): float(count) / int(region.sum()) for value, count in zip(values, counts)}
    return Verdict(shares, confusion_matrix(torch.from_numpy(mask == target).long(), region.long(), 2))


def region_accuracy(confusions: Tensor) -> Tensor:
    """Return the share of the regions' pixels that are seen as the target, (…) float64, of confusions (…, 2, 2).

    They are those of :class:`Verdict`, or sums of them. NaN of no region.
    """
    inside = confusions[..., 1, :].double()
    return inside[..., 1] / inside.sum(-1)


def border_step(image: Tensor, mask: Tensor) -> float:
    """Return the mean step between neighbouring pixels across the border of a mask.

    The step of two neighbours is the mean over RGB of their absolute difference. Neighbours count by how much M (H, W)
    differs between them: for a hard mask those on the two sides of its border, for a soft one all along its slope.
    NaN for a constant mask.
    """
    total, weight = 0.0, 0.0
    for axis in (0, 1):
        slope = mask.diff(dim=axis).abs()
        total += float((slope * image.diff(dim=axis + 1).abs().mean(0)).sum(dtype=torch.float64))
        weight += float(slope.sum(dtype=torch.float64))
    return total / weight if weight else float("nan")


def own_range(photo: Tensor) -> float:
    """Return the step between neighbouring pixels, as in :func:`border_step`, that 95 % of a photo's do not exceed."""
    steps = torch.cat([photo.diff(dim=axis).abs().mean(0).flatten() for axis in (1, 2)])
    place = max(1, round(_OWN_RANGE * steps.numel()))
    return float(steps.kthvalue(place).values)


def changed_outside(image: np.ndarray, photo: np.ndarray, region: np.ndarray) -> int:
    """Return how many pixels of (H, W, 3) pictures differ outside of a region (H, W) bool."""
    return int(((image != photo).any(-1) & ~region).sum())


def find_source(mask: np.ndarray, class_names: Sequence[str], source: str) -> Tensor:
    """Return the region (H, W) bool of a class in a mask of values 0 background, k ``class_names[k - 1]``.

    Raises:
        UserError: for a class that is not known, or is not in the mask: the message says what is.
    """
    if source not in class_names:
        raise UserError(f"the segmenter knows no material {source}{did_you_mean(source, class_names)}")
    region = region_of(mask, 1 + class_names.index(source))
    if not region.any():
        shares = np.bincount(mask.ravel(), minlength=1 + len(class_names))[1:] / mask.size
        there = [f"{class_names[place]} {shares[place]:.0%}" for place in np.argsort(-shares) if shares[place] > 0]
        raise UserError(f"there is no {source} in the photo; found there: {', '.join(there) or 'no material at all'}")
    return region
