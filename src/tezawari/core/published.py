"""Trained networks as published files: safetensors with a JSON header."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from tezawari.core.errors import UserError

HEADER = "tezawari"
"""Under which name of a file's metadata the JSON stands."""


def write_published(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write tensors and a header of plain values, aside and then renamed: whole or absent; return the path.

    Raises :class:`UserError` where the file system refuses.
    """
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: {path.parent} is not a folder")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(dict(tensors), aside, {HEADER: json.dumps(header, ensure_ascii=False, sort_keys=True)})
        aside.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    return path
