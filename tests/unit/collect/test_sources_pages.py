"""Fetching the answers of APIs: manners, second tries, bounds, and one clear line for whatever goes wrong."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import time
from email.utils import formatdate

import pytest
from api_server import Reply, in_turn, serve

from tezawari.collect.pages import Pages, Service, user_agent
from tezawari.core.errors import UserError

KEYLESS = Service("openverse")
KEYED = Service("brave", {"TEZAWARI_BRAVE_KEY": "s3cret"})


def quick(**settings: float) -> Pages:
    return Pages(**({"interval": 0.0, "backoff": 0.01, "timeout": 20.0} | settings))  # type: ignore[arg-type]


def failure(url: str, service: Service = KEYED, **settings: float) -> str:
    """Return the line that a request ends in."""
    with pytest.raises(UserError) as caught:
        quick(**settings).get(service, url, {"api_key": "s3cret", "q": "ふわふわ"}, {"X-Key": "s3cret"})
    message = str(caught.value)
    assert "s3cret" not in message
    assert "\n" not in message
    return message


def test_requests_say_who_asks_and_carry_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEZAWARI_CONTACT", "me@example.org")
    with serve(in_turn(Reply({"yes": 1}))) as server:
        assert quick().get(
            KEYLESS, server.url + "/v1/images", {"q": "ふわふわ & ごつごつ/+", "n": 3}, {"X-Key": "k"}
        ) == {"yes": 1}
    (request,) = server.requests
    assert request.path == "/v1/images"
    assert request.query == {"q": "ふわふわ & ごつごつ/+", "n": "3"}
    assert request.headers["x-key"] == "k"
    assert request.headers["user-agent"].startswith("tezawari/")
    assert "research on material appearance; contact: me@example.org" in request.headers["user-agent"]


def test_without_a_contact_none_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEZAWARI_CONTACT", raising=False)
    assert "contact" not in user_agent()


@pytest.mark.parametrize("contact", ["私@例.jp", "me@example.org\r\nX-Evil: 1"])
def test_a_contact_that_no_header_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, contact: str) -> None:
    monkeypatch.setenv("TEZAWARI_CONTACT", contact)
    with pytest.raises(UserError, match="TEZAWARI_CONTACT must be"):
        Pages()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_service_is_asked_again(status: int) -> None:
    with serve(in_turn(Reply(status=status), Reply(status=status), Reply({"yes": 1}))) as server:
        assert quick().get(KEYED, server.url, {}, {}) == {"yes": 1}
    assert len(server.requests) == 3


def test_pauses_double_and_attempts_end() -> None:
    with serve(in_turn(Reply({"error": {"detail": "too many\nrequests"}}, 429))) as server:
        message = failure(server.url, backoff=0.1)
    times = [request.time for request in server.requests]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 4
    assert all(gap >= expected for gap, expected in zip(gaps, (0.1, 0.2, 0.4)))
    assert message == "brave answers 429: too many requests, 4 times over: type the same command again later"


def test_retry_after_is_obeyed_as_a_number_of_seconds() -> None:
    with serve(in_turn(Reply(status=429, headers={"Retry-After": "1"}), Reply({"yes": 1}))) as server:
        quick().get(KEYED, server.url, {}, {})
    first, second = (request.time for request in server.requests)
    assert second - first >= 1


def test_retry_after_is_obeyed_as_a_date() -> None:
    then = int(time.time()) + 2
    busy = Reply(status=503, headers={"Retry-After": formatdate(then, usegmt=True)})
    with serve(in_turn(busy, Reply({"yes": 1}))) as server:
        quick().get(KEYED, server.url, {}, {})
        assert time.time() >= then
    assert len(server.requests) == 2


def test_a_retry_after_beyond_patience_ends_at_once_and_says_how_long() -> None:
    with serve(in_turn(Reply(status=429, headers={"Retry-After": "86400"}))) as server:
        assert "asks to wait 86400 s" in failure(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["soon", "-5", "", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_that_is_nonsense_or_past_is_passed_over(value: str) -> None:
    with serve(in_turn(Reply(status=503, headers={"Retry-After": value}), Reply({"yes": 1}))) as server:
        assert quick().get(KEYED, server.url, {}, {}) == {"yes": 1}


def test_requests_to_one_host_keep_their_distance() -> None:
    with serve(in_turn(Reply())) as server:
        pages = quick(interval=0.3)
        start = time.monotonic()
        for _ in range(3):
            pages.get(KEYED, server.url, {}, {})
    assert server.requests[2].time - start >= 0.6


def test_requests_to_other_hosts_do_not_wait() -> None:
    with serve(in_turn(Reply())) as one, serve(in_turn(Reply())) as other:
        pages = quick(interval=60.0)
        start = time.monotonic()
        pages.get(KEYED, one.url, {}, {})
        pages.get(KEYED, other.url, {}, {})
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_by_its_variable(status: int) -> None:
    with serve(in_turn(Reply({"error": {"code": "X", "message": "Bad token s3cret"}}, status))) as server:
        message = failure(server.url)
    assert message == (
        f"brave refuses the key in TEZAWARI_BRAVE_KEY ({status}: Bad token …):"
        " export TEZAWARI_BRAVE_KEY with a valid one"
    )
    assert len(server.requests) == 1


def test_googles_400_for_a_key_is_read_as_such() -> None:
    said = {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID"}}
    with serve(in_turn(Reply(said, 400))) as server:
        assert "refuses the key in TEZAWARI_BRAVE_KEY" in failure(server.url)


def test_a_keyless_service_that_refuses_may_want_a_contact() -> None:
    with serve(in_turn(Reply(b"<html>who are you?</html>", 403))) as server:
        assert "openverse refuses access (403)" in failure(server.url, KEYLESS)
        assert "export TEZAWARI_CONTACT=" in failure(server.url, KEYLESS)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "Invalid input"}, "400: Invalid input"),
        ({"detail": {"q": ["no"]}}, "400"),
        ({"error": {"detail": "Unable to validate"}}, "400: Unable to validate"),
        ({"errors": [{"code": "X", "message": "q is missing"}]}, "400: q is missing"),
        ({"error": {"info": "x" * 500}}, "400: " + "x" * 154 + "…"),
        ([[[[[[["deep"]]]]]]], "400"),
        (b"\xff\xfe", "400"),
        ({"message": "two\u2028lines\x1b[31m\u202e"}, "400: two lines [31m"),
    ],
)
def test_the_words_of_a_refusal_are_shown_short_and_clean(body: object, said: str) -> None:
    with serve(in_turn(Reply(body, 400))) as server:
        assert f"brave refuses the request ({said}): change the query" in failure(server.url)


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><p>Sorry",
        b"",
        b"[]",
        b'"text"',
        b"null",
        b'{"a": ',
        b"[" * 100_000,
        b"\xff\xfe\xfa",
        b"9" * 5000,
    ],
)
def test_what_is_no_json_object_is_said_to_be_none(body: bytes) -> None:
    with serve(in_turn(Reply(body, headers={"Content-Type": "text/html"}))) as server:
        assert "brave answers with something that is no JSON object (text/html)" in failure(server.url)


def test_redirects_are_not_followed_so_that_keys_stay_where_they_belong() -> None:
    with serve(in_turn(Reply({"yes": 1}))) as elsewhere:
        target = elsewhere.url + "/new?api_key=s3cret"
        with serve(in_turn(Reply(status=301, headers={"Location": target}))) as server:
            assert f"brave has moved to {elsewhere.url}/new" in failure(server.url)
    assert elsewhere.requests == []


def test_an_answer_without_end_is_cut_off() -> None:
    body = json.dumps({"x": "y" * 100_000}).encode()
    with serve(in_turn(Reply(body))) as server:
        assert "more than 0.05 MB" in failure(server.url, max_bytes=0.05 * 2**20)
        assert quick(max_bytes=len(body)).get(KEYED, server.url, {}, {})["x"] == "y" * 100_000


def test_a_bomb_of_compression_is_cut_off_and_honest_compression_is_read() -> None:
    def zipped(count: int) -> Reply:
        body = json.dumps({"x": "y" * count}).encode()
        return Reply(gzip.compress(body), headers={"Content-Encoding": "gzip"})

    with serve(in_turn(zipped(1000), zipped(12_000_000))) as server:
        assert quick().get(KEYED, server.url, {}, {}) == {"x": "y" * 1000}
        assert "more than 8 MB" in failure(server.url)


def test_a_dripping_answer_ends_at_the_time_limit() -> None:
    with serve(in_turn(Reply(b'{"x": "' + b"y" * 1000, seconds_a_byte=0.02))) as server:
        start = time.monotonic()
        message = failure(server.url, timeout=0.3, attempts=2)
    assert "did not answer within 0.3 s, 2 times over" in message
    assert time.monotonic() - start < 15


def test_a_silent_server_ends_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = failure(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2, attempts=2)
    assert "did not answer within 0.2 s" in message


def test_an_answer_that_breaks_off_is_asked_for_again() -> None:
    with serve(in_turn(Reply(b'{"x": 1', announced=1000), Reply({"yes": 1}))) as server:
        assert quick().get(KEYED, server.url, {}, {}) == {"yes": 1}
    with serve(in_turn(Reply(b'{"x": 1', announced=1000))) as server:
        assert "broke its answer off, 4 times over" in failure(server.url)


def test_no_network_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    message = failure(f"http://user:pw@127.0.0.1:{port}/x", attempts=2)
    assert f"(127.0.0.1:{port}) cannot be reached, check the network" in message
    assert "pw" not in message


@pytest.mark.parametrize(
    "url", ["search.example.org", "ftp://example.org/x", "http://", "http://[::1", "http://a:port/"]
)
def test_an_address_that_is_none_is_one_line(url: str) -> None:
    assert "address" in failure(url)
