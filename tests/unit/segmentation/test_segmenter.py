"""The network that masks train: its shapes, what it is allowed to choose, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tezawari.core.errors import UserError
from tezawari.features.backbone import available_layers
from tezawari.features.trunk import Trunk
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.segmenter import Segmenter, predict_probabilities, segmenter_layers

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = ["efficientnet_lite0", "vgg16", "resnet18"]
CLASSES = 3


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter("efficientnet_lite0", CLASSES, weights="random").eval().requires_grad_(False)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_every_backbone_gives_a_logit_for_background_and_class(backbone: str) -> None:
    network = Segmenter(backbone, CLASSES, weights="random").eval()
    strides = [network.trunk.strides[layer] for layer in network.layers]
    assert strides == sorted(strides)
    assert len(set(strides)) == 3, "from fine to coarse"
    logits = network(torch.rand(2, 3, 64, 96))
    assert logits.shape == (2, 1 + CLASSES, 64 // strides[0], 96 // strides[0])
    assert bool(logits.isfinite().all())


@pytest.mark.parametrize(
    ("backbone", "layer"), [("efficientnet_lite0", None), ("vgg16", "relu4_3"), ("resnet18", None)]
)
@torch.no_grad()
def test_it_begins_where_a_saliency_network_ended_as_far_as_both_are_deep(backbone: str, layer: str | None) -> None:
    saliency = SaliencyNetwork(backbone, CLASSES, weights="random", layer=layer).eval()
    for parameter in saliency.trunk.parameters():
        parameter.add_(0.01)
    network = Segmenter(backbone, CLASSES, weights="random").eval()
    image = torch.rand(1, 3, 64, 64)
    shared = [name for name in network.layers if name in saliency.layers]

    def features(trunk: Trunk) -> list[torch.Tensor]:
        return [found for _, found in trunk.walk(image, frozenset(shared))]

    before = features(network.trunk)
    network.start_from(saliency)
    assert not torch.equal(before[-1], features(network.trunk)[-1])
    for ours, theirs in zip(features(network.trunk), features(saliency.trunk), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_it_begins_with_the_class_maps_of_a_saliency_network(backbone: str) -> None:
    saliency = SaliencyNetwork(backbone, CLASSES, weights="random").eval()
    network = Segmenter(backbone, CLASSES, weights="random").eval()
    image = torch.rand(1, 3, 64, 64)
    network.start_from(saliency)
    started = network(image)
    network.class_maps[-1].weight.zero_()
    network.class_maps[-1].bias.zero_()
    without = network(image)
    torch.testing.assert_close(started[:, 0], without[:, 0])
    maps = F.interpolate(saliency.class_maps(image), started.shape[2:], mode="bilinear")
    torch.testing.assert_close(started[:, 1:] - without[:, 1:], maps, atol=1e-4, rtol=1e-4)
    fresh = Segmenter(backbone, CLASSES, weights="random").class_maps[-1]
    assert not fresh.weight.any()
    assert not fresh.bias.any()


def test_a_timm_network_is_read_at_its_last_three_stages() -> None:
    assert segmenter_layers("resnet18") == available_layers("resnet18")[-3:]
    with pytest.raises(UserError):
        segmenter_layers("efficientnet_lite9")


def test_the_parameters_are_the_backbones_or_the_heads(segmenter: Segmenter) -> None:
    head = {id(parameter) for parameter in segmenter.head_parameters()}
    pretrained = {id(p) for part in (segmenter.trunk, segmenter.class_maps) for p in part.parameters()}
    assert head
    assert pretrained
    assert not head & pretrained
    assert head | pretrained == {id(parameter) for parameter in segmenter.parameters()}


def test_a_batch_gives_what_single_images_give(segmenter: Segmenter) -> None:
    torch.manual_seed(1)
    images = torch.rand(3, 3, 48, 64)
    single = torch.cat([predict_probabilities(segmenter, image[None]) for image in images])
    assert torch.allclose(predict_probabilities(segmenter, images), single, atol=1e-5)


def test_probabilities_are_of_the_images_size_and_sum_to_one(segmenter: Segmenter) -> None:
    for size in ((32, 32), (50, 75), (33, 130)):
        found = predict_probabilities(segmenter, torch.rand(1, 3, *size))
        assert found.shape == (1, 1 + CLASSES, *size)
        assert found.min() >= 0
        assert torch.allclose(found.sum(1), torch.ones(1, *size), atol=1e-5)


def test_the_mirrored_image_has_the_mirrored_prediction_only_with_the_flip(segmenter: Segmenter) -> None:
    torch.manual_seed(2)
    image = torch.rand(1, 3, 48, 64)
    for flip in (True, False):
        mirrored = predict_probabilities(segmenter, image.flip(-1), flip=flip).flip(-1)
        error = (mirrored - predict_probabilities(segmenter, image, flip=flip)).abs().max()
        assert (error < 1e-5) == flip


def test_image_labels_limit_the_classes_and_share_what_the_others_had(segmenter: Segmenter) -> None:
    image = torch.rand(2, 3, 64, 64)
    labels = torch.tensor([[True, False, True], [False, False, False]])
    limited = predict_probabilities(segmenter, image, labels, flip=False)
    assert limited[0, 2].abs().max() == 0
    assert torch.equal(limited[1, 0], torch.ones(64, 64))
    # Where logits lie, the rule of conditional probability holds; a coarse grid is what they lie on.
    logits = segmenter(image)[:1, [0, 1, 3]]
    shares = segmenter(image)[:1].softmax(1)[:, [0, 1, 3]]
    assert torch.allclose(logits.softmax(1), shares / shares.sum(1, keepdim=True), atol=1e-5)
    expected = F.interpolate(logits.softmax(1), (64, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(limited[:1, [0, 1, 3]], expected, atol=1e-5)
    everything = torch.ones(2, CLASSES, dtype=torch.bool)
    assert torch.equal(predict_probabilities(segmenter, image, everything), predict_probabilities(segmenter, image))


def test_it_learns_one_picture() -> None:
    torch.manual_seed(0)
    network = Segmenter("efficientnet_lite0", 2, weights="random")
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :, :32], image[:, 2, :, 32:] = 1, 1
    mask = torch.ones(1, 64, 64, dtype=torch.int64)
    mask[:, :, 32:] = 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        logits = F.interpolate(network(image), (64, 64), mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(parameter.grad is not None for parameter in network.parameters())
    found = predict_probabilities(network.eval(), image, flip=False).argmax(1)
    assert (found == mask).float().mean() > 0.95
    assert losses[-1] < 0.2 * losses[0]
