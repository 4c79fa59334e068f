"""The classifier is a linear layer on the mean of a backbone's features, and learns what it is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.features.backbone import load_backbone
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.training import classification_loss, fine_tune, predict_probabilities

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "efficientnet_lite0"


def _images(count: int, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [None, "block3"])
def test_logits_are_a_linear_layer_on_mean_features(layer: str | None) -> None:
    network = MaterialClassifier(NAME, 4, "random", layer).eval()
    asked = layer or "block15_out"
    images = _images(3)
    pooled = load_backbone(NAME, [asked], "random")(images)[asked].flatten(2).mean(2)
    expected = pooled @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_gives_what_single_images_give_in_training_too() -> None:
    network = MaterialClassifier(NAME, 3, "random", "block5").train()
    images = _images(4)
    singles = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), singles, rtol=1e-4, atol=1e-5)


def test_vgg_trains_as_well() -> None:
    network = MaterialClassifier("vgg16", 3, "random", "relu2_1")
    network(_images(1)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_frozen_layers_stay_and_the_others_learn() -> None:
    network = MaterialClassifier(NAME, 2, "random", "block2_out")
    network.freeze_up_to("block1")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fine_tune(network, _color_batches(1), 1, learning_rate=1e-2)
    frozen = {key for key, value in network.named_parameters() if not value.requires_grad}
    assert frozen
    for key, value in network.named_parameters():
        assert torch.equal(value, before[key]) == (key in frozen), key


def _color_batches(count: int, seed: int = 0) -> Iterator[dict[str, Tensor]]:
    """Noise whose first channel is bright or dark."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        places = torch.randint(2, (6,), generator=generator)
        images = _images(6, 32, 1000 * seed + number) * 0.5
        images[:, 0] += 0.4 * places[:, None, None]
        yield {"image": images, "labels": torch.eye(2)[places]}


def test_what_it_is_shown_it_learns() -> None:
    torch.manual_seed(0)
    network = MaterialClassifier(NAME, 2, "random", "block1")
    told: list[tuple[int, int]] = []
    losses = fine_tune(network, _color_batches(40), 40, 3e-3, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 40) for done in range(1, 41)]
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    held_out = list(_color_batches(3, seed=1))
    probabilities = predict_probabilities(network, (batch["image"] for batch in held_out))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(18))
    truth = torch.cat([batch["labels"] for batch in held_out]).argmax(1)
    assert (probabilities.argmax(1) == truth).float().mean() > 0.9


def test_the_loss_is_the_mean_of_the_logarithms_of_right_probabilities() -> None:
    logits, labels = torch.randn(5, 3), torch.eye(3)[[0, 2, 1, 1, 0]]
    expected = -(logits.softmax(1) * labels).sum(1).log().mean()
    torch.testing.assert_close(classification_loss(logits, labels), expected)


def test_too_few_batches_are_an_error_not_a_short_training() -> None:
    with pytest.raises(ValueError, match="3 steps were asked for, and there were 2 batches"):
        fine_tune(MaterialClassifier(NAME, 2, "random", "block0"), _color_batches(2), 3)


def test_a_mistake_is_one_line() -> None:
    with pytest.raises(UserError, match=r"layer=block99: efficientnet_lite0 has no such layer \(did you mean"):
        MaterialClassifier(NAME, 2, "random", "block99")
    with pytest.raises(
        UserError, match="an image of 3×40 px is too small for layer block2 of efficientnet_lite0: 4 px"
    ):
        MaterialClassifier(NAME, 2, "random", "block2")(torch.zeros(1, 3, 40, 3))
