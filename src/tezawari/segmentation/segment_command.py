"""``tezawari segment``: find classes in photos from the command line."""

from __future__ import annotations

import argparse
import io
import itertools
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.data.photo import load_rgb
from tezawari.segmentation.crf import CrfParameters
from tezawari.segmentation.masks import overlay, write_mask
from tezawari.segmentation.pictures import heat_overlay
from tezawari.segmentation.saliency import Method
from tezawari.segmentation.segment import DEFAULT_BACKGROUND, PhotoSegmenter, Segmented

_CRF = tuple(field.name for field in fields(CrfParameters))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari segment``."""
    parser.description = (
        "Find classes in photos with a trained network: of each photo an overlay, a mask (palette PNG, 0 background) "
        "and a heat map a class."
    )
    parser.epilog = "tezawari segment street.jpg --checkpoint outputs/saliency/RUN --labels person,dog -o out"
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    parser.add_argument("--checkpoint", metavar="C", type=Path, required=True, help="the run or file of a network")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--labels", metavar="NAME,…", help="the classes that are in the photos")
    which.add_argument("--auto", action="store_true", help="look for what the network finds (the default)")
    parser.add_argument("--method", choices=get_args(Method), default="dcsm", help="of a saliency network")
    parser.add_argument(
        "--background", metavar="S", type=float, default=DEFAULT_BACKGROUND, help="its score, in (0, 1)"
    )
    parser.add_argument(
        "--crf",
        metavar="none|NAME=V,…",
        default="",
        help=f"none: masks as they are; or parameters of the CRF: {', '.join(_CRF)}",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("segmented"))


def run(args: argparse.Namespace) -> int:
    """Segment every photo; one that cannot be read is named, the others are still done, and the exit code is 2."""
    segmenter = PhotoSegmenter.load(args.checkpoint)
    crf = parse_crf(args.crf)
    labels = [name.strip() for name in args.labels.split(",") if name.strip()] if args.labels else None
    if not 0 < args.background < 1:
        raise UserError(f"--background {args.background:g}: must lie between 0 and 1")
    if labels:
        segmenter.places(labels)
    args.output.mkdir(parents=True, exist_ok=True)
    failures = 0
    for photo, stem in zip(args.photos, distinct_stems(args.photos)):
        try:
            pixels = np.ascontiguousarray(load_rgb(photo).permute(1, 2, 0).numpy())
            found = segmenter(pixels, labels, args.method, args.background, crf)
            for path in write_results(args.output, stem, pixels, found, segmenter.trained.class_names):
                print(path)
            print(f"{photo}: {_shares(found, segmenter.trained.class_names)}")
        except UserError as error:
            failures += 1
            print(f"error: {error}", file=sys.stderr)
    return 2 if failures else 0


def parse_crf(words: str) -> CrfParameters | None:
    """Return the CRF of ``--crf``: the defaults for an empty one, None for ``none``.

    Raises:
        UserError: another name than a parameter's, or a value that is no number.
    """
    if words == "none":
        return None
    values: dict[str, float] = {}
    for word in words.split(",") if words else ():
        name, _, value = word.partition("=")
        try:
            values[name] = int(value) if name == "iterations" else float(value)
        except ValueError:
            raise UserError(f"--crf {word}: write NAME=NUMBER, or none") from None
        if name not in _CRF:
            raise UserError(f"--crf {word}: there is no parameter {name} (known: {', '.join(_CRF)})")
    return CrfParameters(**values)  # type: ignore[arg-type]


def distinct_stems(photos: Sequence[Path]) -> list[str]:
    """Return a name for each photo: its stem, with the first number that makes it unlike all others."""
    taken: set[str] = set()
    stems = []
    for photo in photos:
        numbered = (f"{photo.stem}-{number}" for number in itertools.count(2))
        # A photo that is called so itself keeps its name.
        own = {other.stem for other in photos if other is not photo}
        stem = photo.stem
        while stem in taken or (stem != photo.stem and stem in own):
            stem = next(numbered)
        taken.add(stem)
        stems.append(stem)
    return stems


def write_results(folder: Path, stem: str, pixels: np.ndarray, found: Segmented, class_names: list[str]) -> list[Path]:
    """Write ``STEM-overlay.png``, ``STEM-mask.png`` and ``STEM-CLASS.png`` a class, each whole or not at all."""
    paths = [folder / f"{stem}-overlay.png", folder / f"{stem}-mask.png"]
    _write_png(paths[0], overlay(pixels, found.mask, class_names))
    write_mask(paths[1], found.mask)
    for name, heat in found.maps.items():
        paths.append(folder / f"{stem}-{name}.png")
        _write_png(paths[-1], heat_overlay(pixels, heat))
    return paths


def _write_png(path: Path, picture: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _shares(found: Segmented, class_names: list[str]) -> str:
    """Say in words what covers how much of the photo."""
    counts = np.bincount(found.mask.ravel(), minlength=1 + len(class_names)) / found.mask.size
    shares = [f"{name} {counts[1 + class_names.index(name)]:.0%}" for name in found.classes]
    return ", ".join([*shares, f"background {counts[0]:.0%}"])
