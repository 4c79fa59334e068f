"""``evaluate.py benchmark=live_page``: the live page's frames a second, its network's size, and what int8 costs."""

from __future__ import annotations

import copy
import gzip
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from tezawari.core.browser import chromium
from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines, tell
from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.sheet import draw_sheet, encode_jpeg
from tezawari.export.browser_models import browser_models
from tezawari.export.onnx import load_onnxruntime
from tezawari.export.precision import PRECISIONS, Precision
from tezawari.export.serve import open_server
from tezawari.export.web_app import MODEL_FILE, built_runtime, compress_model
from tezawari.style.export_command import EMBEDDED, Difference, check_onnx, export_live_page, fp32_model, load_stylizer
from tezawari.style.measures import Judge
from tezawari.style.mixing import one_hot
from tezawari.style.network import ConditionalNetwork
from tezawari.style.style_benchmark import Pictures, choose_judge, find_pictures, load_judge, run_config
from tezawari.style.stylize import Stylizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = "live_page"
PYTORCH = "PyTorch"
_TARGET_FPS, _TARGET_BYTES, _TARGET_POINTS = 10, 1_000_000, 2
_TARGET_STYLES = 13
_SIDE = 256
_PATIENCE = 300_000  # milliseconds
_PHOTO_RUNS = 8
_PICTURED = 4
_FIGURE_BYTES = 300_000

Restyle = Callable[[Tensor, Tensor], Tensor]

# Promises, since the page's policy forbids what Playwright's own waiting evaluates.
_WATCH = """() => {
  window.shown = [];
  const status = document.querySelector("#status");
  new MutationObserver(() => shown.push([performance.now(), Number(status.dataset.ms)])).observe(
    status, { attributes: true, attributeFilter: ["data-fps", "data-ms"] });
  window.until = (count, patience) => new Promise((resolve, reject) => {
    const end = performance.now() + patience;
    const timer = setInterval(() => {
      if (shown.length < count && performance.now() < end) return;
      clearInterval(timer);
      if (shown.length < count) reject(new Error("the live page shows no pictures"));
      else resolve();
    }, 20);
  });
}"""


@dataclass(frozen=True)
class Watched:
    """What one visit of the page showed.

    ``intervals`` are the milliseconds between two pictures of the camera; ``made`` those that the network and the
    conversions around it took for a still photo of as many pixels.
    """

    intervals: list[float]
    made: list[float]


@dataclass(frozen=True)
class Variant:
    """One precision of the network: the bytes of its file, whole and compressed, and how far it is from PyTorch.

    ``compressed_13`` is that of :func:`with_styles` 13, None where the network has more.
    """

    model: bytes
    compressed: int
    compressed_13: int | None
    difference: Difference
    visits: list[Watched]


