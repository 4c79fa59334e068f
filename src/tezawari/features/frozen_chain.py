"""VGG's chain of frozen convolutions, forward and backward to the image, without the work that nobody needs.

Against autograd over ``nn.Conv2d``: 3×3 convolutions by Winograd; bias and ReLU inside the convolution; no map is kept
but the rectified ones (frozen weights need no inputs, ReLU needs only its output's sign, pooling its two maps); no
gradient is summed in memory of its own; all large memory is used again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tezawari.features.buffers import POOL
from tezawari.features.parallel import share
from tezawari.features.winograd import Fill, WinogradConv

# Elements that a chunk of element-wise work touches: small enough for the second-level cache.
_CHUNK = 131072
# From this many channels on, in and out, Winograd is faster than direct convolution (measured at 64: 1.9×).
_WINOGRAD_CHANNELS = 16


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
        padded = torch.nn.functional.pad(x.permute(0, 3, 1, 2).contiguous(), (1, 1, 1, 1))
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


def _quarters(x: Tensor, height: int, width: int) -> list[Tensor]:
    """Return the four members of every 2×2 window of ``x`` (B, H, W, C), each (B, height, width, C)."""
    return [x[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] for dy in (0, 1) for dx in (0, 1)]


def _row_chunks(size: tuple[int, int, int], channels: int) -> list[tuple[slice, slice]]:
    """Cut a map of ``size`` (B, H, W) into (one image, some rows)."""
    batch, height, width = size
    rows = max(1, _CHUNK // (width * channels))
    return [
        (slice(image, image + 1), slice(first, min(first + rows, height)))
        for image in range(batch)
        for first in range(0, height, rows)
    ]


def max_pool(x: Tensor) -> Tensor:
    """Return the 2×2 maximum (B, H // 2, W // 2, C) of ``x`` (B, H, W, C)."""
    batch, height, width, channels = x.shape
    out = POOL.take(batch, height // 2, width // 2, channels, dtype=x.dtype)

    def work(chunks: Iterator[tuple[slice, slice]]) -> None:
        for images, rows in chunks:
            block = out[images, rows]
            a, b, c, d = _quarters(x[images, 2 * rows.start : 2 * rows.stop], *block.shape[1:3])
            torch.maximum(a, b, out=block)
            torch.maximum(block, c, out=block)
            torch.maximum(block, d, out=block)

    share(work, _row_chunks((batch, height // 2, width // 2), channels))
    return out


def max_pool_gradient(gradient: Tensor, pooled: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of :func:`max_pool`'s input ``x``; of equal maxima the first one gets it, as in PyTorch."""
    out = POOL.take(*x.shape, dtype=x.dtype)
    # Rows and columns beyond the last whole window.
    out[:, 2 * pooled.shape[1] :].zero_()
    out[:, :, 2 * pooled.shape[2] :].zero_()

    def work(chunks: Iterator[tuple[slice, slice]]) -> None:
        for images, rows in chunks:
            block = pooled[images, rows]
            whole = slice(2 * rows.start, 2 * rows.stop)
            left = gradient[images, rows].clone()
            sizes = block.shape[1:3]
            for member, place in zip(_quarters(x[images, whole], *sizes), _quarters(out[images, whole], *sizes)):
                torch.mul(left, member == block, out=place)
                left.sub_(place)

    batch, height, width, channels = pooled.shape
    share(work, _row_chunks((batch, height, width), channels))
    return out


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
        self.convs: list[WinogradConv | _FewChannelsConv] = [
            (WinogradConv if min(weight.shape[:2]) >= _WINOGRAD_CHANNELS else _FewChannelsConv)(weight, bias)
            for weight, bias in zip((w.detach() for w in weights), (b.detach() for b in biases))
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
        """Return the kept maps (pooled and rectified ones, in the order of computation) and the wanted ones."""
        kept: list[Tensor] = []
        found: list[Tensor] = []
        x = x.permute(0, 2, 3, 1)
        for step, conv in zip(self.steps[: self.depth(wanted)], self.convs):
            if step.pool_before:
                x = max_pool(x)
                kept += [x] * keep
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


def _planes_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


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
                pooled = kept.pop()
                if current is not None:
                    current = max_pool_gradient(current, pooled, kept[-1])
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
