"""Networks and photos that the tests of restoring share."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image

from tezawari.style.inverse.model import build_inverse_network
from tezawari.style.inverse.package import save_inverse
from tezawari.style.inverse.transforms import TASKS, ForwardTransform
from tezawari.style.network import build_network
from tezawari.style.package import save_network

PHOTOS = ("astronaut", "coffee", "chelsea")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, and a network for each task, untrained but far from neutral."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "photos").mkdir()
    for name in PHOTOS:
        Image.fromarray(getattr(skimage.data, name)()).resize((91, 70)).save(folder / "photos" / f"{name}.png")
    torch.manual_seed(0)
    for task in TASKS:
        network = build_inverse_network("deepstylecam").eval()
        torch.nn.init.normal_(network.to_rgb.weight, std=0.01)
        meta = {"backbone_name": "vgg16", "perceptual_weight": 0.1}
        save_inverse(folder / f"{task}.safetensors", network, ForwardTransform(task), meta)
    save_network(folder / "style.safetensors", build_network("deepstylecam", 2), ["wood", "water"], {})
    return folder
