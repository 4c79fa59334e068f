"""Collecting and ranking again, as the studio's worker does them; everything is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.unit.collect.api_server import ApiServer, Reply, Request, serve
from tests.unit.collect.store_material import encoded, picture
from tests.unit.studio.running import WORD

from tezawari.collect.store import open_store
from tezawari.core.errors import UserError
from tezawari.studio.job_work import Settings, open_work
from tezawari.studio.jobs import Work
from tezawari.studio.state import Studio, word_id

pytestmark = pytest.mark.usefixtures("one_thread")
COLLECT: dict[str, Any] = {"word": WORD, "language": "ja", "limit": 9, "backbone": "efficientnet_lite0"}


def quiet(phase: str, done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture
def web() -> Iterator[ApiServer]:
    """A search that answers as Bing did, one image for each query, and the images."""

    def answer(request: Request) -> Reply:
        if request.path == "/search":
            seed = len(request.query["q"])
            return Reply({"value": [{"contentUrl": f"{server.url}/{seed}.jpg", "name": request.query["q"]}]})
        if request.path == "/robots.txt":
            return Reply(status=404)
        return Reply(encoded(picture(int(request.path[1:-4]))), headers={"Content-Type": "image/jpeg"})

    with serve(answer) as server:
        yield server


@pytest.fixture
def work(tmp_path: Path) -> Work:
    (tmp_path / "random").mkdir()
    for seed in range(3):
        (tmp_path / "random" / f"{seed}.jpg").write_bytes(encoded(picture(900 + seed)))
    return open_work(Settings(tmp_path / "store", negatives=tmp_path / "random", allow_private=True))


def test_images_found_with_nouns_are_of_the_word_and_it_is_ranked_again_by_the_same_layer(
    work: Work, web: ApiServer, tmp_path: Path
) -> None:
    asked = {**COLLECT, "sources": [f"{web.url}/search"], "nouns": ["犬"], "layer": "block2"}
    result = work("collect", asked, tmp_path / "made", quiet)
    assert (result["images"], result["ranked"], result["problems"]) == (2, 2, [])
    with open_store(tmp_path / "store") as store:
        assert {image.found.title for image in store.images_of(WORD)} == {WORD, f"{WORD} 犬"}
        assert work("rank", {"word": WORD, "backbone": None, "layer": None}, tmp_path / "made", quiet)["ranked"] == 2
        assert store.rankings(WORD)[-1].features == "efficientnet_lite0/block2"


def test_negatives_that_are_not_there_are_named(tmp_path: Path, work: Work, web: ApiServer) -> None:
    lost = open_work(Settings(tmp_path / "store", negatives=tmp_path / "lost", allow_private=True))
    asked = {**COLLECT, "sources": [f"{web.url}/search"], "nouns": [], "layer": "block0"}
    with pytest.raises(UserError, match="lost: there is no such folder"):
        lost("collect", asked, tmp_path / "made", quiet)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nouns": [""]}, "query is empty"),
        ({"nouns": ["a\u0007"]}, "control character"),
        ({"nouns": ["犬"] * 9}, "nouns"),
        ({"backbone": "vgg61"}, "did you mean vgg"),
        ({"backbone": "vgg16", "layer": "block3"}, "vgg16 has no layer"),
    ],
)
def test_nouns_and_networks_are_checked_before_the_job_waits(
    client: TestClient, studio: Studio, change: dict[str, object], said: str
) -> None:
    answer = client.post("/api/sets", json={"word": "もこもこ", "sources": ["openverse"], **change})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert studio.jobs.recent() == []


def test_every_network_that_is_offered_has_layers_and_can_be_asked_for(client: TestClient, studio: Studio) -> None:
    for backbone in client.get("/api/sets/layers").json()["backbones"]:
        shown = client.get("/api/sets/layers", params={"backbone": backbone}).json()
        assert shown["usual"] in shown["layers"]
        wish = {"backbone": backbone, "layer": shown["usual"]}
        assert client.post(f"/api/sets/{word_id(WORD)}/rank", json=wish).status_code == 202
        assert studio.jobs.recent()[0].request == {"word": WORD, **wish}
    assert client.get("/api/sets/layers", params={"backbone": "../x"}).status_code == 422
