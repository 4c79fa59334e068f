"""Reading weight files so that a wrong one is refused with one line that names the first wrong key."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tezawari.core.errors import UserError, did_you_mean

log = logging.getLogger(__name__)

RANDOM = "random"


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` or PyTorch (``.pth``, ``.pt``, ``.bin``) state dict as float32 tensors on the CPU.

    Half precision is upcast. PyTorch files are opened with ``weights_only``: nothing in them is executed. Raises
    :class:`UserError` for a file that is missing, damaged, or is not a flat mapping of names to tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"no weights file at {path}: name an existing one with backbone.weights=FILE")
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot read the weights in {path} ({reason[:160]}): it is damaged or of another kind; "
            "download it again or name another with backbone.weights=FILE"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds no state dict (names → tensors): name another with backbone.weights=FILE")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in state.items()}


def load_checked(module: nn.Module, state: Mapping[str, Tensor], where: str, optional: tuple[str, ...] = ()) -> None:
    """Copy ``state`` into ``module``; keys the module has no use for are ignored (a classifier, say).

    ``optional`` are prefixes of keys that the file may lack. Raises :class:`UserError` naming the first key that is
    missing or of another shape.
    """
    usable = {}
    for name, own in module.state_dict().items():
        if name not in state:
            if name.startswith(optional) or name.endswith("num_batches_tracked"):
                continue
            near = did_you_mean(name, state) if len(state) < 2000 else ""
            raise UserError(f"the weights in {where} lack {name!r}{near[:200]}: they belong to another network")
        if state[name].shape != own.shape:
            raise UserError(
                f"the weights in {where} have {name!r} of shape {tuple(state[name].shape)}, not {tuple(own.shape)}: "
                "they belong to another network"
            )
        usable[name] = state[name]
    module.load_state_dict(usable, strict=False)


def warn_random(name: str) -> None:
    """Say in the log that a network's weights mean nothing."""
    log.warning("backbone %s has random weights (weights=random): fit for tests only", name)
