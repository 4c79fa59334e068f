"""Run folders: where a run keeps what it makes, and the record of how it went."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from tezawari.core.errors import UserError

# A lock lives as long as any process has it open, so loader workers, which are forked, must let go of it: else the run
# would stay held for seconds after its own process was killed.
_held_locks: set[int] = set()


def _let_go_of_locks() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    while _held_locks:
        os.dup2(nothing, _held_locks.pop())  # keeps the number taken: the file object of this copy still names it
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_of_locks)

Status = Literal["running", "finished", "failed", "stopped", "pruned"]
METRICS_FILE = "metrics.csv"
RECORD_FILE = "record.json"
CHECKPOINTS_FOLDER = "checkpoints"
_LOCK_FILE = ".lock"
_RECORDED_PACKAGES = ("tezawari", "torch", "pytorch-lightning", "numpy")


@dataclass
class RunRecord:
    """What is known of a run besides its numbers; ``wall_seconds`` adds up over its resumptions."""

    model: str
    config_hash: str
    seed: int
    status: Status = "running"
    step: int = 0
    wall_seconds: float = 0.0
    message: str = ""
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    resumed: list[int] = field(default_factory=list)
    artefacts: dict[str, str] = field(default_factory=dict)
    commit: str | None = field(default_factory=lambda: current_commit())
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())
    versions: dict[str, str] = field(default_factory=lambda: package_versions())

    def write(self, run_dir: Path) -> None:
        """Replace ``record.json`` of a run."""
        aside = run_dir / f".{RECORD_FILE}.writing"
        aside.write_text(json.dumps(self.__dict__, indent=2) + "\n")
        aside.replace(run_dir / RECORD_FILE)

    @classmethod
    def read(cls, run_dir: Path) -> RunRecord | None:
        """Return the record of a run, or None where the folder holds none that can be read."""
        try:
            return cls(**json.loads((run_dir / RECORD_FILE).read_text()))
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, TypeError):
            return None


def make_run_dir(output_dir: Path, model: str, digest: str) -> Path:
    """Make and return the folder of a new run, ``<output_dir>/<model>/<YYYYmmdd-HHMMSS>-<config hash>``."""
    while True:
        run_dir = output_dir / model / f"{time.strftime('%Y%m%d-%H%M%S')}-{digest}"
        try:
            run_dir.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.2)  # two runs of one recipe within one second: the later one waits for its own name
        else:
            return run_dir


def list_runs(folder: Path) -> list[tuple[Path, RunRecord]]:
    """Return the runs anywhere below ``folder`` with their records, the oldest first."""
    found = ((path.parent, RunRecord.read(path.parent)) for path in folder.rglob(RECORD_FILE))
    return sorted(((path, record) for path, record in found if record), key=lambda run: run[0].name)


@contextmanager
def hold(run_dir: Path) -> Iterator[None]:
    """Keep a run to this process; raises UserError where another process is training it."""
    with (run_dir / _LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{run_dir} is being trained by another process: wait for it, or stop it first") from None
        _held_locks.add(lock.fileno())
        try:
            yield
        finally:
            _held_locks.discard(lock.fileno())


def is_held(run_dir: Path) -> bool:
    """Say whether a process is training this run right now."""
    try:
        with (run_dir / _LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def last_metrics(run_dir: Path) -> dict[str, float]:
    """Return the last value of each metric in ``metrics.csv``; empty where there is none yet."""
    values: dict[str, float] = {}
    try:
        with (run_dir / METRICS_FILE).open(newline="") as file:
            for row in csv.DictReader(file):
                if row["value"]:
                    values[row["metric"]] = float(row["value"])
    except FileNotFoundError:
        return {}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def current_commit() -> str | None:
    """Return the commit that this code is at, ``-changed`` appended where files differ from it; None outside git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def describe_machine() -> dict[str, Any]:
    """Return the cores that this process may use and the processor's name."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "processor": _processor()}


def measured_here(seed: int, wall_seconds: float) -> dict[str, Any]:
    """Return what each row of a benchmark's summary says of where and how long it was measured."""
    return {
        "seed": seed,
        "commit": current_commit(),
        **describe_machine(),
        "wall_seconds": round(wall_seconds, 1),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of what the numbers of a run hang on."""
    versions = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # running from a copy that is not installed
            continue
    return versions
