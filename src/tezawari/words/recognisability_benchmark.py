"""``evaluate.py benchmark=recognisability``: which features tell a word's images from random ones, and which words.

Beside it image region entropy, which should be low where recognisability is high, and what random images get that are
measured as if they were a word.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy.stats import spearmanr

from tezawari.core.checkpoints import write_atomically
from tezawari.core.errors import UserError
from tezawari.core.runs import current_commit, describe_machine
from tezawari.core.tables import markdown_table, write_csv
from tezawari.core.training import say
from tezawari.features.color_histogram import color_histogram
from tezawari.features.descriptors import IMAGE_SIZE
from tezawari.features.fisher import FisherEncoder, dense_sift, fit_descriptors, load_fisher
from tezawari.words.recognisability import Recognisability, recognisability, require_images
from tezawari.words.region_entropy import (
    RegionEntropy,
    describe_regions,
    fit_region_model,
    grid_labels,
    region_entropy,
)
from tezawari.words.rerank_benchmark import (
    CACHE_FOLDER,
    Features,
    Folders,
    Picture,
    ProgressLines,
    describe_words,
    find_random,
    find_words,
    mean_and_margin,
    name_layers,
    require_matplotlib,
)

FISHER, COLOR = "Fisher vectors", "colour histogram"
# Of the random images, all that a vocabulary of visual words is learnt from.
_VOCABULARY_IMAGES = 400
_VOCABULARY_DESCRIPTORS = 100_000
# Means of the four words of which the talk prints both (METHODS §2): other words, 5,000 random images.
_PUBLISHED_FISHER, _PUBLISHED_DEEPEST = 0.150, 0.773


def benchmark_recognisability(
    images: Folders | None,
    negatives: str | None,
    output_dir: str,
    backbone: str = "efficientnet_lite0",
    weights: str | None = None,
    layers: list[str] | None = None,
    max_images: PositiveInt = 50,
    fisher_components: NonNegativeInt = 256,
    fisher_step: PositiveInt = 6,
    entropy_components: PositiveInt = 250,
    folds: Annotated[int, Field(ge=2)] = 5,
    repeats: PositiveInt = 3,
    controls: Annotated[int, Field(ge=2)] = 5,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure words by :func:`recognisability` on several features and by :func:`region_entropy`; leave tables.

    Each of ``controls`` is a random set of as many random images as a word has, measured against the others like a
    word: its average precision must be near :func:`chance`, and its entropy above that of a visual word. Rank
    correlation (Spearman) is that of entropy with average precision over words; negative where entropy tells what is
    visual.

    Images are seen as central squares of 224 px: the shape of a photo would tell a set from another. The mixtures of
    Fisher vectors and of region entropy are fitted to the random images, without labels.

    Args:
        images: a folder of one folder of images a word, or several such folders.
        negatives: a folder of random images.
        output_dir: where the folders ``recognisability`` and ``cache`` go; the latter keeps features for the next time.
        backbone: what describes the images, and ``weights`` as :func:`load_backbone` takes them.
        layers: of the backbone; None: :func:`early_middle_late`.
        max_images: of each word; all words have as many as the smallest has, drawn by ``seed``.
        fisher_components: of the mixture; 0 leaves Fisher vectors out, which need OpenCV.
        fisher_step: between the centres of the squares that SIFT describes, in pixels.
        entropy_components: of the generic mixture.
        folds: of cross-validation, and of the entropy's interval.
        repeats: times that the images are divided into folds.
        controls: how many random sets.
        seed: of all draws.

    Returns:
        Name → file: ``words`` (a row a word and measure), ``summary`` (a row a feature), ``table``, ``figure``.

    Raises:
        UserError: a folder is missing, or has too few words or images, or OpenCV is missing.
    """
    began = time.monotonic()
    require_matplotlib()
    named = name_layers(backbone, layers)
    words = find_words(images, max_images, seed)
    random = find_random(negatives, words)
    per_word = len(next(iter(words.values())))
    require_images({word: len(pictures) for word, pictures in words.items()}, folds)
    if len(random) < per_word + max(per_word, folds):
        raise UserError(
            f"benchmark.negatives={negatives}: {len(random)} random images, but at least twice the {per_word} of a "
            "word are needed: add some, or lower benchmark.max_images"
        )
    features = describe_words(words, random, backbone, weights, named, Path(output_dir))
    cache = Path(output_dir) / CACHE_FOLDER
    if fisher_components > 0:
        features[FISHER] = fisher_vectors(words, random, fisher_components, fisher_step, seed, cache)
    features[COLOR] = described_by(color_histogram, "color-1", "colour histograms", words, random, cache)
    regions = described_by(_regions, "regions-grid5-1", "regions", words, random, cache)
    seeds = range(seed, seed + repeats)
    measured, controlled = {}, {}
    for label, one in features.items():
        say(f"recognising words by {label}")
        measured[label] = recognisability(one.words, one.random, folds, seeds)
        controlled[label] = [
            recognisability({f"random set {number + 1}": mine}, others, folds, seeds[:1])[0]
            for number, (mine, others) in enumerate(random_sets(one.random, per_word, controls, seed))
        ]
    say("region entropy: fitting the generic mixture")
    model = fit_region_model(list(regions.random), entropy_components, seed=seed)
    lines = ProgressLines("region entropy", "words")
    entropies = region_entropy(
        {word: list(of_word) for word, of_word in regions.words.items()},
        list(regions.random),
        model,
        folds=folds,
        seeds=seeds,
        progress=lines,
    )
    control_entropies = [
        region_entropy({"random set": list(mine)}, list(others), model, folds=folds, seeds=seeds[:1])[0]
        for mine, others in random_sets(regions.random, per_word, controls, seed)
    ]
    report = Report(
        measured,
        controlled,
        entropies,
        control_entropies,
        per_word,
        len(random),
        folds,
        next(reversed(named)),
        backbone,
        seed,
        time.monotonic() - began,
    )
    files = write_report(report, Path(output_dir) / "recognisability")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


