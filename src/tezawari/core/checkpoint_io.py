"""Lightning's way to the checkpoints of :mod:`tezawari.core.checkpoints`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO

from tezawari.core.checkpoints import load_checkpoint, remove_checkpoint, save_checkpoint


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's reading and writing of checkpoints: atomic, a SHA-256 beside each, tensors and plain values only.

    A checkpoint counts only with its ``.sha256``, which is written first: a stop in between leaves no checkpoint
    rather than a doubtful one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; raises UserError where the file system refuses, leaving nothing half."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint, never running code from it; raises UserError where it is damaged or missing."""
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str | os.PathLike) -> None:
        """Delete a checkpoint and its SHA-256."""
        remove_checkpoint(Path(path))
