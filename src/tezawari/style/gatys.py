"""Style transfer by optimising the picture itself (Gatys, Ecker & Bethge, CVPR 2016; METHODS §5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.features.backbone import Backbone, default_content_layers, default_style_layers
from tezawari.features.gram import gram_matrix
from tezawari.style.color import preserve_color
from tezawari.style.loss import StyleTarget, StyleTargets, content_distance, image_target, total_variation
from tezawari.style.style_pack import StylePack

_log = logging.getLogger(__name__)

# Coarser scales show the loss network nothing that it knows.
_COARSEST_LONG_SIDE = 128
_COARSEST_SHORT_SIDE = 32
_SMALLEST_SIDE = 16
# Each entry costs two pictures of memory; Gatys' own code and this one gain nothing from more.
_LBFGS_HISTORY = 10
_FIRST_MOVE = 0.003
_ADAM_STEP = 0.02
# Without a line search a step can overshoot: past this multiple of the best loss, start afresh there, moving less.
_OVERSHOT = 3.0


@dataclass(frozen=True)
class Progress:
    """Where a painting stands after a step.

    ``step`` of ``steps`` over all scales (from 1), the step's ``loss``, the longest side in pixels worked at now, the
    ``share`` of the whole work done (0 to 1: pixels × steps), and ``render()``: the best so far, (3, H, W) in [0, 1].
    """

    step: int
    steps: int
    loss: float
    side: int
    share: float
    render: Callable[[], Tensor]


@dataclass(frozen=True)
class Objective:
    """What a picture of one size is compared with; build it with :func:`build_objective`.

    ``content``: layer → features (1, C, h, w). ``targets``: those of K styles. ``guides``: layer → (K, h, w) or None.
    ``shares`` (K,) sum to 1.
    """

    backbone: Backbone
    content: dict[str, Tensor]
    targets: StyleTargets
    guides: dict[str, Tensor] | None
    shares: Tensor
    content_weight: float
    style_weight: float
    tv_weight: float

    def __call__(self, picture: Tensor) -> Tensor:
        """Return the loss, a scalar, of ``picture`` (1, 3, H, W) in [0, 1]."""
        features = self.backbone(picture, tuple(dict.fromkeys([*self.targets.layers, *self.content])))
        style = (self.shares * self._style_losses(features)).sum()
        content = torch.stack([content_distance(features[layer], p) for layer, p in self.content.items()]).mean()
        smooth = total_variation(picture).mean()
        return self.content_weight * content + self.style_weight * style + self.tv_weight * smooth

    def _style_losses(self, features: dict[str, Tensor]) -> Tensor:
        """Return the loss of each style, (K,)."""
        guides = {layer: None if self.guides is None else self.guides[layer] for layer in self.targets.layers}
        grams = {layer: guided_grams(features[layer], guide) for layer, guide in guides.items()}
        means = {}
        if self.targets.needs_means:
            means = {layer: guided_means(features[layer], guide) for layer, guide in guides.items()}
        return self.targets(grams, means, torch.arange(len(self.shares), device=self.shares.device))


def guided_grams(features: Tensor, guides: Tensor | None) -> Tensor:
    """Return the Gram matrices of ``features`` (1, C, h, w) under each of ``guides`` (K, h, w): (K, C, C).

    ``Σ_x g_k(x)² F(x) F(x)ᵀ / Σ_x g_k(x)²`` (Gatys et al., CVPR 2017, eq. 5): a guide of ones, or no guide (K = 1),
    gives the plain Gram matrix divided by h·w.
    """
    if guides is None:
        return gram_matrix(features, "hw")
    flat = features.flatten(2)[0]
    squares = guides.flatten(1).square()
    squares = squares / squares.sum(1, keepdim=True)
    return torch.stack([(flat * square) @ flat.T for square in squares])


def guided_means(features: Tensor, guides: Tensor | None) -> Tensor:
    """Return the means (K, C) of ``features`` (1, C, h, w) weighted as in :func:`guided_grams`."""
    if guides is None:
        return features.mean((2, 3))
    squares = guides.flatten(1).square()
    return (squares @ features.flatten(2)[0].T) / squares.sum(1, keepdim=True)


@dataclass(frozen=True)
class Recipe:
    """The layers that :func:`paint` compares in a backbone, and the weights that suit them."""

    style_layers: tuple[str, ...]
    content_layers: tuple[str, ...]
    style_weight: float
    tv_weight: float

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers, each once."""
        return tuple(dict.fromkeys([*self.style_layers, *self.content_layers]))