def benchmark_live_page(
    output_dir: str,
    checkpoint: str | None,
    precisions: list[Precision],
    seconds: PositiveFloat,
    warm_up: PositiveFloat,
    rounds: PositiveInt,
    photos: str | None,
    styles: str | None,
    max_photos: PositiveInt,
    judge: str | None,
    judge_weights: str | None,
    seed: NonNegativeInt,
) -> dict[str, Path]:
    """Run the exported live page in headless Chromium with its made-up camera, and judge what its networks paint.

    For each precision the page that ``tezawari export --to web`` writes is served to a fresh browser, in turns; its
    camera is restyled by WebAssembly at as many pixels as a square of 256, and every picture that it shows is timed.
    The network's size is told as it is and with 13 styles, as many as the published application has.
    Frames a second are those of all visits over their time. Then ONNX Runtime runs the same files on photos ×
    styles, judged as ``benchmark=style`` does (see :func:`tezawari.style.style_benchmark.benchmark_style`), beside
    PyTorch.

    Args:
        output_dir: the files go to its folder ``live_page``.
        checkpoint: a network's file, the folder of a run, or None for the network that comes with the package.
        precisions: of the files, in the order of the table.
        seconds: to watch the camera in each visit.
        warm_up: seconds before that.
        rounds: visits of each precision.
        photos: a folder of photos to judge on; None: those that the run held out, or the embedded ones.
        styles: a folder of style images named as the network's styles; None: the run's. The network of the package
            comes without its paintings: None then leaves the judging out.
        max_photos: more are drawn from by ``seed``.
        judge: a backbone that the network was not trained against; None: see ``benchmark=style``.
        judge_weights: a file of the judge's weights; None takes those that it comes with.
        seed: draws the photos.

    Returns:
        Name → file: ``summary`` (a row a precision), ``table``, and ``figure`` where pictures were judged.

    Raises:
        UserError: no Chromium or Playwright, a runtime that was not built, a network that cannot be exported, a page
            that does not work, and what ``benchmark=style`` raises.
    """
    began = time.monotonic()
    load = _load_average()
    if not precisions or len(set(precisions)) < len(precisions):
        raise UserError(f"benchmark.precisions={precisions}: name each of {', '.join(PRECISIONS)} once at most")
    built_runtime()
    stylizer = load_stylizer(checkpoint or EMBEDDED)
    judged = _judged(stylizer, checkpoint, photos, styles, max_photos, judge, judge_weights, seed)
    thirteen = with_styles(stylizer.trained.network, _TARGET_STYLES)
    float_13 = None if thirteen is None else fp32_model(thirteen)
    variants: dict[str, Variant] = {}
    with chromium() as browser, tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        for precision in precisions:
            tell(f"exporting {precision}")
            folder = Path(scratch) / precision
            export_live_page(stylizer, folder, precision)
            packed = (folder / MODEL_FILE).read_bytes()
            model = gzip.decompress(packed)
            size_13 = None if float_13 is None else len(compress_model(browser_models(float_13, precision).wasm))
            variants[precision] = Variant(model, len(packed), size_13, check_onnx(stylizer, model), [])
        for number in range(1, rounds + 1):
            for name, variant in variants.items():
                tell(f"the camera, {number} of {rounds}: {name}")
                with _served(Path(scratch) / name) as url:
                    variant.visits.append(visit(browser, url, warm_up, seconds))
    accuracy: dict[str, NDArray[np.bool_]] = {}
    figure = None
    if judged is not None:
        accuracy, figure = _judge_all(stylizer, variants, *judged)
    record = {
        "checkpoint": checkpoint or EMBEDDED,
        "styles": len(stylizer.style_names),
        "load_before": load,
        "load_after": _load_average(),
        **measured_here(seed, time.monotonic() - began),
    }
    return _write(Path(output_dir) / FOLDER, rows_of(variants, accuracy), figure, record)


@torch.no_grad()
def with_styles(network: ConditionalNetwork, count: int) -> ConditionalNetwork | None:
    """Return a copy with styles of random numbers added up to ``count``, to weigh; None where there are more already.

    The numbers spread as those of the network's own styles do, so that they compress alike.
    """
    missing = count - network.num_styles
    if missing < 0:
        return None
    filled = copy.deepcopy(network)
    filled.add_styles(missing)
    generator = torch.Generator().manual_seed(0)
    for place in range(network.num_styles, count):
        for own, new in zip(network.style_parameters(0), filled.style_parameters(place)):
            new.add_(torch.randn(own.shape, generator=generator) * own.std())
    return filled


# --- the page ---------------------------------------------------------------------------------------------------------


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    with open_server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def visit(browser: Browser, url: str, warm_up: float, seconds: float) -> Watched:
    """Open the live page for the first time, watch its camera and then time a still photo.

    Raises:
        UserError: the page failed, with what it says.
    """
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    try:
        context.set_default_timeout(_PATIENCE)
        page = context.new_page()
        page.goto(f"{url}?backend=wasm")
        _wait(page, "ready")
        page.click("#intake [data-do=camera]")
        _wait(page, "live")
        page.select_option("#size", str(_SIDE))
        page.wait_for_timeout(1000 * warm_up)
        page.evaluate(_WATCH)
        page.wait_for_timeout(1000 * seconds)
        # A slow machine still shows a few.
        page.evaluate(f"until(3, {_PATIENCE})")
        times = [now for now, _ in page.evaluate("shown")]
        page.click("#toggle")
        _wait(page, "photo")
        page.select_option("#size", str(_SIDE))
        page.wait_for_timeout(1000)
        made = []
        for number in range(_PHOTO_RUNS):
            before = page.evaluate("shown.length")
            page.locator(".style .pick").nth(number % page.locator(".style .pick").count()).click()
            page.evaluate(f"until({before + 1}, {_PATIENCE})")
            made.append(float(page.evaluate("shown.at(-1)[1]")))
        return Watched([later - now for now, later in itertools.pairwise(times)], made)
    finally:
        context.close()


