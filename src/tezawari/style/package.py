"""Trained networks as files: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.published import HEADER, find_published, write_published
from tezawari.style.network import ConditionalNetwork, build_network

NETWORK_FILE = "network.safetensors"
"""Under which name a run publishes its network."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network ready to use (evaluation mode, float32), the names of its styles, and how it was made."""

    network: ConditionalNetwork
    style_names: list[str]
    meta: dict[str, Any]


def describe_network(network: ConditionalNetwork, style_names: list[str]) -> dict[str, Any]:
    """Return, as plain values, what it takes to build ``network`` again and to name its styles."""
    return {"net": network.net, "fusion": network.fusion, "norm": network.norm, "style_names": style_names}


def save_network(
    path: Path, network: ConditionalNetwork, style_names: list[str], meta: dict[str, Any], half: bool = False
) -> Path:
    """Write ``network`` as safetensors whose header says its shape, its styles and ``meta`` as JSON; return the path.

    With ``half``, weights are stored as float16. The file is written aside and renamed, so that it is whole or absent.
    """
    header = {"format": 1, **describe_network(network, style_names), "meta": meta}
    tensors = {
        key: (value.half() if half and value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    return write_published(path, tensors, header)


def load_network(path: Path) -> LoadedNetwork:
    """Read a network from a published ``.safetensors`` file, a training checkpoint ``.ckpt``, or the folder of a run.

    Raises:
        UserError: when the file is missing, damaged, or not a network of this project.
    """
    train = "train one with `python train.py model=multistyle`"
    path = find_published(path, NETWORK_FILE, "network", train, file_is="checkpoint")
    try:
        header, tensors = (_read_checkpoint if path.suffix == ".ckpt" else _read_safetensors)(path)
        if header.get("kind") == "unseen style":
            raise UserError(f"{path} takes its styles from images: name them by --style-image FILE")
        network = build_network(header["net"], len(header["style_names"]), header["fusion"], header["norm"])
        network.load_state_dict(tensors)
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise UserError(f"{path} cannot be read as a multi-style network: {str(error).splitlines()[0]}") from error
    return LoadedNetwork(network.eval(), list(header["style_names"]), dict(header["meta"]))


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if HEADER not in metadata:
            raise UserError(f"{path} is not a multi-style network: its header does not name one")
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    return json.loads(metadata[HEADER]), {
        key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
    }


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    prefix = "network."
    tensors = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    return {**checkpoint["network"], "meta": dict(checkpoint["hyper_parameters"])}, tensors
