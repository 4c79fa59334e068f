"""A local server of static files that lets pages use threads."""

from __future__ import annotations

import http.server
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tezawari.core.errors import UserError

_HEADERS = {
    # Both together isolate the page from others, without which browsers offer no shared memory, so no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    extensions_map = {  # noqa: RUF012 (as in the base class)
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
        ".gz": "application/gzip",
    }

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def open_server(folder: Path, port: int) -> http.server.ThreadingHTTPServer:
    """Listen on the loopback address and return a server of ``folder``, which ``serve_forever()`` starts.

    ``port`` 0 is any that is free; ``server_port`` says which.

    Raises:
        UserError: when nothing can listen there.
    """
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on port {port} ({error}): name another, like --serve 0") from None
