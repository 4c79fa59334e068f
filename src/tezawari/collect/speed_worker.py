"""The measured side of the speed benchmark: one piece of work in a process that does nothing else.

``python -m tezawari.collect.speed_worker JOB`` does what the JSON object JOB describes and prints one line of JSON;
:func:`measure` is the caller's side of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tezawari.collect.download import Downloader
from tezawari.collect.found import Fetched, FoundImage
from tezawari.collect.gather import fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.pages import user_agent
from tezawari.collect.store import open_store
from tezawari.core.errors import UserError
from tezawari.core.machine import keep_freed_memory, peak_so_far

WORD = "ふわふわ"
START = "imports, weights"
"""The stage that a first start has and a running process has not."""

_MOST_RESULTS = 1_000_000


@dataclass(frozen=True)
class Job:
    """What to do with the images of a list of URLs: download them and forget them, or a whole collection.

    ``folder`` is for the store; ``threads`` and what follows are of the ranking, and its names those of ``tezawari
    collect``.
    """

    part: Literal["download", "whole"]
    urls: str
    folder: str
    workers: int
    per_host: int
    threads: int
    backbone: str
    weights: str | None
    layer: str | None


@dataclass(frozen=True)
class Stage:
    """One stage of a job: wall seconds, and those that the process spent on processors, of all cores together."""

    name: str
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Measured:
    """What a job took; ``peak_mb`` in 10⁶ bytes, ``images`` that arrived and, of a whole collection, were ranked."""

    stages: list[Stage]
    peak_mb: float
    images: int


def measure(job: Job) -> Measured:
    """Do ``job`` in a fresh process; raises UserError with the last line of a failure."""
    command = [sys.executable, "-m", "tezawari.collect.speed_worker", json.dumps(asdict(job))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message: perhaps the memory ran out"])[-1]
        raise UserError(f"{job.part} was not measured (exit {done.returncode}): {reason}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured([Stage(**stage) for stage in said["stages"]], said["peak_mb"], said["images"])


class _Stages:
    """Times what is done under a name."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.done.append(Stage(name, time.monotonic() - wall, time.process_time() - cpu))


def _download(job: Job, limits: Limits, stage: _Stages) -> int:
    urls = Path(job.urls).read_text(encoding="utf-8").split()
    found = (FoundImage(url, "list", place) for place, url in enumerate(urls, 1))
    with stage("download"), Downloader(user_agent(), limits) as downloader:
        return sum(isinstance(outcome, Fetched) for _, outcome in downloader.fetch_all(found, job.workers))


def _collect(job: Job, limits: Limits, stage: _Stages) -> int:
    """Do what ``tezawari collect`` does, in the same order."""
    with stage(START):
        # Here: torch takes seconds to import, and downloading does without.
        from tezawari.collect import rerank_store

        layer = job.layer or rerank_store.default_layer(job.backbone)
        folder = Path(job.folder)
        store = open_store(folder)
        descriptors = rerank_store.open_descriptors(folder, job.backbone, layer, job.weights)
        negatives = rerank_store.negatives_of_photos()
    with store:
        with stage("search"):
            search_words(store, [WORD], open_sources([job.urls]), "ja", _MOST_RESULTS)
        with stage("fetch, check, store"):
            fetch_waiting(store, [WORD], user_agent(), limits, job.workers)
        with stage("describe, rank twice"):
            return rerank_store.rank_word(store, WORD, descriptors, layer, negatives)


def _main(job: Job) -> None:
    keep_freed_memory()  # as every command does
    limits = Limits(allow_private=True, per_host=job.per_host)
    stages = _Stages()
    images = (_download if job.part == "download" else _collect)(job, limits, stages)
    print(json.dumps(asdict(Measured(stages.done, peak_so_far(), images))))


if __name__ == "__main__":
    _main(Job(**json.loads(sys.argv[1])))
