"""Runs in processes that are forked from one that has imported everything, which spares each run its start."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path


def start_forked(run: Callable[[], int], log: Path) -> int:
    """Start ``run`` in a forked process and return its id: ``run`` returns its exit code, and prints to ``log``.

    Much is imported only when a training needs it, for seconds: a run that ends by itself leaves the names of what it
    imported besides, and this process imports them before it forks again. It must not compute anything.
    """
    imported = log.with_suffix(".modules")
    if imported.exists():
        for name in imported.read_text().split():
            # Some names are not modules that their name finds.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        imported.unlink()
    process = os.fork()
    if process:
        return process
    code, before = 1, set(sys.modules)
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = run()
        imported.write_text("\n".join(sys.modules.keys() - before))
    finally:
        sys.stdout.flush()
        os._exit(code)
