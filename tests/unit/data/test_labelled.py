"""The data modules of labelled images: what a batch holds, what decides it, and what a download leaves behind."""

from __future__ import annotations

import functools
import hashlib
import logging
import pickle
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.data.labelled import LabelledData, LabelledSamples, LabelledSet, Supervision, download_folder
from tezawari.data.labelled_image import (
    IGNORE_INDEX,
    LabelledImage,
    letterbox,
)
from tezawari.data.loader import SampleKey


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Toy(LabelledData):
    def __init__(self, images: list[LabelledImage], supervision: Supervision = "labels", **settings: int) -> None:
        super().__init__(
            supervision,
            **({"image_size": 16, "batch_size": 2, "epoch_size": None, "num_workers": 0, "seed": 0} | settings),
        )
        self.images = images

    def find(self) -> LabelledSet:
        return LabelledSet(["cat", "dog", "cow"], self.images[:-2], self.images[-2:])


def toys(masked: bool = True) -> list[LabelledImage]:
    masks = [np.full((20, 24), number % 4, np.uint8) if masked else None for number in range(8)]
    return [LabelledImage(f"i{n}", (n % 3,), noise(20, 24, n), mask) for n, mask in enumerate(masks)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_images_labels_names_and_under_full_supervision_masks(workers: int) -> None:
    data = Toy(toys(), "full", num_workers=workers)
    assert data.class_names == ["cat", "dog", "cow"]
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for batch in batches:
        assert batch["image"].shape == (2, 3, 16, 16)
        assert batch["labels"].dtype == torch.float32
        for row, name in enumerate(batch["id"]):
            number = int(name[1:])
            assert batch["labels"][row].tolist() == [float(place == number % 3) for place in range(3)]
            assert set(batch["mask"][row].unique().tolist()) <= {number % 4, IGNORE_INDEX}
        assert batch["mask"].dtype == torch.int64
    assert sorted(name for batch in batches for name in batch["id"]) == [f"i{n}" for n in range(6)]


def test_learning_from_labels_sees_no_mask_and_scoring_does() -> None:
    data = Toy(toys())
    assert all(example.mask is None and example.load_mask() is None for example in data.examples("train"))
    assert all("mask" not in batch for batch in data.train_dataloader())
    assert all(example.load_mask() is not None for example in data.examples("val"))
    assert [tuple(batch["mask"].shape) for batch in data.val_dataloader()] == [(2, 16, 16)]
    assert data.examples("test") == []
    assert all("mask" not in batch for batch in Toy(toys(masked=False), "full").val_dataloader())


def test_held_out_batches_are_whole_images_and_draw_nothing() -> None:
    before = torch.get_rng_state()
    data = Toy(toys())
    first, again = (list(data.val_dataloader()) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert [batch["id"] for batch in first] == [["i6", "i7"]]
    assert torch.equal(first[0]["image"], again[0]["image"])
    assert torch.equal(first[0]["image"][0], letterbox(noise(20, 24, 6), 16)[0])


def test_everything_random_about_a_sample_is_its_seed_and_key() -> None:
    samples, other = (LabelledSamples(toys(), 3, 16, seed) for seed in (1, 2))
    first = samples[SampleKey(0, 1)]
    np.random.seed(3)  # noqa: NPY002
    again = pickle.loads(pickle.dumps(samples))[SampleKey(0, 1)]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    for changed in (samples[SampleKey(1, 1)], other[SampleKey(0, 1)]):
        assert not torch.equal(first["image"], changed["image"])


def test_a_stopped_epoch_goes_on_at_the_same_sample() -> None:
    whole = [batch["image"] for batch in Toy(toys(), epoch_size=12).train_dataloader()]
    stopped = Toy(toys(), epoch_size=12)
    batches = iter(stopped.train_dataloader())
    for _ in range(2):
        next(batches)
    resumed = Toy(toys(), epoch_size=12)
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(next(iter(resumed.train_dataloader()))["image"], whole[2])


def test_training_images_without_labels_are_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    images = toys()
    images[2] = LabelledImage("nothing here", (), noise(20, 24))
    with caplog.at_level(logging.WARNING):
        left = Toy(images).examples("train")
    assert len(left) == 5
    assert "1 training images without any label are left out: nothing here" in caplog.text


def test_settings_and_sets_that_will_not_do() -> None:
    with pytest.raises(UserError, match=r"data\.image_size=8: must be at least 16"):
        Toy(toys(), image_size=8).setup()
    with pytest.raises(UserError, match="0 labelled images to train on and 2 held out"):
        Toy(toys()[:2]).setup()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a site on this machine alone that serves the folder ``site``."""
    (tmp_path / "site").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_checked_and_appears_whole_or_not_at_all(tmp_path: Path, site: str) -> None:
    (tmp_path / "kit" / "images").mkdir(parents=True)
    (tmp_path / "kit" / "images" / "a.txt").write_text("a")
    with tarfile.open(tmp_path / "site" / "kit.tar", "w") as archive:
        archive.add(tmp_path / "kit", "kit")
    with pytest.raises(UserError, match=r"kit\.tar could not be downloaded"):
        download_folder(f"{site}/kit.tar", "0" * 32, "kit", tmp_path / "got")
    assert not (tmp_path / "got").exists()
    digest = hashlib.md5((tmp_path / "site" / "kit.tar").read_bytes()).hexdigest()
    download_folder(f"{site}/kit.tar", digest, "kit", tmp_path / "got")
    assert (tmp_path / "got" / "images" / "a.txt").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got", "kit", "site"]
    with pytest.raises(UserError, match=r"absent\.tar could not be downloaded.*try again when online"):
        download_folder(f"{site}/absent.tar", digest, "kit", tmp_path / "other")
