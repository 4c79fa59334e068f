"""A durable search over settings: an Optuna study on disk that many commands may continue.

The study fills a fixed number of *slots*. A slot's settings are a function of (seed, slot, results so far), so a study
that was interrupted asks for what the uninterrupted one would have asked for. A process holds the lock of the slot
that it works on: the system drops that lock when the process dies, however it dies, and the slot is run again with the
same settings, from its last checkpoint.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from tezawari.core.config import check_config, config_hash, plain
from tezawari.core.errors import UserError, run_guarded
from tezawari.core.resume import TrainingStopped
from tezawari.core.runs import RunRecord, hold, is_held, list_runs
from tezawari.core.sweep_report import Attempt, write_report
from tezawari.core.sweep_space import Space, read_space

if TYPE_CHECKING:
    import optuna

DATABASE_FILE = "study.db"
_LOCK_FILE = ".study.lock"
_FAILURES_IN_A_ROW = 3
_DEATHS_PER_SLOT = 5
_POLL_SECONDS = 0.5
_START_METHOD = "spawn"  # a forked process cannot use a GPU that its parent has touched
_MESSAGE = "message"  # only a trial that failed by itself has one: a killed process leaves no last words
_SLOT = "slot"
_STOPPED = "stopped"  # asked to stop, unlike a process that just vanished


class Result(Protocol):
    """What a finished training returns, as far as a sweep looks at it."""

    @property
    def run_dir(self) -> Path:
        """The run's folder."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value of each metric."""


Run = Callable[[DictConfig, Sequence[pl.Callback]], Result]


@dataclass(frozen=True)
class Settings:
    """The checked values of a ``sweep`` section, with the folder that they lead to."""

    folder: Path
    trials: int
    metric: str
    direction: str
    space: Space
    pruner: str
    warmup_steps: int
    jobs: int
    seed: int


