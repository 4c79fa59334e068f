"""A browser and studios for it; both are real, and nothing leaves this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.collect.store_material import collect, encoded, picture, rank_by_content
from tests.unit.studio.running import Running, running

from tezawari.collect.store import open_store
from tezawari.studio.job_work import Settings

WORD = "ぶつぶつ"
IMAGES = 120
FOLDER_WORD = "ふわふわ"

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A studio with one ranked word of many images, and a folder to collect another word from."""
    store, folder = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("folder") / FOLDER_WORD
    folder.mkdir()
    for seed in range(16):
        (folder / f"{seed}.jpg").write_bytes(encoded(picture(1000 + seed)))
    negatives = tmp_path_factory.mktemp("negatives")  # the package's many crops take minutes on a busy machine
    for seed in range(30):
        (negatives / f"{seed}.jpg").write_bytes(encoded(picture(2000 + seed)))
    with open_store(store) as opened:
        collect(opened, WORD, IMAGES)
        rank_by_content(opened, WORD)
    with running(Settings(store, folder=folder.parent, negatives=negatives)) as server:
        yield server


# Two synchronous Playwrights cannot run in one process at once, and the live page's tests have one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, started once; skips where it or Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a page of a studio; what the browser complains of (errors, broken policy) fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(url: str, width: int = 1280, language: str = "en", theme: str = "light", name: str = "Aiko") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=theme,
            locale="ja-JP" if language == "ja" else "en-GB",
            accept_downloads=True,
        )
        context.add_init_script(
            f"localStorage.tezawari ??= JSON.stringify({{language: '{language}', theme: 'auto', annotator: '{name}'}})"
        )
        context.set_default_timeout(120_000)  # a busy machine is no failure
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.wait_for_selector("main :is(h1, .intake, .token)")
        return page

    yield opened
    for context in contexts:
        context.close()
    # An answer that refuses is one line in the console, and what the page makes of it is what is tested.
    assert [line for line in complaints if "Failed to load resource" not in line] == []


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of 240 × 160."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    picture(7).resize((240, 160)).save(path)
    return path
