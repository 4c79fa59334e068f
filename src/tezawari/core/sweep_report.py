"""What a sweep leaves to read: a table, a CSV file and a plot."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tezawari.core.sweep_space import Range, Space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TABLE_FILE = "trials.csv"
PLOT_FILE = "study.png"
_COLOURS = {"complete": "#1b6ca8", "pruned": "#c9a227"}
_PANELS_A_ROW = 3


@dataclass(frozen=True)
class Attempt:
    """One trial of a study: ``value`` is the final metric, for a pruned trial the last one reported."""

    number: int
    state: str
    value: float | None
    params: dict[str, Any]
    seconds: float | None
    run_dir: str
    message: str


def write_report(folder: Path, metric: str, direction: str, attempts: Sequence[Attempt], space: Space) -> str:
    """Write ``trials.csv`` and ``study.png`` into ``folder`` and return the table as text.

    Args:
        folder: the study's folder.
        metric: what was searched for.
        direction: ``minimize`` or ``maximize``.
        attempts: the trials, the best first.
        space: what was tried.
    """
    rows = _rows(attempts, list(space.settings))
    header = ["rank", "trial", metric, *space.settings, "state", "seconds", "run"]
    aside = folder / f".{TABLE_FILE}.writing"
    with aside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "message"])
        writer.writerows([*row, attempt.message] for row, attempt in zip(rows, attempts))
    aside.replace(folder / TABLE_FILE)
    _plot(folder / PLOT_FILE, metric, direction, attempts, space)
    lines = _aligned([header, *([_cell(value) for value in row] for row in rows)])
    return "\n".join([*lines, f"table: {folder / TABLE_FILE}", f"plot:  {folder / PLOT_FILE}"])


def _rows(attempts: Sequence[Attempt], names: list[str]) -> list[list[Any]]:
    return [
        [
            rank if attempt.state == "complete" else "",
            attempt.number,
            "" if attempt.value is None else attempt.value,
            *(attempt.params.get(name, "") for name in names),
            attempt.state,
            "" if attempt.seconds is None else round(attempt.seconds, 1),
            attempt.run_dir,
        ]
        for rank, attempt in enumerate(attempts, start=1)
    ]


def _cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _plot(path: Path, metric: str, direction: str, attempts: Sequence[Attempt], space: Space) -> None:
    """Draw the values in the order of the trials with the best so far, and the values against each setting."""
    from matplotlib.figure import Figure

    rows = 1 + math.ceil(len(space.settings) / _PANELS_A_ROW)
    figure = Figure(figsize=(4.2 * _PANELS_A_ROW, 3.2 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, _PANELS_A_ROW)
    _draw_history(figure.add_subplot(grid[0, :]), metric, direction, attempts)
    for index, name in enumerate(space.settings):
        axes = figure.add_subplot(grid[1 + index // _PANELS_A_ROW, index % _PANELS_A_ROW])
        _draw_slice(axes, name, metric, attempts, space)
    aside = path.with_name(f".{path.name}.writing")
    figure.savefig(aside, format="png", dpi=110)
    aside.replace(path)


def _draw_history(axes: Axes, metric: str, direction: str, attempts: Sequence[Attempt]) -> None:
    for state, colour in _COLOURS.items():
        shown = [a for a in attempts if a.state == state and a.value is not None]
        axes.scatter([a.number for a in shown], [a.value or 0.0 for a in shown], c=colour, label=state, s=24)
    better = min if direction == "minimize" else max
    numbers: list[int] = []
    best: list[float] = []
    for attempt in sorted(attempts, key=lambda a: a.number):
        if attempt.state == "complete" and attempt.value is not None:
            numbers.append(attempt.number)
            best.append(better([*best[-1:], attempt.value]))
    axes.step(numbers, best, where="post", color=_COLOURS["complete"], label="best so far")
    lost = sorted(a.number for a in attempts if a.state == "failed")
    for number in lost:
        axes.axvline(number, color="#b03a2e", alpha=0.3, label="failed" if number == lost[0] else None)
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend(loc="best", fontsize="small")


def _draw_slice(axes: Axes, name: str, metric: str, attempts: Sequence[Attempt], space: Space) -> None:
    setting = space.settings[name]
    for state, colour in _COLOURS.items():
        shown = [a for a in attempts if a.state == state and a.value is not None and name in a.params]
        places = [a.params[name] for a in shown]
        if not isinstance(setting, Range):
            places = [setting.values.index(place) for place in places]
        axes.scatter(places, [a.value or 0.0 for a in shown], c=colour, s=24)
    if isinstance(setting, Range):
        axes.set_xscale("log" if setting.log else "linear")
    else:
        axes.set_xticks(range(len(setting.values)), [str(value)[:16] for value in setting.values])
    axes.set(xlabel=name, ylabel=metric)
