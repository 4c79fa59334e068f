"""The page Words in a real browser, and nouns on the page Collect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.ui.test_pages import until
from tests.unit.collect.store_material import encoded, fetched, find
from tests.unit.studio.running import Running, running

from tezawari.collect.store import open_store
from tezawari.studio.database import FOLDER
from tezawari.studio.job_work import MEASURED, Settings

OpenPage = Callable[..., Any]
RED, GREEN = "あかあか", "みどり"
COUNT = 5


def noise(seed: int, color: tuple[int, ...]) -> bytes:
    pixels = np.random.default_rng(seed).normal(color, 60, (12, 12, 3)).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    """A studio with two words of five and six images, and random images; and where it keeps what was measured."""
    base = tmp_path_factory.mktemp("words")
    (base / "random").mkdir()
    for seed in range(12):
        color = np.random.default_rng(seed).integers(40, 216, 3).tolist()
        (base / "random" / f"{seed}.jpg").write_bytes(noise(900 + seed, tuple(color)))
    with open_store(base / "store") as store:
        for count, word, color in ((COUNT, RED, (200, 40, 40)), (COUNT + 1, GREEN, (40, 200, 40))):
            query = store.begin_query(word, "openverse", "ja", 9)
            store.add_found(query, [find(place, f"{word}{place}") for place in range(count)])
            for place, (find_id, _) in enumerate(store.waiting(word)):
                store.keep(find_id, fetched(noise(100 * count + place, color)), None)
    with running(Settings(base / "store", folder=base, negatives=base / "random")) as server:
        yield server, base / "store" / FOLDER / MEASURED


def names(page: Any) -> list[str]:
    return page.locator(".ranked .name strong").all_inner_texts()


def test_words_are_measured_ranked_and_shown_again(words: tuple[Running, Path], open_page: OpenPage) -> None:
    page = open_page(f"{words[0].url}/#/words", width=360)
    images = page.locator("#images")
    images.wait_for()
    assert images.input_value() == str(COUNT)
    images.fill(str(COUNT + 1))
    assert page.is_disabled(f".chip:has-text('{RED}') input")
    page.wait_for_selector("p[role=status]:has-text('fewer than 6 images: 1')")
    images.fill(str(COUNT))
    page.focus(f".chip:has-text('{RED}') input")
    page.keyboard.press("Space")
    page.wait_for_selector("p[role=status]:has-text('collect a second one')")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    page.wait_for_selector(".live .job progress")
    page.wait_for_selector(".ranked >> nth=1", timeout=300_000)  # a worker that loads torch on a busy machine
    page.reload()
    page.wait_for_selector(".ranked >> nth=1")
    assert sorted(names(page)) == [RED, GREEN]
    until(page, "[...document.querySelectorAll('.strip img')].every(image => image.naturalWidth > 0)")
    assert page.locator(".heat tbody td").all_inner_texts() == ["100", "0", "0", "100"]
    assert page.get_attribute(".tab[aria-current]", "href") == "#/words"


def test_any_measurement_is_sorted_scrolled_by_keys_and_fits_both_sizes_and_languages(
    words: tuple[Running, Path], open_page: OpenPage
) -> None:
    many = [f"言葉{number}" for number in range(14)]
    measured = {
        **{"time": "2026-01-02T03:04:05+00:00", "features": "efficientnet_lite0/block15", "images": 50, "random": 5000},
        **{"crops": True, "chance": 0.016, "random_precision": 0.02, "random_entropy": 5.5, "shared": 3},
        "words": [
            {"word": word, "gloss": "as told", "images": 50 + place, "top": []}
            | {"precision": [1 - place / 20, 0.1, 1.0], "entropy": [(place * 5 % 14) / 2, 0.0, 7.5]}
            for place, word in enumerate(many)
        ],
        "left_out": [{"word": "足りない", "images": 4}],
        "confusion": {"words": many, "shares": np.eye(14).tolist(), "accuracy": [1.0, 0.9, 1.0]},
    }
    words[1].write_text(json.dumps(measured))
    for width, language, theme in ((360, "ja", "dark"), (1440, "en", "light")):
        page = open_page(f"{words[0].url}/#/words", width=width, language=language, theme=theme)
        page.wait_for_selector(".ranked >> nth=13")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(r"document.body.innerText.match(/\b(page|words|kind|phase|order)\.[a-z.]+/)") is None
        assert names(page) == many
        page.focus("[data-order=entropy]")
        page.keyboard.press("Enter")
        assert names(page) == sorted(many, key=lambda word: many.index(word) * 5 % 14)
        page.click("[data-order=images]")
        assert names(page) == many[::-1]
    page = open_page(f"{words[0].url}/#/words", width=360)
    box = page.locator(".heatbox")
    box.focus()
    before = page.locator(".heat tbody th").first.bounding_box()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.heatbox').scrollLeft > 0")
    # The word of a row stays where it can be read.
    assert page.locator(".heat tbody th").first.bounding_box()["x"] <= before["x"]
    assert page.locator(".heat tbody th").first.bounding_box()["x"] >= box.bounding_box()["x"]


def test_nouns_go_with_the_word_to_the_server(words: tuple[Running, Path], open_page: OpenPage) -> None:
    page = open_page(f"{words[0].url}/#/collect")
    while page.locator(".chip input:checked").count():
        page.locator(".chip input:checked").first.uncheck()
    page.check(".chip:has-text('Folder') input")
    page.fill("#word", "もこもこ")
    page.fill("#nouns", "犬　髪、犬")
    page.click("summary")
    until(page, "document.querySelector('#layer').options.length > 5")
    page.select_option("#backbone", "vgg16")
    until(page, "[...document.querySelector('#layer').options].some(option => option.value === 'relu4_3')")
    page.select_option("#layer", "relu4_3")
    with page.expect_request("**/api/sets") as sent:
        page.click("button.primary:has-text('Collect')")
    asked = json.loads(sent.value.post_data)
    assert (asked["nouns"], asked["backbone"], asked["layer"]) == (["犬", "髪"], "vgg16", "relu4_3")
    # A folder holds what it holds, which is said instead of nothing being done.
    page.wait_for_selector(".toast.error:has-text('nouns go with search APIs only')")
