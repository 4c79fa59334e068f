"""The tables and the figure of the style benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.sheet import encode_jpeg, square, to_pil
from tezawari.style.measures import confusion_matrix

IDENTITY, STYLE_IMAGE, NETWORK, KEEP_COLOR, GATYS = "identity", "style image", "network", "network, keep color", "Gatys"
_FIGURE_BYTES = 300_000
_FIGURED_STYLES = 12
_GAP, _LINE = 4, 15


@dataclass(frozen=True)
class Measurement:
    """One picture: what ``method`` made of ``photo`` when asked for ``style``, and how it was measured."""

    method: str
    photo: str
    style: str
    nearest: str
    """The style that it is nearest to."""
    gram_distances: dict[str, float]
    """Distance to the asked style at each layer of the judge."""
    content_distance: float
    color_drift: float
    """In the (a, b) plane of Lab."""
    color_and_lightness_drift: float
    """ΔE*ab."""

    @property
    def correct(self) -> bool:
        """Whether the asked style is the nearest."""
        return self.nearest == self.style

    @property
    def gram_distance(self) -> float:
        """The mean of the layers' distances."""
        return sum(self.gram_distances.values()) / len(self.gram_distances)


@dataclass(frozen=True)
class MixMeasurement:
    """Two styles in equal parts: deviation from half way between the pure ones, 0 = there, 1 = as far as they are."""

    photo: str
    first: str
    second: str
    network: float
    """Of the network's mix, in Gram matrices."""
    cross_fade: float
    """Of the pixel mean of the two pure pictures, in Gram matrices."""
    pixels: float
    """Of the network's mix, in pixels: its distance from that pixel mean."""


@dataclass(frozen=True)
class Report:
    """All that is written down of one benchmark; ``painted`` are some pictures of the network by photo and style."""

    measurements: list[Measurement]
    mixes: list[MixMeasurement]
    styles: dict[str, Tensor]
    photos: dict[str, Tensor]
    painted: dict[tuple[str, str], Tensor]
    judge: str
    trained_with: str
    checkpoint: str
    source: str
    image_size: int
    seed: int
    wall_seconds: float


@dataclass(frozen=True)
class Summary:
    """The means of one method's measurements; ``style_accuracy_margin`` is half of the 95 % interval over photos."""

    method: str
    n: int
    style_accuracy: float
    style_accuracy_margin: float
    gram_distance: float
    content_distance: float
    color_drift: float
    color_and_lightness_drift: float


