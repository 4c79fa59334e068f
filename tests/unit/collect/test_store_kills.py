"""A collection that is killed again and again ends like one that never was: the same files, the same manifest."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event
from tests.unit.collect.store_material import encoded, fetched, files, find, picture, rank_by_content

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.export import export_word
from tezawari.collect.found import Fetched, Refused
from tezawari.collect.store import Store, open_store

WORD = "ごつごつ"
COUNT = 36
fork = multiprocessing.get_context("fork")


def _web() -> dict[str, tuple[Fetched, str | None] | Refused]:
    """What each URL of two sources answers: pictures, some of them twice or smaller, and refusals."""
    answers: dict[str, tuple[Fetched, str | None] | Refused] = {}
    for source in ("openverse", "commons"):
        for position in range(1, COUNT + 1):
            image = picture(position % 20)
            if position % 7 == 0:
                image = image.resize((70, 70))
            content = encoded(image, quality=90 if source == "openverse" else 75 + position % 3)
            url = find(position, f"{source}{position}").image_url
            refused = position % 9 == 0
            answers[url] = Refused("status", "404") if refused else (fetched(content), perceptual_hash(content))
    return answers


WEB = _web()


def collect_all(store: Store, seed: int) -> None:
    """Search two sources, fetch in an order of its own, rank."""
    for source in ("openverse", "commons"):
        query = store.begin_query(WORD, source, "ja", COUNT)
        if not store.is_exhausted(query):
            store.add_found(query, [find(place, f"{source}{place}", source) for place in range(1, COUNT + 1)])
            store.mark_exhausted(query)
    waiting = store.waiting(WORD)
    for place in np.random.default_rng(seed).permutation(len(waiting)):
        find_id, found = waiting[place]
        answer = WEB[found.image_url]
        if isinstance(answer, Refused):
            store.refuse(find_id, answer)
        else:
            store.keep(find_id, *answer)
    rank_by_content(store, WORD)


def run_child(folder: Path, seed: int, before: Callable[[], None] = lambda: None) -> multiprocessing.Process:
    def child() -> None:
        before()
        with open_store(folder) as store:
            collect_all(store, seed)
        os._exit(0)

    process = fork.Process(target=child)
    process.start()
    return process  # type: ignore[return-value]


def state(folder: Path, name: str) -> tuple[bytes, dict[str, bytes], object]:
    """Return all that a user sees of a store: the ZIP, the files, the numbers."""
    with open_store(folder, create=False) as store:
        assert store.waiting(WORD) == []
        export_word(store, WORD, folder.parent / name)
        return (folder.parent / name).read_bytes(), files(folder), store.summary(WORD)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes], object]:
    folder = tmp_path_factory.mktemp("undisturbed") / "set"
    process = run_child(folder, seed=0)
    process.join()
    assert process.exitcode == 0
    return state(folder, "set.zip")


def test_random_kills_lose_nothing_and_repeat_nothing(
    undisturbed: tuple[bytes, dict[str, bytes], object], tmp_path: Path
) -> None:
    rng = np.random.default_rng()
    folder, kills, fetched_after = tmp_path / "set", 0, []
    while kills < 25:
        process = run_child(folder, seed=kills)
        # Short enough that the work is not done before the kills are.
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
        fetched_after.append(len(files(folder)))
    assert fetched_after == sorted(fetched_after)
    process = run_child(folder, seed=99)
    process.join()
    assert process.exitcode == 0
    assert state(folder, "set.zip") == undisturbed


def _kill_at(name: str, countdown: int) -> None:
    """Let this process kill itself just before its ``countdown``-th call of a step that changes the store."""
    left = [countdown]

    def step(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if name == "commit":
        from sqlalchemy import Engine

        event.listen(Engine, "commit", step)
        return
    owner, attribute = {"fsync": (os, "fsync"), "replace": (Path, "replace")}[name]
    original = getattr(owner, attribute)

    def counted(*args: object) -> object:
        step()
        return original(*args)

    setattr(owner, attribute, counted)


def test_a_kill_before_any_step_loses_nothing_and_repeats_nothing(
    undisturbed: tuple[bytes, dict[str, bytes], object], tmp_path: Path
) -> None:
    folder, killed = tmp_path / "set", set()
    # The first commits make the tables, the queries and the finds; the others are those of images and refusals.
    points = [("commit", n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9)] + [("fsync", 1), ("replace", 1), ("fsync", 3)]
    for seed, (name, countdown) in enumerate(points):
        process = run_child(folder, seed, lambda name=name, countdown=countdown: _kill_at(name, countdown))  # type: ignore[misc]
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed.add((name, countdown))
        else:
            assert process.exitcode == 0
    assert killed == set(points)
    process = run_child(folder, seed=99)
    process.join()
    assert process.exitcode == 0
    assert state(folder, "set.zip") == undisturbed
