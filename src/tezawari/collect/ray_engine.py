"""Fetching on a Ray cluster: the same answers as from one machine, under the same limits, by many.

The process that called (the driver) hands out addresses and takes back bytes; it alone reads and writes the store, so
that nothing is twice whatever becomes of a worker, and no folder has to be shared. Every machine of the cluster needs
the same version of this package, and is a robot of the same name on the network it is in: with ``allow_private`` it may
ask that network's private addresses.

**Limits of a host hold for the whole cluster**, because each host is one worker's: the worker that is given the first
image of a host gets all others, and keeps its robots.txt, its pauses (``Crawl-delay``, ``Retry-After``) and the number
of requests at once. A redirect to another host comes back and goes on to that host's worker, with what is left of its
time, bytes and redirects; only a robots.txt that is itself redirected is read by the worker that needs it. [ours] So
one host is never faster on a cluster than on one machine: a cluster is for many hosts.

**A worker that dies** is started again by Ray, elsewhere if need be, and what it had under way is asked for again, up
to five times. It has forgotten a host's pauses then: the first request after its start may come early.

Ray is imported only here, and only by :func:`connected`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from tezawari.collect.download import Downloader, Errand, Outcome, fetch_in_turns
from tezawari.collect.found import FoundImage
from tezawari.collect.limits import Limits
from tezawari.core.errors import UserError

T = TypeVar("T")

# Deaths of its worker that one task survives: what kills every worker it comes to would do so for ever.
_RETRIES = 5
# Images of other hosts that are read past those of a busy one, for each image that is fetched at once.
_READ_AHEAD = 8


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Cluster]:
    """Connect to a Ray cluster; afterwards its workers are stopped and, unless it was there before, the connection.

    Args:
        address: ``auto``, ``HOST:PORT``, ``ray://HOST:PORT``, or None: the cluster that ``RAY_ADDRESS`` names or that
            was last started on this machine, and where there is none, one that is started here, for this time. A
            connection that this process already has is used as it is.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("engine ray needs Ray: type pip install 'tezawari[ray]' on every machine of it") from error
    was_connected = ray.is_initialized()
    if not was_connected:
        # A cluster that is started here would report its use to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"no Ray cluster can be used at {address or 'the usual address'}: {_last_line(error)}; type ray status "
                "there, or ray start --head to start one"
            ) from error
    try:
        with contextlib.ExitStack() as crews:
            yield Cluster(ray, crews)
    finally:
        if not was_connected:
            ray.shutdown()


class Cluster:
    """A Ray cluster that this process is connected to, as :func:`connected` gives it.

    Attributes: ``cores``, of all machines together.
    """

    def __init__(self, ray: Any, crews: contextlib.ExitStack) -> None:
        self._ray = ray
        self._crews = crews
        self.cores = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def crew(self, kind: type, arguments: Sequence[Any], concurrency: int, cores: int | None) -> Crew:
        """Return workers of a kind, none of them started; they are stopped with the cluster's connection.

        Args:
            kind: a class whose method ``work(task)`` returns a result; neither it nor what it takes and returns may be
                of this machine alone.
            arguments: of the class, sent once to each machine.
            concurrency: threads in which one worker works.
            cores: that each takes for itself; None for workers that mostly wait: they find room in a busy cluster too.
        """
        crew = Crew(self._ray, kind, arguments, concurrency, cores)
        self._crews.callback(crew.stop)
        return crew

    def fetch_all(
        self, found: Iterable[FoundImage], user_agent: str, limits: Limits, workers: int = 16
    ) -> Iterator[tuple[FoundImage, Outcome]]:
        """Fetch many images and yield each with what became of it, in the order of arrival.

        As :func:`~tezawari.collect.download.fetch_all`, by at most as many processes as the cluster has cores. No more
        than ``workers`` images are being fetched or wait to be taken by the caller. Closing the generator ends them.

        Raises:
            UserError: fewer than one worker, a cluster whose machines lack this package, workers that die again and
                again.
        """
        if workers < 1:
            raise UserError(f"workers={workers}: must be at least 1")
        crew = self.crew(Fetcher, (user_agent, limits), concurrency=workers, cores=None)
        try:
            yield from fetch_sharded(found, limits, crew.give, min(self.cores, workers), workers)
        finally:
            crew.stop()


