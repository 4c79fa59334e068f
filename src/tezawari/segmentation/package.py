"""Trained networks of this room as files: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.published import (
    HEADER,
    find_published,
    read_published,
    tensors_of,
    why_unreadable,
    write_published,
)
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.segmenter import Segmenter

SALIENCY_FILE = "saliency.safetensors"
SEGMENTER_FILE = "segmenter.safetensors"

Kind = Literal["saliency", "segmenter"]
_KINDS: tuple[Kind, Kind] = ("saliency", "segmenter")


@dataclass(frozen=True)
class TrainedSegmentation:
    """A network ready to use (evaluation mode, float32), the names of its K classes, and how it was made.

    ``image_size``: the side, in pixels, of the square views that it was trained on.
    """

    network: SaliencyNetwork | Segmenter
    class_names: list[str]
    image_size: int
    meta: dict[str, Any]


def describe(network: SaliencyNetwork | Segmenter, class_names: list[str], image_size: int) -> dict[str, Any]:
    """Return, as plain values, what it takes to build ``network`` again, name its classes and show it photos."""
    common = {"backbone": network.backbone, "class_names": class_names, "image_size": image_size}
    if isinstance(network, Segmenter):
        return {"kind": "segmenter", **common}
    return {"kind": "saliency", **common, "pooling": network.pooling, "layer": network.layer}


def _build(header: dict[str, Any]) -> SaliencyNetwork | Segmenter:
    classes = len(header["class_names"])
    if header["kind"] == "segmenter":
        return Segmenter(header["backbone"], classes, weights="replaced")
    return SaliencyNetwork(header["backbone"], classes, header["pooling"], "replaced", header["layer"])


def save_trained(
    path: Path,
    network: SaliencyNetwork | Segmenter,
    class_names: list[str],
    image_size: int,
    meta: dict[str, Any],
) -> Path:
    """Write ``network`` as safetensors whose header says its shape, its classes and ``meta`` as JSON; return the path.

    ``image_size`` is the side, in pixels, of the square views that the network was trained on.
    The file is written aside and renamed, so that it is whole or absent.
    """
    header = {"format": 1, **describe(network, class_names, image_size), "meta": meta}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    return write_published(path, tensors, header)


def load_trained(path: Path, kind: Kind) -> TrainedSegmentation:
    """Read a network of ``kind`` from a published ``.safetensors`` file, a ``.ckpt``, or the folder of a run.

    Raises:
        UserError: when there is none, it is damaged, or it is of the other kind.
    """
    file = _find(path.expanduser(), kind)
    try:
        header, tensors = (_read_checkpoint if file.suffix == ".ckpt" else _read_safetensors)(file, kind)
        network = _build(header)
        network.load_state_dict(tensors)
        image_size = int(header["image_size"])
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise UserError(f"{file} cannot be read as a trained network: {why_unreadable(error)}") from error
    network.eval().requires_grad_(False)
    return TrainedSegmentation(network, list(header["class_names"]), image_size, dict(header["meta"]))


def load_any(path: Path) -> TrainedSegmentation:
    """Read the segmenter of a run or file, or its saliency network; errors are :func:`load_trained`'s."""
    path = path.expanduser()
    if path.is_dir() and (path / SEGMENTER_FILE).is_file():
        return load_trained(path, "segmenter")
    if path.suffix == ".safetensors" and path.is_file():
        return load_trained(path, "segmenter" if _kind_of(path) == "segmenter" else "saliency")
    # Of an unfinished run of self-training, whose segmenter may not have learnt anything yet, the saliency network.
    first, second = _KINDS if path.is_dir() else _KINDS[::-1]
    try:
        return load_trained(path, first)
    except UserError:
        return load_trained(path, second)


def _kind_of(path: Path) -> str | None:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(HEADER, "{}")).get("kind")
    except (OSError, safetensors.SafetensorError, json.JSONDecodeError):
        return None  # reading it again says what is wrong


def _find(path: Path, kind: Kind) -> Path:
    published, model = (SALIENCY_FILE, "saliency") if kind == "saliency" else (SEGMENTER_FILE, "stc")
    return find_published(path, published, f"{kind} network", f"train one with `python train.py model={model}`")


def _read_safetensors(path: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = read_published(path)
    if header.get("kind") != kind:
        raise UserError(f"{path} is not a {kind} network: its header says {header.get('kind', 'nothing')}")
    return header, tensors


def _read_checkpoint(path: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    header = checkpoint.get("networks", {}).get(kind)
    if header is None:
        raise UserError(f"{path} holds no {kind} network")
    return {**header, "meta": checkpoint["hyper_parameters"]}, tensors_of(checkpoint, kind)
