"""The network for unseen styles: what its conditions depend on, and that it becomes an ordinary network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.materials import material_texture
from tezawari.data.sheet import to_pil
from tezawari.features.backbone import Backbone, default_style_layers, load_backbone
from tezawari.style.loss import StyleTarget, image_target, style_targets
from tezawari.style.network import Fusion, build_network
from tezawari.style.package import load_network, save_network
from tezawari.style.style_pack import StylePack, save_style_pack, weights_digest
from tezawari.style.unseen.apply import network_of_styles, read_style
from tezawari.style.unseen.model import StyleStatistics, UnseenStyleNetwork
from tezawari.style.unseen.package import LoadedUnseen, describe_unseen, load_unseen, save_unseen

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONE = "efficientnet_lite0"
SIDE = 48
FUSIONS: tuple[Fusion, ...] = ("cin", "concat")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BACKBONE, default_style_layers(BACKBONE))


@pytest.fixture(scope="module")
def styles() -> list[Tensor]:
    return [material_texture(name, 0, SIDE) for name in ("wood", "glass", "water", "fabric")]


def _network(backbone: Backbone, styles: list[Tensor], fusion: Fusion = "cin") -> UnseenStyleNetwork:
    torch.manual_seed(0)
    channels = {layer: backbone.channels[layer] for layer in default_style_layers(BACKBONE)}
    network = UnseenStyleNetwork(channels, "deepstylecam", fusion, embedding=4, hidden=8, projected=3)
    grams = style_targets(backbone, styles, network.layers)
    network.statistics.fit(network.statistics.measure(grams))
    return network.eval()


def _published(folder: Path, network: UnseenStyleNetwork, backbone: Backbone) -> Path:
    description = describe_unseen(network, BACKBONE, weights_digest(backbone), SIDE)
    return save_unseen(folder / "unseen.safetensors", network, description, {"steps": 1})


def _pack(image: Tensor, backbone: Backbone) -> StylePack:
    target = image_target(backbone, image, default_style_layers(BACKBONE))
    preview = image.mul(255).round().to(torch.uint8)
    return StylePack("x", "mean", BACKBONE, weights_digest(backbone), {SIDE: target}, 1, 1, (), preview)


def test_an_image_and_the_pack_of_that_image_give_one_condition(
    backbone: Backbone, styles: list[Tensor], tmp_path: Path
) -> None:
    network = _network(backbone, styles)
    to_pil(styles[1]).save(tmp_path / "glass.png")
    read = read_style(tmp_path / "glass.png", backbone, network.layers, SIDE)
    # What a picture file holds is rounded to 256 levels, so the pack is made of what was read.
    save_style_pack(tmp_path / "pack.safetensors", _pack(styles[1].mul(255).round().div(255), backbone))
    packed = read_style(tmp_path / "pack.safetensors", backbone, network.layers, SIDE)
    conditions = [network.condition(style.grams) for style in (read, packed)]
    torch.testing.assert_close(*conditions, rtol=1e-4, atol=1e-5)
    other = network.condition(image_target(backbone, styles[0], network.layers).grams)
    assert (other - conditions[0]).abs().max() > 100 * (conditions[1] - conditions[0]).abs().max()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_gives_what_single_images_give(fusion: Fusion, backbone: Backbone, styles: list[Tensor]) -> None:
    network = _network(backbone, styles, fusion)
    photos = torch.rand(4, 3, 41, 35, generator=torch.Generator().manual_seed(1))
    grams = style_targets(backbone, styles, network.layers)
    with torch.no_grad():
        together = network(photos, grams)
        alone = [network(photos[i : i + 1], {k: v[i : i + 1] for k, v in grams.items()}) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert together.shape == photos.shape


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_ordinary_network_of_the_styles_restyles_the_same_and_can_be_published(
    fusion: Fusion, backbone: Backbone, styles: list[Tensor], tmp_path: Path
) -> None:
    network = _network(backbone, styles, fusion)
    photo = torch.rand(1, 3, 33, 50, generator=torch.Generator().manual_seed(2))
    targets = [image_target(backbone, style, network.layers) for style in styles[:2]]
    ordinary = network.with_styles(targets)
    saved = load_network(save_network(tmp_path / "n.safetensors", ordinary, ["wood", "glass"], {})).network
    with torch.no_grad():
        for number, target in enumerate(targets):
            asked = network(photo, target.grams)
            weights = torch.eye(2)[number : number + 1]
            torch.testing.assert_close(ordinary(photo, weights), asked, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(saved(photo, weights), asked, rtol=1e-4, atol=1e-5)
        mean = sum(network.condition(target.grams) for target in targets) / 2
        torch.testing.assert_close(
            ordinary(photo, torch.full((1, 2), 0.5)), network.network(photo, mean), rtol=1e-4, atol=1e-5
        )
    before = network.network.to_rgb.weight.clone()
    with torch.no_grad():
        ordinary.to_rgb.weight.zero_()
    assert torch.equal(network.network.to_rgb.weight, before), "nothing is shared"


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_photo_and_a_blank_style_stay_finite(value: float, backbone: Backbone, styles: list[Tensor]) -> None:
    network = _network(backbone, styles)
    blank = torch.full((3, SIDE, SIDE), value)
    target = image_target(backbone, blank, network.layers)
    with torch.no_grad():
        stylized = network(blank[None], target.grams)
    assert stylized.isfinite().all()
    assert 0 <= stylized.min() <= stylized.max() <= 1
    nothing = {layer: torch.zeros_like(gram) for layer, gram in target.grams.items()}
    assert network.condition(nothing).isfinite().all()


@pytest.mark.parametrize("size", [(16, 16), (17, 61), (64, 31)])
def test_a_photo_keeps_its_size(size: tuple[int, int], backbone: Backbone, styles: list[Tensor]) -> None:
    network = _network(backbone, styles)
    with torch.no_grad():
        stylized = network(torch.rand(1, 3, *size), image_target(backbone, styles[0], network.layers).grams)
    assert stylized.shape == (1, 3, *size)


def test_statistics_are_standard_over_the_pool_and_bounded_outside_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(200, 9, 5, generator=generator)
    grams = {"a": rows.transpose(1, 2) @ rows / 9}
    statistics = StyleStatistics({"a": 5}, projected=3)
    assert statistics.count == 5 + 6
    strength = statistics.measure(grams)[:, :5]
    torch.testing.assert_close(strength, rows.square().mean(1).sqrt())
    statistics.fit(statistics.measure(grams))
    standard = (statistics.measure(grams) - statistics.mean) / statistics.deviation
    torch.testing.assert_close(standard.mean(0), torch.zeros(11), atol=1e-4, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(11), atol=1e-2, rtol=0)
    assert statistics({"a": 1e4 * grams["a"]}).abs().max() <= 4


def test_strength_and_togetherness_are_told_apart() -> None:
    """Twice the activations: every strength doubles, no cosine changes."""
    rows = torch.rand(1, 20, 6, generator=torch.Generator().manual_seed(0))
    gram = rows.transpose(1, 2) @ rows / 20
    statistics = StyleStatistics({"a": 6}, projected=2)
    once, twice = statistics.measure({"a": gram}), statistics.measure({"a": 4 * gram})
    torch.testing.assert_close(twice[:, :6], 2 * once[:, :6])
    torch.testing.assert_close(twice[:, 6:], once[:, 6:])


def test_of_several_members_the_mean_counts(backbone: Backbone, styles: list[Tensor]) -> None:
    network = _network(backbone, styles)
    grams = style_targets(backbone, styles[:2], network.layers)
    mean = {layer: gram.mean(0, keepdim=True) for layer, gram in grams.items()}
    several, one = (network.with_styles([StyleTarget(dict(g))]) for g in (grams, mean))
    for a, b in zip(several.style_parameters(0), one.style_parameters(0)):
        assert torch.equal(a, b)


def test_what_was_published_is_what_is_read(backbone: Backbone, styles: list[Tensor], tmp_path: Path) -> None:
    network = _network(backbone, styles)
    loaded = load_unseen(_published(tmp_path, network, backbone))
    assert isinstance(loaded, LoadedUnseen)
    assert (loaded.backbone_name, loaded.style_size, loaded.meta) == (BACKBONE, SIDE, {"steps": 1})
    theirs = loaded.network.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in network.state_dict().items())
    to_pil(styles[2]).save(tmp_path / "pond.png")
    assert network_of_styles(loaded, [tmp_path / "pond.png"]).style_names == ["pond"]


def test_a_mistake_says_what_to_type(backbone: Backbone, styles: list[Tensor], tmp_path: Path) -> None:
    network = _network(backbone, styles)
    file = _published(tmp_path, network, backbone)
    save_network(tmp_path / "ordinary.safetensors", build_network("deepstylecam", 1), ["wood"], {})
    with pytest.raises(UserError, match=r"model=unseen_style"):
        load_unseen(tmp_path / "ordinary.safetensors")
    with pytest.raises(UserError, match=r"train one with"):
        load_unseen(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"no run with a network"):
        load_unseen(tmp_path)
    (tmp_path / "half.safetensors").write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot be read as a network of model=unseen_style"):
        load_unseen(tmp_path / "half.safetensors")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        to_pil(styles[0]).save(tmp_path / folder / "bark.png")
    with pytest.raises(UserError, match=r"two style images are called bark"):
        network_of_styles(load_unseen(file), [tmp_path / "a" / "bark.png", tmp_path / "b" / "bark.png"])
    pack = _pack(styles[0], load_backbone(BACKBONE, default_style_layers(BACKBONE), "random"))
    save_style_pack(tmp_path / "other.safetensors", pack)
    with pytest.raises(UserError, match=r"other weights of efficientnet_lite0"):
        network_of_styles(load_unseen(file), [tmp_path / "other.safetensors"])
    with pytest.raises(UserError, match=r"trained with other weights .* --weights"):
        load_unseen(file).backbone("random")
