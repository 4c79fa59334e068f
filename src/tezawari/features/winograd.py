"""Fast 3×3 convolutions with frozen weights, for CPUs without matrix units.

Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray, 2016, "Fast algorithms for convolutional neural networks"):
a 6×6 tile of the input gives a 4×4 tile of the output with 36 multiplications a channel pair in place of 144.

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Over the channels the element-wise product becomes 36 matrix products, which the BLAS makes; both transforms are
compiled (:mod:`tezawari.features.winograd_tiles`). A chunk of tiles passes through all steps before the next begins, so
that it stays in cache. The relative error of float32 against direct convolution is about 1e-6 a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tezawari.features.buffers import POOL
from tezawari.features.parallel import share
from tezawari.features.winograd_tiles import analyse_tiles, synthesise_tiles

_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# Tiles of a chunk: the faster counts of 32 … 4096 tiles, measured at VGG's shapes on a Zen 3. With few channels the
# transforms dominate and the chunk must stay in cache; with many, longer matrices use the weights more often.
_TILES_OF_FEW, _TILES_OF_MANY, _MANY_CHANNELS = 128, 256, 256

#: ``fill(target, images, rows)`` writes the given images and rows of a map (B, H, W, C) into ``target``.
Fill = Callable[[Tensor, slice, slice], object]
#: ``rows_of(images, rows)`` returns at least these images and rows, contiguous, and which row is their first.
Rows = Callable[[slice, slice], tuple[Tensor, int]]


def transform_weights(weight: Tensor) -> Tensor:
    """Return the transformed weights (36, Cin, Cout) of a 3×3 convolution's ``weight`` (Cout, Cin, 3, 3)."""
    out_channels, in_channels = weight.shape[:2]
    taps = weight.double().permute(2, 3, 1, 0).reshape(9, in_channels * out_channels)
    one_side = torch.tensor(_G, dtype=torch.float64)
    return (torch.kron(one_side, one_side) @ taps).view(36, in_channels, out_channels).to(weight.dtype).contiguous()


def _chunks(batch: int, tile_rows: int, tile_columns: int, channels: int) -> list[tuple[slice, slice]]:
    """Cut a batch of tiled images into (images, tile rows), the largest first, at least one for each thread."""
    most = _TILES_OF_MANY if channels >= _MANY_CHANNELS else _TILES_OF_FEW
    most = min(most, batch * tile_rows * tile_columns // torch.get_num_threads())
    image_tiles = tile_rows * tile_columns
    if image_tiles <= most:
        images = most // image_tiles
        return [(slice(b, min(b + images, batch)), slice(0, tile_rows)) for b in range(0, batch, images)]
    rows = max(1, most // tile_columns)
    return [
        (slice(image, image + 1), slice(first, min(first + rows, tile_rows)))
        for image in range(batch)
        for first in range(0, tile_rows, rows)
    ]


class WinogradConv:
    """A 3×3 convolution of stride 1 and zero padding 1 whose weights do not change.

    Maps are channels-last (B, H, W, C), of the weight's dtype, on the CPU. ``weight`` (Cout, Cin, 3, 3),
    ``bias`` (Cout,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.bias = bias
        self._weight = weight
        self._forward = transform_weights(weight)
        self._backward: Tensor | None = None

    def forward(self, x: Tensor, rectify: bool) -> Tensor:
        """Return the convolution (B, H, W, Cout) of ``x`` (B, H, W, Cin), after ReLU when ``rectify``."""

        least, whole = 0 if rectify else -math.inf, x.contiguous()
        return self._run(lambda images, rows: (whole[images], 0), x.shape[:3], self._forward, self.bias, least)

    def input_gradient(self, fill: Fill, size: tuple[int, int, int]) -> Tensor:
        """Return the gradient (B, H, W, Cin) of the input; ``fill`` writes the output's, ``size`` is (B, H, W).

        It is the convolution with the weights turned by 180° and their channels exchanged.
        """
        if self._backward is None:
            self._backward = transform_weights(self._weight.flip(2, 3).transpose(0, 1))
        width, outputs = size[2], self._weight.shape[0]

        def rows_of(images: slice, rows: slice) -> tuple[Tensor, int]:
            count = images.stop - images.start, rows.stop - rows.start
            gradient = POOL.take(*count, width, outputs, dtype=self._weight.dtype)
            fill(gradient, images, rows)
            return gradient, rows.start

        no_bias = self.bias.new_zeros(self._weight.shape[1])
        return self._run(rows_of, size, self._backward, no_bias, -math.inf)

    def _run(self, rows_of: Rows, size: tuple[int, ...], weights: Tensor, bias: Tensor, least: float) -> Tensor:
        batch, height, width = size
        inputs, outputs = weights.shape[1:]
        dtype = weights.dtype
        tile_rows, tile_columns = -(-height // 4), -(-width // 4)
        out = POOL.take(batch, height, width, outputs, dtype=dtype)
        chunks = _chunks(batch, tile_rows, tile_columns, max(inputs, outputs))
        first_images, first_rows = chunks[0]
        most_images, most_rows = first_images.stop, first_rows.stop
        # An odd number of tiles: rows of matrices a power of two apart would fall on the same cache lines.
        most = most_images * most_rows * tile_columns | 1

        def work(chunks: Iterator[tuple[slice, slice]]) -> None:
            taps_memory = POOL.take(36 * most * inputs, dtype=dtype)
            products_memory = POOL.take(36 * most * outputs, dtype=dtype)
            for images, rows in chunks:
                n, r = images.stop - images.start, rows.stop - rows.start
                odd = n * r * tile_columns | 1
                # The rows of the chunk, and one more on each side where there is one.
                top = 4 * rows.start - 1
                maps, start = rows_of(images, slice(max(top, 0), min(top + 4 * r + 2, height)))
                taps = _view(taps_memory, 36, odd, inputs)
                analyse_tiles(maps.numpy(), top - start, r, taps.numpy())
                products = _view(products_memory, 36, odd, outputs)
                torch.bmm(taps, weights, out=products)
                place = out[images, 4 * rows.start : min(4 * rows.stop, height)]
                synthesise_tiles(products.numpy(), bias.numpy(), least, place.numpy())

        share(work, chunks)
        return out


def _view(memory: Tensor, *shape: int) -> Tensor:
    """Return the beginning of ``memory`` in ``shape``."""
    return memory[: math.prod(shape)].view(shape)
