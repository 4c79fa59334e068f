"""How far a long piece of work is, in lines on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""What long functions call with (things done, things in all)."""


def tell(line: str) -> None:
    """Print one line to stderr at once, whatever breaks of lines it holds."""
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def progress_lines(title: str, things: str, seconds: float = 5.0) -> Progress:
    """Return a callback that tells how far ``title`` is, at most every few ``seconds``, and once at the end.

    Each line says how many of the ``things`` are done, how many a second, and how long the rest will take.
    """
    start = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < total and now - said < seconds:
            return
        said = now
        rate = done / max(now - start, 1e-3)
        rest = f"{format_seconds((total - done) / max(rate, 1e-9))} left" if done < total else f"{now - start:.1f} s"
        tell(f"{title}: {done}/{total} {things}, {rate:.1f} a second, {rest}")

    return progress


def tile_line(done: int, total: int) -> None:
    """Rewrite one line of a terminal that says how many tiles of a photo are done."""
    sys.stderr.write(f"\r  tile {done} of {total}" + ("\n" if done == total else ""))
    sys.stderr.flush()


def format_seconds(seconds: float) -> str:
    """Return a duration as ``1:02:03`` or ``02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
