"""``tezawari experiments``: record what an experiment measured, and gather all of them on one page."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path

from tezawari.core.config import compose_config, config_hash
from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.files import write_atomically
from tezawari.core.plots import require_matplotlib
from tezawari.core.runs import METRICS_FILE, RunRecord, last_metrics

# The recipe of an experiment: of a training run, or of a benchmark that needs none; and what it is a recipe for.
RECIPES = {"run.yaml": "train", "evaluate.yaml": "evaluate"}
RESULTS_FILE = "results.csv"
SUMMARY_FILE = "summary.csv"
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
# What every row of a benchmark's summary says of itself.
_REQUIRED = ("method", "n", "seed", "commit", "cores", "processor", "wall_seconds")
# Numbers of a summary that say how it was measured; all other numbers are metrics.
_CONTEXT = {*_REQUIRED, "photos", "styles", "image_size", "steps"}
_MARGIN = "_margin"
_PUBLISHED = "published_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        "Write experiments/README.md, one page of all experiments, after checking that each recipe still composes; "
        "with --record, first write the results.csv of one of them from what its benchmark left, and, where its recipe "
        "is a training run (run.yaml, not evaluate.yaml), from that run."
    )
    parser.add_argument("--root", type=Path, default=Path(), help="the project (default: here)")
    parser.add_argument("--record", metavar="NAME", help="the experiment whose results --summary holds")
    parser.add_argument("--run", metavar="RUN", type=Path, help="the folder of its training run")
    parser.add_argument(
        "--summary",
        metavar="FOLDER",
        type=Path,
        help=f"where evaluate.py left its {SUMMARY_FILE}: output_dir/BENCHMARK, or the file itself",
    )


def run(args: argparse.Namespace) -> int:
    """Record, if asked, and rebuild the page; raises UserError for a recipe that no longer composes."""
    folder = args.root / "experiments"
    recipes = {path.parent.name: entry for file, entry in RECIPES.items() for path in folder.glob(f"*/{file}")}
    if not recipes:
        raise UserError(f"{folder} holds no experiments: name the project with --root")
    hashes = {
        name: config_hash(compose_config(args.root, entry, [f"+experiment={name}"]))
        for name, entry in sorted(recipes.items())
    }
    if args.record is not None:
        if args.record not in recipes:
            raise UserError(f"no experiment is named {args.record}{did_you_mean(args.record, recipes)}")
        for path in _record(args, folder / args.record, recipes[args.record], hashes[args.record]):
            print(path)
    page = folder / PAGE_FILE
    write_atomically(page, page_of(folder, dict(sorted(recipes.items()))).encode())
    print(page)
    return 0


def _record(args: argparse.Namespace, folder: Path, entry: str, recipe_hash: str) -> list[Path]:
    """Write the results of an experiment, and the curves of its run where it has one; return the files."""
    results = folder / RESULTS_FILE
    if entry == "evaluate":
        if args.run is not None:
            raise UserError(f"{args.record} trains nothing: leave out --run")
        if args.summary is None:
            raise UserError(
                f"--record {args.record} needs --summary FOLDER: evaluate.py +experiment={args.record} makes it"
            )
        _write_rows(results, summarised(args.summary, recipe_hash))
        return [results]
    if args.run is None or args.summary is None:
        raise UserError(f"--record {args.record} needs --run RUN and --summary FOLDER")
    trained, trained_hash = trained_rows(args.run)
    _write_rows(results, [*trained, *summarised(args.summary, trained_hash)])
    return [results, draw_curves(args.run, folder / CURVES_FILE)]


def trained_rows(run_dir: Path) -> tuple[list[dict[str, str]], str]:
    """Return a row of ``results.csv`` for each last validation metric of a run, and the hash of its configuration.

    Raises:
        UserError: no such run, or an unfinished one.
    """
    record = RunRecord.read(run_dir)
    if record is None:
        raise UserError(f"{run_dir} is not the folder of a run: tezawari runs lists them")
    if record.status != "finished":
        raise UserError(f"{run_dir} has not finished (it is {record.status}): go on with resume=auto")
    common = {
        "published": _NOT_PUBLISHED,
        "seed": str(record.seed),
        "config_hash": record.config_hash,
        "method": "training",
        "data": "held-out photos",
        "commit": record.commit or "",
        "cores": str(record.machine["cores"]),
        "processor": str(record.machine["processor"]),
        "wall_seconds": f"{record.wall_seconds:.0f}",
    }
    metrics = {name: value for name, value in last_metrics(run_dir).items() if name.startswith("val/")}
    rows = [{**common, "metric": name, "value": f"{value:.4g}"} for name, value in metrics.items()]
    return rows, record.config_hash


def summarised(summary: Path, recipe_hash: str) -> list[dict[str, str]]:
    """Return the rows of ``results.csv`` of what a benchmark left: one for each method and number of its summary.

    A summary has a row a method. Half of the interval of ``NAME`` stands under ``NAME_margin``, what was published
    under ``published_NAME``; what is no number is no metric.

    Args:
        summary: ``summary.csv``, or the folder that holds it.
        recipe_hash: of the configuration that made it.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    file = summary / SUMMARY_FILE if summary.is_dir() else summary
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            measured = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}: evaluate.py benchmark=… writes it") from error
    lacking = [name for name in _REQUIRED if not measured or name not in measured[0]]
    if lacking:
        raise UserError(f"{file} is no benchmark's {SUMMARY_FILE}: it lacks {', '.join(lacking)}")
    return [
        {
            **{name: row[name] for name in ("method", "seed", "commit", "cores", "processor", "wall_seconds")},
            "data": row.get("data") or _style_data(row),
            "size": row["n"],
            "config_hash": recipe_hash,
            "metric": name,
            "value": value,
            "interval": row.get(name + _MARGIN, ""),
            "published": row.get(_PUBLISHED + name) or _NOT_PUBLISHED,
        }
        for row in measured
        for name, value in row.items()
        if _is_number(value) and name not in _CONTEXT and not name.endswith(_MARGIN) and not name.startswith(_PUBLISHED)
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _style_data(row: dict[str, str]) -> str:
    return f"{row['photos']} photos × {row['styles']} styles, {row['image_size']} px, judge {row['judge']}"


def draw_curves(run_dir: Path, path: Path) -> Path:
    """Draw each loss of a run over its steps, on trained and on held-out photos, and return the picture's path.

    Raises:
        UserError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

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


def page_of(folder: Path, recipes: Mapping[str, str]) -> str:
    """Return the page: every experiment's title and its numbers, published beside measured.

    ``recipes`` maps the name of an experiment to the entry point that runs it, ``train`` or ``evaluate``.
    Metrics of a single class (``iou/NAME``, ``val/ap/NAME``) are left to ``results.csv``.
    """
    lines = ["# Experiments", "", "Written by `tezawari experiments`; each recipe below composes.", ""]
    for name, entry in recipes.items():
        lines += [f"## [{name}]({name}/README.md)", "", f"`python {entry}.py +experiment={name}`", ""]
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
