"""The record of a run's metrics on disk, and the services that mirror it."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Protocol

from tezawari.core.errors import UserError
from tezawari.core.runs import METRICS_FILE

_HEADER = ["step", "epoch", "metric", "value"]


class MetricsMirror(Protocol):
    """Something that is shown the same metrics as the record."""

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics after ``step`` optimiser steps."""

    def close(self) -> None:
        """Let go; called once, whatever ended the run."""


class MetricsCsv:
    """The record: ``metrics.csv`` of rows ``step,epoch,metric,value``, nothing in it that depends on the clock.

    Values are written so that reading them back gives the same float.
    """

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        self.path = run_dir / METRICS_FILE
        rows = _rows_until(self.path, resumed_step)
        aside = self.path.with_name(f".{METRICS_FILE}.writing")
        with aside.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_HEADER, *rows])
        aside.replace(self.path)

    def append(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        """Append the metrics after ``step`` optimiser steps."""
        with self.path.open("a", newline="") as file:
            rows = ([step, epoch, name, repr(value)] for name, value in metrics.items())
            csv.writer(file, lineterminator="\n").writerows(rows)


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Return a record's rows up to ``step``: what came after it is about to be computed again."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    # A row that a kill cut short is newer than the last checkpoint, so it is dropped too.
    return [row for row in rows if len(row) == len(_HEADER) and int(row[0]) <= step]


class WandbMirror:
    """Weights & Biases, offline unless ``WANDB_MODE`` says otherwise; one wandb run a run."""

    def __init__(self, run_dir: Path, project: str, config: dict[str, Any]) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True)
        self._run = wandb.init(
            project=project,
            id=run_dir.name,
            name=run_dir.name,
            dir=str(run_dir),
            config=config,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="finish_previous",
            settings=settings,
        )

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics after ``step`` optimiser steps."""
        self._run.log(metrics, step=step)

    def close(self) -> None:
        """Finish the wandb run, so that the next one of a multirun is one of its own."""
        self._run.finish()


class TensorBoardMirror:
    """TensorBoard event files in the run's folder ``tensorboard``."""

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError("logger=tensorboard needs tensorboard: pip install 'tezawari[tensorboard]'") from None
        # purge_step hides what an interrupted attempt wrote after the step that is resumed from.
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resumed_step + 1)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Take the metrics after ``step`` optimiser steps."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out and close the event file."""
        self._writer.close()


def build_mirrors(
    mirror: str | None, project: str, run_dir: Path, resumed_step: int, config: dict[str, Any]
) -> list[MetricsMirror]:
    """Return the mirrors that the section ``logger`` asks for: none, ``wandb`` or ``tensorboard``."""
    if mirror == "wandb":
        return [WandbMirror(run_dir, project, config)]
    if mirror == "tensorboard":
        return [TensorBoardMirror(run_dir, resumed_step)]
    return []
