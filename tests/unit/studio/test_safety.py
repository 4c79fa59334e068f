"""Who may ask, for what, and what every answer carries."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.studio.running import PORT

from tezawari.core.errors import UserError
from tezawari.studio.app import create_app
from tezawari.studio.job_work import Settings
from tezawari.studio.safety import CSRF_HEADER, Safety, is_loopback, split_host
from tezawari.studio.state import Studio

TOKEN = "a-token-that-nobody-guesses"

OWN_HOSTS = [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"]


@pytest.mark.parametrize("host", OWN_HOSTS)
def test_every_name_of_this_machine_is_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_no_answer_lets_another_site_read_it(client: TestClient) -> None:
    asked = client.options(
        "/api/sets", headers={"access-control-request-method": "POST", "access-control-request-headers": CSRF_HEADER}
    )
    for answer in (asked, client.get("/api/sets")):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/studio", "/api/none", "/nowhere", "/api/sets/x"])
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "cache-control" in headers
    assert "server" not in headers


def test_the_page_asks_nobody_else_for_anything(client: TestClient) -> None:
    page = client.get("/").text
    assert "http" not in page.replace("<!doctype html>", "")
    assert "style=" not in page
    assert "<script>" not in page


def test_the_page_names_every_script_so_that_none_waits_for_another(client: TestClient) -> None:
    page = client.get("/").text
    named = re.findall(r'<link rel="modulepreload" href="/static/([^"]+)">', page.partition("</head>")[0])
    imported, left = set(), ["main.js"]
    while left:
        script = left.pop()
        if script not in imported:
            imported.add(script)
            left += re.findall(r'from "\./([^"]+)"', client.get(f"/static/{script}").text)
    assert len(imported) > 10
    assert imported <= set(named)
    assert all(client.get(f"/static/{name}").status_code == 200 for name in named)


@given(st.text(max_size=40))
def test_a_host_header_is_split_or_called_nonsense_and_never_raises(header: str) -> None:
    _, port = split_host(header)
    assert -1 <= port <= 99999


def test_a_longer_body_than_a_form_is_refused_before_it_is_read(client: TestClient) -> None:
    answer = client.post("/api/sets", content=b"x" * 300_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "large")


def test_a_body_without_a_length_is_counted_as_it_comes(client: TestClient) -> None:
    sent = 0

    def endless() -> io.BytesIO:
        nonlocal sent
        while sent < 10_000_000:
            sent += 10_000
            yield b"x" * 10_000

    assert client.post("/api/photos", content=endless()).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "999999999999999999999999", "0x10"])
def test_a_length_that_is_no_number_or_a_huge_one_is_refused(client: TestClient, length: str) -> None:
    headers = [(b"content-length", length.encode())]
    assert client.post("/api/sets", content=iter([b"{}"]), headers=headers).status_code in (400, 413)


class TestToken:
    @pytest.fixture
    def locked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
        studio = Studio(Settings(tmp_path / "store"), Safety("0.0.0.0", PORT, TOKEN))
        return TestClient(create_app(studio), base_url=f"http://192.0.2.7:{PORT}", headers={CSRF_HEADER: "1"})

    def test_opens_the_api_by_cookie_or_header_and_nothing_else(self, locked: TestClient) -> None:
        assert locked.get("/").status_code == 200  # the page that asks for it
        for headers in ({}, {"authorization": "Bearer wrong"}, {"cookie": "tezawari_session=x"}, {"cookie": ";;==,"}):
            assert locked.get("/api/studio", headers=headers).status_code == 401
        assert locked.get(f"/api/studio?token={TOKEN}").status_code == 401
        assert locked.get("/api/studio", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert locked.get("/api/session").json() == {"admitted": False}
        cookie = locked.post("/api/session", json={"token": TOKEN}).headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
        assert TOKEN not in cookie
        assert locked.get("/api/studio").status_code == 200

    def test_cannot_be_tried_out(self, locked: TestClient, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        tried = [locked.post("/api/session", json={"token": f"guess {n}"}).status_code for n in range(12)]
        assert tried == [401] * 10 + [429] * 2
        assert locked.post("/api/session", json={"token": TOKEN}).status_code == 429
        assert TOKEN not in caplog.text
        assert "guess" not in caplog.text

    def test_lets_names_that_rebinding_needs_be_refused_still(self, locked: TestClient) -> None:
        assert locked.get("/", headers={"host": f"evil.example:{PORT}"}).status_code == 421

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "studio.example", ""])
    def test_is_needed_beyond_this_machine(self, host: str) -> None:
        assert not is_loopback(host)
        with pytest.raises(UserError, match="--token"):
            Safety(host, PORT)

    @pytest.mark.parametrize("token", ["", "short", "日本語の合言葉はだめです、十六字以上"])
    def test_that_could_be_guessed_is_refused(self, token: str) -> None:
        with pytest.raises(UserError, match="at least 16 ASCII"):
            Safety("127.0.0.1", PORT, token)
