"""What happens around a training step: metrics recorded, numbers guarded, checkpoints saved, progress printed.

Their order matters, see :func:`tezawari.core.training.build_callbacks`: a checkpoint comes after the metrics of its
step, so that what a resumed run keeps of the record is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from tezawari.core.checkpoints import checkpoint_path, keep_newest
from tezawari.core.errors import UserError
from tezawari.core.loggers import MetricsCsv, MetricsMirror
from tezawari.core.progress import format_seconds
from tezawari.core.resume import StopRequest, TrainingStopped, generator_states, restore_generators


class RandomState(pl.Callback):
    """Carry the global generators' states over a resume."""

    def __init__(self) -> None:
        self._resumed: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states."""
        return generator_states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch: what Lightning does before it may draw."""
        self._resumed = state_dict

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the states, once."""
        if self._resumed is not None:
            restore_generators(self._resumed)
            self._resumed = None


class FiniteGuard(pl.Callback):
    """Stop before the optimiser steps on a loss or a gradient that is not finite."""

    def __init__(self) -> None:
        self._ids: list[str] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which samples the batch holds."""
        ids = batch.get("id", []) if isinstance(batch, dict) else []
        self._ids = [str(i) for i in ids]

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Raise UserError where the loss is not finite."""
        if not bool(torch.isfinite(loss).all()):
            raise self._error(trainer, f"the loss is {loss.detach().mean().item()}")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Raise UserError where a gradient is not finite."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if gradients and not bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients)).sum())):
            raise self._error(trainer, "the gradient is not finite")

    def _error(self, trainer: pl.Trainer, what: str) -> UserError:
        batch = ", ".join(self._ids) or "unnamed samples"
        return UserError(
            f"step {trainer.global_step + 1}: {what} on the batch of {batch}; the weights were not changed and the last"
            " checkpoint is kept: look at these samples, or lower the learning rate"
        )


class MetricsRecorder(pl.Callback):
    """Write every scalar that the module logs to the record and its mirrors, every ``every`` steps.

    A row holds the mean over the steps since the row before in which the metric was logged, and not NaN. Lightning's
    own logging repeats the last value of a metric that this step did not log, and forgets it over a resume.
    ``record`` is None in the processes of ``trainer=ddp`` that keep no files.
    """

    def __init__(self, every: int, record: MetricsCsv | None, mirrors: Sequence[MetricsMirror]) -> None:
        self._every = every
        self._record = record
        self._mirrors = mirrors
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._validation_names: set[str] = set()

    def state_dict(self) -> dict[str, Any]:
        """Return what was logged since the last row."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the state that a checkpoint kept."""
        self._sums, self._counts = dict(state_dict["sums"]), dict(state_dict["counts"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to ``pl_module.log``."""
        original = pl_module.log

        def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            self._take(trainer, name, value)
            original(name, value, *args, **kwargs)

        pl_module.log = log  # type: ignore[method-assign]

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop listening."""
        pl_module.__dict__.pop("log", None)

    def _take(self, trainer: pl.Trainer, name: str, value: Any) -> None:
        if trainer.validating:
            self._validation_names.add(name)
            return
        number = torch.as_tensor(value).detach().double()
        valid = ~number.isnan()
        before = self._sums.get(name, torch.zeros_like(number)).to(number.device)
        count = self._counts.get(name, torch.zeros_like(number)).to(number.device)
        self._sums[name] = before + torch.where(valid, number, 0.0)
        self._counts[name] = count + valid.double()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the row of this step, if it has one."""
        if trainer.global_step % self._every == 0 or trainer.global_step == trainer.max_steps:
            means = {
                name: float(total / self._counts[name]) for name, total in self._sums.items() if self._counts[name]
            }
            self._sums, self._counts = {}, {}
            self._write(trainer, means)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew: what an earlier validation logged and this one does not would be written as if it were new."""
        self._validation_names = set()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the means over the held-out data."""
        metrics = trainer.callback_metrics
        self._write(trainer, {name: float(metrics[name]) for name in sorted(self._validation_names) if name in metrics})

    def _write(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        if self._record is None or not metrics:
            return
        self._record.append(trainer.global_step, trainer.current_epoch, metrics)
        for mirror in self._mirrors:
            mirror.show(trainer.global_step, metrics)


class Checkpointer(Checkpoint):
    """Save a checkpoint every ``every`` steps, at the end, and when asked to stop; keep the newest ``keep``.

    A run that resumes after the last step of an epoch does not call that epoch's ``on_train_epoch_end`` again: modules
    must not change their state there.
    """

    def __init__(self, folder: Path, every: int, keep: int, stop: StopRequest, on_saved: Callable[[int], None]) -> None:
        self._folder = folder
        self._every = every
        self._keep = keep
        self._stop = stop
        self._on_saved = on_saved

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals in place of Lightning, which would leave without saving."""
        self._stop.listen()
        progress = trainer.fit_loop.epoch_progress.current
        if trainer.fit_loop.restarted_mid_epoch and progress.completed == progress.ready:
            # Saved after an epoch's last step: Lightning would begin the next epoch as one that had begun already,
            # without counting it and without its on_train_epoch_start.
            trainer.fit_loop.reset_restart_stage()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save now, unless this step is about to be validated: a checkpoint says that its step is wholly done."""
        if not _validates_now(trainer):
            self._settle(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the validation of a step."""
        self._settle(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the module itself ended the run early."""
        if trainer.should_stop and not checkpoint_path(self._folder, trainer.global_step).is_file():
            self._save(trainer)

    def _settle(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        last = step >= trainer.max_steps
        if last or self._stop.signal is not None or (self._every and step % self._every == 0):
            self._save(trainer)
        if self._stop.signal is not None and not last:
            raise TrainingStopped(step, 128 + self._stop.signal)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(checkpoint_path(self._folder, trainer.global_step))
        if trainer.is_global_zero:
            keep_newest(self._folder, self._keep)
            self._on_saved(trainer.global_step)

    def leave_if_asked(self, trainer: pl.Trainer) -> None:
        """Stop in the middle of long work between two steps, if asked to: raise TrainingStopped.

        The step is saved first, unless it is still to be validated; then a resume starts from the one before.
        """
        if self._stop.signal is None:
            return
        if not _validates_now(trainer):
            self._settle(trainer)
        raise TrainingStopped(trainer.global_step, 128 + self._stop.signal)


def leave_if_asked(trainer: pl.Trainer) -> None:
    """Let a module that works long between two steps stop when the run is asked to; see :class:`Checkpointer`."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpointer):
            callback.leave_if_asked(trainer)


def _validates_now(trainer: pl.Trainer) -> bool:
    every = trainer.val_check_interval
    return bool(sum(trainer.num_val_batches)) and isinstance(every, int) and trainer.global_step % every == 0


class CompileNetwork(pl.Callback):
    """Compile the module's network, where it offers that, once it is built and its weights are restored."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Call ``pl_module.compile_network()``."""
        compile_network = getattr(pl_module, "compile_network", None)
        if compile_network is None:
            raise UserError(f"{type(pl_module).__name__} has nothing to compile: take trainer=cpu or trainer=gpu")
        compile_network()


class ProgressLines(pl.Callback):
    """Print one line a row of the record: step, images a second, time left, losses; a mirror of the metrics."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._images = 0
        self._since = time.monotonic()
        self._step = 0
        self._max_steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since, self._step, self._max_steps = time.monotonic(), trainer.global_step, trainer.max_steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all processes."""
        if isinstance(batch, dict) and "image" in batch:
            self._images += len(batch["image"]) * trainer.world_size

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Print the line of ``step``."""
        losses = "  ".join(f"{name.partition('/')[2]} {value:.4g}" for name, value in metrics.items())
        if all(name.startswith("val/") for name in metrics):
            self._write(f"{'held out':>{2 * len(str(self._max_steps)) + 6}}  {losses}")
            return
        now = time.monotonic()
        seconds, steps = max(now - self._since, 1e-9), step - self._step
        left = seconds / steps * (self._max_steps - step) if steps else 0.0
        self._write(
            f"step {step:>{len(str(self._max_steps))}}/{self._max_steps}  {self._images / seconds:.1f} images/s"
            f"  {format_seconds(left)} left  {losses}"
        )
        self._since, self._step, self._images = now, step, 0

    def close(self) -> None:
        """Nothing to let go of."""