class ReportMetric(pl.Callback):
    """Hands a metric to ``report(step, value)`` whenever a training has logged it anew.

    ``train/…`` metrics (of that one step) are reported every ``log_every_n_steps`` optimiser steps, all others after
    each validation.
    ``report`` may raise to end the training.

    Raises:
        UserError: a validation ended without the asked ``val/…`` metric.
    """

    def __init__(self, metric: str, report: Callable[[int, float], None]) -> None:
        self.metric = metric
        self.report = report
        self._last_step = 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or self.metric.startswith("train/"):
            return
        if self.metric.startswith("val/") and self.metric not in trainer.callback_metrics:
            raise _unknown_metric(self.metric, trainer.callback_metrics)
        self._pass_on(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.metric.startswith("train/") and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._pass_on(trainer)

    def _pass_on(self, trainer: pl.Trainer) -> None:
        value = trainer.callback_metrics.get(self.metric)
        # Accumulated batches end without an optimiser step, and a step is reported once.
        if value is None or trainer.global_step <= self._last_step:
            return
        self._last_step = trainer.global_step
        if math.isfinite(value):
            self.report(trainer.global_step, float(value))


class UnknownMetric(UserError):
    """The asked metric is none of those that a training logs: no trial of the study can succeed."""


def _unknown_metric(metric: str, logged: Mapping[str, Any]) -> UnknownMetric:
    names = ", ".join(sorted(logged)) or "none at all"
    return UnknownMetric(f"sweep.metric={metric}: a training does not log this metric (logged: {names})")


def run_sweep(cfg: DictConfig, run: Run, overrides: Sequence[str] = ()) -> int:
    """Run the trials that the study of ``cfg.sweep`` still misses, then print its table and write its CSV and plot.

    The study is ``<output_dir>/sweeps/<name>/study.db``. Processes that run the same command share its trials.

    Args:
        cfg: a checked training configuration whose ``sweep`` is a section.
        run: trains one configuration with further callbacks; must be importable where ``sweep.jobs`` exceeds 1.
        overrides: the words of the command line, for the line that repeats the best trial.

    Returns:
        0, when at least one trial was completed.

    Raises:
        UserError: a wrong space, metric or study; three failed trials in a row; no trial was completed.
    """
    _require_packages()
    settings = read_settings(cfg)
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _readable_errors(settings):
        study = _open_study(cfg, settings)
        started = datetime.now()
        try:
            if settings.jobs == 1:
                work(study, cfg, settings, run, started)
            else:
                _work_side_by_side(cfg, run, started, settings.jobs)
        finally:
            attempts = _attempts(study, settings)
            summary = write_report(settings.folder, settings.metric, settings.direction, attempts, settings.space)
        print(summary)
    best = attempts[0] if attempts and attempts[0].state == "complete" else None
    if best is None:
        last = next((a.message for a in reversed(attempts) if a.message), "every trial was pruned")
        raise UserError(f"no trial of {settings.folder} was completed: {last}")
    kept = [word for word in overrides if not word.lstrip("+~").startswith(("sweep=", "sweep.", "resume="))]
    print("repeat the best: " + _command([*kept, *settings.space.overrides(best.params)]))
    return 0


def read_settings(cfg: DictConfig) -> Settings:
    """Read ``cfg.sweep`` and try both ends and every choice of its space against the configuration's own checks.

    Raises:
        UserError: an unknown setting, an empty or impossible range, or a value that the setting does not take.
    """
    values = plain(cfg)
    sweep = values["sweep"]
    if sweep["direction"] not in ("minimize", "maximize"):
        raise UserError(f"sweep.direction={sweep['direction']}: use minimize or maximize")
    if sweep["pruner"] not in ("median", "hyperband", "none"):
        raise UserError(f"sweep.pruner={sweep['pruner']}: use median, hyperband or none")
    for name, least in (("trials", 1), ("jobs", 1), ("warmup_steps", 0)):
        if not isinstance(sweep[name], int) or sweep[name] < least:
            raise UserError(f"sweep.{name}={sweep[name]}: use a whole number of at least {least}")
    trainer = values.get("trainer", {})
    if trainer.get("strategy") == "ddp" or trainer.get("devices", 1) != 1:
        raise UserError("a trial of a sweep trains in one process: use trainer=cpu or trainer=gpu, and sweep.jobs")
    space = read_space(sweep["space"], values)
    for sample in space.extremes():
        check_config("train", _with_values(cfg, sample))
    return Settings(
        folder=Path(values["output_dir"]) / "sweeps" / str(sweep["name"]),
        trials=sweep["trials"],
        metric=sweep["metric"],
        direction=sweep["direction"],
        space=space,
        pruner=sweep["pruner"],
        warmup_steps=sweep["warmup_steps"],
        jobs=sweep["jobs"],
        seed=values["seed"],
    )


def work(study: optuna.Study, cfg: DictConfig, settings: Settings, run: Run, started: datetime) -> None:
    """Run one trial after the other until every slot of the study is done, here or in another process.

    Raises:
        UserError: the last three trials to end since ``started`` failed, or the metric does not exist.
    """
    while True:
        with ExitStack() as held:
            with _only_one(settings.folder / _LOCK_FILE):
                _stop_after_failures(study, started)
                claim = _claim(study, settings, held)
            if claim is None:
                return
            if isinstance(claim, _Busy):
                time.sleep(_POLL_SECONDS)
                continue
            _run_trial(claim, cfg, settings, run)


# --- the study --------------------------------------------------------------------------------------------------------


class _Busy:
    """Every slot is done or being worked on elsewhere."""


def _load_study(settings: Settings) -> optuna.Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=_storage(settings),
        study_name=settings.folder.name,
        direction=settings.direction,  # type: ignore[arg-type]
        pruner=_pruner(settings),
        load_if_exists=True,
    )


def _storage(settings: Settings) -> optuna.storages.RDBStorage:
    import optuna
    import sqlalchemy

    url = sqlalchemy.URL.create("sqlite", database=str((settings.folder / DATABASE_FILE).resolve()))
    return optuna.storages.RDBStorage(str(url), engine_kwargs={"connect_args": {"timeout": 60}})


def _pruner(settings: Settings) -> optuna.pruners.BasePruner:
    import optuna

    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=settings.warmup_steps)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=max(1, settings.warmup_steps))
    return optuna.pruners.NopPruner()


def _open_study(cfg: DictConfig, settings: Settings) -> optuna.Study:
    """Make the study, or load it from the disk; raises UserError where that one asks another question."""
    import optuna

    question = {
        "metric": settings.metric,
        "direction": settings.direction,
        "space": settings.space.as_dict(),
        "recipe": config_hash(cfg),
    }
    with _only_one(settings.folder / _LOCK_FILE):
        study = _load_study(settings)
        asked = study.user_attrs.get("question")
        if asked == json.loads(json.dumps(question)):
            return study
        states = optuna.trial.TrialState
        in_use = any(_is_worked_on(t, settings) or t.state in (states.COMPLETE, states.PRUNED) for t in study.trials)
        if asked is not None and in_use:
            parts = [name for name in question if asked[name] != json.loads(json.dumps(question[name]))]
            raise UserError(
                f"{settings.folder} holds a study with another {' and '.join(parts)}: repeat its command as it was, "
                f"or start a new study with sweep.name={settings.folder.name}2"
            )
        if asked is not None:  # nothing but failures: a mistake that has been mended since
            optuna.delete_study(study_name=study.study_name, storage=_storage(settings))
            study = _load_study(settings)
        study.set_user_attr("question", question)
        return study


