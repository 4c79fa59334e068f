"""Backbones: the right weights in the right places, nothing deeper than asked, and clear refusals."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest
import skimage.data
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.features import efficientnet
from tezawari.features.backbone import (
    Backbone,
    available_layers,
    default_content_layers,
    default_style_layers,
    load_backbone,
)

VGGS = ("vgg16", "vgg19")
NAMES = ("efficientnet_lite0", *VGGS, "convnext_atto", "vit_tiny_patch16_224")


def _photo(name: str, side: int = 224) -> Tensor:
    pixels = torch.from_numpy(getattr(skimage.data, name)())
    image = pixels.permute(2, 0, 1)[None] / 255
    return torch.nn.functional.interpolate(image, (side, side), mode="bilinear", antialias=True)


def _torchvision_features(name: str) -> torch.nn.Sequential:
    """The convolutional part of torchvision's network (building its classifier would take seconds)."""
    network = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[name]])
    for convolution in network.modules():
        if isinstance(convolution, torch.nn.Conv2d):
            torch.nn.init.normal_(convolution.weight, std=(2 / 9 / convolution.in_channels) ** 0.5)
            torch.nn.init.normal_(convolution.bias, std=0.1)
    return network


@pytest.fixture(scope="module")
def vgg16_state() -> dict[str, Tensor]:
    """A full torchvision state dict with known random values."""
    torch.manual_seed(3)
    return {f"features.{name}": value for name, value in _torchvision_features("vgg16").state_dict().items()}


@pytest.mark.parametrize(("photo", "classes"), [("chelsea", range(281, 288)), ("coffee", (504, 967, 968))])
def test_packaged_efficientnet_recognises_photos(photo: str, classes: range | tuple[int, ...]) -> None:
    """ImageNet 281–287 are cats, 504 is a coffee mug, 967 espresso, 968 a cup: weights in wrong places say nothing."""
    with torch.no_grad():
        top = efficientnet.classifier()((_photo(photo) - 0.498) / 0.502)[0].topk(5).indices.tolist()
    assert set(top) & set(classes)
    assert top[0] in classes


def test_efficientnet_features_are_those_of_the_classifier() -> None:
    """Batch norms are folded by us: hooks on the unfolded network are the oracle."""
    image = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    network = efficientnet.classifier()
    seen: dict[str, Tensor] = {}
    blocks = [block for stage in network.blocks for block in stage]
    network.bn1.register_forward_hook(lambda _m, _i, out: seen.update(stem=out))
    for i, block in enumerate(blocks):
        block.bn1.register_forward_hook(lambda _m, _i, out, name=f"block{i}": seen.update({name: out}))
        block.register_forward_hook(lambda _m, _i, out, name=f"block{i}_out": seen.update({name: out}))
    backbone = load_backbone("efficientnet_lite0", available_layers("efficientnet_lite0"))
    with torch.no_grad():
        network((image - 0.498) / 0.502)
        features = backbone(image)
    assert set(features) == set(seen)
    for name, value in features.items():
        torch.testing.assert_close(value, seen[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_channels_and_strides_are_what_comes_out(name: str) -> None:
    layers = available_layers(name)
    backbone = load_backbone(name, layers, "random")
    assert backbone.layers == layers
    with torch.no_grad():
        features = backbone(torch.rand(1, 3, 64, 96))
    assert list(features) == list(layers)
    for layer, value in features.items():
        stride = backbone.strides[layer]
        assert value.shape == (1, backbone.channels[layer], 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", NAMES)
def test_default_layers_exist(name: str) -> None:
    layers = available_layers(name)
    for default in (default_style_layers(name), default_content_layers(name)):
        assert default
        assert sorted(default, key=layers.index) == list(default)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "convnext_atto"])
def test_nothing_deeper_than_asked_is_built_or_computed(name: str) -> None:
    layers = available_layers(name)
    few, more = layers[:2], (*layers[:2], layers[3])
    small, large = load_backbone(name, few, "random"), load_backbone(name, more, "random")
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())
    # Poisoning what lies deeper shows that it is not even touched.
    for parameter in list(large.parameters())[len(list(small.parameters())) :]:
        parameter.fill_(float("nan"))
    image = torch.rand(1, 3, 32, 32)
    part = large(image, layers=few)
    assert set(part) == set(few)
    for layer in few:
        torch.testing.assert_close(part[layer], small(image)[layer])


def test_a_backbone_is_frozen_and_passes_gradients_to_the_image() -> None:
    backbone = load_backbone("efficientnet_lite0", ["block2"]).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    backbone(image)["block2"].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("name", VGGS)
