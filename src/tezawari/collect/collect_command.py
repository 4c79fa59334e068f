"""``tezawari collect``: from words to ranked sets of images."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tezawari.collect.contact_sheet import save_contact_sheet
from tezawari.collect.cooccurrence import with_nouns
from tezawari.collect.download import fetch_all
from tezawari.collect.export import safe_name
from tezawari.collect.found import Reason
from tezawari.collect.gather import PASSING, UnreachableError, fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.pages import user_agent
from tezawari.collect.ray_engine import Cluster, connected
from tezawari.collect.sources import APIS
from tezawari.collect.sources.source import check_search
from tezawari.collect.store import DEFAULT_FOLDER, Store, Summary, open_store, shown
from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines, tell

# They need no key.
_DEFAULT_SOURCES = ("openverse", "commons")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari collect``."""
    parser.description = (
        "Search images of words, fetch and check them, and rank them in two passes: the first results teach what a word"
        " looks like. Stopped anywhere, the same command goes on."
    )
    parser.epilog = (
        "tezawari collect ふわふわ ごつごつ --limit 200; tezawari collect ふわふわ --accept 1f3a09bc --reject 77d0e1aa"
    )
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
    parser.add_argument(
        "--with",
        metavar="NOUN",
        action="append",
        dest="nouns",
        default=[],
        help="search for 'WORD NOUN' as well, again for more: what is found is WORD's",
    )
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--database", metavar="URL", help="where it is another than the store's own SQLite file")
    parser.add_argument("--workers", metavar="N", type=int, default=16, help="images fetched at once (default: 16)")
    parser.add_argument(
        "--allow-private", action="store_true", help="fetch from this machine and the local network too"
    )
    parser.add_argument(
        "--retry", action="store_true", help=f"search again, and fetch again what failed by {', '.join(PASSING)}"
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what fetches and computes features: this machine or a Ray cluster (default: local)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of the cluster: auto, HOST:PORT or ray://HOST:PORT (default: the one that RAY_ADDRESS names or that runs"
        " on this machine, or one that is started here for this command)",
    )
    annotating = parser.add_argument_group(
        "annotating",
        "say which images of one WORD show it; it is ranked again, nothing is searched. An ID is what the contact sheet"
        " says under an image, the first letters of its SHA-256",
    )
    annotating.add_argument(
        "--accept", metavar="ID", nargs="+", default=[], help="they show the word: the first to learn"
    )
    annotating.add_argument("--reject", metavar="ID", nargs="+", default=[], help="they do not: left out")
    annotating.add_argument("--forget", metavar="ID", nargs="+", default=[], help="take back what was said of them")
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
    if args.ray_address is not None and args.engine != "ray":
        raise UserError(f"--ray-address {args.ray_address}: goes with --engine ray")
    said = {True: args.accept, False: args.reject, None: args.forget}
    if any(said.values()):
        return _annotate(args, words, said)
    nouns = [check_search(noun, args.language, args.limit) for noun in args.nouns]
    sources = with_nouns(open_sources(args.source or _DEFAULT_SOURCES), nouns)
    agent = user_agent()
    with _engine(args) as cluster, open_store(args.store, args.database) as store:
        # Before hours of fetching: a backbone, a layer or a folder may be named wrongly.
        rank = _ranking(args, store, cluster)
        try:
            searching = progress_lines("searching", "searches")
            problems = search_words(store, words, sources, args.language, args.limit, args.retry, searching)
            for problem in problems:
                tell(f"error: {problem}")
            known = store.words()
            words = [word for word in words if word in known]
            reachable = _fetch(args, store, words, agent, cluster)
            rank([word for word in words if store.summary(word).images])
        except KeyboardInterrupt:
            tell("stopped: what is stored is kept, and the same command goes on")
            raise
        _print_results(args, store, words)
    return 2 if problems or not reachable else 0


def _annotate(args: argparse.Namespace, words: Sequence[str], said: Mapping[bool | None, Sequence[str]]) -> int:
    """Note what was said of images of a word, rank it again and print the results."""
    if len(words) != 1:
        raise UserError("--accept, --reject and --forget say something of images of one WORD: name one at a time")
    (word,) = words
    with _engine(args) as cluster, open_store(args.store, args.database, create=False) as store:
        known = [name for image in store.images_of(word) for name in (image.sha256, *image.duplicates)]
        # All are looked up before any is noted: a mistake changes nothing.
        notes = [(_find_image(known, given, word), positive) for positive, some in said.items() for given in some]
        several = [name for name, count in Counter(name for name, _ in set(notes)).items() if count > 1]
        if several:
            raise UserError(f"image {several[0][:12]} is given to more than one of --accept, --reject and --forget")
        rank = _ranking(args, store, cluster)
        for name, positive in notes:
            store.annotate(word, name, positive)
        rank([word])
        noted = list(store.annotations(word).values())
        print(f"{shown(word)}: {noted.count(True)} images annotated as positives, {noted.count(False)} as negatives")
        _print_results(args, store, [word])
    return 0


def _find_image(known: Sequence[str], given: str, word: str) -> str:
    """Return the SHA-256 that begins with what was given; raises :class:`UserError` for none, or several."""
    found = {name for name in known if name.startswith(given.lower())}
    if len(found) == 1:
        return found.pop()
    if found:
        raise UserError(f"{given}: {len(found)} images of {shown(word)} begin so: give more letters")
    raise UserError(f"{given}: no image of {shown(word)}: the contact sheet has an id under each")


def _engine(args: argparse.Namespace) -> contextlib.AbstractContextManager[Cluster | None]:
    return connected(args.ray_address) if args.engine == "ray" else contextlib.nullcontext()


def _ranking(args: argparse.Namespace, store: Store, cluster: Cluster | None) -> Callable[[Sequence[str]], None]:
    """Load what ranks and return the function that ranks words with it."""
    # Here: torch takes seconds to import, and gathering does without.
    from tezawari.collect import rerank_store

    layer = args.layer or rerank_store.default_layer(args.backbone)
    if cluster is None:
        descriptors = rerank_store.open_descriptors(store.folder, args.backbone, layer, args.weights)
    else:
        from tezawari.collect.rerank_ray import open_cluster_descriptors

        descriptors = open_cluster_descriptors(store.folder, args.backbone, layer, args.weights, cluster)
    folder = args.negatives
    negatives = rerank_store.negatives_of_photos() if folder is None else rerank_store.negatives_of_folder(folder)

    def rank(words: Sequence[str]) -> None:
        for word in words:
            tell(f"ranking {shown(word)} by {args.backbone}/{layer} against {negatives.description}")
            progress = progress_lines(f"describing {shown(word)}", "images")
            rerank_store.rank_word(store, word, descriptors, layer, negatives, progress)

    return rank


def _fetch(args: argparse.Namespace, store: Store, words: Sequence[str], agent: str, cluster: Cluster | None) -> bool:
    """Fetch what waits and return whether the network was there."""
    again: set[Reason] = {*(PASSING if args.retry else ()), *(("address",) if args.allow_private else ())}
    for word in words if again else ():
        store.retry(word, again)
    limits = Limits(allow_private=args.allow_private)
    progress = progress_lines("fetching", "images")
    try:
        fetch_waiting(store, words, agent, limits, args.workers, progress, cluster.fetch_all if cluster else fetch_all)
    except UnreachableError as error:
        tell(f"error: {error}")
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
