"""Guarded download: what the network gives, taken only if it is a picture and costs no more than it may.

:func:`fetch` is for one address, :func:`fetch_all` for thousands. Nothing a server does makes them raise: an image is
:class:`~tezawari.collect.found.Fetched` or :class:`~tezawari.collect.found.Refused` with a reason to count by.
"""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import http.client
import queue
import re
import ssl
import stat
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import TracebackType

from tezawari.collect.addresses import (
    Origin,
    Resolver,
    Target,
    is_public,
    is_url,
    look_up,
    parse_target,
    redirected,
)
from tezawari.collect.connections import Allowance, Connection, IdleConnections, Network, tls_context
from tezawari.collect.found import Fetched, FoundImage, Refused
from tezawari.collect.limits import Limits, Refusal, quoted
from tezawari.collect.picture_check import PixelShare, inspect_picture, prove_whole
from tezawari.collect.robots import (
    MAX_ROBOTS_BYTES,
    Rules,
    crawl_delay,
    product_token,
    read_rules,
    refusal_by_rules,
    refusal_by_tag,
)
from tezawari.core.errors import UserError, describe_os_error

Outcome = Fetched | Refused


@dataclass(frozen=True)
class Errand:
    """An image that is yet to be asked for, at first or after redirects, and what that may still cost."""

    url: str
    redirects_left: int
    seconds_left: float
    bytes_left: int


Start = Callable[[Errand, str], "Future[Outcome | Errand]"]
"""Begins an errand at the host of that name; what comes of it is an outcome, or an errand at another host."""

_CHUNK = 64 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
_ASK_LATER = {429, 503}
_ASKED_AGAIN = 2
# Headers, robots.txt and the answers on the way, beside the body itself.
_MORE_BYTES = 2_000_000
# A host that has not answered so many times in a row is not asked again: a thousand images of it would take hours.
_DEAD_AFTER = 10
_MOST_HOSTS = 2_000
_MOST_ROBOTS_BYTES = 8_000_000
_IDLE_CONNECTIONS = 32
# Images read ahead for each worker, so that a busy host does not keep workers from the others.
_READ_AHEAD = 8


@dataclass
class _Host:
    """What is remembered of an origin while images are fetched from it."""

    slots: threading.BoundedSemaphore
    robots_lock: threading.Lock = field(default_factory=threading.Lock)
    rules: Rules | None = None
    rules_bytes: int = 0
    not_before: float = 0.0
    """When it may be asked again, on the clock of :func:`time.monotonic`."""
    failures: int = 0
    """Requests in a row that had no answer."""
    delay: float = 0.0
    """Seconds between the beginnings of two requests, as its robots.txt wants them."""
    next_turn: float = 0.0
    """When the next request may begin, on the clock of :func:`time.monotonic`."""
    turn_lock: threading.Lock = field(default_factory=threading.Lock)

    def take_turn(self) -> float:
        """Reserve the next turn under the delay and return the seconds until then."""
        if not self.delay:
            return 0.0
        with self.turn_lock:
            now = time.monotonic()
            turn = max(now, self.next_turn)
            self.next_turn = turn + self.delay
        return turn - now


