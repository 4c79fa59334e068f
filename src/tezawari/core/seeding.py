"""Randomness as a pure function of (seed, epoch, index).

No draw of the data pipeline touches a global generator, so a run that stops anywhere and resumes sees the same
samples, whatever the number of loader workers.
"""

from __future__ import annotations

import numpy as np

_ORDER_STREAM = 0
_SAMPLE_STREAM = 1


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of everything random about sample ``index`` of ``epoch`` (all non-negative integers)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([_SAMPLE_STREAM, seed, epoch, index])))


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order, an int64 permutation of ``range(size)``, in which ``epoch`` visits its samples."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([_ORDER_STREAM, seed, epoch])))
    return generator.permutation(size)
