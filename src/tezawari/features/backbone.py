"""Pretrained networks behind one interface of named layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features import efficientnet, timm_trunk, vgg
from tezawari.features.trunk import Trunk

_VGG = ("vgg16", "vgg19")


def available_layers(name: str) -> tuple[str, ...]:
    """Return the layer names of a backbone in depth order; raises :class:`UserError` for an unknown backbone."""
    if name == efficientnet.NAME:
        return efficientnet.LAYERS
    return vgg.layer_names(name) if name in _VGG else timm_trunk.layer_names(name)


def default_style_layers(name: str) -> tuple[str, ...]:
    """Return the layers whose Gram matrices describe style: Johnson et al. (2016) for VGG, ours for the others."""
    if name == efficientnet.NAME:
        return efficientnet.STYLE_LAYERS
    return vgg.STYLE_LAYERS[name] if name in _VGG else timm_trunk.spread_layers(name)


def default_content_layers(name: str) -> tuple[str, ...]:
    """Return the layers that describe content: relu3_3 for VGG (Johnson et al., 2016), a middle one for the others."""
    if name == efficientnet.NAME:
        return efficientnet.CONTENT_LAYERS
    if name in _VGG:
        return vgg.CONTENT_LAYERS
    layers = timm_trunk.layer_names(name)
    return (layers[len(layers) // 2],)


class Backbone(nn.Module):
    """A frozen pretrained network that returns named layers.

    Always in eval mode and without gradients on its parameters; gradients flow to the image.

    Attributes: ``name``; ``layers``, in depth order; ``channels`` and ``strides`` of each layer.
    """

    def __init__(self, name: str, trunk: Trunk) -> None:
        super().__init__()
        self.name = name
        self.trunk = trunk
        self.layers = trunk.layers
        self.channels = trunk.channels
        self.strides = trunk.strides
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode: a loss network's statistics must not follow the data."""
        return super().train(False)

    def forward(self, image: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the features (B, C, h, w) of ``layers`` (default: all of ``self.layers``), in depth order.

        ``image`` is (B, 3, H, W) RGB in [0, 1]; the network's own normalisation happens inside. Computes no further
        than the deepest asked layer. Raises :class:`UserError` for a layer that the backbone was not loaded with, and
        for an image smaller than one position of the deepest layer.
        """
        wanted = frozenset(self.layers if layers is None else layers)
        for layer in wanted.difference(self.layers):
            raise UserError(
                f"backbone {self.name} was loaded without layer {layer!r}{did_you_mean(layer, self.layers)}"
            )
        height, width = image.shape[-2:]
        deepest = max(wanted, key=lambda layer: self.strides[layer], default=None)
        if deepest is not None and min(height, width) < self.strides[deepest]:
            raise UserError(f"an image of {width}×{height} px is too small for layer {deepest} of {self.name}")
        found: dict[str, Tensor] = {}
        # `walk` computes on demand, so leaving the loop leaves the deeper layers uncomputed.
        for layer, features in self.trunk.walk(image, wanted) if wanted else ():
            found[layer] = features
            if len(found) == len(wanted):
                break
        return found


def load_backbone(
    name: str, layers: Iterable[str], weights: str | None = None, fast_convolutions: bool = True
) -> Backbone:
    """Load a frozen backbone that computes ``layers`` and builds nothing deeper.

    ``name`` is ``efficientnet_lite0`` (weights installed with the package), ``vgg16``, ``vgg19`` (torchvision's
    download, checked by its hash) or any timm name (timm's download). ``weights`` is None for those, a ``.safetensors``
    or ``.pth`` file (half precision accepted), ``"random"`` (seeded, for tests; a warning is logged) or
    ``"replaced"`` (the same without a warning, for a network whose own state dict is loaded next).
    ``fast_convolutions`` lets VGG in float32 on a CPU use :mod:`tezawari.features.winograd`; the features agree with
    direct convolution to about 1e-5 of a layer's largest value. Raises :class:`UserError` for an unknown name or layer,
    and for weights that are missing, damaged or of another network.
    """
    known = available_layers(name)
    asked = set(layers)
    for layer in sorted(asked.difference(known)):
        raise UserError(f"backbone {name} has no layer {layer!r}{did_you_mean(layer, known)}")
    if not asked:
        raise UserError(f"no layer of backbone {name} is asked for: name some of {', '.join(known[:6])}, …")
    ordered = tuple(layer for layer in known if layer in asked)
    with torch.no_grad():
        trunk: Trunk
        if name == efficientnet.NAME:
            trunk = efficientnet.EfficientNetTrunk(ordered, weights)
        elif name in _VGG:
            trunk = vgg.VggTrunk(name, ordered, weights, fast_convolutions)
        else:
            trunk = timm_trunk.TimmTrunk(name, ordered, weights)
    return Backbone(name, trunk)
