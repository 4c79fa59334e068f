from __future__ import annotations

import csv
import importlib.util
import json
import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from tezawari.core import sweep, sweep_report
from tezawari.core.errors import UserError
from tezawari.core.runs import RunRecord, Status, make_run_dir
from tezawari.core.sweep import ReportMetric, Run, run_sweep
from tezawari.core.sweep_space import read_space
from tezawari.core.training import run_training

sqlalchemy = pytest.importorskip("sqlalchemy", reason="the sweep extra is not installed")
optuna = pytest.importorskip("optuna", reason="the sweep extra is not installed")

LR = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
WIDTH = {"type": "int", "low": 1, "high": 8}
NET = {"type": "categorical", "choices": ["small", "large"]}
SPACE = {"model.lr": LR, "model.width": WIDTH, "model.net": NET}


@pytest.fixture(autouse=True)
def draw_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the plot, which takes longer than all else, only where a test asks for this fixture by name."""
    if "draw_plots" not in request.function.__code__.co_varnames:
        monkeypatch.setattr(sweep_report, "_plot", lambda *_: None)


@pytest.fixture(autouse=True, scope="module")
def write_without_waiting() -> Iterator[None]:
    """Spare the wait for the disk after every word: killed processes lose nothing by it, only a power cut would."""

    def relax(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", relax)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", relax)


class Model:
    """Names the settings that a configuration may hold; the runs below never build it."""

    def __init__(self, lr: float = 0.1, width: int = 4, net: str = "small", layers: list[str] | None = None) -> None:
        self.settings = (lr, width, net, layers)


class Data:
    """Data without settings."""


@dataclass
class FakeResult:
    run_dir: Path
    metrics: dict[str, float] = field(default_factory=dict)


def new_run(cfg: DictConfig, status: Status = "running") -> Path:
    """Make a run's folder with its record, without asking git and the machine about it."""
    run_dir = make_run_dir(Path(cfg.output_dir), "model", "0" * 8)
    record = RunRecord("model", "0" * 8, seed=0, status=status, commit=None, machine={}, versions={})
    record.write(run_dir)
    return run_dir


def value_of(cfg: DictConfig) -> float:
    """A bowl whose best point is lr 0.01, width 3, large."""
    return (math.log10(cfg.model.lr) + 2) ** 2 + (cfg.model.width - 3) ** 2 + (cfg.model.net == "small")


def fake_run(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
    """Stand in for a training: note the process that ran it, report twice, return the bowl's value."""
    run_dir = new_run(cfg)
    (run_dir / "process").write_text(str(os.getpid()))
    for callback in callbacks:
        assert isinstance(callback, ReportMetric)
        for step in (10, 20):
            callback.report(step, value_of(cfg))
    return FakeResult(run_dir, {"val/loss": value_of(cfg)})


def slow_run(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
    time.sleep(0.1)
    return fake_run(cfg, callbacks)


def make_config(folder: Path, space: Any = SPACE, **settings: Any) -> DictConfig:
    section = {
        "name": "study",
        "trials": 6,
        "metric": "val/loss",
        "direction": "minimize",
        "space": space,
        "pruner": "none",
        "warmup_steps": 0,
        "jobs": 1,
    }
    return OmegaConf.create(
        {
            "model": {"_target_": f"{__name__}.Model", "lr": 0.1, "width": 4, "net": "small", "layers": None},
            "data": {"_target_": f"{__name__}.Data"},
            "backbone": {"name": "none", "weights": None, "style_layers": None, "content_layers": None},
            "trainer": {
                "accelerator": "cpu",
                "devices": 1,
                "strategy": "auto",
                "precision": "32-true",
                "compile": False,
                "max_steps": 20,
                "log_every": 1,
                "val_every": 10,
                "gradient_clip": None,
            },
            "logger": {"mirror": None, "project": "tests"},
            "callbacks": {"checkpoint_every": 0, "keep_checkpoints": 1, "progress": True},
            "sweep": {**section, **settings},
            "seed": 0,
            "output_dir": str(folder),
            "resume": None,
        }
    )


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=f"sqlite:///{folder / 'sweeps/study/study.db'}")


def asked(folder: Path) -> list[dict[str, Any]]:
    """The settings of each completed slot, in the order of the slots."""
    trials = [t for t in study_of(folder).trials if t.state.name == "COMPLETE"]
    return [t.params for t in sorted(trials, key=lambda t: t.user_attrs["slot"])]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweeps/study/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def in_process(config: DictConfig, run: Run) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=run_sweep, args=(config, run))
    process.start()
    return process


