"""Gathering: search for words and fetch what was found into a store, from wherever the last run stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from tezawari.collect.download import Outcome, fetch_all
from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.found import Fetched, FoundImage, Reason, Refused
from tezawari.collect.limits import Limits
from tezawari.collect.pages import Pages
from tezawari.collect.sources import APIS, open_source
from tezawari.collect.sources.folder import Folder
from tezawari.collect.sources.source import Source
from tezawari.collect.store import Store, Written, shown
from tezawari.core.errors import UserError

Progress = Callable[[int, int], None]
FetchAll = Callable[[Sequence[FoundImage], str, Limits, int], Iterator[tuple[FoundImage, Outcome]]]
"""Fetches images as :func:`~tezawari.collect.download.fetch_all` does: (images, user agent, limits, workers)."""
_Record = tuple[int, Written | Refused]

PASSING: tuple[Reason, ...] = ("connection", "time", "status")
"""Reasons of refusals that may be gone another day."""

# A failure is mostly the source's own, not the word's; one more word is tried, for it may have been the word's.
_FAILURES_IN_A_ROW = 2
# Hashing and writing take a few milliseconds an image, most of them in waiting for the disk.
_WRITERS = 4
_RECORDED_AT_ONCE = 16
_LONGEST_UNRECORDED_SECONDS = 0.5
# So many images in a row, of so many hosts, that cannot be reached: it is not the hosts, it is the network.
_UNREACHED_IMAGES, _UNREACHED_HOSTS = 30, 3


class UnreachableError(UserError):
    """The network is gone: no image can be reached any more, and none was refused for it."""


@dataclass(frozen=True)
class Named:
    """A source and what tells its searches from those of another: two folders are both called ``folder``."""

    key: str
    source: Source


def open_sources(which: Sequence[str]) -> list[Named]:
    """Open sources as :func:`~tezawari.collect.sources.open_source` does, each once, with one session for all APIs."""
    pages = Pages()
    opened = [Named(_key(each), open_source(each, pages)) for each in which]
    return list({named.key: named for named in opened}.values())


def _key(which: str) -> str:
    is_path = which not in APIS and Path(which).exists()
    return str(Path(which).resolve()) if is_path else which


def search_words(
    store: Store,
    words: Sequence[str],
    sources: Sequence[Named],
    language: str,
    limit: int,
    again: bool = False,
    progress: Progress | None = None,
) -> list[str]:
    """Store what the sources find for words; return a line for each search that failed or found nothing.

    A search whose results are all in the store is not repeated. One that was interrupted or failed begins again; what
    it had found stays and counts once. Other searches go on after one that failed, but a source that failed for two
    words in a row is asked no further [ours].

    Args:
        store: takes what is found.
        words: what is searched for, as :func:`~tezawari.collect.sources.source.check_search` passes it on.
        sources: where.
        language: of the words, like ``ja``; may be empty.
        limit: the most results of each search.
        again: repeat searches that had ended, too: a folder may hold more files by now.
        progress: called with (searches done, searches in all).

    Raises:
        UserError: the store cannot be written.
    """
    problems: list[str] = []
    failures = dict.fromkeys((named.key for named in sources), 0)
    done = 0
    for word in words:
        answered = False
        for named in sources:
            if failures[named.key] < _FAILURES_IN_A_ROW:
                problem = _search(store, word, named, language, limit, again)
                if problem is None:
                    answered, failures[named.key] = True, 0
                else:
                    problems.append(f"{shown(word)}: {problem}")
                    failures[named.key] += 1
                    if failures[named.key] == _FAILURES_IN_A_ROW:
                        problems.append(f"{named.source.name} failed for two words in a row and is asked no further")
            done += 1
            if progress is not None:
                progress(done, len(words) * len(sources))
        if answered and not store.summary(word).found:
            problems.append(f"{shown(word)}: nothing was found: try another word, another --language or --source")
    return problems


def _search(store: Store, word: str, named: Named, language: str, limit: int, again: bool) -> str | None:
    """Store the results of one search and return what kept the source from answering, if anything did."""
    query = store.begin_query(word, named.key, language, limit)
    if store.is_exhausted(query) and not again:
        return None
    failure: list[str] = []

    def results() -> Iterator[FoundImage]:
        # Told apart from errors of the store, which end the command.
        try:
            yield from named.source.search(word, language, limit)
        except UserError as error:
            failure.append(str(error))

    found = results()
    first = next(found, None)
    if first is not None:  # a search without results is repeated the next time
        store.add_found(query, chain([first], found))
        if not failure:
            store.mark_exhausted(query)
    return failure[0] if failure else None


def fetch_waiting(
    store: Store,
    words: Sequence[str],
    user_agent: str,
    limits: Limits,
    workers: int = 16,
    progress: Progress | None = None,
    fetch: FetchAll = fetch_all,
) -> int:
    """Fetch what waits for words and store it, or why it was refused; return how many images arrived.

    Paths are read only where a folder named them, so ``limits.allow_files`` is of no matter. An image is stored, with
    its perceptual hash, as soon as it has arrived, and recorded with others of the same half second: whatever ends the
    process, only what was under way is fetched again. Bytes are held of the images that are being fetched or written,
    some forty at the most, however many wait.

    Where nothing can be reached any more, no image so far or none of 30 in a row of 3 hosts, that says something about
    the network and nothing about the images: they go on waiting. [ours]

    Args:
        store: where the words were searched for.
        words: in the order to fetch for; an image of several words is fetched once.
        user_agent: see :class:`~tezawari.collect.download.Downloader`.
        limits: what one image may cost.
        workers: images that are fetched at once.
        progress: called with (images done, images in all).
        fetch: what asks the network: this process, or a cluster's
            :meth:`~tezawari.collect.ray_engine.Cluster.fetch_all`. Folders are read, and the store is written, by this
            process alone.

    Raises:
        UnreachableError: the network is gone.
        UserError: the store cannot be written, or fewer than one worker.
    """
    waiting: dict[str, tuple[int, FoundImage]] = {}
    for word in words:
        for find, found in store.waiting(word):
            waiting.setdefault(found.image_url, (find, found))
    local = [found for _, found in waiting.values() if found.source == Folder.name]
    remote = [found for _, found in waiting.values() if found.source != Folder.name]
    arrived = done = 0
    records = _Records(store)
    with (
        records,
        ThreadPoolExecutor(_WRITERS, thread_name_prefix="tezawari-store") as pool,
        # Closed at once, whatever ends the loop: it holds connections and threads.
        contextlib.closing(_outcomes(local, remote, user_agent, limits, workers, fetch)) as outcomes,
    ):
        writing: set[Future[_Record]] = set()
        try:
            for found, outcome in outcomes:
                writing.add(pool.submit(_written, store, waiting[found.image_url][0], outcome))
                if len(writing) >= 2 * _WRITERS:
                    writing = _some_written(writing, records)
                done += 1
                arrived += isinstance(outcome, Fetched)
                if progress is not None:
                    progress(done, len(waiting))
        finally:  # what has arrived is kept, also where the network is gone
            while writing:
                writing = _some_written(writing, records)
    return arrived


def _outcomes(
    local: Sequence[FoundImage],
    remote: Sequence[FoundImage],
    user_agent: str,
    limits: Limits,
    workers: int,
    fetch: FetchAll,
) -> Generator[tuple[FoundImage, Outcome], None, None]:
    if local:
        yield from fetch_all(local, user_agent, replace(limits, allow_files=True), workers)
    if remote:
        yield from _if_reachable(fetch(remote, user_agent, replace(limits, allow_files=False), workers))


def _if_reachable(outcomes: Iterable[tuple[FoundImage, Outcome]]) -> Iterator[tuple[FoundImage, Outcome]]:
    """Yield outcomes, those that are failures to connect only once the network is known to be there."""
    held: list[tuple[FoundImage, Outcome]] = []
    hosts: set[str] = set()
    any_reached = False
    for found, outcome in outcomes:
        if isinstance(outcome, Refused) and outcome.reason == "connection":
            held.append((found, outcome))
            hosts.add(urlsplit(found.image_url).netloc)
            if len(held) >= _UNREACHED_IMAGES and len(hosts) >= _UNREACHED_HOSTS:
                raise _unreachable(held)
            continue
        any_reached = True
        yield from held
        held.clear()
        hosts.clear()
        yield found, outcome
    if held and not any_reached:
        raise _unreachable(held)
    yield from held


def _unreachable(held: Sequence[tuple[FoundImage, Outcome]]) -> UnreachableError:
    (_, last) = held[-1]
    return UnreachableError(
        f"{len(held)} images in a row could not be reached ({cast(Refused, last).detail}): check the network, then type"
        " the same command again; what is stored is kept, and what is not yet fetched goes on waiting"
    )


class _Records:
    """Gathers what is to be recorded into transactions of several images each, for a commit waits for the disk.

    What is not recorded is fetched again after a kill, so a record waits for half a second at most while others come.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Record] = []
        self._recorded_at = time.monotonic()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, record: _Record) -> None:
        self._waiting.append(record)
        late = time.monotonic() - self._recorded_at > _LONGEST_UNRECORDED_SECONDS
        if late or len(self._waiting) >= _RECORDED_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            # Emptied first: what the store will not take now it will not take a moment later.
            records, self._waiting = self._waiting, []
            self._store.record(records)
        self._recorded_at = time.monotonic()


def _written(store: Store, find: int, outcome: Outcome) -> _Record:
    """Hash and write what arrived; the bytes are not needed any more then."""
    if isinstance(outcome, Refused):
        return find, outcome
    return find, store.write(outcome, perceptual_hash(outcome.content))


def _some_written(writing: set[Future[_Record]], records: _Records) -> set[Future[_Record]]:
    """Wait until some are written, record them, raise what kept one from it, and return the others."""
    finished, left = wait(writing, return_when=FIRST_COMPLETED)
    for each in finished:
        records.add(each.result())
    return left
