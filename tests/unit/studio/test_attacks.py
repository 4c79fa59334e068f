"""Attacks on a studio that listens: each is told no, in words that tell nothing, and leaves nothing behind.

They are bytes on a socket, because programs that send requests for a living mend most of these before they send them.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from tests.hostile.pictures import encoded
from tests.unit.studio.running import HERE, PORT, WORD
from tests.unit.studio.test_uploads import HOSTILE

from tezawari.studio.app import create_app
from tezawari.studio.safety import CSRF_HEADER
from tezawari.studio.state import Studio, word_id

SET, PHOTO, IMAGE = word_id(WORD), "0" * 32, "0" * 64
JSON = {"content-type": "application/json"}
_PATIENCE = 60.0  # seconds


class Attack(NamedTuple):
    """What is sent; ``cut``: the sender then hangs up."""

    sent: bytes
    cut: bool = False


def request(
    method: str, path: str, headers: Mapping[str, str | None] = {}, body: bytes = b"", raw: bytes = b""
) -> bytes:
    """Return a request as the page would send it but for ``headers`` (None: without it) and the ``raw`` lines."""
    usual = {"host": f"127.0.0.1:{PORT}", "connection": "close", CSRF_HEADER: "1"}
    if body or method == "POST":
        usual["content-length"] = str(len(body))
    lines = [f"{name}: {value}\r\n" for name, value in {**usual, **headers}.items() if value is not None]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}".encode() + raw + b"\r\n" + body


# --- paths ------------------------------------------------------------------------------------------------------------

ESCAPES = [
    "../../studio.sqlite",
    "..%2f..%2fstudio.sqlite",
    "%2e%2e/%2e%2e/store.sqlite",
    "%252e%252e%252fstudio.sqlite",
    "..%5c..%5cstudio.sqlite",
    "....//....//studio.sqlite",
    "..;/..;/studio.sqlite",
    "..%c0%af..%c0%afstudio.sqlite",
    "%EF%BC%8E%EF%BC%8E%EF%BC%8Fstudio.sqlite",
    "/etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "app.py%00.js",
    ".",
    "'%20OR%20'1'='1",
    f"{PHOTO}%0a",
    f"{IMAGE}%0a",
    f"{PHOTO}.jpg",
    f"{IMAGE[1:]}G",
    "%EF%BC%90" * 32,
    "a" * 5000,
]
ID_ROUTES = [
    ("GET", "/static/{}"),
    ("GET", "/api/photos/{}"),
    ("GET", "/api/jobs/{}"),
    ("POST", "/api/jobs/{}/cancel"),
    ("GET", f"/api/jobs/{PHOTO}/files/{{}}"),
    ("GET", "/api/jobs/{}/files/style-0.jpg"),
    ("GET", "/api/sets/{}"),
    ("POST", "/api/sets/{}/hide"),
    ("GET", "/api/sets/{}/agreement"),
    ("GET", f"/api/sets/{SET}/images/{{}}"),
    ("GET", f"/api/sets/{SET}/thumbnails/{{}}"),
]
PATHS = [
    *(
        Attack(request(method, route.format(escape), JSON, b'{"hidden": true}' if method == "POST" else b""))
        for method, route in ID_ROUTES
        for escape in ESCAPES
    ),
    *(
        Attack(request("GET", target))
        for target in ("/../../etc/passwd", "/static/../app.py", "//etc/passwd", "/.git/config", "/api/../api/sets")
    ),
]

# --- who asks ---------------------------------------------------------------------------------------------------------

FOREIGN_HOSTS = [
    "evil.example",
    f"evil.example:{PORT}",
    f"127.0.0.1.evil.example:{PORT}",
    f"localhost.evil.example:{PORT}",
    "127.0.0.1:80",
    "127.0.0.1",
    f"192.168.1.20:{PORT}",
    f"127.0.0.1:{PORT}@evil.example",
    f"user@127.0.0.1:{PORT}",
    f"[::ffff:8.8.8.8]:{PORT}",
    f"0x7f000001:{PORT}",
    f"2130706433:{PORT}",
    f"127.1:{PORT}",
    f"0177.0.0.1:{PORT}",
    f"localhost.:{PORT}",
    "localhost:",
    f"localhost:+{PORT}",
    f"localhost:{PORT}{PORT}",
    f"localhost:{PORT},evil.example",
    f"localhost:{PORT}/evil.example",
    f"localhost:{PORT} evil.example",
    "",
]
FOREIGN_ORIGINS = [
    "https://evil.example",
    "null",
    f"http://127.0.0.1.evil.example:{PORT}",
    "http://127.0.0.1",
    f"http://127.0.0.1:{PORT + 1}",
    f"http://localhost:{PORT}",
    f"http://user@127.0.0.1:{PORT}",
    f"ftp://127.0.0.1:{PORT}",
    f"{HERE}/",
    f"{HERE}.evil.example",
    f"{HERE}, https://evil.example",
    f"https://evil.example#{HERE}",
    "",
]
HOSTS = [
    *(Attack(request("GET", path, {"host": host})) for host in FOREIGN_HOSTS for path in ("/", "/api/sets")),
    Attack(request("GET", "/api/sets", {"host": None})),
    Attack(request("GET", "/api/sets", raw=b"host: evil.example\r\n")),
    Attack(request("GET", "/api/sets", raw=f"Host: 127.0.0.1:{PORT}\r\n".encode())),
    Attack(request("GET", "/api/sets", {"host": "evil.example", "x-forwarded-host": f"127.0.0.1:{PORT}"})),
    Attack(request("GET", "/api/sets", {"host": "evil.example", "forwarded": f"host=127.0.0.1:{PORT}"})),
    Attack(request("GET", f"{HERE}/api/sets", {"host": "evil.example"})),
]
ORIGINS = [
    *(
        Attack(request(method, path, {"origin": origin}))
        for origin in FOREIGN_ORIGINS
        for method, path in (("GET", "/api/sets"), ("POST", "/api/photos/sample"))
    ),
    *(Attack(request("GET", "/api/sets", {"sec-fetch-site": site})) for site in ("cross-site", "same-site")),
    Attack(request("GET", "/api/sets", {"origin": HERE}, raw=b"origin: https://evil.example\r\n")),
    Attack(request("GET", "/api/sets", {"origin": "https://evil.example"}, raw=f"origin: {HERE}\r\n".encode())),
    Attack(request("GET", "/api/sets", {"origin": "https://evil.example", "upgrade": "websocket"})),
]
_BARE = {CSRF_HEADER: None}
FORGERIES = [
    *(
        Attack(request("POST", path, {**_BARE, "content-type": kind}, b'{"hidden": true}'))
        for path in (f"/api/sets/{SET}/hide", "/api/photos/sample", "/api/session", f"/api/jobs/{PHOTO}/cancel")
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    ),
    *(Attack(request(method, f"/api/sets/{SET}/hide", _BARE)) for method in ("PUT", "PATCH", "DELETE", "post", "LINK")),
    Attack(request("GET", f"/api/sets/{SET}/hide?hidden=true")),
    Attack(request("GET", f"/api/sets/{SET}/hide", {"x-http-method-override": "POST"}, b'{"hidden": true}')),
    Attack(request("POST", f"/api/sets/{SET}/hide?{CSRF_HEADER}=1", {**_BARE, **JSON}, b'{"hidden": true}')),
    Attack(request("POST", f"/api/sets/{SET}/hide", {**_BARE, **JSON, "x_tezawari": "1"}, b'{"hidden": true}')),
    Attack(request("POST", f"/api/sets/{SET}/hide", {**_BARE, **JSON, "cookie": f"{CSRF_HEADER}=1"}, b'{"hidden":1}')),
]

# --- the wire ---------------------------------------------------------------------------------------------------------

_HIDE = ("POST", f"/api/sets/{SET}/hide")
_WISH = b'{"hidden": true}'
_HIDDEN_WISH = request(*_HIDE, JSON, _WISH)
_CHUNKED = b"10\r\n" + _WISH + b"\r\n0\r\n\r\n"
_NO_LENGTH = {**JSON, "content-length": None}
WIRE = [
    # Two lengths of one body: what one reader takes for the body, another takes for the next request.
    Attack(request(*_HIDE, {**JSON, "content-length": "5"}, _WISH, b"content-length: 16\r\n")),
    Attack(request(*_HIDE, {**JSON, "content-length": "5, 16"}, _WISH)),
    *(
        Attack(request(*_HIDE, {**JSON, "content-length": length}, _WISH))
        for length in ("-1", "+16", "1e1", "0x10", "1_6", "16 16", "٣", "9" * 24, "")
    ),
    *(
        Attack(request(*_HIDE, {**_NO_LENGTH, "transfer-encoding": coding}, _CHUNKED))
        for coding in ("gzip, chunked", "chunked, identity", "xchunked", "identity", "chunked, chunked", '"chunked"')
    ),
    Attack(request(*_HIDE, _NO_LENGTH, _CHUNKED, b"transfer-encoding : chunked\r\n")),
    Attack(request(*_HIDE, _NO_LENGTH, _CHUNKED, b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n")),
    *(
        Attack(
            request(*_HIDE, {**_NO_LENGTH, "transfer-encoding": "chunked"}, size + b"\r\n" + _WISH + b"\r\n0\r\n\r\n")
        )
        for size in (b"-10", b"0x10", b"+10", b"10 10", b"g", b"", b"f" * 24, b"10;" + b"x" * 1_000_000)
    ),
    Attack(request(*_HIDE, {**_NO_LENGTH, "transfer-encoding": "chunked"}, b"3\r\n" + _WISH + b"\r\n0\r\n\r\n")),
    Attack(request(*_HIDE, JSON, _HIDDEN_WISH)),
    Attack(request("GET", "/api/none", {"content-length": str(len(_HIDDEN_WISH))}, _HIDDEN_WISH)),
    Attack(request(*_HIDE, {**JSON, "content-length": "100"}, _WISH), cut=True),
    Attack(request(*_HIDE, {**_NO_LENGTH, "transfer-encoding": "chunked"}, _CHUNKED[:-5]), cut=True),
    # Lines that are none, or longer than all that is read at once.
    *(
        Attack(request(*_HIDE, JSON, _WISH, line))
        for line in (
            b"no colon\r\n",
            b": no name\r\n",
            b"x y: 1\r\n",
            b"x\0: 1\r\n",
            b"x: \0\r\n",
            b"x: a\rb\r\n",
            b"x\xc3\xa9: 1\r\n",
            b"x: " + b"a" * 1_000_000 + b"\r\n",
            b"x: 1\r\n" * 200_000,
        )
    ),
    *(
        Attack(start + request(*_HIDE, JSON, _WISH).partition(b"\r\n")[2])
        for start in (
            b"POST\r\n",
            b"POST /api/sets\r\n",
            b"POST  /api/photos/sample HTTP/1.1\r\n",
            b"POST /api/photos/sample HTTP/1.1 HTTP/1.1\r\n",
            b"POST /api/photos/sample http/1.1\r\n",
            b"POST /api/photos/\0sample HTTP/1.1\r\n",
            b"PO\0ST /api/photos/sample HTTP/1.1\r\n",
            b"POST api/photos/sample HTTP/1.1\r\n",
            b"CONNECT evil.example:443 HTTP/1.1\r\n",
            b"TRACE / HTTP/1.1\r\n",
            b"POST /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n",
        )
    ),
    Attack(b"PRI * HTTP/2.0\r\nconnection: close\r\n\r\nSM\r\n\r\n"),
    Attack(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n"),
]

# --- what forms hold --------------------------------------------------------------------------------------------------

_JUDGE = f"/api/sets/{SET}/judgements"
_NO_TRUTHS: list[object] = ["true", 1, None, [], {"$ne": False}]
_WISHES: list[dict[str, object]] = [
    {"word": ""},
    {"word": "a\0"},
    {"word": "a" * 201},
    {"sources": []},
    {"sources": ["/etc"]},
    {"sources": ["http://127.0.0.1/"]},
    {"sources": ["folder"]},
    {"sources": ["openverse"] * 9},
    {"limit": 0},
    {"limit": 10**30},
    {"language": "../x"},
    {"nouns": ["x"] * 9},
    {"nouns": ["a\0"]},
    {"backbone": "os.system"},
    {"folder": "/etc"},
]
_FORMS: list[tuple[str, object]] = [
    *(
        (_JUDGE, {"annotator": name, "verdicts": {IMAGE: True}})
        for name in ("", " \n", "A\0b", "A\u202eb", "A\u200bb", "A" * 41, "\ud800", None, 7, ["A"], {"A": 1}, True)
    ),
    *(
        (_JUDGE, {"annotator": "A", "verdicts": verdicts})
        for verdicts in (
            {},
            {IMAGE: "yes"},
            {IMAGE: 1},
            {IMAGE: [True]},
            {"../x": True},
            {"": True},
            {IMAGE + "\n": True},
            {IMAGE.replace("0", "\uff10"): True},
            {"' OR 1=1 --": True},
            {f"{number:064x}": True for number in range(1001)},
            [IMAGE],
        )
    ),
    (_JUDGE, {"annotator": "A", "verdicts": {IMAGE: True}, "word": WORD}),
    (_JUDGE, {"annotator": "A", "verdicts": {IMAGE: True}, "__proto__": {"admin": True}}),
    (f"{_JUDGE}/undo", {"annotator": "A\u202e"}),
    (f"{_JUDGE}/undo", {}),
    *((f"/api/sets/{SET}/hide", {"hidden": hidden}) for hidden in _NO_TRUTHS),
    *((f"/api/sets/{SET}/pack", {"count": count}) for count in (0, -1, 51, "50", 1e300, "../x")),
    *((f"/api/sets/{SET}/rank", {"backbone": name}) for name in ("../../evil", "http://evil.example/x.pth", "a" * 41)),
    (f"/api/sets/{SET}/rank", {"layer": "__class__"}),
    *(("/api/sets", {"word": "もこもこ", "sources": ["openverse"], **change}) for change in _WISHES),
    *(
        ("/api/restyle", {"photo": PHOTO, "weights": {"the_scream": 1.0}, **change})
        for change in (
            {"photo": "../../x"},
            {"photo": [PHOTO]},
            {"weights": {"../x": 1.0}},
            {"weights": {"the_scream": -1.0}},
            {"weights": {"the_scream": "1"}},
            {"weights": {f"s{number}": 1.0 for number in range(257)}},
            {"map": "x"},
            {"feather": 7.0},
            {"checkpoint": "/tmp/evil.pth"},
        )
    ),
    ("/api/segment", {"photo": PHOTO, "methods": ["../x"]}),
    ("/api/segment", {"photo": PHOTO, "methods": ["cam"] * 9}),
    ("/api/swap", {"photo": PHOTO, "target": "a" * 257}),
    ("/api/styles", {"photo": f"{PHOTO}\n"}),
    ("/api/words/measure", {"sets": ["../x"]}),
    ("/api/words/measure", {"sets": [SET] * 301}),
    ("/api/words/measure", {"sets": [SET], "images": 10**9}),
    ("/api/session", {"token": "a" * 257}),
]
_TEXTS = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe{\0}\0",
    b'{"hidden": NaN}',
    b'{"hidden": true}{"hidden": true}',
    b'{"hidden": tru\0e}',
    b'{"a":' * 20_000,
    b"[" * 100_000,
    b'{"hidden": ' + b"1" * 50_000 + b"}",
    b'{"\\ud800": true}',
    b"hidden=true",
    b'--x\r\nContent-Disposition: form-data; name="hidden"\r\n\r\ntrue\r\n--x--',
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><hidden>&e;</hidden>",
    b" " * 300_000,
]
FORMS = [
    *(Attack(request("POST", path, JSON, json.dumps(form).encode())) for path, form in _FORMS),
    *(Attack(request(*_HIDE, JSON, text)) for text in _TEXTS),
    *(
        Attack(request(*_HIDE, {"content-type": kind}, _WISH))
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream")
    ),
    Attack(request(*_HIDE, {**JSON, "content-encoding": "gzip"}, b"\x1f\x8b\x08\0" + bytes(60))),
    *(
        Attack(request("GET", f"{_JUDGE}?since={since}"))
        for since in ("-1", "1e3", "99999999999999999999", "x", "1;drop", "%00", "")
    ),
]
UPLOADS = [
    *(
        Attack(request("POST", "/api/photos", {}, content))
        for content, status in HOSTILE.values()
        if status in (413, 415, 422)
    ),
    *(
        Attack(request("POST", f"/api/maps?photo={photo}&width={width}&height={height}", {}, b"12"))
        for photo, width, height in (
            ("../x", 1, 2),
            (PHOTO, 1, 2),
            (PHOTO, -1, -2),
            (PHOTO, 0, 2),
            (PHOTO, 2**20, 2**20),
            (PHOTO, "1e0", 2),
            (PHOTO, "1&width=2", 2),
            (f"{PHOTO}%0a", 1, 2),
        )
    ),
    Attack(request("POST", "/api/photos", {"content-length": "40000000000"}, b"\xff\xd8\xff")),
    Attack(request("POST", "/api/photos", {"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n--x--")),
    Attack(request("POST", "/api/photos", {"content-encoding": "gzip"}, b"\x1f\x8b\x08\0" + bytes(60))),
    Attack(request("POST", "/api/photos/../photos", {}, encoded("PNG"))),
]

KINDS = {
    "paths": PATHS,
    "hosts": HOSTS,
    "origins": ORIGINS,
    "forgeries": FORGERIES,
    "wire": WIRE,
    "forms": FORMS,
    "uploads": UPLOADS,
}
ATTACKS = {attack for attacks in KINDS.values() for attack in attacks}


# --- the target -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[tuple[str, int]]:
    """Where the studio of this module listens, as ``tezawari studio`` lets it; its workers are never started."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            create_app(studio),
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=16 * 1024,
            ws="none",
            http="h11",
            lifespan="off",
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def answers(address: tuple[str, int], attack: Attack) -> bytes:
    """Send an attack and return all that comes back until the server hangs up."""
    received = b""
    with socket.create_connection(address, timeout=_PATIENCE) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(attack.sent)
        if attack.cut:
            connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            received += part
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", received)]


