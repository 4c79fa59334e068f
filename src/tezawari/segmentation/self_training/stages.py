"""Stages of weak supervision: folders of pseudo masks that are whole or unfinished, never mixed and never overwritten.

A stage writes one mask an image into ``NAME.unfinished``, each whole or absent, and renames the folder when its
manifest stands. Its key is a hash of all that its masks depend on; a stopped stage goes on where it was, another
stage's folder is refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.segmentation.masks import read_mask, write_mask
from tezawari.segmentation.pseudo_masks import PseudoMask

ROUNDS_FOLDER = "rounds"
MANIFEST = "manifest.json"
_UNFINISHED, _ADOPTING = ".unfinished", ".adopting"


@dataclass(frozen=True)
class Stage:
    """A finished stage: a folder with a mask an image and each image's ease in [0, 1]."""

    folder: Path
    key: str
    ease: dict[str, float] = field(repr=False)
    figures: dict[str, float]
    """What else was measured, by name."""

    def mask(self, image_id: str) -> np.ndarray:
        """Return the pseudo mask (H, W) uint8 of an image, 255 = ignore."""
        return read_mask(mask_path(self.folder, image_id))

    def ranked(self) -> list[str]:
        """Return the images' ids, the easiest first; equally easy ones by name."""
        return sorted(self.ease, key=lambda image_id: (-self.ease[image_id], image_id))


def stage_key(values: Mapping[str, Any], networks: Iterable[nn.Module] = ()) -> str:
    """Return sixteen hexadecimal digits of all that a stage depends on: plain values and networks' weights."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def mask_path(folder: Path, image_id: str) -> Path:
    """Return where a stage keeps an image's mask; ids that hold folders keep their names apart."""
    return folder / f"{image_id.replace('/', '__')}.png"


def read_stage(folder: Path) -> Stage | None:
    """Return the finished stage in ``folder``, or None; raises UserError for a manifest that cannot be read."""
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Stage(folder, values["key"], values["ease"], values["figures"])
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / MANIFEST} is damaged ({error}): delete {folder} to have it made again") from error


def run_stage(
    folder: Path,
    key: str,
    ids: Sequence[str],
    make: Callable[[Sequence[str]], Iterator[PseudoMask]],
    figures: Callable[[Mapping[str, float]], dict[str, float]] = lambda ease: {},
    progress: Callable[[int, int], None] | None = None,
) -> Stage:
    """Return the stage of ``folder``, made now as far as it is not there yet.

    Args:
        folder: where its masks go.
        key: what :func:`stage_key` gave for it.
        ids: the images.
        make: yields the pseudo masks of the ids that it is given, in any order.
        figures: called with each image's ease when all masks are there; what it returns goes into the manifest.
        progress: called with (images done, images in all).

    Raises:
        UserError: ``folder`` holds another stage, finished or not.
    """
    found = read_stage(folder)
    if found is not None:
        if found.key != key:
            raise UserError(
                f"{folder} holds masks made by another configuration or from other weights ({found.key}, not {key}): "
                "they are kept; start a new run, or delete that folder"
            )
        return found
    aside = folder.with_name(folder.name + _UNFINISHED)
    aside.mkdir(parents=True, exist_ok=True)
    ease = _begun(aside, key)
    left = [image_id for image_id in ids if image_id not in ease]
    with (aside / "done.jsonl").open("a", encoding="utf-8") as log:
        for pseudo in make(left) if left else ():
            write_mask(mask_path(aside, pseudo.id), pseudo.mask)
            ease[pseudo.id] = pseudo.ease
            log.write(json.dumps([pseudo.id, pseudo.ease]) + "\n")
            log.flush()
            if progress is not None:
                progress(len(ease), len(ids))
    missing = [image_id for image_id in ids if image_id not in ease]
    if missing:
        raise UserError(f"{folder}: no mask was made of {missing[0]} and {len(missing) - 1} others")
    values = {"key": key, "ease": {i: ease[i] for i in sorted(ids)}, "figures": figures(ease)}
    write_atomically(aside / MANIFEST, (json.dumps(values, indent=1) + "\n").encode())
    aside.rename(folder)
    stage = read_stage(folder)
    assert stage is not None
    return stage


def adopt_stage(source: Path, folder: Path, key: str) -> None:
    """Copy another run's finished stage, if it is what would be made here; raises UserError where it is not."""
    found = read_stage(source)
    if found is None:
        raise UserError(f"{source} holds no finished masks: name a run of model=stc that has made its first ones")
    if found.key != key:
        raise UserError(f"{source} was made by another configuration, from other images or another saliency network")
    aside = folder.with_name(folder.name + _ADOPTING)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    aside.rename(folder)


def _begun(aside: Path, key: str) -> dict[str, float]:
    """Return the ease of the images that an unfinished stage has done; note the key where it is only beginning."""
    note = aside / "key"
    if not note.is_file():
        write_atomically(note, key.encode())
        return {}
    if note.read_text() != key:
        raise UserError(
            f"{aside} was begun by another configuration or from other weights: start a new run, or delete that folder"
        )
    done: dict[str, float] = {}
    if (aside / "done.jsonl").is_file():
        for line in (aside / "done.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                image_id, ease = json.loads(line)
            except ValueError:  # the line that a kill cut short: its mask is made again
                continue
            done[image_id] = ease
    return done