class Crew:
    """Workers of one kind, each started when it is first given something to do."""

    def __init__(self, ray: Any, kind: type, arguments: Sequence[Any], concurrency: int, cores: int | None) -> None:
        self._ray = ray
        self._arguments = arguments
        self._sent: list[Any] = []
        options: dict[str, Any] = {} if cores is None else {"num_cpus": cores}
        self._kind = ray.remote(kind).options(
            max_restarts=-1,
            max_task_retries=_RETRIES,
            max_concurrency=concurrency,
            scheduling_strategy="SPREAD",
            **options,
        )
        self._workers: dict[int, Any] = {}

    def give(self, worker: int, task: Any) -> Future[Any]:
        """Give a task to the worker of that number; raises from its future what ``work`` raised, or UserError."""
        if worker not in self._workers:
            self._sent = self._sent or [self._ray.put(argument) for argument in self._arguments]
            self._workers[worker] = self._kind.remote(*self._sent)
        return then(self._workers[worker].work.remote(task).future(), self._result_of)

    def stop(self) -> None:
        """End the workers and what they are doing."""
        while self._workers:
            self._ray.kill(self._workers.popitem()[1])

    def _result_of(self, done: Future[Any]) -> Any:
        errors = self._ray.exceptions
        try:
            return done.result()
        except errors.RayTaskError:  # what the work raised: a bug keeps its traceback
            raise
        except errors.RayError as error:
            raise UserError(
                f"the workers of the Ray cluster failed ({type(error).__name__}: {_last_line(error)}); what is stored"
                " is kept: see that every machine has this version of tezawari, and memory to spare, then type the same"
                " command again"
            ) from error


class Fetcher:
    """A worker that fetches the images of some hosts, from several threads."""

    def __init__(self, user_agent: str, limits: Limits) -> None:
        self._downloader = Downloader(user_agent, limits)

    def work(self, task: tuple[Errand, str]) -> tuple[Outcome | Errand, bool]:
        """Go on an errand at the host of that name; return what came of it, and whether the host wants pauses."""
        errand, host = task
        return self._downloader.fetch_at_host(errand), self._downloader.is_delaying(host)


def fetch_sharded(
    found: Iterable[FoundImage],
    limits: Limits,
    give: Callable[[int, tuple[Errand, str]], Future[tuple[Outcome | Errand, bool]]],
    fetchers: int,
    most_under_way: int,
) -> Iterator[tuple[FoundImage, Outcome]]:
    """Have images fetched by several :class:`Fetcher` of which each has hosts of its own; yield as they arrive.

    Args:
        found: the images, read as far ahead as :func:`~tezawari.collect.download.fetch_in_turns` says.
        limits: those of the fetchers.
        give: begins a task at the fetcher of a number.
        fetchers: how many there are. A new host goes to the one with the fewest hosts.
        most_under_way: images that are being fetched.
    """
    fetcher_of: dict[str, int] = {}
    hosts = [0] * fetchers
    delaying: set[str] = set()

    def start(errand: Errand, host: str) -> Future[Outcome | Errand]:
        if host not in fetcher_of:
            fetcher_of[host] = hosts.index(min(hosts))
            hosts[fetcher_of[host]] += 1

        def step_of(done: Future[tuple[Outcome | Errand, bool]]) -> Outcome | Errand:
            step, is_delaying = done.result()
            if is_delaying:
                delaying.add(host)
            return step

        return then(give(fetcher_of[host], (errand, host)), step_of)

    yield from fetch_in_turns(
        found, limits, start, delaying.__contains__, most_under_way, most_read_ahead=_READ_AHEAD * most_under_way
    )


def then(future: Future[Any], change: Callable[[Future[Any]], T]) -> Future[T]:
    """Return a future of what ``change`` makes of another one when that is done."""
    changed: Future[T] = Future()

    def settle(done: Future[Any]) -> None:
        try:
            changed.set_result(change(done))
        except BaseException as error:  # it belongs to whoever takes the result
            changed.set_exception(error)

    future.add_done_callback(settle)
    return changed


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
