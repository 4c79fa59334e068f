"""What becomes of each hostile answer: one table, and one local server that gives them all."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.hostile.pictures import (
    encoded,
    gif_of_frames,
    icc_segments,
    jpeg_of_scans,
    jpeg_segment,
    overlapping_exif,
    png_16_bit,
    png_bomb,
    png_chunk,
    with_jpeg_segments,
    with_png_chunks,
)
from tests.hostile.server import HostileServer, Say, answer, reset, serving
from tezawari.collect.download import Downloader
from tezawari.collect.found import Fetched, Refused
from tezawari.collect.limits import Limits

LIMITS = Limits(
    max_bytes=1_000_000, max_pixels=1_000_000, max_metadata_bytes=200_000, max_wait_seconds=5, allow_private=True
)
# For answers that never end; a busy machine must not make the others late.
IMPATIENT = replace(LIMITS, read_seconds=0.4, total_seconds=0.8)
USER_AGENT = "tezawari/0.1 (tests)"
PNG = encoded("PNG")
JPEG = encoded("JPEG", size=(640, 480), quality=95)


def drip(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        connection.sendall(b"\x89")
        time.sleep(0.1)


def slow_headers(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X")
        time.sleep(0.1)


def silent(connection: socket.socket, number: int) -> None:
    connection.recv(1)


def endless(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n")
    while True:
        connection.sendall(bytes(65536))


def endless_chunks(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")


def endless_chunk_trailer(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    while True:
        connection.sendall(b"a: b\r\n" * 1000)


def endless_continue(connection: socket.socket, number: int) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def header_flood(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Flood: 1\r\n" * 100)


def header_without_end(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        connection.sendall(b"a" * 65536)


def reset_in_the_body(connection: socket.socket, number: int) -> None:
    connection.sendall(answer(PNG)[:-100])
    time.sleep(0.05)
    reset(connection)


def hang_up(connection: socket.socket, number: int) -> None:
    """Close without a word."""


def chunks_cut_short(connection: socket.socket, number: int) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nabc")


def later(retry_after: Callable[[], str], times: int, status: str = "429 Too Many Requests") -> Say:
    """Say that it is asked too often so many times, then give the picture."""

    def say(connection: socket.socket, number: int) -> None:
        refuse = answer(b"later", status, [f"Retry-After: {retry_after()}"])
        connection.sendall(refuse if number <= times else answer(PNG))

    return say


def to(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, [f"Location: {location}"])


def in_a_second() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)


def packed(content: bytes, by: str) -> bytes:
    return answer(content, headers=[f"Content-Encoding: {by}"])


def html(of_type: str) -> bytes:
    return answer(b"<!DOCTYPE html><html>not found</html>", type=of_type)


def tagged(value: str) -> bytes:
    return answer(PNG, headers=[f"X-Robots-Tag: {value}"])


BOMB = png_bomb(1500)
EXIF_BOMB = with_jpeg_segments(JPEG, jpeg_segment(0xE1, b"Exif\x00\x00" + bytes(60_000)) * 4)
ICC_PNG = png_chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(bytes(3_000_000)))
TEXT_PNG = png_chunk(b"zTXt", b"text\x00\x00" + zlib.compress(bytes(3_000_000)))

# What the server says, and what becomes of it: the extension of a picture, or a reason to refuse.
TABLE: dict[str, tuple[bytes | Say, str]] = {
    "a plain picture": (answer(PNG), "png"),
    "a decompression bomb": (answer(BOMB), "pixels"),
    "a decompression bomb past Pillow's own limit": (answer(png_bomb(14_000, rows=9)), "pixels"),
    "a placeholder of one pixel": (answer(encoded("GIF", size=(1, 1))), "pixels"),
    "an icon": (answer(encoded("PNG", size=(31, 200))), "pixels"),
    "403 with a picture in the body": (answer(PNG, "403 Forbidden"), "status"),
    "404": (answer(PNG, "404 Not Found"), "status"),
    "500": (answer(PNG, "500 Internal Server Error"), "status"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "status"),
    "206 that was not asked for": (answer(PNG, "206 Partial Content"), "status"),
    "a status that is no number": (b"HTTP/1.1 OK fine\r\n\r\n" + PNG, "connection"),
    "no HTTP at all": (b"220 smtp.example.com ready\r\n\r\n", "connection"),
    "a body that drips": (drip, "time"),
    "headers that drip": (slow_headers, "time"),
    "silence": (silent, "time"),
    "an endless body": (endless, "bytes"),
    "endless chunks": (endless_chunks, "bytes"),
    "an endless trailer": (endless_chunk_trailer, "bytes"),
    "100 Continue for ever": (endless_continue, "bytes"),
    "a flood of headers": (header_flood, "connection"),
    "a header without end": (header_without_end, "connection"),
    "a body announced too large": (answer(PNG, length=1_000_001), "bytes"),
    "a gzip bomb": (packed(gzip.compress(bytes(50_000_000), 1), "gzip"), "bytes"),
    "gzip that was not asked for": (packed(gzip.compress(PNG), "gzip"), "png"),
    "deflate that was not asked for": (packed(zlib.compress(PNG), "deflate"), "png"),
    "gzip that is none": (packed(PNG, "gzip"), "damaged"),
    "gzip cut short": (packed(gzip.compress(PNG)[:-400], "gzip"), "damaged"),
    "gzip within gzip": (packed(gzip.compress(gzip.compress(PNG)), "gzip, gzip"), "type"),
    "a packing nobody knows": (packed(PNG, "br"), "type"),
    "redirect to a picture": (to("/good"), "png"),
    "redirect by a path in UTF-8": (to("/手触り"), "png"),
    "redirect loop": (to("/a"), "redirects"),
    "redirect without Location": (answer(b"", "302 Found"), "status"),
    "redirect to file:": (to("file:///etc/passwd"), "address"),
    "redirect to ftp:": (to("ftp://127.0.0.1/a.png"), "address"),
    "redirect to data:": (to("data:image/png;base64,iVBORw0KGgo="), "address"),
    "redirect with a password": (to("http://me:secret@127.0.0.1/a.png"), "address"),
    "redirect to nonsense": (to("http://[::1/a.png"), "address"),
    "a GIF of 10,000 frames": (answer(gif_of_frames(10_000)), "pixels"),
    "a GIF of 100 frames": (answer(gif_of_frames(100)), "gif"),
    "a GIF cut short": (answer(encoded("GIF")[:-300]), "damaged"),
    "a WebP": (answer(encoded("WEBP")), "webp"),
    "an EXIF bomb": (answer(EXIF_BOMB), "bytes"),
    "EXIF whose entries overlap": (answer(with_jpeg_segments(JPEG, overlapping_exif())), "jpg"),
    "an EXIF in 2,000 pieces": (answer(with_jpeg_segments(JPEG, jpeg_segment(0xE1, b"Exif\0\0a") * 2000)), "bytes"),
    "an ICC bomb in a JPEG": (answer(with_jpeg_segments(JPEG, icc_segments(300_000))), "bytes"),
    "an ICC profile of usual size": (answer(with_jpeg_segments(JPEG, icc_segments(100_000))), "jpg"),
    "an ICC bomb in a PNG": (answer(with_png_chunks(PNG, ICC_PNG)), "damaged"),
    "a text bomb in a PNG": (answer(with_png_chunks(PNG, TEXT_PNG)), "damaged"),
    "a JPEG of a thousand scans": (answer(jpeg_of_scans(1000)), "damaged"),
    "a progressive JPEG": (answer(encoded("JPEG", progressive=True)), "jpg"),
    "a CMYK JPEG": (answer(encoded("JPEG", mode="CMYK"), type="image/jpeg"), "jpg"),
    "a PNG of 16 bits": (answer(png_16_bit()), "png"),
    "a JPEG cut short": (answer(JPEG[: len(JPEG) // 2], type="image/jpeg"), "damaged"),
    "a JPEG cut in its header": (answer(JPEG[:100], type="image/jpeg"), "damaged"),
    "a PNG cut short": (answer(PNG[:-100]), "damaged"),
    "a WebP cut short": (answer(encoded("WEBP")[:-100]), "damaged"),
    "HTML called a picture": (html("image/jpeg"), "type"),
    "a picture called text": (answer(PNG, type="text/plain"), "png"),
    "a PNG called JPEG": (answer(PNG, type="image/jpeg"), "png"),
    "an SVG": (answer(b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>'), "type"),
    "a PDF": (answer(b"%PDF-1.7\n" + bytes(99)), "type"),
    "an EPS": (answer(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"), "type"),
    "a TIFF": (answer(encoded("TIFF")), "type"),
    "noise": (answer(bytes(range(256)) * 20), "type"),
    "X-Robots-Tag noai": (tagged("noai"), "robots"),
    "X-Robots-Tag noimageai among others": (tagged("nofollow, NoImageAI"), "robots"),
    "X-Robots-Tag none": (tagged("none"), "robots"),
    "X-Robots-Tag to this robot": (tagged("tezawari: noai"), "robots"),
    "X-Robots-Tag to another robot": (tagged("otherbot: noai"), "png"),
    "X-Robots-Tag that permits": (tagged("max-image-preview: large, nofollow"), "png"),
    "429, then the picture": (later(lambda: "1", 1), "png"),
    "429 with a date, then the picture": (later(in_a_second, 1), "png"),
    "503, then the picture": (later(lambda: "0", 2, "503 Service Unavailable"), "png"),
    "429 for ever": (later(lambda: "0", 99), "status"),
    "429 for an hour": (later(lambda: "3600", 1), "status"),
    "a reset in the body": (reset_in_the_body, "connection"),
    "hanging up": (hang_up, "connection"),
    "chunks cut short": (chunks_cut_short, "connection"),
    "a body shorter than announced": (answer(PNG, length=len(PNG) + 1, headers=["Connection: close"]), "bytes"),
    "a body longer than announced": (answer(PNG, length=200), "damaged"),
    "a length that is no number": (answer(PNG, length="many", headers=["Connection: close"]), "png"),
    "a negative length": (answer(PNG, length=-5, headers=["Connection: close"]), "png"),
    "an empty body": (answer(b""), "bytes"),
}


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving(HostileServer()) as running:
        running.answers |= {"/good": answer(PNG), "/%E6%89%8B%E8%A7%A6%E3%82%8A": answer(PNG)}
        yield running


@pytest.mark.parametrize("name", TABLE)
def test_a_hostile_answer_has_its_defined_result(server: HostileServer, name: str) -> None:
    said, expected = TABLE[name]
    server.answers["/a"] = said
    started = time.monotonic()
    with Downloader(USER_AGENT, IMPATIENT if expected == "time" else LIMITS) as downloader:
        outcome = downloader.fetch(f"{server.url}/a")
    seconds = time.monotonic() - started
    if isinstance(outcome, Refused):
        assert outcome.reason == expected, outcome
        assert outcome.detail
        assert outcome.detail.isprintable()
        assert len(outcome.detail) < 200
    else:
        assert outcome.extension == expected, outcome
        assert min(outcome.width, outcome.height) >= LIMITS.min_side
    assert seconds < 10


def test_the_table_is_as_long_as_promised() -> None:
    assert len(TABLE) >= 25


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png;base64,iVBORw0KGgo=", "gopher://x/"),
        *("javascript:1", "http:///a.png", "https://", "http://me:secret@127.0.0.1/a", "http://me@127.0.0.1/a"),
        *("http://a:99999/", "/etc/passwd", "//example.com/a.png", "C:\\a.png", "", "example.com/a.png"),
        "http://a\r\nHost: b/",
    ],
)
def test_what_is_not_a_web_address_is_refused_unasked(url: str) -> None:
    with Downloader(USER_AGENT, LIMITS, resolve=lambda host, port: pytest.fail(f"{host} was looked up")) as downloader:
        outcome = downloader.fetch(url)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "address"
    assert "secret" not in outcome.detail


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "%31%32%37.0.0.1", "127.0.0.1."),
        *("0.0.0.0", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]"),
        "[2002:7f00:1::]",
    ],
)
def test_no_spelling_of_this_machine_is_asked(server: HostileServer, host: str) -> None:
    server.answers["/a"] = answer(PNG)
    with Downloader(USER_AGENT, replace(LIMITS, allow_private=False)) as downloader:
        outcome = downloader.fetch(f"http://{host}:{server.port}/a")
    assert isinstance(outcome, Refused)
    # A trailing dot makes a name of it, which no resolver knows; all else is an address that is not public.
    assert outcome.reason == "address" or host == "127.0.0.1."
    assert server.requests == []


def test_a_redirect_to_a_private_address_is_not_followed(server: HostileServer) -> None:
    server.answers |= {"/a": to(f"http://127.0.0.2:{server.port}/b"), "/b": answer(PNG)}
    with Downloader(USER_AGENT, LIMITS, is_allowed=lambda address: address == "127.0.0.1") as downloader:
        outcome = downloader.fetch(f"{server.url}/a")
    assert isinstance(outcome, Refused)
    assert outcome.reason == "address"
    assert "127.0.0.2" in outcome.detail
    assert server.paths() == ["/a"]


def test_a_name_that_changes_its_address_is_asked_at_the_one_that_was_judged(server: HostileServer) -> None:
    """DNS rebinding: the first look-up answers a permitted address, every later one another."""
    server.answers |= {"/a": answer(PNG, headers=["Connection: close"]), "/robots.txt": answer(b"")}
    looked_up: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.2"]

    with Downloader(
        USER_AGENT, LIMITS, resolve=rebinding, is_allowed=lambda address: address == "127.0.0.1"
    ) as downloader:
        first = downloader.fetch(f"http://rebinding.example:{server.port}/a")
        assert isinstance(first, Fetched)
        assert looked_up == ["rebinding.example"]  # robots.txt and the picture came over one connection
        second = downloader.fetch(f"http://rebinding.example:{server.port}/a")
    assert isinstance(second, Refused)
    assert second.reason == "address"
    assert server.paths() == ["/a"]
    assert server.requests[0][1]["Host"] == f"rebinding.example:{server.port}"


def test_a_name_with_a_public_and_a_private_address_is_not_asked(server: HostileServer) -> None:
    with Downloader(
        USER_AGENT,
        LIMITS,
        resolve=lambda host, port: ["127.0.0.1", "127.0.0.2"],
        is_allowed=lambda address: address == "127.0.0.1",
    ) as downloader:
        outcome = downloader.fetch(f"http://two.example:{server.port}/a")
    assert isinstance(outcome, Refused)
    assert outcome.reason == "address"
    assert server.requests == []


def test_names_that_fail_or_take_too_long_to_look_up_are_refused() -> None:
    released = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        released.wait(30)
        return ["127.0.0.1"]

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("Name or service not known")

    limits = replace(LIMITS, connect_seconds=0.4)
    for resolve, reason in ((slow, "time"), (unknown, "connection"), (lambda host, port: [], "connection")):
        started = time.monotonic()
        with Downloader(USER_AGENT, limits, resolve=resolve) as downloader:
            outcome = downloader.fetch("http://name.example/a")
        assert isinstance(outcome, Refused)
        assert outcome.reason == reason
        assert time.monotonic() - started < 10
    released.set()
    with Downloader(USER_AGENT, limits) as downloader:
        outcome = downloader.fetch(f"http://{'a' * 64}.example/")
        assert isinstance(outcome, Refused)
        assert outcome.reason in ("address", "connection")


def test_the_same_bytes_from_two_addresses_are_known_by_their_digest(server: HostileServer) -> None:
    server.answers |= {"/a": answer(PNG), "/b": answer(PNG)}
    with Downloader(USER_AGENT, LIMITS) as downloader:
        first, second = (downloader.fetch(f"{server.url}/{name}") for name in "ab")
    assert isinstance(first, Fetched)
    assert isinstance(second, Fetched)
    assert (first.sha256, first.content) == (second.sha256, second.content)
    assert first.final_url != second.final_url


def test_an_endless_body_costs_no_more_memory_than_the_limit(server: HostileServer) -> None:
    sent = 0

    def two_hundred_megabytes(connection: socket.socket, number: int) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 200_000_000:
                connection.sendall(bytes(100_000))
                sent += 100_000

    server.answers["/a"] = two_hundred_megabytes
    with Downloader(USER_AGENT, replace(LIMITS, max_bytes=5_000_000, total_seconds=20)) as downloader:
        downloader.fetch(f"{server.url}/warm")  # robots.txt and the first connection are not what is measured
        tracemalloc.start()
        outcome = downloader.fetch(f"{server.url}/a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert isinstance(outcome, Refused)
    assert outcome.reason == "bytes"
    assert peak < 10_000_000
    assert sent < 30_000_000  # the rest was in the buffers of the sockets, if it was sent at all


@pytest.mark.parametrize("name", ["a gzip bomb", "an EXIF bomb", "EXIF whose entries overlap", "an ICC bomb in a PNG"])
def test_a_bomb_is_refused_without_unpacking_it(server: HostileServer, name: str) -> None:
    said = TABLE[name][0]
    assert isinstance(said, bytes)
    server.answers["/a"] = answer(PNG)
    with Downloader(USER_AGENT, LIMITS) as downloader:
        downloader.fetch(f"{server.url}/a")
        server.answers["/a"] = said
        tracemalloc.start()
        downloader.fetch(f"{server.url}/a")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5_000_000
