"""Searching and fetching into a store: nothing lost, nothing twice, nothing blamed on images that are not at fault."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import Engine, event
from tests.hostile.server import HostileServer, answer, serving
from tests.unit.collect.store_material import encoded, files, find, picture, rank_by_content

from tezawari.collect import gather
from tezawari.collect.export import export_word
from tezawari.collect.found import FoundImage
from tezawari.collect.gather import Named, UnreachableError, fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.sources.source import Source
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError

WORD = "ざらざら"
AGENT = "tezawari-tests/0"
HERE = Limits(allow_private=True, read_seconds=5, total_seconds=10)
fork = multiprocessing.get_context("fork")


class Results:
    """A source that yields what it is given, then fails where it is told to."""

    def __init__(self, found: list[FoundImage], failure: str = "", name: str = "results") -> None:
        self.name = name
        self.found = found
        self.failure = failure
        self.asked: list[str] = []

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        self.asked.append(query)
        yield from self.found[:limit]
        if self.failure:
            raise UserError(self.failure)


def named(source: Source) -> list[Named]:
    return [Named(source.name, source)]


def serve_pictures(server: HostileServer, count: int) -> list[str]:
    """Let ``server`` answer with pictures, some of them equal, smaller versions or missing; return the URLs."""
    for place in range(count):
        if place % 8 == 7:
            continue  # 404
        image = picture(place - 3 if place % 10 == 9 else place)
        server.answers[f"/{place}.jpg"] = answer(encoded(image.resize((64, 64)) if place % 6 == 5 else image))
    return [f"{server.url}/{place}.jpg" for place in range(count)]


def listed(folder: Path, urls: list[str]) -> list[Named]:
    file = folder / "urls.txt"
    file.write_text("\n".join(urls))
    return open_sources([str(file)])


def dead_urls(hosts: int, each: int) -> list[str]:
    """Return URLs of ports that nothing listens at."""
    urls = []
    for _ in range(hosts):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        urls += [f"http://127.0.0.1:{port}/{place}.jpg" for place in range(each)]
    return urls


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "store") as opened:
        yield opened


def test_what_is_found_is_fetched_and_a_second_run_asks_for_nothing(store: Store, tmp_path: Path) -> None:
    with serving(HostileServer()) as server:
        sources = listed(tmp_path, serve_pictures(server, 30))
        assert search_words(store, [WORD], sources, "ja", 100) == []
        seen: list[tuple[int, int]] = []
        assert fetch_waiting(store, [WORD], AGENT, HERE, 4, lambda *done: seen.append(done)) == 27
        assert seen == [(done, 30) for done in range(1, 31)]
        assert sorted(server.paths()) == sorted(f"/{place}.jpg" for place in range(30))
        before = len(server.requests)
        assert search_words(store, [WORD], sources, "ja", 100) == []
        assert fetch_waiting(store, [WORD], AGENT, HERE, 4) == 0
        assert len(server.requests) == before
    summary = store.summary(WORD)
    assert (summary.found, summary.waiting, summary.fetched) == (30, 0, 27)
    assert summary.refused == {"status": 3}
    # 9, 19 and 29 show what 6, 16 and 26 do, the last one smaller.
    assert (summary.exact_duplicates, summary.near_duplicates) == (2, 1)
    assert all(image.perceptual_hash for image in store.images_of(WORD))


def test_an_image_of_two_words_is_fetched_once(store: Store, tmp_path: Path) -> None:
    with serving(HostileServer()) as server:
        sources = listed(tmp_path, serve_pictures(server, 6))
        search_words(store, [WORD, "ごつごつ"], sources, "", 100)
        fetch_waiting(store, [WORD, "ごつごつ"], AGENT, HERE)
        assert len(server.paths()) == 6
    assert store.images_of(WORD) == store.images_of("ごつごつ")


def test_an_interrupted_search_keeps_what_it_found_and_begins_again(store: Store) -> None:
    everything = [find(place) for place in range(1, 8)]
    broken = Results(everything[:4], "results went away: type the same command again")
    assert search_words(store, [WORD], named(broken), "", 100) == [f"{WORD}: {broken.failure}"]
    assert [found for _, found in store.waiting(WORD)] == everything[:4]
    whole = Results(everything)
    assert search_words(store, [WORD], named(whole), "", 100) == []
    assert [found for _, found in store.waiting(WORD)] == everything
    assert search_words(store, [WORD], named(whole), "", 100) == []
    assert whole.asked == [WORD]
    search_words(store, [WORD], named(whole), "", 100, again=True)
    assert whole.asked == [WORD, WORD]
    assert store.summary(WORD).found == 7


def test_a_source_that_fails_twice_in_a_row_is_left_alone_and_the_others_go_on(store: Store) -> None:
    broken, whole = Results([], "there is no network", "broken"), Results([find(1)])
    words = ["a", "b", "c", "d"]
    progress: list[tuple[int, int]] = []
    problems = search_words(
        store, words, [*named(broken), *named(whole)], "", 9, progress=lambda *done: progress.append(done)
    )
    assert broken.asked == ["a", "b"]
    assert whole.asked == words
    assert len(problems) == 3
    assert "broken failed" in problems[-1]
    assert progress == [(done, 8) for done in range(1, 9)]


def test_a_word_without_results_is_said_and_searched_again_the_next_time(store: Store) -> None:
    nothing = Results([])
    for times in (1, 2):
        (problem,) = search_words(store, [WORD], named(nothing), "", 9)
        assert problem.startswith(f"{WORD}: nothing was found")
        assert len(nothing.asked) == times


def test_two_folders_are_two_sources_and_one_named_twice_is_one(store: Store, tmp_path: Path) -> None:
    for place, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.png").write_bytes(encoded(picture(place), "PNG"))
    sources = open_sources([f"{tmp_path}/one", f"{tmp_path}/other", f"{tmp_path}/one/../one/"])
    assert len(sources) == 2
    search_words(store, [WORD], sources, "", 9)
    assert fetch_waiting(store, [WORD], AGENT, Limits()) == 2
    (tmp_path / "one" / "more.png").write_bytes(encoded(picture(7), "PNG"))
    search_words(store, [WORD], sources, "", 9, again=True)
    assert fetch_waiting(store, [WORD], AGENT, Limits()) == 1


def test_what_the_network_names_is_never_read_from_the_disk(store: Store, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    for name in ("open/image.png", "secret.png"):
        (tmp_path / name).write_bytes(encoded(picture(len(name)), "PNG"))
    evil = Results([FoundImage(str(tmp_path / "secret.png"), "results", 1)])
    search_words(store, [WORD], [*open_sources([str(tmp_path / "open")]), *named(evil)], "", 9)
    careless = Limits(allow_private=True, allow_files=True)
    assert fetch_waiting(store, [WORD], AGENT, careless) == 1
    assert store.summary(WORD).refused == {"address": 1}
    assert [image.found.source for image in store.images_of(WORD)] == ["folder"]


@pytest.mark.parametrize(("hosts", "each"), [(1, 3), (4, 20)])
def test_where_nothing_can_be_reached_everything_goes_on_waiting(
    store: Store, tmp_path: Path, hosts: int, each: int
) -> None:
    search_words(store, [WORD], listed(tmp_path, dead_urls(hosts, each)), "", 100)
    with pytest.raises(UnreachableError, match=r"could not be reached .* check the network"):
        fetch_waiting(store, [WORD], AGENT, HERE)
    assert store.summary(WORD).waiting == hosts * each


def test_a_dead_host_among_others_is_refused(store: Store, tmp_path: Path) -> None:
    with serving(HostileServer()) as server:
        urls = serve_pictures(server, 4)
        search_words(store, [WORD], listed(tmp_path, [*dead_urls(1, 5), *urls]), "", 100)
        assert fetch_waiting(store, [WORD], AGENT, HERE) == 4
    assert store.summary(WORD).refused == {"connection": 5}
    store.retry(WORD, {"connection"})
    assert store.summary(WORD).waiting == 5


def test_a_store_that_cannot_be_written_ends_it_and_nothing_is_lost(store: Store, tmp_path: Path) -> None:
    with serving(HostileServer()) as server:
        search_words(store, [WORD], listed(tmp_path, serve_pictures(server, 12)), "", 100)
        (tmp_path / "store" / "images").write_text("a file is in the way")
        with pytest.raises(UserError, match="cannot be written"):
            fetch_waiting(store, [WORD], AGENT, HERE)
        (tmp_path / "store" / "images").unlink()
        fetch_waiting(store, [WORD], AGENT, HERE)
    assert store.summary(WORD).fetched == 11


def test_no_more_images_are_in_memory_than_are_under_way(store: Store, tmp_path: Path) -> None:
    with serving(HostileServer()) as server:
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
        content = answer(encoded(Image.fromarray(noise), "PNG"))
        server.answers |= {f"/{place}.png": content for place in range(120)}
        search_words(store, [WORD], listed(tmp_path, [server.url + path for path in server.answers]), "", 300)
        tracemalloc.start()
        fetch_waiting(store, [WORD], AGENT, HERE, workers=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert store.summary(WORD).fetched == 120
    assert peak < 50 * len(content)  # four that arrive, eight that are written, some copies; not 120


def test_what_was_written_is_recorded_though_the_download_then_fails(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_LONGEST_UNRECORDED_SECONDS", 1e9)
    monkeypatch.setattr(gather, "_RECORDED_AT_ONCE", 1000)

    def progress(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with serving(HostileServer()) as server:
        search_words(store, [WORD], listed(tmp_path, serve_pictures(server, 30)), "", 100)
        with pytest.raises(KeyboardInterrupt):
            fetch_waiting(store, [WORD], AGENT, HERE, 4, progress)
    assert 10 <= store.summary(WORD).fetched < 27


def test_a_worker_at_least_is_needed(store: Store, tmp_path: Path) -> None:
    search_words(store, [WORD], listed(tmp_path, dead_urls(1, 1)), "", 100)
    with pytest.raises(UserError, match="workers=0"):
        fetch_waiting(store, [WORD], AGENT, HERE, workers=0)


# --- kills ------------------------------------------------------------------------------------------------------------

COUNT = 60


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A list of URLs that a process of its own answers: one that forks must hold no threads."""
    server = HostileServer()
    urls = serve_pictures(server, COUNT)
    process = fork.Process(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    process.start()
    server.socket.close()
    file = tmp_path_factory.mktemp("web") / "urls.txt"
    file.write_text("\n".join(urls))
    yield file
    process.kill()
    process.join()


def _gather(folder: Path, web: Path) -> None:
    with open_store(folder) as store:
        assert search_words(store, [WORD], open_sources([str(web)]), "ja", COUNT) == []
        fetch_waiting(store, [WORD], AGENT, HERE, 4)


def _child(folder: Path, web: Path, step: str, countdown: int) -> None:
    """Gather, and be killed at a call of ``step``: before a commit, or before an image is on disk."""
    left = itertools.count(countdown - 1, -1)

    def count(*_: object) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if step == "commit":
        event.listen(Engine, "commit", count)
    else:
        fsync = os.fsync
        os.fsync = lambda file: (count(), fsync(file))[1]  # type: ignore[assignment]
    _gather(folder, web)
    os._exit(0)


def _state(folder: Path) -> tuple[bytes, dict[str, bytes], object]:
    """Return all that a user sees of a store: the ZIP, the files, the numbers."""
    with open_store(folder, create=False) as store:
        assert store.waiting(WORD) == []
        rank_by_content(store, WORD)
        export_word(store, WORD, folder.parent / f"{folder.name}.zip")
        return (folder.parent / f"{folder.name}.zip").read_bytes(), files(folder), store.summary(WORD)


def test_a_collection_killed_anywhere_ends_like_one_that_was_not(
    web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "_RECORDED_AT_ONCE", 4)
    _gather(tmp_path / "undisturbed", web)
    undisturbed = _state(tmp_path / "undisturbed")
    rng = np.random.default_rng()
    folder, held = tmp_path / "killed", [0]
    for step in rng.permutation(["commit"] * 4 + ["fsync"] * 4):
        # All kills together come before the last of the 50 images is stored.
        process = fork.Process(target=_child, args=(folder, web, step, int(rng.integers(1, 5))))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        held.append(len(files(folder)))
    assert held == sorted(held)
    assert 0 < held[-1] < len(undisturbed[1])
    _gather(folder, web)
    assert _state(folder) == undisturbed
