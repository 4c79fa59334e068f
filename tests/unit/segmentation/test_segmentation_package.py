"""Trained networks as files: what is written is what is read, and what is no network is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tezawari.core.errors import UserError
from tezawari.features import weights
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.package import (
    SALIENCY_FILE,
    SEGMENTER_FILE,
    describe,
    load_any,
    load_trained,
    save_trained,
)
from tezawari.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["wood", "ふわふわ", "dining table"]


def _saliency(backbone: str = "efficientnet_lite0", pooling: Any = "max", layer: str | None = None) -> SaliencyNetwork:
    torch.manual_seed(0)
    return SaliencyNetwork(backbone, len(NAMES), pooling, "random", layer)


def _segmenter(backbone: str = "efficientnet_lite0") -> Segmenter:
    torch.manual_seed(1)
    return Segmenter(backbone, len(NAMES), "random")


@pytest.mark.parametrize(
    "network",
    [
        lambda: _saliency("efficientnet_lite0", "lse", "block10_out"),
        lambda: _saliency("resnet18", "average"),
        lambda: _segmenter("efficientnet_lite0"),
        lambda: _segmenter("resnet18"),
    ],
)
@torch.no_grad()
def test_a_published_network_comes_back(network: Any, tmp_path: Path) -> None:
    saved = network().eval()
    path = save_trained(tmp_path / "n.safetensors", saved, NAMES, 64, {"steps": 3, "crf": {"a": 0.5}})
    loaded = load_any(path)
    image = torch.rand(2, 3, 64, 50)
    assert type(loaded.network) is type(saved)
    assert torch.equal(loaded.network(image), saved(image))
    assert loaded.class_names == NAMES
    assert loaded.meta == {"steps": 3, "crf": {"a": 0.5}}
    assert loaded.image_size == 64
    assert describe(loaded.network, NAMES, 64) == describe(saved, NAMES, 64)
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["n.safetensors"], "nothing is left beside it"


def test_reading_one_needs_no_weights_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [
        save_trained(tmp_path / "vgg.safetensors", _segmenter("vgg16"), NAMES, 64, {}),
        save_trained(tmp_path / "lite.safetensors", _saliency(), NAMES, 64, {}),
    ]

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr(weights, "load_file", refuse, raising=False)
    caplog.clear()
    for path in paths:
        load_any(path)
    assert not caplog.records, "nothing is said of random weights that are replaced"


def _checkpoint(path: Path) -> Path:
    """Two networks in one, as a self-training run keeps them."""
    networks: dict[str, SaliencyNetwork | Segmenter] = {"saliency": _saliency(), "segmenter": _segmenter()}
    tensors = {f"{name}.{key}": v for name, network in networks.items() for key, v in network.state_dict().items()}
    described = {name: describe(network, NAMES, 64) for name, network in networks.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"networks": described, "state_dict": tensors, "hyper_parameters": {"rounds": 2}}, path)
    return path


@torch.no_grad()
def test_a_checkpoint_of_two_networks_gives_either(tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "step-000000001.ckpt")
    image = torch.rand(1, 3, 40, 40)
    saliency, segmenter = load_trained(path, "saliency"), load_trained(path, "segmenter")
    assert torch.equal(saliency.network(image), _saliency().eval()(image))
    assert torch.equal(segmenter.network(image), _segmenter().eval()(image))
    assert segmenter.class_names == NAMES
    assert segmenter.meta["rounds"] == 2
    assert isinstance(load_any(path).network, Segmenter)


def test_a_run_is_read_at_its_published_network_and_the_segmenter_is_preferred(tmp_path: Path) -> None:
    _checkpoint(tmp_path / "checkpoints" / "step-000000001.ckpt")
    assert isinstance(load_any(tmp_path).network, SaliencyNetwork), "an unfinished run: it has no segmenter yet"
    save_trained(tmp_path / SALIENCY_FILE, _saliency(), ["x", "y", "z"], 64, {})
    assert load_trained(tmp_path, "saliency").class_names == ["x", "y", "z"]
    save_trained(tmp_path / SEGMENTER_FILE, _segmenter(), ["x", "y", "z"], 64, {})
    assert isinstance(load_any(tmp_path).network, Segmenter)
    assert load_trained(tmp_path, "saliency").class_names == ["x", "y", "z"]


def _bad(folder: Path, kind: str) -> Path:
    path = folder / ("c.ckpt" if kind.endswith("checkpoint") else "n.safetensors")
    if kind == "garbage" or kind == "garbage checkpoint":
        path.write_bytes(b"not a network" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other safetensors":
        save_file({"a": torch.zeros(2)}, path)
    elif kind == "cut short":
        save_trained(path, _saliency(), NAMES, 64, {})
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "another model's checkpoint":
        torch.save({"state_dict": {}}, path)
    elif kind == "a folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "train one with `python train.py model="),
        ("garbage", "cannot be read as a trained network"),
        ("empty", "cannot be read as a trained network"),
        ("other safetensors", "its header says nothing"),
        ("cut short", "cannot be read as a trained network"),
        ("another model's checkpoint", "holds no saliency network"),
        ("garbage checkpoint", "cannot be read as a trained network"),
        ("a folder", "is no run with a s"),
    ],
)
def test_what_is_no_network_is_refused(tmp_path: Path, kind: str, said: str) -> None:
    path = _bad(tmp_path, kind)
    for load in (load_any, lambda path: load_trained(path, "saliency")):
        with pytest.raises(UserError) as error:
            load(path)
        assert said in str(error.value)
        assert path.name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_network_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "n.safetensors", _saliency(), NAMES, 64, {})
    with pytest.raises(UserError, match="is not a segmenter network: its header says saliency"):
        load_trained(path, "segmenter")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    """A header that speaks of other classes than its weights have."""
    path = save_trained(tmp_path / "n.safetensors", _segmenter(), [*NAMES, "one more"], 64, {})
    with pytest.raises(UserError, match="cannot be read as a trained network"):
        load_any(path)


def test_an_unwritable_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_trained(tmp_path / "file" / "n.safetensors", _saliency(), NAMES, 64, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
