"""VGG16 and VGG19, the classic perceptual-loss networks, by the names of their layers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tezawari.core.errors import UserError
from tezawari.features.trunk import REPLACED, Trunk
from tezawari.features.weights import RANDOM, load_checked, read_state_dict, warn_random

if TYPE_CHECKING:
    from tezawari.features.frozen_chain import FrozenChain

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# What FrozenChain runs in, given by autocast or float32 without it; float16 overflows in VGG's unscaled features.
_FAST_TYPES = (torch.float32, torch.bfloat16)
_CONVS_A_STAGE = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_WIDTHS = (64, 128, 256, 512, 512)

STYLE_LAYERS = {
    "vgg16": ("relu1_2", "relu2_2", "relu3_3", "relu4_3"),
    "vgg19": ("relu1_2", "relu2_2", "relu3_4", "relu4_4"),
}
CONTENT_LAYERS = ("relu3_3",)


def _positions(name: str) -> list[tuple[int, int]]:
    """Return (stage, number) of every convolution, both from 1, in depth order."""
    return [(s, n) for s, count in enumerate(_CONVS_A_STAGE[name], 1) for n in range(1, count + 1)]


def layer_names(name: str) -> tuple[str, ...]:
    """Return ``conv1_1, relu1_1, conv1_2, …`` of ``vgg16`` or ``vgg19`` in depth order."""
    return tuple(f"{kind}{s}_{n}" for s, n in _positions(name) for kind in ("conv", "relu"))


def _state(name: str, weights: str | None) -> tuple[dict[str, Tensor], str]:
    """Return torchvision's state dict of the features and where it is from."""
    if weights is not None:
        return read_state_dict(weights), weights
    from torchvision.models import get_model_weights  # loads for seconds, and only a download needs it

    download = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        return dict(download.get_state_dict(progress=True, check_hash=True)), download.url
    except (OSError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot download the weights of {name} from {download.url} ({reason[:120]}): go online once, "
            f"or name a file with backbone.weights=FILE (.safetensors or .pth), or use backbone=efficientnet_lite0"
        ) from error


class _FrozenConvolution(torch.autograd.Function):
    """One convolution of a :class:`FrozenChain`, differentiable with respect to its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: FrozenChain, place: int) -> Tensor:
        ctx.conv = chain.convs[place]
        return ctx.conv.forward(x.permute(0, 2, 3, 1), rectify=False).permute(0, 3, 1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows_first = gradient.permute(0, 2, 3, 1)

        def fill(target: Tensor, images: slice, rows: slice) -> None:
            target.copy_(rows_first[images, rows])

        return ctx.conv.input_gradient(fill, tuple(rows_first.shape[:3])).permute(0, 3, 1, 2), None, None


class VggTrunk(Trunk):
    """VGG16 or VGG19 (Simonyan & Zisserman, 2014) up to its deepest asked layer.

    ``convS_N`` are the convolutions' outputs, ``reluS_N`` the same after the rectifier. ``weights``: None
    (torchvision's ImageNet weights, downloaded with a checksum), ``"random"`` (seeded), or a file with torchvision's
    names. ``fast_convolutions``: float32 on the CPU runs through :class:`FrozenChain`, under autocast in its precision;
    convolutions that train run as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, layers: tuple[str, ...], weights: str | None, fast_convolutions: bool) -> None:
        super().__init__()
        self.fast_convolutions = fast_convolutions
        self._chains: dict[tuple[torch.dtype, int], tuple[tuple[tuple[int, int], ...], FrozenChain]] = {}
        deepest = max((layer_names(name).index(layer) for layer in layers), default=0)
        self.positions = _positions(name)[: deepest // 2 + 1]
        self.layers = layers
        self.features = nn.ModuleDict()
        index, inputs = 0, 3
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for i, (stage, _) in enumerate(self.positions):
                # torchvision counts a rectifier after every convolution and a pooling after every stage.
                index += 0 if i == 0 else (3 if self.positions[i - 1][0] != stage else 2)
                self.features[str(index)] = nn.Conv2d(inputs, _WIDTHS[stage - 1], 3, padding=1)
                inputs = _WIDTHS[stage - 1]
        if weights == RANDOM:
            warn_random(name)
            for conv in self.convs():
                nn.init.kaiming_normal_(conv.weight, generator=torch.Generator().manual_seed(conv.in_channels))
        elif weights != REPLACED:
            load_checked(self, *_state(name, weights))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        stage_of = {layer: int(layer[4]) for layer in layers}
        self.channels = {layer: _WIDTHS[stage - 1] for layer, stage in stage_of.items()}
        self.strides = {layer: 2 ** (stage - 1) for layer, stage in stage_of.items()}

    def convs(self) -> list[nn.Conv2d]:
        """Return the convolutions in depth order."""
        return [conv for conv in self.features.values() if isinstance(conv, nn.Conv2d)]

    def chain(self, dtype: torch.dtype, depth: int | None = None) -> FrozenChain:
        """Return the fast form of the first ``depth`` convolutions (all), made anew after their weights changed."""
        from tezawari.features.frozen_chain import FrozenChain, Step  # brings the compiler, which loads for seconds

        convs = self.convs()[:depth]
        state = tuple((conv.weight.data_ptr(), conv.weight._version) for conv in convs)
        key = dtype, len(convs)
        if key not in self._chains or self._chains[key][0] != state:
            steps = [Step(f"conv{s}_{n}", f"relu{s}_{n}", pool_before=s > 1 and n == 1) for s, n in self.positions]
            biases = [conv.bias.to(dtype) for conv in convs if conv.bias is not None]
            chain = FrozenChain(steps[: len(convs)], [conv.weight.to(dtype) for conv in convs], biases)
            self._chains[key] = state, chain
        return self._chains[key][1]

    def _frozen_depth(self) -> int:
        """Return how many of the first convolutions need no gradient of their weights."""
        if not torch.is_grad_enabled():
            return len(self.positions)
        return sum(1 for _ in takewhile(lambda conv: not conv.weight.requires_grad, self.convs()))

    def walk(self, image: Tensor, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        x = (image - self.mean) / self.std
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        fits = x.device.type == "cpu" and x.dtype in {torch.float32, dtype} and dtype in _FAST_TYPES
        fast = self._frozen_depth() if self.fast_convolutions and fits else 0
        # Gradients of weights or of inner layers need the maps one by one.
        if fast == len(self.positions) and (image.requires_grad or not torch.is_grad_enabled()):
            names = [layer for layer in self.layers if layer in wanted]
            yield from zip(names, self.chain(dtype)(x.to(dtype), names))
            return
        chain = self.chain(dtype, fast) if fast else None
        last_stage = 1
        for place, ((stage, number), conv) in enumerate(zip(self.positions, self.convs())):
            if stage != last_stage:
                x = nn.functional.max_pool2d(x, 2)
                last_stage = stage
            x = conv(x) if chain is None or place >= fast else _FrozenConvolution.apply(x.to(dtype), chain, place)
            if f"conv{stage}_{number}" in wanted:
                yield f"conv{stage}_{number}", x
            x = nn.functional.relu(x)
            if f"relu{stage}_{number}" in wanted:
                yield f"relu{stage}_{number}", x
