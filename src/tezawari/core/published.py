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

from tezawari.core.checkpoints import list_checkpoints
from tezawari.core.errors import UserError
from tezawari.core.runs import CHECKPOINTS_FOLDER

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


def read_published(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header of a published file, empty where it is another's file, and its tensors.

    Raises what safetensors and JSON raise for a damaged file.
    """
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def tensors_of(checkpoint: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the state of the submodule ``name`` out of the checkpoint of the module that holds it."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def find_published(path: Path, published_name: str, what: str, train: str, file_is: str | None = None) -> Path:
    """Return the file of a network: ``path`` itself, or a run's published network, or its newest checkpoint.

    Args:
        path: a file, or the folder of a run.
        published_name: under which name a run publishes it.
        what: what the network is called where there is none.
        train: what to type then.
        file_is: what a single file is called, where that is another word.

    Raises:
        UserError: there is none.
    """
    if path.is_dir():
        candidates = [path / published_name, *list_checkpoints(path / CHECKPOINTS_FOLDER)[:1]]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(f"{path} is no run with a {what}: {train}")
        return found
    if not path.is_file():
        raise UserError(f"no {file_is or what} at {path}: {train}")
    return path


def why_unreadable(error: Exception) -> str:
    """Return the first line of what a reader said of a damaged file, shortened, or the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