def test_a_study_ends_with_a_ranked_table_a_plot_and_the_best_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], draw_plots: None
) -> None:
    config = make_config(tmp_path)
    assert run_sweep(config, fake_run, ["sweep=optuna", "sweep.trials=6", "data=images", "resume=auto"]) == 0
    rows = rows_of(tmp_path)
    values = [float(row["val/loss"]) for row in rows]
    assert len(rows) == 6
    assert values == sorted(values)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 7)]
    for row in rows:
        bowl = OmegaConf.create(
            {"model": {"lr": float(row["model.lr"]), "width": int(row["model.width"]), "net": row["model.net"]}}
        )
        assert value_of(bowl) == pytest.approx(float(row["val/loss"]))
        assert (Path(row["run"]) / "process").is_file()
    assert (tmp_path / "sweeps/study/study.png").read_bytes().startswith(b"\x89PNG")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("repeat the best: python train.py data=images model.lr=")
    assert float(last.split("model.lr=")[1].split()[0]) == float(rows[0]["model.lr"])


def test_the_same_command_runs_only_what_is_missing(tmp_path: Path) -> None:
    ran: list[int] = []

    def counted(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        ran.append(1)
        return fake_run(cfg, callbacks)

    run_sweep(make_config(tmp_path, trials=3), counted)
    run_sweep(make_config(tmp_path, trials=3), counted)
    assert len(ran) == 3
    run_sweep(make_config(tmp_path, trials=5), counted)
    assert len(ran) == 5


def test_the_seed_and_the_results_decide_what_is_tried_however_often_the_study_stops(tmp_path: Path) -> None:
    # The sampler draws ten trials blindly; from then on its model of the results takes part.
    run_sweep(make_config(tmp_path / "whole", trials=12), fake_run)
    for trials in (1, 4, 11, 12):
        run_sweep(make_config(tmp_path / "parts", trials=trials), fake_run)
    run_sweep(make_config(tmp_path / "reversed", trials=12, direction="maximize"), fake_run)
    other_seed = make_config(tmp_path / "other", trials=1)
    other_seed.seed = 1
    run_sweep(other_seed, fake_run)
    whole, backwards = asked(tmp_path / "whole"), asked(tmp_path / "reversed")
    assert asked(tmp_path / "parts") == whole
    assert backwards[:10] == whole[:10]
    assert backwards[10:] != whole[10:]
    assert asked(tmp_path / "other")[0] != whole[0]


def test_a_killed_trial_is_run_again_with_the_same_settings(tmp_path: Path) -> None:
    def killed_in_the_third(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        if cfg.output_dir.endswith("trial-0002"):
            os.kill(os.getpid(), signal.SIGKILL)
        return fake_run(cfg, callbacks)

    resumed: dict[str, Any] = {}

    def noting_resume(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        resumed[Path(cfg.output_dir).name] = cfg.resume
        return fake_run(cfg, callbacks)

    process = in_process(make_config(tmp_path / "killed"), killed_in_the_third)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [t.state.name for t in study_of(tmp_path / "killed").trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    run_sweep(make_config(tmp_path / "killed"), noting_resume)
    run_sweep(make_config(tmp_path / "whole"), fake_run)
    assert asked(tmp_path / "killed") == asked(tmp_path / "whole")
    # Only the slot that was cut short has a run to go on with.
    assert resumed == {"trial-0002": "auto", "trial-0003": None, "trial-0004": None, "trial-0005": None}
    assert [row["state"] for row in rows_of(tmp_path / "killed")] == ["complete"] * 6


def test_a_trial_that_always_kills_its_process_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        if cfg.output_dir.endswith("trial-0000"):
            os.kill(os.getpid(), signal.SIGKILL)
        return fake_run(cfg, callbacks)

    def stopped(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "_DEATHS_PER_SLOT", 2)
    for _ in range(3):  # which does not count: someone asked for it
        with pytest.raises(KeyboardInterrupt):
            run_sweep(make_config(tmp_path, trials=2), stopped)
    for _ in range(2):
        process = in_process(make_config(tmp_path, trials=2), deadly)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    run_sweep(make_config(tmp_path, trials=2), deadly)
    assert sorted(row["state"] for row in rows_of(tmp_path)) == ["complete", "interrupted"]


def test_commands_side_by_side_finish_exactly_the_asked_trials(tmp_path: Path) -> None:
    processes = [in_process(make_config(tmp_path, trials=9), slow_run) for _ in range(3)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    trials = study_of(tmp_path).trials
    assert sorted(t.user_attrs["slot"] for t in trials) == list(range(9))
    assert {t.state.name for t in trials} == {"COMPLETE"}
    workers = {path.read_text() for path in tmp_path.rglob("process")}
    assert len(workers) > 1
    assert len(list(tmp_path.rglob("process"))) == 9


def test_a_command_takes_over_when_another_dies(tmp_path: Path) -> None:
    started = tmp_path / "started"

    def hanging(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        started.touch()
        time.sleep(120)
        raise AssertionError

    stuck = in_process(make_config(tmp_path, trials=2), hanging)
    while not started.exists():
        time.sleep(0.02)
    other = in_process(make_config(tmp_path, trials=2), fake_run)
    other.join(1.5)
    assert other.is_alive()  # it waits for the trial that the other holds
    stuck.kill()
    other.join(60)
    assert other.exitcode == 0
    assert len(asked(tmp_path)) == 2


def test_jobs_are_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Forked ones, for a spawned one spends seconds on importing Lightning; it needs no more than this to be picklable.
    monkeypatch.setattr(sweep, "_START_METHOD", "fork")
    assert pickle.loads(pickle.dumps(run_training)) is run_training
    config = make_config(tmp_path, trials=6, jobs=2)
    assert run_sweep(config, slow_run) == 0
    workers = {path.read_text() for path in tmp_path.rglob("process")}
    assert len(list(tmp_path.rglob("process"))) == 6
    assert str(os.getpid()) not in workers


def test_a_hopeless_trial_is_pruned_and_its_run_marked(tmp_path: Path) -> None:
    finished: list[str] = []

    def worse_and_worse(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        slot = int(cfg.output_dir[-4:])
        run_dir = new_run(cfg, "failed")  # as training records any exception
        callbacks[0].report(10, float(slot))  # type: ignore[attr-defined]
        finished.append(str(run_dir))
        return FakeResult(run_dir, {"val/loss": float(slot)})

    run_sweep(make_config(tmp_path, trials=8, pruner="median"), worse_and_worse)
    states = {row["trial"]: row["state"] for row in rows_of(tmp_path)}
    # The median pruner waits for five complete trials; after those, each is above the median.
    assert states == {str(n): "complete" if n <= 5 else "pruned" for n in range(1, 9)}
    assert len(finished) == 5
    for row in rows_of(tmp_path):
        record = RunRecord.read(Path(row["run"]))
        assert record is not None
        assert record.status == ("pruned" if row["state"] == "pruned" else "failed")


def test_pruning_waits_for_the_warm_up(tmp_path: Path) -> None:
    def worse_and_worse(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        slot = int(cfg.output_dir[-4:])
        callbacks[0].report(10, float(slot))  # type: ignore[attr-defined]
        return FakeResult(Path(cfg.output_dir), {"val/loss": float(slot)})

    run_sweep(make_config(tmp_path, trials=8, pruner="median", warmup_steps=11), worse_and_worse)
    assert {row["state"] for row in rows_of(tmp_path)} == {"complete"}


def failing_in(slots: set[int], error: Callable[[], Any]) -> Run:
    def run(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        if int(cfg.output_dir[-4:]) in slots:
            return FakeResult(Path(cfg.output_dir), {"val/loss": error()})
        return fake_run(cfg, callbacks)

    return run


def raise_user_error() -> float:
    raise UserError("step 3: the loss is nan")


@pytest.mark.parametrize("error", [raise_user_error, lambda: math.nan, lambda: math.inf])
def test_a_failed_trial_does_not_end_the_study(tmp_path: Path, error: Callable[[], float]) -> None:
    assert run_sweep(make_config(tmp_path, trials=5), failing_in({0, 1, 3}, error)) == 0
    rows = rows_of(tmp_path)
    assert [row["state"] for row in rows] == ["complete"] * 2 + ["failed"] * 3
    assert all(row["message"] for row in rows[2:])


def test_three_failures_in_a_row_end_the_study(tmp_path: Path) -> None:
    run = failing_in({1, 2, 3}, raise_user_error)
    with pytest.raises(UserError, match=r"3 trials in a row failed.*step 3: the loss is nan"):
        run_sweep(make_config(tmp_path), run)
    assert [row["state"] for row in rows_of(tmp_path)] == ["complete", "failed", "failed", "failed"]
    run_sweep(make_config(tmp_path), run)  # asked again, it goes on with the rest
    assert len(asked(tmp_path)) == 3


def test_a_bug_ends_the_study_and_leaves_the_slot_open(tmp_path: Path) -> None:
    def broken(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_sweep(make_config(tmp_path), broken)
    run_sweep(make_config(tmp_path), fake_run)
    assert len(asked(tmp_path)) == 6


def test_an_unknown_metric_names_the_logged_ones_and_can_be_mended(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep.metric=val/los: .*logged: val/loss"):
        run_sweep(make_config(tmp_path, metric="val/los"), fake_run)
    assert run_sweep(make_config(tmp_path, trials=2), fake_run) == 0
    assert len(asked(tmp_path)) == 2


def test_nothing_completed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no trial of .* was completed: step 3"):
        run_sweep(make_config(tmp_path, trials=2), failing_in({0, 1}, raise_user_error))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": {"model.lr": LR}}, "space"),
        ({"direction": "maximize"}, "direction"),
        ({"metric": "val/style_loss"}, "metric"),
    ],
)
def test_a_study_is_not_mixed_with_another_question(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    run_sweep(make_config(tmp_path, trials=1), fake_run)
    with pytest.raises(UserError, match=rf"another {named}: .*sweep\.name=study2"):
        run_sweep(make_config(tmp_path, **{"trials": 1, **change}), fake_run)


def test_a_study_is_not_mixed_with_another_recipe(tmp_path: Path) -> None:
    run_sweep(make_config(tmp_path, trials=1), fake_run)
    other = make_config(tmp_path, trials=1)
    other.trainer.max_steps = 40
    with pytest.raises(UserError, match="another recipe"):
        run_sweep(other, fake_run)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (None, "names nothing to try"),
        ({"model.lrr": LR}, r"no setting model.lrr \(did you mean model.lr,"),
        ({"lr": LR}, r"no setting lr \(did you mean model.lr\?\)"),
        ({"model": LR}, "model is a section"),
        ({"model._target_": NET}, "cannot be swept"),
        ({"sweep.trials": WIDTH}, "no setting sweep.trials"),
        ({"model.lr": 0.1}, "needs a type"),
        ({"model.lr": {"type": "flaot", "low": 0, "high": 1}}, r"flaot \(did you mean float\?\)"),
        ({"model.lr": {"type": "float", "low": 0, "hgih": 1}}, r"takes no hgih \(did you mean high\?\)"),
        ({"model.lr": {"type": "float", "low": 0}}, "has no high"),
        ({"model.lr": {"type": "float", "low": 1, "high": 0.1}}, "low 1 is above high 0.1"),
        ({"model.lr": {"type": "float", "low": "a", "high": 1}}, "low=a is not a number"),
        ({"model.lr": {"type": "float", "low": 0, "high": 1, "log": True}}, "low above 0"),
        ({"model.lr": {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}}, "has no step"),
        ({"model.lr": {"type": "float", "low": 0.1, "high": 1, "step": 0}}, "step 0 is not above 0"),
        ({"model.width": {"type": "int", "low": 1.5, "high": 4}}, "low=1.5 is not a whole number"),
        ({"model.net": {"type": "categorical", "choices": []}}, "needs choices"),
        # What the configuration's own checks refuse, before a trial is spent on it.
        ({"model.width": {"type": "float", "low": 1.5, "high": 4}}, "model.width=1.5"),
        ({"model.net": {"type": "categorical", "choices": ["small", 3]}}, "model.net=3"),
        ({"trainer.max_steps": {"type": "int", "low": 0, "high": 4}}, "trainer.max_steps=0"),
    ],
)
def test_a_wrong_space_is_refused_before_any_trial(tmp_path: Path, space: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_sweep(make_config(tmp_path, space), fake_run)
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, "sweep.trials=0"),
        ({"jobs": 0}, "sweep.jobs=0"),
        ({"direction": "down"}, "minimize or maximize"),
        ({"pruner": "halving"}, "median, hyperband or none"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_sweep(make_config(tmp_path, **settings), fake_run)


def test_processes_of_a_trainer_are_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    config.trainer.strategy = "ddp"
    with pytest.raises(UserError, match=r"sweep\.jobs"):
        run_sweep(config, fake_run)


@pytest.mark.parametrize("package", ["optuna", "matplotlib"])
def test_a_missing_package_names_the_extra(tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=r"pip install 'tezawari\[sweep\]'"):
        run_sweep(make_config(tmp_path), fake_run)


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps/study"
    folder.mkdir(parents=True)
    (folder / "study.db").write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(UserError, match=r"study\.db: file is not a database"):
        run_sweep(make_config(tmp_path), fake_run)


def test_the_study_is_plain_sqlite(tmp_path: Path) -> None:
    run_sweep(make_config(tmp_path, trials=2), fake_run)
    with sqlite3.connect(tmp_path / "sweeps/study/study.db") as database:
        assert database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (2,)


def test_lists_may_be_choices_and_the_command_quotes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    def run(cfg: DictConfig, callbacks: Sequence[pl.Callback] = ()) -> FakeResult:
        seen.append(OmegaConf.to_object(cfg.model.layers) if cfg.model.layers is not None else None)
        return fake_run(cfg, callbacks)

    choices = [["relu1_2", "relu 2"], ["relu3_3"], None]
    run_sweep(make_config(tmp_path, {"model.layers": {"type": "categorical", "choices": choices}}), run)
    assert all(layers in choices for layers in seen)
    assert {json.dumps(layers) for layers in seen} > {json.dumps(seen[0])}
    assert "model.layers=" in capsys.readouterr().out.splitlines()[-1]


def test_overrides_are_read_back_by_hydra_as_they_were() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    config = {"a": {"x": None}}
    values: list[Any] = [1e-05, 0.1, 3, True, None, "true", "a b", "it's", "relu1_2", "", ["a,b", "c", None, 1.5], "1"]
    space = read_space({"a.x": {"type": "categorical", "choices": values}}, config)
    words = [space.overrides({"a.x": value})[0] for value in values]
    read = [override.value() for override in OverridesParser.create().parse_overrides(words)]
    assert [str(v) if isinstance(v, str) else v for v in read[:-2]] == values[:-2]
    assert [None if v is None else type(w)(v) for v, w in zip(read[-2], values[-2])] == values[-2]
    assert str(read[-1]) == "1"
    assert isinstance(read[-1], str)


def test_all_ends_and_choices_are_tried_against_the_configuration() -> None:
    space = read_space(
        {"m.a": {"type": "int", "low": 1, "high": 9}, "m.b": {"type": "categorical", "choices": [1, 2, 3]}},
        {"m": {"a": 0, "b": 0}},
    )
    samples = list(space.extremes())
    assert {sample["m.a"] for sample in samples} == {1, 9}
    assert {sample["m.b"] for sample in samples} == {1, 2, 3}
