"""The peak memory of one piece of work, measured in a process that does nothing else.

``python -m tezawari.style.peak_memory JOB`` does the work that the JSON object JOB describes, and prints one line of
JSON; :func:`measure` is the caller's side of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from tezawari.core.errors import UserError
from tezawari.core.machine import keep_freed_memory, peak_so_far
from tezawari.data.photo import read_photo, write_photo
from tezawari.style.speed_report import TEXTBOOKS
from tezawari.style.stylize import Stylizer


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory in MB (10⁶ bytes), ``loaded`` once all is loaded and ``peak`` after the work.

    ``seconds`` are those of the last of its runs.
    """

    loaded: float
    peak: float
    seconds: float


@dataclass(frozen=True)
class TrainingJob:
    """Steps of the candidate ``name`` of training."""

    part: ClassVar[str] = "training"
    runs: ClassVar[int] = 2
    name: str
    size: int
    batch_size: int
    weights: str

    @property
    def what(self) -> str:
        """What is worked on, for a table."""
        return f"{self.batch_size} × {self.size} px"

    def prepare(self, threads: int) -> Callable[[], object]:
        """Load all that the work needs, and return the work."""
        # Imported here, for a photo is to be restyled without the memory of loss networks.
        from tezawari.style.speed_candidates import TRAINING, training_step

        candidate = next(c for c in TRAINING if c.name == self.name)
        return training_step(candidate, self.size, self.batch_size, self.weights)


@dataclass(frozen=True)
class StylizeJob:
    """One photo of ``size`` pixels by the candidate ``name``; ``onnx`` is empty where nothing was exported."""

    part: ClassVar[str] = "stylise"
    runs: ClassVar[int] = 3
    name: str
    size: int
    network: str
    onnx: str

    @property
    def what(self) -> str:
        """What is worked on, for a table."""
        return f"{self.size} px"

    def prepare(self, threads: int) -> Callable[[], object]:
        """Load all that the work needs, and return the work."""
        from tezawari.style.speed_candidates import STYLIZING, Setup, stylize_step

        candidate = next(c for c in STYLIZING if c.name == self.name)
        setup = Setup(Path(self.network), Path(self.onnx) if self.onnx else None, threads)
        return stylize_step(candidate, setup, torch.rand(1, 3, self.size, self.size))


@dataclass(frozen=True)
class PhotoJob:
    """A photo of ``width`` × ``height`` pixels from file to file, as ``tezawari stylize`` does it.

    An empty ``network`` is the package's.
    """

    part: ClassVar[str] = "photo"
    runs: ClassVar[int] = 1
    name: ClassVar[str] = "tezawari stylize"
    network: str
    photo: str
    output: str
    width: int
    height: int

    @property
    def what(self) -> str:
        """What is worked on, for a table."""
        return f"{self.width} × {self.height} px"

    def prepare(self, threads: int) -> Callable[[], object]:
        """Load all that the work needs, and return the work."""
        stylizer = Stylizer.load(Path(self.network) if self.network else None)
        style = torch.eye(len(stylizer.style_names))[0]

        def restyle() -> None:
            photo = read_photo(Path(self.photo))
            write_photo(Path(self.output), stylizer(photo.image, style), photo)

        return restyle


Job = TrainingJob | StylizeJob | PhotoJob
_KINDS: dict[str, type[Job]] = {kind.part: kind for kind in (TrainingJob, StylizeJob, PhotoJob)}


def measure(job: Job, threads: int) -> PeakMemory:
    """Do ``job`` in a fresh process of ``threads`` threads; raises UserError with the last line of a failure.

    Memory that is freed is kept for the next tensor as tezawari's own commands keep it, not so for a textbook network.
    """
    words = {"part": job.part, "threads": threads, **asdict(job)}
    command = [sys.executable, "-m", "tezawari.style.peak_memory", json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message: perhaps the memory ran out"])[-1]
        raise UserError(f"the memory of {job.name}, {job.what}, was not measured (exit {done.returncode}): {reason}")
    return PeakMemory(**json.loads(done.stdout.splitlines()[-1]))


def _main(words: dict[str, Any]) -> None:
    threads = words.pop("threads")
    torch.set_num_threads(threads)
    job = _KINDS[words.pop("part")](**words)
    if job.name not in TEXTBOOKS:
        keep_freed_memory()
    run = job.prepare(threads)
    loaded, seconds = peak_so_far(), 0.0
    for _ in range(job.runs):
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    print(json.dumps(asdict(PeakMemory(loaded, peak_so_far(), seconds))))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
