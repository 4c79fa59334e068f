"""How well a picture shows a style and keeps a photo, as an independent network sees it (METHODS, Measuring style)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tezawari.features.backbone import Backbone
from tezawari.features.gram import gram_matrix
from tezawari.style.loss import content_distance, style_targets


def gram_dissimilarity(grams: Tensor, targets: Tensor) -> Tensor:
    """Return ``‖G − A‖² / (‖G‖² + ‖A‖²)`` of Gram matrices (…, C, C), broadcast against each other: (…) in [0, 1].

    0 for equal matrices, 1 where no channel fires in both (Gram matrices have no negative inner products). It is
    ``1 − cos(G, A) · 2 / (r + 1/r)`` with r = ‖G‖/‖A‖: a picture r times too strong and one r times too weak are
    equally far, so no style is the nearest just because its matrix is large or small.

    Differs from the training loss :func:`tezawari.style.loss.gram_distance` (Johnson et al., 2016, eq. 4, relative),
    which divides by ‖A‖² alone. One style's pictures compare well by that, but among several styles it makes those
    with large matrices near to everything: a blank picture is at distance 1 from all, a vivid one is at distance
    ‖G‖²/‖A‖² from the faint ones. Without any division, the styles with small matrices win instead.
    """
    energy = grams.square().sum((-2, -1)) + targets.square().sum((-2, -1))
    return (grams - targets).square().sum((-2, -1)) / energy.clamp_min(torch.finfo(energy.dtype).tiny)


def midpoint_deviation(middle: Tensor, first: Tensor, second: Tensor) -> float:
    """Return ``‖M − (A + B)/2‖ / ‖(A − B)/2‖``: how far M lies from half way between A and B, all of one shape.

    0 is the mean of the two, 1 as far from it as A and B themselves. Not a number where A equals B.
    """
    away = torch.linalg.vector_norm(middle - (first + second) / 2)
    apart = torch.linalg.vector_norm(first - second) / 2
    return float(away / apart) if apart > 0 else float("nan")


@dataclass(frozen=True)
class Look:
    """What a judge sees of a picture: layer → Gram matrix (C, C), and layer → content features (1, C, h, w)."""

    grams: dict[str, Tensor]
    content: dict[str, Tensor]


class Judge:
    """A pretrained network, other than the one trained against, that compares pictures with styles and photos.

    Args:
        backbone: loaded with the layers below.
        style_images: S images (3, H, W) in [0, 1], of any size.
        style_layers: L layers whose Gram matrices tell styles apart.
        content_layers: layers at which content is compared.
    """

    def __init__(
        self,
        backbone: Backbone,
        style_images: Sequence[Tensor],
        style_layers: Sequence[str],
        content_layers: Sequence[str],
    ) -> None:
        self.backbone = backbone
        self.style_layers = tuple(style_layers)
        self.content_layers = tuple(content_layers)
        self._targets = style_targets(backbone, style_images, self.style_layers)

    @torch.no_grad()
    def look(self, picture: Tensor) -> Look:
        """Look at a picture (3, H, W) in [0, 1]."""
        features = self.backbone(picture[None], (*self.style_layers, *self.content_layers))
        return Look(
            {layer: gram_matrix(features[layer], "hw")[0] for layer in self.style_layers},
            {layer: features[layer] for layer in self.content_layers},
        )

    def style_distances(self, look: Look) -> Tensor:
        """Return the :func:`gram_dissimilarity` of a picture to each style at each layer, (S, L)."""
        by_layer = [gram_dissimilarity(look.grams[layer], targets) for layer, targets in self._targets.items()]
        return torch.stack(by_layer, dim=1)

    def content_distance(self, look: Look, photo: Look) -> float:
        """Return the distance of a picture's features to a photo's of the same size, relative to the photo's norm.

        Johnson et al. (2016), eq. 2, divided by the squared norm of the target and averaged over the content layers:
        0 for the photo itself, about 1 for a blank picture.
        """
        return sum(
            float(content_distance(look.content[layer], photo.content[layer])) for layer in self.content_layers
        ) / len(self.content_layers)

    def mixing_deviation(self, mixed: Look, first: Look, second: Look) -> float:
        """Return the :func:`midpoint_deviation` of a mix's Gram matrices, averaged over the style layers."""
        by_layer = [
            midpoint_deviation(mixed.grams[layer], first.grams[layer], second.grams[layer])
            for layer in self.style_layers
        ]
        return sum(by_layer) / len(by_layer)


def confusion_matrix(asked: Sequence[int], nearest: Sequence[int], num_styles: int) -> Tensor:
    """Count how often each style was asked (rows) and each was the nearest (columns): (S, S) int64."""
    places = torch.tensor(asked, dtype=torch.int64) * num_styles + torch.tensor(nearest, dtype=torch.int64)
    return torch.bincount(places, minlength=num_styles**2).reshape(num_styles, num_styles)
