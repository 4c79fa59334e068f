"""The style pack as a file, and what takes it as a style."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from safetensors.torch import save_file
from tests.unit.quiet_trainer import quiet_trainer
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.content_style import shorter_side_to
from tezawari.data.images import ImagesData
from tezawari.data.photo import load_rgb
from tezawari.data.sheet import to_pil
from tezawari.features.backbone import Backbone, load_backbone
from tezawari.style.gatys import paint, recipe
from tezawari.style.lightning_module import MultiStyle
from tezawari.style.loss import style_targets
from tezawari.style.style_clusters import StyleImage, make_style_packs, pack_layers
from tezawari.style.style_pack import (
    MERGES,
    PackedImage,
    StylePack,
    from_upper_triangle,
    load_style_pack,
    save_style_pack,
    upper_triangle,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("vgg16", LAYERS, "random")


@pytest.fixture(scope="module")
def whole() -> Backbone:
    """The packaged network, as deep as painting needs it."""
    return load_backbone("efficientnet_lite0", {*pack_layers("efficientnet_lite0"), "block4"})


def _picture(seed: int, height: int = 64, width: int = 72) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def _pack(backbone: Backbone, merge: str = "mean", side: int = 64, seeds: tuple[int, ...] = (0, 1)) -> StylePack:
    images = [
        StyleImage(
            str(seed), PackedImage(f"雲{seed}", "誰か", "by 4.0", "https://pages.example"), _loader(_picture(seed))
        )
        for seed in seeds
    ]
    layers = [layer for layer in backbone.layers if layer in {*LAYERS, *pack_layers(backbone.name)}]
    return make_style_packs("ふわふわ", images, [merge], backbone=backbone, layers=layers, side=side)[merge]  # type: ignore[list-item,index]


def _loader(picture: Tensor):  # type: ignore[no-untyped-def]
    return lambda side: shorter_side_to(picture, side)


@pytest.mark.parametrize("merge", MERGES)
def test_a_round_trip_changes_no_bit(backbone: Backbone, merge: str, tmp_path: Path) -> None:
    file = save_style_pack(tmp_path / "a.safetensors", _pack(backbone, merge))
    loaded = load_style_pack(file)
    again = load_style_pack(save_style_pack(tmp_path / "b.safetensors", loaded))
    assert file.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    before = _pack(backbone, merge)
    for pack in (loaded, again):
        assert replace(pack, targets={}, preview=None) == replace(before, targets={}, preview=None)  # type: ignore[arg-type]
        assert torch.equal(pack.preview, before.preview)
        assert [*pack.targets] == [64, 32]
        for side, target in before.targets.items():
            for layer in LAYERS:
                assert torch.equal(upper_triangle(pack.targets[side].grams[layer]), upper_triangle(target.grams[layer]))
                if merge == "mean+covariance":
                    assert torch.equal(pack.targets[side].means[layer], target.means[layer])  # type: ignore[index]
            assert (pack.targets[side].means is None) == (merge != "mean+covariance")


def test_a_triangle_gives_its_matrix_back() -> None:
    half = torch.rand(2, 5, 5)
    symmetric = half + half.mT
    assert torch.equal(from_upper_triangle(upper_triangle(symmetric)), symmetric)
    with pytest.raises(ValueError, match="no upper triangle"):
        from_upper_triangle(torch.zeros(1, 14))


def test_a_pack_of_another_backbone_is_refused_with_both_names(backbone: Backbone, whole: Backbone) -> None:
    with pytest.raises(UserError, match=r"vgg16, which is not efficientnet_lite0.*--backbone efficientnet_lite0"):
        _pack(backbone).target(whole, LAYERS, 64)


def test_a_pack_of_other_weights_is_refused_and_depth_is_no_difference(backbone: Backbone) -> None:
    pack = _pack(backbone)
    deeper = load_backbone("vgg16", (*LAYERS, "relu3_1"), "random")
    assert pack.target(deeper, LAYERS, 64).grams.keys() == set(LAYERS)
    with torch.no_grad():
        next(deeper.parameters()).mul_(1.001)
    with pytest.raises(UserError, match="other weights of vgg16"):
        pack.target(deeper, LAYERS, 64)


def test_a_layer_that_was_not_packed_is_named(backbone: Backbone) -> None:
    with pytest.raises(UserError, match=r"lacks layer relu3_1 .*--layers relu1_1,relu3_1"):
        _pack(backbone).target(backbone, ["relu1_1", "relu3_1"], 64)


def test_the_side_is_the_nearest_by_ratio_and_a_far_one_is_warned_of(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    pack = _pack(backbone)
    assert [pack.nearest_side(side) for side in (500, 46, 45, 8)] == [64, 64, 32, 32]
    with caplog.at_level(logging.WARNING):
        pack.warn_of_other_side(62)
        assert not caplog.text
        pack.warn_of_other_side(256)
    assert "images of 64 px" in caplog.text
    assert "--size 256" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "another", "newer", "nan", "none"])
def test_what_is_no_pack_is_one_line(backbone: Backbone, damage: str, tmp_path: Path) -> None:
    file = tmp_path / "p.safetensors"
    if damage == "another":
        save_file({"weight": torch.zeros(2)}, file)
    elif damage != "none":
        pack = _pack(backbone)
        if damage == "nan":
            pack.targets[64].grams["relu2_1"][0, 0, 0] = torch.nan
        save_style_pack(file, pack)
        content = file.read_bytes()
        if damage == "cut":
            file.write_bytes(content[:-100])
        elif damage == "newer":
            file.write_bytes(content.replace(rb"\"format\": 1", rb"\"format\": 9"))
    messages = {"cut": "cannot be read", "another": "not a style pack", "newer": "newer", "nan": "not finite"}
    with pytest.raises(UserError, match=messages.get(damage, "no style pack at")):
        load_style_pack(file)


# --- as a style -------------------------------------------------------------------------------------------------------


def test_painting_takes_a_pack_of_one_image_as_that_image(whole: Backbone) -> None:
    photo, style = _picture(7, 64, 64), _picture(0, 64, 64)
    image = StyleImage("0", PackedImage("0"), _loader(style))
    layers = pack_layers(whole.name)
    packs = make_style_packs("w", [image], ["mean", "minimise"], backbone=whole, layers=layers, side=64)
    by_image = paint(photo, [style], backbone=whole, steps=6)
    for pack in packs.values():
        assert (paint(photo, [pack], backbone=whole, steps=6) - by_image).abs().max() < 1e-3
    assert (by_image - photo).abs().max() > 0.02


@pytest.mark.parametrize("merge", ["minimise", "mean+covariance"])
def test_painting_with_a_pack_nears_it_beside_an_image_in_its_region(whole: Backbone, merge: str) -> None:
    pack, photo = _pack(whole, merge), _picture(7, 64, 64)
    losses: list[float] = []
    guide = torch.zeros(2, 64, 64)
    guide[0, :, :32], guide[1, :, 32:] = 1, 1
    painted = paint(
        photo,
        [pack, _picture(3)],
        backbone=whole,
        steps=8,
        guide=guide,
        keep_color=True,
        callback=lambda now: losses.append(now.loss),
    )
    assert painted.shape == (3, 64, 64)
    assert min(losses) < 0.9 * losses[0]


def _folders(root: Path) -> None:
    for name, seeds in (("photos", range(10, 14)), ("styles", (0,))):
        (root / name).mkdir()
        for seed in seeds:
            to_pil(_picture(seed)).save(root / name / f"{name}{seed}.png")


def _train(root: Path, **settings: object) -> MultiStyle:
    pl.seed_everything(0)
    data = ImagesData(str(root / "photos"), str(root / "styles"), image_size=32, style_size=64, batch_size=2)
    model = MultiStyle(reconstruction_steps=0, **settings)  # type: ignore[arg-type]
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0, use_distributed_sampler=False)
    trainer.fit(model, datamodule=data)
    return model


def test_training_with_a_pack_of_one_image_is_training_with_that_image(
    whole: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folders(tmp_path)
    by_image = _train(tmp_path)
    picture = tmp_path / "styles" / "styles0.png"
    image = StyleImage("0", PackedImage("0"), _loader(load_rgb(picture).float().div_(255)))
    layers = pack_layers(whole.name)
    (pack,) = make_style_packs("w", [image], ["mean"], backbone=whole, layers=layers, side=64).values()
    save_style_pack(picture.with_suffix(".safetensors"), pack)
    picture.unlink()
    by_pack = _train(tmp_path)
    assert by_pack.style_names == by_image.style_names == ["styles0"]
    assert by_image.loss is not None
    assert by_pack.loss is not None
    style = shorter_side_to(_picture(0), 64)
    oracle = style_targets(whole, [(style * 255).round() / 255], by_pack.loss.style_layers)
    for layer in by_pack.loss.style_layers:
        torch.testing.assert_close(by_pack.loss.target_grams(layer), by_image.loss.target_grams(layer))
        torch.testing.assert_close(by_pack.loss.target_grams(layer), oracle[layer], rtol=1e-3, atol=1e-4)
    for (name, mine), other in zip(by_pack.network.state_dict().items(), by_image.network.state_dict().values()):  # type: ignore[union-attr]
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, msg=name)


def test_training_takes_packs_beside_pictures_and_tells_their_styles_apart(whole: Backbone, tmp_path: Path) -> None:
    _folders(tmp_path)
    save_style_pack(tmp_path / "styles" / "a-pack.safetensors", _pack(whole, "minimise", seeds=(1, 2)))
    save_style_pack(tmp_path / "styles" / "b-pack.safetensors", _pack(whole, "mean+covariance", seeds=(1, 2)))
    model = _train(tmp_path)
    assert model.style_names == ["styles0", "a-pack", "b-pack"]
    assert model.loss is not None
    assert model.loss.target_grams("block1").shape[0] == 4
    pictures = shorter_side_to(_picture(1), 64)[None].expand(3, -1, -1, -1)
    losses = model.loss(pictures, pictures, torch.arange(3)).style
    assert losses[1] < 1e-6, "the first member of the pack, to the letter"
    assert losses[0] > 1e-3
    assert losses[2] > 1e-4


def test_training_refuses_a_pack_of_another_backbone(backbone: Backbone, tmp_path: Path) -> None:
    _folders(tmp_path)
    save_style_pack(tmp_path / "styles" / "pack.safetensors", _pack(backbone))
    with pytest.raises(UserError, match="vgg16, which is not efficientnet_lite0"):
        _train(tmp_path)


def test_a_pack_and_a_picture_of_one_name_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    _folders(tmp_path)
    save_style_pack(tmp_path / "styles" / "styles0.safetensors", _pack(backbone))
    data = ImagesData(str(tmp_path / "photos"), str(tmp_path / "styles"), image_size=32, style_size=64)
    with pytest.raises(UserError, match="would both be the style styles0"):
        data.setup()


def test_the_layers_of_painting_are_packed() -> None:
    for name in ("efficientnet_lite0", "vgg16", "vgg19"):
        assert set(recipe(name).style_layers) <= set(pack_layers(name))


def test_a_pack_is_pictured(backbone: Backbone) -> None:
    preview = Image.fromarray(_pack(backbone).preview.permute(1, 2, 0).numpy())
    assert preview.size == (192, 96)
