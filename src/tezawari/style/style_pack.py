"""A style pack: the style of several images in one file, which painting and network training take as a style.

It holds what a loss network saw of the images (Gram matrices, perhaps means), merged, not the images themselves
(METHODS §8). The file is safetensors with a JSON header.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.published import HEADER, write_published
from tezawari.features.backbone import Backbone
from tezawari.style.loss import StyleTarget

log = logging.getLogger(__name__)

Merge = Literal["mean", "max", "minimise", "mean+covariance"]
MERGES: tuple[Merge, ...] = get_args(Merge)

SUFFIX = ".safetensors"
_KIND = "style pack"
_FORMAT = 1
_DIGEST_DIGITS = 16
# Strokes of a style that is off by more than this look coarser or finer than asked.
_SAME_SIDE = 1.1


@dataclass(frozen=True)
class PackedImage:
    """An image that a pack was made of: its name, and who made it under which licence, where that is known."""

    name: str
    author: str = ""
    licence: str = ""
    page_url: str = ""


@dataclass(frozen=True)
class StylePack:
    """The merged style of some images of a word.

    ``merge`` says how their statistics became one. ``backbone`` and ``weights`` (tensor's name → start of its SHA-256)
    say which network saw them. ``targets``: shorter side of the images in pixels → what a picture of such strokes is
    compared with, largest side first. ``cluster``, of ``clusters``, from 1. ``preview``: the images, (3, h, w) uint8.
    """

    word: str
    merge: Merge
    backbone: str
    weights: dict[str, str]
    targets: dict[int, StyleTarget]
    cluster: int
    clusters: int
    images: tuple[PackedImage, ...]
    preview: Tensor

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose statistics it holds."""
        return tuple(next(iter(self.targets.values())).grams)

    def target(self, backbone: Backbone, layers: Sequence[str], side: float) -> StyleTarget:
        """Return what a picture is compared with at ``layers``: images seen at the shorter side nearest to ``side`` px.

        Nearest by ratio. Raises :class:`UserError` where ``backbone`` is another than the pack was made with, or has
        other weights, and where the pack lacks a layer.
        """
        self._require_backbone(backbone)
        lacking = [layer for layer in layers if layer not in self.layers]
        if lacking:
            raise UserError(
                f"{self._name()} lacks layer {lacking[0]} of {self.backbone} (it has {', '.join(self.layers)}): leave "
                f"that out of the style layers, or type tezawari style-pack {self.word} --layers {','.join(layers)}"
            )
        target = self.targets[self.nearest_side(side)]
        means = None if target.means is None else {layer: target.means[layer] for layer in layers}
        return StyleTarget({layer: target.grams[layer] for layer in layers}, means)

    def nearest_side(self, side: float) -> int:
        """Return the side, in pixels, of the pack's that is nearest to ``side`` by ratio."""
        return min(self.targets, key=lambda own: abs(math.log(own / side)))

    def warn_of_other_side(self, side: int) -> None:
        """Log where the pack's strokes are coarser or finer than those of images of a shorter ``side`` in pixels."""
        nearest = self.nearest_side(side)
        if max(nearest / side, side / nearest) > _SAME_SIDE:
            log.warning(
                "%s was made of images of %d px and is used beside styles of %d px: tezawari style-pack %s --size %d",
                self._name(),
                nearest,
                side,
                self.word,
                side,
            )

    def _name(self) -> str:
        return f"the style pack {self.word} ({self.merge})"

    def _require_backbone(self, backbone: Backbone) -> None:
        again = f"make it again by tezawari style-pack {self.word} --backbone {backbone.name}"
        if backbone.name != self.backbone:
            raise UserError(
                f"{self._name()} was made with the backbone {self.backbone}, which is not {backbone.name}: choose "
                f"{self.backbone} here too, or {again}"
            )
        here = weights_digest(backbone)
        other = [name for name in self.weights if name in here and here[name] != self.weights[name]]
        if other:
            raise UserError(
                f"{self._name()} was made with other weights of {self.backbone} ({other[0]} is "
                f"{self.weights[other[0]]}, not {here[other[0]]}): name the same file here, or {again} and --weights"
            )


def weights_digest(backbone: Backbone) -> dict[str, str]:
    """Return the start of each tensor's SHA-256, by its name in the backbone's state dict.

    One digest of all would hang on how deep the backbone was loaded.
    """
    return {
        name: hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:_DIGEST_DIGITS]
        for name, value in backbone.state_dict().items()
    }


