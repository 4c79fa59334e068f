"""Every page of the studio, as a person uses it in a real browser."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.ui.conftest import FOLDER_WORD, IMAGES, WORD
from tests.unit.studio.running import Running, running

from tezawari.studio.job_work import Settings
from tezawari.studio.state import word_id

OpenPage = Callable[..., Any]


def until(page: Any, expression: str, seconds: float = 120.0) -> None:
    """Ask the page again and again: its policy forbids Playwright's own waiting, which evaluates strings inside."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


SET = word_id(WORD)
PAGES = ["restyle", "collect", f"collect/{SET}", "annotate", f"annotate/{SET}", "words", "segment"]


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize(("language", "theme"), [("ja", "light"), ("en", "dark")])
def test_pages_fit_their_window_in_both_languages_and_themes(
    studio: Running, open_page: OpenPage, width: int, language: str, theme: str
) -> None:
    page = open_page(studio.url, width=width, language=language, theme=theme)
    grounds = set()
    for name in PAGES:
        page.goto(f"{studio.url}/#/{name}")
        page.wait_for_selector(f"main.{name.partition('/')[0]} {'.cell img' if SET in name else ':is(h1, .intake)'}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("html").get_attribute("lang") == language
        assert (
            page.locator("button:not([aria-label])", has_text="").evaluate_all(
                "buttons => buttons.filter(button => !button.textContent.trim()).length"
            )
            == 0
        ), f"a button without a name on {name}"
        grounds.add(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
        missing = page.evaluate(r"document.body.innerText.match(/\b(page|collect|annotate|segment|restyle)\.[a-z.]+/)")
        assert missing is None, f"a phrase without words on {name}: {missing}"
    assert len(grounds) == 1
    brightness = sum(int(part) for part in grounds.pop()[4:-1].split(","))
    assert (brightness > 384) == (theme == "light")


def test_language_and_theme_are_switched_and_remembered(studio: Running, open_page: OpenPage) -> None:
    page = open_page(studio.url)
    page.click("button[lang=ja]")
    page.click("button[aria-label='暗い配色']")
    page.reload()
    page.wait_for_selector(".intake")
    assert "写真を選ぶ" in page.inner_text("main")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_a_photo_is_restyled_painted_compared_and_taken_away(
    studio: Running, open_page: OpenPage, photo: Path, tmp_path: Path
) -> None:
    page = open_page(studio.url)
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector(".compare.both")
    until(page, "document.querySelectorAll('.style img:not([hidden])').length === 8")
    until(page, "document.querySelector('.after').naturalWidth === 240")
    page.click("button:has-text('None')")
    assert not page.is_visible(".after")
    # The left half is painted with the first style; no slider is on, so the right one stays the photo.
    page.keyboard.press("1")
    page.wait_for_selector(".compare.painting")
    page.locator(".brushes input[type=range]").first.fill("0.4")
    page.locator(".brushes input[type=range]").nth(1).fill("0")
    box = page.locator(".paint").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 0.1 * box["height"])  # not on its rounded corner
    page.mouse.down()
    for share in (0.25, 0.5, 0.75, 0.9):
        page.mouse.move(box["x"] + 2, box["y"] + share * box["height"])
    page.mouse.up()
    page.wait_for_selector(".after:visible")
    with page.expect_download() as downloading:
        page.click("button:has-text('Full size')")
    downloading.value.save_as(tmp_path / "made.png")
    made, before = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (tmp_path / "made.png", photo))
    assert made.shape == before.shape
    assert np.abs(made - before)[:, 120:].max() <= 1
    assert np.abs(made - before)[:, :20].mean() > 10
    page.keyboard.press("Escape")
    line = page.locator(".compare input")
    line.focus()
    page.keyboard.press("ArrowLeft")
    assert float(line.input_value()) < 50


