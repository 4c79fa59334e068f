"""Networks of inverses as files: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tezawari.core.checkpoints import load_checkpoint
from tezawari.core.errors import UserError
from tezawari.core.published import find_published, read_published, tensors_of, why_unreadable, write_published
from tezawari.style.inverse.model import build_inverse_network
from tezawari.style.inverse.transforms import ForwardTransform
from tezawari.style.network import ConditionalNetwork

NETWORK_FILE = "network.safetensors"
_KIND = "inverse"
_TRAIN = "train one with `python train.py model=inverse model.task=denoise`"


@dataclass(frozen=True)
class LoadedInverse:
    """A network ready to use (evaluation mode, float32), the transform that it undoes, and how it was made."""

    network: ConditionalNetwork
    transform: ForwardTransform
    meta: dict[str, Any]


def describe_inverse(network: ConditionalNetwork, transform: ForwardTransform) -> dict[str, Any]:
    """Return, as plain values, what it takes to build ``network`` again and to say what it undoes."""
    return {
        "kind": _KIND,
        "net": network.net,
        "task": transform.task,
        "max_noise": transform.max_noise,
        "scales": list(transform.scales),
    }


def save_inverse(path: Path, network: ConditionalNetwork, transform: ForwardTransform, meta: dict[str, Any]) -> Path:
    """Write ``network`` as safetensors whose header says its shape, its task and ``meta`` as JSON; return the path.

    The file is written aside and renamed, so that it is whole or absent.
    """
    header = {"format": 1, **describe_inverse(network, transform), "meta": meta}
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return write_published(path, tensors, header)


def load_inverse(path: Path) -> LoadedInverse:
    """Read a network from a published ``.safetensors`` file, a training checkpoint ``.ckpt``, or the folder of a run.

    Raises:
        UserError: when there is none, it is damaged, or it undoes no transform.
    """
    file = find_network(path.expanduser())
    try:
        header, tensors = (_read_checkpoint if file.suffix == ".ckpt" else _read_safetensors)(file)
        network = build_inverse_network(header["net"])
        network.load_state_dict(tensors)
        transform = ForwardTransform(header["task"], float(header["max_noise"]), tuple(header["scales"]))
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise UserError(f"{file} cannot be read as a network of model=inverse: {why_unreadable(error)}") from error
    return LoadedInverse(network.eval().requires_grad_(False), transform, dict(header["meta"]))


def find_network(path: Path) -> Path:
    """Return the file of a network: ``path`` itself, or a run's published network or newest checkpoint."""
    return find_published(path, NETWORK_FILE, "network", _TRAIN, file_is="checkpoint")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = read_published(path)
    _require_kind(path, header)
    return header, tensors


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    checkpoint = load_checkpoint(path)
    header = checkpoint.get("network", {})
    _require_kind(path, header)
    return {**header, "meta": dict(checkpoint["hyper_parameters"])}, tensors_of(checkpoint, "network")


def _require_kind(path: Path, header: dict[str, Any]) -> None:
    if header.get("kind") != _KIND:
        raise UserError(f"{path} is not a network of model=inverse, which alone restores photos: {_TRAIN}")
