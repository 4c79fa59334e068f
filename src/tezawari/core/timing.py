"""Timing on a machine that does other things as well, and the yardsticks that timings are read against."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# Threads of another runtime go on spinning for a little while after their work.
_PAUSE_SECONDS = 0.02
_PEAK_SIDES = (1024, 2048)
_PEAK_REPEATS = 5


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: the median of all turns, and the fastest run of all, which a busy machine disturbs least."""

    median: float
    fastest: float


def time_in_turns(runs: Mapping[str, Callable[[], object]], turns: int, turn_seconds: float = 0.0) -> dict[str, Timing]:
    """Time each of ``runs``, taking turns, so that a busy machine slows all of them alike.

    In its turn each runs until ``turn_seconds`` have passed, at least once; a turn counts as its median. The first run
    of all is the caller's: nothing is warmed up here.
    """
    fastest = dict.fromkeys(runs, math.inf)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            time.sleep(_PAUSE_SECONDS)
            turn: list[float] = []
            while not turn or sum(turn) < turn_seconds:
                start = time.perf_counter()
                run()
                turn.append(time.perf_counter() - start)
            seconds[name].append(statistics.median(turn))
            fastest[name] = min(fastest[name], *turn)
    return {name: Timing(statistics.median(seconds[name]), fastest[name]) for name in runs}


def matmul_peak(dtype: torch.dtype) -> float:
    """Return the highest GFLOP/s of a matrix product or a 3×3 convolution of ``dtype`` on the CPU, here and now."""
    best = 0.0
    with torch.inference_mode():
        for side in _PEAK_SIDES:
            a, b = torch.randn(2, side, side).to(dtype)
            best = max(best, 2 * side**3 / _fastest(lambda a=a, b=b: torch.mm(a, b)))  # type: ignore[misc]
        conv = nn.Conv2d(128, 128, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)
        features = torch.randn(1, 128, 128, 128).to(dtype).contiguous(memory_format=torch.channels_last)
        best = max(best, 2 * 9 * 128 * features.numel() / _fastest(lambda: conv(features)))
    return best / 1e9


def _fastest(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(_PEAK_REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def count_gflop(run: Callable[[], object]) -> float:
    """Return the 10⁹ floating-point operations of ``run``'s products and convolutions, two a multiplication.

    Convolutions count as direct ones, whatever computes them; tensors on the ``meta`` device make it take no time.
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9