def _wait(page: Page, key: str) -> None:
    page.wait_for_selector(f"#status:is([data-key={key}], [data-key=failed])", state="attached")
    if page.get_attribute("#status", "data-key") != key:
        raise UserError(f"the live page does not run: {page.inner_text('#status')}")


# --- the judging ------------------------------------------------------------------------------------------------------


def _judged(
    stylizer: Stylizer,
    checkpoint: str | None,
    photos: str | None,
    styles: str | None,
    max_photos: int,
    judge: str | None,
    judge_weights: str | None,
    seed: int,
) -> tuple[Judge, Pictures] | None:
    if checkpoint is None and styles is None:
        tell("style accuracy is left out: benchmark.styles=FOLDER names the paintings that the network was trained on")
        return None
    trained_with = stylizer.trained.meta.get("backbone_name")
    if trained_with is None:
        raise UserError(
            f"{checkpoint or EMBEDDED} does not say which backbone it was trained with, so nobody may judge it"
        )
    name = choose_judge(judge, trained_with)
    path = Path(checkpoint or EMBEDDED).expanduser()
    config = run_config(path / "network.safetensors" if path.is_dir() else path)
    pictures = find_pictures(config, stylizer.style_names, photos, styles, max_photos, _SIDE, seed)
    return load_judge(name, judge_weights, pictures.styles), pictures


def _judge_all(
    stylizer: Stylizer, variants: Mapping[str, Variant], judge: Judge, pictures: Pictures
) -> tuple[dict[str, NDArray[np.bool_]], list[list[Tensor]]]:
    """Return, for PyTorch and each precision, which pictures are right, and rows for the figure."""
    names = list(pictures.styles)
    count = len(stylizer.style_names)
    conditions = [one_hot(stylizer.style_names.index(name), count) for name in names]
    painters: dict[str, Restyle] = {PYTORCH: stylizer}
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        for precision, variant in variants.items():
            file = Path(scratch) / f"{precision}.onnx"
            file.write_bytes(variant.model)
            run = load_onnxruntime(file, threads=torch.get_num_threads())
            painters[precision] = lambda photo, style, run=run: run(photo[None], style[None])[0]  # type: ignore[misc]
        right, painted = {}, {}
        for name, painter in painters.items():
            right[name], painted[name] = style_accuracy(
                judge, name, list(pictures.photos.values()), conditions, painter
            )
    shown = range(min(_PICTURED, len(pictures.photos)))
    photos = list(pictures.photos.values())
    rows = [[photos[i], *(painted[name][i][i % len(names)] for name in painters)] for i in shown]
    return right, rows


def style_accuracy(
    judge: Judge, name: str, photos: Sequence[Tensor], conditions: Sequence[Tensor], painter: Restyle
) -> tuple[NDArray[np.bool_], list[list[Tensor]]]:
    """Say of each photo (rows) in each of the judge's styles (columns) whether that style is the nearest.

    Returns them as ``(photos, styles)`` with the pictures of the first few photos.
    """
    right = np.zeros((len(photos), len(conditions)), dtype=bool)
    kept: list[list[Tensor]] = []
    progress = progress_lines(f"judging {name}", "pictures")
    for row, photo in enumerate(photos):
        pictures = [painter(photo, condition) for condition in conditions]
        for asked, picture in enumerate(pictures):
            distances = judge.style_distances(judge.look(picture))
            right[row, asked] = int(distances.mean(1).argmin()) == asked
        if row < _PICTURED:
            kept.append(pictures)
        progress((row + 1) * len(conditions), right.size)
    return right, kept


# --- the report -------------------------------------------------------------------------------------------------------