def test_the_camera_gives_a_photo(studio: Running, open_page: OpenPage) -> None:
    page = open_page(studio.url)
    page.click("button:has-text('Camera')")
    until(page, "document.querySelector('video')?.videoWidth > 0")
    page.click("button:has-text('Take the photo')")
    page.wait_for_selector(".compare")


def test_a_file_that_is_no_picture_is_said_in_words(studio: Running, open_page: OpenPage, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("<script>alert(1)</script>")
    page = open_page(studio.url, language="ja")
    page.set_input_files("input[type=file]", tmp_path / "photo.jpg")
    page.wait_for_selector(".toast.error:has-text('画像ではありません')")


def test_a_word_is_collected_listed_packed_put_away_and_taken_back(
    studio: Running, open_page: OpenPage, tmp_path: Path
) -> None:
    page = open_page(f"{studio.url}/#/collect")
    while page.locator(".chip input:checked").count():
        page.locator(".chip input:checked").first.uncheck()
    page.check(".chip:has-text('Folder') input")
    page.fill("#word", FOLDER_WORD)
    page.click("button.primary:has-text('Collect')")
    page.wait_for_selector(".live .job")
    page.wait_for_selector(f".set:has-text('{FOLDER_WORD}'):has-text('16 images')")
    card = page.locator(f".set:has-text('{FOLDER_WORD}')")
    with page.expect_download() as downloading:
        card.locator("button:has-text('50')").click()
    assert downloading.value.suggested_filename == f"{FOLDER_WORD}.zip"
    downloading.value.save_as(tmp_path / "set.zip")
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        assert len(archive.namelist()) == 17
    card.locator("button[aria-label^='Put']").click()
    card.wait_for(state="detached")
    page.click(".toast button:has-text('Undo')")
    card.wait_for()
    card.locator("a").first.click()
    page.wait_for_selector(".line-item:has-text('licence not stated')")


def test_images_are_judged_by_keys_clicks_and_strokes_and_it_lasts(studio: Running, open_page: OpenPage) -> None:
    page = open_page(f"{studio.url}/#/annotate/{SET}", name="Chie")
    page.wait_for_selector(".grid:focus .cell.active")
    assert page.locator(".cell").count() < IMAGES, "only what is seen has elements"
    page.keyboard.press("a")
    page.keyboard.press("a")
    page.keyboard.press("r")
    page.wait_for_selector(".counts:has-text('✓ 2')")
    page.wait_for_selector(".counts:has-text('✕ 1')")
    cells = [page.locator(f".cell[data-index='{place}']").bounding_box() for place in (4, 7)]
    page.mouse.move(cells[0]["x"] + 40, cells[0]["y"] + 40)
    page.mouse.down()
    page.mouse.move(cells[1]["x"] + 40, cells[1]["y"] + 40, steps=20)
    page.mouse.up()
    page.wait_for_selector(".counts:has-text('✓ 6')")
    page.click(".cell[data-index='10']", button="right")
    page.wait_for_selector(".counts:has-text('✕ 2')")
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    page.wait_for_selector(".counts:has-text('✓ 2')")
    page.wait_for_selector(".counts:has-text('✕ 1')")
    page.reload()
    page.wait_for_selector(f".counts:has-text('{IMAGES - 3} open')")
    page.keyboard.press("End")
    page.wait_for_selector(f".cell[data-index='{IMAGES - 1}'].active")
    assert page.locator(".cell:visible").count() < IMAGES


def test_two_people_see_each_others_marks_and_where_they_differ(studio: Running, open_page: OpenPage) -> None:
    pages = [open_page(f"{studio.url}/#/annotate/{SET}", name=name) for name in ("Dan", "Emi")]
    for page, keys in zip(pages, ("aar", "ara")):
        page.wait_for_selector(".grid:focus .cell.active")
        for key in keys:
            page.keyboard.press(key)
    pages[0].wait_for_selector(".cell[title*='Emi: ✓']")
    pages[1].click("button:has-text('Agreement')")
    pages[1].wait_for_selector("dialog tr:has-text('Dan · Emi'):has-text('33 %')")
    pages[1].click("dialog button:has-text('disputed')")
    until(pages[1], "[...document.querySelectorAll('.cell')].filter(cell => !cell.hidden).length === 2")
    pages[0].click("button:has-text('Side by side')")
    assert pages[0].locator(".lane").count() == 3


def test_the_keyboard_stays_where_it_was_when_a_part_of_the_page_is_made_anew(
    studio: Running, open_page: OpenPage
) -> None:
    page = open_page(f"{studio.url}/#/annotate/{SET}")
    page.wait_for_selector(".grid:focus .cell.active")
    last = IMAGES - 1
    for key, place in (("End", last), ("ArrowUp", None), ("ArrowDown", last)):
        page.keyboard.press(key)
        if place is not None:
            page.wait_for_selector(f".cell[data-index='{place}'].active")
    for control, key, then in (
        (".verbs .no", "Enter", ".verbs .no:focus[aria-pressed=true]"),
        ("select[aria-label=Order]", "ArrowUp", "select[aria-label=Order]:focus"),
        (".tools [lang=ja]", "Enter", "h1:lang(ja)"),
        (".tab[href='#/words']", "Enter", "main.words:focus h1"),
    ):
        page.focus(control)
        page.keyboard.press(key)
        page.wait_for_selector(then)


def test_a_studio_that_is_gone_is_said_on_the_page(open_page: OpenPage, tmp_path: Path) -> None:
    with running(Settings(tmp_path)) as server:
        page = open_page(f"{server.url}/#/collect")
        page.wait_for_selector(".empty")
        assert page.locator(".gone").is_hidden()
        server.process.kill()
        page.wait_for_selector(".gone:visible")


def test_without_a_segmenter_the_page_says_what_to_type(studio: Running, open_page: OpenPage) -> None:
    page = open_page(f"{studio.url}/#/segment")
    assert "tezawari studio --segmenter" in page.inner_text("pre")


def test_a_locked_studio_asks_for_its_token(open_page: OpenPage, tmp_path: Path) -> None:
    token = "a-token-that-nobody-guesses"
    with running(Settings(tmp_path), token) as locked:
        page = open_page(locked.url)
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector(".toast.error")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector(".intake")
        linked = open_page(f"{locked.url}/#token={token}")
        linked.wait_for_selector(".intake")
        assert token not in linked.url


def test_a_photo_is_segmented_by_every_method(open_page: OpenPage, photo: Path, tmp_path: Path) -> None:
    import torch

    from tezawari.segmentation.network import SaliencyNetwork
    from tezawari.segmentation.package import save_trained

    torch.manual_seed(0)
    network = SaliencyNetwork("efficientnet_lite0", 2, "average", "random")
    save_trained(tmp_path / "saliency.safetensors", network, ["cat", "dog"], 64, {})
    with running(Settings(tmp_path / "store", segmenter=tmp_path / "saliency.safetensors")) as server:
        page = open_page(f"{server.url}/#/segment")
        page.set_input_files("input[type=file]", photo)
        page.wait_for_selector(".stage .photo")
        page.check(".chip:has-text('cat') input")
        page.check(".chip:has-text('Grad-CAM') input")
        page.uncheck(".check input")
        page.click("button.primary:has-text('Segment')")
        page.wait_for_selector(".answer")
        assert page.locator(".answer").count() == 2
        assert page.locator("figure img").count() == 4
        until(page, "[...document.querySelectorAll('figure img')].every(image => image.naturalWidth > 0)")
        with page.expect_download() as downloading:
            page.locator(".answer a:has-text('Mask')").first.click()
        downloading.value.save_as(tmp_path / "mask.png")
        with Image.open(tmp_path / "mask.png") as mask:
            assert (mask.mode, mask.size) == ("P", (240, 160))
