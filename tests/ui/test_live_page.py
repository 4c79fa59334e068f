"""The live page as a person uses it in a real browser, beside what PyTorch makes of the same photo."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.package_photos import package_photo
from tezawari.export.serve import open_server
from tezawari.export.web_app import built_runtime
from tezawari.style.export_command import export_live_page
from tezawari.style.stylize import Stylizer

_PATIENCE = 300_000  # milliseconds: a busy machine is no failure
OpenLive = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """A live page of the embedded network, and the server that can be stopped."""

    url: str
    stylizer: Stylizer
    stop: Callable[[], None]


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stylizer]:
    """The exported folder; skips where what exports it or what it runs on is missing."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"needs {package}: pip install 'tezawari[export]'")
    try:
        built_runtime()
    except UserError as error:
        pytest.skip(str(error))
    stylizer = Stylizer.load()
    folder = tmp_path_factory.mktemp("export") / "live"
    export_live_page(stylizer, folder, "int8")
    return folder, stylizer


@pytest.fixture
def site(page_folder: tuple[Path, Stylizer]) -> Iterator[Site]:
    folder, stylizer = page_folder
    server = open_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    yield Site(f"http://127.0.0.1:{server.server_port}/", stylizer, stop)
    if thread.is_alive():
        stop()


@pytest.fixture
def open_live(browser: Any, site: Site) -> Iterator[OpenLive]:
    """Open the page and wait until its network is ready; what the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def opened(width: int = 1280, language: str = "en", theme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=theme,
            locale="ja-JP" if language == "ja" else "en-GB",
        )
        context.set_default_timeout(_PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(f"{site.url}?backend=wasm")
        wait_for(page, "ready")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def wait_for(page: Any, key: str) -> None:
    page.wait_for_selector(f"#status:is([data-key={key}], [data-key=failed])", state="attached")
    assert page.get_attribute("#status", "data-key") == key, page.inner_text("#status")


def shown(page: Any) -> np.ndarray:
    """What the canvas shows, ``(H, W, 3)`` in levels of 255."""
    address = page.evaluate("document.querySelector('#canvas').toDataURL('image/png')")
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return np.asarray(picture.convert("RGB")).astype(np.float32)


def square_photo(folder: Path, side: int) -> tuple[Path, np.ndarray]:
    photo = Image.open(package_photo("chelsea")).convert("RGB").crop((75, 0, 375, 300)).resize((side, side))
    photo.save(folder / "photo.png")
    return folder / "photo.png", np.asarray(photo)


def restyled_by_pytorch(stylizer: Stylizer, photo: np.ndarray, weights: list[float], keep_color: bool) -> np.ndarray:
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1).float() / 255
    return stylizer(image, torch.tensor(weights), keep_color).permute(1, 2, 0).numpy() * 255


def settle(page: Any, action: Callable[[], None]) -> None:
    """Do something that restyles the photo, and wait until the picture is another and stays so."""
    before = shown(page)
    action()
    for _ in range(int(_PATIENCE / 500)):
        page.wait_for_timeout(500)
        now = shown(page)
        if now.shape != before.shape or np.abs(now - before).mean() > 0.01:
            page.wait_for_timeout(1500)  # a wish that came later
            return
    pytest.fail("the picture stayed the same")


def test_a_photo_is_restyled_as_by_pytorch(site: Site, open_live: OpenLive, tmp_path: Path) -> None:
    page = open_live()
    file, photo = square_photo(tmp_path, 192)
    page.set_input_files("#file", file)
    wait_for(page, "photo")
    names = site.stylizer.style_names
    first = [1.0, *[0.0] * (len(names) - 1)]
    wanted = restyled_by_pytorch(site.stylizer, photo, first, False)
    assert np.abs(shown(page) - wanted).mean() < 2
    assert np.abs(wanted - photo).mean() > 20  # the photo itself would not do

    settle(page, lambda: page.locator(".style input").last.fill("0.5"))
    mixed = [*first[:-1], 0.5]
    assert np.abs(shown(page) - restyled_by_pytorch(site.stylizer, photo, mixed, False)).mean() < 2
    settle(page, lambda: page.check("#color"))
    assert np.abs(shown(page) - restyled_by_pytorch(site.stylizer, photo, mixed, True)).mean() < 2
    settle(page, lambda: page.click("[data-do=none]"))
    assert np.abs(shown(page) - photo).max() <= 1
    settle(page, lambda: page.click("[data-do=mix]"))

    with page.expect_download() as download:
        page.click("[data-do=save]")
    assert download.value.suggested_filename == f"tezawari-{'-'.join(names[:3])}.png"
    assert np.array_equal(np.asarray(Image.open(download.value.path()).convert("RGB")), shown(page))


def test_a_photo_of_odd_sides_keeps_its_shape(open_live: OpenLive, tmp_path: Path) -> None:
    page = open_live()
    Image.open(package_photo("chelsea")).resize((211, 97)).save(tmp_path / "photo.png")
    page.set_input_files("#file", tmp_path / "photo.png")
    wait_for(page, "photo")
    assert shown(page).shape == (97, 211, 3)
    settle(page, lambda: page.select_option("#size", "128"))
    height, width, _ = shown(page).shape
    assert width / height == pytest.approx(211 / 97, rel=0.02)
    assert width * height == pytest.approx(128**2, rel=0.02)


def test_the_camera_is_restyled_live_and_its_last_picture_stays(
    open_live: OpenLive, record_property: Callable[[str, object], None]
) -> None:
    page = open_live()
    page.click("#intake [data-do=camera]")
    wait_for(page, "live")
    frames = []
    for _ in range(8):
        page.wait_for_timeout(1000)
        frames.append(shown(page))
    assert frames[0].shape[0] * frames[0].shape[1] == pytest.approx(256**2, rel=0.1)
    assert any(np.abs(one - other).mean() > 0.5 for one, other in itertools.pairwise(frames))
    # How fast depends on what else the machine does; the figure is recorded with the load beside it.
    speed = float(page.get_attribute("#status", "data-fps"))
    record_property("frames_per_second", speed)
    record_property("load", os.getloadavg()[0])
    assert speed > 0
    # Each lane is a worker with a network of its own; pthreads of the runtime are workers of those, not of the page.
    lanes = min(4, os.cpu_count() or 1)
    assert f"WASM × {lanes}" in page.inner_text("#status")
    opened = [worker for worker in page.workers if worker.url.endswith("engine.js")]
    assert len(opened) == 1 + lanes
    page.click("#toggle")
    wait_for(page, "photo")
    assert page.evaluate("document.querySelector('#video').srcObject.active") is False
    page.click("#toggle")
    wait_for(page, "live")
    assert [worker for worker in page.workers if worker.url.endswith("engine.js")] == opened


def test_threads_are_used(open_live: OpenLive) -> None:
    page = open_live()
    assert page.evaluate("crossOriginIsolated") is True
    if (os.cpu_count() or 1) > 1:
        assert re.search(r"WASM × [2-8]", page.inner_text("#status"))


def test_the_page_works_offline_after_the_first_visit(site: Site, open_live: OpenLive, tmp_path: Path) -> None:
    page = open_live()
    site.stop()
    page.reload()
    wait_for(page, "ready")
    page.click("[data-do=sample]")
    wait_for(page, "photo")
    assert shown(page).std() > 20
    assert page.evaluate("[...document.querySelectorAll('.style img')].every(image => image.naturalWidth > 0)")


def test_a_file_that_is_no_picture_is_told(open_live: OpenLive, tmp_path: Path) -> None:
    page = open_live()
    (tmp_path / "photo.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "photo.png")
    wait_for(page, "unreadable")
    assert page.is_visible("#intake")


@pytest.mark.parametrize(("language", "theme"), [("ja", "dark"), ("en", "light")])
def test_the_page_fits_phones_and_desktops(open_live: OpenLive, language: str, theme: str) -> None:
    page = open_live(360, language, theme)
    assert page.locator("html").get_attribute("lang") == language
    assert page.locator("html").get_attribute("data-theme") == theme
    page.click("[data-do=sample]")
    wait_for(page, "photo")
    for width in (360, 768, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        nameless = "nodes => nodes.filter(node => !node.textContent.trim() && !node.ariaLabel).length"
        assert page.locator("button").evaluate_all(nameless) == 0
        box = page.locator("#canvas").bounding_box()
        assert box["width"] > 200
        assert box["y"] + box["height"] <= 800
    page.click("#language")
    assert page.locator("html").get_attribute("lang") == ("en" if language == "ja" else "ja")
