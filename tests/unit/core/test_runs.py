"""Checkpoint files, run folders, the record of metrics and ``tezawari runs``."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path

import pytest
import torch

from tezawari.cli import main
from tezawari.core.checkpoint_io import AtomicCheckpointIO
from tezawari.core.checkpoints import (
    checkpoint_path,
    is_sound,
    keep_newest,
    list_checkpoints,
    load_checkpoint,
    newest_sound,
)
from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.loggers import MetricsCsv
from tezawari.core.runs import RunRecord, hold, is_held, last_metrics, list_runs, make_run_dir


def save(folder: Path, step: int) -> Path:
    path = checkpoint_path(folder, step)
    AtomicCheckpointIO().save_checkpoint({"step": step, "weights": torch.arange(5.0)}, path)
    return path


def test_a_checkpoint_reads_back(tmp_path: Path) -> None:
    read = load_checkpoint(save(tmp_path, 3))
    assert read["step"] == 3
    assert torch.equal(read["weights"], torch.arange(5.0))


def test_one_changed_bit_is_noticed_and_the_one_before_taken(tmp_path: Path) -> None:
    before, last = save(tmp_path, 9), save(tmp_path, 10)
    content = bytearray(last.read_bytes())
    content[-100] ^= 4
    last.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(last)
    said: list[str] = []
    assert newest_sound(tmp_path, said.append) == before
    assert str(last) in said[0]
    assert list_checkpoints(tmp_path) == [before]


def test_a_checkpoint_without_its_digest_does_not_count(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    path.with_name(path.name + ".sha256").unlink()
    assert not is_sound(path)
    assert newest_sound(tmp_path, lambda line: None) is None


def test_the_newest_are_kept_by_step_and_not_by_name(tmp_path: Path) -> None:
    kept = [save(tmp_path, step) for step in (5, 999_999_999, 100)]
    keep_newest(tmp_path, 2)
    assert list_checkpoints(tmp_path) == [kept[1], kept[2]]
    assert len(list(tmp_path.iterdir())) == 4


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"object": Path("somewhere")}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "bad.ckpt")


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_record_drops_what_comes_after_the_resumed_step(tmp_path: Path) -> None:
    record = MetricsCsv(tmp_path, 0)
    for step in (1, 2, 3):
        record.append(step, 0, {"train/loss": step / 3})
    with record.path.open("a") as file:
        file.write("4,0,train/lo")  # as a kill would leave it
    before = record.path.read_text().splitlines()
    MetricsCsv(tmp_path, 2)
    assert record.path.read_text().splitlines() == before[:3]
    assert last_metrics(tmp_path) == {"train/loss": 2 / 3}


def test_a_record_holds_floats_exactly(tmp_path: Path) -> None:
    value = math.pi * 1e-20
    MetricsCsv(tmp_path, 0).append(1, 0, {"x": value})
    assert last_metrics(tmp_path)["x"] == value


def test_a_run_is_held_by_one(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with hold(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(UserError, match="another process"), hold(tmp_path):
            pass
    assert not is_held(tmp_path)


def test_a_forked_child_does_not_keep_a_run_held(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    ready, tell = os.pipe()
    with hold(tmp_path):
        child = os.fork()
        if not child:
            os.close(writer)
            os.write(tell, b"1")
            os.read(reader, 1)  # lives until the parent says so
            os._exit(0)
        os.read(ready, 1)
    try:
        assert not is_held(tmp_path)
    finally:
        os.close(writer)
        os.waitpid(child, 0)
        for end in (reader, ready, tell):
            os.close(end)


def make_run(outputs: Path, seed: int, status: str, loss: float) -> Path:
    run_dir = make_run_dir(outputs, "tiny", f"{seed:08d}")
    RunRecord(model="tiny", config_hash=f"{seed:08d}", seed=seed, status=status, step=5).write(run_dir)  # type: ignore[arg-type]
    MetricsCsv(run_dir, 0).append(5, 0, {"val/loss": loss})
    return run_dir


def test_two_runs_in_a_second_have_two_folders(tmp_path: Path) -> None:
    assert make_run_dir(tmp_path, "tiny", "ab") != make_run_dir(tmp_path, "tiny", "ab")


def test_runs_are_listed_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse = make_run(tmp_path, 1, "finished", 0.5)
    better = make_run(tmp_path, 2, "running", 0.25)
    assert main(["runs", "--dir", str(tmp_path), "--csv", "--sort", "val/loss"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["run"] for row in rows] == [f"tiny/{better.name}", f"tiny/{worse.name}"]
    assert [row["status"] for row in rows] == ["interrupted", "finished"]  # nobody holds the one that says running
    assert [float(row["val/loss"]) for row in rows] == [0.25, 0.5]
    with hold(better):
        assert main(["runs", "--dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "running" in printed
    assert "0.25" in printed


def test_a_broken_record_is_passed_over(tmp_path: Path) -> None:
    good = make_run(tmp_path, 1, "finished", 0.5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text(json.dumps({"something": 1}))
    assert [path for path, _ in list_runs(tmp_path)] == [good]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["rns"], "did you mean runs"),
        (["runs", "--dir", "nowhere"], "no folder nowhere"),
        (["runs", "--dir", "{}", "--sort", "val/los"], "did you mean val/loss?"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path, 1, "finished", 0.5)
    assert main([word.format(tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