def summarise(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return the summary of each method, in the order of their first measurements."""
    return [
        Summary(
            method,
            len(rows),
            _mean(row.correct for row in rows),
            _margin([_mean(row.correct for row in of_photo) for of_photo in _grouped(rows, "photo").values()]),
            _mean(row.gram_distance for row in rows),
            _mean(row.content_distance for row in rows),
            _mean(row.color_drift for row in rows),
            _mean(row.color_and_lightness_drift for row in rows),
        )
        for method, rows in _grouped(measurements, "method").items()
    ]


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``results.csv``, ``mixing.csv``, ``summary.csv``, ``summary.md`` and ``figure.jpg``; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "checkpoint": report.checkpoint,
        "trained_with": report.trained_with,
        "judge": report.judge,
        "photos": len(report.photos),
        "styles": len(report.styles),
        "photos_from": report.source,
        "image_size": report.image_size,
        **measured_here(report.seed, report.wall_seconds),
    }
    summaries = summarise(report.measurements)
    files = {
        "results": write_csv(folder / "results.csv", [_flat(row) for row in report.measurements]),
        "mixing": write_csv(folder / "mixing.csv", [_flat(row) for row in report.mixes]),
        "summary": write_csv(folder / "summary.csv", [{**_flat(row), **record} for row in summaries]),
        "table": folder / "summary.md",
        "figure": folder / "figure.jpg",
    }
    files["table"].write_text(render_tables(report, summaries, record), encoding="utf-8")
    files["figure"].write_bytes(encode_jpeg(draw_figure(report), _FIGURE_BYTES))
    return files


# --- tables -----------------------------------------------------------------------------------------------------------


def render_tables(report: Report, summaries: Sequence[Summary], record: dict[str, Any]) -> str:
    """Return the benchmark as Markdown: methods, styles, mixing, and what it takes to read and repeat them."""
    styles, photos = len(report.styles), len(report.photos)
    methods = [
        [
            s.method,
            f"{s.style_accuracy:.1%}" + (f" ± {s.style_accuracy_margin:.1%}" if s.style_accuracy_margin > 0 else ""),
            *(f"{value:.3f}" for value in (s.gram_distance, s.content_distance)),
            f"{s.color_drift:.1f}",
            str(s.n),
        ]
        for s in summaries
    ]
    head = ["method", "style accuracy", f"Gram distance ({report.judge})", "content distance", "colour drift", "n"]
    parts = [
        f"# Style transfer of {report.checkpoint}",
        f"{photos} photos ({report.source}) at {report.image_size} px × {styles} styles. Judge: {report.judge}; the "
        f"network was trained with {report.trained_with}.",
        markdown_table(head, methods),
        f"Style accuracy: the asked style is the nearest of {styles} (chance, and so identity: {1 / styles:.1%}); ± is "
        "the 95 % interval over photos. Gram distance to the asked style: 0 to 1. Content distance from the photo: "
        "0 for the photo. Colour drift: mean distance from the photo's colours in Lab's (a, b), just noticeable about "
        f"2.3.{_same_pairs_as_gatys(report)}",
        "## Each style, by the network",
        markdown_table(["style", "accuracy", "Gram distance", "most often taken for"], _style_rows(report)),
        "## Two styles mixed half and half",
        markdown_table(
            ["picture", "deviation in Gram matrices", "deviation in pixels", "n"],
            [
                ["network's mix", *_numbers(report.mixes, "network", "pixels"), str(len(report.mixes))],
                ["cross-fade", *_numbers(report.mixes, "cross_fade"), "0", str(len(report.mixes))],
            ],
        ),
        "Deviation from half way between the two pure pictures: 0 is half way, 1 is as far from there as they are. The "
        "cross-fade is the mean of their pixels.",
        "; ".join(f"{name} {value}" for name, value in record.items() if name not in ("checkpoint", "photos_from")),
    ]
    return "\n\n".join(parts) + "\n"


def _same_pairs_as_gatys(report: Report) -> str:
    """Return the network's numbers on the few pairs that Gatys painted, which alone compare with Gatys' own."""
    painted = {(row.photo, row.style) for row in report.measurements if row.method == GATYS}
    rows = [row for row in network_rows(report) if (row.photo, row.style) in painted]
    if not rows:
        return ""
    (network,) = summarise(rows)
    return (
        f" On the {len(rows)} pairs that Gatys painted the network has style accuracy {network.style_accuracy:.1%}, "
        f"Gram distance {network.gram_distance:.3f}, content distance {network.content_distance:.3f}, colour drift "
        f"{network.color_drift:.1f}."
    )


def _style_rows(report: Report) -> list[list[str]]:
    rows = []
    for style, of_style in _grouped(network_rows(report), "style").items():
        wrong = _grouped([row for row in of_style if not row.correct], "nearest")
        worst = max(wrong, key=lambda name: len(wrong[name]), default="")
        accuracy = _mean(row.correct for row in of_style)
        rows.append([style, f"{accuracy:.1%}", f"{_mean(row.gram_distance for row in of_style):.3f}", worst])
    return rows


def network_rows(report: Report) -> list[Measurement]:
    """Return the measurements of the network without the photo's colours kept."""
    return [row for row in report.measurements if row.method == NETWORK]


def _numbers(mixes: Sequence[MixMeasurement], *names: str) -> list[str]:
    # Two styles that a network paints alike have no half way between them.
    defined = [[value for mix in mixes if not math.isnan(value := getattr(mix, name))] for name in names]
    return [f"{_mean(values):.2f}" for values in defined]


def _flat(row: Any) -> dict[str, Any]:
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    if isinstance(row, Measurement):
        by_layer = values.pop("gram_distances")
        values |= {"correct": int(row.correct), "gram_distance": row.gram_distance}
        values |= {f"gram_distance/{layer}": distance for layer, distance in by_layer.items()}
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in values.items()}


