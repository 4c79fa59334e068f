"""The tables and the figure of the benchmark of inverses."""

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

DEGRADED, NETWORK = "as it is", "network"
LOCAL_WIENER, NON_LOCAL_MEANS = "local Wiener filter", "non-local means"
_FIGURE_BYTES = 300_000
_FIGURE_SIDE = 160


@dataclass(frozen=True)
class Measurement:
    """One picture: what ``method`` made of ``photo``, degraded as ``degradation`` says."""

    checkpoint: str
    task: str
    degradation: str
    method: str
    photo: str
    psnr: float
    """In dB."""
    ssim: float
    perceptual_distance: float
    color_drift: float
    """Mean distance from the photo's colours in Lab's (a, b) plane."""


@dataclass(frozen=True)
class Summary:
    """The means of one method's measurements; the margin is half of the 95 % interval over photos."""

    method: str
    n: int
    psnr: float
    psnr_gain: float
    """How much its PSNR is above the degraded photo's, in dB."""
    psnr_gain_margin: float
    ssim: float
    perceptual_distance: float
    color_drift: float


@dataclass(frozen=True)
class Report:
    """All that is written down of one benchmark.

    ``figured`` are, photo by photo, the pictures ``(3, s, s)`` in [0, 1] of a row of the figure, ``columns`` their
    titles.
    """

    measurements: list[Measurement]
    figured: list[list[Tensor]]
    columns: list[str]
    judge: str
    trained_with: list[str]
    source: str
    image_size: int
    seed: int
    wall_seconds: float


def summarise(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return the summary of each method on each degradation, in the order of their first measurements."""
    groups: dict[tuple[str, str, str], dict[str, Measurement]] = {}
    for row in measurements:
        groups.setdefault((row.checkpoint, row.degradation, row.method), {})[row.photo] = row
    summaries = []
    for (checkpoint, degradation, method), rows in groups.items():
        before = groups[checkpoint, degradation, DEGRADED]
        gains = [row.psnr - before[photo].psnr for photo, row in rows.items()]
        summaries.append(
            Summary(
                f"{degradation}, {method}",
                len(rows),
                _mean(row.psnr for row in rows.values()),
                _mean(gains),
                _margin(gains),
                _mean(row.ssim for row in rows.values()),
                _mean(row.perceptual_distance for row in rows.values()),
                _mean(row.color_drift for row in rows.values()),
            )
        )
    return summaries


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``results.csv``, ``summary.csv``, ``summary.md`` and ``figure.jpg``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = len({row.photo for row in report.measurements})
    record = {
        "data": f"{photos} photos ({report.source}), {report.image_size} px, judge {report.judge}",
        "trained_with": "; ".join(report.trained_with),
        "judge": report.judge,
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
    head = ["method", "PSNR", "gain", "SSIM", "perceptual distance", "colour drift", "n"]
    rows = [
        [
            s.method,
            f"{s.psnr:.2f}",
            f"{s.psnr_gain:+.2f}" + (f" ± {s.psnr_gain_margin:.2f}" if s.psnr_gain_margin > 0 else ""),
            f"{s.ssim:.3f}",
            f"{s.perceptual_distance:.3f}",
            f"{s.color_drift:.1f}",
            str(s.n),
        ]
        for s in summaries
    ]
    parts = [
        "# Inverse transforms",
        f"{record['data']}; loss networks of the training: {record['trained_with']}.",
        markdown_table(head, rows),
        "PSNR in dB over RGB; gain over the degraded photo, ± the 95 % interval over photos. SSIM: 1 for equal "
        "pictures. Perceptual distance: relative squared distance of the judge's features, 0 for equal pictures; a "
        "network that was trained with the judge was also trained to please it. Colour drift: mean distance "
        "from the photo's colours in Lab's (a, b), just noticeable about 2.3.",
        "; ".join(f"{name} {value}" for name, value in record.items() if name not in ("data", "trained_with")),
    ]
    return "\n\n".join(parts) + "\n"


def _flat(row: Measurement | Summary) -> dict[str, Any]:
    values = asdict(row)
    return {
        # The interval of a single photo is unknown, which a table of numbers says by an empty cell.
        name: ("" if math.isnan(value) else f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _margin(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    return 1.96 * float(torch.tensor(values, dtype=torch.float64).std()) / math.sqrt(len(values))
