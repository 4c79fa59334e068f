"""Sharing independent pieces of work among threads that each compute alone.

PyTorch splits every single operation among its threads and waits for the slowest. For chains of short operations that
is thousands of meetings a step, and on a busy machine each of them may cost a scheduler's time slice. Here a thread
takes a piece through all its operations by itself, and the threads meet once, at the end.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")

_workers: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _forget_workers() -> None:
    """Start afresh in a forked process: it has none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _workers.clear()


os.register_at_fork(after_in_child=_forget_workers)


def _start(threads: int) -> ThreadPoolExecutor:
    """Return ``threads`` threads in which PyTorch does not split its operations."""
    executor = ThreadPoolExecutor(threads, "tezawari")
    started = threading.Barrier(threads + 1)

    def undivided() -> None:
        # A thread takes over the common number the first time it asks, which would undo what is set before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    for _ in range(threads):
        executor.submit(undivided)
    started.wait()
    # The setting holds for one thread, but threads born later would inherit the last one made.
    torch.set_num_threads(threads)
    return executor


def share(work: Callable[[Iterator[Piece]], None], pieces: Sequence[Piece]) -> None:
    """Let as many threads as PyTorch is set to use run ``work`` on one common iterator over ``pieces``.

    A thread that is slower takes fewer pieces. ``work`` runs without gradients; what it raises is raised here.
    """
    threads = min(torch.get_num_threads(), len(pieces))
    common = iter(pieces)
    if threads <= 1:
        with torch.no_grad():
            work(common)
        return
    with _lock:
        most = torch.get_num_threads()
        if most not in _workers:
            _workers[most] = _start(most)
        executor = _workers[most]

    # Tensors of the inference mode may be written to within it alone, and each thread has its own.
    inference = torch.is_inference_mode_enabled()

    def without_gradients() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            work(common)

    # All must have ended before an error is raised: they write to memory of the caller's.
    runs = [executor.submit(without_gradients) for _ in range(threads)]
    for error in [run.exception() for run in runs]:
        if error is not None:
            raise error
