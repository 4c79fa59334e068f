"""Exact resume: where to start from, and the generators' states that must be as they were."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from tezawari.core.checkpoints import checkpoint_step, is_sound, load_checkpoint, newest_sound
from tezawari.core.config import config_hash
from tezawari.core.errors import UserError
from tezawari.core.runs import CHECKPOINTS_FOLDER, RunRecord, is_held, list_runs, make_run_dir

# Lightning starts the other processes of trainer=ddp itself; these tell them which run they belong to.
_RUN_VARIABLE = "TEZAWARI_RUN_DIR"
_CHECKPOINT_VARIABLE = "TEZAWARI_CHECKPOINT"


@dataclass(frozen=True)
class Start:
    """Where a training starts: its folder, the checkpoint to go on from (or None), and what is recorded of it."""

    run_dir: Path
    checkpoint: Path | None
    record: RunRecord

    @property
    def step(self) -> int:
        """How many optimiser steps are behind."""
        return checkpoint_step(self.checkpoint) if self.checkpoint else 0


def choose_start(cfg: DictConfig, report: Callable[[str], None]) -> Start:
    """Choose the run that ``cfg.resume`` asks for, and say so where it is not simply a new one.

    ``null`` is a new run; ``auto`` the newest unfinished run of this configuration, else its finished one, else a
    new one; a path is that run, or, where the configuration has changed since, a new run from its checkpoint.

    Raises:
        UserError: the path holds no checkpoint, or another process is training the run.
    """
    if not is_first_process():
        return _start_of_first_process()
    digest = config_hash(cfg)
    fresh = RunRecord(model=model_name(cfg), config_hash=digest, seed=cfg.seed)
    if cfg.resume is None:
        return _new_run(cfg, fresh, None)
    if cfg.resume != "auto":
        return _start_from_path(cfg, fresh, report)
    runs = [run for run in list_runs(Path(cfg.output_dir) / fresh.model) if run[1].config_hash == digest]
    unfinished = [run for run in runs if run[1].status != "finished"]
    if unfinished:
        return _continue(*unfinished[-1], report)
    if runs:
        return Start(runs[-1][0], None, runs[-1][1])
    report(f"resume=auto: no run of this configuration ({digest}) in {cfg.output_dir}: starting a new one")
    return _new_run(cfg, fresh, None)


def model_name(cfg: DictConfig) -> str:
    """Return the name under which runs of this model are kept: its class, in lower case."""
    return str(cfg.model["_target_"]).rpartition(".")[2].lower()


def is_first_process() -> bool:
    """Say whether this is the process that keeps the run's files (``trainer=ddp`` has others)."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def share_with_other_processes(start: Start) -> None:
    """Tell processes that are started from this one which run is theirs (``trainer=ddp``)."""
    os.environ[_RUN_VARIABLE] = str(start.run_dir.resolve())
    os.environ[_CHECKPOINT_VARIABLE] = str(start.checkpoint.resolve()) if start.checkpoint else ""


def _start_of_first_process() -> Start:
    run_dir = Path(os.environ[_RUN_VARIABLE])
    record = RunRecord.read(run_dir)
    if record is None:
        raise UserError(f"{run_dir}, named by {_RUN_VARIABLE}, is no run: unset that variable")
    checkpoint = os.environ.get(_CHECKPOINT_VARIABLE)
    return Start(run_dir, Path(checkpoint) if checkpoint else None, record)


def _new_run(cfg: DictConfig, record: RunRecord, checkpoint: Path | None) -> Start:
    return Start(make_run_dir(Path(cfg.output_dir), record.model, record.config_hash), checkpoint, record)


def _continue(run_dir: Path, record: RunRecord, report: Callable[[str], None]) -> Start:
    if is_held(run_dir):
        raise UserError(f"{run_dir} is being trained by another process: wait for it, or stop it first")
    checkpoint = newest_sound(run_dir / CHECKPOINTS_FOLDER, report)
    if checkpoint is None:
        report(f"resuming {run_dir}: it has no checkpoint yet, so it starts from the beginning")
    else:
        report(f"resuming {run_dir} after step {checkpoint_step(checkpoint)}")
    return Start(run_dir, checkpoint, record)


def _start_from_path(cfg: DictConfig, fresh: RunRecord, report: Callable[[str], None]) -> Start:
    path = Path(cfg.resume)
    run_dir = path.parent.parent if path.is_file() else path
    record = RunRecord.read(run_dir)
    if path.is_file():
        if not is_sound(path):
            raise UserError(
                f"checkpoint {path} is damaged or has lost its .sha256: give resume={run_dir} to take another"
            )
        checkpoint: Path | None = path
    elif record is None:
        raise UserError(f"resume={path} is neither a run's folder nor a checkpoint: tezawari runs lists the runs")
    else:
        checkpoint = newest_sound(path / CHECKPOINTS_FOLDER, report)
    if record is not None and record.config_hash == fresh.config_hash:
        if record.status == "finished":
            return Start(run_dir, None, record)
        if checkpoint is not None and path.is_file():
            report(f"resuming {run_dir} after step {checkpoint_step(checkpoint)}")
            return Start(run_dir, checkpoint, record)
        return _continue(run_dir, record, report)
    if checkpoint is None:
        raise UserError(f"resume={path}: that run has no checkpoint yet")
    report(f"the configuration differs from that of {run_dir}: a new run goes on from {checkpoint}")
    load_checkpoint(checkpoint)  # refuse what cannot be read before a folder is made
    return _new_run(cfg, fresh, checkpoint)


# --- generators -------------------------------------------------------------------------------------------------------


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators of torch, CUDA, NumPy and Python as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - it is the global one's
    version, words, spare = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), spare],
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Put the global generators back to what :func:`generator_states` returned."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, words, spare = states["python"]
    random.setstate((version, tuple(words), spare))


# --- signals ----------------------------------------------------------------------------------------------------------


class TrainingStopped(Exception):
    """Training was asked to stop and did, after saving a checkpoint; ``exit_code`` is 128 + the signal."""

    def __init__(self, step: int, exit_code: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
        self.exit_code = exit_code


class StopRequest:
    """Remembers SIGTERM and Ctrl-C, for the step under way to be finished and saved; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Install the handlers; may be called again after somebody else installed theirs."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._handle)
            self._before.setdefault(number, before)

    def forget(self) -> None:
        """Put the handlers back that were there before the first :meth:`listen`."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a loader worker inherits the handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
