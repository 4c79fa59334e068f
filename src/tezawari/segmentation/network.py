"""The network that image labels train: fully convolutional, one map a class, on any backbone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features.backbone import available_layers
from tezawari.features.trainable import freeze_up_to, trainable_trunk

Pooling = Literal["max", "average", "lse"]

# Sharpness of the log-sum-exp: Pinheiro & Collobert (CVPR 2015).
_SHARPNESS = 5.0
_HIDDEN = 512
_VGG = ("vgg16", "vgg19")


class SaliencyNetwork(nn.Module):
    """A fully convolutional classifier of several labels an image (Oquab et al., CVPR 2015).

    A 1×1 convolution makes one map a class of the backbone's features. VGG, whose fully connected layers are left out,
    has a 3×3 convolution of 512 channels and a rectifier before it. [ours] The backbone trains as well; its batch norms
    are folded or keep their moments, so that a batch gives what single images give.

    Attributes: the arguments; ``layers``, the backbone's layers that saliency may ask for; ``stride`` of the maps.

    Args:
        backbone: the pretrained network to start from.
        num_classes: K.
        pooling: how a class's map becomes its score: its ``max`` (Shimoda & Yanai, ECCV 2016), its ``average``, or
            ``lse``, the log-sum-exp between the two (Pinheiro & Collobert, CVPR 2015, eq. 2, r = 5).
        weights: the backbone's weights, as :func:`tezawari.features.backbone.load_backbone` takes them; ``replaced``
            where a state dict, which holds the backbone too, is loaded next.
        layer: the backbone's layer that is classified; None for its deepest.

    Raises:
        UserError: an unknown backbone, layer or pooling, or wrong weights.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        pooling: Pooling = "max",
        weights: str | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        if pooling not in _POOLINGS:
            raise UserError(f"pooling={pooling}: there is no such pooling{did_you_mean(pooling, _POOLINGS)}")
        known = available_layers(backbone)
        if layer is not None and layer not in known:
            raise UserError(f"layer={layer}: {backbone} has no such layer{did_you_mean(layer, known)}")
        self.backbone, self.num_classes, self.pooling = backbone, num_classes, pooling
        self.layer = layer or known[-1]
        self.layers = known[: known.index(self.layer) + 1]
        self.trunk = trainable_trunk(backbone, self.layers, weights)
        self.stride = self.trunk.strides[self.layer]
        channels = self.trunk.channels[self.layer]
        self.head = class_head(backbone, channels, num_classes)

    def class_maps(self, image: Tensor) -> Tensor:
        """Return the classes' logits (B, K, h, w) at every position of RGB images (B, 3, H, W) in [0, 1].

        Raises :class:`UserError` for images smaller than one position.
        """
        return self.record(image, ())[1]

    def forward(self, image: Tensor) -> Tensor:
        """Return the classes' logits (B, K) of RGB images (B, 3, H, W) in [0, 1]; ``sigmoid`` makes probabilities."""
        return self.pool(self.class_maps(image))

    def pool(self, class_maps: Tensor) -> Tensor:
        """Return what ``pooling`` makes of maps (B, K, h, w): (B, K)."""
        return _POOLINGS[self.pooling](class_maps)

    def record(self, image: Tensor, layers: Iterable[str]) -> tuple[list[Tensor], Tensor]:
        """Return the features of ``layers`` (B, C, h, w), from shallow to deep, and the class maps made of them.

        With gradients enabled and the network's weights frozen, the maps are differentiable with respect to each of
        the features, and nothing shallower is recorded: not at all in a lazy trunk, without use in another.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.stride:
            raise UserError(
                f"an image of {width}×{height} px is too small for layer {self.layer} of {self.backbone}: "
                f"{self.stride} px at least"
            )
        asked = frozenset(layers)
        if asked and not self.trunk.lazy:
            image = image.detach().requires_grad_()
        found = {}
        for layer, features in self.trunk.walk(image, asked | {self.layer}):
            if layer in asked and not features.requires_grad:
                features.requires_grad_()
            found[layer] = features
        return [found[layer] for layer in found if layer in asked], self.head(found[self.layer])

    def freeze_up_to(self, layer: str | None) -> None:
        """Keep the backbone's weights up to and including ``layer``, and train the others; None trains all."""
        freeze_up_to(self.trunk, self.backbone, layer)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start at random, which learn faster than the pretrained ones."""
        return list(self.head.parameters())


def class_head(backbone: str, channels: int, num_classes: int) -> nn.Sequential:
    """Return what makes class maps (B, K, h, w) of a backbone's features (B, C, h, w).

    VGG, whose classifier is left out here, gets a hidden layer in its place.
    """
    if backbone not in _VGG:
        return nn.Sequential(nn.Conv2d(channels, num_classes, 1))
    hidden = nn.Conv2d(channels, _HIDDEN, 3, padding=1)
    return nn.Sequential(hidden, nn.ReLU(), nn.Conv2d(_HIDDEN, num_classes, 1))


def _max(maps: Tensor) -> Tensor:
    return maps.amax((2, 3))


def _average(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def _log_sum_exp(maps: Tensor) -> Tensor:
    positions = maps.shape[2] * maps.shape[3]
    return ((_SHARPNESS * maps).logsumexp((2, 3)) - math.log(positions)) / _SHARPNESS


_POOLINGS = {"max": _max, "average": _average, "lse": _log_sum_exp}
