"""Files that are either whole or absent, whatever stops the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def written_aside(path: Path, aside: Path | None = None) -> Iterator[IO[bytes]]:
    """Open ``aside`` for writing; it takes the place of ``path`` once it is on disk, and goes where anything fails.

    ``aside``, by default a hidden file beside ``path``, must lie on the same file system.
    """
    aside = aside or path.with_name(f".{path.name}.writing")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that counts is the first
            aside.unlink()
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, whatever stops the process or the machine, it holds the old content or the new one."""
    with written_aside(path) as file:
        file.write(content)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
