"""A material swapped as the studio does it: what is asked for, what is made, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from tests.hostile.pictures import encoded
from tests.unit.studio.running import HERE, PORT

from tezawari.core.errors import UserError
from tezawari.data.photo import load_rgb
from tezawari.segmentation.crf import CrfParameters
from tezawari.segmentation.masks import read_mask
from tezawari.segmentation.package import save_trained
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.segmentation.segmenter import Segmenter
from tezawari.studio.app import create_app
from tezawari.studio.database import Database
from tezawari.studio.job_work import Settings, open_work
from tezawari.studio.picture_routes import UPLOADS
from tezawari.studio.safety import CSRF_HEADER, Safety
from tezawari.studio.state import Studio
from tezawari.studio.uploads import StoredPhoto, Uploads
from tezawari.style.network import build_network
from tezawari.style.package import save_network

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["fabric", "stone", "wood"]
SIZE = (1100, 100)
"""Of the photo, which is larger than what is looked at."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A studio with an untrained style network, which knows wood, and an untrained segmenter."""
    folder = tmp_path_factory.mktemp("studio")
    torch.manual_seed(0)
    network = build_network("johnson", 2)
    with torch.no_grad():
        network(torch.rand(2, 3, 48, 48), torch.eye(2))
    style = save_network(folder / "style.safetensors", network.eval(), ["wood", "ふわふわ"], {})
    segmenter = Segmenter("efficientnet_lite0", len(NAMES), "random")
    with torch.no_grad():
        segmenter.classifier.weight *= 20  # so that several classes win somewhere
    seeing = save_trained(folder / "segmenter.safetensors", segmenter, NAMES, 64, {})
    return Settings(folder, checkpoint=style, segmenter=seeing)


@pytest.fixture(scope="module")
def photo(settings: Settings) -> StoredPhoto:
    return Uploads(Database(settings.store)).add_photo(encoded("PNG", SIZE))


@pytest.fixture(scope="module")
def seen(settings: Settings, photo: StoredPhoto) -> np.ndarray:
    """What the segmenter sees in the photo, (H, W); something, and not everywhere the same."""
    assert settings.segmenter is not None
    pixels = load_rgb(photo.path, max_side=1024).permute(1, 2, 0).numpy()
    mask = PhotoSegmenter.load(settings.segmenter)(np.ascontiguousarray(pixels), crf=CrfParameters()).mask
    counts = np.bincount(mask.ravel(), minlength=1 + len(NAMES))[1:]
    assert 0 < counts.max() < mask.size
    return mask


@pytest.fixture
def swap(settings: Settings, photo: StoredPhoto, tmp_path: Path) -> Callable[..., dict]:
    do = open_work(settings)

    def run(**change: object) -> dict:
        request = {"photo": photo.id, "source": None, "target": "wood", "feather": 0.0, "keep_color": False}
        return do("swap", {**request, "full": False, **change}, tmp_path, lambda *_: None)

    return run


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_what_covers_most_is_swapped_and_judged(swap: Callable[..., dict], seen: np.ndarray, tmp_path: Path) -> None:
    result = swap()
    shares = np.bincount(seen.ravel(), minlength=1 + len(NAMES))[1:] / seen.size
    assert result["source"] == NAMES[int(shares.argmax())]
    assert result["share"] == pytest.approx(shares.max(), abs=1e-6)
    assert {one["name"]: one["share"] for one in result["found"]} == {
        name: pytest.approx(share) for name, share in zip(NAMES, shares) if share >= 0.01
    }
    before, after = result["seen"]
    assert before == [{"name": result["source"], "share": 1.0}]
    wood = sum(one["share"] for one in after if one["name"] == "wood")
    assert result["scores"][1]["pixel_accuracy"] == pytest.approx(wood, abs=0.01)
    assert result["scores"][0]["pixel_accuracy"] == float(result["source"] == "wood")
    assert "image" not in result
    assert {_pixels(tmp_path / name).shape[:2] for name in (result["shown"], result["region"])} == {seen.shape}
    assert read_mask(tmp_path / result["mask"]).shape == SIZE[::-1]


def test_the_full_size_keeps_every_pixel_outside_of_the_mask_and_is_not_scored_for_what_was_not_learnt(
    swap: Callable[..., dict], photo: StoredPhoto, tmp_path: Path
) -> None:
    result = swap(full=True, target="ふわふわ")
    assert result["scores"] is None
    old, new = _pixels(photo.path), _pixels(tmp_path / result["image"])
    inside = read_mask(tmp_path / result["mask"]) > 0
    assert new.shape == old.shape
    assert np.array_equal(new[~inside], old[~inside])
    assert (new != old)[inside].any(-1).mean() > 0.9


def test_a_material_that_is_not_there_is_answered_with_what_is(swap: Callable[..., dict], seen: np.ndarray) -> None:
    absent = next(name for value, name in enumerate(NAMES, 1) if not (seen == value).any())
    there = NAMES[int(np.bincount(seen.ravel(), minlength=1 + len(NAMES))[1:].argmax())]
    with pytest.raises(UserError, match=f"there is no {absent} in the photo; found there: {there}"):
        swap(source=absent)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    studio = Studio(settings, Safety("127.0.0.1", PORT, uploads=UPLOADS))
    yield TestClient(create_app(studio), base_url=HERE, headers={CSRF_HEADER: "1"}, raise_server_exceptions=False)
    studio.store.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "stoen"}, "did you mean stone?"),
        ({"target": "fabric"}, "no style is named 'fabric'"),
        ({"target": None}, "target"),
        ({"feather": -0.1}, "feather"),
        ({"keep_color": 1}, "keep_color"),
        ({"photo": "../x"}, "photo"),
        ({"mask": "x"}, "mask"),
    ],
)
def test_a_wish_to_swap_is_checked_before_it_waits(
    client: TestClient, photo: StoredPhoto, change: dict[str, object], said: str
) -> None:
    accepted = client.post("/api/swap", json={"photo": photo.id, "target": "wood"})
    assert (accepted.status_code, accepted.json()["kind"]) == (202, "swap")
    answer = client.post("/api/swap", json={"photo": photo.id, "target": "wood", **change})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]


def test_a_photo_that_is_gone_is_missing(client: TestClient) -> None:
    assert client.post("/api/swap", json={"photo": "0" * 32, "target": "wood"}).status_code == 404
