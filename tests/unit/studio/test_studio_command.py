"""``tezawari studio`` from its words to a page, and the mistakes that are told before anything is loaded."""

from __future__ import annotations

import argparse
import re
import signal
import socket
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from tezawari.core.errors import UserError
from tezawari.studio import studio_command

_START = """
import argparse
from tezawari.studio import studio_command
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    studio_command.add_arguments(parser)
    studio_command.run(parser.parse_args())
"""


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    studio_command.add_arguments(parser)
    return studio_command.run(parser.parse_args(words))


def test_beyond_this_machine_a_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(studio_command.TOKEN_VARIABLE, raising=False)
    with pytest.raises(UserError, match="give a token as well"):
        run("--host", "0.0.0.0")
    monkeypatch.setenv(studio_command.TOKEN_VARIABLE, "short")
    with pytest.raises(UserError, match="at least 16"):
        run("--host", "0.0.0.0")


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen there"):
        run("--port", str(taken.getsockname()[1]))
    with pytest.raises(UserError, match="cannot listen there"):
        run("--port", "99999")


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        run("--port", "0", "--store", str(tmp_path / "store"), "--folder", str(tmp_path / "none"))


def test_the_package_carries_the_page_and_every_module_that_it_names() -> None:
    static = files("tezawari.studio").joinpath("static")
    names = {each.name for each in static.iterdir()}
    for name in names:
        if name.endswith(".js"):
            wanted = re.findall(r'from "\./([\w.]+)"', static.joinpath(name).read_text(encoding="utf-8"))
            assert names.issuperset(wanted), name
    assert names.issuperset(re.findall(r"/static/([\w.]+)", static.joinpath("index.html").read_text(encoding="utf-8")))


def test_every_phrase_that_a_page_says_has_words_in_both_languages() -> None:
    static = files("tezawari.studio").joinpath("static")
    phrases = dict(re.findall(r'^  "?([\w.]+)"?: \[(".*)\],$', static.joinpath("i18n.js").read_text("utf-8"), re.M))
    assert len(phrases) > 100
    for key, words in phrases.items():
        assert len(re.findall(r'"(?:[^"\\]|\\.)+"', words)) == 2, key
    for each in static.iterdir():
        if each.name.endswith(".js"):
            asked = set(re.findall(r'\bt\("([\w.]+)"', each.read_text(encoding="utf-8")))
            assert asked <= phrases.keys(), each.name


def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _START, "--port", "0", "--store", str(tmp_path)], stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert url, line
        assert "手触り" in httpx.get(url.group(), timeout=60).text
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert process.stderr.read() == ""