@dataclass(frozen=True)
class _Answer:
    target: Target
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Downloader:
    """Fetches images for one robot, from any number of threads; remembers robots.txt and keeps connections open.

    Args:
        user_agent: the honest name of the robot, its product token first: ``tezawari/0.1 (what for; whom to ask)``.
        limits: what one image may cost.
        resolve: looks names up.
        is_allowed: which addresses may be connected to; None: public ones, all with ``limits.allow_private``.
        tls: whose certificates count; None: the system's authorities and certifi's.

    Raises:
        UserError: a ``user_agent`` that is empty or cannot be a header.
    """

    def __init__(
        self,
        user_agent: str,
        limits: Limits | None = None,
        *,
        resolve: Resolver = look_up,
        is_allowed: Callable[[str], bool] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not re.fullmatch(r"[!-~][ -~]*", user_agent):
            raise UserError(f"user_agent={user_agent!r}: must be printable ASCII, such as 'tezawari/0.1 (purpose)'")
        self.limits = limits or Limits()
        self._user_agent = user_agent
        self._product = product_token(user_agent)
        if is_allowed is None:
            is_allowed = (lambda address: True) if self.limits.allow_private else is_public
        self._network = Network(resolve, is_allowed, tls or tls_context(), self.limits.connect_seconds)
        self._idle = IdleConnections(_IDLE_CONNECTIONS)
        self._pixels = PixelShare(self.limits.max_pixels)
        self._hosts: OrderedDict[Origin, _Host] = OrderedDict()
        self._hosts_lock = threading.Lock()
        # Names of hosts with a Crawl-delay: only one worker is to wait for each.
        self._delaying: set[str] = set()

    def __enter__(self) -> Downloader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that were kept open; what is being fetched is not disturbed."""
        self._idle.close()

    def fetch(self, image_url: str, stopped: threading.Event | None = None) -> Outcome:
        """Fetch one image, by a URL or, where ``limits.allow_files``, the path of a file.

        Never raises for what a server, a resolver or a file does. Set ``stopped`` from another thread to end it at
        once with a refusal (``time``); only a connection that is being opened may take ``connect_seconds`` more.
        """
        return self._fetch_on(first_errand(image_url, self.limits), stopped or threading.Event())

    def fetch_at_host(self, errand: Errand, stopped: threading.Event | None = None) -> Outcome | Errand:
        """Go on an errand, and come back with another one where a redirect leads to another host.

        So that each host may be left to one downloader of several, which then keeps to its robots.txt, its pauses and
        the number of requests at once. A robots.txt that is redirected is read wherever that leads: a few requests a
        host, not some for each image. Otherwise like :meth:`fetch`, which does this until there is an outcome.
        """
        url, redirects_left = errand.url, errand.redirects_left
        allowance = Allowance(
            time.monotonic() + errand.seconds_left,
            errand.bytes_left,
            self.limits.read_seconds,
            stopped or threading.Event(),
        )
        try:
            if not is_url(url):
                if not self.limits.allow_files:
                    raise Refusal("address", f"neither http(s) nor a file that may be read here: {quoted(url)}")
                return self._judged(_read_file(Path(url), self.limits.max_bytes), url)
            host = parse_target(url).origin.host
            while isinstance(answer := self._answer_of(url, allowance), str):
                if not redirects_left:
                    raise self._too_many_redirects()
                url, redirects_left = answer, redirects_left - 1
                if parse_target(url).origin.host != host:
                    return Errand(url, redirects_left, allowance.seconds_left(), allowance.bytes_left)
            return self._judged(answer.body, answer.target.url)
        except Refusal as refusal:
            return refusal.refused

    def is_delaying(self, host: str) -> bool:
        """Say whether a host's robots.txt wants pauses, so far as it was read: one image at a time is enough then."""
        return host in self._delaying

    def fetch_all(self, found: Iterable[FoundImage], workers: int = 16) -> Iterator[tuple[FoundImage, Outcome]]:
        """Fetch many images at once and yield each with what became of it, in the order of arrival.

        ``found`` is read as far ahead as needed to keep all workers busy and no further; at most twice as many images
        as workers are being fetched or wait to be taken by the caller. Closing the generator (or Ctrl-C) stops what is
        being fetched and leaves no thread behind.

        Raises:
            UserError: fewer than one worker.
        """
        if workers < 1:
            raise UserError(f"workers={workers}: must be at least 1")
        stopped = threading.Event()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="tezawari-download")
        try:
            yield from fetch_in_turns(
                found,
                self.limits,
                lambda errand, _: pool.submit(self._fetch_on, errand, stopped),
                self.is_delaying,
                most_under_way=2 * workers,
                most_read_ahead=_READ_AHEAD * workers,
            )
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch_on(self, errand: Errand, stopped: threading.Event) -> Outcome:
        while isinstance(step := self.fetch_at_host(errand, stopped), Errand):
            errand = step
        return step

    def _judged(self, content: bytes, final_url: str) -> Fetched:
        picture = inspect_picture(content, self.limits)
        with self._pixels.take(picture.width * picture.height):
            prove_whole(picture)
        digest = hashlib.sha256(content).hexdigest()
        return Fetched(content, digest, picture.extension, picture.width, picture.height, final_url)

    def _host(self, origin: Origin) -> _Host:
        with self._hosts_lock:
            host = self._hosts.setdefault(origin, _Host(threading.BoundedSemaphore(self.limits.per_host)))
            self._hosts.move_to_end(origin)
            size = sum(other.rules_bytes for other in self._hosts.values())
            while len(self._hosts) > 1 and (len(self._hosts) > _MOST_HOSTS or size > _MOST_ROBOTS_BYTES):
                size -= self._hosts.popitem(last=False)[1].rules_bytes
            return host

    def _answer_of(self, url: str, allowance: Allowance, robots: bool = False) -> _Answer | str:
        """Ask for ``url``; return the answer, or the URL it redirects to; ``robots`` for robots.txt itself."""
        target = parse_target(url)
        host = self._host(target.origin)
        if not robots:
            self._require_permission(target, host, allowance)
        answer = self._asked_patiently(target, host, allowance, robots)
        location = answer.headers.get("Location")
        if answer.status in _REDIRECTS and location is not None:
            return redirected(target, location)
        if answer.status != 200 and not robots:
            raise Refusal("status", f"answers {answer.status}")
        return answer

    def _robots_answer(self, url: str, allowance: Allowance) -> _Answer:
        for _ in range(self.limits.max_redirects + 1):
            answer = self._answer_of(url, allowance, robots=True)
            if not isinstance(answer, str):
                return answer
            url = answer
        raise self._too_many_redirects()

    def _too_many_redirects(self) -> Refusal:
        return Refusal("redirects", f"more than {self.limits.max_redirects} redirects")

    def _require_permission(self, target: Target, host: _Host, allowance: Allowance) -> None:
        with _held(host.robots_lock, allowance, "its host's robots.txt was slow"):
            if host.rules is None:
                host.rules, host.rules_bytes = self._read_robots(target.origin, allowance)
        refused = refusal_by_rules(host.rules, target.url, self._product)
        if refused is not None:
            raise Refusal(refused.reason, refused.detail)
        host.delay = crawl_delay(host.rules, self._product)
        if host.delay > self.limits.max_crawl_delay_seconds:
            raise Refusal(
                "robots",
                f"robots.txt wants {host.delay:g} s between requests, more than the "
                f"{self.limits.max_crawl_delay_seconds:g} that are waited for",
            )
        if host.delay:
            self._delaying.add(target.origin.host)

    def _read_robots(self, origin: Origin, allowance: Allowance) -> tuple[Rules, int]:
        """Return the rules of ``origin`` and the size of their text.

        A host that could not be asked is asked again for the next image, so that its refusal is raised, not kept.
        """
        name = f"[{origin.host}]" if ":" in origin.host else origin.host
        try:
            answer = self._robots_answer(f"{origin.scheme}://{name}:{origin.port}/robots.txt", allowance)
        except Refusal as refusal:
            refused = refusal.refused
            if refused.reason == "redirects":  # RFC 9309, section 2.3.1.2: as if there were none
                return read_rules(404, b""), 0
            if refused.reason in ("type", "damaged"):
                return Refused("robots", f"robots.txt cannot be read: {refused.detail}"), 0
            raise Refusal(refused.reason, f"robots.txt: {refused.detail}") from refusal
        return read_rules(answer.status, answer.body), len(answer.body)

    def _asked_patiently(self, target: Target, host: _Host, allowance: Allowance, robots: bool) -> _Answer:
        """Ask once, and again after a while if the host says that it is asked too often."""
        attempt = 0
        while True:
            if not robots:
                allowance.wait_turn(host.take_turn())
            with _held(host.slots, allowance, "its host was busy with other images"):
                self._wait_for(host, allowance)
                answer = self._ask(target, host, allowance, robots)
            if answer.status not in _ASK_LATER:
                return answer
            host.not_before = time.monotonic() + _retry_after(answer.headers, default=2.0**attempt)
            if attempt == _ASKED_AGAIN:
                return answer
            attempt += 1

    def _wait_for(self, host: _Host, allowance: Allowance) -> None:
        if host.failures >= _DEAD_AFTER:
            raise Refusal("connection", f"the host did not answer {host.failures} times in a row")
        seconds = host.not_before - time.monotonic()
        if seconds > min(self.limits.max_wait_seconds, allowance.seconds_left()):
            raise Refusal("status", f"the host asks not to be asked for {seconds:.0f} s")
        allowance.pause(seconds)

    def _ask(self, target: Target, host: _Host, allowance: Allowance, robots: bool) -> _Answer:
        """Send one request and read its answer: the body only of a 200 that may be taken."""
        try:
            connection, response = self._opened(target, allowance)
            host.failures = 0
            try:
                body = self._body_of(response, robots)
                if response.isclosed() and not response.will_close:
                    self._idle.put(connection)
                else:
                    connection.close()
            except BaseException:
                connection.close()
                raise
            finally:
                response.close()
            return _Answer(target, response.status, response.headers, body)
        except Refusal as refusal:
            host.failures += refusal.refused.reason == "time" and not allowance.stopped.is_set()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            host.failures += 1
            raise Refusal("connection", f"{type(error).__name__}: {quoted(error)}") from error

    def _opened(self, target: Target, allowance: Allowance) -> tuple[Connection, http.client.HTTPResponse]:
        """Send a request over an idle connection, or over a new one if there is none or it turns out to be closed."""
        idle = self._idle.take(target.origin)
        for connection in filter(None, (idle, Connection(target.origin, self._network))):
            try:
                connection.use(allowance)
                connection.request("GET", target.path, headers={"User-Agent": self._user_agent, "Accept": "image/*"})
                return connection, connection.getresponse()
            except ConnectionError:
                connection.close()
                if connection is not idle:
                    raise
            except BaseException:
                connection.close()
                raise
        raise AssertionError("a new connection either answers or raises")

    def _body_of(self, response: http.client.HTTPResponse, robots: bool) -> bytes:
        if response.status != 200:
            return b""
        if robots:
            return b"".join(_pieces(response, MAX_ROBOTS_BYTES, cut=True))
        refused = refusal_by_tag(response.headers.get_all("X-Robots-Tag", []), self._product)
        if refused is not None:
            raise Refusal(refused.reason, refused.detail)
        # BytesIO hands its buffer out: the body is in memory once.
        body = BytesIO()
        for piece in _pieces(response, self.limits.max_bytes, cut=False):
            body.write(piece)
        return body.getvalue()