def rows_of(variants: Mapping[str, Variant], right: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Return a row of figures a precision, PyTorch's accuracy first where there is one.

    ``style_accuracy`` is in per cent, ``points_from_pytorch`` in points of it, ``changed`` the share of pictures, in
    per cent, that are judged otherwise than PyTorch's.
    """
    rows: list[dict[str, Any]] = []
    if PYTORCH in right:
        rows.append({"network": PYTORCH, **_empty(), **_accuracy(right, PYTORCH)})
    for precision, variant in variants.items():
        intervals = [each for visit in variant.visits for each in visit.intervals]
        rows.append(
            {
                "network": precision,
                "fps": round(1000 / statistics.mean(intervals), 2),
                "fps_slowest_visit": round(1000 / max(statistics.mean(v.intervals) for v in variant.visits), 2),
                "frames": len(intervals),
                "interval_95_ms": round(float(np.percentile(intervals, 95)), 1),
                "made_ms": round(statistics.median(each for visit in variant.visits for each in visit.made), 1),
                "bytes": len(variant.model),
                "gzip_bytes": variant.compressed,
                "gzip_bytes_13_styles": "" if variant.compressed_13 is None else variant.compressed_13,
                "mean_difference": round(variant.difference.mean, 3),
                "max_difference": round(variant.difference.largest, 2),
                **_accuracy(right, precision),
            }
        )
    return rows


def _empty() -> dict[str, str]:
    names = (
        "fps",
        "fps_slowest_visit",
        "frames",
        "interval_95_ms",
        "made_ms",
        "bytes",
        "gzip_bytes",
        "gzip_bytes_13_styles",
        "mean_difference",
        "max_difference",
    )
    return dict.fromkeys(names, "")


def _accuracy(right: Mapping[str, NDArray[np.bool_]], name: str) -> dict[str, Any]:
    if name not in right:
        return {"pictures": 0, "style_accuracy": "", "points_from_pytorch": "", "changed": ""}
    ours, pytorch = right[name], right[PYTORCH]
    return {
        "pictures": ours.size,
        "style_accuracy": round(100 * float(ours.mean()), 2),
        "points_from_pytorch": round(100 * float(ours.mean() - pytorch.mean()), 2),
        "changed": round(100 * float((ours != pytorch).mean()), 2),
    }


def targets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each figure that was set as a target, both side by side."""
    networks = [row for row in rows if row["network"] != PYTORCH]
    fastest = max(networks, key=lambda row: row["fps"])
    smallest = min(networks, key=lambda row: row["gzip_bytes"])
    thirteen = smallest["gzip_bytes_13_styles"]
    sizes = f"{smallest['gzip_bytes'] / 1e6:.2f} MB compressed"
    if thirteen:
        sizes += f", {thirteen / 1e6:.3f} MB with {_TARGET_STYLES} styles"
    lines = [
        f"the camera at {_SIDE} px: {fastest['fps']:.1f} frames/s ({fastest['network']}); asked for: {_TARGET_FPS}",
        f"the network: {sizes} ({smallest['network']}); asked for: {_TARGET_BYTES / 1e6:.0f} MB with {_TARGET_STYLES}",
    ]
    return lines + [
        f"style accuracy of {row['network']}: {row['points_from_pytorch']:+.1f} points from PyTorch's float32; "
        f"asked for: within {_TARGET_POINTS}"
        for row in networks
        if row["network"] != "fp32" and row["pictures"]
    ]


def _write(
    folder: Path, rows: list[dict[str, Any]], figure: list[list[Tensor]] | None, record: dict[str, Any]
) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "summary": write_csv(folder / "summary.csv", [{**row, **record} for row in rows]),
        "table": folder / "summary.md",
    }
    heads = {
        "fps": "frames/s",
        "interval_95_ms": "95 % within, ms",
        "made_ms": "ms a still",
        "bytes": "bytes",
        "gzip_bytes": "gzip",
        "gzip_bytes_13_styles": "gzip with 13 styles",
        "mean_difference": "mean difference",
        "max_difference": "largest",
        "style_accuracy": "style accuracy, %",
        "points_from_pytorch": "points from PyTorch",
    }
    lines = [
        f"# The live page of {record['checkpoint']}",
        "",
        f"Headless Chromium with its made-up camera, WebAssembly, {record['cores']} cores of {record['processor']}; "
        f"load average {record['load_before']} before and {record['load_after']} after. "
        "Differences are from PyTorch, of 255.",
        "",
        *(f"- {line}" for line in targets(rows)),
        *([] if figure else ["- style accuracy was left out: benchmark.styles names no folder of the style images"]),
        "",
        markdown_table(["network", *heads.values()], [[str(row[key]) for key in ("network", *heads)] for row in rows]),
    ]
    files["table"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    if figure is not None:
        columns = ["photo", *(row["network"] for row in rows)]
        files["figure"] = folder / "figure.jpg"
        files["figure"].write_bytes(encode_jpeg(draw_sheet(figure, columns), _FIGURE_BYTES))
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


def _load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"
