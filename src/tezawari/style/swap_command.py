"""``tezawari swap``: change the material of one region of a photo, and say what is seen there afterwards."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean
from tezawari.data.materials import MATERIALS, material_texture
from tezawari.data.photo import Photo, load_rgb, read_photo, write_photo
from tezawari.features.backbone import load_backbone
from tezawari.segmentation.masks import overlay, read_mask, write_mask
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.segmentation.segment_command import parse_crf
from tezawari.style.gatys import Progress, recipe
from tezawari.style.style_pack import SUFFIX, StylePack, load_style_pack
from tezawari.style.stylize_command import open_stylizer
from tezawari.style.swap import (
    Restyle,
    Swapped,
    border_step,
    by_gatys,
    by_network,
    changed_outside,
    check_region,
    find_source,
    judge_region,
    own_range,
    region_of,
    swap_material,
)
from tezawari.style.swap_pictures import draw_chain, to_pixels

_TEXTURE_SEED, _TEXTURE_SIDE = 1, 384
_LARGEST_STYLE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari swap``."""
    parser.description = (
        "Turn one material of a photo into another: find it, restyle only there, put it back, look again. Writes the "
        "swapped photo, the mask, what was seen before and after, and the chain in one picture."
    )
    parser.epilog = (
        "tezawari swap room.jpg --from wood --to stone --segmenter outputs/selftraining/RUN --checkpoint "
        "outputs/multistyle/RUN/network.safetensors -o out   |   tezawari swap cat.jpg --mask fur.png --to vg_houses"
    )
    parser.add_argument("photo", metavar="PHOTO", type=Path)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--from", metavar="SOURCE", dest="source", help="the material to change; needs --segmenter")
    where.add_argument(
        "--mask", metavar="FILE", type=Path, help="the region itself: a grey or palette PNG, any value but 0"
    )
    parser.add_argument("--to", metavar="TARGET", dest="target", required=True, help="a style of the network")
    parser.add_argument("--segmenter", metavar="RUN", type=Path, help="the run or file of a segmentation network")
    parser.add_argument("--judge", metavar="RUN", type=Path, help="another one, to look again (the segmenter)")
    parser.add_argument("--crf", metavar="none|NAME=V,…", default="", help="of the segmenter and the judge")
    parser.add_argument("--method", choices=["network", "gatys"], default="network")
    parser.add_argument("--checkpoint", metavar="C", type=Path, help="the network's file (the one that comes with it)")
    parser.add_argument(
        "--style-image",
        metavar="FILE",
        type=Path,
        help="what the target looks like, an image or a style pack: for a network of model=unseen_style, and for gatys "
        "(a generated texture, if TARGET is one of the ten materials)",
    )
    parser.add_argument("--backbone", metavar="NAME", default="efficientnet_lite0", help="the loss network of gatys")
    parser.add_argument("--weights", metavar="FILE", help="of that backbone, or of the one that sees --style-image")
    parser.add_argument("--steps", metavar="N", type=int, default=100, help="of gatys (100)")
    parser.add_argument("--feather", metavar="PX", type=float, default=2.0, help="soften the border; 0: hard (2)")
    parser.add_argument("--scale", metavar="S", type=float, default=1.0, help="restyle the photo enlarged by this (1)")
    parser.add_argument("--keep-color", action="store_true", help="keep the photo's colours")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("swapped"))


@dataclass(frozen=True)
class _Eyes:
    """A segmenter and how its masks are refined."""

    segmenter: PhotoSegmenter
    crf: str

    @property
    def class_names(self) -> list[str]:
        return self.segmenter.trained.class_names

    def see(self, pixels: np.ndarray) -> np.ndarray:
        return self.segmenter(pixels, crf=parse_crf(self.crf)).mask


def run(args: argparse.Namespace) -> int:
    """Swap one material; raises ``UserError`` for what cannot be read, found, restyled or written."""
    if args.source is not None and args.segmenter is None:
        raise UserError(
            f"--from {args.source}: to find it takes a segmenter: name one with --segmenter RUN (train one with python "
            "train.py model=stc), or the region itself with --mask FILE"
        )
    restyle = _restyler(args)
    photo = read_photo(args.photo)
    pixels = to_pixels(photo.image)
    finder = None if args.segmenter is None else _Eyes(PhotoSegmenter.load(args.segmenter), args.crf)
    judge = finder if args.judge is None else _Eyes(PhotoSegmenter.load(args.judge), args.crf)
    found = None if finder is None or args.mask is not None else finder.see(pixels)
    region = _region(args, found, finder, pixels.shape[:2])
    swapped = swap_material(photo.image, region, restyle, feather_px=args.feather, keep_color=args.keep_color)
    before = None
    if judge is not None:
        before = found if judge is finder and found is not None else judge.see(pixels)
    _write(args, photo, region, swapped, judge, before)
    return 0


