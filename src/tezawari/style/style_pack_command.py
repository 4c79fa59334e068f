"""``tezawari style-pack``: the style of a word, from its images."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tezawari.collect.export import safe_name
from tezawari.collect.store import DEFAULT_FOLDER, StoredImage, open_store, shown
from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines
from tezawari.data.content_style import shorter_side_to
from tezawari.data.images import decoded_files, report_skipped
from tezawari.data.photo import load_rgb
from tezawari.data.sheet import encode_jpeg, square, to_pil
from tezawari.features.backbone import load_backbone
from tezawari.style.style_clusters import (
    FEWEST_IMAGES,
    Clusters,
    StyleImage,
    cluster_styles,
    describe_styles,
    make_style_packs,
    pack_layers,
)
from tezawari.style.style_pack import MERGES, SUFFIX, PackedImage, save_style_pack

DEFAULT_OUTPUT = Path("style-packs")
_SMALLEST_SIZE = 64
# A placeholder or an icon shows no style: it would have to be blown up more than this many times.
_MOST_ENLARGED = 8
_SHEET_COLUMNS, _SHEET_SIDE, _SHEET_GAP, _SHEET_LABEL = 10, 128, 4, 64
_SHEET_BYTES = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari style-pack``."""
    parser.description = (
        "Group the images of a word by style, show the groups as a picture, and merge one of them into a style pack: a "
        "file that `tezawari paint --style` and the folder data.style_dir take as a style."
    )
    parser.epilog = (
        "tezawari style-pack ごつごつ   |   tezawari style-pack bumpy --images FOLDER --merge minimise --cluster 2   "
        "|   tezawari paint cat.jpg --style style-packs/ごつごつ-1-mean.safetensors --keep-color"
    )
    parser.add_argument("word", metavar="WORD")
    parser.add_argument("--images", metavar="FOLDER", type=Path, help="of the word, instead of what was collected")
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--database", metavar="URL", help="where it is another than the store's own SQLite file")
    parser.add_argument("--keep", metavar="N", type=int, default=50, help="the N best images at most (50)")
    parser.add_argument("--backbone", metavar="NAME", default="efficientnet_lite0", help="the loss network")
    parser.add_argument("--weights", metavar="FILE", help="of the backbone, instead of those it comes with")
    parser.add_argument("--layer", metavar="NAME", help="whose Gram matrices tell styles apart (a deep one)")
    parser.add_argument("--layers", metavar="A,B", default="", help="to pack beside those that are used by default")
    parser.add_argument("--size", metavar="PX", type=int, default=384, help="shorter side of the images (384)")
    parser.add_argument("--clusters", metavar="N", type=int, help="how many (chosen by silhouette)")
    parser.add_argument("--cluster", metavar="N|all", default="1", help="which to pack, from 1, the largest (1)")
    parser.add_argument("--members", metavar="N", type=int, default=16, help="images of it, from its centre out (16)")
    parser.add_argument(
        "--merge", choices=MERGES, action="append", help="how its images become one style, again for more (mean)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the clusters")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=DEFAULT_OUTPUT)


