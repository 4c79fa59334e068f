"""The server is killed again and again while people annotate: what it acknowledged is there afterwards."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import numpy as np
from tests.unit.collect.store_material import collect
from tests.unit.studio.running import Running, running

from tezawari.collect.store import open_store
from tezawari.studio.database import Database
from tezawari.studio.job_work import Settings
from tezawari.studio.judgements import Judgements
from tezawari.studio.state import word_id

WORD = "つるつる"
KILLS, WRITERS, IMAGES = 6, 4, 30


def annotate_until_it_dies(
    server: Running, name: str, images: list[str], seed: int, answers: list[str]
) -> dict[str, bool]:
    """Judge random images and return, of each, the last verdict that was acknowledged, unless a later one may be.

    Every acknowledgement is noted in ``answers``.
    """
    random = np.random.default_rng(seed)
    known: dict[str, bool] = {}
    with server.client() as client:
        while True:
            image, verdict = images[random.integers(len(images))], bool(random.integers(2))
            try:
                answer = client.post(
                    f"/api/sets/{word_id(WORD)}/judgements", json={"annotator": name, "verdicts": {image: verdict}}
                )
            except httpx.TransportError:
                known.pop(image, None)  # it may or may not have been written
                return known
            assert answer.status_code == 200
            known[image] = verdict
            answers.append(name)


def test_no_acknowledged_judgement_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        collect(store, WORD, IMAGES)
        images = list({image.sha256 for image in store.images_of(WORD)})
    for kill in range(KILLS):
        known: dict[str, dict[str, bool]] = {}
        answers: list[str] = []
        with running(Settings(tmp_path)) as server:

            def write(name: str, seed: int, server: Running, known: dict, answers: list[str]) -> None:
                known[name] = annotate_until_it_dies(server, name, images, seed, answers)

            threads = [
                threading.Thread(target=write, args=(f"annotator {n}", 100 * kill + n, server, known, answers))
                for n in range(WRITERS)
            ]
            for thread in threads:
                thread.start()
            # Not after a time: on a busy machine nothing may have been answered by then.
            while len(answers) < 10 + 7 * kill and any(thread.is_alive() for thread in threads):
                time.sleep(0.002)
            server.process.kill()
            for thread in threads:
                thread.join()
        said = Judgements(Database(tmp_path)).of_word(WORD)
        assert known.keys() == {f"annotator {n}" for n in range(WRITERS)}
        for name, verdicts in known.items():
            assert verdicts.items() <= said.get(name, {}).items()
    with open_store(tmp_path) as store:
        judgements = Judgements(Database(tmp_path))
        judgements.mirror(store, WORD)  # what a killed server had not told the store yet
        assert store.annotations(WORD)
