"""A trained classifier as a file: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.published import find_published, read_published, tensors_of, why_unreadable, write_published
from tezawari.recognition.classifier import MaterialClassifier

MATERIAL_FILE = "material.safetensors"
_KIND = "material"
_COMMAND = "train one with `python train.py model=material`"


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier ready to use (evaluation mode, float32), the names of its K classes, and how it was made.

    ``image_size``: the side, in pixels, of the square views that it was trained on.
    """

    network: MaterialClassifier
    class_names: list[str]
    image_size: int
    meta: dict[str, Any]


def describe(network: MaterialClassifier, class_names: list[str], image_size: int) -> dict[str, Any]:
    """Return, as plain values, what it takes to build ``network`` again, name its classes and show it photos."""
    common = {"kind": _KIND, "backbone": network.backbone, "layer": network.layer}
    return {**common, "class_names": class_names, "image_size": image_size}


def save_classifier(
    path: Path, network: MaterialClassifier, class_names: list[str], image_size: int, meta: dict[str, Any]
) -> Path:
    """Write ``network`` as safetensors whose header says its shape, its classes and ``meta`` as JSON; return the path.

    ``image_size`` is the side, in pixels, of the square views that the network was trained on. The file is whole or
    absent. Raises :class:`UserError` where the file system refuses.
    """
    header = {"format": 1, **describe(network, class_names, image_size), "meta": meta}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    return write_published(path, tensors, header)


def load_classifier(path: Path) -> TrainedClassifier:
    """Read a classifier from a published ``.safetensors`` file, a ``.ckpt``, or the folder of a run.

    Raises:
        UserError: when there is none, it is damaged, or it is another kind of network.
    """
    file = find_published(path.expanduser(), MATERIAL_FILE, "material classifier", _COMMAND)
    try:
        header, tensors = (_read_checkpoint if file.suffix == ".ckpt" else _read_safetensors)(file)
        network = MaterialClassifier(header["backbone"], len(header["class_names"]), "replaced", header["layer"])
        network.load_state_dict(tensors)
        trained = TrainedClassifier(
            network.eval().requires_grad_(False), list(header["class_names"]), int(header["image_size"]), header["meta"]
        )
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise UserError(f"{file} cannot be read as a trained classifier: {why_unreadable(error)}") from error
    return trained


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = read_published(path)
    if header.get("kind") != _KIND:
        raise UserError(f"{path} is not a material classifier: its header says {header.get('kind', 'nothing')}")
    return header, tensors


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    header = checkpoint.get("networks", {}).get(_KIND)
    if header is None:
        raise UserError(f"{path} holds no material classifier")
    return {**header, "meta": checkpoint["hyper_parameters"]}, tensors_of(checkpoint, "classifier")
