"""The local server: the folder's files, isolated, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tezawari.core.errors import UserError
from tezawari.export.serve import open_server


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "live"
    (folder / "runtime").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "index.html").write_text("<p>page")
    (folder / "network.onnx.gz").write_bytes(b"gz")
    for name in ("a.wasm", "a.mjs"):
        (folder / "runtime" / name).write_text(name)
    with open_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


@pytest.mark.parametrize(
    ("path", "kind", "content"),
    [
        ("/", "text/html", b"<p>page"),
        ("/runtime/a.wasm", "application/wasm", b"a.wasm"),
        ("/runtime/a.mjs", "text/javascript", b"a.mjs"),
        ("/network.onnx.gz", "application/gzip", b"gz"),
    ],
)
def test_files_come_isolated_and_as_what_they_are(port: int, path: str, kind: str, content: bytes) -> None:
    status, headers, found = get(port, path)
    assert (status, found) == (200, content)
    assert headers["content-type"].split(";")[0] == kind
    assert "content-encoding" not in headers  # the page opens the network by itself, as on any host
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/runtime/", "/none", "/runtime/../../secret.txt"]
)
def test_nothing_else_is_shown(port: int, path: str) -> None:
    status, _, content = get(port, path)
    assert status == 404
    assert b"secret</" not in content


def test_a_port_in_use_is_one_line(port: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"cannot listen on port {port} .*--serve 0"):
        open_server(tmp_path, port)