def _is_worked_on(trial: optuna.trial.FrozenTrial, settings: Settings) -> bool:
    import optuna

    running = trial.state == optuna.trial.TrialState.RUNNING
    return running and _SLOT in trial.user_attrs and is_held(_slot_folder(settings, trial.user_attrs[_SLOT]))


def _slot_folder(settings: Settings, slot: int) -> Path:
    return settings.folder / f"trial-{slot:04d}"


@dataclass(frozen=True)
class _Claim:
    trial: optuna.Trial
    slot: int
    attempt: int


def _claim(study: optuna.Study, settings: Settings, held: ExitStack) -> _Claim | _Busy | None:
    """Take the first slot that nobody has done or is doing, and its lock; call it under the study's lock.

    Returns None when every slot is done, and :class:`_Busy` when others still work on some.
    """
    import optuna

    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        if not _is_worked_on(trial, settings):
            # Its process died, or has told the outcome since the list was made.
            study.tell(trial.number, state=states.FAIL, skip_if_finished=True)
    for _ in study.get_trials(deepcopy=False, states=(states.WAITING,)):  # killed between queueing and asking
        study.tell(study.ask(), state=states.FAIL)
    by_slot: dict[int, list[optuna.trial.FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        by_slot.setdefault(trial.user_attrs.get(_SLOT, -1), []).append(trial)
    busy = False
    for slot in range(settings.trials):
        earlier = by_slot.get(slot, [])
        busy = busy or any(t.state == states.RUNNING for t in earlier)
        if any(t.state != states.FAIL or _MESSAGE in t.user_attrs for t in earlier):
            continue
        if sum(_STOPPED not in t.user_attrs for t in earlier) >= _DEATHS_PER_SLOT:
            continue  # it takes the process with it, say for want of memory
        if earlier:
            study.enqueue_trial(earlier[-1].params, user_attrs={_SLOT: slot})
        # A sampler for this slot alone: one that lived on would draw by what this process happened to do before.
        stream = np.random.SeedSequence([settings.seed, slot]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(seed=int(stream[0]))
        asked = study.ask(settings.space.distributions())
        folder = _slot_folder(settings, slot)
        folder.mkdir(exist_ok=True)
        held.enter_context(hold(folder))
        asked.set_user_attr(_SLOT, slot)
        return _Claim(asked, slot, len(earlier) + 1)
    return _Busy() if busy else None


def _stop_after_failures(study: optuna.Study, started: datetime) -> None:
    ended = [t for t in study.get_trials(deepcopy=False) if t.datetime_complete and t.datetime_complete >= started]
    ended.sort(key=lambda t: t.datetime_complete or started)
    last = [t.user_attrs.get(_MESSAGE) for t in ended[-_FAILURES_IN_A_ROW:]]
    if len(last) == _FAILURES_IN_A_ROW and all(last):
        raise UserError(f"{_FAILURES_IN_A_ROW} trials in a row failed, the last one with: {last[-1]}")


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- one trial --------------------------------------------------------------------------------------------------------


def _run_trial(claim: _Claim, cfg: DictConfig, settings: Settings, run: Run) -> None:
    """Train one claimed slot and tell the study how it went."""
    import optuna

    trial, folder = claim.trial, _slot_folder(settings, claim.slot)
    states = optuna.trial.TrialState

    def report(step: int, value: float) -> None:
        trial.report(value, step)
        if trial.should_prune():
            raise optuna.TrialPruned(f"{settings.metric}={value:.6g} at step {step}")

    values = settings.space.values(trial.params)
    described = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
    again = f", attempt {claim.attempt}" if claim.attempt > 1 else ""
    print(f"trial {claim.slot + 1}/{settings.trials}{again}: {described}", flush=True)
    trial_cfg = _with_values(cfg, values)
    OmegaConf.update(trial_cfg, "sweep", None, merge=False)
    OmegaConf.update(trial_cfg, "output_dir", str(folder))
    # The folder holds the attempts at this slot and nothing else.
    OmegaConf.update(trial_cfg, "resume", "auto" if claim.attempt > 1 else None)
    if settings.jobs > 1 and OmegaConf.select(trial_cfg, "callbacks.progress") is not None:
        OmegaConf.update(trial_cfg, "callbacks.progress", False)  # two trainings cannot share one line
    try:
        value = _train(trial_cfg, run, ReportMetric(settings.metric, report))
    except optuna.TrialPruned as pruned:
        study_state, told, outcome = states.PRUNED, None, f"pruned: {pruned}"
        _mark_pruned(folder, str(pruned))
    except UnknownMetric:
        trial.study.tell(trial, state=states.FAIL)
        raise
    except (UserError, FloatingPointError, torch.OutOfMemoryError) as error:
        message = " ".join(str(error).split())
        trial.set_user_attr(_MESSAGE, message)
        study_state, told, outcome = states.FAIL, None, f"failed: {message}"
    except BaseException:
        # Stopped from outside, or by a bug: without a message, so that the same command tries this slot again.
        trial.set_user_attr(_STOPPED, True)
        trial.study.tell(trial, state=states.FAIL)
        raise
    else:
        study_state, told, outcome = states.COMPLETE, value, f"{settings.metric}={value:.6g}"
    trial.study.tell(trial, told, state=study_state)
    print(f"trial {claim.slot + 1}/{settings.trials} {outcome}", flush=True)


def _train(cfg: DictConfig, run: Run, reporter: ReportMetric) -> float:
    result = run(cfg, [reporter])
    if reporter.metric not in result.metrics:
        raise _unknown_metric(reporter.metric, result.metrics)
    value = float(result.metrics[reporter.metric])
    if not math.isfinite(value):
        raise UserError(f"{reporter.metric} ended as {value}")
    return value


def _mark_pruned(folder: Path, message: str) -> None:
    for run_dir, record in list_runs(folder)[-1:]:
        record.status = "pruned"
        record.message = message
        record.write(run_dir)


def _with_values(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    changed = OmegaConf.create(OmegaConf.to_container(cfg, resolve=False))
    assert isinstance(changed, DictConfig)
    for name, value in values.items():
        OmegaConf.update(changed, name, value, merge=False)
    return changed


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# --- side by side -----------------------------------------------------------------------------------------------------


def _work_side_by_side(cfg: DictConfig, run: Run, started: datetime, jobs: int) -> None:
    context: Any = multiprocessing.get_context(_START_METHOD)
    values = OmegaConf.to_container(cfg, resolve=False)
    workers = [context.Process(target=_work_in_child, args=(values, run, started, jobs)) for _ in range(jobs)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()  # it saves its trial's last step first
                worker.join()
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    if codes:
        raise UserError(
            f"{len(codes)} of {jobs} sweep processes ended early (exit code {codes[0]}), for the reason above: "
            "the same command goes on with what is missing"
        )


def _work_in_child(values: dict[str, Any], run: Run, started: datetime, jobs: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))

    def action() -> int:
        cfg = OmegaConf.create(values)
        assert isinstance(cfg, DictConfig)
        try:
            settings = read_settings(cfg)
            work(_load_study(settings), cfg, settings, run, started)
        except TrainingStopped as stopped:
            return stopped.exit_code
        return 0

    raise SystemExit(run_guarded(action))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


# --- around -----------------------------------------------------------------------------------------------------------


def _require_packages() -> None:
    for name in ("optuna", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise UserError(f"a sweep needs {name}: pip install 'tezawari[sweep]'")


@contextmanager
def _readable_errors(settings: Settings) -> Iterator[None]:
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DatabaseError) as error:
        reason = getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error
        raise UserError(f"{settings.folder / DATABASE_FILE}: {reason}: free the disk or move the file away") from error


def _attempts(study: optuna.Study, settings: Settings) -> list[Attempt]:
    """Return the last attempt at each slot, the best value first, then those without a final value."""
    import optuna

    states = optuna.trial.TrialState
    names = {states.COMPLETE: "complete", states.PRUNED: "pruned", states.RUNNING: "running", states.FAIL: "failed"}
    latest = {t.user_attrs[_SLOT]: t for t in study.get_trials(deepcopy=False) if _SLOT in t.user_attrs}
    found = []
    for slot, trial in sorted(latest.items()):
        runs: list[tuple[Path, RunRecord]] = list_runs(_slot_folder(settings, slot))
        state = names.get(trial.state, "running")
        message = trial.user_attrs.get(_MESSAGE, "")
        if state == "failed" and not message:
            state = "interrupted"
        found.append(
            Attempt(
                number=slot + 1,
                state=state,
                value=trial.value,
                params=settings.space.values(trial.params),
                seconds=trial.duration.total_seconds() if trial.duration else None,
                run_dir=str(runs[-1][0]) if runs else "",
                message=message,
            )
        )
    order = ["complete", "pruned", "running", "interrupted", "failed"]
    sign = 1 if settings.direction == "minimize" else -1
    return sorted(found, key=lambda a: (order.index(a.state), sign * (a.value if a.value is not None else 0.0)))


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", "train.py", *words])
