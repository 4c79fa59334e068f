"""A server on this machine that answers as a test tells it to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked: the path, the parameters after it, the headers in lower case, and when (monotonic)."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    time: float


@dataclass(frozen=True)
class Reply:
    """What it is answered with: an object as JSON, or bytes as they are."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds_a_byte: float = 0.0
    announced: int | None = None
    """Content-Length where it is not that of the body."""


Answer = Callable[[Request], Reply]


class ApiServer:
    """A running server: its address, and the requests so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []


@contextlib.contextmanager
def serve(answer: Answer) -> Iterator[ApiServer]:
    """Run a server on a free port of 127.0.0.1 that answers every GET with ``answer(request)``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two packets: the second would wait 40 ms

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {
                name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
            }
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(parts.path, query, headers, time.monotonic())
            server.requests.append(request)
            reply = answer(request)
            body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            standard = {"Content-Type": "application/json", "Content-Length": str(reply.announced or len(body))}
            for name, value in {**standard, **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client may have had enough
                self._send(body, reply.seconds_a_byte)
            self.close_connection = reply.announced is not None

        def _send(self, body: bytes, seconds_a_byte: float) -> None:
            if not seconds_a_byte:
                self.wfile.write(body)
                return
            for value in body:
                self.wfile.write(bytes([value]))
                time.sleep(seconds_a_byte)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = ApiServer(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def in_turn(*replies: Reply) -> Answer:
    """Answer with each reply once, then with the last one again and again."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]