def fetch(image_url: str, user_agent: str, limits: Limits | None = None) -> Outcome:
    """Fetch one image with a :class:`Downloader` of its own."""
    with Downloader(user_agent, limits) as downloader:
        return downloader.fetch(image_url)


def fetch_all(
    found: Iterable[FoundImage], user_agent: str, limits: Limits | None = None, workers: int = 16
) -> Iterator[tuple[FoundImage, Outcome]]:
    """Fetch many images with a :class:`Downloader` of their own; see :meth:`Downloader.fetch_all`."""
    with Downloader(user_agent, limits) as downloader:
        yield from downloader.fetch_all(found, workers)


def first_errand(image_url: str, limits: Limits) -> Errand:
    """Return the errand that an image begins with."""
    return Errand(image_url, limits.max_redirects, limits.total_seconds, limits.max_bytes + _MORE_BYTES)


def fetch_in_turns(
    found: Iterable[FoundImage],
    limits: Limits,
    start: Start,
    is_delaying: Callable[[str], bool],
    most_under_way: int,
    most_read_ahead: int,
) -> Iterator[tuple[FoundImage, Outcome]]:
    """Have images fetched, the hosts in turn, and yield each with what became of it, in the order of arrival.

    Args:
        found: read no further ahead than ``most_read_ahead``.
        limits: what an image may cost; of one host no more than ``limits.per_host`` are under way.
        start: begins to fetch one; what it raises later is raised here.
        is_delaying: names the hosts of which one image at a time is enough.
        most_under_way: images that are being fetched.
        most_read_ahead: images that wait for their turn, so that a busy host does not keep idle what others need.
    """
    arrived: queue.SimpleQueue[tuple[FoundImage, str, Future[Outcome | Errand]]] = queue.SimpleQueue()
    waiting = _Waiting(lambda host: 1 if is_delaying(host) else limits.per_host)
    under_way = 0

    def start_what_may() -> None:
        nonlocal under_way
        while under_way < most_under_way and (entry := waiting.pop()) is not None:
            image, errand, host = entry
            under_way += 1
            start(errand, host).add_done_callback(
                lambda done, image=image, host=host: arrived.put((image, host, done))  # type: ignore[misc]
            )

    source = iter(found)
    more = True
    while True:
        while more and len(waiting) < most_read_ahead and arrived.empty():
            try:
                image = next(source)
            except StopIteration:
                more = False
            else:
                waiting.push(image, first_errand(image.image_url, limits))
            start_what_may()
        if not under_way:
            return
        image, host, done = arrived.get()
        under_way -= 1
        waiting.done(host)
        step = done.result()
        if isinstance(step, Errand):
            waiting.push(image, step)
        start_what_may()
        if not isinstance(step, Errand):
            yield image, step


