"""The perceptual loss against its definition, and against its extremes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tezawari.features.backbone import Backbone, load_backbone
from tezawari.features.gram import gram_matrix
from tezawari.style.loss import PerceptualLoss, gram_distance, grid_pattern, style_targets, total_variation

LAYERS = ("relu1_2", "relu2_1")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("vgg16", LAYERS, "random")


def _pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth coloured pictures, unlike one another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, (32, 40), mode="bilinear")


def test_nothing_is_lost_where_all_is_as_asked(backbone: Backbone) -> None:
    """A picture that is its own content and its own style."""
    pictures = _pictures(2)
    loss = PerceptualLoss(backbone, style_targets(backbone, pictures, LAYERS), LAYERS[1:])
    losses = loss(pictures, pictures, torch.tensor([0, 1]))
    assert losses.content.max() == 0
    assert losses.style.max() < 1e-9
    others = loss(pictures, pictures, torch.tensor([1, 0]))
    assert others.style.min() > 1e-3, "each style asks for something else"


def test_black_features_lose_one() -> None:
    """Each term is relative to its target, so that one means as far as nothing at all."""
    grams = gram_matrix(torch.rand(3, 4, 5, 5), "hw")
    torch.testing.assert_close(gram_distance(torch.zeros_like(grams), grams), torch.ones(3))


def test_the_style_loss_is_the_mean_of_its_layers(backbone: Backbone) -> None:
    styles, pictures, style = _pictures(3, seed=1), _pictures(2), torch.tensor([2, 0])
    losses = PerceptualLoss(backbone, style_targets(backbone, styles, LAYERS), LAYERS[:1])(pictures, pictures, style)
    found, asked = backbone(pictures), backbone(styles[style])
    wanted = torch.zeros(2)
    for layer in LAYERS:
        f, a = (features[layer].flatten(2).double() for features in (found, asked))
        f, a = f @ f.mT / f.shape[-1], a @ a.mT / a.shape[-1]
        wanted += ((f - a).square().sum((1, 2)) / a.square().sum((1, 2))).float() / len(LAYERS)
    torch.testing.assert_close(losses.style, wanted, rtol=1e-4, atol=0)


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(2, 3, 4, 5) / 10
    torch.testing.assert_close(total_variation(ramp), torch.full((2,), 0.01))


def test_descending_the_gradient_descends_the_loss(backbone: Backbone) -> None:
    styles, photo = _pictures(2, seed=1), _pictures(1)
    loss = PerceptualLoss(backbone, style_targets(backbone, styles, LAYERS), LAYERS[1:])
    picture = photo.clone().requires_grad_()
    before = loss(picture, photo, torch.tensor([1])).style.sum()
    (gradient,) = torch.autograd.grad(before, picture)
    step = 1e-2 * gradient / gradient.abs().max()
    assert loss(picture.detach() - step, photo, torch.tensor([1])).style.sum() < 0.99 * before.detach()


def test_a_pattern_in_every_cell_is_seen_and_a_picture_of_flat_cells_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    tile = torch.rand(1, 3, 4, 4, generator=generator)
    flat = torch.rand(1, 3, 6, 5, generator=generator).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert grid_pattern(flat, 4).item() < 1e-12
    variance = tile.flatten(2).var(-1, correction=0).mean()
    torch.testing.assert_close(grid_pattern(tile.repeat(1, 1, 6, 5), 4), variance[None])
    torch.testing.assert_close(grid_pattern(flat + tile.repeat(1, 1, 6, 5), 4), variance[None], rtol=1e-4, atol=0)
    cut = torch.nn.functional.pad(flat, (0, 3, 0, 2), value=9.0)
    torch.testing.assert_close(grid_pattern(cut, 4), grid_pattern(flat, 4))


def test_noise_is_no_grid_pattern() -> None:
    """Over N cells the mean cell of independent pixels keeps a variance of one Nth: nothing repeats in them."""
    noise = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert grid_pattern(noise, 8).item() < 2 * noise.var().item() / 32**2
