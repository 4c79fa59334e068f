"""``evaluate.py benchmark=material_recognition``: the generations of material recognition on the same splits.

A folder of images a class; each generation is taught and tested by the protocols of METHODS §9, and stands beside the
number that the talk gives for it on the Flickr Material Database.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines
from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.labelled import LabelledSamples, WholeImages
from tezawari.data.labelled_image import LabelledImage
from tezawari.data.loader import ResumableLoader
from tezawari.features.backbone import available_layers, load_backbone
from tezawari.features.descriptors import IMAGE_SIZE, DescriptorCache, early_middle_late, fingerprint
from tezawari.recognition.baselines import SiftRows, classify, color_rows, side_by_side, sift_descriptors, sift_rows
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.protocols import TITLES, Protocol, Split, make_splits, mean_and_split_margin
from tezawari.recognition.training import fine_tune, predict_probabilities
from tezawari.words.folders_benchmark import CACHE_FOLDER, Folders, find_words

Protocols = Annotated[tuple[Protocol, ...], Field(min_length=1)]

COLOR_SIFT = "colour + SIFT words"
FISHER = "Fisher vectors + network features"
PROBE = "linear probe of network features"
FINE_TUNED = "fine-tuned network"
# The talk's, on the Flickr Material Database, which of the protocols it does not say (METHODS §9).
_PUBLISHED = {COLOR_SIFT: 0.446, FISHER: 0.656, FINE_TUNED: 0.840}
_TEST_BATCH = 16


def benchmark_material_recognition(
    images: Folders | None,
    output_dir: str,
    backbone: str = "efficientnet_lite0",
    weights: str | None = None,
    layer: str | None = None,
    max_images: PositiveInt = 100,
    protocols: Protocols = ("half", "5fold"),
    splits: Annotated[int, Field(ge=2)] = 5,
    sift_words: PositiveInt = 500,
    fisher_components: PositiveInt = 64,
    sift_step: PositiveInt = 8,
    steps: NonNegativeInt = 150,
    batch_size: PositiveInt = 16,
    learning_rate: PositiveFloat = 3e-4,
    head_factor: PositiveFloat = 10.0,
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure accuracy of each generation by each protocol, and leave tables and confusion matrices.

    All generations are taught and tested on the same splits, and everything that is learnt, vocabularies too, is learnt
    from a split's training images. Where a protocol has images to choose by, the machines' C is chosen by them; the
    fine-tuned network, which has nothing to choose, does without. A mean is over splits, its interval that of
    :func:`~tezawari.recognition.protocols.mean_and_split_margin`.

    Images are seen as central squares of 224 px: the shape of a photo would tell a class from another. Pictures that
    occur twice are taken once.

    Args:
        images: a folder of one folder of images a class, or several such folders.
        output_dir: where the folders ``material_recognition`` and ``cache`` go; the latter keeps features, and what
            each split was taken for, so that a benchmark that was stopped goes on.
        backbone: what is fine-tuned and gives the features, and ``weights`` as :func:`load_backbone` takes them.
        layer: whose features are frozen; None: the late one of :func:`early_middle_late`. The fine-tuned network
            classifies the deepest.
        max_images: of each class; all classes have as many as the smallest has, drawn by ``seed``.
        protocols: ``half``, ``5fold`` or both.
        splits: random halvings of ``half``.
        sift_words: of the bags.
        fisher_components: of the Fisher vectors' mixture.
        sift_step: between the centres of the squares that SIFT describes, in pixels.
        steps: of fine-tuning, for each split; 0 leaves the fine-tuned network out.
        batch_size: of fine-tuning.
        learning_rate: peak, for the pretrained layers; ``head_factor`` times that for the layer that starts at random.
        weight_decay: of AdamW.
        seed: of all draws.

    Returns:
        Name → file: ``splits`` (a row a method and split), ``summary`` (a row a method and protocol), ``table``,
        ``confusion``.

    Raises:
        UserError: a folder is missing, or has too few classes or images, or OpenCV or matplotlib is missing.
    """
    began = time.monotonic()
    require_matplotlib()
    if len(set(protocols)) < len(protocols):
        raise UserError(f"benchmark.protocols={protocols}: name each once")
    layer = layer or early_middle_late(backbone)[-1]
    classes = find_words(images, max_images, seed)
    labels = np.repeat(np.arange(len(classes)), [len(pictures) for pictures in classes.values()])
    divided = {protocol: make_splits(protocol, labels, splits, seed) for protocol in protocols}
    pictures = [picture for of_class in classes.values() for picture in of_class]
    deepest = available_layers(backbone)[-1]
    network = load_backbone(backbone, {layer, deepest}, weights)
    folder = Path(output_dir) / CACHE_FOLDER
    features = DescriptorCache(folder, network).describe(
        {picture.key: picture.load for picture in pictures},
        [layer],
        progress=progress_lines(f"describing by {backbone}", "images"),
    )[layer]
    squares = [picture.load() for picture in pictures]
    colors = color_rows(squares, progress_lines("colour histograms", "images"))
    content = [[picture.key for picture in pictures], labels.tolist(), seed]
    sift_settings = [sift_words, fisher_components, sift_step]
    tuning = [steps, batch_size, learning_rate, head_factor, weight_decay]
    seen_by = [layer, fingerprint(network)]

    @cache
    def descriptors() -> list[np.ndarray]:
        return sift_descriptors(squares, sift_step, progress_lines("SIFT", "images"))

    def taken_for(split: Split, name: str) -> dict[str, np.ndarray]:
        """Return, for each method, what the tested images of a split are taken for."""

        @cache
        def sift() -> SiftRows:
            lines = progress_lines(f"{name}: words and Fisher vectors", "images")
            return sift_rows(descriptors(), split.train, sift_words, fisher_components, seed, lines)

        def tuned() -> np.ndarray:
            torch_seed = np.random.SeedSequence([seed, *split.train.tolist()]).generate_state(1)[0]
            lines = progress_lines(f"{name}: fine-tuning", "steps")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(torch_seed))
                classifier = MaterialClassifier(backbone, len(classes), weights)
            train = LabelledSamples(_examples(squares, labels, split.train), len(classes), IMAGE_SIZE, seed)
            batches = ResumableLoader(train, batch_size, seed, epoch_size=steps * batch_size)
            fine_tune(classifier, batches, steps, learning_rate, head_factor, weight_decay, lines)
            test = WholeImages(_examples(squares, labels, split.test), len(classes), IMAGE_SIZE)
            shown = torch.utils.data.DataLoader(test, _TEST_BATCH, generator=torch.Generator())
            return predict_probabilities(classifier, (batch["image"] for batch in shown)).argmax(1).numpy()

        methods: dict[str, tuple[list[Any], Callable[[], np.ndarray]]] = {
            COLOR_SIFT: (sift_settings, lambda: classify(side_by_side(colors, sift().bags), labels, split)),
            FISHER: (
                [*sift_settings, *seen_by],
                lambda: classify(side_by_side(sift().fishers, features), labels, split),
            ),
            PROBE: (seen_by, lambda: classify(features, labels, split)),
        }
        if steps:
            methods[FINE_TUNED] = ([*tuning, *seen_by], tuned)
        of_split = [split.train.tolist(), split.val.tolist(), split.test.tolist()]
        return {
            method: _kept(folder, [1, method, settings, content, of_split], compute)
            for method, (settings, compute) in methods.items()
        }

    measured: dict[tuple[str, Protocol], Measured] = {}
    for protocol, its_splits in divided.items():
        found = []
        for number, split in enumerate(its_splits, 1):
            name = f"{'half split' if protocol == 'half' else 'fold'} {number} of {len(its_splits)}"
            found.append(taken_for(split, name))
        for method in found[0]:
            measured[method, protocol] = _measure(
                labels, len(classes), its_splits, [predicted[method] for predicted in found]
            )
    report = Report(
        measured, list(classes), len(labels) // len(classes), backbone, layer, steps, seed, time.monotonic() - began
    )
    files = write_report(report, Path(output_dir) / "material_recognition")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