def save_style_pack(path: Path, pack: StylePack) -> Path:
    """Write a pack, aside and then renamed: whole or absent; return the path.

    Of a Gram matrix (C, C) only the upper triangle is stored. Raises :class:`UserError` where the file system refuses.
    """
    tensors = {"preview": pack.preview.contiguous()}
    for side, target in pack.targets.items():
        for layer, grams in target.grams.items():
            tensors[f"gram/{side}/{layer}"] = upper_triangle(grams)
        for layer, means in (target.means or {}).items():
            tensors[f"mean/{side}/{layer}"] = means.contiguous()
    header = {
        "kind": _KIND,
        "format": _FORMAT,
        "word": pack.word,
        "merge": pack.merge,
        "backbone": pack.backbone,
        "weights": pack.weights,
        "layers": pack.layers,
        "sides": list(pack.targets),
        "cluster": pack.cluster,
        "clusters": pack.clusters,
        "images": [asdict(image) for image in pack.images],
    }
    return write_published(path, tensors, header)


def load_style_pack(path: Path) -> StylePack:
    """Read a pack; raises :class:`UserError` for a file that is missing, damaged, too new or no style pack."""
    if not path.is_file():
        raise UserError(f"no style pack at {path}: make one by tezawari style-pack WORD")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if header.get("kind") != _KIND:
                raise UserError(f"{path} is not a style pack: make one by tezawari style-pack WORD")
            if header["format"] > _FORMAT:
                raise UserError(f"{path} is a style pack of a newer tezawari: update it, or make the pack again")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return _unpacked(header, tensors)
    except UserError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as a style pack ({reason}): make it again") from error


def _unpacked(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> StylePack:
    if header["merge"] not in MERGES:
        raise ValueError(f"it was merged by {header['merge']}")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise ValueError("it holds numbers that are not finite")
    targets = {}
    for side in header["sides"]:
        grams = {layer: from_upper_triangle(tensors[f"gram/{side}/{layer}"]) for layer in header["layers"]}
        means = None
        if f"mean/{side}/{header['layers'][0]}" in tensors:
            means = {layer: tensors[f"mean/{side}/{layer}"] for layer in header["layers"]}
        targets[int(side)] = StyleTarget(grams, means)
    return StylePack(
        word=str(header["word"]),
        merge=header["merge"],
        backbone=str(header["backbone"]),
        weights=dict(header["weights"]),
        targets=targets,
        cluster=int(header["cluster"]),
        clusters=int(header["clusters"]),
        images=tuple(PackedImage(**image) for image in header["images"]),
        preview=tensors["preview"],
    )


def upper_triangle(grams: Tensor) -> Tensor:
    """Return the upper triangles (…, C (C + 1) / 2), the diagonal included, of symmetric matrices (…, C, C)."""
    row, column = torch.triu_indices(*grams.shape[-2:])
    return grams[..., row, column].contiguous()


def from_upper_triangle(triangles: Tensor) -> Tensor:
    """Return the symmetric matrices (…, C, C) of their upper triangles; ``ValueError`` for what is no triangle."""
    count = triangles.shape[-1]
    channels = int((np.sqrt(8 * count + 1) - 1) // 2)
    if channels * (channels + 1) // 2 != count:
        raise ValueError(f"{count} numbers are no upper triangle of a matrix")
    row, column = torch.triu_indices(channels, channels)
    grams = triangles.new_empty(*triangles.shape[:-1], channels, channels)
    grams[..., row, column] = triangles
    grams[..., column, row] = triangles
    return grams
