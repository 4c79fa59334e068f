"""``tezawari runs``: list training runs and compare their metrics."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.runs import RunRecord, is_held, last_metrics, list_runs

_FIXED = ["run", "status", "step", "seconds"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--dir", type=Path, default=Path("outputs"), help="where the runs are (default: outputs)")
    parser.add_argument("--sort", metavar="METRIC", help="put the runs with the smallest METRIC first")
    parser.add_argument("--metric", action="append", metavar="NAME", help="show this metric only; may be repeated")
    parser.add_argument("--csv", action="store_true", help="write CSV, every metric in it, instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the runs below ``--dir``; raises UserError where there is none, or a metric is unknown."""
    if not args.dir.is_dir():
        raise UserError(f"there is no folder {args.dir}: train something first, or name another with --dir")
    rows = [describe_run(path, record, args.dir) for path, record in list_runs(args.dir)]
    if not rows:
        raise UserError(f"{args.dir} holds no runs: python train.py makes one")
    known = list(dict.fromkeys(name for row in rows for name in row if name not in _FIXED))
    for name in [args.sort, *(args.metric or [])]:
        if name is not None and name not in known:
            raise UserError(f"no run recorded the metric {name}{did_you_mean(name, known)}")
    if args.sort:
        rows.sort(key=lambda row: float(row.get(args.sort, "inf")))
    # Losses per style are many: a table of them all is none, so they show when asked for.
    shown = args.metric or [name for name in known if args.csv or name.count("/") <= 1]
    if args.csv:
        writer = csv.DictWriter(sys.stdout, [*_FIXED, *shown], restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        _print_table(rows, shown)
    return 0


def describe_run(run_dir: Path, record: RunRecord, base: Path) -> dict[str, str]:
    """Return a run's row: its place, status, step, seconds and the last value of each metric."""
    status: str = record.status
    if status == "running" and not is_held(run_dir):
        status = "interrupted"  # nobody was left to write down how it ended
    metrics = {name: repr(value) for name, value in last_metrics(run_dir).items()}
    fixed = {"run": str(run_dir.relative_to(base)), "status": status, "step": str(record.step)}
    return {**fixed, "seconds": f"{record.wall_seconds:.0f}", **metrics}


def _print_table(rows: list[dict[str, str]], metrics: list[str]) -> None:
    console = Console()
    table = Table()
    for name in [*_FIXED, *metrics]:
        table.add_column(name, justify="left" if name in ("run", "status") else "right", overflow="fold")
    for row in rows:
        numbers = [f"{float(row[name]):.5g}" if name in row else "" for name in metrics]
        table.add_row(*(row[name] for name in _FIXED), *numbers)
    if not console.is_terminal:
        console.width = 10_000  # a file or a pipe has no width to fit into
    console.print(table)
