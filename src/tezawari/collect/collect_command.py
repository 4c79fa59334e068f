"""``tezawari collect``: from words to ranked sets of images."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tezawari.collect.contact_sheet import save_contact_sheet
from tezawari.collect.export import safe_name
from tezawari.collect.found import Reason
from tezawari.collect.gather import PASSING, UnreachableError, fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.pages import user_agent
from tezawari.collect.sources import APIS
from tezawari.collect.sources.source import check_search
from tezawari.collect.store import DEFAULT_FOLDER, Store, Summary, open_store, shown
from tezawari.core.errors import UserError

Progress = Callable[[int, int], None]

# They need no key.
_DEFAULT_SOURCES = ("openverse", "commons")
_SECONDS_BETWEEN_LINES = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari collect``."""
    parser.description = (
        "Search images of words, fetch and check them, and rank them in two passes: the first results teach what a word"
        " looks like. Stopped anywhere, the same command goes on."
    )
    parser.epilog = "tezawari collect ふわふわ ごつごつ --limit 200"
    parser.add_argument("words", metavar="WORD", nargs="+")
    parser.add_argument(
        "--source",
        metavar="S",
        action="append",
        help=f"{', '.join(APIS)}, the URL of an endpoint that answers as Bing did, a folder (its subfolder WORD, if"
        " there is one), or a .txt, .csv, .tsv or .parquet file of URLs; may be given several times (default:"
        f" {' and '.join(_DEFAULT_SOURCES)})",
    )
    parser.add_argument("--limit", metavar="N", type=int, default=1000, help="the most of a source (default: 1000)")
    parser.add_argument("--keep", metavar="N", type=int, default=50, help="how many best ones to keep (default: 50)")
    parser.add_argument("--language", metavar="L", default="ja", help="of the words, or '' (default: ja)")
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--database", metavar="URL", help="where it is another than the store's own SQLite file")
    parser.add_argument("--workers", metavar="N", type=int, default=16, help="images fetched at once (default: 16)")
    parser.add_argument(
        "--allow-private", action="store_true", help="fetch from this machine and the local network too"
    )
    parser.add_argument(
        "--retry", action="store_true", help=f"search again, and fetch again what failed by {', '.join(PASSING)}"
    )
    ranking = parser.add_argument_group("ranking")
    ranking.add_argument("--backbone", metavar="NAME", default="efficientnet_lite0", help="whose features are compared")
    ranking.add_argument("--weights", metavar="FILE", help="of the backbone, where they are not to be the usual ones")
    ranking.add_argument("--layer", metavar="L", help="of the backbone (default: a middle one)")
    ranking.add_argument(
        "--negatives",
        metavar="FOLDER",
        type=Path,
        help="of random photos, the more the better (default: crops of photographs that installed packages carry)",
    )


