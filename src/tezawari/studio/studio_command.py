"""``tezawari studio``: open the studio for browsers."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from tezawari.collect.store import DEFAULT_FOLDER
from tezawari.core.errors import UserError
from tezawari.studio.safety import Safety, is_loopback

TOKEN_VARIABLE = "TEZAWARI_TOKEN"
"""An environment variable that holds the token, where other users of the machine could see arguments."""

_NEEDED = ("fastapi", "uvicorn")
_MOST_CONNECTIONS = 128
_LONGEST_HEADER = 16 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari studio``."""
    parser.description = (
        "Open the studio: pages to restyle photos, collect images of words, judge them and segment photos. Only this "
        "machine is let in, unless a host and a token are given."
    )
    parser.epilog = "tezawari studio   |   TEZAWARI_TOKEN=… tezawari studio --host 0.0.0.0"
    parser.add_argument("--port", metavar="N", type=int, default=8765, help="0: any that is free (default: 8765)")
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--token", metavar="T", help=f"what browsers must know to be let in (default: the variable {TOKEN_VARIABLE})"
    )
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--checkpoint", metavar="C", type=Path, help="of the styles (default: the eight paintings)")
    parser.add_argument("--segmenter", metavar="RUN", type=Path, help="the run or file of a network for Segment")
    parser.add_argument("--folder", metavar="DIR", type=Path, help="of images, that Collect may search as well")
    parser.add_argument(
        "--negatives", metavar="DIR", type=Path, help="of random photos, that words are ranked and measured against"
    )
    parser.add_argument(
        "--allow-private", action="store_true", help="let Collect fetch from this machine and the local network too"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; what was under way goes on at the next start.

    Raises:
        UserError: a host or port that cannot be listened on, a missing or weak token, a store that is in use, a
            network or folder that is not there, or packages that are not installed.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(f"the studio needs {' and '.join(missing)}: pip install 'tezawari[studio]'")
    token = args.token if args.token is not None else os.environ.get(TOKEN_VARIABLE)
    Safety(args.host, args.port, token)  # before a socket is opened that it forbids
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with _listening(args.host, args.port) as listener:
        return _serve(args, token, listener)


def _serve(args: argparse.Namespace, token: str | None, listener: socket.socket) -> int:
    # Here: what they load takes seconds, and a wrong argument is told before.
    import uvicorn

    from tezawari.studio.app import create_app
    from tezawari.studio.database import alone
    from tezawari.studio.job_work import Settings
    from tezawari.studio.picture_routes import UPLOADS
    from tezawari.studio.state import Studio
    from tezawari.studio.uploads import UPLOAD_BYTES

    port = listener.getsockname()[1]
    safety = Safety(args.host, port, token, uploads=UPLOADS, upload_bytes=UPLOAD_BYTES)
    settings = Settings(
        store=args.store.expanduser().resolve(),
        checkpoint=args.checkpoint,
        segmenter=args.segmenter,
        folder=None if args.folder is None else args.folder.expanduser().resolve(),
        allow_private=args.allow_private,
        negatives=None if args.negatives is None else args.negatives.expanduser().resolve(),
    )
    with alone(settings.store):
        config = uvicorn.Config(
            create_app(Studio(settings, safety)),
            log_level="warning",
            access_log=False,  # of paths and addresses there is no need, and a log keeps them
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MOST_CONNECTIONS,
            h11_max_incomplete_event_size=_LONGEST_HEADER,
            timeout_graceful_shutdown=3,
            ws="none",
            http="h11",
        )
        print(f"studio: http://{_shown_host(args.host)}:{port}/  (Ctrl-C ends it)", file=sys.stderr, flush=True)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}): name another port, like --port 0"
        ) from None
    # Connections inherit it. Without, a body waits 40 ms for the acknowledgement of its headers: asyncio sets it on
    # sockets that it opened itself only.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _shown_host(host: str) -> str:
    if ":" in host:
        return f"[{host}]"
    return host if is_loopback(host) or host not in ("0.0.0.0", "") else socket.gethostname()
