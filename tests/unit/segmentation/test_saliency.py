"""Saliency: the properties of METHODS §3, the literal loop, and other people's code as oracles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.core.errors import UserError
from tezawari.segmentation.guided import guided
from tezawari.segmentation.naive import naive_dcsm
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.saliency import Method, dcsm_layers, distinct_maps, saliency_maps

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 6
METHODS: tuple[Method, ...] = ("gradient", "cam", "gradcam", "dcsm")


@pytest.fixture(scope="module")
def network() -> SaliencyNetwork:
    """ImageNet's features under random classes, two of them likely and the others not."""
    torch.manual_seed(1)
    network = SaliencyNetwork("efficientnet_lite0", CLASSES, "average").eval()
    with torch.no_grad():
        classifier = network.head[0]
        assert isinstance(classifier, nn.Conv2d)
        classifier.weight.normal_(std=0.02)
        assert classifier.bias is not None
        logits = network(_photos())
        classifier.bias.copy_(torch.tensor([2.0, -2, 2, -1, -3, -4]) - logits.mean(0))
    return network


def _photos(height: int = 80, width: int = 112) -> Tensor:
    photos = [getattr(skimage.data, name)() for name in ("chelsea", "coffee")]
    batch = [torch.from_numpy(photo).permute(2, 0, 1)[None] / 255 for photo in photos]
    return torch.cat([F.interpolate(photo, (height, width), mode="area") for photo in batch])


def _labels(*of_images: tuple[int, ...]) -> Tensor:
    labels = torch.zeros(len(of_images), CLASSES, dtype=torch.bool)
    for row, places in zip(labels, of_images):
        row[list(places)] = True
    return labels


# --- guided back-propagation ------------------------------------------------------------------------------------------


def _small_network(rectifier: Callable[[], nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), rectifier(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), rectifier(), nn.Conv2d(8, 4, 1)
    )


