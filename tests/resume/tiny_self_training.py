"""Tiny self-training runs that kill themselves where they are told to, each in a process forked from one that waits.

The waiting process has imported everything, which spares each run its start, and has computed nothing, which a process
that forks must not. It reads a request a line and answers with an exit code: ``python -m
tests.resume.tiny_self_training LOG``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.resume.forked import start_forked
from tests.resume.tiny_train import REPOSITORY

TINY = [
    "model=stc",
    "model.rounds=2",
    "model.background=0.5",
    "model.crf.iterations=2",
    "backbone.weights=random",
    "data.train_scenes=5",
    "data.val_scenes=1",
    "data.image_size=32",
    "data.batch_size=2",
    "trainer.max_steps=6",
    "trainer.log_every=1",
    "trainer.val_every=3",
    "callbacks.checkpoint_every=1",
]


class Forks:
    """Starts runs and waits for them; what they print goes to ``log``."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.resume.tiny_self_training", str(log)],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def train(self, *words: str, die: str = "", agreements: Sequence[float] = ()) -> int:
        """Train and return the exit code, negative for a signal.

        Args:
            words: overrides besides :data:`TINY`.
            die: ``PLACE:SIGNAL``, see :func:`_die`.
            agreements: what the rounds' agreements are said to be, in place of measuring them.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"words": words, "die": die, "agreements": agreements}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the waiting process."""
        self._process.communicate()


def _die(place: str, number: int) -> None:
    """Have this process send itself signal ``number`` at a place.

    ``mask/S/M``: before mask M of stage S is written; ``step/N``: in the middle of the step after N others;
    ``closing/R``: before what was measured at the end of round R is written; ``closed/R``: right after.
    """
    from tezawari.segmentation.self_training import lightning_module, stages

    kind, which, *rest = place.split("/")

    def strike() -> None:
        os.kill(os.getpid(), signal.Signals(number))

    def around(write: Callable[..., None], name: str, before: bool, count: int = 1) -> Callable[..., None]:
        seen = 0

        def writing(path: Path, content: Any) -> None:
            nonlocal seen
            seen += name in (path.name, path.parent.name)
            due = seen == count and name in (path.name, path.parent.name)
            if due and before:
                strike()
            write(path, content)
            if due and not before:
                strike()

        return writing

    if kind == "mask":
        name = f"masks-{which}.unfinished"
        stages.write_mask = around(stages.write_mask, name, before=True, count=int(rest[0]))
    elif kind in ("closing", "closed"):
        before = kind == "closing"
        lightning_module.write_atomically = around(
            lightning_module.write_atomically, f"round-{which}.json", before=before
        )
    else:
        step = lightning_module.SelfTraining.training_step

        def training_step(self: Any, *args: Any) -> Any:
            if self.global_step == int(which):
                strike()
            return step(self, *args)

        lightning_module.SelfTraining.training_step = training_step  # type: ignore


def _train(words: list[str], die: str, agreements: list[float]) -> int:
    from tezawari.cli import train
    from tezawari.segmentation.self_training.lightning_module import SelfTraining

    if die:
        place, _, number = die.partition(":")
        _die(place, int(number))
    if agreements:
        SelfTraining._agreement = lambda self, stage: agreements[int(stage.folder.name[-1])]  # type: ignore[method-assign]
    return train([*TINY, *words], REPOSITORY)


def main(log: Path) -> None:
    """Answer requests until there are no more."""
    import tezawari.core.training
    import tezawari.data.scenes
    import tezawari.segmentation.self_training.lightning_module  # noqa: F401

    for line in sys.stdin:
        process = start_forked(partial(_train, **json.loads(line)), log)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
