"""VGG's chain of frozen convolutions, forward and backward to the image, without the work that nobody needs.

Against autograd over ``nn.Conv2d``: 3×3 convolutions by Winograd where that is faster; bias and ReLU inside the
convolution; no map is kept but the rectified ones (frozen weights need no inputs, ReLU needs only its output's sign,
pooling its two maps); no gradient is summed in memory of its own; all large memory is used again.

Winograd wins where a convolution is bound by arithmetic. Vector units of 512 bits make PyTorch's direct convolution
faster than the matrix products that Winograd needs, and bfloat16 has too few digits for Winograd's transforms: both
convolve directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tezawari.features.buffers import POOL
from tezawari.features.parallel import share
from tezawari.features.winograd import Fill, WinogradConv

# Elements that a chunk of element-wise work touches: small enough for the second-level cache.
_CHUNK = 131072
# From this many channels on, in and out, Winograd is faster than direct convolution (measured at 64: 1.9×).
_WINOGRAD_CHANNELS = 16


def _planes_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class DirectConv:
    """PyTorch's own 3×3 convolution behind the methods of :class:`WinogradConv`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.bias = bias
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._turned: Tensor | None = None

    def forward(self, x: Tensor, rectify: bool) -> Tensor:
        """Return the convolution (B, H, W, Cout) of ``x`` (B, H, W, Cin), after ReLU when ``rectify``."""
        out = functional.conv2d(_planes_first(x), self._weight, self.bias, padding=1)
        if rectify:
            out.relu_()
        return out.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)

    def input_gradient(self, fill: Fill, size: tuple[int, int, int]) -> Tensor:
        """Return the gradient (B, H, W, Cin) of the input; arguments as in :class:`WinogradConv`."""
        if self._turned is None:
            turned = self._weight.flip(2, 3).transpose(0, 1)
            self._turned = turned.contiguous(memory_format=torch.channels_last)
        gradient = POOL.take(*size, self._weight.shape[0], dtype=self._weight.dtype)
        fill(gradient, slice(0, size[0]), slice(0, size[1]))
        found = functional.conv2d(_planes_first(gradient), self._turned, padding=1)
        return found.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


