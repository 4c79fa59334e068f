"""What the machine offers, and what the process does with its memory."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys
from pathlib import Path

_LOG = logging.getLogger(__name__)

_CPU_INFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
# x86's and ARM's names, in Linux, of instructions that multiply bfloat16.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
# Names and numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


_ADAPTED = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next large tensor, and say whether it does.

    By default glibc returns every block above 32 MB to the system at once. A convolution's result is often larger, and
    taking its pages anew costs more than computing it: VGG16's first layer at 256 px and batch 4 takes 24 ms with fresh
    memory and 2 ms with used memory. The process then holds its peak memory until it ends. Other C libraries have no
    such setting and are left as they are.
    """
    return _set_malloc(_M_MMAP_THRESHOLD, _LARGEST) and _set_malloc(_M_TRIM_THRESHOLD, _LARGEST)


def return_large_blocks() -> bool:
    """Give blocks above 32 MB back to the system at once again, and say whether that is so.

    It is what a process of large tensors has if it sets nothing, for glibc's own threshold rises up to that. Smaller
    blocks stay as :func:`keep_freed_memory` left them.
    """
    return _set_malloc(_M_MMAP_THRESHOLD, _ADAPTED)


def _set_malloc(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (OSError, AttributeError, TypeError):
        _LOG.debug("this C library has no mallopt: large tensors get fresh memory each time")
        return False


def computes_bf16() -> bool:
    """Return whether the processor has instructions for bfloat16; False where the system does not say.

    Without them PyTorch computes in bfloat16 all the same, ten to a hundred times slower.
    """
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    return any(_BF16_FLAGS & set(line.split()) for line in lines if line.lower().startswith(("flags", "features")))


def peak_so_far() -> float:
    """Return this process's peak resident memory until now in MB."""
    try:
        # Not getrusage on Linux: there a new process starts with the peak of the one that started it.
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
