"""Kill a training at random steps, resume it each time, and compare with one that nobody killed, bit for bit.

    python -m tests.resume.kill_many --kills 20 --workers 0 2 -- model=multistyle trainer.max_steps=60 …
    python -m tests.resume.kill_many --kills 20 --tiny --workers 2

The words are overrides of ``train.py`` (with ``--tiny``, of a tiny model; with ``--fork``, in processes forked from
one that has imported everything, which saves each its start). ``trainer.log_every=1`` lets kills fall on any step.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.resume.forked import start_forked
from tests.resume.tiny_train import REPOSITORY, tiny_train
from tezawari.core.checkpoints import list_checkpoints, load_checkpoint
from tezawari.core.runs import CHECKPOINTS_FOLDER, METRICS_FILE


class Entry:
    """Starts trainings: ``train.py`` or the tiny one, in new processes or forked ones."""

    def __init__(self, tiny: bool, fork: bool, log: Path) -> None:
        self._tiny, self._fork, self._log = tiny, fork, log

    def start(self, words: list[str]) -> int:
        """Start a training and return its process id; what it prints goes to the log."""
        if self._fork:
            return start_forked(lambda: tiny_train(*words), self._log)
        command = ["-m", "tests.resume.tiny_train"] if self._tiny else ["train.py"]
        with self._log.open("a") as log:
            process = subprocess.Popen([sys.executable, *command, *words], cwd=REPOSITORY, stdout=log, stderr=log)
        return process.pid


def kill_many(
    entry: Entry, words: list[str], kills: int, folder: Path, seed: int, kinds: tuple[int, ...], workers: list[int]
) -> list[str]:
    """Train once untouched and once with ``kills`` kills; return what differs between the two (nothing, it should).

    The untouched run has no loader workers, the attempts of the other one have the numbers of ``workers`` in turn.
    """
    rng = random.Random(seed)
    whole, killed = folder / "whole", folder / "killed"
    began = time.monotonic()
    code = _wait(entry.start([*words, f"output_dir={whole}"]))
    if code:
        return [f"the untouched training ended with exit code {code}"]
    steps = _last_step(whole)
    pause = (time.monotonic() - began) / steps
    again = [*words, f"output_dir={killed}", "resume=auto"]
    for attempt, target in enumerate(sorted(rng.choices(range(0, steps), k=kills))):
        before = _record_identity(killed)
        process, kind = entry.start([*again, f"data.num_workers={workers[attempt % len(workers)]}"]), rng.choice(kinds)
        # The record is written anew when training starts; until then the process is only importing.
        while (_record_identity(killed) == before or _last_step(killed) < target) and _alive(process):
            time.sleep(0.002)
        time.sleep(rng.random() * min(pause, 0.2))  # anywhere within the step, its checkpoint and its validation
        _send(process, kind)
        code = _wait(process)
        print(f"signal {kind} after step {_last_step(killed)}: exit code {code}", flush=True)
    code = _wait(entry.start(again))
    if code:
        return [f"the last resume ended with exit code {code}"]
    return list(differences(_run_of(whole), _run_of(killed)))


def differences(one: Path, other: Path) -> Iterator[str]:
    """Yield in what two runs differ: metrics, or anything in their last checkpoints but Lightning's own counters."""
    if (one / METRICS_FILE).read_bytes() != (other / METRICS_FILE).read_bytes():
        yield METRICS_FILE
    a, b = (list_checkpoints(run / CHECKPOINTS_FOLDER)[0] for run in (one, other))
    if a.name != b.name:
        yield f"{a.name} and {b.name}"
    yield from _differences(load_checkpoint(a), load_checkpoint(b), "checkpoint")


def _differences(a: Any, b: Any, place: str) -> Iterator[str]:
    if isinstance(a, torch.Tensor):
        # By their bytes: a NaN differs from itself.
        if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.numpy().tobytes() != b.numpy().tobytes():
            yield place
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            if key in a and key in b:
                yield from _differences(a[key], b[key], f"{place}.{key}")
            else:
                yield f"{place}.{key} (in one only)"
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for index, (x, y) in enumerate(zip(a, b)):
            yield from _differences(x, y, f"{place}.{index}")
    elif a != b:
        yield f"{place}: {a} and {b}"


def _run_of(folder: Path) -> Path:
    (run,) = folder.glob("*/*/")
    return run


def _last_step(folder: Path) -> int:
    for record in folder.glob(f"*/*/{METRICS_FILE}"):
        rows = record.read_text().splitlines()
        last = rows[-1].split(",")[0] if rows else ""
        return int(last) if last.isdigit() else 0
    return -1


def _record_identity(folder: Path) -> int | None:
    for record in folder.glob(f"*/*/{METRICS_FILE}"):
        return record.stat().st_ino
    return None


def _alive(process: int) -> bool:
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _send(process: int, kind: int) -> None:
    if _alive(process):
        os.kill(process, kind)


def _wait(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> int:
    """Run from the command line; exit code 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="chooses the steps")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--fork", action="store_true", help="with --tiny")
    parser.add_argument("--term", action="store_true", help="send SIGTERM as often as SIGKILL")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="loader workers of the attempts, in turn"
    )
    parser.add_argument("overrides", nargs="*", help="after --")
    args = parser.parse_args()
    kinds = (signal.SIGKILL, signal.SIGTERM) if args.term else (signal.SIGKILL,)
    with tempfile.TemporaryDirectory() as folder:
        entry = Entry(args.tiny or args.fork, args.fork, Path(folder) / "log.txt")
        found = kill_many(entry, args.overrides, args.kills, Path(folder), args.seed, kinds, args.workers)
        if found:
            print((Path(folder) / "log.txt").read_text()[-4000:])
    for difference in found:
        print(f"differs: {difference}")
    print(f"{args.kills} kills: " + ("DIFFERENT" if found else "bit-identical"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