def chance(positives: int, negatives: int) -> float:
    """Return the expected average precision of a random order of ``positives`` among ``negatives``. [derived]

    With 10 and 1,000, the talk's fold, it is 0.016: above the share of positives, for what comes first counts most.
    """
    total = positives + negatives
    if total == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, total + 1)).sum())
    return (harmonic + (positives - 1) / (total - 1) * (total - harmonic)) / total


def random_sets(random: np.ndarray, size: int, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``count`` draws of ``size`` rows of ``random`` (R, …), each with the rows that were not drawn."""
    draws = [np.random.default_rng([seed, number]).permutation(len(random)) for number in range(count)]
    return [(random[order[:size]], random[order[size:]]) for order in draws]


# --- features ---------------------------------------------------------------------------------------------------------


def fisher_vectors(
    words: Mapping[str, Sequence[Picture]],
    random: Sequence[Picture],
    components: int,
    step: int,
    seed: int,
    cache: Path,
) -> Features:
    """Return improved Fisher vectors of dense SIFT, whose mixture is fitted to the random images, and kept."""
    some = random[:_VOCABULARY_IMAGES]
    key = _digest([components, step, seed, _VOCABULARY_DESCRIPTORS, *(picture.key for picture in some)])
    path = cache / f"fisher-{key}.safetensors"
    if path.exists():
        encoder = load_fisher(path)
    else:
        encoder = _fit_fisher(some, components, step, seed)
        encoder.save(path)
    return described_by(
        lambda image: encoder.encode_descriptors(dense_sift(image, step)),
        f"fisher-{key}",
        FISHER,
        words,
        random,
        cache,
    )


def _fit_fisher(pictures: Sequence[Picture], components: int, step: int, seed: int) -> FisherEncoder:
    share = -(-_VOCABULARY_DESCRIPTORS // len(pictures))
    lines = ProgressLines("SIFT for Fisher vectors", "images")
    drawn = []
    for number, picture in enumerate(pictures):
        found = dense_sift(picture.load(), step)
        drawn.append(found[np.random.default_rng([seed, number]).permutation(len(found))[:share]])
        lines(number + 1, len(pictures))
    say(f"Fisher vectors: fitting a mixture of {components} components")
    return fit_descriptors(np.concatenate(drawn), components, seed=seed)


def described_by(
    describe: Callable[[np.ndarray], np.ndarray],
    key: str,
    title: str,
    words: Mapping[str, Sequence[Picture]],
    random: Sequence[Picture],
    cache: Path,
) -> Features:
    """Return what ``describe`` says of each image, stacked; kept in ``cache``, a file for each word's images.

    ``key`` names all that ``describe`` hangs on beside the image.
    """
    lines = ProgressLines(title, "images")
    total = len(random) + sum(len(pictures) for pictures in words.values())
    done = 0

    def stacked(pictures: Sequence[Picture]) -> np.ndarray:
        nonlocal done
        path = cache / f"{key}-{_digest([picture.key for picture in pictures])}.npy"
        if path.exists():
            found = _load(path)
            done += len(pictures)
        else:
            rows = []
            for picture in pictures:
                rows.append(describe(picture.load()))
                done += 1
                lines(done, total)
            found = np.stack(rows)
            content = io.BytesIO()
            np.save(content, found)
            write_atomically(path, content.getvalue())
        return found

    return Features({word: stacked(pictures) for word, pictures in words.items()}, stacked(random))


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged: delete it, and it is made again") from error


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()[:16]


def _regions(image: np.ndarray) -> np.ndarray:
    return describe_regions(image, grid_labels(*image.shape[:2]))


# --- what is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of entropy and average precision over words, None where a side is constant."""

    rho: float | None
    p: float | None


@dataclass(frozen=True)
class Report:
    """All that is written down: feature → words, feature → random sets; entropies of both; and of what."""

    measured: dict[str, list[Recognisability]]
    controlled: dict[str, list[Recognisability]]
    entropies: list[RegionEntropy]
    control_entropies: list[RegionEntropy]
    images: int
    random: int
    folds: int
    deepest: str
    backbone: str
    seed: int
    wall_seconds: float

    def precisions(self, label: str) -> np.ndarray:
        """Return each word's average precision by a feature, (W,)."""
        return np.array([one.average_precision for one in self.measured[label]])

    def control_precisions(self, label: str) -> np.ndarray:
        """Return each random set's average precision by a feature, (C,)."""
        return np.array([one.average_precision for one in self.controlled[label]])

    def chance(self, negatives: int) -> float:
        """Return the chance of a fold, by its mean sizes, of a word against ``negatives``."""
        return chance(round(self.images / self.folds), round(negatives / self.folds))

    def correlation(self, label: str) -> Correlation:
        """Return how the words' entropies go with their average precisions by a feature."""
        precisions = self.precisions(label)
        entropies = np.array([one.entropy for one in self.entropies])
        if np.ptp(precisions) == 0 or np.ptp(entropies) == 0:
            return Correlation(None, None)
        found = spearmanr(entropies, precisions)
        return Correlation(float(found.statistic), float(found.pvalue))

    def published(self, label: str) -> float | None:
        """Return what the talk has for a feature, of four other words."""
        return {FISHER: _PUBLISHED_FISHER, self.deepest: _PUBLISHED_DEEPEST}.get(label)


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``words.csv``, ``summary.csv``, ``summary.md`` and ``figure.png``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "data": f"{len(report.entropies)} words × {report.images} images against {report.random} random ones, "
        f"{report.folds} folds, {report.backbone}",
        "backbone": report.backbone,
        "image_size": IMAGE_SIZE,
        "seed": report.seed,
        "commit": current_commit(),
        **describe_machine(),
        "wall_seconds": round(report.wall_seconds, 1),
    }
    summaries = [*(_summary(report, label) for label in report.measured), _entropy_summary(report)]
    columns = list(dict.fromkeys(name for summary in summaries for name in summary))
    files = {
        "words": write_csv(folder / "words.csv", _word_rows(report)),
        "summary": write_csv(
            folder / "summary.csv",
            [{**{name: summary.get(name, "") for name in columns}, **record} for summary in summaries],
        ),
        "table": folder / "summary.md",
        "figure": draw_figure(report, folder / "figure.png"),
    }
    files["table"].write_text(render_tables(report, str(record["data"])), encoding="utf-8")
    return files


