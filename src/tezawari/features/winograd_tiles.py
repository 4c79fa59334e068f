"""The transforms of Winograd's F(4×4, 3×3), compiled for this processor: additions, a few doublings, no products.

    Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A        (Lavin & Gray, 2016)

Both sides are applied one after the other, each to whole vectors of channels. A tile is read once and its 36 taps are
written where the matrix products want them; the results are rectified and written to their pixels in the same pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Array = NDArray[np.float32]

# One simple loop writes each output, so that the compiler needs no proof that many arrays do not overlap, and makes
# vector instructions. Places are unsigned: a signed one might count from the end, which is asked at every element.
_place = np.uint64

Kernel = TypeVar("Kernel", bound=Callable[..., None])


def _compiled(kernel: Kernel) -> Kernel:
    """Compile at the first call, once a machine where the result can be stored."""
    try:
        return cast(Kernel, njit(nogil=True, fastmath={"contract"}, cache=True)(kernel))
    except RuntimeError as error:  # no folder for it can be written
        log.warning("%s: it will be compiled at every start, which takes seconds", error)
        return cast(Kernel, njit(nogil=True, fastmath={"contract"})(kernel))


@_compiled
def _analyse(  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    d, at, step, out, to, stride, channels
):
    """Write Bᵀ d: six vectors of ``channels`` from ``to`` on ``stride`` apart, of six from ``at`` on ``step`` apart."""
    # Of the vectors' own type: the product with an integer would be in double precision.
    two, four, five = d.dtype.type(2), d.dtype.type(4), d.dtype.type(5)
    at1, at2, at3 = at + step, at + step + step, at + step + step + step
    at4, at5 = at2 + step + step, at3 + step + step
    for c in range(channels):
        out[to + c] = four * d[at + c] - five * d[at2 + c] + d[at4 + c]
    to += stride
    for c in range(channels):
        out[to + c] = d[at4 + c] + d[at3 + c] - four * (d[at1 + c] + d[at2 + c])
    to += stride
    for c in range(channels):
        out[to + c] = d[at4 + c] - d[at3 + c] + four * (d[at1 + c] - d[at2 + c])
    to += stride
    for c in range(channels):
        out[to + c] = d[at4 + c] - d[at2 + c] + two * (d[at3 + c] - d[at1 + c])
    to += stride
    for c in range(channels):
        out[to + c] = d[at4 + c] - d[at2 + c] - two * (d[at3 + c] - d[at1 + c])
    to += stride
    for c in range(channels):
        out[to + c] = four * d[at1 + c] - five * d[at3 + c] + d[at5 + c]


@_compiled
def _synthesise(  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    m, at, step, out, to, stride, channels
):
    """Write Aᵀ m, four vectors of six; arguments as of :func:`_analyse`."""
    two, four, eight = m.dtype.type(2), m.dtype.type(4), m.dtype.type(8)
    at1, at2, at3 = at + step, at + step + step, at + step + step + step
    at4, at5 = at2 + step + step, at3 + step + step
    for c in range(channels):
        out[to + c] = m[at + c] + (m[at1 + c] + m[at2 + c]) + (m[at3 + c] + m[at4 + c])
    to += stride
    for c in range(channels):
        out[to + c] = (m[at1 + c] - m[at2 + c]) + two * (m[at3 + c] - m[at4 + c])
    to += stride
    for c in range(channels):
        out[to + c] = (m[at1 + c] + m[at2 + c]) + four * (m[at3 + c] + m[at4 + c])
    to += stride
    for c in range(channels):
        out[to + c] = (m[at1 + c] - m[at2 + c]) + eight * (m[at3 + c] - m[at4 + c]) + m[at5 + c]


@_compiled
def _copy_edge(  # type: ignore[no-untyped-def]  # pragma: no cover (compiled)
    maps, image, top, left, tile
):
    """Write the 6×6 pixels from ``(top, left)`` on, zeros where there are none, to ``tile`` ``(36 · C,)``."""
    _, height, width, channels = maps.shape
    for y in range(6):
        for x in range(6):
            place = (6 * y + x) * channels
            inside = 0 <= top + y < height and 0 <= left + x < width
            for c in range(channels):
                tile[place + c] = maps[image, top + y, left + x, c] if inside else 0


@_compiled
def analyse_tiles(maps: Array, first: int, tile_rows: int, taps: Array) -> None:  # pragma: no cover (compiled)
    """Write Bᵀ d B of overlapping 6×6 tiles, each four pixels further than the last.

    Args:
        maps: ``(N, H, W, C)``, contiguous; what lies outside is zero.
        first: the row at which the first tiles begin, −1 at the maps' upper edge. Columns begin at −1.
        tile_rows: how many rows of ⌈W/4⌉ tiles.
        taps: ``(36, ≥ tiles, C)``, contiguous; rows beyond the last tile are set to zero.
    """
    images, height, width, _ = maps.shape
    channels = _place(maps.shape[3])
    half = np.empty(36 * maps.shape[3], maps.dtype)
    edge = np.empty(36 * maps.shape[3], maps.dtype)
    source, target = maps.reshape(-1), taps.reshape(-1)
    line, tap, side = _place(width) * channels, _place(taps.shape[1]) * channels, _place(6) * channels
    tile = _place(0)
    for image in range(images):
        for top in range(first, first + 4 * tile_rows, 4):
            for left in range(-1, width - 1, 4):
                if 0 <= top <= height - 6 and 0 <= left <= width - 6:
                    corner = _place((image * height + top) * width + left) * channels
                    for x in range(_place(6)):
                        _analyse(source, corner + x * channels, line, half, x * channels, side, channels)
                else:
                    _copy_edge(maps, image, top, left, edge)
                    for x in range(_place(6)):
                        _analyse(edge, x * channels, side, half, x * channels, side, channels)
                for y in range(_place(6)):
                    _analyse(half, y * side, channels, target, tile + y * _place(6) * tap, tap, channels)
                tile += channels
    taps[:, images * tile_rows * ((width + 3) // 4) :] = 0


@_compiled
def synthesise_tiles(products: Array, bias: Array, least: float, out: Array) -> None:  # pragma: no cover (compiled)
    """Write Aᵀ m A + ``bias``, or ``least`` where that is more: a rectifier with 0, nothing with −∞.

    Args:
        products: ``(36, ≥ tiles, C)``, contiguous.
        bias: ``(C,)``.
        least: the least value.
        out: maps ``(N, H, W, C)``, contiguous, of ⌈H/4⌉ × ⌈W/4⌉ tiles.
    """
    images, height, width, _ = out.shape
    channels = _place(out.shape[3])
    half = np.empty(24 * out.shape[3], products.dtype)
    row = np.empty(4 * out.shape[3], products.dtype)
    source, target = products.reshape(-1), out.reshape(-1)
    tap, side = _place(products.shape[1]) * channels, _place(6) * channels
    least_value = products.dtype.type(least)
    tile = _place(0)
    for image in range(images):
        for top in range(0, height, 4):
            for left in range(0, width, 4):
                for x in range(_place(6)):
                    _synthesise(source, tile + x * tap, _place(6) * tap, half, x * channels, side, channels)
                for y in range(min(4, height - top)):
                    _synthesise(half, _place(y) * side, channels, row, _place(0), channels, channels)
                    for x in range(min(4, width - left)):
                        place = _place(((image * height) + top + y) * width + left + x) * channels
                        value = _place(x) * channels
                        for c in range(channels):
                            sum_ = row[value + c] + bias[c]
                            target[place + c] = least_value if sum_ < least_value else sum_  # what is no number stays
                tile += channels
