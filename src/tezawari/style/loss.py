"""The perceptual loss: content, style layer by layer, and total variation, each against the scale of its target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tezawari.features.backbone import Backbone
from tezawari.features.gram import gram_matrix


class PerceptualLosses(NamedTuple):
    """What the loss of each image of a batch is made of; every tensor is ``(B,)`` and non-negative."""

    content: Tensor
    style: Tensor
    """Mean over the style layers."""
    total_variation: Tensor


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
    grams: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    for image in style_images:
        features = backbone(image[None], layers)
        for layer in layers:
            grams[layer].append(gram_matrix(features[layer], "hw")[0])
    return {layer: torch.stack(of_layer) for layer, of_layer in grams.items()}


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


class PerceptualLoss(nn.Module):
    """Compare restyled photos with their content and their asked style (Johnson et al., ECCV 2016, eqs. 2-5).

    Differs from the paper: every term is divided by the squared norm of its target, layer by layer and style by style.
    The weights then mean the same for every backbone, and no style or layer drowns another.

    Args:
        backbone: the frozen loss network, with the layers below.
        targets: what :func:`style_targets` returned.
        content_layers: the layers at which content is compared.
    """

    def __init__(self, backbone: Backbone, targets: dict[str, Tensor], content_layers: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.style_layers = tuple(targets)
        self.content_layers = tuple(content_layers)
        for layer, grams in targets.items():
            self.register_buffer(self._buffer_name(layer), grams, persistent=False)

    @staticmethod
    def _buffer_name(layer: str) -> str:
        return "target_" + layer.replace(".", "_")

    def target_grams(self, layer: str) -> Tensor:
        """Return the target Gram matrices ``(S, C, C)`` of ``layer``."""
        grams = getattr(self, self._buffer_name(layer))
        assert isinstance(grams, Tensor)
        return grams

    def forward(self, stylized: Tensor, content_image: Tensor, style: Tensor) -> PerceptualLosses:
        """Compute the three losses of each image.

        Args:
            stylized: ``(B, 3, H, W)`` RGB in [0, 1], with gradient.
            content_image: ``(B, 3, H, W)`` RGB in [0, 1], what it was made from.
            style: ``(B,)`` index of the asked style.
        """
        with torch.no_grad():
            content = self.backbone(content_image, self.content_layers)
        features = self.backbone(stylized, self.style_layers + self.content_layers)
        content_losses = [content_distance(features[layer], content[layer]) for layer in self.content_layers]
        style_losses = [
            gram_distance(gram_matrix(features[layer], "hw"), self.target_grams(layer)[style])
            for layer in self.style_layers
        ]
        return PerceptualLosses(
            torch.stack(content_losses).mean(0), torch.stack(style_losses).mean(0), total_variation(stylized)
        )
