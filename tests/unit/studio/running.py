"""A studio that listens, in a process that can be killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess

import httpx
import uvicorn

from tezawari.studio import state
from tezawari.studio.app import create_app
from tezawari.studio.database import alone
from tezawari.studio.job_work import Settings
from tezawari.studio.picture_routes import UPLOADS
from tezawari.studio.safety import CSRF_HEADER, Safety
from tezawari.studio.uploads import UPLOAD_BYTES

PORT = 8765
HERE = f"http://127.0.0.1:{PORT}"
"""Where a studio that does not listen pretends to be."""

WORD = "ふわふわ"
IMAGES = 12

# Forks of a process that has imported this module and computed nothing start at once; torch does not survive a fork
# of one that has computed.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])
_PATIENCE = 300.0


@dataclass(frozen=True)
class Running:
    """Where a studio listens, and its process."""

    url: str
    process: BaseProcess

    def client(self) -> httpx.Client:
        """A program of this machine that talks to it."""
        return httpx.Client(base_url=self.url, headers={CSRF_HEADER: "1"}, timeout=_PATIENCE)


@contextlib.contextmanager
def running(settings: Settings, token: str | None = None) -> Iterator[Running]:
    """Serve a store until the block is left, or until somebody kills the process."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    process = _context.Process(target=_serve, args=(listener, settings, port, token))
    process.start()
    listener.close()
    server = Running(f"http://127.0.0.1:{port}", process)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.join(10)
        process.kill()
        process.join()


def _serve(listener: socket.socket, settings: Settings, port: int, token: str | None) -> None:
    state.LANES = {name: replace(lane, ready=False) for name, lane in state.LANES.items()}
    safety = Safety("127.0.0.1", port, token, UPLOADS, UPLOAD_BYTES)
    with alone(settings.store):
        app = create_app(state.Studio(settings, safety))
        config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])
    os._exit(0)  # without what the tests' own process would do at its end


def _wait(server: Running) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and server.process.is_alive():
        with contextlib.suppress(httpx.TransportError):
            httpx.get(server.url)
            return
        time.sleep(0.05)
    raise AssertionError("the studio did not start")