def _restyler(args: argparse.Namespace) -> Restyle:
    if args.method == "network":
        if args.style_image is not None:
            if args.checkpoint is None:
                raise UserError(
                    "--style-image: add --method gatys, or name a network of model=unseen_style by --checkpoint"
                )
            stylizer = open_stylizer(args.checkpoint, [args.style_image], args.weights)
            return by_network(stylizer, stylizer.mix(*stylizer.style_names), scale=args.scale)
        stylizer = open_stylizer(args.checkpoint, [], args.weights)
        if args.target not in stylizer.style_names:
            raise UserError(
                f"--to {args.target}: the network knows no such style{did_you_mean(args.target, stylizer.style_names)}"
            )
        return by_network(stylizer, stylizer.mix(args.target), scale=args.scale)
    backbone = load_backbone(args.backbone, recipe(args.backbone).layers, args.weights)
    tell = _tell if sys.stderr.isatty() else None
    return by_gatys(_style(args), backbone, scale=args.scale, steps=args.steps, progress=tell)


def _style(args: argparse.Namespace) -> Tensor | StylePack:
    if args.style_image is not None:
        if args.style_image.suffix == SUFFIX:
            return load_style_pack(args.style_image)
        return load_rgb(args.style_image, max_side=_LARGEST_STYLE).float() / 255
    if args.target not in MATERIALS:
        raise UserError(
            f"--to {args.target}: no generated material is called so{did_you_mean(args.target, MATERIALS)}; name a "
            "picture of it with --style-image FILE"
        )
    return material_texture(args.target, _TEXTURE_SEED, _TEXTURE_SIDE)


def _region(args: argparse.Namespace, found: np.ndarray | None, finder: _Eyes | None, size: tuple[int, int]) -> Tensor:
    if args.mask is not None:
        region, what = region_of(read_mask(args.mask, (size[0], size[1]))), f"the mask {args.mask}"
    else:
        assert finder is not None
        assert found is not None
        region, what = find_source(found, finder.class_names, args.source), f"the region of {args.source}"
    check_region(region, what)
    return region


def _write(
    args: argparse.Namespace,
    photo: Photo,
    region: Tensor,
    swapped: Swapped,
    judge: _Eyes | None,
    before: np.ndarray | None,
) -> None:
    """Write the pictures, lossless, so that what was not changed is not changed in the files either, and report."""
    stem = args.photo.stem
    target = args.target.replace("/", "_")
    files = {name: args.output / f"{stem}-{name}.png" for name in ("mask", "before", "after", "chain")}
    written = [write_photo(args.output / f"{stem}-to-{target}.png", swapped.image, like=photo)]
    write_mask(files["mask"], region.numpy().astype(np.uint8))
    written.append(files["mask"])
    old, new = to_pixels(photo.image), to_pixels(swapped.image)
    after = None if judge is None else judge.see(new)
    if judge is not None and before is not None and after is not None:
        for name, picture, mask in (("before", old, before), ("after", new, after)):
            legend = np.array(overlay(picture, mask, judge.class_names))
            written.append(write_photo(files[name], torch.from_numpy(legend).permute(2, 0, 1).float() / 255))
    chain = draw_chain(old, swapped.mask, new, after)
    written.append(write_photo(files["chain"], chain))
    for path in written:
        print(path)
    print("\n".join(_report(args, photo, region, swapped, judge, before, after)))


def _report(
    args: argparse.Namespace,
    photo: Photo,
    region: Tensor,
    swapped: Swapped,
    judge: _Eyes | None,
    before: np.ndarray | None,
    after: np.ndarray | None,
) -> list[str]:
    share = float(region.float().mean())
    lines = [f"{args.photo}: {args.source or args.mask} ({share:.0%} of the photo) -> {args.target}"]
    if judge is None or before is None or after is None:
        lines.append("  nobody looked again: name a segmenter with --judge RUN")
    else:
        known = args.target in judge.class_names
        target = 1 + judge.class_names.index(args.target) if known else 0
        verdicts = [judge_region(mask, region, target) for mask in (before, after)]
        for when, verdict in zip(("before", "after "), verdicts):
            seen = sorted(verdict.shares.items(), key=lambda item: -item[1])
            names = ["background", *judge.class_names]
            lines.append(
                f"  {when}: " + ", ".join(f"{names[value]} {part:.0%}" for value, part in seen if part >= 0.01)
            )
        if known:
            first, last = verdicts
            lines.append(
                f"  {args.target}: pixel accuracy {last.pixel_accuracy:.3f} (before {first.pixel_accuracy:.3f}), "
                f"IoU {last.iou:.3f} (before {first.iou:.3f})"
            )
        else:
            lines.append(f"  the judge knows no {args.target}{did_you_mean(args.target, judge.class_names)}: no score")
    reach = swapped.mask > 0
    changed = changed_outside(to_pixels(swapped.image), to_pixels(photo.image), reach.numpy())
    step = border_step(swapped.image, swapped.mask) / own_range(photo.image)
    lines.append(f"  outside the mask {changed} pixels changed; step across its border {step:.2f} of the photo's own")
    return lines


def _tell(now: Progress) -> None:
    sys.stderr.write(f"\rstep {now.step}/{now.steps}  loss {now.loss:.4f}" + ("\n" if now.step == now.steps else ""))
    sys.stderr.flush()
