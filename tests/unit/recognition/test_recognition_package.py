"""A classifier as a file: read again it is the same network, and what is none is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.core.published import write_published
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.package import load_classifier, save_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


def _network() -> MaterialClassifier:
    torch.manual_seed(0)
    return MaterialClassifier("efficientnet_lite0", 3, "random", "block1").eval()


def test_a_file_gives_the_network_back(tmp_path: Path) -> None:
    network = _network()
    path = save_classifier(tmp_path / "material.safetensors", network, ["木", "metal", "a b"], 64, {"steps": 3})
    for place in (path, tmp_path):
        trained = load_classifier(place)
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(trained.network(images), network(images), rtol=0, atol=0)
        assert (trained.class_names, trained.image_size, trained.meta) == (["木", "metal", "a b"], 64, {"steps": 3})
        assert not any(parameter.requires_grad for parameter in trained.network.parameters())


def test_what_is_no_classifier_is_one_line(tmp_path: Path) -> None:
    damaged, other, checkpoint = (tmp_path / name for name in ("d.safetensors", "o.safetensors", "c.ckpt"))
    whole = save_classifier(tmp_path / "whole.safetensors", _network(), ["a", "b", "c"], 64, {})
    damaged.write_bytes(whole.read_bytes()[:-5000])
    write_published(other, {"x": torch.zeros(1)}, {"kind": "saliency"})
    torch.save({"networks": {}, "state_dict": {}}, checkpoint)
    (tmp_path / "empty").mkdir()
    for path, said in (
        (damaged, "cannot be read as a trained classifier"),
        (other, "is not a material classifier: its header says saliency"),
        (checkpoint, "holds no material classifier"),
        (tmp_path / "empty", "is no run with a material classifier: train one with"),
        (tmp_path / "nowhere", "no material classifier at"),
    ):
        with pytest.raises(UserError, match=said):
            load_classifier(path)
