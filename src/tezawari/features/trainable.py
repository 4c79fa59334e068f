"""Backbones as the beginning of a network that trains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.schedule import warm_cosine
from tezawari.features.backbone import available_layers, load_backbone
from tezawari.features.trunk import REPLACED, Trunk

_WARM = 0.05


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


def fine_tuning_groups(
    network: nn.Module, head: list[nn.Parameter], learning_rate: float, head_factor: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Return AdamW's groups of a network's parameters: those that may be pretrained, and those that learn faster.

    Args:
        network: whose frozen weights are left out.
        head: its parameters that start at random.
        learning_rate: peak for the pretrained ones.
        head_factor: times that for the head.
        weight_decay: of both.
    """
    known = {id(parameter) for parameter in head}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": rest, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": head, "lr": learning_rate * head_factor, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def fine_tuning_optimizer(groups: Iterable[dict[str, Any]], steps: int) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over ``groups`` and its schedule: a rise over 5 % of ``steps``, a cosine to zero, and so again.

    The schedule moves once a step; after ``steps`` it begins anew.
    """
    optimizer = AdamW(list(groups))
    return optimizer, LambdaLR(optimizer, lambda step: warm_cosine(step % steps, steps, _WARM))
