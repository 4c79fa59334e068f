"""``tezawari paint``: restyle a photo by optimising its pixels."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.photo import Photo, load_rgb, photo_suffix, read_photo, write_photo
from tezawari.features.backbone import load_backbone
from tezawari.style.gatys import Progress, paint, recipe
from tezawari.style.maps import read_style_map
from tezawari.style.style_pack import SUFFIX, load_style_pack

_SMALLEST_SIZE = 64
_LINES_WHERE_NO_TERMINAL = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari paint``."""
    parser.description = (
        "Restyle a photo in the manner of one or several pictures, by optimising its pixels (Gatys et al., 2016): "
        "slow, any style, no training. Ctrl-C ends it and keeps the best so far."
    )
    parser.epilog = (
        "tezawari paint cat.jpg --style wave.jpg -o painted.jpg   |   tezawari paint cat.jpg --style sky.jpg "
        "--style bark.jpg --guide regions.png --feather 8 --keep-color -o painted.png"
    )
    parser.add_argument("photo", metavar="PHOTO", type=Path)
    parser.add_argument(
        "--style",
        metavar="FILE[=W]",
        action="append",
        default=[],
        help="a style image or a style pack, and its weight, again for more",
    )
    parser.add_argument(
        "--guide",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        help="where each style goes: a label image whose values 0, 1, … are the styles in the order asked, or one grey "
        "map for each style; of the photo's size",
    )
    parser.add_argument("--feather", metavar="PX", type=float, default=0.0, help="soften the guide's borders")
    parser.add_argument("--backbone", metavar="NAME", default="efficientnet_lite0", help="the loss network")
    parser.add_argument("--weights", metavar="FILE", help="of the backbone, instead of those it comes with")
    parser.add_argument("--size", metavar="PX", type=int, default=512, help="longer side of the painting at most (512)")
    parser.add_argument("--steps", metavar="N", type=int, default=300, help="steps over all sizes (300)")
    parser.add_argument("--optimizer", choices=["lbfgs", "adam"], default="lbfgs")
    parser.add_argument("--content-weight", metavar="W", type=float, default=1.0, help="hold of the photo (1)")
    parser.add_argument("--style-weight", metavar="W", type=float, help="hold of the styles (suits the backbone)")
    parser.add_argument("--tv-weight", metavar="W", type=float, help="smoothness (suits the backbone)")
    parser.add_argument("--init", choices=["content", "noise"], default="content", help="what the painting starts from")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--keep-color", action="store_true", help="keep the photo's colours")
    parser.add_argument("--preview-every", metavar="N", type=int, help="save OUT-preview-STEP every N steps")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help="(PHOTO-painted, in this folder)")


def run(args: argparse.Namespace) -> int:
    """Paint as asked; return 0, or 130 when Ctrl-C ended it early (the best so far is written then too).

    Raises ``UserError`` for what cannot be read, painted or written.
    """
    _check_numbers(args)
    photo = read_photo(args.photo)
    files, weights = zip(*(_style(spec) for spec in args.style)) if args.style else ((), ())
    styles = [
        load_style_pack(file) if file.suffix == SUFFIX else load_rgb(file, max_side=args.size).float() / 255
        for file in files
    ]
    guide = None
    if args.guide:
        size = (photo.image.shape[-2], photo.image.shape[-1])
        guide = read_style_map(args.guide, torch.eye(len(styles)), size, feather_px=args.feather)
    output = _output(args, photo)
    backbone = load_backbone(args.backbone, recipe(args.backbone).layers, args.weights)
    with _interruptible() as interrupted:
        watch = _Watch(output, photo, args.preview_every, interrupted)
        picture: Tensor = paint(
            photo.image,
            styles,
            backbone=backbone,
            style_weights=weights,
            content_weight=args.content_weight,
            style_weight=args.style_weight,
            tv_weight=args.tv_weight,
            optimizer=args.optimizer,
            steps=args.steps,
            max_side=args.size,
            guide=guide,
            keep_color=args.keep_color,
            init=args.init,
            seed=args.seed,
            callback=watch,
        )
        watch.end()
        written = write_photo(output, picture, like=photo)
    sys.stdout.write(f"{written}{' (stopped early: the best so far)' if interrupted else ''}\n")
    return 130 if interrupted else 0


class _Watch:
    """Tells how the painting goes on, saves previews, and ends it once ``interrupted`` has an entry."""

    def __init__(self, output: Path, photo: Photo, preview_every: int | None, interrupted: list[int]) -> None:
        self._output = output
        self._photo = photo
        self._preview_every = preview_every
        self._interrupted = interrupted
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, now: Progress) -> bool:
        elapsed = time.monotonic() - self._start
        left = elapsed * (1 - now.share) / now.share
        line = f"step {now.step}/{now.steps}  {now.side} px  loss {now.loss:.4f}  {_clock(left)} left"
        if self._terminal:
            sys.stderr.write(f"\r{line:<70}")
            sys.stderr.flush()
        elif now.step % math.ceil(now.steps / _LINES_WHERE_NO_TERMINAL) == 0 or now.step == now.steps:
            sys.stderr.write(f"{line}\n")
        if self._preview_every and now.step % self._preview_every == 0:
            preview = self._output.with_name(f"{self._output.stem}-preview-{now.step:04d}{self._output.suffix}")
            write_photo(preview, now.render(), like=self._photo)
        return bool(self._interrupted)

    def end(self) -> None:
        """Leave the terminal on a line of its own."""
        if self._terminal:
            sys.stderr.write("\n")


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Yield a list that the first Ctrl-C adds to; the second one interrupts as usual."""
    interrupted: list[int] = []
    usual = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, usual)


def _check_numbers(args: argparse.Namespace) -> None:
    if not args.style:
        raise UserError("no style was asked for: name a picture with --style FILE")
    if args.size < _SMALLEST_SIZE:
        raise UserError(f"--size {args.size} is too small to paint at: ask for {_SMALLEST_SIZE} or more")
    if args.preview_every is not None and args.preview_every < 1:
        raise UserError(f"--preview-every {args.preview_every} is no number of steps: ask for 1 or more")
    for name in ("content_weight", "style_weight", "tv_weight"):
        value = getattr(args, name)
        if value is not None and (not math.isfinite(value) or value < 0):
            raise UserError(f"--{name.replace('_', '-')} must be a number that is 0 or more, not {value:g}")


def _style(spec: str) -> tuple[Path, float]:
    """Split ``FILE[=W]``; a file whose own name holds an equals sign is taken as it is."""
    name, equals, text = spec.rpartition("=")
    if not equals or Path(spec).exists():
        return Path(spec), 1.0
    try:
        return Path(name), float(text)
    except ValueError:
        raise UserError(f"the weight in --style {spec} is not a number: write it like {name}=0.5") from None


def _output(args: argparse.Namespace, photo: Photo) -> Path:
    """Return where the painting goes, and refuse now what would fail after minutes of painting."""
    output: Path = args.output or Path(f"{args.photo.stem}-painted")
    if output.is_dir():
        output = output / f"{args.photo.stem}-painted"
    if not output.suffix:
        output = output.with_name(output.name + photo_suffix(photo))
    if output.exists() and output.samefile(args.photo):
        raise UserError(f"{output} is the photo itself: name another file with -o")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: nothing can be written here: name another file with -o")
    return output


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
