"""Networks for unseen styles as files: safetensors with a JSON header to publish, Lightning checkpoints to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tezawari.core.checkpoints import load_checkpoint
from tezawari.core.errors import UserError
from tezawari.core.published import find_published, read_published, tensors_of, why_unreadable, write_published
from tezawari.features.backbone import Backbone, load_backbone
from tezawari.features.weights import RANDOM
from tezawari.style.style_pack import weights_digest
from tezawari.style.unseen.model import UnseenStyleNetwork

NETWORK_FILE = "network.safetensors"
_KIND = "unseen style"
_TRAIN = "train one with `python train.py model=unseen_style`"


@dataclass(frozen=True)
class LoadedUnseen:
    """A network ready to use (evaluation mode, float32), how it sees styles, and how it was made.

    ``backbone_name`` and ``backbone_digest`` (tensor's name → start of its SHA-256) say which loss network computes
    the Gram matrices it reads; ``style_size`` is the shorter side, in pixels, at which it was shown style images.
    """

    network: UnseenStyleNetwork
    backbone_name: str
    backbone_digest: dict[str, str]
    style_size: int
    meta: dict[str, Any]

    def backbone(self, weights: str | None = None, more_layers: Iterable[str] = ()) -> Backbone:
        """Load the loss network that it was trained with.

        Args:
            weights: a file of its weights; None for those that the backbone comes with.
            more_layers: layers beside those of the style.

        Raises:
            UserError: the weights are others than those that it was trained with, or cannot be read.
        """
        if weights is None and self.meta.get("backbone_weights") == RANDOM:
            weights = RANDOM
        backbone = load_backbone(self.backbone_name, {*self.network.layers, *more_layers}, weights)
        here = weights_digest(backbone)
        if any(here[name] != self.backbone_digest[name] for name in here.keys() & self.backbone_digest.keys()):
            raise UserError(
                f"the network was trained with other weights of {self.backbone_name} "
                f"({self.meta.get('backbone_weights') or 'those it comes with'}): name their file by --weights"
            )
        return backbone


def describe_unseen(
    network: UnseenStyleNetwork, backbone_name: str, backbone_digest: dict[str, str], style_size: int
) -> dict[str, Any]:
    """Return, as plain values, what it takes to build ``network`` again and to show it styles."""
    return {
        "kind": _KIND,
        "net": network.network.net,
        "fusion": network.network.fusion,
        "embedding": network.embedding,
        "hidden": network.hidden,
        "projected": network.projected,
        "layers": list(network.channels),
        "channels": list(network.channels.values()),
        "backbone": backbone_name,
        "weights": backbone_digest,
        "style_size": style_size,
    }


def save_unseen(path: Path, network: UnseenStyleNetwork, description: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write ``network`` as safetensors whose header is :func:`describe_unseen`'s and ``meta`` as JSON; return the path.

    The file is written aside and renamed, so that it is whole or absent.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return write_published(path, tensors, {"format": 1, **description, "meta": meta})


def load_unseen(path: Path) -> LoadedUnseen:
    """Read a network from a published ``.safetensors`` file, a training checkpoint ``.ckpt``, or the folder of a run.

    Raises:
        UserError: when there is none, it is damaged, or it knows no style but its own.
    """
    file = find_unseen(path.expanduser())
    try:
        header, tensors = (_read_checkpoint if file.suffix == ".ckpt" else _read_safetensors)(file)
        network = UnseenStyleNetwork(
            dict(zip(header["layers"], header["channels"])),
            header["net"],
            header["fusion"],
            header["embedding"],
            header["hidden"],
            header["projected"],
        )
        network.load_state_dict(tensors)
        return LoadedUnseen(
            network.eval().requires_grad_(False),
            str(header["backbone"]),
            dict(header["weights"]),
            int(header["style_size"]),
            dict(header["meta"]),
        )
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise UserError(f"{file} cannot be read as a network of model=unseen_style: {why_unreadable(error)}") from error


def find_unseen(path: Path) -> Path:
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
        raise UserError(f"{path} is not a network of model=unseen_style, which alone takes style images: {_TRAIN}")