def _word_rows(report: Report) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []

    def add(word: str, method: str, metric: str, value: float, interval: tuple[float, float]) -> None:
        low, high = (f"{bound:.6g}" for bound in interval)
        named = {"word": word, "method": method, "metric": metric}
        rows.append({**named, "value": f"{value:.6g}", "low": low, "high": high})

    for label in report.measured:
        for one in [*report.measured[label], *report.controlled[label]]:
            add(one.word, label, "ap", one.average_precision, one.interval)
    for number, entropy in enumerate([*report.entropies, *report.control_entropies]):
        control = number - len(report.entropies)
        word = entropy.word if control < 0 else f"random set {control + 1}"
        add(word, "region entropy", "bits", entropy.entropy, entropy.interval)
    return rows


def _summary(report: Report, label: str) -> dict[str, str]:
    mean, margin = mean_and_margin(report.precisions(label))
    control, control_margin = mean_and_margin(report.control_precisions(label))
    correlation, published = report.correlation(label), report.published(label)
    numbers = {
        "ap": mean,
        "ap_margin": margin,
        "chance": report.chance(report.random),
        "control_ap": control,
        "control_ap_margin": control_margin,
        "control_chance": report.chance(report.random - report.images),
        "entropy_rho": correlation.rho,
        "entropy_rho_p": correlation.p,
        **{f"ap/{one.word}": one.average_precision for one in report.measured[label]},
    }
    return {
        "method": label,
        "n": str(len(report.entropies)),
        "published_ap": "" if published is None else f"{published:.3f}",
        **{name: "" if value is None else f"{value:.6g}" for name, value in numbers.items()},
    }


