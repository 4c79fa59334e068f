"""The perceptual loss: content, style layer by layer, and total variation, each against the scale of its target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.features.backbone import Backbone
from tezawari.features.gram import gram_matrix


class PerceptualLosses(NamedTuple):
    """What the loss of each image of a batch is made of; every tensor is ``(B,)`` and non-negative."""

    content: Tensor
    style: Tensor
    """Mean over the style layers."""
    total_variation: Tensor


@dataclass(frozen=True)
class StyleTarget:
    """What one style asks of a picture, layer by layer: the statistics of one image or of several (METHODS §8).

    ``grams``: layer → Gram matrices (N, C, C), divided by height × width. Of several members the nearest counts.
    ``means``: layer → the features' means (N, C), or None. Where they are given, Gram matrices are compared about the
    means, that is, as covariances, and the means are compared beside them, in equal parts [ours].
    """

    grams: dict[str, Tensor]
    means: dict[str, Tensor] | None = None


@torch.no_grad()
def style_targets(backbone: Backbone, style_images: Iterable[Tensor], layers: Sequence[str]) -> dict[str, Tensor]:
    """Compute the Gram matrices that a network is to reach, once for all of training.

    Args:
        backbone: the loss network.
        style_images: RGB in [0, 1], ``(3, H, W)`` each, of any size.
        layers: the style layers.

    Returns:
        A ``(S, C, C)`` tensor a layer, normalised by height × width, so that images of any size compare.
    """
    targets = [image_target(backbone, image, layers) for image in style_images]
    return {layer: torch.cat([target.grams[layer] for target in targets]) for layer in layers}


def gram_distance(grams: Tensor, targets: Tensor) -> Tensor:
    """Squared Frobenius distance of Gram matrices ``(…, C, C)`` relative to the targets' squared norm, ``(…)``."""
    return (grams - targets).square().sum((-2, -1)) / targets.square().sum((-2, -1))


