"""``tezawari measure``: how visual collected words are, and how well the words of one noun are told from each other."""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shlex
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tezawari.collect.contact_sheet import load_pixels
from tezawari.collect.duplicates import near_duplicates
from tezawari.collect.rerank_store import negatives_of_folder
from tezawari.collect.store import DEFAULT_FOLDER, Store, StoredImage, open_store, shown
from tezawari.core.errors import UserError
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines, tell
from tezawari.core.tables import write_csv
from tezawari.features.descriptors import IMAGE_SIZE, LoadImage
from tezawari.words.combinations import Combination
from tezawari.words.discriminability import Discriminability, discriminability
from tezawari.words.image_features import (
    COLOR,
    FISHER,
    Picture,
    central_square,
    color_features,
    fisher_features,
    layer_features,
    name_layers,
    region_features,
)
from tezawari.words.measured_pages import (
    accuracy_text,
    draw_confusion,
    ranking_rows,
    write_confusion_page,
    write_ranking_page,
)
from tezawari.words.measures import Measures, measure, require_random, word_rows

_FOLDER = "measures"
_CACHE = "features"
# Between the centres of what SIFT describes, in pixels.
_FISHER_STEP = 6
_CONTROLS = 5
# As in the benchmarks: of fewer, intervals tell nothing.
_FEWEST_IMAGES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari measure``."""
    parser.description = (
        "Measure collected words: how well the images of each are told from random ones (recognisability), and how "
        "much their regions vary (entropy); ranked on a page with pictures. With --noun: how well images of several "
        "words with one noun are told from each other."
    )
    parser.epilog = (
        "tezawari measure ふわふわ ごつごつ --negatives FOLDER; tezawari measure --noun 犬 --with ふわふわ もふもふ"
    )
    parser.add_argument("words", metavar="WORD", nargs="*", help="default: all of the store that have enough images")
    parser.add_argument("--negatives", metavar="FOLDER", type=Path, help="of random photos; the talk had 5,000")
    parser.add_argument(
        "--noun", metavar="NOUN", help="tell the words of --with from each other, collected as 'W NOUN'"
    )
    parser.add_argument("--with", metavar="W", nargs="+", dest="with_words", default=[])
    parser.add_argument("--store", metavar="DIR", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--database", metavar="URL", help="where it is another than the store's own SQLite file")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help=f"for tables and pages (default: {_FOLDER}, in the store)"
    )
    parser.add_argument("--keep", metavar="N", type=int, default=50, help="best images of a word (default: 50)")
    parser.add_argument(
        "--top", metavar="N", type=int, default=10, help="words with pictures at each end (default: 10)"
    )
    parser.add_argument("--folds", metavar="N", type=int, default=5, help="of cross-validation (default: 5)")
    parser.add_argument("--repeats", metavar="N", type=int, default=3, help="of dividing into folds (default: 3)")
    parser.add_argument("--backbone", metavar="NAME", default="efficientnet_lite0", help="whose features are taken")
    parser.add_argument("--weights", metavar="FILE", help="of the backbone, where they are not to be the usual ones")
    parser.add_argument(
        "--layer",
        metavar="L",
        action="append",
        help="of the backbone; the last one ranks; may be given several times (default: early, middle, late)",
    )
    parser.add_argument("--fisher", metavar="N", type=int, default=0, help="also Fisher vectors of N components (256)")
    parser.add_argument("--seed", metavar="N", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table and name the files; raises UserError for what is missing or too few."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a word is no reason to stop
    _check(args)
    with open_store(args.store, args.database, create=False) as store:
        out = args.out or store.folder / _FOLDER
        cache = store.folder / _CACHE
        files = (_rank if args.noun is None else _tell_apart)(args, store, out, cache)
    for path in files:
        print(path)
    return 0


def _check(args: argparse.Namespace) -> None:
    for option, fewest in (
        ("keep", _FEWEST_IMAGES),
        ("top", 1),
        ("folds", 2),
        ("repeats", 1),
        ("fisher", 0),
        ("seed", 0),
    ):
        if getattr(args, option) < fewest:
            raise UserError(f"--{option} {getattr(args, option)}: must be at least {fewest}")
    if args.keep < args.folds:
        raise UserError(f"--keep {args.keep}: fewer images of a word than --folds {args.folds}: keep more")
    if args.noun is None:
        if args.with_words:
            raise UserError("--with names words of a noun: add --noun NOUN")
        if args.negatives is None:
            raise UserError(
                "no random images are named to tell words from: add --negatives FOLDER, of hundreds of photos or more"
            )
        return
    if args.words or args.negatives is not None:
        raise UserError("--noun measures the words of --with against each other: leave out WORD and --negatives")
    if len(set(args.with_words)) < 2:
        raise UserError(f"--noun {args.noun}: name at least two words by --with W W …")


def _rank(args: argparse.Namespace, store: Store, out: Path, cache: Path) -> list[Path]:
    named = name_layers(args.backbone, args.layer)
    negatives = negatives_of_folder(args.negatives)
    images = _choose(args, store, args.words)
    own = {sha256 for of_word in images.values() for image in of_word for sha256 in (image.sha256, *image.duplicates)}
    random = [square_picture(sha256, load) for sha256, load in negatives.images.items() if sha256 not in own]
    require_random(args.keep, len(random), args.folds)
    pictures = stored_pictures(images)
    features = layer_features(pictures, random, args.backbone, args.weights, named, cache)
    if args.fisher:
        features[FISHER] = fisher_features(pictures, random, args.fisher, _FISHER_STEP, args.seed, cache)
    features[COLOR] = color_features(pictures, random, cache)
    regions = region_features(pictures, random, cache)
    seeds = range(args.seed, args.seed + args.repeats)
    measures = measure(features, regions, args.folds, seeds, _CONTROLS)
    label = next(reversed(named))
    out.mkdir(parents=True, exist_ok=True)
    described = (
        f"{len(images)} words × {args.keep} images against {len(random)} random ones, {args.folds} folds × "
        f"{args.repeats}, {args.backbone}. Average precision in per cent; chance is {100 * measures.chance:.1f}."
    )
    found = {word: [image.found for image in of_word] for word, of_word in images.items()}
    files = [
        write_csv(out / "words.csv", word_rows(measures)),
        write_ranking_page(out / "words.html", measures, label, pictures, found, args.top, described),
    ]
    _print_ranking(measures, label, described)
    return files


def _tell_apart(args: argparse.Namespace, store: Store, out: Path, cache: Path) -> list[Path]:
    require_matplotlib()
    named = name_layers(args.backbone, args.layer)
    label = next(reversed(named))
    combined = list(dict.fromkeys(args.with_words))
    queries = [Combination(args.noun, word, 0, 0.0).query for word in combined]
    chosen = _choose(args, store, queries, apart=True)
    images = dict(zip(combined, chosen.values()))
    pictures = stored_pictures(images)
    features = layer_features(pictures, [], args.backbone, args.weights, {label: named[label]}, cache)[label]
    seeds = range(args.seed, args.seed + args.repeats)
    progress = progress_lines("telling words apart", "words")
    found = discriminability(features.words, args.folds, seeds, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    described = (
        f"{args.noun}: {len(images)} words × {args.keep} images, {args.folds} folds × {args.repeats}, {args.backbone}, "
        f"{label}."
    )
    sources = {word: [image.found for image in of_word] for word, of_word in images.items()}
    files = [
        write_csv(out / "confusion.csv", _confusion_rows(found)),
        draw_confusion(found, out / "confusion.png"),
        write_confusion_page(out / "confusion.html", found, pictures, sources, described),
    ]
    print(described)
    _print_table(["collected for", *found.words], [list(row.values()) for row in _confusion_rows(found)])
    print(f"accuracy {accuracy_text(found)}")
    return files


def _choose(
    args: argparse.Namespace, store: Store, words: Sequence[str], apart: bool = False
) -> dict[str, list[StoredImage]]:
    """Return the ``--keep`` best images of each word, equally many so that words compare; ``apart``: each of one only.

    Without words, all of the store that have as many. Raises :class:`UserError` for what the store lacks.
    """
    known = store.words()
    words = list(dict.fromkeys(unicodedata.normalize("NFC", word.strip()) for word in words))
    missing = [word for word in words if word not in known]
    if missing:
        raise UserError(f"the store {args.store} lacks {', '.join(map(shown, missing))}: {_more(args, missing)}")
    images = {word: store.best_images(word) for word in words or known}
    if apart:
        images = of_one_word(images)
    few = [word for word, of_word in images.items() if len(of_word) < args.keep]
    if words and few:
        counts = ", ".join(f"{shown(word)} has {len(images[word])}" for word in few)
        smallest = min(len(images[word]) for word in few)
        fewer = f", or --keep {smallest}" if smallest >= max(args.folds, _FEWEST_IMAGES) else ""
        raise UserError(f"{args.keep} images are measured of each word, but {counts}: {_more(args, few)}{fewer}")
    for word in few:
        tell(f"{shown(word)}: {len(images[word])} images are fewer than --keep {args.keep}: not measured")
    measured = {word: of_word[: args.keep] for word, of_word in images.items() if word not in few}
    if not measured:
        raise UserError(f"no word of the store {args.store} has {args.keep} images: collect more, or lower --keep")
    return measured


def of_one_word(images: Mapping[str, Sequence[StoredImage]]) -> dict[str, list[StoredImage]]:
    """Leave out what is, or nearly duplicates, another word's: it would be learnt as one and tested as the other."""
    every = [image for of_word in images.values() for image in of_word]
    first = near_duplicates([image.perceptual_hash for image in every])
    group_of = {image.sha256: every[leader].sha256 for image, leader in zip(every, first)}
    words_of = Counter(group for of_word in images.values() for group in {group_of[image.sha256] for image in of_word})
    alone = {
        word: [image for image in of_word if words_of[group_of[image.sha256]] == 1] for word, of_word in images.items()
    }
    if shared := len(every) - sum(len(of_word) for of_word in alone.values()):
        tell(f"{shared} images are also of another of the words: left out")
    return alone


