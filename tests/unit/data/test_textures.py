"""Painted textures as labelled data: one material an image, and none is both trained on and held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.data.materials import MATERIALS, material_texture
from tezawari.data.textures import TexturesData


def data(train_textures: int = 2, val_textures: int = 1, seed: int = 0) -> TexturesData:
    return TexturesData(train_textures, val_textures, image_size=24, batch_size=4, seed=seed)


def test_each_material_has_as_many_textures_as_asked_and_one_label_each() -> None:
    found = data()
    assert found.class_names == list(MATERIALS)
    for split, count in (("train", 2), ("val", 1)):
        examples = found.examples(split)  # type: ignore[arg-type]
        assert [example.labels for example in examples] == [(place,) for place in range(10) for _ in range(count)]
        assert len({example.id for example in examples}) == 10 * count
        assert not any(example.has_mask for example in examples)


def test_a_texture_is_the_material_that_its_label_says() -> None:
    for example in data().examples("val"):
        painted = material_texture(MATERIALS[example.labels[0]], 1, 24)
        shown = torch.from_numpy(example.load_image().transpose(2, 0, 1) / np.float32(255))
        assert (shown - painted).abs().max() <= 0.5 / 255 + 1e-6


def test_textures_are_the_same_in_every_run_and_none_is_both_trained_on_and_held_out() -> None:
    more, fewer = data(2, 1, seed=1), data(1, 1)
    kept = {example.id: example.load_image() for split in ("train", "val") for example in more.examples(split)}  # type: ignore[arg-type]
    assert len({pixels.tobytes() for pixels in kept.values()}) == len(kept) == 30
    for split in ("train", "val"):
        for example in fewer.examples(split):  # type: ignore[arg-type]
            np.testing.assert_array_equal(example.load_image(), kept[example.id])


def test_views_hang_on_the_seed() -> None:
    first, again, other = (next(iter(data(seed=seed).train_dataloader()))["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["train_textures", "val_textures"])
def test_less_than_one_texture_will_not_do(name: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{name}=0: must be at least 1"):
        data(**{name: 0}).setup()
