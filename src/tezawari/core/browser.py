"""The system's Chromium, driven without a window for benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tezawari.core.errors import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Start a headless Chromium with a made-up camera, and end it with the block.

    Raises:
        UserError: Playwright or Chromium is not installed.
    """
    if find_spec("playwright") is None:
        raise UserError("Playwright, which drives the browser, is not installed: pip install playwright")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise UserError("no Chromium on this machine: apt-get install chromium, or your system's way to it")
    from playwright.sync_api import sync_playwright

    # Chromium's sandbox refuses to run as root, as in containers.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*_ARGUMENTS, *root])
        try:
            yield browser
        finally:
            browser.close()