def _entropy_summary(report: Report) -> dict[str, str]:
    mean, margin = mean_and_margin(np.array([one.entropy for one in report.entropies]))
    control, control_margin = mean_and_margin(np.array([one.entropy for one in report.control_entropies]))
    numbers = {
        "entropy": mean,
        "entropy_margin": margin,
        "control_entropy": control,
        "control_entropy_margin": control_margin,
        **{f"entropy/{one.word}": one.entropy for one in report.entropies},
    }
    named = {"method": "region entropy", "n": str(len(report.entropies))}
    return {**named, **{name: f"{value:.6g}" for name, value in numbers.items()}}


def render_tables(report: Report, data: str) -> str:
    """Return the Markdown: a row a feature, then a row a word, the best recognised first."""
    labels = list(report.measured)
    features = []
    for label in labels:
        mean, margin = mean_and_margin(report.precisions(label))
        control, control_margin = mean_and_margin(report.control_precisions(label))
        correlation, published = report.correlation(label), report.published(label)
        features.append(
            [
                label,
                f"{100 * mean:.1f} ± {100 * margin:.1f}",
                f"{100 * control:.1f} ± {100 * control_margin:.1f}",
                f"{100 * report.chance(report.random - report.images):.1f}",
                "" if correlation.rho is None else f"{correlation.rho:+.2f} (p {correlation.p:.2g})",
                "none" if published is None else f"{100 * published:.1f}",
            ]
        )
    words = []
    for place in np.argsort(-report.precisions(report.deepest), kind="stable"):
        low, high = report.entropies[place].interval
        words.append(
            [
                report.entropies[place].word,
                *(f"{100 * report.precisions(label)[place]:.1f}" for label in labels),
                f"{report.entropies[place].entropy:.2f} ({low:.2f} – {high:.2f})",
            ]
        )
    controls = np.array([one.entropy for one in report.control_entropies])
    random_row = [f"{100 * report.control_precisions(label).mean():.1f}" for label in labels]
    words.append(["random images", *random_row, f"{controls.mean():.2f}"])
    return "\n\n".join(
        [
            f"{data}. Average precision in per cent; means over words, ± half of the 95 % interval over words. "
            f"Control: {len(controls)} random sets measured like words, and what chance gives them. Rank correlation: "
            "Spearman's, of region entropy with average precision. Published: the talk's mean of four other words, 50 "
            "images against 5,000.",
            markdown_table(["features", "average precision", "control", "chance", "entropy ρ", "published"], features),
            markdown_table(["word", *labels, "entropy, bits (95 %)"], words) + "\n",
        ]
    )


def draw_figure(report: Report, path: Path) -> Path:
    """Draw each word's average precision by feature, and beside it the same over the word's region entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 + 0.24 * len(report.entropies)), layout="constrained")
    by_word, by_entropy = figure.subplots(1, 2)
    order = np.argsort(report.precisions(report.deepest), kind="stable")
    names = np.array([one.word for one in report.entropies])
    entropies = np.array([one.entropy for one in report.entropies])
    controls = [one.entropy for one in report.control_entropies]
    for label, marker in zip(report.measured, "osD^v<>ph*" * len(report.measured)):
        (drawn,) = by_word.plot(100 * report.precisions(label)[order], names[order], marker, label=label, markersize=5)
        style = {"color": drawn.get_color(), "marker": marker, "linestyle": "", "markersize": 5}
        by_entropy.plot(entropies, 100 * report.precisions(label), **style)
        by_entropy.plot(controls, 100 * report.control_precisions(label), **style, fillstyle="none")
    by_word.axvline(100 * report.chance(report.random), color="k", linestyle=":", label="chance")
    by_word.set(xlabel="average precision, %", xlim=(0, 102))
    by_word.legend(fontsize=7)
    by_entropy.set(xlabel="region entropy, bits (hollow: random sets)", ylabel="average precision, %", ylim=(0, 102))
    for axes in (by_word, by_entropy):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    return path
