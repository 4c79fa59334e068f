"""A word searched for together with nouns: what all searches find is the word's, and nothing is asked twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.collect.api_server import ApiServer, Reply, Request, serve

from tezawari.collect.cooccurrence import with_nouns
from tezawari.collect.gather import Named, search_words
from tezawari.collect.pages import Pages
from tezawari.collect.sources import open_source
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError

WORD = "ふわふわ"


def three_of_each(request: Request) -> Reply:
    """Answer as Bing did, with three images whose names say what was asked for."""
    asked = request.query["q"]
    value = [{"contentUrl": f"http://images.example/{asked}/{place}.jpg", "name": asked} for place in range(3)]
    return Reply({"value": value})


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serve(three_of_each) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def api(server: ApiServer) -> Named:
    return Named(server.url, open_source(server.url, Pages(interval=0.0)))


def asked(server: ApiServer) -> list[str]:
    return [request.query["q"] for request in server.requests]


def test_what_is_found_with_a_noun_joins_the_words_own_results(server: ApiServer, store: Store) -> None:
    assert search_words(store, [WORD], with_nouns([api(server)], ["犬", "髪"]), "ja", 9) == []
    assert asked(server) == [WORD, f"{WORD} 犬", f"{WORD} 髪"]
    assert store.words() == [WORD]
    found = [found for _, found in store.waiting(WORD)]
    assert {image.source for image in found} == {"bing-like"}
    # The best of each search come before the second best of any.
    assert [image.position for image in found] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert {image.title for image in found[:3]} == {WORD, f"{WORD} 犬", f"{WORD} 髪"}


def test_a_noun_that_is_added_later_is_all_that_is_searched_for(server: ApiServer, store: Store) -> None:
    search_words(store, [WORD], with_nouns([api(server)], ["犬"]), "ja", 9)
    search_words(store, [WORD], with_nouns([api(server)], ["犬", "髪"]), "ja", 9)
    assert asked(server) == [WORD, f"{WORD} 犬", f"{WORD} 髪"]


def test_a_folder_is_searched_for_the_word_alone(server: ApiServer, tmp_path: Path) -> None:
    folder = Named("folder", open_source(str(tmp_path)))
    assert [named.source.name for named in with_nouns([folder, api(server)], ["犬"])] == [
        "folder",
        "bing-like",
        "bing-like",
    ]
    assert with_nouns([folder], []) == [folder]
    with pytest.raises(UserError, match="犬: nouns go with search APIs only"):
        with_nouns([folder], ["犬"])
