"""``train.py`` around the tiny model: ``python -m tests.resume.tiny_train trainer.max_steps=8``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
os.environ.setdefault("TEZAWARI_TEST_CONF", str(REPOSITORY / "conf"))


def tiny_train(*words: str) -> int:
    """Train the tiny model in this process; returns the exit code."""
    from tezawari.cli import train

    return train(list(words), HERE)


if __name__ == "__main__":
    sys.exit(tiny_train(*sys.argv[1:]))
