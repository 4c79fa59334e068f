"""A Mastodon server on 127.0.0.1, as far as the bot speaks to one."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "a-token-that-no-line-may-show"
ME = {"id": "1", "username": "bot", "acct": "bot", "bot": True}


class FakeMastodon(ThreadingHTTPServer):
    """Holds posts, notifications, photos and uploads; what is in ``trouble`` is answered first, once each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.photos: dict[str, bytes] = {}
        self.posts: dict[str, dict[str, Any]] = {}
        self.notifications: list[dict[str, Any]] = []
        self.uploads: dict[str, dict[str, Any]] = {}
        self.replies: list[dict[str, Any]] = []
        self.trouble: list[tuple[str, int, dict[str, str]]] = []
        """The end of a path, a status (0: no answer at all, after the request was done) and headers."""
        self.looks_until_processed = 0
        self.keys: set[str] = set()
        self._next = 100

    def new_id(self) -> str:
        """Return an id that is larger than all before."""
        self._next += 1
        return str(self._next)

    def mention(
        self,
        photo: bytes | None,
        author: str = "2",
        *,
        kind: str = "image",
        hours_ago: float = 0,
        bot: bool = False,
        **fields: Any,
    ) -> str:
        """Have somebody mention the bot; return the id of the post."""
        identity = self.new_id()
        attachments = []
        if photo is not None:
            self.photos[identity] = photo
            url = f"{self.url}/photos/{identity}"
            attachments = [{"id": identity, "type": kind, "url": url, "remote_url": None, "description": None}]
        account = {"id": author, "username": f"user{author}", "acct": f"user{author}@far.example", "bot": bot}
        self.posts[identity] = {
            "id": identity,
            "created_at": (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat(),
            "account": account,
            "content": "<p>@bot</p>",
            "visibility": "public",
            "language": "en",
            "sensitive": False,
            "spoiler_text": "",
            "in_reply_to_id": None,
            "media_attachments": attachments,
            **fields,
        }
        self.notifications.append({"id": self.new_id(), "type": "mention", "account": account, "status": identity})
        return identity


class _Handler(BaseHTTPRequestHandler):
    server: FakeMastodon
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: in two, each answer waits 40 ms for an acknowledgement
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        trouble = next((each for each in self.server.trouble if path.endswith(each[0])), None)
        if trouble is not None:
            self.server.trouble.remove(trouble)
            if trouble[1]:
                self._send({"error": "trouble"}, trouble[1], trouble[2])
                return
        if path.startswith("/photos/"):
            content = self.server.photos[path.rpartition("/")[2]]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        if path == "/robots.txt":
            self._send({"error": "none"}, 404)
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send({"error": "The access token is invalid"}, 401)
            return
        said = self._api(path.split("/")[3:], parse_qs(urlsplit(self.path).query), body)
        if trouble is not None:
            self.close_connection = True
            return
        self._send({"error": "Record not found"} if said is None else said, 404 if said is None else 200)

    def _api(self, words: list[str], query: dict[str, list[str]], body: bytes) -> Any:
        match words:
            case ["accounts", "verify_credentials"]:
                return ME
            case ["notifications"]:
                return self._notifications(query)
            case ["statuses"]:
                return self._post(parse_qs(body.decode()))
            case ["statuses", identity]:
                return self.server.posts.get(identity)
            case ["statuses", identity, "context"]:
                below = [reply for reply in self.server.replies if reply["in_reply_to_id"] == identity]
                return {"ancestors": [], "descendants": below}
            case ["media"]:
                return self._upload(body)
            case ["media", identity]:
                return self._media(identity)
        return None

    def _notifications(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        assert query["types[]"] == ["mention"]
        limit, since = int(query["limit"][0]), int(query.get("min_id", ["0"])[0])
        later = [each for each in self.server.notifications if int(each["id"]) > since]
        page = later[:limit] if "min_id" in query else later[-limit:]
        return [{**each, "status": self.server.posts.get(each["status"])} for each in reversed(page)]

    def _post(self, form: dict[str, list[str]]) -> dict[str, Any]:
        reply = {name.removesuffix("[]"): values[0] for name, values in form.items()}
        key = self.headers["Idempotency-Key"]
        if key not in self.server.keys:
            self.server.keys.add(key)
            self.server.replies.append({**reply, "id": self.server.new_id(), "account": ME})
        return self.server.replies[-1]

    def _upload(self, body: bytes) -> dict[str, Any]:
        parts = message_from_bytes(
            b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body, policy=policy.HTTP
        )
        identity = self.server.new_id()
        fields = {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in parts.iter_parts()
        }
        description = fields["description"].decode()
        self.server.uploads[identity] = {"description": description, "file": fields["file"], "looks": 0}
        return self._media(identity)

    def _media(self, identity: str) -> dict[str, Any]:
        upload = self.server.uploads[identity]
        upload["looks"] += 1
        ready = upload["looks"] > self.server.looks_until_processed
        return {"id": identity, "type": "image", "url": f"{self.server.url}/media/{identity}" if ready else None}

    def _send(self, said: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[FakeMastodon]:
    """Run a server until the block is left."""
    server = FakeMastodon()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