def run(args: argparse.Namespace) -> int:
    """Search, fetch, rank, and print a table of what became of it.

    Returns 2 where a search failed, a word had no results or the network went away: each is said in a line, and what
    can be fetched and ranked all the same is.

    Raises:
        UserError: a mistake in the arguments, before anything is done; a store that cannot be used; a damaged image.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a word is no reason to stop
    words = list(dict.fromkeys(check_search(word, args.language, args.limit) for word in args.words))
    for option in ("keep", "workers"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} {getattr(args, option)}: must be at least 1")
    sources = open_sources(args.source or _DEFAULT_SOURCES)
    agent = user_agent()
    with open_store(args.store, args.database) as store:
        # Before hours of fetching: a backbone, a layer or a folder may be named wrongly.
        rank = _ranking(args, store)
        try:
            searching = _progress_lines("searching", "searches")
            problems = search_words(store, words, sources, args.language, args.limit, args.retry, searching)
            for problem in problems:
                _say(f"error: {problem}")
            known = store.words()
            words = [word for word in words if word in known]
            reachable = _fetch(args, store, words, agent)
            rank([word for word in words if store.summary(word).images])
        except KeyboardInterrupt:
            _say("stopped: what is stored is kept, and the same command goes on")
            raise
        _print_results(args, store, words)
    return 2 if problems or not reachable else 0


def _ranking(args: argparse.Namespace, store: Store) -> Callable[[Sequence[str]], None]:
    """Load what ranks and return the function that ranks words with it."""
    # Here: torch takes seconds to import, and gathering does without.
    from tezawari.collect import rerank_store

    layer = args.layer or rerank_store.default_layer(args.backbone)
    descriptors = rerank_store.open_descriptors(store.folder, args.backbone, layer, args.weights)
    folder = args.negatives
    negatives = rerank_store.negatives_of_photos() if folder is None else rerank_store.negatives_of_folder(folder)

    def rank(words: Sequence[str]) -> None:
        for word in words:
            _say(f"ranking {shown(word)} by {args.backbone}/{layer} against {negatives.description}")
            progress = _progress_lines(f"describing {shown(word)}", "images")
            rerank_store.rank_word(store, word, descriptors, layer, negatives, progress)

    return rank


def _fetch(args: argparse.Namespace, store: Store, words: Sequence[str], agent: str) -> bool:
    """Fetch what waits and return whether the network was there."""
    again: set[Reason] = {*(PASSING if args.retry else ()), *(("address",) if args.allow_private else ())}
    for word in words if again else ():
        store.retry(word, again)
    limits = Limits(allow_private=args.allow_private)
    try:
        fetch_waiting(store, words, agent, limits, args.workers, _progress_lines("fetching", "images"))
    except UnreachableError as error:
        _say(f"error: {error}")
        return False
    return True


def _print_results(args: argparse.Namespace, store: Store, words: Sequence[str]) -> None:
    summaries = {word: store.summary(word) for word in words}
    kept = {word: min(args.keep, len(store.best_images(word))) for word in words}
    if words:
        _print_table(summaries, kept)
    for word in words:
        if kept[word]:
            print(f"{shown(word)}: {save_contact_sheet(store, word)}")
            print(f"  {_export_command(args, word)}")
    passing = sum(summary.refused.get(reason, 0) for summary in summaries.values() for reason in PASSING)
    if passing and not args.retry:
        print(f"{passing} refusals may have passed by another day: --retry fetches those again")


def _print_table(summaries: dict[str, Summary], kept: dict[str, int]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to fit into
    waiting = any(summary.waiting for summary in summaries.values())
    table = Table()
    table.add_column("word")
    for name in ("found", *(["waiting"] if waiting else []), "fetched"):
        table.add_column(name, justify="right")
    table.add_column("refused")
    for name in ("exact dup.", "near dup.", "kept"):
        table.add_column(name, justify="right")
    for word, summary in summaries.items():
        numbers = [summary.found, *([summary.waiting] if waiting else []), summary.fetched]
        duplicates = [summary.exact_duplicates, summary.near_duplicates]
        table.add_row(shown(word), *map(str, numbers), _refusals(summary), *map(str, duplicates), str(kept[word]))
    console.print(table)


def _refusals(summary: Summary) -> str:
    if not summary.refused:
        return "0"
    reasons = ", ".join(f"{reason} {count}" for reason, count in summary.refused.items())
    return f"{sum(summary.refused.values())} ({reasons})"


def _export_command(args: argparse.Namespace, word: str) -> str:
    command = ["tezawari", "export", word, "--zip", f"{safe_name(word)}.zip", "--count", str(args.keep)]
    if args.store != DEFAULT_FOLDER:
        command += ["--store", str(args.store)]
    if args.database is not None:
        command += ["--database", "URL"]  # it may hold a password
    return " ".join(_quoted(argument) for argument in command)


def _quoted(argument: str) -> str:
    # shlex would put kana in quotes, which no shell needs.
    return argument if re.fullmatch(r"[\w@%+=:,./-]+", argument) else shlex.quote(argument)


def _progress_lines(action: str, things: str, seconds: float = _SECONDS_BETWEEN_LINES) -> Progress:
    """Return a progress callback that says how far it is, at most every few seconds, and once at the end."""
    start = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if done < total and now - said < seconds:
            return
        said = now
        rate = done / max(now - start, 1e-3)
        left = f", {(total - done) / rate:.0f} s left" if done < total else f", {now - start:.1f} s"
        _say(f"{action}: {done}/{total} {things}, {rate:.1f} a second{left}")

    return progress


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)
