"""The tables and figures of the segmentation benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tezawari.core.runs import describe_machine, measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.labelled_image import LabelledImage
from tezawari.data.sheet import draw_sheet, encode_jpeg
from tezawari.segmentation.masks import overlay
from tezawari.segmentation.metrics import bootstrap, iou_per_class, mean_iou, pixel_accuracy
from tezawari.segmentation.pictures import square_of
from tezawari.segmentation.pseudo_masks import THRESHOLDS

_FIGURE_BYTES = 300_000
_FIGURE_SIDE = 128
# VOC 2012 val, 21 classes, mean IoU in per cent (METHODS §3): another set than a subset, for orientation.
_PUBLISHED = {("gradient", True): 33.8, ("dcsm", False): 40.5, ("dcsm", True): 44.1}


@dataclass(frozen=True)
class Row:
    """One method under one source of image labels, with or without CRF; ``confusions`` (N, C, C), a matrix an image."""

    method: str
    labels: str
    crf: bool
    confusions: Tensor = field(repr=False)

    @property
    def name(self) -> str:
        """Method, CRF and source of labels in words."""
        labels = "any class" if self.labels == "none" else f"{self.labels} labels"
        return f"{self.method}{' + CRF' if self.crf else ''}, {labels}"

    @property
    def published(self) -> float | None:
        """What the talk prints for it, on all of VOC 2012 val, in per cent."""
        return _PUBLISHED.get((self.method, self.crf)) if self.labels == "predicted" else None


@dataclass(frozen=True)
class Figured:
    """An image of the figure: its pixels, its true mask, and method → mask, filled in as they are made."""

    id: str
    pixels: np.ndarray
    true: np.ndarray
    masks: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, image: LabelledImage) -> Figured:
        """Read an image that has a mask."""
        mask = image.load_mask()
        assert mask is not None
        return cls(image.id, image.load_image(), mask)


@dataclass(frozen=True)
class Report:
    """All that is written down of one benchmark."""

    rows: Sequence[Row]
    curves: dict[str, Tensor]
    class_names: list[str]
    figured: Sequence[Figured]
    backgrounds: dict[str, float]
    backbone: str
    saliency: str
    images: int
    seed: int
    wall_seconds: float


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``summary.csv``, ``curves.csv``, ``summary.md``, ``figure.jpg`` and ``curves.png``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = f"{len(report.class_names)} classes and background"
    record = {
        "data": f"{report.images} held-out images, {classes}, {report.backbone}",
        "backbone": report.backbone,
        **measured_here(report.seed, report.wall_seconds),
        "checkpoint": report.saliency,
    }
    files = {
        "summary": write_csv(folder / "summary.csv", [{**summary_of(row, report), **record} for row in report.rows]),
        "table": folder / "summary.md",
        "figure": folder / "figure.jpg",
    }
    files["table"].write_text(render_tables(report), encoding="utf-8")
    files["figure"].write_bytes(encode_jpeg(draw_figure(report), _FIGURE_BYTES))
    if report.curves:
        curves = [
            {"method": method, "background": threshold, "miou": f"{float(mean_iou(matrix)):.6g}"}
            for method, matrices in report.curves.items()
            for threshold, matrix in zip(THRESHOLDS, matrices)
        ]
        files["curves"] = write_csv(folder / "curves.csv", curves)
        files["curve figure"] = draw_curves(report, folder / "curves.png")
    return files


def summary_of(row: Row, report: Report) -> dict[str, Any]:
    """Return a row's numbers, as shares: mean IoU with half of its interval, pixel accuracy, IoU by class."""
    total = row.confusions.sum(0)
    low, high = bootstrap(row.confusions, seed=report.seed)
    values = {
        "miou": float(mean_iou(total)),
        "miou_margin": (high - low) / 2,
        "pixel_accuracy": float(pixel_accuracy(total)),
        **{f"iou/{name}": float(iou) for name, iou in zip(["background", *report.class_names], iou_per_class(total))},
    }
    published = "" if row.published is None else f"{row.published / 100:.3f}"
    named = {"method": row.name, "n": len(row.confusions), "published_miou": published}
    return {**named, **{name: f"{value:.6g}" for name, value in values.items()}}


def render_tables(report: Report) -> str:
    """Return the Markdown: methods with their means, then their classes."""
    head = ["method", "labels", "CRF", "mean IoU", "95 % interval", "pixel accuracy", "background", "published"]
    means, classes = [], []
    for row in report.rows:
        total = row.confusions.sum(0)
        low, high = bootstrap(row.confusions, seed=report.seed)
        named = [row.method, row.labels, "yes" if row.crf else "no"]
        background = f"{report.backgrounds[row.method]:g}" if row.method in report.backgrounds else ""
        means.append(
            [
                *named,
                _percent(float(mean_iou(total))),
                f"{_percent(low)} – {_percent(high)}",
                _percent(float(pixel_accuracy(total))),
                background,
                "none" if row.published is None else f"{row.published:.1f}",
            ]
        )
        classes.append([*named, *(_percent(float(iou)) for iou in iou_per_class(total))])
    machine = describe_machine()
    return "\n\n".join(
        [
            f"{report.images} held-out images at full size, {len(report.class_names)} classes and background, all in "
            f"per cent; backbone {report.backbone}, seed {report.seed}, {machine['cores']} cores of "
            f"{machine['processor']}. Published: the talk's, on all of VOC 2012 val, 21 classes: another set.",
            markdown_table(head, means),
            markdown_table(["method", "labels", "CRF", "background", *report.class_names], classes) + "\n",
        ]
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def draw_figure(report: Report) -> Any:
    """Draw the same images under every method: with predicted labels, and CRF where there is one."""
    methods = list(dict.fromkeys(row.method for row in report.rows))
    rows = []
    for shown in report.figured:
        masks = [shown.true, *(shown.masks[method] for method in methods)]
        pictures = [shown.pixels, *(overlay(shown.pixels, mask, ()) for mask in masks)]
        rows.append([square_of(_cut(picture, shown.pixels), _FIGURE_SIDE) for picture in pictures])
    return draw_sheet(rows, ["photo", "truth", *methods])


def _cut(picture: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Leave the legend out: the columns of a figure must be of one size."""
    return np.ascontiguousarray(picture[: like.shape[0], : like.shape[1]])


def draw_curves(report: Report, path: Path) -> Path:
    """Draw mean IoU over the background's score, without CRF and with true labels; what was chosen is marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for method, matrices in report.curves.items():
        values = [100 * float(mean_iou(matrix)) for matrix in matrices]
        (line,) = axes.plot(THRESHOLDS, values, "o-", label=method, linewidth=1, markersize=3)
        chosen = report.backgrounds[method]
        axes.plot([chosen], [float(np.interp(chosen, THRESHOLDS, values))], "s", color=line.get_color(), markersize=8)
    axes.set(xlabel="background score (square: chosen on training labels)", ylabel="mean IoU, %", ylim=(0, None))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    return path
