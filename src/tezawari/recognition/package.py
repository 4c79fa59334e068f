"""A trained classifier as a file: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tezawari.core.checkpoints import list_checkpoints
from tezawari.core.errors import UserError
from tezawari.core.published import HEADER, write_published
from tezawari.core.runs import CHECKPOINTS_FOLDER
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
    file = _find(path.expanduser())
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read as a trained classifier: {reason[:160]}") from error
    return trained


def _find(path: Path) -> Path:
    if path.is_dir():
        candidates = [path / MATERIAL_FILE, *list_checkpoints(path / CHECKPOINTS_FOLDER)[:1]]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is None:
            raise UserError(f"{path} is no run with a material classifier: {_COMMAND}")
        return found
    if not path.is_file():
        raise UserError(f"no material classifier at {path}: {_COMMAND}")
    return path


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
        if header.get("kind") != _KIND:
            raise UserError(f"{path} is not a material classifier: its header says {header.get('kind', 'nothing')}")
        return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    header = checkpoint.get("networks", {}).get(_KIND)
    if header is None:
        raise UserError(f"{path} holds no material classifier")
    prefix = "classifier."
    tensors = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return {**header, "meta": checkpoint["hyper_parameters"]}, tensors
