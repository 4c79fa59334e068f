"""What every request must pass before a route sees it, and what every answer carries.

The studio runs on people's own machines, where any web page they visit can send requests to it. So a request must name
a host that is this machine (against DNS rebinding), must not come from another site, and must carry a header that a
foreign page cannot send without asking first when it changes anything. Beyond loopback it must show a token, too.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tezawari.core.errors import UserError

CSRF_HEADER = "x-tezawari"
"""A header that every changing request carries: no form can send one, and a foreign script has to ask first."""

COOKIE = "tezawari_session"
SESSION_PATH = "/api/session"

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_SHORTEST_TOKEN = 16
_JSON_BYTES = 256 * 1024
_BODY_SECONDS = 60.0
_ATTEMPTS, _ATTEMPT_SECONDS = 10, 60.0

_CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
_HEADERS = {
    "content-security-policy": _CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}


@dataclass
class Safety:
    """What the checks of one running studio need to know.

    ``host`` and ``port`` are what it listens on; ``token`` is asked for where it is not None. ``upload_bytes`` bounds
    the bodies of the paths in ``uploads``, all others are bounded by what a form needs.

    Raises:
        UserError: a host beyond this machine without a token, or a token that could be guessed.
    """

    host: str
    port: int
    token: str | None = None
    uploads: tuple[str, ...] = ()
    upload_bytes: int = 32_000_000
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _failures: deque[float] = field(default_factory=lambda: deque(maxlen=_ATTEMPTS))

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host} lets other machines in: give a token as well, like --token {secrets.token_hex(12)}"
            )
        if self.token is not None and (len(self.token) < _SHORTEST_TOKEN or not self.token.isascii()):
            raise UserError(
                f"--token: at least {_SHORTEST_TOKEN} ASCII characters, like --token {secrets.token_hex(12)}"
            )

    def knows_host(self, header: str) -> bool:
        """Say whether a Host header names this studio: its own name or, as rebinding needs a name, any bare address."""
        name, port = split_host(header)
        if port != self.port:
            return False
        if name == "localhost" or name == self.host.lower():
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.host)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Say whether a request shows the token, or the cookie that was given for it."""
        if self.token is None:
            return True
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return True
        return hmac.compare_digest(_cookie(headers.get("cookie", "")).encode(), self.session.encode())

    def may_try(self) -> bool:
        """Say whether another token may be tried: ten wrong ones a minute are enough for anybody's fingers."""
        now = time.monotonic()
        return len(self._failures) < _ATTEMPTS or now - self._failures[0] > _ATTEMPT_SECONDS

    def opens(self, shown: str) -> bool:
        """Say whether ``shown`` is the token, and count it where it is not."""
        right = self._is_token(shown)
        if not right:
            self._failures.append(time.monotonic())
        return right

    def _is_token(self, shown: str) -> bool:
        return self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode())


class SafetyMiddleware:
    """Refuse what :class:`Safety` refuses, bound the bodies of the rest, and put the headers on every answer."""

    def __init__(self, app: ASGIApp, safety: Safety) -> None:
        self._app = app
        self._safety = safety

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; anything but HTTP and the server's own start and stop is closed."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            await _answer(guarded, *refused)
            return
        limit = self._safety.upload_bytes if scope["path"] in self._safety.uploads else _JSON_BYTES
        body = await _read_body(receive, limit)
        if isinstance(body, tuple):
            await _answer(guarded, *body)
            return
        await self._app(scope, _replay(body, receive), guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        names = [name for name, _ in scope["headers"]]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if names.count(b"host") != 1 or not self._safety.knows_host(headers["host"]):
            return 421, "host", "this studio does not answer to that host name"
        origin = headers.get("origin")
        if origin is not None and (names.count(b"origin") != 1 or origin.lower() not in _origins(headers["host"])):
            return 403, "origin", "requests from other sites are refused"
        if scope["path"].startswith("/api/") and headers.get("sec-fetch-site", "same-origin") not in (
            "same-origin",
            "none",
        ):
            return 403, "origin", "requests from other sites are refused"
        if scope["method"] not in _SAFE_METHODS and CSRF_HEADER not in headers:
            return 403, "csrf", f"a changing request carries the header {CSRF_HEADER}"
        limit = self._safety.upload_bytes if scope["path"] in self._safety.uploads else _JSON_BYTES
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return 400, "length", "the length of the body is no number"
        if int(length[:20]) > limit:
            return 413, "large", f"a body of at most {limit} bytes is taken here"
        needs_token = scope["path"].startswith("/api/") and scope["path"] != SESSION_PATH
        if needs_token and not self._safety.admits(headers):
            return 401, "token", "this studio asks for its token"
        return None


def is_loopback(host: str) -> bool:
    """Say whether listening on ``host`` lets in this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_host(header: str) -> tuple[str, int]:
    """Return name (lower case, no brackets) and port of a Host header, port 80 where it has none, −1 for nonsense."""
    name, port = header.strip().lower(), "80"
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        if rest:
            port = rest[1:] if rest.startswith(":") else "x"
    elif ":" in name:
        name, _, port = name.partition(":")
    return (name, int(port)) if port.isascii() and port.isdigit() and len(port) <= 5 else (name, -1)


def _origins(host: str) -> tuple[str, str]:
    # https where a proxy of the user's own puts TLS before the studio.
    return f"http://{host.lower()}", f"https://{host.lower()}"


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


async def _read_body(receive: Receive, limit: int) -> bytes | tuple[int, str, str]:
    """Return the whole body, or why it is not taken: it is counted as it comes, whatever was announced."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return 400, "cut", "the request ended early"
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    return 413, "large", f"a body of at most {limit} bytes is taken here"
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        return 408, "slow", "the request took too long to arrive"


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _answer(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
