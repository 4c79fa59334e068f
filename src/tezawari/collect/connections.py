"""HTTP connections that go only where they may, and end when their time or their bytes are used up.

Python's own HTTP client under sockets that are metered at each read: a time-out of the usual kind starts anew with
every byte, so a server that drips one byte a second holds it for ever, and so do headers, chunk sizes and trailers
without end. The client's lines and headers are bounded by itself (65,536 bytes, 100 headers).

Proxies named by the environment are not used: a proxy looks the name up itself, which would void the check of the
address. Cookies and credentials (netrc) are not sent.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import certifi
from urllib3.util.wait import wait_for_read

from tezawari.collect.addresses import Origin, Resolver, numeric_addresses
from tezawari.collect.limits import Refusal

# How long a blocked read may go without looking whether it was told to stop.
_SLICE_SECONDS = 0.25
# A time-out of 0 would mean not to wait at all, and fail in another way.
_LEAST_SECONDS = 0.001


@dataclass
class Allowance:
    """What is left of one image's time and bytes; shared by all its requests, used by one thread."""

    ends_at: float
    """On the clock of :func:`time.monotonic`."""
    bytes_left: int
    read_seconds: float
    stopped: threading.Event = field(default_factory=threading.Event)

    def seconds_left(self) -> float:
        """Return a positive number, or raise :class:`Refusal` (``time``)."""
        if self.stopped.is_set():
            raise Refusal("time", "the download was stopped")
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise Refusal("time", "the time for one image is used up")
        return left

    def spend(self, count: int) -> None:
        """Take ``count`` bytes off, or raise :class:`Refusal` (``bytes``)."""
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise Refusal("bytes", "the answers, headers and all, are larger than allowed")

    def wait_for(self, action: Callable[[float], bool], detail: str, seconds: float | None = None) -> None:
        """Call ``action`` with short time-outs until it returns true; raise :class:`Refusal` (``time``) otherwise."""
        until = self.ends_at if seconds is None else min(self.ends_at, time.monotonic() + seconds)
        while not action(min(_SLICE_SECONDS, self.seconds_left())):
            if time.monotonic() >= until:
                raise Refusal("time", detail)

    def pause(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        if seconds > 0:
            self.stopped.wait(seconds)
        self.seconds_left()

    def wait_turn(self, seconds: float) -> None:
        """Sleep like :meth:`pause` without taking the time off: that others came first is not the image's fault."""
        self.ends_at += max(0.0, seconds)
        self.pause(seconds)


class _Metered:
    """Reads that count, and that end with the allowance; a mix-in for both kinds of socket."""

    allowance: Allowance

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        wanted = len(buffer) if nbytes is None else nbytes
        silent_until = time.monotonic() + self.allowance.read_seconds
        while True:
            self.settimeout(min(_SLICE_SECONDS, self.allowance.seconds_left()))  # type: ignore[attr-defined]
            try:
                count: int = super().recv_into(buffer, wanted, flags)  # type: ignore[misc]
            except TimeoutError:
                if time.monotonic() < silent_until:
                    continue
                raise Refusal("time", f"silent for {self.allowance.read_seconds:g} s") from None
            self.allowance.spend(count)
            return count


class _PlainSocket(_Metered, socket.socket):
    pass


class _TlsSocket(_Metered, ssl.SSLSocket):
    pass


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return a context that verifies the host's name against the system's authorities and Mozilla's (certifi).

    It is made once: reading the authorities takes longer than fetching a picture.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@dataclass(frozen=True)
class Network:
    """How to get to a host: who looks names up, which addresses may be connected to, whose certificates count."""

    resolve: Resolver
    is_allowed: Callable[[str], bool]
    tls: ssl.SSLContext
    connect_seconds: float

    def __post_init__(self) -> None:
        self.tls.sslsocket_class = _TlsSocket

    def addresses_of(self, host: str, port: int, allowance: Allowance) -> list[str]:
        """Return the addresses of ``host``, all of which may be connected to.

        Raises:
            Refusal: ``address`` if any may not (a name with a public and a private one is up to no good), ``time``.
            OSError: no such host.
        """
        addresses = numeric_addresses(host, port) or self._looked_up(host, port, allowance)
        for address in addresses:
            if not self.is_allowed(address):
                raise Refusal("address", f"{host} is at {address}, which is not on the public internet")
        return addresses

    def dial(self, origin: Origin, allowance: Allowance) -> socket.socket:
        """Open a socket to one of the addresses of ``origin.host``, with TLS if the scheme asks for it.

        They are tried in turn, and the time is shared out among them: a network whose IPv6 leads nowhere still gets to
        the IPv4 address.
        """
        addresses = self.addresses_of(origin.host, origin.port, allowance)
        until = time.monotonic() + self.connect_seconds
        failure = OSError(f"{origin.host} has no address")
        for place, address in enumerate(addresses):
            seconds = min(until - time.monotonic(), allowance.seconds_left()) / (len(addresses) - place)
            try:
                return self._dialled(address, origin, seconds, allowance)
            except OSError as error:
                failure = error
        if isinstance(failure, TimeoutError):
            raise Refusal("time", f"no connection in {self.connect_seconds:g} s") from failure
        raise failure

    def _looked_up(self, host: str, port: int, allowance: Allowance) -> list[str]:
        """Ask the resolver in a thread of its own: the system's cannot be told to hurry."""
        answer: list[list[str] | Exception] = []

        def ask() -> None:
            try:
                answer.append(self.resolve(host, port))
            except Exception as error:  # the resolver's failure belongs to the thread that waits
                answer.append(error)

        asking = threading.Thread(target=ask, name="tezawari-look-up", daemon=True)
        asking.start()

        def answered(seconds: float) -> bool:
            asking.join(seconds)
            return not asking.is_alive()

        allowance.wait_for(answered, f"no address for {host} in {self.connect_seconds:g} s", self.connect_seconds)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    def _dialled(self, address: str, origin: Origin, seconds: float, allowance: Allowance) -> socket.socket:
        until = time.monotonic() + seconds
        plain = _PlainSocket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            plain.settimeout(max(_LEAST_SECONDS, seconds))
            plain.connect((address, origin.port))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.scheme == "http":
                plain.allowance = allowance
                return plain
            # Bounds the whole handshake: unlike for reads, this time-out does not start anew.
            plain.settimeout(max(_LEAST_SECONDS, until - time.monotonic()))
            encrypted = self.tls.wrap_socket(plain, server_hostname=origin.host)
            assert isinstance(encrypted, _TlsSocket)
            encrypted.allowance = allowance
            return encrypted
        except BaseException:
            plain.close()
            raise


class Connection(http.client.HTTPConnection):
    """A connection to one origin that opens itself through a :class:`Network`, and no other way."""

    def __init__(self, origin: Origin, network: Network) -> None:
        super().__init__(origin.host, origin.port)
        self.default_port = 443 if origin.scheme == "https" else 80
        self.origin = origin
        self._network = network
        self._allowance: Allowance | None = None

    def use(self, allowance: Allowance) -> None:
        """Charge the next request to ``allowance``."""
        self._allowance = allowance
        if self.sock is not None:
            self.sock.settimeout(allowance.seconds_left())
        if isinstance(self.sock, _Metered):
            self.sock.allowance = allowance

    def connect(self) -> None:
        """Open the socket; called by the HTTP client whenever there is none."""
        assert self._allowance is not None
        self.sock = self._network.dial(self.origin, self._allowance)


class IdleConnections:
    """Connections that a finished answer left open, for the next request to the same origin; at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[Connection] = []
        self._lock = threading.Lock()

    def take(self, origin: Origin) -> Connection | None:
        """Return an open connection to ``origin``, the last used first, if there is one."""
        while True:
            with self._lock:
                place = next((n for n in reversed(range(len(self._kept))) if self._kept[n].origin == origin), None)
                if place is None:
                    return None
                connection = self._kept.pop(place)
            # Readable means closed by the server, or bytes that nobody asked for.
            if connection.sock is not None and not wait_for_read(connection.sock, timeout=0):
                return connection
            connection.close()

    def put(self, connection: Connection) -> None:
        """Keep ``connection``, and close the one unused for longest if there are too many."""
        with self._lock:
            self._kept.append(connection)
            surplus = self._kept.pop(0) if len(self._kept) > self._limit else None
        if surplus is not None:
            surplus.close()

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            kept, self._kept = self._kept, []
        for connection in kept:
            with contextlib.suppress(OSError):
                connection.close()