class _FewChannelsConv:
    """A 3×3 convolution of an image with few channels, as one matrix product over its 9·Cin shifted planes."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.bias = bias
        self.inputs = weight.shape[1]
        # (9·Cin, Cout), the taps first: a tap's planes lie together.
        self.taps = weight.permute(2, 3, 1, 0).reshape(9 * self.inputs, -1).contiguous()

    def forward(self, x: Tensor, rectify: bool) -> Tensor:
        """Return (B, H, W, Cout) of ``x`` (B, H, W, Cin), after ReLU when ``rectify``."""
        batch, height, width, _ = x.shape
        outputs = self.taps.shape[1]
        padded = functional.pad(x.permute(0, 3, 1, 2).contiguous(), (1, 1, 1, 1))
        out = POOL.take(batch, height, width, outputs, dtype=x.dtype)
        line = width + 2

        def work(chunks: Iterator[tuple[slice, slice]]) -> None:
            for images, inside in chunks:
                r = inside.stop - inside.start
                planes = padded[images.start].as_strided(
                    (3, 3, self.inputs, r, width),
                    (line, 1, (height + 2) * line, line, 1),
                    padded[images.start].storage_offset() + inside.start * line,
                )
                block = out[images, inside].view(r * width, outputs)
                torch.addmm(self.bias, planes.reshape(9 * self.inputs, r * width).t(), self.taps, out=block)
                if rectify:
                    block.clamp_min_(0)

        share(work, _row_chunks((batch, height, width), 9 * self.inputs))
        return out

    def input_gradient(self, fill: Fill, size: tuple[int, int, int]) -> Tensor:
        """Return the gradient (B, H, W, Cin) of the input; arguments as in :class:`WinogradConv`."""
        batch, height, width = size
        outputs = self.taps.shape[1]
        padded = self.taps.new_zeros(batch, self.inputs, height + 2, width + 2)
        rows = max(1, _CHUNK // (width * outputs))

        def work(images: Iterator[int]) -> None:
            for image in images:
                for first in range(0, height, rows):
                    last = min(first + rows, height)
                    gradient = POOL.take(1, last - first, width, outputs, dtype=padded.dtype)
                    fill(gradient, slice(image, image + 1), slice(first, last))
                    planes = self.taps @ gradient.view(-1, outputs).t()
                    for tap, plane in enumerate(planes.view(9, self.inputs, last - first, width)):
                        dy, dx = divmod(tap, 3)
                        padded[image, :, first + dy : last + dy, dx : dx + width].add_(plane)

        # Not shared by rows: neighbouring rows of the output add to the same rows of the input.
        share(work, range(batch))
        return padded[:, :, 1:-1, 1:-1].permute(0, 2, 3, 1)


def direct_is_faster(dtype: torch.dtype) -> bool:
    """Say whether this processor convolves ``dtype`` faster directly than by Winograd (measured: Zen 3, Zen 5)."""
    return dtype == torch.bfloat16 or (dtype == torch.float32 and torch.backends.cpu.get_cpu_capability() == "AVX512")


def _conv(weight: Tensor, bias: Tensor) -> WinogradConv | DirectConv | _FewChannelsConv:
    if direct_is_faster(weight.dtype):
        return DirectConv(weight, bias)
    if min(weight.shape[:2]) < _WINOGRAD_CHANNELS:
        return _FewChannelsConv(weight, bias)
    return WinogradConv(weight, bias)


def _row_chunks(size: tuple[int, int, int], channels: int) -> list[tuple[slice, slice]]:
    """Cut a map of ``size`` (B, H, W) into (one image, some rows)."""
    batch, height, width = size
    rows = max(1, _CHUNK // (width * channels))
    return [
        (slice(image, image + 1), slice(first, min(first + rows, height)))
        for image in range(batch)
        for first in range(0, height, rows)
    ]


@dataclass(frozen=True)
class Step:
    """One convolution of the chain: the names of its outputs, and whether a 2×2 maximum comes before it."""

    conv_name: str
    relu_name: str
    pool_before: bool


class FrozenChain:
    """Convolution, ReLU, sometimes pooling, again and again: VGG, on the CPU, with frozen weights.

    ``steps`` name the convolutions of ``weights`` (Cout, Cin, 3, 3) and ``biases`` (Cout,) in order.
    """

    def __init__(self, steps: Sequence[Step], weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.steps = list(steps)
        self.convs: list[WinogradConv | DirectConv | _FewChannelsConv] = [
            _conv(weight.detach(), bias.detach()) for weight, bias in zip(weights, biases)
        ]

    @torch.compiler.disable
    def __call__(self, x: Tensor, wanted: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the ``wanted`` maps (B, C, h, w), channels-last in memory, in depth order; ``x`` is (B, 3, H, W).

        Differentiable with respect to ``x``, once.
        """
        if torch.is_grad_enabled() and x.requires_grad:
            return _Chain.apply(x, self, tuple(wanted))
        _, found = self.run(x, wanted)
        return tuple(map(_planes_first, found))

    def depth(self, wanted: Sequence[str]) -> int:
        """Return how many steps the wanted maps need."""
        return 1 + max(i for i, step in enumerate(self.steps) if {step.conv_name, step.relu_name} & set(wanted))

    def run(self, x: Tensor, wanted: Sequence[str], keep: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Return what the gradient needs (rectified maps and places of maxima, in order) and the wanted maps."""
        kept: list[Tensor] = []
        found: list[Tensor] = []
        x = x.permute(0, 2, 3, 1)
        for step, conv in zip(self.steps[: self.depth(wanted)], self.convs):
            if step.pool_before:
                x, places = _max_pool(x)
                kept += [places] * keep
            if step.conv_name in wanted:
                linear = conv.forward(x, rectify=False)
                found.append(linear)
                x = torch.clamp_min(linear, 0, out=POOL.take(*linear.shape, dtype=linear.dtype))
            else:
                x = conv.forward(x, rectify=True)
            if step.relu_name in wanted:
                found.append(x)
            kept += [x] * keep
        return kept, found


def _max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 2×2 maxima (B, H // 2, W // 2, C) of ``x`` (B, H, W, C) and their places, as PyTorch counts them."""
    pooled, places = functional.max_pool2d(_planes_first(x), 2, return_indices=True)
    return pooled.permute(0, 2, 3, 1), places.permute(0, 2, 3, 1)


def _max_pool_gradient(gradient: Tensor, places: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of :func:`_max_pool`'s input ``x``."""
    planes = torch.ops.aten.max_pool2d_with_indices_backward(
        _planes_first(gradient), _planes_first(x), [2, 2], [2, 2], [0, 0], [1, 1], False, _planes_first(places)
    )
    return planes.permute(0, 2, 3, 1)


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, chain: FrozenChain, wanted: tuple[str, ...]) -> tuple[Tensor, ...]:
        kept, found = chain.run(x, wanted, keep=True)
        outputs = tuple(map(_planes_first, found))
        # A kept map that is also returned must be saved as the very tensor that is returned.
        returned = {id(map_): output for map_, output in zip(found, outputs)}
        ctx.save_for_backward(*(returned.get(id(map_), _planes_first(map_)) for map_ in kept))
        ctx.chain, ctx.wanted = chain, wanted
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        kept = [map_.permute(0, 2, 3, 1) for map_ in ctx.saved_tensors]
        steps = ctx.chain.steps[: ctx.chain.depth(ctx.wanted)]
        names = [n for s in steps for n in (s.conv_name, s.relu_name) if n in ctx.wanted]
        given = {n: g.permute(0, 2, 3, 1) for n, g in zip(names, gradients) if g is not None}
        current: Tensor | None = None
        for step, conv in reversed(list(zip(steps, ctx.chain.convs))):
            rectified = kept.pop()
            fill = _gradient_before_relu(rectified, current, given.get(step.relu_name), given.get(step.conv_name))
            if fill is not None:
                current = conv.input_gradient(fill, tuple(rectified.shape[:3]))
            if step.pool_before:
                places = kept.pop()
                if current is not None:
                    current = _max_pool_gradient(current, places, kept[-1])
        return (None if current is None else _planes_first(current)), None, None


def _gradient_before_relu(
    rectified: Tensor, deeper: Tensor | None, after: Tensor | None, before: Tensor | None
) -> Fill | None:
    """Return what writes the gradient of a convolution's output, from the gradients that reach it; None without any.

    ``deeper`` came back through the next step, ``after`` is the caller's for the rectified map, ``before`` the caller's
    for the map before it.
    """
    through = [g for g in (deeper, after) if g is not None]
    if not through and before is None:
        return None

    def fill(target: Tensor, images: slice, rows: slice) -> None:
        if not through:
            assert before is not None
            target.copy_(before[images, rows])
            return
        total = through[0][images, rows]
        if len(through) == 2:
            total = total + through[1][images, rows]
        torch.ops.aten.threshold_backward.grad_input(total, rectified[images, rows], 0, grad_input=target)
        if before is not None:
            target.add_(before[images, rows])

    return fill
