"""``evaluate.py benchmark=rerank``: how much two passes of re-ranking clean what a search found.

A folder of images a word stands for the web: each word's images, mixed with random ones that become more frequent
further down, are the results of a simulated search, of which it is known what is right.
"""

from __future__ import annotations

import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from tezawari.collect.rerank import POSITIVES_OF_PASS, rerank
from tezawari.core.errors import UserError
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines
from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.features.descriptors import IMAGE_SIZE
from tezawari.words.folders_benchmark import CACHE_FOLDER, Folders, find_random, find_words, require_layers
from tezawari.words.image_features import layer_features, name_layers
from tezawari.words.intervals import mean_and_margin
from tezawari.words.recognisability import average_precision

Shares = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]

SEARCH_ORDER = "search order"
_FEWEST_NEGATIVES = 20
# The talk's mean average precision after re-ranking by layer 6, 20 words × 50 images (METHODS §2): other words.
_PUBLISHED = 0.896


def benchmark_rerank(
    images: Folders | None,
    negatives: str | None,
    output_dir: str,
    backbone: str = "efficientnet_lite0",
    weights: str | None = None,
    layers: list[str] | None = None,
    max_images: PositiveInt = 50,
    shares: Shares = (0.3, 0.5, 0.7),
    worsening: Annotated[float, Field(ge=1)] = 3.0,
    repeats: PositiveInt = 3,
    folds: PositiveInt = 1,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure average precision of simulated searches, before and after each pass, and leave tables and a figure.

    Each word is searched for ``repeats`` times at each of ``shares`` (:func:`simulate_search`). The SVM's negatives are
    random images of which none is mixed into that search. A mean is over words, each of which counts as the mean of its
    searches; its interval is Student's t over words, that of a gain over the words' differences.

    Images are seen as central squares of 224 px: the shape of a photo would tell a set from another.

    Args:
        images: a folder of one folder of images a word, or several such folders.
        negatives: a folder of random images.
        output_dir: where the folders ``rerank`` and ``cache`` go; the latter keeps descriptors for the next time.
        backbone: what describes the images, and ``weights`` as :func:`load_backbone` takes them.
        layers: of the backbone; None: :func:`early_middle_late`.
        max_images: of each word; all words have as many as the smallest has, drawn by ``seed``.
        shares: of random images among the results.
        worsening: how many times as likely the last place is to hold a random image as the first.
        repeats: searches for each word and share.
        folds: :func:`tezawari.collect.rerank.rerank`'s.
        seed: of all draws.

    Returns:
        Name → file: ``searches`` (a row a search and ranking), ``summary`` (a row a ranking), ``table``, ``figure``.

    Raises:
        UserError: a folder is missing, or has too few words or images.
    """
    began = time.monotonic()
    require_matplotlib()
    require_layers(layers)
    named = name_layers(backbone, layers)
    words = find_words(images, max_images, seed)
    random = find_random(negatives, words)
    per_word = len(next(iter(words.values())))
    most_mixed = max(mixed_in(per_word, share) for share in shares)
    if len(random) < most_mixed + _FEWEST_NEGATIVES:
        raise UserError(
            f"benchmark.negatives={negatives}: {len(random)} random images, but {most_mixed} to mix in and at least "
            f"{_FEWEST_NEGATIVES} others to learn from are needed: add some, or lower benchmark.max_images"
        )
    described = layer_features(words, random, backbone, weights, named, Path(output_dir) / CACHE_FOLDER)
    shape = (len(words), len(shares), repeats)
    precisions = {SEARCH_ORDER: np.empty(shape)}
    for label in named:
        precisions |= {f"{label}, pass {number + 1}": np.empty(shape) for number in range(len(POSITIVES_OF_PASS))}
    lines = progress_lines("searches", "words")
    for row, word in enumerate(words):
        for column, share in enumerate(shares):
            for repeat in range(repeats):
                rng = np.random.default_rng([seed, repeat, round(1000 * share), zlib.crc32(word.encode())])
                search = draw_search(per_word, len(random), share, worsening, rng)
                place = (row, column, repeat)
                precisions[SEARCH_ORDER][place] = _precision(np.arange(len(search.right)), search.right)
                for label, features in described.items():
                    results, others = search.gather(features.words[word], features.random, most_mixed)
                    for number, ranking in enumerate(rerank(results, others, folds=folds)):
                        precisions[f"{label}, pass {number + 1}"][place] = _precision(ranking.ranks, search.right)
        lines(row + 1, len(words))
    report = Report(
        precisions,
        list(words),
        list(shares),
        per_word,
        len(random) - most_mixed,
        next(reversed(named)),
        backbone,
        worsening,
        seed,
        time.monotonic() - began,
    )
    files = write_report(report, Path(output_dir) / "rerank")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


# --- searches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """What a simulated search found.

    ``right`` (N,) bool says which places hold the word's images, ``own`` (P,) which of them, from the top down;
    ``others`` is an order of all random images, of which the first N − P fill the other places.
    """

    right: np.ndarray
    own: np.ndarray
    others: np.ndarray

    def gather(self, word: np.ndarray, random: np.ndarray, kept_apart: int) -> tuple[np.ndarray, np.ndarray]:
        """Return descriptors of the results (N, D), and of the random images that no search could mix in (M, D).

        ``word`` (P, D) and ``random`` (R, D) are what is drawn from; the first ``kept_apart`` of ``others`` are no
        negatives, so that their number is the same at every share.
        """
        results = np.empty((len(self.right), word.shape[1]), word.dtype)
        results[self.right] = word[self.own]
        results[~self.right] = random[self.others[: int((~self.right).sum())]]
        return results, random[self.others[kept_apart:]]


def mixed_in(images: int, share: float) -> int:
    """Return how many random images make up ``share`` of the results beside ``images`` of the word."""
    return round(images * share / (1 - share))


def simulate_search(images: int, share: float, worsening: float, rng: np.random.Generator) -> np.ndarray:
    """Return which places of a search's results hold an image of the word, (N,) bool, ``images`` of them.

    The places of the random images are drawn one after another, without repetition, with weights that rise linearly
    from 1 at the first place to ``worsening`` at the last. [ours]
    """
    mixed = mixed_in(images, share)
    right = np.ones(images + mixed, bool)
    weights = np.linspace(1, worsening, len(right))
    right[rng.choice(len(right), mixed, replace=False, p=weights / weights.sum())] = False
    return right


def draw_search(images: int, random: int, share: float, worsening: float, rng: np.random.Generator) -> Search:
    """Return a search for a word of ``images`` images among ``random`` others; all draws come from ``rng``."""
    right = simulate_search(images, share, worsening, rng)
    return Search(right, rng.permutation(images), rng.permutation(random))


def _precision(ranks: np.ndarray, right: np.ndarray) -> float:
    """Return the average precision of a ranking, (N,), lowest first, of which ``right`` (N,) should come first."""
    return average_precision(-ranks[right], -ranks[~right])


# --- what is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """All that is written down: ranking → average precisions (words, shares, repeats), and of what."""

    precisions: dict[str, np.ndarray]
    words: list[str]
    shares: list[float]
    images: int
    negatives: int
    deepest: str
    backbone: str
    worsening: float
    seed: int
    wall_seconds: float

    def gains(self, method: str) -> np.ndarray:
        """Return by how much a ranking is better than the order of the search, (words, shares, repeats)."""
        return self.precisions[method] - self.precisions[SEARCH_ORDER]


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``searches.csv``, ``summary.csv``, ``summary.md`` and ``figure.png``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    searches = [
        {"word": word, "share": share, "repeat": repeat, "method": method, "ap": f"{values[row, column, repeat]:.6g}"}
        for method, values in report.precisions.items()
        for row, word in enumerate(report.words)
        for column, share in enumerate(report.shares)
        for repeat in range(values.shape[2])
    ]
    shares = "–".join(f"{share:.0%}" for share in sorted({min(report.shares), max(report.shares)}))
    record = {
        "data": f"{len(report.words)} words × {report.images} images among {shares} random ones, {report.negatives} "
        f"other random negatives, {report.backbone}",
        "backbone": report.backbone,
        "image_size": IMAGE_SIZE,
        **measured_here(report.seed, report.wall_seconds),
    }
    files = {
        "searches": write_csv(folder / "searches.csv", searches),
        "summary": write_csv(
            folder / "summary.csv", [{**_summary(report, method), **record} for method in report.precisions]
        ),
        "table": folder / "summary.md",
        "figure": draw_figure(report, folder / "figure.png"),
    }
    files["table"].write_text(render_table(report, str(record["data"])), encoding="utf-8")
    return files


def _summary(report: Report, method: str) -> dict[str, Any]:
    values = report.precisions[method]
    mean, margin = mean_and_margin(values.mean(axis=(1, 2)))
    gain, gain_margin = mean_and_margin(report.gains(method).mean(axis=(1, 2)))
    is_published = method == f"{report.deepest}, pass {len(POSITIVES_OF_PASS)}"
    numbers = {
        "ap": mean,
        "ap_margin": margin,
        "gain": gain,
        "gain_margin": gain_margin,
        **{f"ap/{share:.0%} random": ap for share, ap in zip(report.shares, values.mean(axis=(0, 2)))},
        **{f"ap/{word}": ap for word, ap in zip(report.words, values.mean(axis=(1, 2)))},
    }
    named = {"method": method, "n": len(report.words), "published_ap": str(_PUBLISHED) if is_published else ""}
    return {**named, **{name: f"{value:.6g}" for name, value in numbers.items()}}


def render_table(report: Report, data: str) -> str:
    """Return the Markdown: a row a ranking, in per cent."""
    head = ["ranking", "average precision", "gain", *(f"{share:.0%} random" for share in report.shares), "published"]
    rows = []
    for method, values in report.precisions.items():
        summary = _summary(report, method)
        mean, margin = mean_and_margin(values.mean(axis=(1, 2)))
        gain, gain_margin = mean_and_margin(report.gains(method).mean(axis=(1, 2)))
        rows.append(
            [
                method,
                f"{100 * mean:.1f} ± {100 * margin:.1f}",
                "" if method == SEARCH_ORDER else f"{100 * gain:+.1f} ± {100 * gain_margin:.1f}",
                *(f"{100 * ap:.1f}" for ap in values.mean(axis=(0, 2))),
                f"{100 * _PUBLISHED:.1f}" if summary["published_ap"] else "none",
            ]
        )
    repeats = report.precisions[SEARCH_ORDER].shape[2]
    return "\n\n".join(
        [
            f"{data}; {repeats} searches for each word and share; in the last place a random image is "
            f"{report.worsening:g} times as likely as in the first. Means over words in per cent, ± half of the 95 % "
            "interval over words. Published: the talk's, 20 words × 50 images of a real search: other words.",
            markdown_table(head, rows) + "\n",
        ]
    )


def draw_figure(report: Report, path: Path) -> Path:
    """Draw the means by pass with their intervals, and beside them the last pass by share of random images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_pass, by_share = figure.subplots(1, 2, sharey=True)
    passes = [f"pass {number + 1}" for number in range(len(POSITIVES_OF_PASS))]
    labels = list(dict.fromkeys(method.rpartition(", ")[0] for method in report.precisions if method != SEARCH_ORDER))
    places = [f"{share:.0%}" for share in report.shares]
    for shift, label in enumerate(labels):
        methods = [SEARCH_ORDER, *(f"{label}, {name}" for name in passes)]
        means = [mean_and_margin(report.precisions[method].mean(axis=(1, 2))) for method in methods]
        # A little apart, or the intervals would hide each other.
        x = np.arange(len(methods)) + 0.06 * (shift - (len(labels) - 1) / 2)
        ap, margin = 100 * np.array(means).T
        by_pass.errorbar(x, ap, margin, fmt="o-", label=label, linewidth=1, markersize=4, capsize=2)
        last = 100 * report.precisions[methods[-1]].mean(axis=(0, 2))
        by_share.plot(places, last, "o-", label=f"{label}, {passes[-1]}", linewidth=1, markersize=4)
    by_share.plot(places, 100 * report.precisions[SEARCH_ORDER].mean(axis=(0, 2)), "ks--", label=SEARCH_ORDER)
    by_pass.set_xticks(range(1 + len(passes)), [SEARCH_ORDER, *passes])
    by_pass.set(ylabel="average precision, %", title=f"mean over {len(report.words)} words, 95 % interval")
    by_share.set(xlabel="random images among the results")
    for axes in (by_pass, by_share):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    return path
