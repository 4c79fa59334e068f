"""``evaluate.py benchmark=recognisability``: which features tell a word's images from random ones, and which words.

Beside it image region entropy, which should be low where recognisability is high, and what random images get that are
measured as if they were a word.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from tezawari.core.plots import require_matplotlib
from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.features.descriptors import IMAGE_SIZE
from tezawari.words.folders_benchmark import CACHE_FOLDER, Folders, find_random, find_words, require_layers
from tezawari.words.image_features import (
    COLOR,
    FISHER,
    color_features,
    fisher_features,
    layer_features,
    name_layers,
    region_features,
)
from tezawari.words.intervals import mean_and_margin
from tezawari.words.measures import Measures, measure, require_random, word_rows
from tezawari.words.recognisability import require_images

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
    require_layers(layers)
    named = name_layers(backbone, layers)
    words = find_words(images, max_images, seed)
    random = find_random(negatives, words)
    per_word = len(next(iter(words.values())))
    require_images({word: len(pictures) for word, pictures in words.items()}, folds)
    require_random(per_word, len(random), folds)
    cache = Path(output_dir) / CACHE_FOLDER
    features = layer_features(words, random, backbone, weights, named, cache)
    if fisher_components > 0:
        features[FISHER] = fisher_features(words, random, fisher_components, fisher_step, seed, cache)
    features[COLOR] = color_features(words, random, cache)
    regions = region_features(words, random, cache)
    measures = measure(features, regions, folds, range(seed, seed + repeats), controls, entropy_components)
    report = Report(measures, next(reversed(named)), backbone, seed, time.monotonic() - began)
    files = write_report(report, Path(output_dir) / "recognisability")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


# --- what is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """All that is written down: the measures, and of what."""

    measures: Measures
    deepest: str
    backbone: str
    seed: int
    wall_seconds: float

    def published(self, label: str) -> float | None:
        """Return what the talk has for a feature, of four other words."""
        return {FISHER: _PUBLISHED_FISHER, self.deepest: _PUBLISHED_DEEPEST}.get(label)


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``words.csv``, ``summary.csv``, ``summary.md`` and ``figure.png``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    measures = report.measures
    record = {
        "data": f"{len(measures.words)} words × {measures.images} images against {measures.random} random ones, "
        f"{measures.folds} folds, {report.backbone}",
        "backbone": report.backbone,
        "image_size": IMAGE_SIZE,
        **measured_here(report.seed, report.wall_seconds),
    }
    summaries = [*(_summary(report, label) for label in measures.recognised), _entropy_summary(report)]
    columns = list(dict.fromkeys(name for summary in summaries for name in summary))
    files = {
        "words": write_csv(folder / "words.csv", word_rows(measures)),
        "summary": write_csv(
            folder / "summary.csv",
            [{**{name: summary.get(name, "") for name in columns}, **record} for summary in summaries],
        ),
        "table": folder / "summary.md",
        "figure": draw_figure(report, folder / "figure.png"),
    }
    files["table"].write_text(render_tables(report, str(record["data"])), encoding="utf-8")
    return files


def _summary(report: Report, label: str) -> dict[str, str]:
    mean, margin = mean_and_margin(report.measures.precisions(label))
    control, control_margin = mean_and_margin(report.measures.control_precisions(label))
    correlation, published = report.measures.correlation(label), report.published(label)
    numbers = {
        "ap": mean,
        "ap_margin": margin,
        "chance": report.measures.chance,
        "control_ap": control,
        "control_ap_margin": control_margin,
        "control_chance": report.measures.control_chance,
        "entropy_rho": correlation.rho,
        "entropy_rho_p": correlation.p,
        **{f"ap/{one.word}": one.average_precision for one in report.measures.recognised[label]},
    }
    return {
        "method": label,
        "n": str(len(report.measures.entropies)),
        "published_ap": "" if published is None else f"{published:.3f}",
        **{name: "" if value is None else f"{value:.6g}" for name, value in numbers.items()},
    }


def _entropy_summary(report: Report) -> dict[str, str]:
    mean, margin = mean_and_margin(np.array([one.entropy for one in report.measures.entropies]))
    control, control_margin = mean_and_margin(np.array([one.entropy for one in report.measures.control_entropies]))
    numbers = {
        "entropy": mean,
        "entropy_margin": margin,
        "control_entropy": control,
        "control_entropy_margin": control_margin,
        **{f"entropy/{one.word}": one.entropy for one in report.measures.entropies},
    }
    named = {"method": "region entropy", "n": str(len(report.measures.entropies))}
    return {**named, **{name: f"{value:.6g}" for name, value in numbers.items()}}


def render_tables(report: Report, data: str) -> str:
    """Return the Markdown: a row a feature, then a row a word, the best recognised first."""
    labels = list(report.measures.recognised)
    features = []
    for label in labels:
        mean, margin = mean_and_margin(report.measures.precisions(label))
        control, control_margin = mean_and_margin(report.measures.control_precisions(label))
        correlation, published = report.measures.correlation(label), report.published(label)
        features.append(
            [
                label,
                f"{100 * mean:.1f} ± {100 * margin:.1f}",
                f"{100 * control:.1f} ± {100 * control_margin:.1f}",
                f"{100 * report.measures.control_chance:.1f}",
                "" if correlation.rho is None else f"{correlation.rho:+.2f} (p {correlation.p:.2g})",
                "none" if published is None else f"{100 * published:.1f}",
            ]
        )
    words = []
    for place in np.argsort(-report.measures.precisions(report.deepest), kind="stable"):
        low, high = report.measures.entropies[place].interval
        words.append(
            [
                report.measures.entropies[place].word,
                *(f"{100 * report.measures.precisions(label)[place]:.1f}" for label in labels),
                f"{report.measures.entropies[place].entropy:.2f} ({low:.2f} – {high:.2f})",
            ]
        )
    controls = np.array([one.entropy for one in report.measures.control_entropies])
    random_row = [f"{100 * report.measures.control_precisions(label).mean():.1f}" for label in labels]
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

    figure = Figure(figsize=(10, 1.6 + 0.24 * len(report.measures.entropies)), layout="constrained")
    by_word, by_entropy = figure.subplots(1, 2)
    order = np.argsort(report.measures.precisions(report.deepest), kind="stable")
    names = np.array([one.word for one in report.measures.entropies])
    entropies = np.array([one.entropy for one in report.measures.entropies])
    controls = [one.entropy for one in report.measures.control_entropies]
    for label, marker in zip(report.measures.recognised, "osD^v<>ph*" * len(report.measures.recognised)):
        (drawn,) = by_word.plot(
            100 * report.measures.precisions(label)[order], names[order], marker, label=label, markersize=5
        )
        style = {"color": drawn.get_color(), "marker": marker, "linestyle": "", "markersize": 5}
        by_entropy.plot(entropies, 100 * report.measures.precisions(label), **style)
        by_entropy.plot(controls, 100 * report.measures.control_precisions(label), **style, fillstyle="none")
    by_word.axvline(100 * report.measures.chance, color="k", linestyle=":", label="chance")
    by_word.set(xlabel="average precision, %", xlim=(0, 102))
    by_word.legend(fontsize=7)
    by_entropy.set(xlabel="region entropy, bits (hollow: random sets)", ylabel="average precision, %", ylim=(0, 102))
    for axes in (by_word, by_entropy):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    return path
