"""``tezawari words``: the lexicon as a table, and the words that go with a noun."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from tezawari.core.errors import UserError
from tezawari.words.combinations import (
    CRITERIA,
    Combination,
    choose_combinations,
    count_cooccurrences,
    read_captions,
    read_counts,
)
from tezawari.words.lexicon import KINDS, SENSES, Entry, find, is_known, select

_LISTED = ("word", "romaji", "kind", "senses", "gloss")
_RECORDED = ("kind", "word", "reading", "katakana", "romaji", "gloss", "senses", "other_forms")
_COMBINED = ("noun", "word", "count", "pmi", "query")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari words``."""
    parser.description = (
        "List the words of touch and look, materials and adjectives; or choose the words that go with a noun, by how "
        "often titles and captions say both."
    )
    parser.epilog = "tezawari words --combine 犬 --captions titles.txt --top 8"
    parser.add_argument(
        "words", metavar="WORD", nargs="*", help="show these only: kana, kanji, romaji, or English name"
    )
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--sense", choices=SENSES, help="only words that tell of it")
    parser.add_argument("--csv", action="store_true", help="write CSV instead of a table")
    combine = parser.add_argument_group("combinations")
    combine.add_argument("--combine", metavar="NOUN", help="choose onomatopoeia and adjectives that go with NOUN")
    texts = combine.add_mutually_exclusive_group()
    texts.add_argument(
        "--captions", metavar="FILE", type=Path, help="a text a line, or CSV with the columns title, caption"
    )
    texts.add_argument("--counts", metavar="FILE", type=Path, help="CSV with the columns noun, word, count")
    combine.add_argument("--top", metavar="N", type=int, default=8, help="how many (default: 8)")
    combine.add_argument(
        "--by",
        choices=CRITERIA,
        default="count",
        help="count: said most often (default); pmi: most typical of the noun, give --fewest 5 with it",
    )
    combine.add_argument("--fewest", metavar="N", type=int, default=1, help="leave out what is said less often than N")


def run(args: argparse.Namespace) -> int:
    """Print the words asked for; raises UserError for an unknown word, files that cannot be read, and no result."""
    _require_encoding()
    entries = _asked_for(args)
    if args.combine is None:
        for option in ("captions", "counts"):
            if getattr(args, option) is not None:
                raise UserError(f"--{option} is for combinations: name the noun with --combine NOUN")
        _show_entries(entries, args.csv)
    else:
        _show_combinations(_combinations(args, entries), args.csv)
    return 0


def _asked_for(args: argparse.Namespace) -> tuple[Entry, ...]:
    entries = select(args.kind, args.sense)
    if args.words:
        named = tuple(dict.fromkeys(find(word) for word in args.words))
        entries = tuple(entry for entry in named if entry in entries)
    if not entries:
        raise UserError("no word is all that was asked for: leave out --kind or --sense")
    return entries


def _combinations(args: argparse.Namespace, entries: Sequence[Entry]) -> list[Combination]:
    everything = not (args.words or args.kind or args.sense)
    if args.counts is not None:
        among = None if everything else {entry.word for entry in entries}
        return choose_combinations(read_counts(args.counts), args.combine, args.top, args.by, args.fewest, among)
    if args.captions is None:
        raise UserError("--combine needs what to count: --captions FILE (a text a line) or --counts FILE (CSV)")
    if everything:
        entries = [entry for entry in entries if entry.kind != "material"]
    counts = count_cooccurrences(read_captions(args.captions), [args.combine], entries)
    return choose_combinations(counts, args.combine, args.top, args.by, args.fewest)


def _show_entries(entries: Sequence[Entry], as_csv: bool) -> None:
    one_kind = len({entry.kind for entry in entries}) == 1
    columns = _RECORDED if as_csv else [name for name in _LISTED if not (one_kind and name == "kind")]
    rows = [[_cell(getattr(entry, name)) for name in columns] for entry in entries]
    if as_csv:
        _write_csv(columns, rows)
    else:
        _print_table(columns, rows)


def _show_combinations(combinations: Sequence[Combination], as_csv: bool) -> None:
    rows = [
        [found.noun, found.word, str(found.count), repr(found.pmi) if as_csv else f"{found.pmi:.2f}", found.query]
        for found in combinations
    ]
    if as_csv:
        _write_csv(_COMBINED, rows)
    else:
        glosses = [find(found.word).gloss if is_known(found.word) else "" for found in combinations]
        _print_table([*_COMBINED, "gloss"], [[*row, gloss] for row, gloss in zip(rows, glosses)])


def _cell(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def _write_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    table = Table()
    for name in columns:
        # In a narrow terminal words stay whole, and what is said about them is broken into lines.
        justify: Literal["left", "right"] = "right" if name in ("count", "pmi") else "left"
        table.add_column(name, justify=justify, no_wrap=name not in ("senses", "gloss"))
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to fit into
    console.print(table)


def _require_encoding() -> None:
    """Refuse an output that cannot hold Japanese and macrons, before half a table is written."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        "ふフ革ū".encode(encoding)
    except UnicodeEncodeError:
        raise UserError(
            f"the output's encoding, {encoding}, lacks letters of Japanese or its romaji: "
            "set PYTHONIOENCODING=utf-8 and type the same again"
        ) from None
