"""Any network of timm behind named layers ``stage0 … stageN``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features.trunk import REPLACED, Trunk
from tezawari.features.weights import RANDOM, load_checked, read_state_dict, warn_random


def _create(name: str) -> Any:
    """Return timm's network without weights, accepting any image size where the architecture can."""
    import timm  # loads for seconds, and a command that needs no backbone should start at once

    base = name.split(".")[0]
    if not timm.is_model(base):
        known = ["efficientnet_lite0", "vgg16", "vgg19", *timm.list_models()]
        raise UserError(f"no backbone is named {name!r}{did_you_mean(name, known)[:300]}")
    variants: tuple[dict[str, Any], ...] = (
        {"dynamic_img_size": True, "dynamic_img_pad": True},
        {"strict_img_size": False},
        {},
    )
    for options in variants:
        try:
            network = timm.create_model(base, pretrained=False, num_classes=0, **options)
            break
        except TypeError:  # this architecture has no such option
            continue
    if not hasattr(network, "forward_intermediates"):
        raise UserError(f"timm's {base} cannot give intermediate features: choose another backbone")
    return network


@lru_cache(maxsize=8)
def _stages(base: str) -> tuple[tuple[int, int], ...]:
    """Return (channels, stride) of each stage of an architecture, built without memory for its weights."""
    try:
        with torch.device("meta"):
            network = _create(base)
    except (RuntimeError, NotImplementedError):  # an architecture that computes with its own values while it is built
        network = _create(base)
    info = network.feature_info
    entries = info if isinstance(info, list) else info.info
    return tuple((int(entry["num_chs"]), int(entry["reduction"])) for entry in entries)


def layer_names(name: str) -> tuple[str, ...]:
    """Return ``stage0 … stageN`` of a timm network; raises :class:`UserError` with near names for an unknown one."""
    return tuple(f"stage{i}" for i in range(len(_stages(name.split(".")[0]))))


def spread_layers(name: str, count: int = 4) -> tuple[str, ...]:
    """Return at most ``count`` stages spread evenly over the depth, the last one included."""
    layers = layer_names(name)
    count = min(count, len(layers))
    return tuple(layers[(i + 1) * len(layers) // count - 1] for i in range(count))


def _load_pretrained(network: nn.Module, name: str) -> None:
    import timm

    try:
        config = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # the hub client raises whatever its many layers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot get the weights of {name} ({reason[:120]}): go online once, name a file with "
            "backbone.weights=FILE, or use backbone=efficientnet_lite0"
        ) from error
    load_checked(network, config, name)


class TimmTrunk(Trunk):
    """A timm network up to its deepest asked stage; token models give (B, C, h, w) maps without their prefix tokens.

    ``weights``: None (timm's download), ``"random"`` (seeded) or a file with timm's names. Raises :class:`UserError`
    for an unknown name, no network, or wrong weights.
    """

    mean: Tensor
    std: Tensor
    lazy = False

    def __init__(self, name: str, layers: tuple[str, ...], weights: str | None) -> None:
        super().__init__()
        stages = _stages(name.split(".")[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = _create(name)
        if weights == RANDOM:
            warn_random(name)
        elif weights == REPLACED:
            pass
        elif weights is None:
            _load_pretrained(network, name)
        else:
            load_checked(network, read_state_dict(weights), weights)
        self.indices = {layer: int(layer.removeprefix("stage")) for layer in layers}
        network.prune_intermediate_layers(list(self.indices.values()), prune_norm=True, prune_head=True)
        self.network: Any = network
        self.layers = layers
        self.channels = {layer: stages[i][0] for layer, i in self.indices.items()}
        self.strides = {layer: stages[i][1] for layer, i in self.indices.items()}
        config = network.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, -1, 1, 1), persistent=False)

    def walk(self, image: Tensor, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        asked = sorted(wanted, key=self.indices.__getitem__)
        try:
            features = self.network.forward_intermediates(
                (image - self.mean) / self.std,
                indices=[self.indices[layer] for layer in asked],
                stop_early=True,
                intermediates_only=True,
            )
        except AssertionError as error:  # how timm refuses a size that the architecture cannot take
            height, width = image.shape[-2:]
            raise UserError(f"this backbone cannot take an image of {width}×{height} px: {error}") from error
        yield from zip(asked, features)
