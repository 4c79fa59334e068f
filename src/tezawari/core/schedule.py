"""How the learning rate moves over a run, and the settings that a published network names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def warm_cosine(step: int, steps: int, warm_share: float = 0.02) -> float:
    """Return the share of the peak learning rate at ``step`` of ``steps``: a linear rise, then a cosine to zero."""
    warm = max(1, round(warm_share * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))


def recipe(hparams: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return a module's settings as plain values, files by their names alone, and the steps it has trained."""
    values = {k: v for k, v in hparams.items() if isinstance(v, str | int | float | list | dict) or v is None}
    for file in ("backbone_weights", "start_from", "imitate", "add_styles_to"):
        if values.get(file):
            values[file] = Path(str(values[file])).name
    return {**values, "steps": steps}
