"""The API of sets, judgements and jobs, as a page uses it."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from PIL import Image
from tests.hostile.pictures import encoded
from tests.unit.studio.running import IMAGES, PORT, WORD

from tezawari.collect.store import open_store
from tezawari.studio.app import create_app
from tezawari.studio.job_work import Settings
from tezawari.studio.safety import Safety
from tezawari.studio.state import Studio, word_id

SET = f"/api/sets/{word_id(WORD)}"


@pytest.fixture
def images(client: TestClient) -> list[str]:
    return [image["id"] for image in client.get(SET).json()["images"]]


def test_a_set_comes_with_its_images_licences_and_passes(client: TestClient) -> None:
    (listed,) = client.get("/api/sets").json()
    assert (listed["word"], listed["images"], listed["ranked"], listed["hidden"]) == (WORD, IMAGES, True, False)
    shown = client.get(SET).json()
    assert len(shown["images"]) == IMAGES
    assert {image["licence"] for image in shown["images"]} == {"by-sa 4.0"}
    assert [each["number"] for each in shown["passes"]] == [1, 2]
    for each in shown["passes"]:
        assert sorted(each["order"]) == list(range(IMAGES))
        assert each["scores"] == sorted(each["scores"], reverse=True)


def test_images_and_thumbnails_are_shown_as_what_they_are(client: TestClient, images: list[str]) -> None:
    for kind in ("images", "thumbnails"):
        answer = client.get(f"{SET}/{kind}/{images[0]}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert "immutable" in answer.headers["cache-control"]
        assert max(Image.open(io.BytesIO(answer.content)).size) <= 256


def test_all_who_come_first_wait_for_one_reading_of_the_word(
    client: TestClient, studio: Studio, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = studio.store.images_and_rankings
    words: list[str] = []

    def slow(word: str) -> object:
        words.append(word)
        time.sleep(0.1)
        return read(word)

    monkeypatch.setattr(studio.store, "images_and_rankings", slow)
    monkeypatch.setattr(studio, "_views", {})
    with ThreadPoolExecutor(6) as pool:
        views = list(pool.map(studio.view, [WORD] * 6))
    assert words == [WORD]
    assert all(list(view.images) == images for view in views)


def test_a_word_that_is_collected_while_the_studio_runs_is_found(tmp_path: Path) -> None:
    studio = Studio(Settings(tmp_path), Safety("127.0.0.1", PORT))
    with pytest.raises(HTTPException):
        studio.word(word_id(WORD))
    with open_store(tmp_path) as store:
        store.begin_query(WORD, "openverse", "ja", 5)
    assert studio.word(word_id(WORD)) == WORD
    studio.store.close()


def test_a_set_is_put_away_and_taken_back(client: TestClient) -> None:
    assert client.post(f"{SET}/hide", json={"hidden": True}).json()["hidden"]
    assert [each["hidden"] for each in client.get("/api/sets").json()] == [True]
    assert not client.post(f"{SET}/hide", json={"hidden": False}).json()["hidden"]
    assert client.get(SET).status_code == 200


def test_judgements_are_told_to_others_undone_and_compared(client: TestClient, images: list[str]) -> None:
    said = client.post(f"{SET}/judgements", json={"annotator": "愛子", "verdicts": {images[0]: True, images[1]: True}})
    client.post(f"{SET}/judgements", json={"annotator": "Ben", "verdicts": {images[0]: True, images[1]: False}})
    first = said.json()["changes"][-1]["seq"]
    told = client.get(f"{SET}/judgements", params={"since": first}).json()
    assert [(c["annotator"], c["verdict"]) for c in told["changes"]] == [("Ben", True), ("Ben", False)]
    (pair,) = client.get(f"{SET}/agreement").json()
    assert (pair["images"], pair["agreed"], pair["differing"]) == (2, 1, [images[1]])
    assert client.get(SET).json()["verdicts"]["愛子"] == {images[0]: True, images[1]: True}
    undone = client.post(f"{SET}/judgements/undo", json={"annotator": "愛子"}).json()["changes"]
    assert {c["image"] for c in undone} == {images[0], images[1]}
    client.post(f"{SET}/judgements/undo", json={"annotator": "Ben"})
    assert client.get(SET).json()["verdicts"] == {}


@pytest.mark.parametrize(
    "form",
    [
        {"annotator": "", "verdicts": {"0" * 64: True}},
        {"annotator": " \n", "verdicts": {"0" * 64: True}},
        {"annotator": "A\u0000b", "verdicts": {"0" * 64: True}},
        {"annotator": "A\u202eb", "verdicts": {"0" * 64: True}},
        {"annotator": "A" * 41, "verdicts": {"0" * 64: True}},
        {"annotator": "A", "verdicts": {}},
        {"annotator": "A", "verdicts": {"0" * 64: True}},
        {"annotator": "A", "verdicts": {"../x": True}},
        {"annotator": "A", "verdicts": {"0" * 64: "yes"}},
        {"annotator": "A", "verdicts": {"0" * 64: 1}},
        {"annotator": "A", "verdicts": {"0" * 64: True}, "word": "x"},
        {"annotator": ["A"], "verdicts": {"0" * 64: True}},
        [],
        None,
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(client: TestClient, form: object) -> None:
    answer = client.post(f"{SET}/judgements", json=form)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": ""}, "word"),
        ({"word": "a\u0000"}, "control character"),
        ({"sources": []}, "sources"),
        ({"sources": ["/etc"]}, "no source"),
        ({"sources": ["http://127.0.0.1/search"]}, "no source"),
        ({"sources": ["folder"]}, "no source"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"language": "xxxx"}, "language"),
        ({"source": "openverse"}, "source"),
    ],
)
def test_a_wish_to_collect_is_checked_before_it_waits(
    client: TestClient, studio: Studio, change: dict[str, object], said: str
) -> None:
    before = len(studio.jobs.recent())
    answer = client.post("/api/sets", json={"word": "もこもこ", "sources": ["openverse"], **change})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert len(studio.jobs.recent()) == before


def test_a_full_queue_answers_when_to_come_back(client: TestClient) -> None:
    photo = client.post("/api/photos", content=encoded("PNG")).json()["id"]
    answers = [client.post("/api/styles", json={"photo": photo}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202] * 3 + [503]
    assert int(answers[3].headers["retry-after"]) > 0
    for answer in answers[:3]:
        cancelled = client.post(f"/api/jobs/{answer.json()['id']}/cancel").json()
        assert cancelled["state"] == "cancelled"
        assert client.get(f"/api/jobs/{cancelled['id']}/files/style-0.jpg").status_code == 404
    assert [job["state"] for job in client.get("/api/jobs").json()][:3] == ["cancelled"] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"no_such_style": 1.0}},
        {"weights": {"the_scream": -1.0}},
        {"weights": {"the_scream": 1e9}},
        {"weights": {"the_scream": "1"}},
        {"feather": 7.0},
        {"photo": "../../x"},
        {"map": "x"},
        {"full": "yes"},
    ],
)
def test_a_wish_to_restyle_is_checked_before_it_waits(client: TestClient, change: dict[str, object]) -> None:
    photo = client.post("/api/photos", content=encoded("PNG")).json()["id"]
    answer = client.post("/api/restyle", json={"photo": photo, "weights": {"the_scream": 1.0}, **change})
    assert answer.status_code == 422


def test_infinite_weights_are_no_numbers_of_json(client: TestClient) -> None:
    body = '{"photo": "' + "0" * 32 + '", "weights": {"the_scream": NaN}}'
    assert client.post("/api/restyle", content=body, headers={"content-type": "application/json"}).status_code == 422


def test_segmenting_without_a_segmenter_says_what_to_type(client: TestClient) -> None:
    photo = client.post("/api/photos", content=encoded("PNG")).json()["id"]
    answer = client.post("/api/segment", json={"photo": photo, "methods": ["cam"]})
    assert answer.status_code == 422
    assert "--segmenter RUN" in answer.json()["error"]["message"]


def test_any_request_that_the_api_describes_is_answered_without_a_bug(studio: Studio) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'tezawari[dev]'")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    app = create_app(studio)
    client = TestClient(
        app, base_url="http://127.0.0.1:8765", headers={"x-tezawari": "1"}, raise_server_exceptions=False
    )
    schema = schemathesis.openapi.from_dict(app.openapi())
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 20

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.one_of([operation.as_strategy() for operation in operations]))
    def answered(case: object) -> None:
        sent = case.as_transport_kwargs(base_url="http://127.0.0.1:8765")
        sent.pop("cookies", None)
        sent["headers"] = {
            k: v for k, v in dict(sent.get("headers") or {}).items() if k.lower() not in ("host", "user-agent")
        }
        answer = client.request(**sent)
        assert answer.status_code < 500 or answer.status_code == 503, (sent, answer.text)

    answered()