class _Waiting:
    """Images read ahead, by host: taken in turn from those hosts that have a place free."""

    def __init__(self, places: Callable[[str], int]) -> None:
        self._places = places
        self._queues: OrderedDict[str, deque[tuple[FoundImage, Errand]]] = OrderedDict()
        self._running: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, image: FoundImage, errand: Errand) -> None:
        self._queues.setdefault(_host_of(errand.url), deque()).append((image, errand))
        self._count += 1

    def pop(self) -> tuple[FoundImage, Errand, str] | None:
        for host, errands in self._queues.items():
            # Files ("") are not a host that could be asked too often.
            if host and self._running.get(host, 0) >= self._places(host):
                continue
            self._count -= 1
            self._running[host] = self._running.get(host, 0) + 1
            image, errand = errands.popleft()
            if errands:
                self._queues.move_to_end(host)
            else:
                del self._queues[host]
            return image, errand, host
        return None

    def done(self, host: str) -> None:
        self._running[host] -= 1
        if not self._running[host]:
            del self._running[host]


def _host_of(image_url: str) -> str:
    if not is_url(image_url):
        return ""
    try:
        return parse_target(image_url).origin.host
    except Refusal:
        return ""


@contextlib.contextmanager
def _held(lock: threading.Lock | threading.BoundedSemaphore, allowance: Allowance, detail: str) -> Iterator[None]:
    allowance.wait_for(lambda seconds: lock.acquire(timeout=seconds), detail)
    try:
        yield
    finally:
        lock.release()


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        # Before it is opened: opening a pipe waits for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refusal("type", f"{quoted(path)} is not a file")
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise Refusal("connection", quoted(describe_os_error(error))) from error
    except ValueError as error:
        raise Refusal("address", f"not a path: {quoted(path)}") from error
    if len(content) > max_bytes:
        raise Refusal("bytes", f"more than {max_bytes} bytes")
    return content