def content_distance(features: Tensor, targets: Tensor) -> Tensor:
    """Squared distance of features ``(B, C, H, W)`` relative to the targets' squared norm, ``(B,)``."""
    return (features - targets).square().sum((1, 2, 3)) / targets.square().sum((1, 2, 3))


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels of ``(B, C, H, W)``, down and across, ``(B,)``."""
    down = (image[..., 1:, :] - image[..., :-1, :]).square().mean((1, 2, 3))
    across = (image[..., :, 1:] - image[..., :, :-1]).square().mean((1, 2, 3))
    return down + across


def grid_pattern(image: Tensor, cell: int) -> Tensor:
    """How much of a fixed pattern repeats in every cell of ``(B, C, H, W)``, ``(B,)``: what deconvolutions imprint.

    The image is cut into cells of ``cell`` × ``cell`` pixels, which are averaged; returned is the variance over the
    places of that mean cell. A photograph's cells average to nearly one value; a pattern of the decoder's own, being
    the same in all of them, stays. A style loss rewards such patterns, which are the cheapest fine texture. [ours]

    Args:
        image: RGB in [0, 1], at least one cell in size; what is over a whole number of cells is left out.
        cell: the side, the stride of the decoder's coarsest features.
    """
    height, width = (side - side % cell for side in image.shape[-2:])
    places = F.pixel_unshuffle(image[..., :height, :width], cell).mean((2, 3))
    return places.unflatten(1, (image.shape[1], cell**2)).var(-1, correction=0).mean(-1)


@torch.no_grad()
def image_target(backbone: Backbone, image: Tensor, layers: Sequence[str]) -> StyleTarget:
    """Return what a style image (3, H, W) in [0, 1] asks for: its Gram matrix at each of ``layers``."""
    features = backbone(image[None], layers)
    return StyleTarget({layer: gram_matrix(features[layer], "hw") for layer in layers})


def separate_targets(targets: Mapping[str, Tensor]) -> list[StyleTarget]:
    """Return what :func:`style_targets` returned, style by style."""
    styles = len(next(iter(targets.values())))
    return [StyleTarget({layer: grams[place][None] for layer, grams in targets.items()}) for place in range(styles)]


class StyleTargets(nn.Module):
    """The targets of S styles, and how far pictures are from those.

    Args:
        styles: a target a style, all of the same layers.

    Attributes: ``layers``; ``needs_means``, whether any style compares means.
    """

    members: Tensor
    about_mean: Tensor

    def __init__(self, styles: Sequence[StyleTarget]) -> None:
        super().__init__()
        self.layers = tuple(styles[0].grams)
        self.needs_means = any(style.means is not None for style in styles)
        counts = [len(style.grams[self.layers[0]]) for style in styles]
        # A style of fewer members than the largest names its last one again, which no minimum notices.
        rows = [
            [sum(counts[:place]) + min(member, count - 1) for member in range(max(counts))]
            for place, count in enumerate(counts)
        ]
        self.register_buffer("members", torch.tensor(rows), persistent=False)
        centred = [float(style.means is not None) for style, count in zip(styles, counts) for _ in range(count)]
        self.register_buffer("about_mean", torch.tensor(centred), persistent=False)
        for layer in self.layers:
            grams = torch.cat([style.grams[layer] for style in styles])
            if self.needs_means:
                none = grams.new_zeros(max(counts), grams.shape[-1])
                means = torch.cat(
                    [(style.means or {}).get(layer, none[:count]) for style, count in zip(styles, counts)]
                )
                grams = grams - means[:, :, None] * means[:, None, :]
                self.register_buffer(self._name("mean", layer), means, persistent=False)
            self.register_buffer(self._name("gram", layer), grams, persistent=False)

    @staticmethod
    def _name(what: str, layer: str) -> str:
        return f"{what}_{layer.replace('.', '_')}"

    def grams(self, layer: str) -> Tensor:
        """Return the Gram matrices ``(R, C, C)`` of all styles' members, about the mean where means are compared."""
        grams = getattr(self, self._name("gram", layer))
        assert isinstance(grams, Tensor)
        return grams

    def forward(self, grams: Mapping[str, Tensor], means: Mapping[str, Tensor], style: Tensor) -> Tensor:
        """Return the style loss of B pictures, ``(B,)``: the mean over layers, to the style's nearest member.

        Args:
            grams: layer → the pictures' Gram matrices ``(B, C, C)``, or ``(1, C, C)`` of one for all styles asked.
            means: layer → their features' means ``(B, C)`` or ``(1, C)``; read only where :attr:`needs_means`.
            style: ``(B,)`` index of the asked style.
        """
        rows = self.members[style]
        if rows.shape[1] > 1:
            with torch.no_grad():  # the gradient of a minimum is that of what attains it
                nearest = torch.stack([self._distance(grams, means, member) for member in rows.T]).argmin(0)
            rows = rows.gather(1, nearest[:, None])
        return self._distance(grams, means, rows[:, 0])

    def _distance(self, grams: Mapping[str, Tensor], means: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        by_layer = []
        for layer in self.layers:
            if not self.needs_means:
                by_layer.append(gram_distance(grams[layer], self.grams(layer)[rows]))
                continue
            centred, mean, wanted = self.about_mean[rows], means[layer], getattr(self, self._name("mean", layer))[rows]
            gram = grams[layer] - centred[:, None, None] * mean[:, :, None] * mean[:, None, :]
            # Rows without means hold zeros, by which nothing may be divided.
            energy = wanted.square().sum(-1)
            off = centred * (mean - wanted).square().sum(-1) / energy.where(energy > 0, torch.ones_like(energy))
            by_layer.append((gram_distance(gram, self.grams(layer)[rows]) + off) / (1 + centred))
        return torch.stack(by_layer).mean(0)


class PerceptualLoss(nn.Module):
    """Compare restyled photos with their content and their asked style (Johnson et al., ECCV 2016, eqs. 2-5).

    Differs from the paper: every term is divided by the squared norm of its target, layer by layer and style by style.
    The weights then mean the same for every backbone, and no style or layer drowns another.

    Args:
        backbone: the frozen loss network, with the layers below.
        targets: what :func:`style_targets` returned, or a :class:`StyleTarget` a style.
        content_layers: the layers at which content is compared.
    """

    def __init__(
        self, backbone: Backbone, targets: dict[str, Tensor] | Sequence[StyleTarget], content_layers: Sequence[str]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.targets = StyleTargets(separate_targets(targets) if isinstance(targets, dict) else targets)
        self.style_layers = self.targets.layers
        self.content_layers = tuple(content_layers)

    def target_grams(self, layer: str) -> Tensor:
        """Return the target Gram matrices ``(R, C, C)`` of ``layer``: of all styles' members, one after another."""
        return self.targets.grams(layer)

    def forward(self, stylized: Tensor, content_image: Tensor, style: Tensor) -> PerceptualLosses:
        """Compute the three losses of each image.

        Args:
            stylized: ``(B, 3, H, W)`` RGB in [0, 1], with gradient.
            content_image: ``(B / k, 3, H, W)`` RGB in [0, 1], what it was made from: k pictures in turn from each.
            style: ``(B,)`` index of the asked style.
        """
        repeats = len(stylized) // len(content_image)
        with torch.no_grad():
            photos = self.backbone(content_image, self.content_layers)
            content = {layer: features.repeat_interleave(repeats, 0) for layer, features in photos.items()}
        features = self.backbone(stylized, self.style_layers + self.content_layers)
        content_losses = [content_distance(features[layer], content[layer]) for layer in self.content_layers]
        grams = {layer: gram_matrix(features[layer], "hw") for layer in self.style_layers}
        means = {layer: features[layer].mean((2, 3)) for layer in self.style_layers if self.targets.needs_means}
        return PerceptualLosses(
            torch.stack(content_losses).mean(0), self.targets(grams, means, style), total_variation(stylized)
        )