def state(studio: Studio) -> object:
    """Return all that a request could change."""
    connection = studio.database.reading()
    tables = ("jobs", "photos", "maps", "changes", "judgements", "hidden")
    rows = [tuple(map(tuple, connection.execute(f"SELECT * FROM {table}"))) for table in tables]
    files = [path for name in ("photos", "thumbnails", "jobs") for path in (studio.database.folder / name).rglob("*")]
    return rows, sorted(files)


def told(received: bytes, studio: Studio) -> list[str]:
    """Return what an answer tells that it should not: where the studio lives, its sources, or a file."""
    secrets = (str(studio.settings.store), str(Path.home()), "Traceback", "SQLite format 3", "root:x:", "import ")
    return [secret for secret in secrets if secret.encode() in received]


@pytest.mark.parametrize("kind", KINDS)
def test_no_attack_gets_through(address: tuple[str, int], studio: Studio, kind: str) -> None:
    before = state(studio)
    through = []
    for attack in KINDS[kind]:
        received = answers(address, attack)
        found = statuses(received)
        # Something that is no request at all is hung up on; whatever is answered is refused, once.
        if len(found) > 1 or any(not 400 <= status < 500 for status in found) or told(received, studio):
            through.append((attack.sent[:200], received[:300]))
    assert through == [], "\n".join(map(repr, through))
    assert state(studio) == before


def test_they_are_more_than_two_hundred_and_all_different() -> None:
    assert len(ATTACKS) == sum(map(len, KINDS.values()))
    assert len(ATTACKS) >= 200


def test_what_the_page_sends_does_get_through(address: tuple[str, int], studio: Studio) -> None:
    """Else all attacks would fail, for a reason of no interest."""
    before = state(studio)
    assert statuses(answers(address, Attack(request("GET", "/api/sets", {"origin": HERE})))) == [200]
    assert statuses(answers(address, Attack(request("GET", "/static/main.js")))) == [200]
    assert state(studio) == before
    assert statuses(answers(address, Attack(request("POST", "/api/photos", {}, encoded("PNG"))))) == [201]
    assert statuses(answers(address, Attack(_HIDDEN_WISH))) == [200]
    chunked = request(*_HIDE, {**_NO_LENGTH, "transfer-encoding": "chunked"}, _CHUNKED)
    assert statuses(answers(address, Attack(chunked))) == [200]
    assert state(studio) != before
