"""Backbones as the beginning of a network that trains."""

from __future__ import annotations

from collections.abc import Iterable

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features.backbone import available_layers, load_backbone
from tezawari.features.trunk import REPLACED, Trunk


def trainable_trunk(name: str, layers: Iterable[str], weights: str | None = None) -> Trunk:
    """Load a backbone whose weights train; its batch norms are folded or keep their moments.

    Arguments and errors are :func:`tezawari.features.backbone.load_backbone`'s.
    """
    trunk = load_backbone(name, layers, weights).trunk
    return trunk.requires_grad_(True)


def freeze_up_to(trunk: Trunk, name: str, layer: str | None) -> None:
    """Let the weights of backbone ``name`` up to and including ``layer`` keep their values, and the deeper ones train.

    None lets all train. A layer inside a block freezes the whole block. Raises :class:`UserError` for an unknown layer.
    """
    trunk.requires_grad_(True)
    if layer is None:
        return
    if layer not in available_layers(name):
        raise UserError(f"freeze_up_to={layer}: {name} has no such layer{did_you_mean(layer, available_layers(name))}")
    # A trunk builds nothing deeper than asked: the shallow one names what is up to the layer.
    frozen = {key for key, _ in load_backbone(name, [layer], REPLACED).trunk.named_parameters()}
    for key, parameter in trunk.named_parameters():
        parameter.requires_grad_(key not in frozen)
