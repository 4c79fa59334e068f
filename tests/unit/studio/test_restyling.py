"""What sliders and brushes make of a photo."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.hostile.pictures import encoded

from tezawari.studio.database import Database
from tezawari.studio.job_work import KINDS, Settings, open_work
from tezawari.studio.restyling import KEEP_PAINT, restyle
from tezawari.studio.state import LANES
from tezawari.studio.uploads import Uploads
from tezawari.style.mixing import one_hot
from tezawari.style.stylize import Stylizer

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (60, 92)


def quiet(phase: str, done: int, total: int) -> None:
    """Report to nobody."""


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    return Stylizer.load()


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0))


def test_sliders_alone_are_the_networks_mix(stylizer: Stylizer, photo: torch.Tensor) -> None:
    mix = torch.linspace(0, 1, len(stylizer.style_names))
    assert torch.equal(restyle(stylizer, photo, mix, None, 0.01, False, quiet), stylizer(photo, mix))


def test_no_style_anywhere_leaves_the_photo_as_it_is(stylizer: Stylizer, photo: torch.Tensor) -> None:
    none, labels = torch.zeros(len(stylizer.style_names)), np.zeros((30, 46), np.uint8)
    for painted in (None, labels, np.full_like(labels, KEEP_PAINT)):
        assert torch.equal(restyle(stylizer, photo, none, painted, 0.01, False, quiet), photo)


def test_one_style_painted_everywhere_is_that_style(stylizer: Stylizer, photo: torch.Tensor) -> None:
    labels = np.full((30, 46), 3, np.uint8)
    painted = restyle(stylizer, photo, one_hot(0, len(stylizer.style_names)), labels, 0.01, False, quiet)
    alone = stylizer(photo, one_hot(2, len(stylizer.style_names)))
    assert float((painted - alone).abs().max()) < 2e-3


def test_where_the_photo_is_kept_it_is_kept_to_the_pixel(stylizer: Stylizer, photo: torch.Tensor) -> None:
    labels = np.zeros((30, 46), np.uint8)
    labels[:, :23] = KEEP_PAINT
    mix = one_hot(5, len(stylizer.style_names))
    painted = restyle(stylizer, photo, mix, labels, 0.0, False, quiet)
    assert torch.equal(painted[..., :40], photo[..., :40])
    assert float((painted - photo)[..., 52:].abs().mean()) > 0.05


def test_paint_on_no_sliders_leaves_the_rest_as_it_is(stylizer: Stylizer, photo: torch.Tensor) -> None:
    labels = np.zeros((30, 46), np.uint8)
    labels[:, 30:] = 2
    painted = restyle(stylizer, photo, torch.zeros(len(stylizer.style_names)), labels, 0.0, False, quiet)
    assert torch.equal(painted[..., :50], photo[..., :50])
    assert float((painted - photo)[..., 70:].abs().mean()) > 0.05


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., dict]:
    do = open_work(Settings(tmp_path))

    def run(kind: str, **request: object) -> dict:
        return do(kind, request, tmp_path / "made", quiet)

    return run


def test_a_job_restyles_in_full_and_in_small_and_shows_every_style(
    work: Callable[..., dict], stylizer: Stylizer, tmp_path: Path
) -> None:
    uploads = Uploads(Database(tmp_path))
    stored = uploads.add_photo(encoded("PNG", (900, 60)))
    drawn = uploads.add_map(stored, 90, 6, bytes([2] * 540))
    common = {"photo": stored.id, "weights": {stylizer.style_names[0]: 1.0}, "feather": 0.01, "keep_color": True}
    full = work("restyle", **common, map=drawn, full=True)
    assert (full["width"], full["height"], full["files"]) == (900, 60, ["restyled.png"])
    small = work("restyle", **common, map=None, full=False)
    assert (small["width"], small["files"]) == (640, ["restyled.jpg"])
    shown = work("styles", photo=stored.id)
    assert shown["names"] == stylizer.style_names
    pictures = [np.asarray(Image.open(tmp_path / "made" / name)).astype(int) for name in shown["files"]]
    assert all(np.abs(one - other).mean() > 1 for one, other in itertools.pairwise(pictures))


def test_every_kind_of_job_has_a_lane() -> None:
    assert sorted(kind for lane in LANES.values() for kind in lane.kinds) == sorted(KINDS)
