"""``tezawari export``: the best images of a word as a ZIP."""

from __future__ import annotations

import argparse
from pathlib import Path

from tezawari.collect.export import export_word
from tezawari.collect.store import DEFAULT_FOLDER, open_store
from tezawari.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari export``."""
    parser.description = (
        "Write the best images of a collected word as a ZIP, with manifest.csv: scores, sources, authors, licences."
    )
    parser.epilog = "tezawari export ふわふわ --zip ふわふわ.zip --count 100"
    parser.add_argument("word", metavar="WORD")
    parser.add_argument("--zip", metavar="FILE", type=Path, required=True)
    parser.add_argument("--count", metavar="N|all", default="50", help="the most images (default: 50)")
    parser.add_argument("--pass", metavar="N", dest="pass_number", type=int, help="of the ranking (default: the last)")
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--database", metavar="URL", help="where it is another than the store's own SQLite file")


def run(args: argparse.Namespace) -> int:
    """Export the word and print what was written."""
    count = parse_count(args.count)
    if args.zip.is_dir():
        raise UserError(f"--zip {args.zip}: is a folder; name a file in it")
    with open_store(args.store, args.database, create=False) as store:
        exported = export_word(store, args.word, args.zip, count, args.pass_number)
    fewer = f" (of {count} asked for)" if count is not None and exported.images < count else ""
    print(
        f"{args.zip}: {exported.images} images of {args.word}{fewer}, ranked by pass {exported.pass_number}, "
        f"{exported.bytes / 1e6:.1f} MB"
    )
    return 0


def parse_count(text: str) -> int | None:
    """Return the number of ``--count``, or None for ``all``; raises :class:`UserError` for anything else."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UserError(f"--count {text}: a number from 1, or all")
    return int(text)
