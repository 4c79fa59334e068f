"""``tezawari experiments``: record what an experiment measured, and gather all of them on one page."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from tezawari.core.config import compose_config
from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.files import write_atomically
from tezawari.core.runs import METRICS_FILE, RunRecord, last_metrics

RESULTS_FILE = "results.csv"
PAGE_FILE = "README.md"
CURVES_FILE = Path("figures", "curves.png")
COLUMNS = [
    "metric",
    "method",
    "value",
    "interval",
    "published",
    "seed",
    "data",
    "size",
    "config_hash",
    "commit",
    "cores",
    "processor",
    "wall_seconds",
]
_NOT_PUBLISHED = "none"
# Columns of a benchmark's summary that say how it was measured; the others are metrics.
_CONTEXT = {
    "checkpoint",
    "trained_with",
    "judge",
    "photos",
    "styles",
    "photos_from",
    "image_size",
    "seed",
    "commit",
    "cores",
    "processor",
    "wall_seconds",
    "method",
    "n",
    "data",
    "backbone",
}
_MARGIN = "_margin"
_PUBLISHED = "published_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write experiments/README.md, one page of all experiments, after checking that each recipe still composes; "
        "with --record, first write the results.csv of one of them from a finished run and its benchmark."
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the project (default: here)")
    parser.add_argument("--record", metavar="NAME", help="the experiment that --run belongs to")
    parser.add_argument("--run", metavar="RUN", type=Path, help="the folder of its training run")
    parser.add_argument(
        "--summary", metavar="CSV", type=Path, help="summary.csv of evaluate.py benchmark=style or segmentation"
    )


def run(args: argparse.Namespace) -> int:
    """Record, if asked, and rebuild the page; raises UserError for a recipe that no longer composes."""
    folder = args.root / "experiments"
    names = sorted(path.parent.name for path in folder.glob("*/run.yaml"))
    if not names:
        raise UserError(f"{folder} holds no experiments: name the project with --root")
    for name in names:
        compose_config(args.root, "train", [f"+experiment={name}"])
    if args.record is not None:
        if args.record not in names:
            raise UserError(f"no experiment is named {args.record}{did_you_mean(args.record, names)}")
        if args.run is None or args.summary is None:
            raise UserError("--record NAME needs --run RUN and --summary CSV")
        rows = results_of(args.run, args.summary)
        _write_rows(folder / args.record / RESULTS_FILE, rows)
        print(folder / args.record / RESULTS_FILE)
        print(draw_curves(args.run, folder / args.record / CURVES_FILE))
    page = folder / PAGE_FILE
    write_atomically(page, page_of(folder, names).encode())
    print(page)
    return 0


def results_of(run_dir: Path, summary: Path) -> list[dict[str, str]]:
    """Return the rows of ``results.csv``: the last validation metrics of a run, then a benchmark's, one each.

    Raises:
        UserError: no such run, an unfinished one, or no summary.
    """
    record = RunRecord.read(run_dir)
    if record is None:
        raise UserError(f"{run_dir} is not the folder of a run: tezawari runs lists them")
    if record.status != "finished":
        raise UserError(f"{run_dir} has not finished (it is {record.status}): go on with resume=auto")
    common = {"published": _NOT_PUBLISHED, "seed": str(record.seed), "config_hash": record.config_hash}
    trained = {
        **common,
        "method": "training",
        "data": "held-out photos",
        "commit": record.commit or "",
        "cores": str(record.machine["cores"]),
        "processor": str(record.machine["processor"]),
        "wall_seconds": f"{record.wall_seconds:.0f}",
    }
    metrics = {name: value for name, value in last_metrics(run_dir).items() if name.startswith("val/")}
    rows = [{**trained, "metric": name, "value": f"{value:.4g}"} for name, value in metrics.items()]
    try:
        with summary.open(encoding="utf-8", newline="") as file:
            measured = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"cannot read {summary}: {error.strerror}: evaluate.py benchmark=… writes it") from error
    for row in measured:
        context = {name: row[name] for name in ("commit", "cores", "processor", "wall_seconds", "seed")}
        described = {
            "method": row["method"],
            "data": row.get("data") or _style_data(row),
            "size": row["n"],
        }
        rows += [
            {
                **common,
                **context,
                **described,
                "metric": name,
                "value": value,
                "interval": row.get(name + _MARGIN, ""),
                "published": row.get(_PUBLISHED + name) or _NOT_PUBLISHED,
            }
            for name, value in row.items()
            if name not in _CONTEXT and not name.endswith(_MARGIN) and not name.startswith(_PUBLISHED)
        ]
    return rows


def _style_data(row: dict[str, str]) -> str:
    return f"{row['photos']} photos × {row['styles']} styles, {row['image_size']} px, judge {row['judge']}"


def draw_curves(run_dir: Path, path: Path) -> Path:
    """Draw each loss of a run over its steps, on trained and on held-out photos, and return the picture's path.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("matplotlib is not installed: pip install 'tezawari[sweep]'") from error
    curves: dict[str, list[tuple[int, float]]] = {}
    with (run_dir / METRICS_FILE).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["value"] and row["metric"].count("/") == 1:
                curves.setdefault(row["metric"], []).append((int(row["step"]), float(row["value"])))
    names = sorted({name.split("/")[1] for name in curves})
    figure = Figure(figsize=(3.2 * len(names), 2.8), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        for stage, line in (("train", "-"), ("val", "o--")):
            if points := curves.get(f"{stage}/{name}"):
                axes.plot(*zip(*points), line, label=stage, linewidth=1, markersize=3)
        axes.set(title=name, xlabel="step")
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return path


def page_of(folder: Path, names: list[str]) -> str:
    """Return the page: every experiment's title and its numbers, published beside measured.

    Metrics of a single class (``iou/NAME``, ``val/ap/NAME``) are left to ``results.csv``.
    """
    lines = ["# Experiments", "", "Written by `tezawari experiments`; each recipe below composes.", ""]
    for name in names:
        lines += [f"## [{name}]({name}/README.md)", "", f"`python train.py +experiment={name}`", ""]
        results = folder / name / RESULTS_FILE
        if not results.is_file():
            lines += ["No results yet.", ""]
            continue
        with results.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        lines += ["| metric | method | published | measured | data |", "| :-- | :-- | --: | --: | :-- |"]
        for row in rows:
            if "/" in row["metric"].removeprefix("val/"):
                continue
            interval = f" ± {float(row['interval']):.3g}" if row["interval"] else ""
            value = f"{float(row['value']):.4g}{interval}" if row["value"] else ""
            lines.append(f"| {row['metric']} | {row['method']} | {row['published']} | {value} | {row['data']} |")
        lines.append("")
    return "\n".join(lines)


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
