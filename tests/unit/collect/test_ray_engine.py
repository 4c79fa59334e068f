"""Fetching and describing by many: the same results as by one, each host one worker's, and workers that are killed.

What does not need Ray itself is tried on a cluster of threads, too.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hostile.server import HostileServer, Say, answer, serving
from tests.unit.collect.store_material import encoded, files, picture

from tezawari.cli import main
from tezawari.collect import ray_engine
from tezawari.collect.contact_sheet import load_pixels
from tezawari.collect.download import Downloader, Errand, fetch_all, first_errand
from tezawari.collect.found import FoundImage, Refused
from tezawari.collect.gather import fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.ray_engine import Cluster, Crew, Fetcher, connected, fetch_sharded
from tezawari.collect.rerank_ray import open_cluster_descriptors
from tezawari.collect.rerank_store import Negatives, PictureFile, open_descriptors, rank_word
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError
from tezawari.features.descriptors import describe

AGENT = "tezawari-test/0.1 (tests)"
HERE = Limits(allow_private=True, total_seconds=20, connect_seconds=5)
WORD = "ごつごつ"
BACKBONE, LAYER = "efficientnet_lite0", "block1"
_NO_RAY = "needs Ray: pip install 'tezawari[ray]'"
# Spellings of one address are as many hosts.
HOSTS = ("127.0.0.1", "127.1", "0x7f.1", "2130706433")


class ThreadCrew:
    """Workers of one kind, each with threads of its own."""

    def __init__(self, kind: type, arguments: Sequence[Any], concurrency: int) -> None:
        self._make = lambda: kind(*arguments)
        self._concurrency = concurrency
        self._workers: dict[int, tuple[Any, ThreadPoolExecutor]] = {}

    def give(self, worker: int, task: Any) -> Future[Any]:
        if worker not in self._workers:
            self._workers[worker] = self._make(), ThreadPoolExecutor(self._concurrency)
        made, pool = self._workers[worker]
        return pool.submit(made.work, task)

    def stop(self) -> None:
        for _, pool in self._workers.values():
            pool.shutdown(cancel_futures=True)


class ThreadCluster(Cluster):
    """A cluster of two cores that are threads of this process."""

    def __init__(self) -> None:
        self.cores = 2

    def crew(self, kind: type, arguments: Sequence[Any], concurrency: int, cores: int | None) -> ThreadCrew:  # type: ignore[override]
        return ThreadCrew(kind, arguments, concurrency)


@pytest.fixture(scope="module")
def ray_running() -> Iterator[Any]:
    """Ray on this machine, started once: it takes seconds."""
    ray = pytest.importorskip("ray", reason=_NO_RAY)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def ray_cluster(ray_running: Any) -> Iterator[Cluster]:
    """Each test's own workers: those that compute would keep the cores from the next test's."""
    with connected() as cluster:
        yield cluster
    assert ray_running.is_initialized()  # it was there before, so it stays


@pytest.fixture(params=["threads", "ray"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return ThreadCluster() if request.param == "threads" else request.getfixturevalue("ray_cluster")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving(HostileServer()) as running:
        yield running


def redirect(url: str) -> bytes:
    return answer(status="302 Found", headers=[f"Location: {url}"])


def url_at(server: HostileServer, host: int, path: str) -> str:
    return f"http://{HOSTS[host % len(HOSTS)]}:{server.port}{path}"


def found(urls: Sequence[str]) -> list[FoundImage]:
    return [FoundImage(url, "list", place) for place, url in enumerate(urls, 1)]


def hostile_urls(server: HostileServer, count: int) -> list[str]:
    """Let ``server`` answer with pictures, redirects to other hosts, and refusals; return URLs of several hosts."""
    server.answers["/robots.txt"] = answer(b"User-agent: *\nDisallow: /secret\n", type="text/plain")
    server.answers["/loop"] = redirect(url_at(server, 1, "/loop2"))
    server.answers["/loop2"] = redirect(url_at(server, 2, "/loop"))
    server.answers["/to-secret"] = redirect(url_at(server, 3, "/secret/1.jpg"))
    server.answers["/to-file"] = redirect("file:///etc/passwd")
    server.answers["/text"] = answer(b"no picture", type="text/plain")
    paths = ["/loop", "/to-secret", "/to-file", "/text", "/missing", "/secret/1.jpg"]
    for place in range(count):
        server.answers[f"/{place}.jpg"] = answer(encoded(picture(place - 3 if place % 10 == 9 else place)))
        server.answers[f"/from/{place}"] = redirect(url_at(server, place + 1, f"/{place}.jpg"))
        paths.append(f"/from/{place}" if place % 3 == 0 else f"/{place}.jpg")
    return [*(url_at(server, place, path) for place, path in enumerate(paths)), "ftp://127.0.0.1/a.jpg", "http://"]


def test_many_fetch_what_one_does_and_each_host_is_one_fetchers(server: HostileServer) -> None:
    images = found(hostile_urls(server, 12))
    alone = dict(fetch_all(images, AGENT, HERE))
    given: list[tuple[int, str]] = []
    crew = ThreadCrew(Fetcher, (AGENT, HERE), 8)

    def give(fetcher: int, task: tuple[Errand, str]) -> Future[Any]:
        given.append((fetcher, task[1]))
        return crew.give(fetcher, task)

    together = dict(fetch_sharded(images, HERE, give, fetchers=3, most_under_way=8))
    crew.stop()
    assert together == alone
    reasons = [outcome.reason for outcome in together.values() if isinstance(outcome, Refused)]
    assert sorted(reasons) == ["address"] * 3 + ["redirects", "robots", "robots", "status", "type"]
    named = {(fetcher, host) for fetcher, host in given if host}
    assert sorted(host for _, host in named) == sorted(HOSTS)
    assert {fetcher for fetcher, _ in named} == {0, 1, 2}
    assert len(given) > len(images)  # redirects to other hosts came back and went on


def test_the_limit_of_a_host_holds_for_those_that_redirects_lead_to_it(server: HostileServer) -> None:
    at_once, most, lock = 0, 0, threading.Lock()
    content = answer(encoded(picture(1)))

    def slow(connection: socket.socket, number: int) -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        connection.sendall(content)

    for place in range(8):
        server.answers[f"/busy/{place}"] = slow
        server.answers[f"/from/{place}"] = redirect(url_at(server, 0, f"/busy/{place}"))
    urls = [url_at(server, place % 3, f"/{'from' if place % 3 else 'busy'}/{place % 8}") for place in range(24)]
    limits = Limits(allow_private=True, per_host=2)
    outcomes = [outcome for _, outcome in ThreadCluster().fetch_all(found(urls), AGENT, limits)]
    assert len(outcomes) == 24
    assert not any(isinstance(outcome, Refused) for outcome in outcomes)
    assert most == 2


def test_an_errand_that_goes_on_at_another_host_has_less_left(server: HostileServer) -> None:
    def slow_redirect(connection: socket.socket, number: int) -> None:
        time.sleep(0.1)
        connection.sendall(redirect(url_at(server, 1, "/there")))

    said: Say = slow_redirect
    server.answers |= {"/here": redirect(url_at(server, 0, "/still here")), "/still%20here": said}
    first = first_errand(url_at(server, 0, "/here"), HERE)
    with Downloader(AGENT, HERE) as downloader:
        errand = downloader.fetch_at_host(first)
    assert isinstance(errand, Errand)
    assert errand.url == url_at(server, 1, "/there")
    assert errand.redirects_left == first.redirects_left - 2
    assert first.seconds_left - 10 < errand.seconds_left < first.seconds_left - 0.1
    assert errand.bytes_left < first.bytes_left
    assert "/there" not in server.paths()


def test_a_host_that_wants_pauses_is_waited_for_by_one_image_at_a_time(server: HostileServer) -> None:
    server.answers["/robots.txt"] = answer(b"User-agent: *\nCrawl-delay: 0.2\n", type="text/plain")
    server.answers |= {f"/{place}": answer(encoded(picture(place))) for place in range(5)}
    urls = [url_at(server, 0, f"/{place}") for place in range(5)]
    given: list[Future[Any]] = []
    crew = ThreadCrew(Fetcher, (AGENT, HERE), 8)

    def give(fetcher: int, task: tuple[Errand, str]) -> Future[Any]:
        if len(given) >= HERE.per_host:  # those before were begun before robots.txt was read
            assert all(future.done() for future in given)
        given.append(crew.give(fetcher, task))
        return given[-1]

    began = time.monotonic()
    outcomes = [outcome for _, outcome in fetch_sharded(found(urls), HERE, give, 2, 8)]
    assert not any(isinstance(outcome, Refused) for outcome in outcomes)
    assert time.monotonic() - began > 4 * 0.2
    assert len(given) == 5
    crew.stop()


def test_a_bug_in_a_worker_is_raised_where_results_are_taken() -> None:
    def give(fetcher: int, task: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(ZeroDivisionError("a bug"))
        return future

    with pytest.raises(ZeroDivisionError):
        list(fetch_sharded(found(["http://127.0.0.1/a"]), HERE, give, 2, 4))
    with pytest.raises(UserError, match="workers=0"):
        next(ThreadCluster().fetch_all([], AGENT, HERE, workers=0))


# --- a whole collection -----------------------------------------------------------------------------------------------


def searched(folder: Path, urls: Sequence[str]) -> Store:
    """Return a new store whose word waits for ``urls`` and for two files of a folder."""
    local = folder.parent / "local"
    local.mkdir(exist_ok=True)
    for place in range(2):
        (local / f"{place}.png").write_bytes(encoded(picture(70 + place), "PNG"))
    listed = folder.parent / "urls.txt"
    listed.write_text("\n".join(url for url in urls if url.startswith("http://") and url != "http://"))
    store = open_store(folder)
    assert search_words(store, [WORD], open_sources([str(listed), str(local)]), "ja", 100) == []
    return store


@pytest.fixture
def negatives(tmp_path: Path) -> Negatives:
    images = {}
    for place in range(6):
        (tmp_path / f"negative{place}.png").write_bytes(encoded(picture(200 + place), "PNG"))
        images[f"{place:064}"] = PictureFile(tmp_path / f"negative{place}.png")
    # As crops of photographs are: no file, but something that gives pixels.
    return Negatives({**images, "f" * 64: lambda: np.full((50, 90, 3), 200, np.uint8)}, "of the test")


def rank_alone(store: Store, negatives: Negatives) -> None:
    rank_word(store, WORD, open_descriptors(store.folder, BACKBONE, LAYER, "random"), LAYER, negatives)


def state(store: Store) -> object:
    """Return all that is kept of the word, apart from scores."""
    images = [(image.sha256, image.found, image.duplicates, image.perceptual_hash) for image in store.images_of(WORD)]
    passes = [(ranked.number, ranked.features, list(ranked.scores)) for ranked in store.rankings(WORD)]
    return images, store.summary(WORD), files(store.folder), passes


def scores(store: Store) -> list[float]:
    return [score for ranked in store.rankings(WORD) for score in ranked.scores.values()]


def test_a_collection_is_the_same_by_either_engine(
    server: HostileServer, tmp_path: Path, cluster: Cluster, negatives: Negatives, one_thread: None
) -> None:
    urls = hostile_urls(server, 20)
    with searched(tmp_path / "alone", urls) as alone:
        assert fetch_waiting(alone, [WORD], AGENT, HERE) == 22
        rank_alone(alone, negatives)
        expected, expected_scores = state(alone), scores(alone)
    seen: list[tuple[int, int]] = []
    with searched(tmp_path / "together", urls) as together:
        assert fetch_waiting(together, [WORD], AGENT, HERE, fetch=cluster.fetch_all) == 22
        descriptors = open_cluster_descriptors(together.folder, BACKBONE, LAYER, "random", cluster)
        rank_word(together, WORD, descriptors, LAYER, negatives, lambda *done: seen.append(done))
        assert state(together) == expected
        assert scores(together) == pytest.approx(expected_scores, abs=1e-4)
        assert len(expected_scores) > 20
        assert seen[-1] == (seen[-1][1],) * 2
        # The cache is the one that a machine alone reads: nothing is computed again.
        for path in (together.folder / "images").rglob("*.*"):
            path.unlink()
        rank_alone(together, Negatives(dict.fromkeys(negatives.images, pytest.fail), "cached"))
        assert scores(together) == pytest.approx(expected_scores, abs=1e-4)


def test_descriptors_are_those_of_this_machine_though_the_weights_are_not_on_the_others(
    tmp_path: Path, cluster: Cluster, one_thread: None
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture(1), "PNG"))
    descriptors = open_cluster_descriptors(tmp_path / "store", BACKBONE, LAYER, "random", cluster)
    rows = descriptors.describe({"a": PictureFile(path), "b": lambda: load_pixels(path, 60)}, [LAYER])[LAYER]
    expected = describe(descriptors.backbone, [load_pixels(path, 448), load_pixels(path, 60)], [LAYER])[LAYER]
    assert rows == pytest.approx(expected, abs=1e-5)
    assert descriptors.describe({}, [LAYER])[LAYER].shape == (0, expected.shape[1])
    with pytest.raises(UserError, match="without layer 'block9'"):
        descriptors.describe({}, ["block9"])


@pytest.mark.parametrize("content", [None, b"\x89PNG damaged"])
def test_a_picture_that_is_gone_or_damaged_is_named_and_the_others_are_kept(
    tmp_path: Path, cluster: Cluster, content: bytes | None, one_thread: None
) -> None:
    images = {}
    for place in range(9):
        path = tmp_path / f"{place}.png"
        path.write_bytes(encoded(picture(place), "PNG"))
        images[str(place)] = PictureFile(path)
    images["8"].path.unlink()
    if content is not None:
        images["8"].path.write_bytes(content)
    descriptors = open_cluster_descriptors(tmp_path / "store", BACKBONE, LAYER, "random", cluster)
    with pytest.raises(UserError, match=r"^\S*8\.png: the image (file is gone|is damaged)[^\n]*$"):
        descriptors.describe(images, [LAYER], batch_size=1)


def test_no_more_pictures_are_on_their_way_than_two_batches_a_worker(tmp_path: Path, one_thread: None) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(picture(1), "PNG"))
    on_their_way: list[Future[Any]] = []
    most = 0

    class Watched(ThreadCrew):
        def give(self, worker: int, task: Any) -> Future[Any]:
            nonlocal most
            given = super().give(worker, task)
            if task[0]:
                on_their_way.append(given)
                most = max(most, sum(not future.done() for future in on_their_way))
            return given

    threads = ThreadCluster()
    threads.crew = lambda kind, arguments, concurrency, cores: Watched(kind, arguments, concurrency)  # type: ignore[assignment, method-assign, return-value]
    descriptors = open_cluster_descriptors(tmp_path / "store", BACKBONE, LAYER, "random", threads)
    descriptors.describe({str(place): PictureFile(path) for place in range(30)}, [LAYER], batch_size=2)
    assert len(on_their_way) == 15
    assert 2 <= most <= 4


# --- Ray itself -------------------------------------------------------------------------------------------------------


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Crew]:
    """The crews that a cluster makes, to kill workers of."""
    made: list[Crew] = []
    make = Cluster.crew

    def crew(self: Cluster, *arguments: Any, **options: Any) -> Crew:
        made.append(make(self, *arguments, **options))
        return made[-1]

    monkeypatch.setattr(Cluster, "crew", crew)
    return made


def kill_workers(crew: Crew) -> list[int]:
    """Kill every process of a crew as the system would for want of memory; return their ids."""
    ray = sys.modules["ray"]
    asked = [worker.__ray_call__.remote(lambda _: os.getpid()) for worker in crew._workers.values()]
    killed = ray.get(asked, timeout=60)
    for process in killed:
        os.kill(process, signal.SIGKILL)
    return killed


def killing_at(count: int, kill: Callable[[], object]) -> Callable[[int, int], None]:
    return lambda done, _: kill() if done == count else None  # type: ignore[return-value]


def test_killed_workers_lose_nothing_and_nothing_is_twice(
    server: HostileServer, tmp_path: Path, ray_cluster: Cluster, negatives: Negatives, crews: list[Crew]
) -> None:
    urls = hostile_urls(server, 20)
    with searched(tmp_path / "alone", urls) as alone:
        fetch_waiting(alone, [WORD], AGENT, HERE)
        rank_alone(alone, negatives)
        expected, expected_scores = state(alone), scores(alone)
    killed: list[int] = []
    with searched(tmp_path / "killed", urls) as together:
        # Two files of a folder come first.
        kill = killing_at(8, lambda: killed.extend(kill_workers(crews[0])))
        assert fetch_waiting(together, [WORD], AGENT, HERE, 4, kill, ray_cluster.fetch_all) == 22
        descriptors = open_cluster_descriptors(together.folder, BACKBONE, LAYER, "random", ray_cluster)
        kill = killing_at(8, lambda: killed.extend(kill_workers(crews[1])))
        rank_word(together, WORD, descriptors, LAYER, negatives, kill)
        assert len(set(killed)) >= 3
        assert state(together) == expected
        assert scores(together) == pytest.approx(expected_scores, abs=1e-4)


class Mortal:
    """A worker that a task may kill."""

    def work(self, task: str) -> str:
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fail":
            raise ZeroDivisionError("a bug")
        return task


def test_a_task_that_kills_every_worker_ends_in_one_line_and_a_bug_keeps_its_name(
    ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_RETRIES", 1)
    # A worker cannot import a test's module.
    pytest.importorskip("ray", reason=_NO_RAY).cloudpickle.register_pickle_by_value(sys.modules[__name__])
    crew = ray_cluster.crew(Mortal, (), concurrency=1, cores=None)
    assert crew.give(0, "well").result(60) == "well"
    with pytest.raises(ZeroDivisionError):
        crew.give(0, "fail").result(60)
    with pytest.raises(UserError, match="workers of the Ray cluster failed"):
        crew.give(0, "die").result(60)
    crew.stop()


# --- the command ------------------------------------------------------------------------------------------------------


def test_without_ray_one_line_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'tezawari\[ray\]'"), connected("auto"):
        pass
    monkeypatch.chdir(tmp_path)
    assert main(["collect", "ふわふわ", "--source", ".", "--engine", "ray"]) == 2
    assert main(["collect", "ふわふわ", "--source", ".", "--ray-address", "auto"]) == 2
    without, unused = capsys.readouterr().err.splitlines()
    assert "pip install 'tezawari[ray]'" in without
    assert "--ray-address auto: goes with --engine ray" in unused
    assert not (tmp_path / "collected").exists()


def test_the_command_collects_on_a_cluster(
    tmp_path: Path, server: HostileServer, ray_cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text(
        "\n".join(url for url in hostile_urls(server, 8) if url.startswith("http") and url.endswith(".jpg"))
    )
    negatives = tmp_path / "negatives"
    negatives.mkdir()
    for place in range(4):
        (negatives / f"{place}.png").write_bytes(encoded(picture(300 + place), "PNG"))
    common = ["--source", str(listed), "--negatives", str(negatives), "--weights", "random", "--layer", "block0"]
    tables = []
    for engine in ("local", "ray"):
        store = ["--store", str(tmp_path / engine), "--engine", engine, "--allow-private"]
        assert main(["collect", WORD, *common, *store]) == 0
        tables.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("│")])
    assert tables[0] == tables[1]


def test_no_cluster_at_an_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason=_NO_RAY)
    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UserError, match="no Ray cluster can be used at nonsense"), connected("nonsense"):
        pass