def _pieces(response: http.client.HTTPResponse, max_bytes: int, cut: bool) -> Iterator[bytes]:
    """Yield the body piece by piece, its Content-Encoding undone; past ``max_bytes`` end (``cut``) or refuse."""
    announced = response.length
    if announced is not None and announced > max_bytes and not cut:
        raise Refusal("bytes", f"{announced} bytes announced, more than {max_bytes}")
    unpack = _unpacker(response.headers.get("Content-Encoding", "identity"))
    received = unpacked = 0
    while chunk := response.read(_CHUNK):
        received += len(chunk)
        for piece in unpack(chunk):
            unpacked += len(piece)
            if unpacked > max_bytes:
                if cut:
                    return
                raise Refusal("bytes", f"more than {max_bytes} bytes")
            yield piece
    if announced is not None and received < announced:
        raise Refusal("bytes", f"{received} of {announced} bytes arrived")


def _unpacker(encoding: str) -> Callable[[bytes], Iterable[bytes]]:
    """Return what undoes a Content-Encoding; none was asked for, but some servers pack all the same."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return lambda chunk: (chunk,)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refusal("type", f"packed by {quoted(encoding)}, which was not asked for")
    packed = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever the first bytes say

    def unpack(chunk: bytes) -> Iterator[bytes]:
        # What is held back at the end of a chunk comes with the next one: the last always has its checksum to read.
        while chunk and not packed.eof:
            try:
                piece = packed.decompress(chunk, _CHUNK)
            except zlib.error as error:
                raise Refusal("damaged", f"cannot be unpacked: {quoted(error)}") from error
            chunk = packed.unconsumed_tail
            yield piece

    return unpack


def _retry_after(headers: http.client.HTTPMessage, default: float) -> float:
    """Return the seconds that Retry-After asks for (RFC 9110, section 10.2.3: a number or a date)."""
    said = headers.get("Retry-After", "").strip()
    if said.isdecimal():
        return float(said[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return default
