"""Training that goes on from a trained network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.quiet_trainer import quiet_trainer

from tezawari.core.errors import UserError
from tezawari.data.sample import SampleData
from tezawari.style.lightning_module import MultiStyle
from tezawari.style.loss import grid_pattern
from tezawari.style.network import ConditionalNetwork, build_network
from tezawari.style.package import load_network, save_network


def _train(steps: int = 1, image_size: int = 32, **settings: object) -> MultiStyle:
    usual = {"net": "deepstylecam", "frozen_moments": 1.0, "learning_rate": 1e-3, "style_rate": 1.0}
    model = MultiStyle(**{**usual, **settings})  # type: ignore[arg-type]
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, use_distributed_sampler=False)
    trainer.fit(model, datamodule=SampleData(image_size=image_size, batch_size=2, epoch_size=4))
    return model


def _published(path: Path, names: list[str], norm: str = "batch") -> ConditionalNetwork:
    torch.manual_seed(0)
    save_network(path, build_network("deepstylecam", len(names), "concat", norm), names, {})  # type: ignore[arg-type]
    return load_network(path).network


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(SampleData().style_names)


def test_styles_part_faster_than_what_they_share(tmp_path: Path, names: list[str]) -> None:
    """Adam's first step is the learning rate, whatever the gradient: of what belongs to the styles asked, ten times."""
    before = _published(tmp_path / "n.safetensors", names)
    after = _train(start_from=str(tmp_path / "n.safetensors"), style_rate=10).network
    assert after is not None
    assert after.norm == "settled"
    shared = (after.to_rgb.weight - before.to_rgb.weight).abs().max()
    rows = [after.style_parameters(place)[0] - before.style_parameters(place)[0] for place in range(len(names))]
    own = torch.stack(rows).abs().max(1).values
    assert shared > 0
    assert sorted({round(float(move / shared), 1) for move in own}) == [0, 10], "one or two styles were asked"


def test_a_network_of_other_styles_or_shape_is_no_start(tmp_path: Path, names: list[str]) -> None:
    _published(tmp_path / "other.safetensors", [*names[1:], "moss"])
    with pytest.raises(UserError, match=r"moss, but the data have .*add_styles_to"):
        _train(start_from=str(tmp_path / "other.safetensors"))
    _published(tmp_path / "instance.safetensors", names, "instance")
    with pytest.raises(UserError, match=r"has norm=instance, but model\.norm=settled"):
        _train(start_from=str(tmp_path / "instance.safetensors"))
    with pytest.raises(UserError, match=r"has net=deepstylecam, .* add model\.net=deepstylecam"):
        _train(start_from=str(tmp_path / "instance.safetensors"), norm="instance", net="johnson")


def test_a_grid_is_trained_away(tmp_path: Path, names: list[str]) -> None:
    """A decoder with another bias at each place of a cell imprints a pattern, which a weight on it reduces."""
    network = _published(tmp_path / "n.safetensors", names)
    with torch.no_grad():
        for block in network.decoder:
            block.conv.bias.add_(0.5 * torch.randn_like(block.conv.bias))  # type: ignore[union-attr, operator]
    save_network(tmp_path / "grid.safetensors", network, names, {})
    found = {}
    for weight in (0.0, 1e4):
        start = str(tmp_path / "grid.safetensors")
        model = _train(12, start_from=start, grid_weight=weight, learning_rate=3e-3, style_weight=0.1)
        batch = next(iter(model.trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
        with torch.no_grad():
            found[weight] = grid_pattern(model(batch["image"], batch["style"]), 8).mean()
    assert found[1e4] < 0.5 * found[0.0]


def test_several_styles_of_a_photo_cost_what_they_do_apart(names: list[str]) -> None:
    torch.manual_seed(0)
    model = _train(styles_per_photo=2, frozen_moments=0)
    model.eval()
    photos = torch.rand(2, 3, 32, 32)
    style = model._several(torch.tensor([3, len(names) - 1]))
    assert style[::2].tolist() == [3, len(names) - 1], "the first of each is the one that was drawn"
    assert (style[::2] != style[1::2]).all()
    together, _ = model._losses(photos, style)
    apart, _ = model._losses(photos.repeat_interleave(2, 0), style)
    for some, same in zip(together, apart):
        torch.testing.assert_close(some, same)


def test_a_short_run_learns_styles_too() -> None:
    """It used to end while it only gave photos back, or just after: a contact sheet of one colour."""
    model = _train(8, reconstruction_steps=250, frozen_moments=0.25)
    assert model.trainer.logged_metrics["train/loss"].isfinite()
    assert (~model.style_average.isnan()).sum() > 2, "six steps of two photos asked styles"


def test_first_steps_copy_the_imitated_network(tmp_path: Path, names: list[str]) -> None:
    _published(tmp_path / "teacher.safetensors", names)
    settings = {"imitate": str(tmp_path / "teacher.safetensors"), "net": "swift", "learning_rate": 1e-2}
    model = _train(30, reconstruction_steps=30, frozen_moments=0, **settings)
    batch = next(iter(model.trainer.datamodule.train_dataloader()))  # type: ignore[attr-defined]
    model.train()
    with torch.no_grad():
        picture, example = model(batch["image"], batch["style"]), model._example(batch["image"], batch["style"])
    assert (example - batch["image"]).square().mean() > 2 * (picture - example).square().mean()
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} >= {"network"}
    assert not any(name.startswith("teacher") for name in checkpoint["state_dict"])


def test_only_a_network_of_the_same_styles_and_constant_moments_is_imitated(tmp_path: Path, names: list[str]) -> None:
    _published(tmp_path / "other.safetensors", [*names[1:], "moss"])
    with pytest.raises(UserError, match=r"model\.imitate=.*moss, but the data have"):
        _train(imitate=str(tmp_path / "other.safetensors"))
    _published(tmp_path / "instance.safetensors", names, "instance")
    start = str(tmp_path / "instance.safetensors")
    with pytest.raises(UserError, match=r"leave it or model\.start_from out"):
        _train(imitate=start, start_from=start, norm="instance")
    with pytest.raises(UserError, match="cannot be imitated"):
        _train(imitate=str(tmp_path / "instance.safetensors"))


def test_a_strip_along_the_edges_is_trained_away(tmp_path: Path, names: list[str]) -> None:
    """An encoder that sees by the zeros of its padding where a photo ends, and says so loudly."""
    network = _published(tmp_path / "n.safetensors", names)
    with torch.no_grad():
        network.encoder[0].conv.bias.fill_(3.0)  # type: ignore[union-attr, operator]
    save_network(tmp_path / "edges.safetensors", network, names, {})
    photos, style = torch.rand(4, 3, 80, 80), torch.arange(4)
    found = {}
    for weight in (0.0, 1e3):
        start = str(tmp_path / "edges.safetensors")
        model = _train(12, 80, start_from=start, border_weight=weight, learning_rate=3e-3, style_weight=0.1)
        with torch.no_grad():
            found[weight] = model._seen_within(photos, model(photos, style), style)[1].mean()
    assert found[1e3] < 0.7 * found[0.0]
    with pytest.raises(UserError, match="border_weight needs 48"):
        _train(border_weight=1.0)
