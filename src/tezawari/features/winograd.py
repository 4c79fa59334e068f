"""Fast 3×3 convolutions with frozen weights, for CPUs without matrix units.

Winograd's minimal filtering F(4×4, 3×3) (Lavin & Gray, 2016, "Fast algorithms for convolutional neural networks"):
a 6×6 tile of the input gives a 4×4 tile of the output with 36 multiplications a channel pair in place of 144.

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A

Over the channels the element-wise product becomes 36 matrix products. Both transforms are written as one matrix
product with the Kronecker square (Bᵀ ⊗ Bᵀ, 36×36; Aᵀ ⊗ Aᵀ, 16×36): more arithmetic than the separable form, but it
runs at the machine's matrix-multiply speed and touches memory once. A chunk of tiles passes through all steps before
the next begins, so that it stays in cache. Differs from the paper: F(4×4) tiles of float32 are summed over channels by
the BLAS; the relative error against direct convolution is about 1e-6 a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tezawari.features.buffers import POOL
from tezawari.features.parallel import share

_BT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_AT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
# The tap of the interpolation point (1, 1) adds equally to all 16 outputs of a tile: the place for the bias.
_BIAS_TAP = 7

# Tiles of a chunk: the faster counts of 32 … 4096 tiles, measured at VGG's shapes on a Zen 3. With few channels the
# transforms dominate and the chunk must stay in cache; with many, longer matrices use the weights more often.
_TILES_OF_FEW, _TILES_OF_MANY, _MANY_CHANNELS = 128, 256, 256

#: ``fill(target, images, rows)`` writes the given images and rows of a map (B, H, W, C) into ``target``.
Fill = Callable[[Tensor, slice, slice], object]


def _square(matrix: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(like.dtype)


def transform_weights(weight: Tensor) -> Tensor:
    """Return the transformed weights (36, Cin, Cout) of a 3×3 convolution's ``weight`` (Cout, Cin, 3, 3)."""
    out_channels, in_channels = weight.shape[:2]
    taps = weight.double().permute(2, 3, 1, 0).reshape(9, in_channels * out_channels)
    return (_square(_G, taps) @ taps).view(36, in_channels, out_channels).to(weight.dtype).contiguous()


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

    Maps are channels-last, (B, H, W, C) contiguous, of the weight's dtype, on the CPU. ``weight`` (Cout, Cin, 3, 3),
    ``bias`` (Cout,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.bias = bias
        self._weight = weight
        self._forward = transform_weights(weight)
        self._backward: Tensor | None = None
        self._bt, self._at = _square(_BT, weight), _square(_AT, weight)

    def forward(self, x: Tensor, rectify: bool) -> Tensor:
        """Return the convolution (B, H, W, Cout) of ``x`` (B, H, W, Cin), after ReLU when ``rectify``."""

        def fill(target: Tensor, images: slice, rows: slice) -> None:
            target.copy_(x[images, rows])

        return self._run(fill, x.shape[:3], self._forward, self.bias, rectify)

    def input_gradient(self, fill: Fill, size: tuple[int, int, int]) -> Tensor:
        """Return the gradient (B, H, W, Cin) of the input; ``fill`` writes the output's, ``size`` is (B, H, W).

        It is the convolution with the weights turned by 180° and their channels exchanged.
        """
        if self._backward is None:
            self._backward = transform_weights(self._weight.flip(2, 3).transpose(0, 1))
        return self._run(fill, size, self._backward, None, False)

    def _run(self, fill: Fill, size: tuple[int, ...], weights: Tensor, bias: Tensor | None, rectify: bool) -> Tensor:
        batch, height, width = size
        inputs, outputs = weights.shape[1:]
        dtype = weights.dtype
        tile_rows, tile_columns = -(-height // 4), -(-width // 4)
        padded_width = 4 * tile_columns + 2
        out = POOL.take(batch, height, width, outputs, dtype=dtype)
        whole_tiles = height % 4 == 0 and width % 4 == 0
        chunks = _chunks(batch, tile_rows, tile_columns, max(inputs, outputs))
        first_images, first_rows = chunks[0]
        most_images, most_rows = first_images.stop, first_rows.stop
        # An odd number of tiles: rows of matrices a power of two apart would fall on the same cache lines.
        most = most_images * most_rows * tile_columns | 1

        def work(chunks: Iterator[tuple[slice, slice]]) -> None:
            padded_memory = POOL.take(most_images * (4 * most_rows + 2) * padded_width * inputs, dtype=dtype)
            tiles_memory = POOL.take(most * 36 * max(inputs, outputs), dtype=dtype)
            transformed_memory = POOL.take(most * 36 * inputs, dtype=dtype)
            result_memory = POOL.take(most * 16 * outputs, dtype=dtype)
            for images, rows in chunks:
                n, r = images.stop - images.start, rows.stop - rows.start
                count = n * r * tile_columns
                odd = count | 1
                # 1. The rows of the chunk with one more on each side, zero outside the image.
                padded = _view(padded_memory, n, 4 * r + 2, padded_width, inputs)
                top = 4 * rows.start - 1
                inside = slice(max(top, 0), min(top + 4 * r + 2, height))
                padded[:, : inside.start - top].zero_()
                padded[:, inside.stop - top :].zero_()
                padded[:, :, 0].zero_()
                padded[:, :, width + 1 :].zero_()
                fill(padded[:, inside.start - top : inside.stop - top, 1 : width + 1], images, inside)
                # 2. Overlapping tiles: six runs of six pixels each.
                tiles = _view(tiles_memory, odd, 36, inputs)
                line = padded_width * inputs
                tiles[count:].zero_()
                tiles[:count].view(n, r, tile_columns, 6, 6 * inputs).copy_(
                    padded.as_strided(
                        (n, r, tile_columns, 6, 6 * inputs),
                        ((4 * r + 2) * line, 4 * line, 4 * inputs, line, 1),
                    )
                )
                # 3. Bᵀ d B.   4. The 36 products; the tiles are no longer needed, their memory is.   5. Aᵀ m A.
                transformed = _view(transformed_memory, odd, 36, inputs)
                torch.bmm(self._bt.expand(odd, 36, 36), tiles, out=transformed)
                products = _view(tiles_memory, 36, odd, outputs)
                torch.bmm(transformed.transpose(0, 1), weights, out=products)
                if bias is not None:
                    products[_BIAS_TAP].add_(bias)
                result = _view(result_memory, 16, odd * outputs)
                torch.mm(self._at, products.view(36, odd * outputs), out=result)
                # 6. Tiles back to rows, with the rectifier on the way.
                spread = result.view(4, 4, odd, outputs)[:, :, :count].view(4, 4, n, r, tile_columns, outputs)
                spread = spread.permute(2, 3, 0, 4, 1, 5)
                bottom = min(4 * rows.stop, height)
                place = out[images, 4 * rows.start : bottom]
                if whole_tiles:
                    block = place.view(n, r, 4, tile_columns, 4, outputs)
                else:
                    block = POOL.take(n, r, 4, tile_columns, 4, outputs, dtype=dtype)
                if rectify:
                    torch.clamp_min(spread, 0, out=block)
                else:
                    block.copy_(spread)
                if not whole_tiles:
                    whole = block.view(n, 4 * r, 4 * tile_columns, outputs)
                    place.copy_(whole[:, : bottom - 4 * rows.start, :width])

        share(work, chunks)
        return out


def _view(memory: Tensor, *shape: int) -> Tensor:
    """Return the beginning of ``memory`` in ``shape``."""
    return memory[: math.prod(shape)].view(shape)