def _grouped(rows: Iterable[Measurement], name: str) -> dict[str, list[Measurement]]:
    groups: dict[str, list[Measurement]] = {}
    for row in rows:
        groups.setdefault(getattr(row, name), []).append(row)
    return groups


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else math.nan


def _margin(means: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean over photos, whose pictures are not independent of each other."""
    if len(means) < 2:
        return math.nan
    return 1.96 * float(torch.tensor(means, dtype=torch.float64).std()) / math.sqrt(len(means))


# --- the figure -------------------------------------------------------------------------------------------------------


def draw_figure(report: Report) -> Image.Image:
    """Draw photos down and styles across, each style with its accuracy, beside the matrix of asked and nearest."""
    names, rows = list(report.styles), network_rows(report)
    shown = names[:_FIGURED_STYLES]
    side = 112 if len(shown) <= 8 else 80
    pictured = list(dict.fromkeys(photo for photo, _ in report.painted))
    accuracy = {style: _mean(row.correct for row in of_style) for style, of_style in _grouped(rows, "style").items()}
    across, down = side + _GAP, side + _GAP
    grid_width, top = across * (1 + len(shown)) + _GAP, 2 * _LINE + _GAP
    matrix = _draw_matrix(names, rows)
    height = max(top + down * (1 + len(pictured)), top + matrix.height)
    figure = Image.new("RGB", (grid_width + 3 * _GAP + matrix.width, height), "white")
    draw = ImageDraw.Draw(figure)
    _write(draw, (_GAP, top + side - 2 * _LINE), "photo", side)
    for column, name in enumerate(shown, start=1):
        x = _GAP + column * across
        _write(draw, (x, 2), name, side)
        _write(draw, (x, 2 + _LINE), f"{accuracy[name]:.0%}", side)
        figure.paste(to_pil(square(report.styles[name], side)), (x, top))
    for row, photo in enumerate(pictured, start=1):
        figure.paste(to_pil(square(report.photos[photo], side)), (_GAP, top + row * down))
        for column, name in enumerate(shown, start=1):
            figure.paste(to_pil(square(report.painted[photo, name], side)), (_GAP + column * across, top + row * down))
    figure.paste(matrix, (grid_width + 3 * _GAP, top))
    return figure


def _draw_matrix(names: Sequence[str], rows: Sequence[Measurement]) -> Image.Image:
    """Draw how often each style was asked (down) and each was the nearest (across), in per cent of the asked."""
    counts = confusion_matrix([names.index(r.style) for r in rows], [names.index(r.nearest) for r in rows], len(names))
    shares = counts / counts.sum(1, keepdim=True)
    cell, label = max(14, min(30, 240 // len(names))), 104
    edge = cell * len(names)
    picture = Image.new("RGB", (label + edge + _GAP, _LINE + label + edge), "white")
    draw = ImageDraw.Draw(picture)
    _write(draw, (0, 0), "asked (down), nearest (across), %", label + edge)
    for row, name in enumerate(names):
        _write(draw, (0, _LINE + label + row * cell + (cell - _LINE) // 2), name, label - _GAP)
        slanted = Image.new("RGB", (label - _GAP, _LINE), "white")
        _write(ImageDraw.Draw(slanted), (0, 0), name, label - _GAP)
        picture.paste(slanted.rotate(90, expand=True), (label + row * cell + (cell - _LINE) // 2, _LINE))
        for column, share in enumerate(shares[row].tolist()):
            x, y = label + column * cell, _LINE + label + row * cell
            shade = round(255 * (1 - share))
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=(shade, shade, 255) if share else (244, 244, 244))
            if share and cell >= 20:
                _write(draw, (x + 3, y + (cell - _LINE) // 2), f"{100 * share:.0f}", cell, shade < 128)
    return picture


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int, light: bool = False) -> None:
    """Write a line of text, cut to ``width`` pixels."""
    font = ImageFont.load_default(11)
    # Pillow's own font has no letters beyond Latin-1.
    text = text.encode("latin-1", "replace").decode("latin-1")
    while text and draw.textlength(text, font) > width:
        text = text[:-1]
    draw.text(place, text, "white" if light else "black", font)
