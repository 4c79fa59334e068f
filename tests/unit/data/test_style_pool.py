"""The pool of styles: what is held out is not trained on, and crops are a function of their seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.seeding import sample_rng
from tezawari.data.images import ImagesData
from tezawari.data.style_pool import StylePoolData, random_style, split_styles

SMALL = {"paintings": 1, "scenes": 0, "image_size": 24, "style_size": 32, "batch_size": 2}


def test_held_out_styles_are_not_trained_on_and_the_rest_is() -> None:
    data = StylePoolData(**SMALL, held_out=["wood", "brick"])
    train, held_out = split_styles(data, 0.1)
    assert set(held_out) == {"wood0", "wood1", "brick"}
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(data.style_names)
    assert {"glass0", "water0", "gravel"} <= set(train)
    assert all(min(image.shape[1:]) == 32 for image in data.style_images())


def test_a_pool_with_more_paintings_keeps_those_it_had() -> None:
    few, more = (StylePoolData(**{**SMALL, "paintings": count}, held_out=["wood"]) for count in (1, 2))
    images = [dict(zip(data.style_names, data.style_images())) for data in (few, more)]
    assert all(torch.equal(image, images[1][name]) for name, image in images[0].items())
    assert not torch.equal(images[1]["glass0"], images[1]["glass1"])


def test_of_folders_a_share_is_held_out_by_the_seed(tmp_path: Path) -> None:
    for folder, count in (("photos", 4), ("styles/a", 3), ("styles/b", 3)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            name = f"{Path(folder).name}{number}.png"
            Image.effect_noise((40, 36), 50 + number).convert("RGB").save(tmp_path / folder / name)

    def data(seed: int) -> ImagesData:
        photos, styles = (str(tmp_path / name) for name in ("photos", "styles"))
        return ImagesData(photos, styles, image_size=24, style_size=32, seed=seed)

    train, held_out = split_styles(data(0), 0.34)
    assert (len(train), len(held_out)) == (4, 2)
    assert split_styles(data(0), 0.34)[1] == held_out
    assert len({tuple(split_styles(data(seed), 0.34)[1]) for seed in range(5)}) > 1
    with pytest.raises(UserError, match=r"model.held_out_share=1"):
        split_styles(data(0), 1.0)


@pytest.mark.parametrize("size", [(40, 64), (24, 24), (9, 30), (1, 1)])
def test_a_crop_is_square_whatever_the_style(size: tuple[int, int]) -> None:
    image = torch.randint(256, (3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for place in range(8):
        crop = random_style(image, sample_rng(0, 0, place), 24, 0.0)
        assert crop.shape == (3, 24, 24)
        assert np.isin(crop.mul(255).round().to(torch.uint8).numpy(), image.numpy()).all(), "every pixel is the style's"


def test_crops_are_a_function_of_their_seed_and_recolouring_changes_colours_alone() -> None:
    image = torch.randint(256, (3, 30, 30), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(
        random_style(image, sample_rng(0, 3, 1), 20, 0.5), random_style(image, sample_rng(0, 3, 1), 20, 0.5)
    )
    assert not torch.equal(
        random_style(image, sample_rng(0, 3, 1), 20, 0), random_style(image, sample_rng(0, 3, 2), 20, 0)
    )
    image[1:] = image[:1]
    plain, other = (random_style(image, sample_rng(0, 0, 0), 30, recolor) for recolor in (0.0, 1.0))
    assert not torch.allclose(plain, other)
    for channel in other:
        # A gamma keeps the order of levels.
        order = plain[0].flatten().argsort(stable=True)
        assert (channel.flatten()[order].diff() >= 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"held_out": ["woood"]}, "did you mean wood"),
        ({"held_out": []}, "data.held_out"),
        ({"paintings": 0}, "data.paintings=0"),
    ],
)
def test_a_mistake_names_the_setting(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        StylePoolData(**{**SMALL, **settings}).setup()  # type: ignore[arg-type]
