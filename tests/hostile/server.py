"""A local web server whose answers are written byte by byte, so that they may be as wrong as one likes."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable, Iterator

Say = Callable[[socket.socket, int], None]
"""Answers over a socket; the number counts the requests for this path, from 1."""


def answer(
    body: bytes = b"",
    status: str = "200 OK",
    headers: Iterable[str] = (),
    length: int | str | None = None,
    type: str = "image/png",
) -> bytes:
    """Return an answer in HTTP's form; ``length`` replaces the true Content-Length."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {type}",
        f"Content-Length: {len(body) if length is None else length}",
    ]
    return "\r\n".join([*lines, *headers, "", ""]).encode("utf-8") + body


def reset(connection: socket.socket) -> None:
    """Close with a reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class HostileServer(socketserver.ThreadingTCPServer):
    """Answers on 127.0.0.1 by path; paths without an answer are 404, as is robots.txt unless it is given one."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        super().__init__(address, _Handler)
        self.answers: dict[str, bytes | Say] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()
        self.lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self) -> list[str]:
        """The paths asked for, robots.txt left out."""
        return [path for path, _ in self.requests if path != "/robots.txt"]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on hostile servers."""


class _Handler(socketserver.BaseRequestHandler):
    server: HostileServer

    def handle(self) -> None:
        self.request.settimeout(20)
        with contextlib.suppress(OSError):
            while self._answer_one():
                pass

    def _answer_one(self) -> bool:
        """Return whether the connection may serve another request."""
        asked = b""
        while b"\r\n\r\n" not in asked:
            received = self.request.recv(65536)
            if not received:
                return False
            asked += received
        first, *rest = asked.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
        path = first.split(" ")[1]
        headers = dict(line.split(": ", 1) for line in rest)
        with self.server.lock:
            self.server.requests.append((path, headers))
            number = sum(other == path for other, _ in self.server.requests)
        said = self.server.answers.get(path, answer(b"no such thing", "404 Not Found"))
        if callable(said):
            said(self.request, number)
            return False
        self.request.sendall(said)
        head = said.split(b"\r\n\r\n")[0]
        return b"\r\nContent-Length: " in head and b"\r\nConnection: close" not in head


@contextlib.contextmanager
def serving(server: HostileServer) -> Iterator[HostileServer]:
    """Run ``server`` in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
