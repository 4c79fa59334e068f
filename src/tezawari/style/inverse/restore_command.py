"""``tezawari restore``: colour, enlarge or denoise photos from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tezawari.core.errors import UserError
from tezawari.core.progress import tile_line
from tezawari.data.photo import named_after, read_photo, write_photo
from tezawari.style.inverse.restore import Restorer
from tezawari.style.inverse.transforms import Task

_OPTION_OF: dict[Task, str | None] = {"denoise": "noise", "superres": "scale", "colorize": None}
_LABELS: dict[Task, str] = {"denoise": "denoised", "superres": "enlarged", "colorize": "colorized"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari restore``."""
    parser.description = "Give photos their colour or resolution back, or take their noise away, as was trained."
    parser.epilog = (
        "tezawari restore old.jpg --checkpoint outputs/inverse/RUN -o out   |   "
        "tezawari restore small.png --checkpoint outputs/inverse/RUN --scale 4 -o out"
    )
    parser.add_argument("photos", metavar="PHOTO", nargs="+", type=Path)
    parser.add_argument(
        "--checkpoint", metavar="RUN", type=Path, required=True, help="a run of model=inverse, or its network"
    )
    parser.add_argument(
        "--noise", metavar="S", type=float, help="the noise's standard deviation, of 255 levels (estimated)"
    )
    parser.add_argument("--scale", metavar="N", type=int, help="how many times to enlarge (the least that was trained)")
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, default=Path("restored"))


def run(args: argparse.Namespace) -> int:
    """Restore every photo; a photo that cannot be read is named, the others are still done, and the exit code is 2."""
    restorer = Restorer.load(args.checkpoint)
    level = _level(args, restorer.transform.task)
    args.output.mkdir(parents=True, exist_ok=True)
    failures = 0
    for path in args.photos:
        try:
            photo = read_photo(path)
            image = restorer.restore(photo.image, level, tile_line if sys.stderr.isatty() else None)
            target = named_after(args.output, path, _LABELS[restorer.transform.task], args.photos)
            print(write_photo(target, image, photo))
        except UserError as error:
            failures += 1
            print(f"error: {error}", file=sys.stderr)
    return 2 if failures else 0


def _level(args: argparse.Namespace, task: Task) -> float | None:
    """Return the level that was asked for; refuse the option of another task, which would do nothing."""
    for option in ("noise", "scale"):
        if getattr(args, option) is not None and option != _OPTION_OF[task]:
            raise UserError(
                f"--{option}: {args.checkpoint} was trained for model.task={task}, which has no such option: "
                f"leave --{option} away"
            )
    known = _OPTION_OF[task]
    value = getattr(args, known) if known else None
    return None if value is None else float(value)
