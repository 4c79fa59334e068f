"""One part of a photo restyled: a region that the page Segment found, and a material swapped for a style."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.ui.test_pages import until
from tests.unit.studio.running import Running, running

from tezawari.segmentation.masks import read_mask
from tezawari.segmentation.package import save_trained
from tezawari.segmentation.segmenter import Segmenter
from tezawari.studio.job_work import Settings

OpenPage = Callable[..., Any]

STYLE = "wave_crop"
CLASSES = ["cat", STYLE, "dog"]
_PAINT = "[...document.querySelector('.paint').getContext('2d').getImageData(0, 0, 240, 160).data]"


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A studio with the network of the package and an untrained segmenter, one class of which is called as a style."""
    folder = tmp_path_factory.mktemp("seeing")
    torch.manual_seed(0)
    segmenter = Segmenter("efficientnet_lite0", len(CLASSES), "random")
    with torch.no_grad():
        segmenter.classifier.weight *= 20  # so that several classes win somewhere
    trained = save_trained(folder / "segmenter.safetensors", segmenter, CLASSES, 64, {})
    with running(Settings(folder / "store", segmenter=trained)) as server:
        yield server


def saved(page: Any, action: Callable[[], None], path: Path) -> Path:
    """Do what downloads a file, and keep the file."""
    with page.expect_download() as downloading:
        action()
    downloading.value.save_as(path)
    return path


def test_a_region_of_segment_is_restyled_alone_undone_and_filled_by_a_brush(
    seeing: Running, open_page: OpenPage, photo: Path, tmp_path: Path
) -> None:
    page = open_page(f"{seeing.url}/#/segment")
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector(".stage .photo")
    page.uncheck(".check input")
    page.click("button.primary:has-text('Segment')")
    page.wait_for_selector(".answer")
    mask = read_mask(saved(page, page.locator(".answer a:has-text('Mask')").click, tmp_path / "mask.png"))
    name = CLASSES[int(np.bincount(mask.ravel(), minlength=4)[1:].argmax())]
    region = mask == 1 + CLASSES.index(name)
    assert 0 < region.sum() < region.size
    page.click(f"button[aria-label='Restyle this part: {name}']")
    page.wait_for_selector(f".parts:has-text('The sliders now change “{name}”')")
    page.wait_for_selector(".compare.both")
    assert page.locator(".parts .chip").count() == len(np.unique(mask[mask > 0]))

    def paint() -> np.ndarray:
        return np.reshape(page.evaluate(_PAINT), (*mask.shape, 4))[..., 3]

    # Where the photo stays as it is there is a veil; the region is left to the sliders, which need no paint.
    assert np.array_equal(paint() == 0, region)
    page.keyboard.press("Control+z")
    assert not paint().any()
    page.keyboard.press("1")
    page.click(f".parts .chip:has-text('{name}')")
    page.wait_for_selector(f".parts:has-text('“{name}” is filled')")
    assert paint().all(), "the region has the style's colour, the rest that of the photo as it is"
    page.keyboard.press("Escape")
    page.click(".parts button:has-text('The whole photo')")
    assert not paint().any()


def test_a_material_is_swapped_compared_and_taken_away_on_a_phone_in_japanese(
    seeing: Running, open_page: OpenPage, photo: Path, tmp_path: Path
) -> None:
    page = open_page(f"{seeing.url}/#/restyle", width=360, language="ja", theme="dark")
    page.click("a:has-text('素材を入れ替える')")
    page.set_input_files("input[type=file]", photo)
    page.wait_for_selector(".compare")
    page.check(".targets .chip:has-text('北斎') input")
    page.locator(".controls input[type=range]").fill("0")
    page.click("button.primary:has-text('入れ替える')")
    page.wait_for_selector(".scores tr:has-text('IoU')")
    until(page, "[...document.querySelectorAll('.answer img, .after')].every(image => image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    line = page.locator(".compare input")
    line.focus()
    page.keyboard.press("ArrowLeft")
    assert float(line.input_value()) < 50
    mask = read_mask(saved(page, page.locator(".answer a:has-text('マスク')").click, tmp_path / "mask.png")) > 0
    made = saved(page, page.locator("button:has-text('原寸で保存')").click, tmp_path / "made.png")
    new, old = (np.asarray(Image.open(path).convert("RGB")) for path in (made, photo))
    assert np.array_equal(new[~mask], old[~mask])
    assert (new != old)[mask].any(-1).mean() > 0.9


def test_without_a_segmenter_swapping_says_what_to_type(studio: Running, open_page: OpenPage) -> None:
    page = open_page(f"{studio.url}/#/restyle/swap")
    assert "tezawari studio --segmenter" in page.inner_text("pre")
