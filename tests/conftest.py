"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real images beside the repository (or ``$TEZAWARI_SHARED``); skips where it is absent."""
    folder = Path(os.environ.get("TEZAWARI_SHARED", _REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(
            f"no folder of real images at {folder.name}/ beside the repository (set TEZAWARI_SHARED to name one)"
        )
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Pictures this small are faster on one thread, much faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
