"""Measuring the words of a studio: what comes of it, cancelled and taken up, and what the page is answered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tests.unit.collect.store_material import encoded, fetched, find
from tests.unit.studio.running import IMAGES, WORD

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.store import open_store
from tezawari.studio.job_work import MEASURED, Settings, open_work
from tezawari.studio.jobs import CancelledError, Work
from tezawari.studio.state import Studio, word_id
from tezawari.words.measures import chance

RED, GREEN, FEW = "あかあか", "みどり", "あおあお"
COLORS = {RED: (200, 40, 40), GREEN: (40, 200, 40), FEW: (40, 40, 200)}
COUNT, RANDOM = 6, 14


def noise(seed: int, color: tuple[int, int, int]) -> bytes:
    """A picture of coarse noise around a colour."""
    pixels = np.random.default_rng(seed).normal(color, 60, (12, 12, 3)).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Measured:
    """A store whose words were measured once: its work, what was reported, and what was written."""

    folder: Path
    work: Work
    reports: list[tuple[str, int, int]]
    result: dict[str, Any]
    written: dict[str, Any]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("measured")
    store, random = folder / "store", folder / "random"
    random.mkdir()
    for seed in range(RANDOM):
        color = np.random.default_rng(seed).integers(40, 216, 3).tolist()
        (random / f"{seed}.jpg").write_bytes(noise(900 + seed, tuple(color)))
    with open_store(store) as opened:
        for number, (word, color) in enumerate(COLORS.items()):
            count = COUNT - 1 if word == FEW else COUNT
            opened.add_found(
                opened.begin_query(word, "openverse", "ja", 9), [find(n, f"{word}{n}") for n in range(count)]
            )
            for place, (find_id, _) in enumerate(opened.waiting(word)):
                content = noise(100 * number + place, color)
                opened.keep(find_id, fetched(content), perceptual_hash(content))
        # One image of a word is random too, and not to be measured against itself.
        shutil.copy(opened.images_of(RED)[0].path, random / "own.jpg")
    work = open_work(Settings(store, negatives=random))
    reports: list[tuple[str, int, int]] = []
    wish = {"words": list(COLORS), "images": COUNT}
    result = work("measure", wish, folder / "made", lambda *said: reports.append(said))
    yield Measured(folder, work, reports, result, json.loads((store / "studio" / MEASURED).read_bytes()))
    torch.set_num_threads(threads)


def test_words_are_ranked_against_random_images_and_told_from_each_other(measured: Measured) -> None:
    written = measured.written
    assert (written["images"], written["random"], written["crops"]) == (COUNT, RANDOM, False)
    assert written["chance"] == chance(1, 3)
    assert [one["word"] for one in written["words"]] == [RED, GREEN]
    assert written["left_out"] == [{"word": FEW, "images": COUNT - 1}]
    with open_store(measured.folder / "store") as store:
        for one in written["words"]:
            for value, low, high in (one["precision"], one["entropy"]):
                assert low <= value <= high
            assert one["precision"][0] > written["random_precision"]
            assert sorted(one["top"]) == sorted(image.sha256 for image in store.images_of(one["word"]))
    confusion = written["confusion"]
    assert np.allclose(np.sum(confusion["shares"], axis=1), 1)
    # Red and green noise: a classifier of two words has no excuse.
    assert np.trace(confusion["shares"]) > 1.5
    assert confusion["accuracy"][0] == pytest.approx(np.trace(confusion["shares"]) / 2, abs=1e-3)


def test_progress_is_told_by_word_in_every_phase(measured: Measured) -> None:
    phases = list(dict.fromkeys(phase for phase, _, _ in measured.reports))
    assert phases[0] == "choosing"
    assert {"describing", "regions", "recognising", "entropy", "comparing"} < set(phases)
    for phase in ("describing", "regions", "recognising", "entropy"):
        assert {total for each, _, total in measured.reports if each == phase} == {2}
    assert max(done for phase, done, _ in measured.reports if phase == "entropy") == 2


def test_a_cancelled_measurement_leaves_the_last_one_and_another_takes_up_its_features(measured: Measured) -> None:
    def cancel(phase: str, done: int, total: int) -> None:
        if phase == "entropy":
            raise CancelledError

    wish = {"words": [RED], "images": COUNT}
    with pytest.raises(CancelledError):
        measured.work("measure", wish, measured.folder / "made", cancel)
    path = measured.folder / "store" / "studio" / MEASURED
    assert json.loads(path.read_bytes()) == measured.written
    # Without a single picture file left, what was computed before is enough.
    images, aside = measured.folder / "store" / "images", measured.folder / "aside"
    images.rename(aside)
    try:
        measured.work("measure", wish, measured.folder / "made", lambda *_: None)
    finally:
        aside.rename(images)
    again = json.loads(path.read_bytes())
    assert again["confusion"] is None
    (one,) = (one for one in measured.written["words"] if one["word"] == RED)
    # What a word gets does not hang on the words beside it.
    assert again["words"] == [one]
    path.write_text(json.dumps(measured.written))


def test_the_page_is_told_what_was_measured_last(client: TestClient, studio: Studio) -> None:
    path = studio.database.folder / MEASURED
    path.unlink(missing_ok=True)
    assert client.get("/api/words").json()["measured"] is None
    path.write_text('{"words": []}')
    assert client.get("/api/words").json()["measured"] == {"words": []}
    path.unlink()


def test_a_wish_to_measure_is_checked_before_it_waits(client: TestClient, studio: Studio) -> None:
    own = word_id(WORD)
    for form, status, said in (
        ({"sets": [own], "images": IMAGES + 1}, 422, "collect more, or measure fewer"),
        ({"sets": [own], "images": 4}, 422, "greater than or equal to 5"),
        ({"sets": [], "images": 5}, 422, "sets"),
        ({"sets": ["0" * 16], "images": 5}, 404, "no such set"),
    ):
        answer = client.post("/api/words/measure", json=form)
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]
    assert studio.jobs.recent() == []
    asked = client.post("/api/words/measure", json={"sets": [own, own], "images": IMAGES})
    assert (asked.status_code, asked.json()["kind"]) == (202, "measure")
    assert studio.jobs.recent()[0].request == {"words": [WORD], "images": IMAGES}
    client.post(f"/api/jobs/{asked.json()['id']}/cancel")