def _more(args: argparse.Namespace, words: Sequence[str]) -> str:
    command = ["tezawari", "collect", *words]
    if args.store != DEFAULT_FOLDER:
        command += ["--store", str(args.store)]
    # shlex would put kana in quotes, which no shell needs.
    return " ".join(part if re.fullmatch(r"[\w@%+=:,./-]+", part) else shlex.quote(part) for part in command)


def stored_pictures(images: Mapping[str, Sequence[StoredImage]]) -> dict[str, list[Picture]]:
    """Return each word's stored images as :func:`square_picture` takes them, not read before they are needed."""
    return {
        word: [square_picture(image.sha256, partial(load_pixels, image.path, 2 * IMAGE_SIZE)) for image in of_word]
        for word, of_word in images.items()
    }


def square_picture(sha256: str, load: LoadImage) -> Picture:
    """Return the central square of an image, loaded when it is needed."""
    # Named apart from the whole image, which the ranking describes.
    return Picture(hashlib.sha256(f"central square {sha256}".encode()).hexdigest(), partial(_square, load))


def _square(load: LoadImage) -> np.ndarray:
    return central_square(load())


def _print_ranking(measures: Measures, label: str, described: str) -> None:
    print(described)
    _print_table(*ranking_rows(measures, label))
    for name in measures.recognised:
        correlation = measures.correlation(name)
        if correlation.rho is not None:
            print(f"rank correlation of entropy with {name}: {correlation.rho:+.2f} (p {correlation.p:.2g})")


def _confusion_rows(found: Discriminability) -> list[dict[str, str]]:
    return [
        {"word": word, **{other: f"{count:.6g}" for other, count in zip(found.words, of_word)}}
        for word, of_word in zip(found.words, found.confusion)
    ]


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to fit into
    table = Table()
    for place, name in enumerate(head):
        is_word = name in ("word", "collected for")
        table.add_column(name, justify="left" if is_word else "right", no_wrap=place < 2)
    for row in rows:
        table.add_row(*row)
    console.print(table)
