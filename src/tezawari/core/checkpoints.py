"""Checkpoint files that are either whole or absent, and that say when they were damaged."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import write_atomically

_NAME = re.compile(r"step-(\d+)\.ckpt$")
_DAMAGED = ".damaged"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where ``folder`` keeps the checkpoint taken after ``step`` optimiser steps."""
    return folder / f"step-{step:09d}.ckpt"


def checkpoint_step(path: Path) -> int:
    """Return how many optimiser steps precede a checkpoint of :func:`checkpoint_path`."""
    match = _NAME.search(path.name)
    if match is None:
        raise UserError(f"{path} is not named like a checkpoint of a run (step-000000100.ckpt)")
    return int(match[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of ``folder``, the newest first, damaged ones included."""
    return sorted((path for path in folder.glob("step-*.ckpt") if _NAME.search(path.name)), reverse=True)


def is_sound(path: Path) -> bool:
    """Say whether a checkpoint is, byte for byte, the one that was written (by the SHA-256 beside it)."""
    try:
        expected = _digest_path(path).read_text().strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == expected
    except FileNotFoundError:
        return False


def newest_sound(folder: Path, report: Callable[[str], None]) -> Path | None:
    """Return the newest undamaged checkpoint; damaged ones are reported and set aside under another name."""
    for path in list_checkpoints(folder):
        if is_sound(path):
            return path
        path.rename(path.with_name(path.name + _DAMAGED))
        report(f"checkpoint {path} is damaged (its SHA-256 differs from the one recorded): taking the one before")
    return None


def save_checkpoint(checkpoint: dict[str, Any], target: Path) -> None:
    """Write a checkpoint and its SHA-256; raises UserError where the file system refuses, leaving nothing half."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_digest_path(target), hashlib.sha256(content).hexdigest().encode() + b"\n")
        write_atomically(target, content)
    except OSError as error:
        remove_checkpoint(target)
        raise UserError(
            f"the checkpoint {target} could not be saved: {describe_os_error(error)}; the one before is kept:"
            " make room, then type the same command with resume=auto"
        ) from error


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint and its SHA-256."""
    # The digest last: a checkpoint without one would be reported as damaged.
    path.unlink(missing_ok=True)
    _digest_path(path).unlink(missing_ok=True)


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of tensors and plain values (``weights_only``); raises UserError where it is not one."""
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    if _digest_path(path).exists() and not is_sound(path):
        raise UserError(f"checkpoint {path} is damaged: its SHA-256 differs from the one recorded beside it")
    try:
        return torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the broken archive leads it to
        raise UserError(f"{path} is not a checkpoint: {next(_lines(error), type(error).__name__)}") from error


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the ``count`` newest checkpoints of ``folder``."""
    for path in list_checkpoints(folder)[count:]:
        remove_checkpoint(path)


def _digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _lines(error: Exception) -> Iterator[str]:
    return (line.strip() for line in str(error).splitlines() if line.strip())
