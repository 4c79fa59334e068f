"""What the speed benchmark leaves to read: tables, a summary and a figure."""

from __future__ import annotations

import csv
import importlib.util
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tezawari.core.timing import Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_log = logging.getLogger(__name__)

TEXTBOOKS = ("textbook, transposed", "textbook, resize")
_COLOURS = {"textbook": "#9a9a9a", "fp32": "#1b6ca8", "bf16": "#c9a227"}
_MEMORY_TARGET_MB = 2000


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    ``load`` says how many processes wanted to run, before and after; ``peaks`` are the highest GFLOP/s that a matrix
    product reached, by precision.
    """

    processor: str
    cores: int
    threads: int
    versions: str
    date: str
    load: str
    peaks: dict[str, float]


@dataclass(frozen=True)
class TrainingRow:
    """One candidate of training: ``timing`` and ``gflop`` of a step of ``batch_size`` crops.

    ``note`` says why a row has no time.
    """

    name: str
    precision: str
    size: int
    batch_size: int
    timing: Timing | None
    gflop: float
    note: str = ""


@dataclass(frozen=True)
class StylizeRow:
    """One candidate of restyling at one size: ``timing`` and ``gflop`` of a photo.

    ``difference`` is the mean absolute one, in levels of 255, from the same network run eagerly in float32.
    """

    name: str
    precision: str
    size: int
    timing: Timing | None
    gflop: float
    difference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class MemoryRow:
    """The peak memory of one piece of work in a process of its own, in MB, before (``loaded``) and after it.

    ``seconds`` are those of its last run. ``note`` says why nothing was measured.
    """

    part: str
    name: str
    what: str
    loaded_mb: float | None
    peak_mb: float | None
    seconds: float | None
    note: str = ""


@dataclass(frozen=True)
class EqualStepsRow:
    """The losses on held-out photos, in float32, after ``steps`` steps that took ``seconds``."""

    name: str
    precision: str
    steps: int
    seconds: float
    content_loss: float
    style_loss: float


@dataclass(frozen=True)
class Report:
    """All that was measured."""

    machine: Machine
    training: Sequence[TrainingRow]
    stylizing: Sequence[StylizeRow]
    memory: Sequence[MemoryRow]
    equally: Sequence[EqualStepsRow] = ()


Row = TrainingRow | StylizeRow
Table = list[dict[str, str]]


def ratio(row: Row, rows: Iterable[Row], textbook: str) -> float | None:
    """Return how many times as fast as ``textbook`` a row is, at its own size; None where one has no time."""
    for other in rows:
        if other.name == textbook and other.size == row.size and other.timing and row.timing:
            return other.timing.median / row.timing.median
    return None


def training_table(report: Report) -> Table:
    """Return training.csv: a column is a name and what the number is in."""
    return [
        {
            "candidate": row.name,
            "precision": row.precision,
            "size_px": str(row.size),
            "batch_size": str(row.batch_size),
            "step_s": _number(None if row.timing is None else row.timing.median, 4),
            "fastest_s": _number(None if row.timing is None else row.timing.fastest, 4),
            "images_per_s": _number(None if row.timing is None else row.batch_size / row.timing.median, 3),
            **_comparison(row, report.training, report.machine),
            "peak_mb": _peak(report, "training", row.name, f"{row.batch_size} × {row.size} px"),
            "note": row.note,
        }
        for row in report.training
    ]


def stylize_table(report: Report) -> Table:
    """Return stylise.csv."""
    return [
        {
            "size_px": str(row.size),
            "candidate": row.name,
            "precision": row.precision,
            "latency_ms": _number(None if row.timing is None else row.timing.median * 1000, 2),
            "fastest_ms": _number(None if row.timing is None else row.timing.fastest * 1000, 2),
            **_comparison(row, report.stylizing, report.machine),
            "difference_255": _number(row.difference, 4),
            "peak_mb": _peak(report, "stylise", row.name, f"{row.size} px"),
            "note": row.note,
        }
        for row in report.stylizing
    ]


def memory_table(report: Report) -> Table:
    """Return memory.csv."""
    return [
        {
            "part": row.part,
            "candidate": row.name,
            "what": row.what,
            "loaded_mb": _number(row.loaded_mb, 0),
            "peak_mb": _number(row.peak_mb, 0),
            "work_mb": _number(row.peak_mb - row.loaded_mb if row.peak_mb and row.loaded_mb else None, 0),
            "run_s": _number(row.seconds, 3),
            "note": row.note,
        }
        for row in report.memory
    ]


def equal_steps_table(report: Report) -> Table:
    """Return equal_steps.csv."""
    return [
        {
            "candidate": row.name,
            "precision": row.precision,
            "steps": str(row.steps),
            "wall_s": _number(row.seconds, 1),
            "content_loss": _number(row.content_loss, 4),
            "style_loss": _number(row.style_loss, 4),
        }
        for row in report.equally
    ]


def targets(report: Report) -> list[str]:
    """Return, for each figure that was set as a target and was measured, a line that puts both side by side."""
    lines = []
    for textbook in TEXTBOOKS:
        trained = [(r, row.name) for row in report.training if (r := ratio(row, report.training, textbook))]
        if trained:
            best = max(trained)
            lines.append(f"training, images/s beside {textbook}: {best[0]:.1f}× ({best[1]}); asked for: 4×")
        at_512 = [
            (row, r) for row in report.stylizing if row.size == 512 and (r := ratio(row, report.stylizing, textbook))
        ]
        inside = [(r, row.name) for row, r in at_512 if not _is_exported(row)]
        outside = [(r, row.name) for row, r in at_512 if _is_exported(row)]
        for where, found, asked in (("PyTorch", inside, 10), ("an exported runtime", outside, 15)):
            if found:
                best = max(found)
                lines.append(
                    f"restyling at 512 px in {where} beside {textbook}: {best[0]:.1f}× ({best[1]}); asked for: {asked}×"
                )
    differences = [(row.difference, row.name, row.size) for row in report.stylizing if row.difference is not None]
    if differences:
        worst = max(differences)
        lines.append(
            f"largest difference from float32: {worst[0]:.2f}/255 ({worst[1]}, {worst[2]} px); asked for: 2/255"
        )
    lines += [
        f"peak memory of a photo of {row.what}: {row.peak_mb:.0f} MB in {row.seconds:.0f} s; "
        f"asked for at 24 megapixels: {_MEMORY_TARGET_MB} MB"
        for row in report.memory
        if row.part == "photo" and not row.note
    ]
    return lines


def write_report(folder: Path, report: Report) -> tuple[dict[str, Path], str]:
    """Write the tables, the summary and, with matplotlib, the figure; return the files by name, and the summary."""
    files: dict[str, Path] = {}
    tables = {
        "training": training_table(report),
        "stylise": stylize_table(report),
        "memory": memory_table(report),
        "equal_steps": equal_steps_table(report),
    }
    for name, table in tables.items():
        if table:
            files[name] = folder / f"{name}.csv"
            with files[name].open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(table[0]))
                writer.writeheader()
                writer.writerows(table)
    summary = _summary(report, tables)
    files["summary"] = folder / "summary.md"
    files["summary"].write_text(summary, encoding="utf-8")
    if not report.training and not report.stylizing:
        return files, summary
    if importlib.util.find_spec("matplotlib") is None:
        _log.warning("no figure is drawn without matplotlib: pip install 'tezawari[sweep]'")
    else:
        files["figure"] = _draw(folder / "speed.png", report)
    return files, summary


def _comparison(row: Row, rows: Sequence[Row], machine: Machine) -> dict[str, str]:
    rate = None if row.timing is None else row.gflop / row.timing.median
    return {
        "times_textbook_transposed": _number(ratio(row, rows, TEXTBOOKS[0]), 2),
        "times_textbook_resize": _number(ratio(row, rows, TEXTBOOKS[1]), 2),
        "gflop": _number(row.gflop, 2),
        "gflop_per_s": _number(rate, 1),
        "share_of_peak": _number(None if rate is None else rate / machine.peaks[row.precision], 3),
    }


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _peak(report: Report, part: str, name: str, what: str) -> str:
    found = [row.peak_mb for row in report.memory if (row.part, row.name, row.what) == (part, name, what)]
    return _number(found[0] if found else None, 0)


def _is_exported(row: StylizeRow) -> bool:
    return "ONNX" in row.name or "OpenVINO" in row.name


def _summary(report: Report, tables: dict[str, Table]) -> str:
    machine = report.machine
    peaks = ", ".join(f"{peak:.0f} in {precision}" for precision, peak in machine.peaks.items())
    lines = [
        "# Speed and memory beside a textbook network",
        "",
        f"{machine.processor}, {machine.cores} cores, {machine.threads} threads; {machine.versions}; {machine.date}.",
        f"{machine.load}",
        f"Highest measured GFLOP/s of a matrix product or convolution: {peaks}.",
        "Operations are counted as those of direct convolutions of the network as it is defined, so a share of the",
        "peak can exceed 1 (Winograd). Peak memory is that of a whole process, with its libraries and, where compiled,",
        "the compiler; run_s is its last run, alone and not in turns with the others.",
    ]
    if found := targets(report):
        lines += ["", *(f"- {line}" for line in found)]
    for name, table in tables.items():
        if table:
            lines += ["", f"## {name.replace('_', ' ').capitalize()}", "", *_markdown(table)]
    return "\n".join(lines) + "\n"


def _markdown(table: Table) -> list[str]:
    """Return a table in aligned columns, so that it can be read in a terminal too, without those that are empty."""
    names = [name for name in table[0] if any(row[name] for row in table)]
    widths = {name: max(len(name), *(len(row[name]) for row in table)) for name in names}
    cells = [names, ["-" * widths[name] for name in names], *([row[name] for name in names] for row in table)]
    return ["| " + " | ".join(c.ljust(widths[n]) for n, c in zip(names, row)) + " |" for row in cells]


def _draw(path: Path, report: Report) -> Path:
    """Draw how many times as fast as the textbook (transposed) everything is; return the path of the PNG."""
    from matplotlib.figure import Figure

    groups: list[tuple[str, list[Row]]] = []
    if report.training:
        groups.append((f"training, {report.training[0].size} px", list(report.training)))
    for size in dict.fromkeys(row.size for row in report.stylizing):
        groups.append((f"restyling, {size} px", [row for row in report.stylizing if row.size == size]))
    heights = [1 + len(rows) for _, rows in groups]
    figure = Figure(figsize=(8, 0.27 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)
    for (title, rows), axes in zip(groups, panels[:, 0]):
        _draw_bars(axes, title, rows)
    panels[-1, 0].set_xlabel(f"times as fast as {TEXTBOOKS[0]}")
    aside = path.with_name(f".{path.name}.writing")
    figure.savefig(aside, format="png", dpi=110)
    aside.replace(path)
    return path


def _draw_bars(axes: Axes, title: str, rows: Sequence[Row]) -> None:
    shown = [(row, r) for row in rows if (r := ratio(row, rows, TEXTBOOKS[0]))]
    colours = [_COLOURS["textbook" if row.name.startswith("textbook") else row.precision] for row, _ in shown]
    bars = axes.barh([row.name for row, _ in shown], [r for _, r in shown], color=colours)
    axes.bar_label(bars, [f"{r:.1f}×" for _, r in shown], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
