"""Exact resume through the real entry point."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.resume.kill_many import differences
from tests.resume.tiny import KILL_VARIABLE
from tests.resume.tiny_train import REPOSITORY, tiny_train
from tezawari.core.checkpoints import list_checkpoints, load_checkpoint
from tezawari.core.runs import hold

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert tiny_train(f"output_dir={folder}") == 0
    return run_of(folder)


def run_of(folder: Path) -> Path:
    (run,) = folder.glob("tinymodel/*/")
    return run


def status(run: Path) -> str:
    return json.loads((run / "record.json").read_text())["status"]


def test_killed_runs_end_as_the_untouched_one() -> None:
    # In a process of its own: it forks, which a process whose torch has computed must not.
    words = [
        "--fork",
        "--term",
        "--kills",
        "20",
        "--workers",
        "0",
        "2",
        "--",
        "trainer.max_steps=16",
        "model.pause=0.01",
    ]
    command = [sys.executable, "-m", "tests.resume.kill_many", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20 kills: bit-identical" in done.stdout


@pytest.mark.parametrize("step", [3, 4, 9, 19, 22])  # a validation, the end of an epoch (twice), both, neither
def test_sigterm_saves_and_auto_goes_on(
    step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KILL_VARIABLE, f"{step}:{int(signal.SIGTERM)}")
    assert tiny_train(f"output_dir={tmp_path}") == 143
    assert "resume=auto" in capsys.readouterr().out
    run = run_of(tmp_path)
    assert status(run) == "stopped"
    assert list_checkpoints(run / "checkpoints")[0].name == f"step-{step + 1:09d}.ckpt"
    assert tiny_train(f"output_dir={tmp_path}", "resume=auto", "logger.project=other") == 0
    assert status(run) == "finished"
    assert list(differences(whole, run)) == []


def test_a_resume_restores_more_than_the_weights(whole: Path, tmp_path: Path) -> None:
    """The comparison notices: another seed differs in weights, optimiser state and metrics."""
    assert tiny_train(f"output_dir={tmp_path}", "seed=1") == 0
    found = " ".join(differences(whole, run_of(tmp_path)))
    assert "state_dict" in found
    assert "exp_avg" in found
    assert "metrics.csv" in found


def test_a_damaged_checkpoint_is_refused_and_the_one_before_taken(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KILL_VARIABLE, f"13:{int(signal.SIGTERM)}")
    assert tiny_train(f"output_dir={tmp_path}") == 143
    run = run_of(tmp_path)
    last, before = list_checkpoints(run / "checkpoints")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    capsys.readouterr()
    assert tiny_train(f"output_dir={tmp_path}", "resume=auto") == 0
    printed = capsys.readouterr().out
    assert f"{last} is damaged" in printed
    assert f"after step {int(before.stem[5:])}" in printed
    assert list(differences(whole, run)) == []


def test_auto_says_what_it_does_where_there_is_nothing_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"output_dir={tmp_path}", "resume=auto", "trainer.max_steps=2", "callbacks=none"]
    assert tiny_train(*words) == 0
    assert "starting a new one" in capsys.readouterr().out
    assert tiny_train(*words) == 0
    printed = capsys.readouterr().out
    assert "has finished this very configuration" in printed
    assert "metrics.csv" in printed
    run = run_of(tmp_path)
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**record, "status": "running"}))
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    assert tiny_train(*words) == 0
    assert "starts from the beginning" in capsys.readouterr().out


def test_a_path_with_another_configuration_is_a_new_run(whole: Path, tmp_path: Path) -> None:
    assert tiny_train(f"output_dir={tmp_path}", f"resume={whole}", "trainer.max_steps=26") == 0
    run = run_of(tmp_path)
    assert list_checkpoints(run / "checkpoints")[0].name == "step-000000026.ckpt"
    assert (run / "metrics.csv").read_text().splitlines()[1].startswith("25,")
    assert status(whole) == "finished"


def test_a_run_has_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KILL_VARIABLE, f"1:{int(signal.SIGTERM)}")
    assert tiny_train(f"output_dir={tmp_path}") == 143
    with hold(run_of(tmp_path)):
        assert tiny_train(f"output_dir={tmp_path}", "resume=auto") == 2
    assert "another process" in capsys.readouterr().err


def test_nan_stops_before_the_weights_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_train(f"output_dir={tmp_path}", "model.nan_at=7") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "step 8: the loss is nan" in error
    assert "noise-" in error
    run = run_of(tmp_path)
    assert status(run) == "failed"
    good = load_checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert good["global_step"] == 6
    assert all(value.isfinite().all() for value in good["state_dict"].values())


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The checkpoint is larger than the limit, the run's other files are smaller.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
    try:
        code = tiny_train(f"output_dir={tmp_path}", "model.width=64", "callbacks.progress=false")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "could not be saved" in error
    assert not [path for path in (run_of(tmp_path) / "checkpoints").iterdir() if "ckpt" in path.name]
    assert status(run_of(tmp_path)) == "failed"
