"""Folders of pictures by class: what is held out, what is skipped, and what a folder must hold."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data.images_by_class import ImagesByClassData

COUNTS = {"glass": 5, "metal": 10, "wood": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders of different numbers of pictures, some of them in subfolders."""
    for place, (name, pictures) in enumerate(COUNTS.items()):
        (tmp_path / name / "more").mkdir(parents=True)
        for number in range(pictures):
            pixels = np.random.default_rng(100 * place + number).integers(0, 256, (40 + number, 60, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / ("more" if number % 2 else "") / f"p{number}.png")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("no picture")
    return tmp_path


def data(root: Path, **settings: object) -> ImagesByClassData:
    return ImagesByClassData(str(root), **({"image_size": 16, "batch_size": 2} | settings))  # type: ignore[arg-type]


def names(found: ImagesByClassData, split: str) -> list[str]:
    return [example.id for example in found.examples(split)]  # type: ignore[arg-type]


def test_some_of_each_class_is_held_out_by_the_seed(root: Path) -> None:
    found = data(root)
    train, val = names(found, "train"), names(found, "val")
    assert found.class_names == ["glass", "metal", "wood"]
    assert [sum(name.startswith(c) for name in val) for c in COUNTS] == [1, 2, 1]
    assert len(set(train) | set(val)) == len(train) + len(val) == sum(COUNTS.values())
    assert "metal/more/p1.png" in train + val
    assert names(data(root), "val") == val
    assert len({tuple(names(data(root, seed=seed), "val")) for seed in range(4)}) > 1
    assert [sum(name.startswith(c) for name in names(data(root, val_fraction=0.9), "val")) for c in COUNTS] == [4, 9, 1]


def test_a_picture_has_its_folders_label_and_no_mask(root: Path) -> None:
    found = data(root, classes=["wood", "glass"])
    assert found.class_names == ["wood", "glass"]
    for batch in found.train_dataloader():
        assert set(batch) == {"image", "labels", "id"}
        expected = [[1.0, 0.0] if name.startswith("wood") else [0.0, 1.0] for name in batch["id"]]
        assert batch["labels"].tolist() == expected


def test_pictures_beyond_the_memory_allowed_give_the_same_samples(root: Path) -> None:
    cached, uncached = data(root), data(root, cache_mb=0)
    assert all(isinstance(example.image, np.ndarray) for example in cached.examples("train"))
    assert all(isinstance(example.image, Path) for example in uncached.examples("train"))
    assert {min(example.load_image().shape[:2]) for example in uncached.examples("train")} == {32}
    for a, b in zip(cached.train_dataloader(), uncached.train_dataloader()):
        assert a["id"] == b["id"]
        assert torch.equal(a["image"], b["image"])


def test_what_is_no_picture_is_skipped_by_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (root / "metal" / "p0.png").read_bytes()
    (root / "metal" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "metal" / "notes.txt").write_text("no picture")
    (root / "metal" / ".hidden").write_text("")
    with caplog.at_level(logging.WARNING):
        found = data(root)
        assert len(names(found, "train")) + len(names(found, "val")) == sum(COUNTS.values())
    assert "skipped 2 files: cut.png" in caplog.text
    assert ".hidden" not in caplog.text


def test_folders_that_will_not_do_say_what_is_needed(root: Path) -> None:
    with pytest.raises(UserError, match=r"data=images_by_class needs a folder: type data\.root=FOLDER"):
        ImagesByClassData().setup()
    with pytest.raises(UserError, match="not a folder"):
        data(root / "readme.txt").setup()
    with pytest.raises(UserError, match="holds no folder; there must be one of pictures for each class"):
        data(root / "glass" / "more").setup()
    with pytest.raises(UserError, match=r"has no folder 'wod' \(did you mean wood"):
        data(root, classes=["wod"]).setup()
    with pytest.raises(UserError, match="each once"):
        data(root, classes=["wood", "wood"]).setup()
    with pytest.raises(UserError, match=r"data\.val_fraction=1\.0: must lie between 0 and 1"):
        data(root, val_fraction=1.0).setup()
    (root / "wood" / "p0.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"wood: 1 pictures found \(1 files were skipped\), at least 2 needed"):
        data(root).setup()
