"""The painted materials differ from each other, and a scene's mask says what its pixels show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.data.materials import MATERIALS, material_scene, material_texture

SIZE = 64


def describe(image: np.ndarray) -> np.ndarray:
    """Mean and deviation of each colour, and the energy of its gradients: nothing of a pixel's place."""
    gray = image.mean(axis=0)
    slopes = [np.abs(np.diff(gray, n=step, axis=axis)).mean() for step in (1, 2) for axis in (0, 1)]
    return np.concatenate([image.mean((1, 2)), image.std((1, 2)), slopes])


@pytest.mark.parametrize("name", MATERIALS)
def test_a_texture_is_a_lively_picture_that_its_seed_alone_decides(name: str) -> None:
    torch.manual_seed(0)
    first = material_texture(name, 3, SIZE)
    torch.manual_seed(1)
    again = material_texture(name, 3, SIZE)
    assert first.shape == (3, SIZE, SIZE)
    assert first.dtype == torch.float32
    assert 0 <= first.min() < first.max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, material_texture(name, 4, SIZE))
    assert first.mean(0).std() > 0.03


def test_a_texture_looks_most_like_another_of_its_own_material_more_often_than_not() -> None:
    known = {name: [describe(material_texture(name, seed, SIZE).numpy()) for seed in range(2)] for name in MATERIALS}
    scale = np.std([d for descriptions in known.values() for d in descriptions], axis=0)
    hits = [
        min(
            (np.linalg.norm((known[name][seed] - other) / scale), other_name)
            for other_name in MATERIALS
            for place, other in enumerate(known[other_name])
            if (other_name, place) != (name, seed)
        )[1]
        == name
        for name in MATERIALS
        for seed in range(2)
    ]
    assert np.mean(hits) > 0.5  # chance: 1 of 19


def test_an_unknown_material_names_the_near_one() -> None:
    with pytest.raises(UserError, match="did you mean wood"):
        material_texture("woood", 0, 16)


@pytest.mark.parametrize("index", range(3))
def test_a_scene_holds_the_materials_that_its_mask_names(index: int) -> None:
    image, mask = material_scene(1, index, 80)
    assert image.shape == (3, 80, 80)
    assert mask.shape == (80, 80)
    assert mask.dtype == torch.int64
    assert 0 <= image.min() < image.max() <= 1
    labels = set(mask.unique().tolist())
    assert labels <= set(range(len(MATERIALS) + 1))
    assert 1 <= len(labels - {0}) <= 4
    again, same_mask = material_scene(1, index, 80)
    assert torch.equal(image, again)
    assert torch.equal(mask, same_mask)


def test_scenes_show_every_material_and_a_plain_backdrop() -> None:
    scenes = [material_scene(0, index, 48) for index in range(16)]
    seen = torch.bincount(torch.cat([mask.flatten() for _, mask in scenes]), minlength=len(MATERIALS) + 1)
    assert (seen > 0).all()

    def roughness(inside: torch.Tensor) -> float:
        return float(
            np.mean(
                [
                    (image[:, :, 1:] - image[:, :, :-1]).abs().mean(0)[keep].mean()
                    for image, mask in scenes
                    if (keep := inside(mask[:, 1:]) & inside(mask[:, :-1])).any()  # type: ignore[operator]
                ]
            )
        )

    assert roughness(lambda mask: mask == 0) < roughness(lambda mask: mask > 0) / 2  # type: ignore[arg-type]
