"""Painted scenes as labelled data: their labels are what their masks show, and no scene is seen twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.data.labelled import Supervision
from tezawari.data.materials import MATERIALS, material_scene, scene_mask
from tezawari.data.scenes import ScenesData


def data(train_scenes: int = 8, val_scenes: int = 4, supervision: Supervision = "labels", seed: int = 0) -> ScenesData:
    return ScenesData(train_scenes, val_scenes, supervision, image_size=32, batch_size=4, seed=seed)


def test_labels_are_the_materials_that_cover_one_percent() -> None:
    found = data(supervision="full")
    assert found.class_names == list(MATERIALS)
    assert [len(found.examples(split)) for split in ("train", "val")] == [8, 4]  # type: ignore[arg-type]
    for example in [*found.examples("train"), *found.examples("val")]:
        mask = example.load_mask()
        assert mask is not None
        assert example.load_image().shape == (32, 32, 3)
        # 1 % of 1024 pixels lies between 10 and 11.
        shown = {place for place in range(10) if np.count_nonzero(mask == place + 1) >= 11}
        assert set(example.labels) == shown
        assert list(example.labels) == sorted(shown)
        assert 1 <= len(shown) <= 4


def test_a_mask_laid_out_alone_is_that_of_the_painted_scene() -> None:
    for number in range(4):
        assert torch.equal(scene_mask(1, number, 32), material_scene(1, number, 32)[1])


def test_training_masks_are_withheld_unless_asked_for() -> None:
    assert all(example.load_mask() is None for example in data().examples("train"))
    assert all("mask" not in batch for batch in data().train_dataloader())
    assert all("mask" in batch for batch in data(supervision="full").train_dataloader())
    assert all("mask" in batch for batch in data().val_dataloader())


def test_scenes_are_the_same_in_every_run_and_none_is_both_trained_on_and_held_out() -> None:
    first, again = data(), data(train_scenes=4, val_scenes=2, seed=5)
    for split in ("train", "val"):
        for a, b in zip(again.examples(split), first.examples(split)):  # type: ignore[arg-type]
            assert a.id == b.id
            assert np.array_equal(a.load_image(), b.load_image())
    pictures = [example.load_image().tobytes() for split in ("train", "val") for example in first.examples(split)]  # type: ignore[arg-type]
    assert len(set(pictures)) == 12
    seeds = [next(iter(data(seed=seed).train_dataloader()))["image"] for seed in (0, 1)]
    assert not torch.equal(seeds[0], seeds[1])


@pytest.mark.parametrize("name", ["train_scenes", "val_scenes"])
def test_less_than_one_scene_will_not_do(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{name}=0: must be at least 1"):
        data(**{name: 0}).setup()  # type: ignore[arg-type]
