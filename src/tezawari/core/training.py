"""One training run, from a checked configuration to a run folder."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from tezawari.core.callbacks import (
    Checkpointer,
    CompileNetwork,
    FiniteGuard,
    MetricsRecorder,
    ProgressLines,
    RandomState,
)
from tezawari.core.checkpoint_io import AtomicCheckpointIO
from tezawari.core.checkpoints import list_checkpoints
from tezawari.core.config import build, plain
from tezawari.core.errors import UserError
from tezawari.core.loggers import MetricsCsv, MetricsMirror, build_mirrors
from tezawari.core.machine import computes_bf16, keep_freed_memory
from tezawari.core.resume import (
    Start,
    StopRequest,
    TrainingStopped,
    choose_start,
    is_first_process,
    share_with_other_processes,
)
from tezawari.core.runs import CHECKPOINTS_FOLDER, METRICS_FILE, hold, last_metrics


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run left: its folder, the last value of each metric, and files by what they are."""

    run_dir: Path
    metrics: dict[str, float]
    artefacts: dict[str, Path]


def run_training(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> TrainingResult:
    """Train ``cfg.model`` on ``cfg.data`` as the checked configuration says, and print where the results are.

    Args:
        cfg: what :func:`tezawari.core.config.compose_config` returns.
        callbacks: further Lightning callbacks; they see each step after its metrics are recorded.

    Raises:
        UserError: no such device, a loss that is not finite, a full disk, nothing to resume from.
        TrainingStopped: SIGTERM or Ctrl-C; a checkpoint of the last step is saved.
    """
    keep_freed_memory()
    require_device(cfg)
    start = choose_start(cfg, say)
    if start.record.status == "finished":
        say(f"{start.run_dir} has finished this very configuration: nothing is left to train")
        return report(start)
    with hold_run(start, cfg) as stop, quiet_lightning(), open_mirrors(cfg, start) as mirrors:
        pl.seed_everything(cfg.seed, verbose=False)
        data = build(cfg.data)
        module = build(cfg.model)
        trainer = build_trainer(cfg, start.run_dir, [*build_callbacks(cfg, start, stop, mirrors, callbacks)])
        trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
        if is_first_process():
            start.record.artefacts = summarise(module, start.run_dir)
    return report(start)


def require_device(cfg: DictConfig) -> None:
    """Raise UserError where ``trainer=gpu`` finds no GPU; warn where bfloat16 would be computed in software."""
    if cfg.trainer.accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError("trainer=gpu: PyTorch sees no GPU on this machine: take trainer=cpu")
    on_cpu = cfg.trainer.accelerator == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if str(cfg.trainer.precision).startswith("bf16") and on_cpu and not computes_bf16():
        say("this processor computes bfloat16 in software, many times slower: take trainer.precision=32-true")


def build_trainer(cfg: DictConfig, run_dir: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Return Lightning's trainer for the section ``trainer``; every number of a run is ours to record, not its.

    Modules that leave files while they train find the run's folder as ``trainer.default_root_dir``.
    """
    section = cfg.trainer
    try:
        return pl.Trainer(
            accelerator=section.accelerator,
            devices=section.devices,
            default_root_dir=run_dir,
            strategy=section.strategy,
            precision=section.precision,
            max_steps=section.max_steps,
            max_epochs=-1,
            log_every_n_steps=section.log_every,
            gradient_clip_val=section.gradient_clip,
            # Counted over all epochs, so that the interval may be longer than an epoch.
            check_val_every_n_epoch=None,
            val_check_interval=section.val_every or section.max_steps,
            limit_val_batches=None if section.val_every else 0,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from error


def build_callbacks(
    cfg: DictConfig, start: Start, stop: StopRequest, mirrors: list[MetricsMirror], others: Sequence[pl.Callback]
) -> Iterator[pl.Callback]:
    """Yield the callbacks in the order that exact resume needs: metrics of a step before its checkpoint."""

    def note(step: int) -> None:
        start.record.step = step
        start.record.write(start.run_dir)

    yield RandomState()
    yield FiniteGuard()
    if cfg.trainer.compile:
        yield CompileNetwork()
    shown = list(mirrors)
    if cfg.callbacks.progress:
        progress = ProgressLines(say)
        shown.append(progress)
        yield progress
    record = MetricsCsv(start.run_dir, start.step) if is_first_process() else None
    yield MetricsRecorder(cfg.trainer.log_every, record, shown)
    yield from others
    folder = start.run_dir / CHECKPOINTS_FOLDER
    yield Checkpointer(folder, cfg.callbacks.checkpoint_every, cfg.callbacks.keep_checkpoints, stop, note)


def summarise(module: pl.LightningModule, run_dir: Path) -> dict[str, str]:
    """Let the module leave its results (``summarise_run``); return what a user looks for: name → path in the run."""
    checkpoint = list_checkpoints(run_dir / CHECKPOINTS_FOLDER)[0]
    summarise_run = getattr(module, "summarise_run", None)
    results = summarise_run(run_dir) if summarise_run else {}
    files = {"checkpoint": checkpoint, "metrics": run_dir / METRICS_FILE, **results}
    return {name: str(path.relative_to(run_dir)) for name, path in files.items()}


def report(start: Start) -> TrainingResult:
    """Print where the results of a finished run are, and return them."""
    artefacts = {name: start.run_dir / path for name, path in start.record.artefacts.items()}
    width = max((len(name) for name in artefacts), default=0)
    for name, path in artefacts.items():
        say(f"{name:<{width}}  {path}")
    return TrainingResult(start.run_dir, last_metrics(start.run_dir), artefacts)


@contextmanager
def open_mirrors(cfg: DictConfig, start: Start) -> Iterator[list[MetricsMirror]]:
    """Open the mirrors of the metrics that the section ``logger`` asks for, and close them whatever happens."""
    section = cfg.logger
    first = is_first_process()
    mirrors = build_mirrors(section.mirror, section.project, start.run_dir, start.step, plain(cfg)) if first else []
    try:
        yield mirrors
    finally:
        for mirror in mirrors:
            mirror.close()


@contextmanager
def hold_run(start: Start, cfg: DictConfig) -> Iterator[StopRequest]:
    """Keep the run to this process, listen to signals, and write down how it went whatever ends it."""
    record, began, stop = start.record, time.monotonic(), StopRequest()
    if not is_first_process():
        yield stop
        return
    if cfg.trainer.strategy == "ddp":
        share_with_other_processes(start)
    before = record.wall_seconds
    with hold(start.run_dir):
        OmegaConf.save(OmegaConf.create(plain(cfg)), start.run_dir / "config.yaml")
        if start.checkpoint is not None:
            record.resumed.append(start.step)
        record.status, record.message = "running", ""
        record.write(start.run_dir)
        stop.listen()
        try:
            yield stop
            record.status = "finished"
        except TrainingStopped as stopped:
            record.status, record.step, record.message = "stopped", stopped.step, str(stopped)
            raise
        except BaseException as error:
            record.status, record.message = "failed", " ".join(str(error).split()) or type(error).__name__
            raise
        finally:
            stop.forget()
            record.wall_seconds = round(before + time.monotonic() - began, 3)
            record.write(start.run_dir)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's advice about what is on purpose here; its errors still come through."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|torch\.utils\.data")
        warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def say(line: str) -> None:
    """Print a line at once, from the first of several processes only."""
    if not is_first_process():
        return
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # `train.py | head` wants no more lines, which is no reason to stop training
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it is the process's from now on
