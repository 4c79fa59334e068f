"""The tables and the figure of the benchmark of unseen styles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.sheet import draw_sheet, encode_jpeg, square

IDENTITY, ONE_PASS, GATYS = "photo unchanged", "one pass", "Gatys"
TUNED_STYLE, TUNED_ALL = "style's parameters trained", "all parameters trained"
METHODS = (IDENTITY, ONE_PASS, TUNED_STYLE, TUNED_ALL, GATYS)
_FIGURE_BYTES = 300_000
_FIGURE_SIDE = 128


@dataclass(frozen=True)
class Measurement:
    """One picture: what ``method`` made of ``photo`` in ``style``, by the losses that the network was trained with."""

    method: str
    style: str
    photo: str
    style_loss: float
    content_loss: float
    total_loss: float
    """Weighted as in training, total variation included."""
    training_seconds: float
    """What the style cost before its first picture."""
    picture_seconds: float


@dataclass(frozen=True)
class Summary:
    """The means of one method; a margin is half of the 95 % interval over styles.

    A ratio is the style loss over that of the reference on the same pictures, style by style.
    """

    method: str
    n: int
    style_loss: float
    style_loss_margin: float
    content_loss: float
    total_loss: float
    ratio_to_style_trained: float
    ratio_to_style_trained_margin: float
    ratio_to_all_trained: float
    ratio_to_all_trained_margin: float
    training_seconds: float
    picture_seconds: float


@dataclass(frozen=True)
class Report:
    """All that is written down of one benchmark.

    ``figured`` are the pictures ``(3, H, W)`` in [0, 1] of each row of the figure, ``columns`` their titles.
    """

    measurements: list[Measurement]
    figured: list[list[Tensor]]
    columns: list[str]
    backbone: str
    checkpoint: str
    source: str
    tune_steps: int
    gatys_steps: int
    image_size: int
    seed: int
    wall_seconds: float


def summarise(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return the summary of each method, in the order of :data:`METHODS`."""
    found = {
        method: {(row.style, row.photo): row for row in measurements if row.method == method} for method in METHODS
    }
    summaries = []
    for method, rows in found.items():
        if not rows:
            continue
        own = list(rows.values())
        style_loss, style_margin = _mean_and_margin(_by_style(rows).values())
        to_style = _mean_and_margin(_ratios(rows, found[TUNED_STYLE]))
        to_all = _mean_and_margin(_ratios(rows, found[TUNED_ALL]))
        summaries.append(
            Summary(
                method,
                len(own),
                style_loss,
                style_margin,
                _mean(row.content_loss for row in own),
                _mean(row.total_loss for row in own),
                *to_style,
                *to_all,
                _mean(row.training_seconds for row in own),
                _mean(row.picture_seconds for row in own),
            )
        )
    return summaries


_Pairs = dict[tuple[str, str], Measurement]


def _by_style(rows: _Pairs) -> dict[str, float]:
    """Return the mean style loss of each style."""
    styles: dict[str, list[float]] = {}
    for (style, _), row in rows.items():
        styles.setdefault(style, []).append(row.style_loss)
    return {style: _mean(losses) for style, losses in styles.items()}


def _ratios(rows: _Pairs, reference: _Pairs) -> list[float]:
    """Return the ratio of each style's mean loss to the reference's on the same pairs; empty without a reference."""
    same = {pair: reference[pair] for pair in rows if pair in reference}
    wanted = _by_style(same)
    return [loss / wanted[style] for style, loss in _by_style({pair: rows[pair] for pair in same}).items()]


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``results.csv``, ``summary.csv``, ``summary.md`` and ``figure.jpg``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    photos, styles = ({getattr(row, name) for row in report.measurements} for name in ("photo", "style"))
    record = {
        "data": f"{len(photos)} photos × {len(styles)} styles ({report.source}), {report.image_size} px",
        "checkpoint": report.checkpoint,
        "backbone": report.backbone,
        "tuning": f"{report.tune_steps} steps",
        "painting": f"{report.gatys_steps} steps",
        "image_size": report.image_size,
        **measured_here(report.seed, report.wall_seconds),
    }
    summaries = summarise(report.measurements)
    files = {
        "results": write_csv(folder / "results.csv", [_flat(row) for row in report.measurements]),
        "summary": write_csv(folder / "summary.csv", [{**_flat(row), **record} for row in summaries]),
        "table": folder / "summary.md",
        "figure": folder / "figure.jpg",
    }
    files["table"].write_text(render_table(summaries, record), encoding="utf-8")
    rows = [[square(picture, _FIGURE_SIDE) for picture in pictures] for pictures in report.figured]
    files["figure"].write_bytes(encode_jpeg(draw_sheet(rows, report.columns), _FIGURE_BYTES))
    return files


def render_table(summaries: Sequence[Summary], record: dict[str, Any]) -> str:
    """Return the benchmark as Markdown: the methods, and what it takes to read and repeat them."""
    head = [
        "method",
        "style loss",
        "content loss",
        "total",
        f"÷ {TUNED_STYLE}",
        f"÷ {TUNED_ALL}",
        "s a style",
        "s a picture",
        "n",
    ]
    rows = [
        [
            s.method,
            _with_margin(s.style_loss, s.style_loss_margin),
            f"{s.content_loss:.3f}",
            f"{s.total_loss:.3f}",
            _with_margin(s.ratio_to_style_trained, s.ratio_to_style_trained_margin),
            _with_margin(s.ratio_to_all_trained, s.ratio_to_all_trained_margin),
            f"{s.training_seconds:.1f}",
            f"{s.picture_seconds:.2f}",
            str(s.n),
        ]
        for s in summaries
    ]
    parts = [
        "# Unseen styles",
        f"{record['data']}; losses of {record['backbone']}, with which the network was trained.",
        markdown_table(head, rows),
        "Losses are relative to the style's Gram matrices and to the photo's features, ± the 95 % interval over "
        "styles. ÷: the style loss over that of the same network trained on that style alone "
        f"({record['tuning']}), on the same pictures. "
        "s a style: seconds of training before its first picture. Gatys: "
        f"{record['painting']}, on as many pairs as n says.",
        "; ".join(f"{name} {value}" for name, value in record.items() if name != "data"),
    ]
    return "\n\n".join(parts) + "\n"


def _with_margin(value: float, margin: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" + (f" ± {margin:.3f}" if margin > 0 else "")


def _flat(row: Measurement | Summary) -> dict[str, Any]:
    return {
        # What is unknown, such as the interval of a single style, is an empty cell in a table of numbers.
        name: ("" if math.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan


def _mean_and_margin(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    if len(numbers) < 2:
        return _mean(numbers), math.nan
    deviation = float(torch.tensor(numbers, dtype=torch.float64).std())
    return _mean(numbers), 1.96 * deviation / math.sqrt(len(numbers))