def _examples(squares: Sequence[np.ndarray], labels: np.ndarray, places: np.ndarray) -> list[LabelledImage]:
    return [LabelledImage(str(place), (int(labels[place]),), squares[place]) for place in places.tolist()]


def _kept(folder: Path, key: list[Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return an array that is computed once; ``key`` names all that it hangs on."""
    path = folder / f"recognition-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.npy"
    if path.exists():
        try:
            return np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{path} is damaged: delete it, and it is made again") from error
    found = compute()
    content = io.BytesIO()
    np.save(content, found)
    write_atomically(path, content.getvalue())
    return found


# --- what is written down ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One method by one protocol: ``accuracies`` (S,) of its splits, their mean and half of its 95 % interval.

    ``confusion`` (K, K) counts tested images by class (rows) and by what they were taken for, over all splits.
    """

    accuracies: np.ndarray
    mean: float
    margin: float
    confusion: np.ndarray


def _measure(labels: np.ndarray, classes: int, splits: Sequence[Split], predicted: Sequence[np.ndarray]) -> Measured:
    confusion = np.zeros((classes, classes), np.int64)
    for split, found in zip(splits, predicted):
        np.add.at(confusion, (labels[split.test], found), 1)
    accuracies = np.array([(found == labels[split.test]).mean() for split, found in zip(splits, predicted)])
    mean, margin = mean_and_split_margin(accuracies, len(splits[0].test) / len(splits[0].train))
    return Measured(accuracies, mean, margin, confusion)


@dataclass(frozen=True)
class Report:
    """All that is written down: (method, protocol) → what was measured, and of what."""

    measured: dict[tuple[str, Protocol], Measured]
    classes: list[str]
    images: int
    backbone: str
    layer: str
    steps: int
    seed: int
    wall_seconds: float


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``splits.csv``, ``summary.csv``, ``summary.md`` and ``confusion.png``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = [
        {"method": method, "protocol": TITLES[protocol], "split": number, "accuracy": f"{accuracy:.6g}"}
        for (method, protocol), measured in report.measured.items()
        for number, accuracy in enumerate(measured.accuracies)
    ]
    record = {
        "data": f"{len(report.classes)} classes × {report.images} images, {report.backbone}",
        "backbone": report.backbone,
        "image_size": IMAGE_SIZE,
        **measured_here(report.seed, report.wall_seconds),
    }
    files = {
        "splits": write_csv(folder / "splits.csv", splits),
        "summary": write_csv(folder / "summary.csv", [{**row, **record} for row in _summaries(report)]),
        "table": folder / "summary.md",
        "confusion": draw_confusions(report, folder / "confusion.png"),
    }
    files["table"].write_text(render_table(report, str(record["data"])), encoding="utf-8")
    return files


def _summaries(report: Report) -> list[dict[str, Any]]:
    rows = []
    for (method, protocol), measured in report.measured.items():
        of_class = measured.confusion.diagonal() / measured.confusion.sum(axis=1)
        numbers = {
            "accuracy": measured.mean,
            "accuracy_margin": measured.margin,
            **{f"accuracy/{name}": share for name, share in zip(report.classes, of_class)},
        }
        named = {
            "method": f"{method}, {TITLES[protocol]}",
            "n": len(report.classes) * report.images,
            "published_accuracy": _PUBLISHED.get(method, ""),
        }
        rows.append({**named, **{name: f"{value:.6g}" for name, value in numbers.items()}})
    return rows


def render_table(report: Report, data: str) -> str:
    """Return the Markdown: a row a method, a column a protocol, in per cent."""
    protocols = list(dict.fromkeys(protocol for _, protocol in report.measured))
    rows = []
    for method in dict.fromkeys(method for method, _ in report.measured):
        cells = [report.measured[method, protocol] for protocol in protocols]
        published = f"{100 * _PUBLISHED[method]:.1f}" if method in _PUBLISHED else "none"
        rows.append([method, *(f"{100 * cell.mean:.1f} ± {100 * cell.margin:.1f}" for cell in cells), published])
    tuned = f"; {report.steps} steps of fine-tuning" if report.steps else ""
    counts = " and ".join(
        f"{len(next(cell for (_, p), cell in report.measured.items() if p == protocol).accuracies)} splits "
        f"({TITLES[protocol]})"
        for protocol in protocols
    )
    return "\n\n".join(
        [
            f"{data}, frozen features of {report.layer}{tuned}. Accuracy in per cent, ± half of the 95 % interval; "
            f"means over {counts}. Chance: {100 / len(report.classes):.1f}. Published: the talk's on the Flickr "
            "Material Database (10 classes × 100 images), by a protocol that it does not name: another set unless "
            "benchmark.images is that one.",
            markdown_table(["method", *(TITLES[protocol] for protocol in protocols), "published"], rows) + "\n",
        ]
    )


def draw_confusions(report: Report, path: Path) -> Path:
    """Draw the confusion matrices: a row a protocol, a column a method; each row of a matrix sums to 100 %."""
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(protocol for _, protocol in report.measured))
    methods = list(dict.fromkeys(method for method, _ in report.measured))
    side = 1.2 + 0.28 * len(report.classes)
    figure = Figure(figsize=(side * len(methods) + 0.8, (side + 0.4) * len(protocols) + 0.8), layout="constrained")
    panels = figure.subplots(len(protocols), len(methods), squeeze=False, sharex=True, sharey=True)
    ticks = range(len(report.classes))
    for row, protocol in enumerate(protocols):
        for column, method in enumerate(methods):
            measured, axes = report.measured[method, protocol], panels[row, column]
            shares = 100 * measured.confusion / measured.confusion.sum(axis=1, keepdims=True)
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
            for (true, taken), share in np.ndenumerate(shares):
                if share >= 0.5:
                    color = "white" if share > 55 else "black"
                    axes.text(taken, true, f"{share:.0f}", ha="center", va="center", fontsize=6, color=color)
            axes.set_title(f"{method}\n{TITLES[protocol]}: {100 * measured.mean:.1f} %", fontsize=7)
            axes.set_xticks(ticks, report.classes, rotation=90, fontsize=7)
            axes.set_yticks(ticks, report.classes, fontsize=7)
    figure.supxlabel("taken for, % of the class's tested images", fontsize=8)
    figure.supylabel("class", fontsize=8)
    figure.savefig(path, dpi=110)
    return path