def _guided_by_hooks(network: nn.Sequential, image: Tensor, place: int) -> Tensor:
    """Springenberg's rule by hooks on the modules."""

    def keep_positive(_m: nn.Module, grad_input: tuple[Tensor, ...], _o: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (grad_input[0].clamp_min(0),)

    hooks = [m.register_full_backward_hook(keep_positive) for m in network if isinstance(m, nn.ReLU | nn.ReLU6)]
    image = image.clone().requires_grad_()
    network(image)[:, place].sum().backward()
    for hook in hooks:
        hook.remove()
    assert image.grad is not None
    return image.grad


@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("inplace", [False, True])
def test_guided_gradients_are_those_of_hooks(rectifier: Callable[..., nn.Module], inplace: bool) -> None:
    network, image = _small_network(lambda: rectifier(inplace)), 9 * torch.randn(2, 3, 12, 12)
    hooked = _small_network(rectifier)  # hooks take no module that writes over its input
    expected = torch.stack([_guided_by_hooks(hooked, image, place) for place in range(4)])
    image.requires_grad_()
    with guided():
        out = network(image)
    # The way back runs outside of the context: class by class, and all classes at once.
    singly = torch.stack([torch.autograd.grad(out[:, c].sum(), image, retain_graph=True)[0] for c in range(4)])
    seeds = torch.eye(4)[:, None, :, None, None].expand(4, *out.shape)
    (at_once,) = torch.autograd.grad(out, image, seeds, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close(singly, expected)
    torch.testing.assert_close(at_once, expected)
    plain = torch.autograd.grad(network(image)[:, 0].sum(), image)[0]
    assert not torch.allclose(plain, expected[0]), "outside of the context nothing is guided"


def test_guided_gradients_are_those_of_grad_cam() -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam, the oracle, is not installed")
    network, image = _small_network(nn.ReLU), torch.randn(1, 3, 12, 12)
    pooled = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (ours,) = torch.autograd.grad(_scored_guided(pooled, wanted := image.clone().requires_grad_())[0, 2], wanted)
    theirs = grad_cam.GuidedBackpropReLUModel(pooled, torch.device("cpu"))(image, target_category=2)
    torch.testing.assert_close(ours[0].permute(1, 2, 0), torch.from_numpy(theirs))


def _scored_guided(network: nn.Module, image: Tensor) -> Tensor:
    with guided():
        return network(image)


def test_smooth_activations_pass_positive_gradients_by_their_slope() -> None:
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    gradient = torch.tensor([1.0, -1.0, 2.0])
    with guided():
        out = F.gelu(x)
    (found,) = torch.autograd.grad(out, x, gradient)
    (slope,) = torch.autograd.grad(F.gelu(x).sum(), x)
    torch.testing.assert_close(found, gradient.clamp_min(0) * slope)


# --- distinct class-specific saliency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, (1,), (0, 3), (0, 1, 2, 3, 4)])
def test_dcsm_is_the_literal_loop(network: SaliencyNetwork, labels: tuple[int, ...] | None) -> None:
    photo = _photos(48, 64)[:1]
    given = None if labels is None else _labels(labels)
    scales = (0.8, 1.2) if labels is None else (1.0,)
    fast = saliency_maps(network, photo, given, scales=scales)
    naive = naive_dcsm(network, photo[0], None if given is None else given[0], scales)
    assert (fast.maps[0] - naive).abs().max() < 1e-5
    assert fast.maps.amax() > 0.99
    if labels is None:
        found = tuple(c for c in range(CLASSES) if fast.maps[0, c].any())
        assert found == tuple((fast.probabilities[0] > 0.5).nonzero()[:, 0].tolist())
        assert 0 in found


def test_dcsm_of_vgg_is_the_literal_loop_at_the_inputs_of_its_convolutions() -> None:
    """The naive loop looks at the pooled maps themselves; the fast one at what is pooled."""
    torch.manual_seed(0)
    network = SaliencyNetwork("vgg16", 4, weights="random").eval()
    network.trunk.fast_convolutions = False  # type: ignore[assignment]
    photo = _photos(24, 31)[1:]
    assert dcsm_layers(network)[::3] == ("relu2_2", "relu3_3", "relu4_3")
    assert len(dcsm_layers(network)) == 9
    labels = _labels((2,))[:, :4]
    fast = saliency_maps(network, photo, labels, scales=(1.2,))
    naive = naive_dcsm(network, photo[0], labels[0], scales=(1.2,))
    assert fast.maps.amax() > 0.99
    assert (fast.maps[0] - naive).abs().max() < 1e-5


def test_fast_convolutions_give_the_gradients_of_direct_ones(shared_dir: Path) -> None:
    weights = str(shared_dir / "weights" / "vgg16_features_fp16.safetensors")
    torch.manual_seed(0)
    network = SaliencyNetwork("vgg16", 4, weights=weights).eval()
    photo, labels = _photos(48, 64)[:1], _labels((1,))[:, :4]
    fast = saliency_maps(network, photo, labels, scales=(1.0,)).maps
    network.trunk.fast_convolutions = False  # type: ignore[assignment]
    direct = saliency_maps(network, photo, labels, scales=(1.0,)).maps
    # Rounding turns a few rectifiers and maxima over, so a few pixels differ by more.
    assert (fast - direct).abs().mean() < 1e-4


def test_two_classes_do_not_share_a_place() -> None:
    """The supports of D(c, c') and D(c', c) are disjoint, whatever the layer."""
    generator = torch.Generator().manual_seed(0)
    for side in (4, 7, 16):
        gradients = torch.rand(2, side, side, generator=generator)
        one, other = distinct_maps([gradients], [0, 1], (16, 16))
        assert one.any()
        assert other.any()
        assert not (one.bool() & other.bool()).any()


def test_a_class_nowhere_ahead_of_another_gets_nothing() -> None:
    """Dividing by a largest difference below zero would turn the signs over."""
    low, high = torch.zeros(1, 3, 3), torch.ones(1, 3, 3)
    one, other = distinct_maps([torch.cat([low, high])], [0, 1], (6, 6))
    assert not one.any()
    torch.testing.assert_close(other, torch.full((6, 6), 3.0).tanh())


def test_one_candidate_still_subtracts_three_others(network: SaliencyNetwork) -> None:
    """And those are the most probable: poisoning the weights of the two that are left out changes nothing."""
    photo = _photos()[:1]
    before = saliency_maps(network, photo, _labels((1,)))
    classifier = network.head[0]
    assert isinstance(classifier, nn.Conv2d)
    kept = classifier.weight.detach().clone()
    order = [c for c in before.probabilities[0].argsort(descending=True).tolist() if c != 1]
    try:
        for place, matters in zip(order, (True, True, True, False, False)):
            with torch.no_grad():
                classifier.weight[place] *= 1.01
            same = torch.equal(saliency_maps(network, photo, _labels((1,))).maps, before.maps)
            assert same != matters
            with torch.no_grad():
                classifier.weight.copy_(kept)
    finally:
        with torch.no_grad():
            classifier.weight.copy_(kept)


# --- all methods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_single_images_give(network: SaliencyNetwork, method: Method) -> None:
    photos = _photos()
    for labels in (None, _labels((0, 3), (5,))):
        together = saliency_maps(network, photos, labels, method)
        for i in range(len(photos)):
            alone = saliency_maps(network, photos[i : i + 1], None if labels is None else labels[i : i + 1], method)
            torch.testing.assert_close(together.maps[i], alone.maps[0])
            torch.testing.assert_close(together.probabilities[i], alone.probabilities[0])


@pytest.mark.parametrize("method", METHODS)
def test_threads_change_nothing(network: SaliencyNetwork, method: Method) -> None:
    photos, labels = _photos(), _labels((0, 3), (5,))
    one = saliency_maps(network, photos, labels, method)
    torch.set_num_threads(2)
    for batch, given in ((photos, labels), (photos[:1], labels[:1])):
        two = saliency_maps(network, batch, given, method)
        torch.testing.assert_close(two.maps, one.maps[: len(batch)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_the_labels_and_of_no_other_class(network: SaliencyNetwork, method: Method) -> None:
    photos, labels = _photos(50, 33), _labels((0, 3), ())
    found = saliency_maps(network, photos, labels, method)
    assert found.maps.shape == (2, CLASSES, 50, 33)
    assert found.maps.dtype == torch.float32
    assert found.maps.min() >= 0
    assert found.maps.max() <= 1
    assert not found.maps[~labels].any()
    assert found.maps[0, 0].any()
    torch.testing.assert_close(found.foreground, found.maps.amax(1))


def test_the_most_probable_class_where_none_is_likely(network: SaliencyNetwork) -> None:
    classifier = network.head[0]
    assert isinstance(classifier, nn.Conv2d)
    assert classifier.bias is not None
    try:
        with torch.no_grad():
            classifier.bias -= 20
        found = saliency_maps(network, _photos(), method="gradcam", scales=(1.0, 1.5))
    finally:
        with torch.no_grad():
            classifier.bias += 20
    assert found.probabilities.max() < 0.5
    assert torch.equal(found.maps.any(-1).any(-1).nonzero()[:, 1], found.probabilities.argmax(1))


def test_the_gradient_is_the_slope_of_the_score(network: SaliencyNetwork) -> None:
    """Changing the pixels, at the most salient place and at the least, changes the score as the map says."""
    photo = _photos(64, 64)[:1]
    saliency = saliency_maps(network, photo, _labels((2,)), "gradient").maps[0, 2]
    image = photo.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[0, 2], image)
    expected = gradient[0].abs().amax(0)
    torch.testing.assert_close(saliency, expected / expected.max(), rtol=1e-3, atol=1e-4)


def test_cam_is_the_positive_part_of_the_class_map(network: SaliencyNetwork) -> None:
    photo = _photos(64, 96)[:1]
    with torch.no_grad():
        class_map = network.class_maps(photo)[:, [0]].relu()
    expected = F.interpolate(class_map, (64, 96), mode="bilinear")[0, 0]
    torch.testing.assert_close(
        saliency_maps(network, photo, _labels((0,)), "cam").maps[0, 0], expected / expected.max()
    )


@pytest.mark.parametrize("layer", ["block15_out", "block8_out"])
def test_gradcam_is_that_of_grad_cam(network: SaliencyNetwork, layer: str) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="grad-cam, the oracle, is not installed")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets", reason="grad-cam is not installed")

    class Tapped(nn.Module):
        """The network with a module at ``layer``, which is what their code asks for."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.tap = nn.Identity()

        def forward(self, image: Tensor) -> Tensor:
            x = F.relu6(network.trunk.stem((image - 0.498) / 0.502))  # type: ignore[operator]
            for i, block in enumerate(network.trunk.blocks):  # type: ignore[arg-type]
                x = block.project(block.expand(x), x)
                x = self.tap(x) if layer == f"block{i}_out" else x
            return network.pool(network.head(x))

    photo = _photos(64, 96)[:1]
    tapped = Tapped()
    with grad_cam.GradCAM(tapped, [tapped.tap]) as cam:
        theirs = torch.from_numpy(cam(photo.clone(), [targets.ClassifierOutputTarget(2)]))[0]
    ours = saliency_maps(network, photo, _labels((2,)), "gradcam", layers=[layer]).maps[0, 2]
    # They stretch the map to [0, 1] before it is resized, we divide by the maximum after: equal but for scale and zero.
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.9999


def test_any_backbone_will_do() -> None:
    torch.manual_seed(0)
    for backbone in ("convnext_atto", "resnet18"):
        network = SaliencyNetwork(backbone, CLASSES, weights="random")
        for method in METHODS:
            maps = saliency_maps(network, _photos(64, 64)[:1], _labels((0,)), method, scales=(1.0,)).maps
            assert maps.isfinite().all()
            # The class maps of random weights may be negative everywhere.
            assert maps[0, 0].any() or method in {"cam", "gradcam"}


def test_the_network_is_left_as_it_was(network: SaliencyNetwork) -> None:
    network.freeze_up_to("block2_out")
    before = [(name, p.requires_grad, p.grad) for name, p in network.named_parameters()]
    assert {needed for _, needed, _ in before} == {True, False}
    with torch.inference_mode():
        inside = saliency_maps(network, _photos() * 1, _labels((0,), (1,)))
    outside = saliency_maps(network, _photos(), _labels((0,), (1,)))
    assert torch.equal(inside.maps, outside.maps)
    assert [(name, p.requires_grad, p.grad) for name, p in network.named_parameters()] == before
    network.freeze_up_to(None)


def test_mistakes_are_named(network: SaliencyNetwork) -> None:
    photos = _photos()
    with pytest.raises(UserError, match="gradcam"):
        saliency_maps(network, photos, None, "gradcan")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="block9_out"):
        saliency_maps(network, photos, layers=["blok9_out"])
    with pytest.raises(UserError, match="one layer"):
        saliency_maps(network, photos, method="gradcam", layers=["block8_out", "block9_out"])
    with pytest.raises(UserError, match=r"\(2, 6\)"):
        saliency_maps(network, photos, torch.ones(1, CLASSES))
    with pytest.raises(UserError, match="dcsm"):
        saliency_maps(SaliencyNetwork("efficientnet_lite0", 1), photos)
    token_network = SaliencyNetwork("vit_tiny_patch16_224", 2, weights="random")
    with pytest.raises(UserError, match="method=cam"):
        saliency_maps(token_network, photos[:1], method="gradcam", layers=["stage2"])
    assert saliency_maps(token_network, photos[:1], method="cam").maps.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (3, 70)])
def test_a_tiny_image_has_defined_maps(network: SaliencyNetwork, size: tuple[int, int]) -> None:
    photo = torch.rand(1, 3, *size)
    for method in ("cam", "gradcam", "dcsm"):
        maps = saliency_maps(network, photo, _labels((0,)), method).maps
        assert maps.shape == (1, CLASSES, *size)
        assert maps.isfinite().all()
