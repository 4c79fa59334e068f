"""``tezawari stylize``: restyle photos from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.progress import tile_line
from tezawari.data.photo import Photo, named_after, read_photo, write_photo
from tezawari.style.contact_sheet import save_contact_sheet
from tezawari.style.maps import read_style_map
from tezawari.style.mixing import ALL, RANDOM, parse_styles
from tezawari.style.stylize import Stylizer
from tezawari.style.unseen.apply import network_of_styles
from tezawari.style.unseen.package import load_unseen

_SHEET_FORMATS = {".png", ".jpg", ".jpeg"}
_SMALLEST_SHEET_SIDE, _LARGEST_SHEET_SIDE = 32, 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari stylize``."""
    parser.description = "Restyle photos with a trained network: one style, a mix, or another style in each region."
    parser.epilog = (
        "tezawari stylize cat.jpg --style wood=0.6 --style water=0.4 -o out   |   "
        "tezawari stylize cat.jpg --style wood --style water --style-map regions.png --feather 8 -o out   |   "
        "tezawari stylize cat.jpg --checkpoint RUN --style-image bark.jpg -o out"
    )
    parser.add_argument("photos", metavar="PHOTO", nargs="*", type=Path)
    parser.add_argument("--checkpoint", metavar="C", type=Path, help="network.safetensors or .ckpt of a training run")
    parser.add_argument(
        "--style-image",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        help="an image or a style pack, again for more: they are the styles, named like their files, of a network of "
        "model=unseen_style (--checkpoint: its file or run), which needs no training for them",
    )
    parser.add_argument("--weights", metavar="FILE", help="of the backbone that sees --style-image")
    parser.add_argument(
        "--style",
        metavar="NAME[=W]",
        action="append",
        default=[],
        help=f"a style and its weight, again for a mix; {ALL}: all in equal parts, {RANDOM}: a random mix; "
        "none: one picture for each style",
    )
    parser.add_argument(
        "--style-map",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        help="a label image whose values 0, 1, … are the styles in the order asked, or one grey map for each style",
    )
    parser.add_argument("--feather", metavar="PX", type=float, default=0.0, help="soften the map's borders")
    parser.add_argument("--normalize", action="store_true", help="scale the weights to a sum of 1")
    parser.add_argument("--keep-color", action="store_true", help="keep the photo's colours")
    parser.add_argument("--seed", type=int, default=0, help=f"of --style {RANDOM}")
    parser.add_argument("--list", action="store_true", help="list the network's styles and stop")
    parser.add_argument("--sheet", metavar="FILE", type=Path, help="draw one contact sheet, photos × styles, and stop")
    parser.add_argument("--sheet-side", metavar="PX", type=int, default=256, help="side of each of its pictures")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("stylized"))


def run(args: argparse.Namespace) -> int:
    """Restyle every photo; a photo that cannot be read is named, the others are still done, and the exit code is 2."""
    stylizer = open_stylizer(args.checkpoint, args.style_image, args.weights)
    if args.list:
        print("\n".join(stylizer.style_names))
        return 0
    if not args.photos:
        raise UserError("no photo was named: tezawari stylize PHOTO… --style NAME -o DIR")
    if args.sheet is not None:
        print(_draw_sheet(args, stylizer))
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    failures = 0
    for path in args.photos:
        try:
            photo = read_photo(path)
            for label, style in _conditions(args, stylizer, photo):
                target = named_after(args.output, path, label, args.photos)
                image = stylizer(photo.image, style, args.keep_color, tile_line if sys.stderr.isatty() else None)
                print(write_photo(target, image, photo))
        except UserError as error:
            failures += 1
            print(f"error: {error}", file=sys.stderr)
    return 2 if failures else 0


def open_stylizer(checkpoint: Path | None, style_images: Sequence[Path], weights: str | None) -> Stylizer:
    """Return the network of a file or run, its styles its own or, of a network of unseen styles, what is named.

    Raises:
        UserError: style images without such a network, weights without style images, and what reading them refuses.
    """
    if not style_images:
        if weights is not None:
            raise UserError(
                "--weights are those of the backbone that sees --style-image FILE: add it, or leave both out"
            )
        return Stylizer.load(checkpoint)
    if checkpoint is None:
        raise UserError(
            "--style-image needs a network of model=unseen_style: name its file or run by --checkpoint (train one with "
            "`python train.py model=unseen_style`)"
        )
    return Stylizer(network_of_styles(load_unseen(checkpoint), style_images, weights))


def _draw_sheet(args: argparse.Namespace, stylizer: Stylizer) -> Path:
    if args.sheet.suffix.lower() not in _SHEET_FORMATS:
        raise UserError(f"--sheet {args.sheet}: a contact sheet is a {' or '.join(sorted(_SHEET_FORMATS))} file")
    if not _SMALLEST_SHEET_SIDE <= args.sheet_side <= _LARGEST_SHEET_SIDE:
        raise UserError(f"--sheet-side {args.sheet_side}: from {_SMALLEST_SHEET_SIDE} to {_LARGEST_SHEET_SIDE} pixels")
    photos = [read_photo(path).image for path in args.photos]
    try:
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        return save_contact_sheet(args.sheet, stylizer.trained, photos, side=args.sheet_side)
    except OSError as error:
        raise UserError(f"cannot write {args.sheet}: {error.strerror or error}") from error


def _conditions(args: argparse.Namespace, stylizer: Stylizer, photo: Photo) -> list[tuple[str, Tensor]]:
    """Return the label and condition of each picture to make of one photo."""
    names = stylizer.style_names
    if not args.style and not args.style_map:
        return [(name, condition) for name, condition in zip(names, torch.eye(len(names)))]
    label = "+".join(args.style).replace("/", "_")[:80]
    if not args.style_map:
        return [(label, stylizer.mix(*args.style, normalize=args.normalize, seed=args.seed))]
    vectors = parse_styles(args.style, names, seed=args.seed)
    size = (int(photo.image.shape[-2]), int(photo.image.shape[-1]))
    stride = stylizer.trained.network.bottleneck_stride
    style_map = read_style_map(args.style_map, vectors, size, feather_px=args.feather, stride=stride)
    if args.normalize:
        style_map = style_map / style_map.sum(0).clamp_min(1e-8)
    return [(f"map-{label}", style_map)]
