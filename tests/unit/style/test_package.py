"""Networks as files: what is written is what is read, and what is no network is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
import torch
from safetensors.torch import save_file

from tezawari.core.errors import UserError
from tezawari.style.network import build_network
from tezawari.style.package import NETWORK_FILE, load_network, save_network
from tezawari.style.stylize import Stylizer

NAMES = ["wood", "ふわふわ"]


@pytest.mark.parametrize(("fusion", "norm"), [("concat", "batch"), ("cin", "instance")])
@torch.no_grad()
def test_a_published_network_comes_back(tmp_path: Path, fusion: str, norm: str) -> None:
    network = build_network("johnson", 2, fusion, norm)
    network(torch.rand(2, 3, 32, 32), torch.rand(2, 2))  # moves the running moments
    path = save_network(tmp_path / "n.safetensors", network, NAMES, {"steps": 3})
    loaded = load_network(path)
    photo, weights = torch.rand(1, 3, 33, 20), torch.rand(1, 2)
    assert torch.equal(loaded.network(photo, weights), network.eval()(photo, weights))
    assert loaded.style_names == NAMES
    assert loaded.meta == {"steps": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["n.safetensors"]


@torch.no_grad()
def test_half_precision_halves_the_file_and_keeps_the_picture(tmp_path: Path) -> None:
    network = build_network("deepstylecam", 2).eval()
    whole = save_network(tmp_path / "whole.safetensors", network, NAMES, {})
    half = save_network(tmp_path / "half.safetensors", network, NAMES, {}, half=True)
    assert half.stat().st_size < 0.52 * whole.stat().st_size
    photo, weights = torch.rand(1, 3, 32, 32), torch.tensor([[1.0, 0.0]])
    difference = load_network(half).network(photo, weights) - network(photo, weights)
    assert 0 < difference.abs().max() < 2 / 255


@torch.no_grad()
def test_the_folder_of_a_run_stands_for_its_network(tmp_path: Path) -> None:
    save_network(tmp_path / NETWORK_FILE, build_network("deepstylecam", 2), NAMES, {"steps": 7})
    assert load_network(tmp_path).meta == {"steps": 7}
    (tmp_path / NETWORK_FILE).unlink()
    with pytest.raises(UserError, match="is no run with a network: train one"):
        load_network(tmp_path)


def _write(folder: Path, kind: str) -> Path:
    path = folder / {"checkpoint of something else": "c.ckpt"}.get(kind, "n.safetensors")
    if kind == "garbage":
        path.write_bytes(b"not a network" * 50)
    elif kind == "other safetensors":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "cut short":
        save_network(path, build_network("deepstylecam", 2), NAMES, {})
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "checkpoint of something else":
        torch.save({"state_dict": {}}, path)
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "garbage", "other safetensors", "cut short", "checkpoint of something else"]
)
def test_what_is_no_network_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at|cannot be read|is not a multi-style"):
        load_network(_write(tmp_path, kind))


def test_an_unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_network(tmp_path / "file" / "n.safetensors", build_network("deepstylecam", 2), NAMES, {})


@torch.no_grad()
def test_stylizer_mixes_maps_and_keeps_colour(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network("deepstylecam", 2)
    for _ in range(3):
        network(torch.rand(2, 3, 48, 48), torch.rand(2, 2))
    stylizer = Stylizer.load(save_network(tmp_path / "n.safetensors", network, NAMES, {}))
    photo = torch.rand(3, 45, 70)
    wood, fluffy = stylizer(photo, stylizer.mix("wood")), stylizer(photo, stylizer.mix("ふわふわ"))
    assert (wood - fluffy).abs().mean() > 1e-3
    half = torch.zeros(2, 45, 70)
    half[0, :, :32], half[1, :, 32:] = 1, 1
    painted = stylizer(photo, half)
    assert torch.allclose(painted[:, :, :4], wood[:, :, :4], atol=2e-2)
    kept = stylizer(photo, stylizer.mix("wood"), keep_color=True)
    grey = photo.mean(0, keepdim=True).expand(3, -1, -1)
    assert (stylizer(grey, stylizer.mix("wood"), keep_color=True).std(0) < 2e-3).all(), "a grey photo stays grey"
    assert kept.shape == photo.shape


def test_stylizer_says_what_does_not_fit(tmp_path: Path) -> None:
    stylizer = Stylizer.load(save_network(tmp_path / "n.safetensors", build_network("deepstylecam", 2), NAMES, {}))
    with pytest.raises(UserError, match="too small"):
        stylizer(torch.rand(3, 10, 40), torch.ones(2))
    with pytest.raises(UserError, match="30x20 pixels, the photo 40x40"):
        stylizer(torch.rand(3, 40, 40), torch.ones(2, 20, 30))
    with pytest.raises(UserError, match="wood"):
        stylizer.mix("wod")


@torch.no_grad()
def test_the_network_that_comes_with_the_package() -> None:
    """Each of its eight paintings restyles a photo plainly unlike the others, and the photo stays recognisable."""
    stylizer = Stylizer.load()
    assert len(stylizer.style_names) == 8
    assert stylizer.trained.meta["backbone_name"] == "vgg16"
    photo = torch.from_numpy(skimage.data.chelsea()[40:232, 100:292]).permute(2, 0, 1) / 255
    pictures = torch.stack([stylizer(photo, stylizer.mix(name)) for name in stylizer.style_names])
    apart = torch.pdist(pictures.flatten(1)) / pictures[0].numel() ** 0.5
    assert apart.min() > 0.03
    # Forms of four pixels and more: finer ones are the style's.
    forms = torch.nn.functional.avg_pool2d(torch.cat([photo[None], pictures]).mean(1), 4).flatten(1)
    assert torch.corrcoef(forms)[0, 1:].min() > 0.5