def run(args: argparse.Namespace) -> int:
    """Write the picture of the clusters and the packs, and print where they are.

    Raises ``UserError`` for too few images, numbers out of range, and what cannot be read or written.
    """
    _check_numbers(args)
    extra = [layer for layer in args.layers.split(",") if layer]
    layers = pack_layers(args.backbone, extra)
    layer = args.layer or layers[-1]
    images = _collected(args) if args.images is None else folder_images(args.images, args.size)[: args.keep]
    if len(images) < FEWEST_IMAGES:
        where, more = (
            (f"the store {args.store}", f"tezawari collect {shown(args.word)} --store {args.store}")
            if args.images is None
            else (f"the folder {args.images}", "add some")
        )
        raise UserError(
            f"{shown(args.word)}: {len(images)} images in {where}, at least {FEWEST_IMAGES} are needed: {more}"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(args.backbone, {*layers, *extra, layer}, args.weights)
    vectors = describe_styles(
        images,
        backbone,
        layer,
        args.size,
        args.output / "cache",
        progress_lines(f"describing {shown(args.word)} by {args.backbone}/{layer}", "images"),
    )
    clusters = cluster_styles(vectors, args.clusters, args.seed)
    chosen = _chosen(args.cluster, len(clusters.members))
    name = safe_name(args.word)
    sheet = args.output / f"{name}-clusters.jpg"
    sheet.write_bytes(encode_jpeg(draw_clusters(images, clusters), _SHEET_BYTES))
    print(f"{shown(args.word)}: {len(images)} images, {_describe(clusters)}: {sheet}")
    for number in chosen:
        cluster = clusters.members[number - 1]
        members = [images[place] for place in cluster[: args.members]]
        packs = make_style_packs(
            args.word,
            members,
            list(dict.fromkeys(args.merge or ["mean"])),
            backbone=backbone,
            layers=layers,
            side=args.size,
            cluster=number,
            clusters=len(clusters.members),
            progress=progress_lines(f"packing cluster {number}", "images"),
        )
        for merge, pack in packs.items():
            file = save_style_pack(args.output / f"{name}-{number}-{merge}{SUFFIX}", pack)
            print(
                f"{file}: cluster {number}, {len(members)} of {len(cluster)} images by {merge}, "
                f"{file.stat().st_size / 1e6:.1f} MB"
            )
    return 0


def folder_images(folder: Path, size: int) -> list[StyleImage]:
    """Return the pictures of a folder and its subfolders, in the order of their names; what is none is warned of.

    Pictures whose shorter side is less than an eighth of ``size`` pixels, and exact copies, are left out. Raises
    :class:`UserError` where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: there is no such folder; name one of the word's pictures")
    images: dict[str, StyleImage] = {}
    skipped = []
    for path, pixels in decoded_files(folder, size, size / _MOST_ENLARGED):
        name = path.relative_to(folder).as_posix()
        if isinstance(pixels, str):
            skipped.append(f"{name} ({pixels})")
            continue
        key = hashlib.sha256(path.read_bytes()).hexdigest()
        images.setdefault(key, StyleImage(key, PackedImage(name), partial(_load, path)))
    report_skipped(folder, skipped)
    return list(images.values())


def _collected(args: argparse.Namespace) -> list[StyleImage]:
    with open_store(args.store, args.database, create=False) as store:
        return [_stored(image) for image in store.best_images(args.word)[: args.keep]]


def _stored(image: StoredImage) -> StyleImage:
    found = image.found
    about = PackedImage(found.title or image.sha256, found.author, found.licence, found.page_url)
    return StyleImage(image.sha256, about, partial(_load, image.path))


def _load(path: Path, side: int) -> Tensor:
    # Read as data=images reads a style, so that a pack of one image is that style.
    return shorter_side_to(load_rgb(path, max_short_side=2 * side).to(torch.float32).div_(255), side)


def draw_clusters(images: Sequence[StyleImage], clusters: Clusters) -> Image.Image:
    """Draw a row a cluster: its number and size, and its ten images nearest to its centre."""
    across = down = _SHEET_SIDE + _SHEET_GAP
    size = (_SHEET_LABEL + _SHEET_COLUMNS * across + _SHEET_GAP, len(clusters.members) * down + _SHEET_GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, members in enumerate(clusters.members):
        top = _SHEET_GAP + row * down
        draw.text((_SHEET_GAP, top + _SHEET_SIDE // 2), f"{row + 1} ({len(members)})", "black", font, anchor="lm")
        for column, place in enumerate(members[:_SHEET_COLUMNS]):
            tile = to_pil(square(images[place].load(_SHEET_SIDE), _SHEET_SIDE))
            sheet.paste(tile, (_SHEET_LABEL + column * across, top))
    return sheet


def _describe(clusters: Clusters) -> str:
    count = len(clusters.members)
    tried = ", ".join(f"{number}: {value:.2f}" for number, value in clusters.silhouettes.items())
    return f"{count} {'cluster' if count == 1 else 'clusters'}" + (f" (silhouette {tried})" if tried else "")


def _chosen(cluster: str, count: int) -> list[int]:
    if cluster == "all":
        return list(range(1, count + 1))
    if not cluster.isdecimal() or not 1 <= int(cluster) <= count:
        raise UserError(f"--cluster {cluster}: there are {count} clusters: ask for 1 to {count}, or all")
    return [int(cluster)]


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in (("keep", FEWEST_IMAGES), ("size", _SMALLEST_SIZE), ("members", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise UserError(f"--{name} {getattr(args, name)}: ask for {least} or more")
    if args.clusters is not None and args.clusters < 1:
        raise UserError(f"--clusters {args.clusters}: ask for 1 or more")