def recipe(backbone_name: str) -> Recipe:
    """Return what to compare in a backbone, and how strongly.

    For VGG the paper's layers: the first convolution of each of the five stages, and the second of the fourth. The
    weights were chosen by eye at 256 to 384 pixels. A network that halves the picture in its very first layer, as
    EfficientNet does, leaves speckle that only smoothing removes; and its Gram matrices, of activations far from zero,
    differ less from each other.
    """
    if backbone_name in ("vgg16", "vgg19"):
        return Recipe(tuple(f"relu{stage}_1" for stage in range(1, 6)), ("relu4_2",), 20.0, 2.0)
    if backbone_name == "efficientnet_lite0":
        style_layers = ("stem", "block1", "block2", "block4", "block6", "block9")
        return Recipe(style_layers, ("block6",), 150.0, 150.0)
    return Recipe(default_style_layers(backbone_name), default_content_layers(backbone_name), 150.0, 150.0)


def paint(
    content_image: Tensor,
    style_images: Sequence[Tensor | StylePack],
    *,
    backbone: Backbone,
    style_weights: Sequence[float] | Tensor | None = None,
    content_weight: float = 1.0,
    style_weight: float | None = None,
    tv_weight: float | None = None,
    optimizer: Literal["lbfgs", "adam"] = "lbfgs",
    steps: int = 300,
    max_side: int = 512,
    guide: Tensor | None = None,
    keep_color: bool = False,
    init: Literal["content", "noise"] | Tensor = "content",
    seed: int = 0,
    callback: Callable[[Progress], bool | None] | None = None,
) -> Tensor:
    """Paint a photo in the manner of one or several style images, by optimising the picture (METHODS §5).

    Minimises ``content_weight · mean_l c_l + style_weight · Σ_k w_k mean_l s_kl + tv_weight · (mean squared difference
    of neighbouring pixels)``, with the paper's ``c_l = ½ Σ (F − P)²`` and ``s_kl = Σ (G − A_k)² / (4 N² M²)``.

    Differs from the paper: each term is divided by its value at F = 0 or G = 0, so no layer or style drowns
    another; G and A are each divided by their own number of positions M, so styles of any size compare; total variation
    is penalised; max pooling stays; VGG16 may stand in for VGG19; and the picture is painted from coarse to fine,
    ``steps`` shared out evenly over sizes that double up to ``max_side``, each starting from the one before.

    Args:
        content_image: the photo, (3, H, W) in [0, 1], at least 16 pixels each way; it is shrunk, never enlarged, to
            ``max_side`` pixels along its longer side.
        style_images: K images (3, H_k, W_k) in [0, 1] of any size, shrunk likewise; or style packs, of which each scale
            takes the statistics gathered nearest to it.
        backbone: a loss network loaded with the layers of its :func:`recipe`.
        style_weights: (K,) non-negative, only their ratios count; equal when None.
        content_weight: how strongly the photo's content holds.
        style_weight: how strongly the styles do; the backbone's :func:`recipe` when None.
        tv_weight: how smooth neighbouring pixels are to be; likewise.
        optimizer: "lbfgs" (history of 10, no line search) or "adam".
        steps: evaluations of the loss over all scales.
        max_side: pixels along the longer side of the painting.
        guide: (K, H, W) in [0, 1], where each style goes, of the photo's size; a style's weight is then also in
            proportion to its area, so that a pixel counts the same in a small region and in a large one.
        keep_color: give the painting the photo's a and b in Lab.
        init: start from the photo, from noise drawn from ``seed``, or from a picture (3, h, w) in [0, 1].
        seed: seed of the noise.
        callback: called after each step; the painting ends early, with the best so far, when it returns True.

    Returns:
        The painting (3, h, w) in [0, 1]: the picture of lowest loss at the finest scale that was reached, enlarged to
        the final size if that was a coarser one. When the loss stops being finite this too is what is returned, and a
        warning is logged.

    Raises:
        UserError: for a photo or style too small, weights that are negative or all zero, a guide of another size or
            number or empty, fewer than one step, and a loss that is not finite from the start.
    """
    weights = _check(content_image, style_images, style_weights, guide, steps)
    suited = recipe(backbone.name)
    sizes = _scales(content_image, max_side)[-steps:]
    final = sizes[-1]
    counts = [steps // len(sizes) + (k < steps % len(sizes)) for k in range(len(sizes))]
    whole = sum(count * math.prod(size) for count, size in zip(counts, sizes))
    picture = _start(init, content_image, sizes[0], seed)
    size, done_steps, done_work = sizes[0], 0, 0

    def finish(image: Tensor) -> Tensor:
        image = _resize(image, final)[0]
        return preserve_color(image, _resize(content_image[None], final)[0]) if keep_color else image

    def report(step: int, loss: float, best: Tensor) -> bool:
        if callback is None:
            return False
        share = (done_work + step * math.prod(size)) / whole
        return bool(callback(Progress(done_steps + step, steps, loss, max(size), share, lambda: finish(best))))

    for size, count in zip(sizes, counts):
        objective = build_objective(
            _resize(content_image[None], size)[0],
            [_style_at(style, max(size) / max(final), max(final), backbone) for style in style_images],
            backbone=backbone,
            style_weights=weights,
            content_weight=content_weight,
            style_weight=suited.style_weight if style_weight is None else style_weight,
            tv_weight=suited.tv_weight if tv_weight is None else tv_weight,
            guide=guide,
        )
        picture, finished = _minimise(objective, _resize(picture, size), count, optimizer, report)
        if not finished:
            break
        done_steps, done_work = done_steps + count, done_work + count * math.prod(size)
    return finish(picture)


@torch.no_grad()
def build_objective(
    content_image: Tensor,
    style_images: Sequence[Tensor | StyleTarget],
    *,
    backbone: Backbone,
    style_weights: Tensor,
    content_weight: float,
    style_weight: float,
    tv_weight: float,
    guide: Tensor | None = None,
) -> Objective:
    """Return the loss of :func:`paint` for pictures of the size of ``content_image`` (3, H, W).

    A style is an image (3, H, W), or the target itself; ``style_weights`` is (K,), ``guide`` (K, h, w) of any size or
    None.
    """
    suited = recipe(backbone.name)
    style_layers, content_layers = suited.style_layers, suited.content_layers
    targets = [
        style if isinstance(style, StyleTarget) else image_target(backbone, style, style_layers)
        for style in style_images
    ]
    features = backbone(content_image[None], suited.layers)
    guides = None
    if guide is not None:
        guides = {layer: F.adaptive_avg_pool2d(guide, features[layer].shape[-2:]) for layer in style_layers}
        style_weights = style_weights * guide.mean((1, 2))
    return Objective(
        backbone=backbone,
        content={layer: features[layer] for layer in content_layers},
        targets=StyleTargets(targets),
        guides=guides,
        shares=style_weights / style_weights.sum(),
        content_weight=content_weight,
        style_weight=style_weight,
        tv_weight=tv_weight,
    )


def _minimise(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    optimizer: str,
    report: Callable[[int, float, Tensor], bool],
) -> tuple[Tensor, bool]:
    """Return the best picture (1, 3, H, W) of ``steps`` evaluations, and whether none of them ended the search."""
    picture = start.clamp(0, 1).contiguous().requires_grad_()  # the search looks at it as one vector
    best, lowest = picture.detach().clone(), math.inf
    caution = 1.0
    search = _search(picture, optimizer, caution)
    for step in range(1, steps + 1):
        search.zero_grad()
        loss = objective(picture)
        value = float(loss.detach())
        if not math.isfinite(value):
            if math.isinf(lowest):
                raise UserError(
                    "the loss is not a finite number from the first step: check that photo and styles are not blank, "
                    "and try smaller weights"
                )
            _log.warning("the loss stopped being finite at step %d: the painting ends with the best so far", step)
            return best, False
        if value < lowest:
            lowest = value
            best.copy_(picture.detach())
        if report(step, value, best):
            return best, False
        if value > _OVERSHOT * lowest:
            with torch.no_grad():
                picture.copy_(best)
            caution /= 4
            search = _search(picture, optimizer, caution)
            continue
        if step < steps:
            # The gradient of a mean over pixels shrinks with their number; L-BFGS drops curvature below a fixed bound.
            (loss * picture.numel()).backward()
            search.step(partial(float, value))
            if isinstance(search, torch.optim.LBFGS):
                search.param_groups[0]["lr"] = 1.0
            with torch.no_grad():
                picture.clamp_(0, 1)
    return best, True


def _search(picture: Tensor, optimizer: str, caution: float) -> torch.optim.Optimizer:
    if optimizer == "adam":
        return torch.optim.Adam([picture], lr=_ADAM_STEP * caution, betas=(0.9, 0.99))
    # PyTorch divides the first move by the gradient's absolute sum: this rate makes it _FIRST_MOVE a pixel on average.
    first_rate = _FIRST_MOVE * caution * picture.numel()
    return torch.optim.LBFGS(
        [picture], lr=first_rate, max_iter=1, history_size=_LBFGS_HISTORY, tolerance_grad=0, tolerance_change=0
    )


def _check(
    content_image: Tensor,
    style_images: Sequence[Tensor | StylePack],
    style_weights: Sequence[float] | Tensor | None,
    guide: Tensor | None,
    steps: int,
) -> Tensor:
    """Return the style weights (K,), or raise ``UserError`` for what :func:`paint` refuses."""
    if not style_images:
        raise UserError("no style image was given: name at least one")
    images = [style for style in style_images if isinstance(style, Tensor)]
    for what, image in [("photo", content_image), *(("style image", image) for image in images)]:
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(f"a {what} is (3, H, W), not {tuple(image.shape)}")
        if min(image.shape[-2:]) < _SMALLEST_SIDE:
            raise UserError(
                f"a {what} of {image.shape[-1]}×{image.shape[-2]} pixels is too small to paint with: "
                f"it needs {_SMALLEST_SIDE} each way"
            )
    if steps < 1:
        raise UserError(f"{steps} steps paint nothing: ask for 1 or more")
    weights = torch.ones(len(style_images)) if style_weights is None else torch.as_tensor(style_weights).float()
    if len(weights) != len(style_images):
        raise UserError(f"{len(weights)} style weights for {len(style_images)} style images: give one for each")
    if not torch.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
        raise UserError(f"style weights must be 0 or more, and one of them above 0, not {weights.tolist()}")
    if guide is not None:
        _check_guide(guide, content_image, weights)
    return weights


def _check_guide(guide: Tensor, content_image: Tensor, weights: Tensor) -> None:
    if len(guide) != len(weights):
        raise UserError(f"{len(guide)} guides for {len(weights)} style images: give one for each")
    if guide.shape[-2:] != content_image.shape[-2:]:
        raise UserError(
            f"the guide is {guide.shape[-1]}×{guide.shape[-2]} pixels and the photo is "
            f"{content_image.shape[-1]}×{content_image.shape[-2]}: make them the same size"
        )
    for number, one in enumerate(guide, start=1):
        if not (one > 0).any():
            raise UserError(f"guide {number} is black all over, so its style goes nowhere: leave that style out")


def _scales(image: Tensor, max_side: int) -> list[tuple[int, int]]:
    """Return the sizes (H, W) to paint at, coarse to fine, each half of the next."""
    height, width = image.shape[-2:]
    shrink = min(1.0, max_side / max(height, width))
    sizes: list[tuple[int, int]] = []
    while True:
        size = (max(_SMALLEST_SIDE, round(height * shrink)), max(_SMALLEST_SIDE, round(width * shrink)))
        if sizes and (max(size) < _COARSEST_LONG_SIDE or min(size) < _COARSEST_SHORT_SIDE):
            return sizes[::-1]
        sizes.append(size)
        shrink /= 2


def _start(
    init: Literal["content", "noise"] | Tensor, content_image: Tensor, size: tuple[int, int], seed: int
) -> Tensor:
    if isinstance(init, Tensor):
        return _resize(init[None], size)
    if init == "noise":
        return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return _resize(content_image[None], size)


def _style_at(style: Tensor | StylePack, scale: float, max_side: int, backbone: Backbone) -> Tensor | StyleTarget:
    """Shrink a style to ``max_side`` pixels, if it is larger, and then by ``scale``; a pack has the nearest it has."""
    if isinstance(style, StylePack):
        return style.target(backbone, recipe(backbone.name).style_layers, scale * min(max_side, max(style.targets)))
    height, width = style.shape[-2:]
    shrink = scale * min(1.0, max_side / max(height, width))
    size = (max(_SMALLEST_SIDE, round(height * shrink)), max(_SMALLEST_SIDE, round(width * shrink)))
    return _resize(style[None], size)[0]


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 3, H, W) to ``size`` (H, W), without aliasing when shrinking."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
