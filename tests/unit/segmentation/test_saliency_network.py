"""The network of image labels: any backbone, any pooling, what trains and what does not."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.segmentation.network import Pooling, SaliencyNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = ("efficientnet_lite0", "vgg16", "convnext_atto")


def _images(count: int, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_and_scores_of_any_backbone(backbone: str) -> None:
    network = SaliencyNetwork(backbone, 5, weights="random").train()
    images = _images(2)
    maps = network.class_maps(images)
    assert maps.shape == (2, 5, 64 // network.stride, 96 // network.stride)
    torch.testing.assert_close(network(images), maps.amax((2, 3)))
    # In training mode, too, an image is judged by itself.
    torch.testing.assert_close(network(images[1:]), network(images)[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "average", "lse"])
def test_poolings_agree_on_a_constant_and_keep_their_order(pooling: Pooling) -> None:
    network = SaliencyNetwork("vgg16", 2, pooling, "random", "relu1_1")
    constant = torch.full((1, 2, 3, 4), 1.5)
    torch.testing.assert_close(network.pool(constant), torch.full((1, 2), 1.5))
    peak = torch.zeros(1, 2, 10, 10)
    peak[..., 3, 4] = 4
    expected = {"max": 4.0, "average": 0.04, "lse": math.log((99 + math.exp(20)) / 100) / 5}[pooling]
    torch.testing.assert_close(network.pool(peak), torch.full((1, 2), expected))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_weights_learn_and_the_head_is_named(backbone: str) -> None:
    network = SaliencyNetwork(backbone, 3, "average", "random")
    network(_images(1, 64, 64)).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    head = {id(p) for p in network.head_parameters()}
    assert head == {id(p) for name, p in network.named_parameters() if name.startswith("head.")}


@pytest.mark.parametrize(
    ("backbone", "layer", "frozen", "learning"),
    [
        ("efficientnet_lite0", "block2_out", "trunk.blocks.2.", "trunk.blocks.3."),
        ("vgg16", "relu2_2", "trunk.features.7.", "trunk.features.10."),
        ("convnext_atto", "stage1", "trunk.network.stages.1.", "trunk.network.stages.2."),
    ],
)
def test_frozen_layers_keep_their_weights(backbone: str, layer: str, frozen: str, learning: str) -> None:
    deepest = "relu3_2" if backbone == "vgg16" else None
    network = SaliencyNetwork(backbone, 3, "average", "random", deepest)
    reference = SaliencyNetwork(backbone, 3, "average", "random", deepest)
    reference.load_state_dict(network.state_dict())
    network.freeze_up_to(layer)
    images = _images(2, 64, 64)
    for each in (network, reference):
        each(images).square().sum().backward()
    names = dict(reference.named_parameters())
    fresh = [name for name, p in network.named_parameters() if p.grad is None]
    assert any(name.startswith(frozen) for name in fresh)
    assert not any(name.startswith((learning, "head.")) for name in fresh)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            wanted = names[name].grad
            assert wanted is not None
            assert (parameter.grad - wanted).norm() <= 1e-3 * wanted.norm(), name
    network.freeze_up_to(None)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_state_dict_is_enough(backbone: str, caplog: pytest.LogCaptureFixture) -> None:
    trained = SaliencyNetwork(backbone, 3, weights="random")
    torch.nn.init.normal_(next(trained.trunk.parameters()))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = SaliencyNetwork(backbone, 3, weights="replaced")
    assert caplog.text == ""
    images = _images(1)
    assert not torch.equal(trained(images), again(images))
    again.load_state_dict(trained.state_dict())
    assert torch.equal(trained(images), again(images))


def test_the_trained_network_is_what_is_used() -> None:
    """VGG's fast convolutions must follow the optimiser's steps, where some train and where none does."""
    network = SaliencyNetwork("vgg16", 2, "average", "random", "relu3_1")
    network.freeze_up_to("relu1_2")
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], 0.01)
    images = _images(1, 32, 32)
    for _ in range(2):
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()
    seen = network(images).detach()
    with torch.no_grad():
        torch.testing.assert_close(network(images), seen, rtol=1e-3, atol=1e-4)


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="average"):
        SaliencyNetwork("vgg16", 2, "averag", "random")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="relu5_3"):
        SaliencyNetwork("vgg16", 2, weights="random", layer="relu5_4")
    network = SaliencyNetwork("efficientnet_lite0", 2, weights="random")
    with pytest.raises(UserError, match="block4_out"):
        network.freeze_up_to("blok4_out")
    with pytest.raises(UserError, match="40×31 px"):
        network(_images(1, 31, 40))