@pytest.mark.parametrize("fast", [True, False])
def test_vgg_equals_torchvision_at_all_layers(name: str, fast: bool, tmp_path: Path) -> None:
    """The oracle is torchvision's own network, walked module by module, with its gradient to the image."""
    torch.manual_seed(0)
    oracle = _torchvision_features(name)
    torch.save({f"features.{k}": v for k, v in oracle.state_dict().items()}, tmp_path / "w.pth")
    layers = available_layers(name)
    backbone = load_backbone(name, layers, str(tmp_path / "w.pth"), fast_convolutions=fast)
    image = torch.rand(2, 3, 33, 20)
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    features = backbone(ours)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (theirs - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    expected = []
    for module in oracle[:-1]:  # its last pooling needs 32 px
        x = torch.relu(x) if isinstance(module, torch.nn.ReLU) else module(x)
        if not isinstance(module, torch.nn.MaxPool2d):
            expected.append(x)
    assert len(expected) == len(layers)
    for value, wanted in zip(features.values(), expected):
        assert (value - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    weights = [torch.randn(value.shape) for value in expected]
    sum((f * w).mean() for f, w in zip(features.values(), weights)).backward()
    sum((f * w).mean() for f, w in zip(expected, weights)).backward()
    assert (ours.grad - theirs.grad).norm() <= 1e-4 * theirs.grad.norm()


def test_fast_vgg_follows_changed_weights() -> None:
    backbone = load_backbone("vgg16", ["relu2_1"], "random")
    image = torch.rand(1, 3, 16, 16)
    before = backbone(image)["relu2_1"]
    state = {name: value * 2 for name, value in backbone.state_dict().items()}
    backbone.load_state_dict(state)
    plain = load_backbone("vgg16", ["relu2_1"], "random", fast_convolutions=False)
    plain.load_state_dict(state)
    after = backbone(image)["relu2_1"]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plain(image)["relu2_1"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_from_a_file(suffix: str, dtype: torch.dtype, tmp_path: Path, vgg16_state: dict[str, Tensor]) -> None:
    state = {name: value.to(dtype) for name, value in vgg16_state.items()}
    state["classifier.6.weight"] = torch.zeros(3, 3)  # a full state dict loads too
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = load_backbone("vgg16", ["relu2_2"], str(path))
    loaded = backbone.state_dict()["trunk.features.7.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, state["features.7.weight"].float())


def test_shared_vgg16_sees_what_vgg16_sees(shared_dir: Path) -> None:
    """Its first layer holds edge and colour filters: a real network answers less to noise than to a photo, deeper."""
    path = shared_dir / "weights" / "vgg16_features_fp16.safetensors"
    backbone = load_backbone("vgg16", ["relu5_3"], str(path))
    photo = _photo("chelsea", 128)
    scrambled = photo.flatten(2)[:, :, torch.randperm(128 * 128)].view_as(photo)
    with torch.no_grad():
        seen, noise = backbone(photo)["relu5_3"], backbone(scrambled)["relu5_3"]
    assert seen.amax() > 2 * noise.amax()


def _refused(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        load_backbone(*args)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_wrong_weights_are_refused_by_the_first_wrong_key(tmp_path: Path, vgg16_state: dict[str, Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    save_file({k: v for k, v in vgg16_state.items() if k not in ("features.5.weight", "features.7.bias")}, path)
    assert "'features.5.weight'" in _refused("vgg16", ["relu4_3"], str(path))
    # A layer that is not asked for may be missing.
    load_backbone("vgg16", ["relu1_2"], str(path))
    save_file({**vgg16_state, "features.2.weight": torch.zeros(64, 64, 5, 5)}, path)
    message = _refused("vgg16", ["relu4_3"], str(path))
    assert "'features.2.weight'" in message
    assert "(64, 64, 5, 5)" in message


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 a broken archive"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["vgg16", "efficientnet_lite0", "convnext_atto"])
def test_a_damaged_file_is_refused_by_name(name: str, suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    assert "broken" in _refused(name, available_layers(name)[:1], str(path))


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    assert "evil.pth" in _refused("vgg16", ["relu1_1"], str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_what_does_not_exist_is_refused_with_near_names(tmp_path: Path) -> None:
    assert "vgg16" in _refused("vgg61", ["relu1_1"])
    assert "relu3_3" in _refused("vgg16", ["relu3_4"])
    assert "block4" in _refused("efficientnet_lite0", ["blok4"])
    assert "backbone.weights=FILE" in _refused("vgg16", ["relu1_1"], str(tmp_path / "nowhere.pth"))
    assert "no layer" in _refused("vgg16", [])
    with pytest.raises(UserError, match="relu1_1"):
        load_backbone("vgg16", ["relu1_1"], "random")(torch.rand(1, 3, 8, 8), layers=["relu1_2"])


@pytest.mark.parametrize("fast", [True, False])
def test_too_small_an_image_is_refused(fast: bool) -> None:
    backbone = load_backbone("vgg16", ["relu1_1", "relu3_1"], "random", fast_convolutions=fast)
    with pytest.raises(UserError, match="3×9 px"):
        backbone(torch.rand(1, 3, 9, 3))
    assert backbone(torch.rand(1, 3, 9, 3), layers=["relu1_1"])["relu1_1"].shape == (1, 64, 9, 3)


def test_no_network_says_how_to_name_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dead(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", dead)
    monkeypatch.setattr(socket, "getaddrinfo", dead)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "backbone.weights=FILE" in _refused("vgg19", ["relu1_1"])


def test_random_weights_are_announced_and_repeatable(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        first, second = (load_backbone("convnext_atto", ["stage0"], "random") for _ in range(2))
    assert "random weights" in caplog.text
    image = torch.rand(1, 3, 32, 32)
    assert isinstance(first, Backbone)
    assert torch.equal(first(image)["stage0"], second(image)["stage0"])


def test_random_weights_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    for name in ("efficientnet_lite0", "vgg16", "convnext_atto"):
        load_backbone(name, available_layers(name)[:1], "random")
    assert torch.equal(before, torch.get_rng_state())


def test_a_timm_token_model_takes_any_size() -> None:
    backbone = load_backbone("vit_tiny_patch16_224", ["stage2"], "random")
    assert backbone(torch.rand(1, 3, 70, 97))["stage2"].shape == (1, 192, 5, 7)
