"""Many images at once: whole, quick, polite, bounded, and gone when the caller is."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.hostile.pictures import encoded
from tests.hostile.server import HostileServer, answer, serving

from tezawari.collect.download import Downloader, fetch, fetch_all
from tezawari.collect.found import Fetched, FoundImage, Refused
from tezawari.collect.limits import Limits
from tezawari.core.errors import UserError

USER_AGENT = "tezawari/0.1 (tests; nobody@example.com)"
LOCAL = Limits(allow_private=True)
PNG = encoded("PNG")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with serving(HostileServer()) as running:
        yield running


def found(*urls: str) -> list[FoundImage]:
    return [FoundImage(url, "test", position) for position, url in enumerate(urls, start=1)]


def download_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tezawari-download")]


def test_a_picture_arrives_as_it_was_sent(server: HostileServer) -> None:
    server.answers["/ふ.png"] = answer(PNG)
    server.answers["/%E3%81%B5.png"] = answer(PNG)
    outcome = fetch(f"{server.url}/ふ.png#part", USER_AGENT, LOCAL)
    assert isinstance(outcome, Fetched)
    assert outcome.content == PNG
    assert (outcome.extension, outcome.width, outcome.height) == ("png", 64, 48)
    assert outcome.final_url == f"{server.url}/%E3%81%B5.png"
    path, headers = server.requests[-1]
    assert path == "/%E3%81%B5.png"
    assert headers["User-Agent"] == USER_AGENT
    assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_a_thousand_images_come_through_whole_and_quickly(server: HostileServer) -> None:
    contents = {f"/{number}": encoded("PNG", size=(40, 40), seed=number % 50) for number in range(1000)}
    server.answers |= {path: answer(content) for path, content in contents.items()}
    images = found(*(server.url + path for path in contents))
    started = time.process_time()
    outcomes = dict(fetch_all(images, USER_AGENT, LOCAL, workers=8))
    seconds = time.process_time() - started  # of this process: the server's too, but not what else the machine does
    assert len(outcomes) == 1000
    for image in images:
        outcome = outcomes[image]
        assert isinstance(outcome, Fetched), outcome
        assert outcome.content == contents[image.image_url.removeprefix(server.url)]
    assert seconds < 15
    assert Counter(path for path, _ in server.requests)["/robots.txt"] == 1
    assert download_threads() == []


def test_the_input_is_read_no_further_than_needed(server: HostileServer) -> None:
    server.answers["/a"] = answer(PNG)
    read = 0

    def endless() -> Iterator[FoundImage]:
        nonlocal read
        for position in itertools.count(1):
            read += 1
            yield FoundImage(f"{server.url}/a", "test", position)

    arriving = fetch_all(endless(), USER_AGENT, LOCAL, workers=2)
    for _ in range(20):
        next(arriving)
    time.sleep(0.3)  # long enough to run away, were nothing to hold it
    assert read <= 20 + 2 * 2 + 8 * 2
    assert len(server.paths()) <= 20 + 2 * 2
    arriving.close()
    assert download_threads() == []


def test_the_first_results_do_not_wait_for_the_whole_input(server: HostileServer) -> None:
    server.answers["/a"] = answer(PNG)
    last = threading.Event()

    def slow() -> Iterator[FoundImage]:
        yield from found(f"{server.url}/a", f"{server.url}/a")
        time.sleep(0.5)
        last.set()
        yield from found(f"{server.url}/a")

    arriving = fetch_all(slow(), USER_AGENT, LOCAL, workers=2)
    next(arriving)
    assert sum(1 for _ in arriving) == 2
    assert last.is_set()


def test_closing_early_ends_what_hangs_and_leaves_no_thread(server: HostileServer) -> None:
    def hang(connection: socket.socket, number: int) -> None:
        server.stopping.wait(20)

    server.answers |= {"/hang": hang, "/a": answer(PNG)}
    images = found(f"{server.url}/a", *[f"{server.url}/hang"] * 50)
    arriving = fetch_all(images, USER_AGENT, LOCAL, workers=4)
    assert isinstance(next(arriving)[1], Fetched)
    assert download_threads() != []
    started = time.monotonic()
    arriving.close()
    assert time.monotonic() - started < 10  # a read would have been waited for 15 s
    assert download_threads() == []


def test_an_error_of_the_caller_or_of_the_input_ends_the_threads_too(server: HostileServer) -> None:
    server.answers["/a"] = answer(PNG)

    def broken() -> Iterator[FoundImage]:
        yield from found(*[f"{server.url}/a"] * 5)
        raise UserError("the source broke")

    with pytest.raises(UserError, match="the source broke"):
        list(fetch_all(broken(), USER_AGENT, LOCAL, workers=2))
    assert download_threads() == []


def test_ctrl_c_ends_a_collection_at_once(server: HostileServer) -> None:
    asked = threading.Event()

    def hang(connection: socket.socket, number: int) -> None:
        asked.set()
        server.stopping.wait(20)

    server.answers["/hang"] = hang
    script = (
        "from tezawari.collect.download import fetch_all\n"
        "from tezawari.collect.found import FoundImage\n"
        "from tezawari.collect.limits import Limits\n"
        f"images = [FoundImage({server.url + '/hang'!r}, 'test', n) for n in range(9)]\n"
        f"list(fetch_all(images, {USER_AGENT!r}, Limits(allow_private=True)))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as child:
        assert asked.wait(60)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) != 0
        assert child.stderr is not None
        assert b"KeyboardInterrupt" in child.stderr.read()


def test_no_more_than_a_few_requests_at_once_go_to_one_host(server: HostileServer) -> None:
    running = most = 0

    def slow(connection: socket.socket, number: int) -> None:
        nonlocal running, most
        with server.lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with server.lock:
            running -= 1
        connection.sendall(answer(PNG))

    server.answers["/a"] = slow
    limits = replace(LOCAL, per_host=3)
    outcomes = [outcome for _, outcome in fetch_all(found(*[f"{server.url}/a"] * 24), USER_AGENT, limits, workers=12)]
    assert all(isinstance(outcome, Fetched) for outcome in outcomes)
    assert most == 3


def test_a_slow_host_does_not_hold_the_others_up(server: HostileServer) -> None:
    released = threading.Event()

    def slow(connection: socket.socket, number: int) -> None:
        released.wait(10)
        connection.sendall(answer(PNG))

    server.answers["/slow"] = slow
    with serving(HostileServer(("127.0.0.2", 0))) as other:
        other.answers["/a"] = answer(PNG)
        images = found(*[f"{server.url}/slow"] * 8, *[f"http://127.0.0.2:{other.port}/a"] * 8)
        order = []
        for image, _ in fetch_all(images, USER_AGENT, LOCAL, workers=6):
            order.append(image.image_url.endswith("/slow"))
            if len(order) == 8:
                released.set()
    assert order == [False] * 8 + [True] * 8


def test_a_host_that_asks_for_patience_is_left_alone_by_all(server: HostileServer) -> None:
    def busy(connection: socket.socket, number: int) -> None:
        connection.sendall(answer(b"", "429 Too Many Requests", ["Retry-After: 3600"]))

    server.answers["/a"] = busy
    limits = replace(LOCAL, per_host=1)
    outcomes = [outcome for _, outcome in fetch_all(found(*[f"{server.url}/a"] * 20), USER_AGENT, limits)]
    assert {outcome.reason for outcome in outcomes if isinstance(outcome, Refused)} == {"status"}
    assert len(outcomes) == 20
    assert len(server.paths()) == 1


def test_a_host_that_never_answers_is_given_up(server: HostileServer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a"
        with Downloader(USER_AGENT, LOCAL) as downloader:
            details = [downloader.fetch(url) for _ in range(15)]
    assert all(isinstance(outcome, Refused) and outcome.reason == "connection" for outcome in details)
    assert sum("times in a row" in outcome.detail for outcome in details if isinstance(outcome, Refused)) == 5


def test_robots_txt_is_obeyed_and_asked_for_once(server: HostileServer) -> None:
    server.answers |= {"/robots.txt": answer(b"User-agent: tezawari\nDisallow: /no\n", type="text/plain")}
    server.answers |= {path: answer(PNG) for path in ("/no/a", "/yes/a", "/to-no")}
    server.answers["/to-no"] = answer(b"", "302 Found", ["Location: /no/a"])
    with Downloader(USER_AGENT, LOCAL) as downloader:
        outcomes = [downloader.fetch(server.url + path) for path in ("/no/a", "/yes/a", "/to-no", "/no/a?x=1")]
    assert [getattr(outcome, "reason", "fetched") for outcome in outcomes] == ["robots", "fetched", "robots", "robots"]
    assert [path for path, _ in server.requests] == ["/robots.txt", "/yes/a", "/to-no"]


def timed(server: HostileServer, path: str, moments: list[float]) -> None:
    """Let ``server`` answer with a picture and note when it was asked."""

    def say(connection: socket.socket, number: int) -> None:
        moments.append(time.monotonic())
        connection.sendall(answer(PNG, headers=["Connection: close"]))

    server.answers[path] = say


def test_a_crawl_delay_is_kept_to_and_not_held_against_the_images(server: HostileServer) -> None:
    delay, moments = 0.25, list[float]()
    server.answers["/robots.txt"] = answer(f"User-agent: *\nCrawl-delay: {delay}".encode(), type="text/plain")
    for number in range(6):
        timed(server, f"/{number}", moments)
    images = found(*(f"{server.url}/{number}" for number in range(6)))
    # Six turns take longer than any one image may, so none would be left were their waiting counted.
    limits = replace(LOCAL, total_seconds=1.2)
    outcomes = [outcome for _, outcome in fetch_all(images, USER_AGENT, limits)]
    assert all(isinstance(outcome, Fetched) for outcome in outcomes), outcomes
    # A request may travel longer than the next one, never by much.
    assert moments[-1] - moments[0] > 5 * delay - 0.1


def test_a_site_that_wants_longer_delays_than_are_waited_for_is_not_asked(server: HostileServer) -> None:
    server.answers |= {
        "/robots.txt": answer(b"User-agent: *\nCrawl-delay: 11", type="text/plain"),
        "/a": answer(PNG),
    }
    outcome = fetch(f"{server.url}/a", USER_AGENT, LOCAL)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "robots"
    assert "11 s between requests" in outcome.detail
    assert server.paths() == []
    assert isinstance(fetch(f"{server.url}/a", USER_AGENT, replace(LOCAL, max_crawl_delay_seconds=11)), Fetched)


def test_one_worker_at_most_waits_for_a_host_with_a_crawl_delay(server: HostileServer) -> None:
    server.answers["/robots.txt"] = answer(b"User-agent: *\nCrawl-delay: 0.4", type="text/plain")
    slow = [f"http://slow.example:{server.port}/{number}" for number in range(6)]
    server.answers |= {f"/{number}": answer(PNG) for number in range(6)}
    with serving(HostileServer()) as other:
        other.answers["/a"] = answer(PNG)
        quick = [f"http://quick.example:{other.port}/a"] * 40
        with Downloader(USER_AGENT, LOCAL, resolve=lambda host, port: ["127.0.0.1"]) as downloader:
            arrived = [image.image_url for image, _ in downloader.fetch_all(found(*slow, *quick), workers=2)]
    last_quick = max(place for place, url in enumerate(arrived) if url in quick)
    assert sum(url in slow for url in arrived[last_quick:]) >= 2
    assert len(arrived) == 46


def test_waiting_for_a_turn_ends_when_the_caller_is_gone(server: HostileServer) -> None:
    server.answers |= {
        "/robots.txt": answer(b"User-agent: *\nCrawl-delay: 9", type="text/plain"),
        "/a": answer(PNG),
    }
    arriving = fetch_all(found(*[f"{server.url}/a"] * 3), USER_AGENT, LOCAL)
    next(arriving)
    started = time.monotonic()
    arriving.close()
    assert time.monotonic() - started < 5
    assert download_threads() == []


def test_a_robots_txt_that_fails_forbids_all_and_one_that_is_missing_nothing(server: HostileServer) -> None:
    server.answers["/a"] = answer(PNG)
    for status, reason in (("500 Error", "robots"), ("403 Forbidden", "fetched"), ("404 Not Found", "fetched")):
        server.answers["/robots.txt"] = answer(b"User-agent: *\nDisallow: /", status)
        assert getattr(fetch(f"{server.url}/a", USER_AGENT, LOCAL), "reason", "fetched") == reason


def test_of_a_robots_txt_without_end_the_beginning_counts(server: HostileServer) -> None:
    def endless(connection: socket.socket, number: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\nDisallow: /no\n")
        while True:
            connection.sendall(b"# and so on\n" * 1000)

    server.answers |= {"/robots.txt": endless, "/no": answer(PNG), "/yes": answer(PNG)}
    with Downloader(USER_AGENT, LOCAL) as downloader:
        assert isinstance(downloader.fetch(f"{server.url}/yes"), Fetched)
        assert isinstance(downloader.fetch(f"{server.url}/no"), Refused)
    assert server.paths() == ["/yes"]


def test_a_connection_is_used_again_and_one_that_was_closed_meanwhile_replaced(server: HostileServer) -> None:
    connections: set[int] = set()

    def once(connection: socket.socket, number: int) -> None:
        connections.add(connection.getpeername()[1])
        connection.sendall(answer(PNG))  # and the server closes, without having said so

    server.answers["/a"] = once
    with Downloader(USER_AGENT, LOCAL) as downloader:
        outcomes = [downloader.fetch(f"{server.url}/a") for _ in range(5)]
    assert all(isinstance(outcome, Fetched) for outcome in outcomes)
    assert len(connections) == 5


def test_files_are_read_under_the_same_checks_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "手.png").write_bytes(PNG)
    (tmp_path / "small.png").write_bytes(encoded("PNG", size=(8, 8)))
    (tmp_path / "large.png").write_bytes(PNG + bytes(200_000))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(PNG[:-100])
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    limits = Limits(allow_files=True, max_bytes=100_000)
    names = [
        "手.png",
        "small.png",
        "large.png",
        "text.png",
        "cut.png",
        "empty.png",
        "pipe.png",
        "missing.png",
        "",
        "\0",
    ]
    outcomes = dict(fetch_all(found(*(str(tmp_path / name) for name in names)), USER_AGENT, limits))
    said = {Path(image.image_url).name: getattr(outcome, "reason", "fetched") for image, outcome in outcomes.items()}
    assert said == {
        "手.png": "fetched",
        "small.png": "pixels",
        "large.png": "bytes",
        "text.png": "type",
        "cut.png": "damaged",
        "empty.png": "bytes",
        "pipe.png": "type",
        "missing.png": "connection",
        tmp_path.name: "type",
        "\0": "address",
    }
    refused = fetch(str(tmp_path / "手.png"), USER_AGENT, Limits())
    assert isinstance(refused, Refused)
    assert refused.reason == "address"


def test_tls_is_verified_against_the_name_though_the_connection_goes_to_numbers(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=right.example"]
    subprocess.run(
        [*made, "-addext", "subjectAltName=DNS:right.example", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )

    class TlsServer(HostileServer):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def get_request(self) -> tuple[socket.socket, object]:
            connection, address = super().get_request()
            try:
                return self.context.wrap_socket(connection, server_side=True), address
            except ssl.SSLError as error:
                connection.close()
                raise OSError(error) from error

    TlsServer.context.load_cert_chain(certificate, key)

    def outcome_at(url: str, tls: ssl.SSLContext | None) -> Fetched | Refused:
        with Downloader(USER_AGENT, LOCAL, resolve=lambda host, port: ["127.0.0.1"], tls=tls) as downloader:
            return downloader.fetch(url)

    with serving(TlsServer()) as server:
        server.answers["/a"] = answer(PNG)
        trusting = ssl.create_default_context(cafile=certificate)
        good = outcome_at(f"https://right.example:{server.port}/a", trusting)
        assert isinstance(good, Fetched)
        assert good.content == PNG
        for host, tls in (("wrong.example", trusting), ("127.0.0.1", trusting), ("right.example", None)):
            refused = outcome_at(f"https://{host}:{server.port}/a", tls)
            assert isinstance(refused, Refused)
            assert refused.reason == "connection"
            assert "certificate" in refused.detail.lower()
        assert server.paths() == ["/a"]


def test_an_address_that_leads_nowhere_does_not_hide_the_one_that_answers(server: HostileServer) -> None:
    server.answers["/a"] = answer(PNG)
    with contextlib.ExitStack() as sockets:
        clogged = sockets.enter_context(socket.socket())
        clogged.bind(("127.0.0.2", server.port))
        clogged.listen(0)
        for _ in range(4):  # nobody accepts them: once the queue is full, a connection is neither made nor refused
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(clogged.getsockname())
        for addresses, expected in ((["127.0.0.2", "127.0.0.1"], "fetched"), (["127.0.0.2"], "time")):
            limits = replace(LOCAL, connect_seconds=2)
            started = time.monotonic()
            with Downloader(USER_AGENT, limits, resolve=lambda host, port, found=addresses: found) as downloader:  # type: ignore[misc]
                outcome = downloader.fetch(f"http://two.example:{server.port}/a")
            assert getattr(outcome, "reason", "fetched") == expected
            assert time.monotonic() - started < 10


@pytest.mark.parametrize("user_agent", ["", " x", "a\r\nHost: b", "手触り"])
def test_a_user_agent_that_cannot_be_sent_is_a_users_mistake(user_agent: str) -> None:
    with pytest.raises(UserError, match="user_agent"):
        Downloader(user_agent)


@pytest.mark.parametrize(
    "limits",
    [
        *({"max_bytes": 0}, {"per_host": 0}, {"total_seconds": 0}, {"max_redirects": -1}, {"max_pixels": 10**9}),
        *({"max_wait_seconds": -1}, {"read_seconds": float("nan")}),
    ],
)
def test_a_limit_that_makes_no_sense_is_a_users_mistake(limits: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(limits))):
        Limits(**limits)  # type: ignore[arg-type]


def test_fewer_than_one_worker_is_a_users_mistake() -> None:
    with pytest.raises(UserError, match="workers=0"):
        next(fetch_all([], USER_AGENT, LOCAL, workers=0))


def test_proxies_of_the_environment_are_not_asked(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look names up itself, and so go where the check of the address forbids."""
    server.answers["/a"] = answer(PNG)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert isinstance(fetch(f"{server.url}/a", USER_AGENT, LOCAL), Fetched)
