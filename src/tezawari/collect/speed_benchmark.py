"""``evaluate.py benchmark=collect_speed``: how long a collection takes, and its downloads beside img2dataset's."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from tezawari.collect.local_web import Served, Server, make_pictures, serving
from tezawari.collect.speed_worker import START, Job, Measured, measure
from tezawari.core.errors import UserError
from tezawari.core.runs import current_commit, describe_machine
from tezawari.core.tables import markdown_table, write_csv

FOLDER = "collect_speed"
OURS = "tezawari: checked, decoded"
# What img2dataset is told, and what it then does with an image: it decodes it as we do, or does nothing but write it.
PEERS = {
    "img2dataset: decoded, written": {"resize_mode": "no", "skip_reencode": True},
    "img2dataset: written only": {"disable_all_reencoding": True},
}
_TARGET_SECONDS, _TARGET_MB = 60, 1500
_SECONDS_A_LINE = 5.0

# Runs in img2dataset's own environment.
_PEER_SCRIPT = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Download:
    """One candidate's download of all images, on the server's clock: from the first asked for to the last answered.

    ``process_seconds`` are those of its whole process, start and end included.
    """

    name: str
    served: Served
    process_seconds: float
    note: str = ""


def benchmark_collect_speed(
    output_dir: str,
    images: PositiveInt,
    kilobytes: Annotated[float, Field(gt=5, le=300)],
    folder: str | None,
    rounds: PositiveInt,
    workers: PositiveInt,
    img2dataset: str | None,
    img2dataset_processes: PositiveInt,
    threads: PositiveInt,
    backbone: str,
    weights: str | None,
    layer: str | None,
    seed: NonNegativeInt,
) -> dict[str, Path]:
    """Measure downloads and a whole collection of images that a process of this machine serves.

    Downloads alone: ours, checked and decoded but not kept, and img2dataset's on the same server in turns, each in a
    process of its own; on the server's clock, so that no process's start counts, and the median of ``rounds``. Then a
    whole collection as ``tezawari collect`` does it, of a new store: fetched, checked, stored, described, ranked twice,
    the negatives described too; and the peak memory of its process.

    Beside seconds stand those of processors: on a machine that is busy with other things they say more. So does
    ``server_cpu_s``: where it comes near to the seconds, it is the server that was measured.

    Args:
        output_dir: the files go to its folder ``collect_speed``.
        images: how many.
        kilobytes: the size of each, in 10³ bytes.
        folder: of JPEGs to serve instead of made ones, the first ``images`` by name.
        rounds: turns of each candidate in downloading alone.
        workers: images that are fetched at once; all of the one host.
        img2dataset: the Python of an environment that has it; None leaves it out.
        img2dataset_processes: among which it shares its images.
        threads: of the network that describes.
        backbone: with ``weights`` and ``layer``, what ranks, as ``tezawari collect`` names them.
        seed: of the pictures.

    Returns:
        Name → file: ``downloads``, ``stages``, ``table``.

    Raises:
        UserError: no pictures in ``folder``, an environment without img2dataset, a candidate that fails.
    """
    result = Path(output_dir) / FOLDER
    result.mkdir(parents=True, exist_ok=True)
    _require_peer(img2dataset)
    load = _load_average()
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        web, names = _web(Path(scratch), folder, images, kilobytes, seed)
        with serving(web) as server:
            urls = Path(scratch) / "urls.txt"
            urls.write_text("\n".join(server.urls(names)), encoding="utf-8")

            def job(part: Any) -> Job:
                store = str(Path(scratch) / "store")
                return Job(part, str(urls), store, workers, workers, threads, backbone, weights, layer)

            candidates: dict[str, Callable[[], object]] = {OURS: lambda: _all_of(len(names), measure(job("download")))}
            for name, options in PEERS.items() if img2dataset is not None else ():
                candidates[name] = lambda options=options: _run_peer(  # type: ignore[misc]
                    str(img2dataset), urls, Path(scratch) / "peer", len(names), workers, img2dataset_processes, options
                )
            downloads = list(_measure_downloads(server, candidates, rounds, len(names)))
            _progress("a whole collection")
            server.served()
            whole = measure(job("whole"))
            while_whole = server.served()
    record = {
        "images": len(names),
        "kilobytes": kilobytes if folder is None else "",
        "workers": workers,
        "threads": threads,
        "seed": seed,
        "load_before": load,
        "load_after": _load_average(),
        "commit": current_commit(),
        **describe_machine(),
    }
    return _write(result, downloads, whole, while_whole, img2dataset is not None, record)


def _web(scratch: Path, folder: str | None, images: int, kilobytes: float, seed: int) -> tuple[Path, list[str]]:
    """Return the folder that is served and the names of its pictures."""
    if folder is not None:
        names = sorted(path.name for path in Path(folder).glob("*.jp*g"))[:images]
        if not names:
            raise UserError(f"benchmark.folder={folder}: holds no JPEG, or is no folder")
        return Path(folder), names
    web = scratch / "web"
    web.mkdir()
    began = said = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said > _SECONDS_A_LINE or done == total:
            said = now
            _progress(f"making pictures: {done}/{total}, {now - began:.0f} s")

    return web, make_pictures(web, images, kilobytes, seed, progress)


def _all_of(wanted: int, measured: Measured) -> None:
    if measured.images != wanted:
        raise UserError(f"only {measured.images} of {wanted} images were downloaded: lower benchmark.workers")


def _measure_downloads(
    server: Server, candidates: dict[str, Callable[[], object]], rounds: int, images: int
) -> Iterator[Download]:
    for number in range(1, rounds + 1):
        for name, run in candidates.items():
            _progress(f"downloads, {number} of {rounds}: {name}")
            server.served()
            began = time.monotonic()
            run()
            seconds = time.monotonic() - began
            served = server.served()
            note = "" if served.pictures == images else f"asked for {served.pictures} pictures"
            yield Download(name, served, seconds, note)


def _require_peer(python: str | None) -> None:
    if python is None:
        _progress("img2dataset is left out: benchmark.img2dataset=PYTHON of an environment that has it measures it too")
        return
    asked = [python, "-c", "import importlib.util as u; raise SystemExit(u.find_spec('img2dataset') is None)"]
    try:
        there = subprocess.run(asked, capture_output=True, check=False).returncode == 0
    except OSError:
        there = False
    if not there:
        raise UserError(
            f"benchmark.img2dataset={python}: no Python that has img2dataset: pip install img2dataset there"
        )


def _run_peer(
    python: str, urls: Path, folder: Path, images: int, workers: int, processes: int, options: dict[str, Any]
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    told = {
        "url_list": str(urls),
        "input_format": "txt",
        "output_folder": str(folder),
        "output_format": "files",
        "processes_count": processes,
        "thread_count": max(1, workers // processes),
        "number_sample_per_shard": -(-images // processes),
        **options,
    }
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(
        [python, "-c", _PEER_SCRIPT, json.dumps(told)], capture_output=True, text=True, check=False, env=environment
    )
    written = len(list(folder.rglob("*.jpg")))
    if done.returncode != 0 or written != images:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"img2dataset wrote {written} of {images} images (exit {done.returncode}): {reason}")


# --- the report -------------------------------------------------------------------------------------------------------


def medians(downloads: Sequence[Download]) -> dict[str, float]:
    """Return the median seconds of each candidate, in the order of the candidates."""
    seconds: dict[str, list[float]] = {}
    for each in downloads:
        seconds.setdefault(each.name, []).append(each.served.seconds)
    return {name: statistics.median(found) for name, found in seconds.items()}


def whole_seconds(whole: Measured) -> float:
    """Return the seconds of a whole collection, without what only a first start has."""
    return sum(stage.seconds for stage in whole.stages if stage.name != START)


def targets(downloads: Sequence[Download], whole: Measured) -> list[str]:
    """Return a line for each figure that was set as a target, both side by side."""
    ours, *peers = medians(downloads).items()
    cpu = sum(stage.cpu_seconds for stage in whole.stages if stage.name != START)
    return [
        *(f"downloads alone beside {name}: {seconds / ours[1]:.2f}× as fast; asked for: 1×" for name, seconds in peers),
        f"a whole collection of {whole.images} images: {whole_seconds(whole):.1f} s ({cpu:.1f} s of processors); "
        f"asked for: {_TARGET_SECONDS} s",
        f"peak memory of its process: {whole.peak_mb:.0f} MB; asked for: {_TARGET_MB} MB",
    ]


def _write(
    folder: Path,
    downloads: Sequence[Download],
    whole: Measured,
    while_whole: Served,
    with_peer: bool,
    record: dict[str, Any],
) -> dict[str, Path]:
    found = medians(downloads)
    download_rows = [
        {
            "candidate": each.name,
            "seconds": round(each.served.seconds, 3),
            "images_per_s": round(each.served.pictures / max(each.served.seconds, 1e-9), 1),
            "process_s": round(each.process_seconds, 2),
            "server_cpu_s": round(each.served.cpu_seconds, 3),
            "connections": each.served.connections,
            "note": each.note,
            **record,
        }
        for each in downloads
    ]
    stage_rows = [
        {"stage": stage.name, "seconds": round(stage.seconds, 2), "cpu_s": round(stage.cpu_seconds, 2), **record}
        for stage in whole.stages
    ]
    lines = [
        "# Speed of collecting",
        "",
        f"{record['images']} images from a server of this machine, {record['cores']} cores of {record['processor']}; "
        f"load average {record['load_before']} before and {record['load_after']} after.",
        "",
        *(f"- {line}" for line in targets(downloads, whole)),
        *([] if with_peer else ["- img2dataset was left out: benchmark.img2dataset names no environment"]),
        "",
        "## Downloads alone, median on the server's clock",
        "",
        markdown_table(
            ["candidate", "seconds", "beside ours"],
            [[name, f"{seconds:.2f}", f"{seconds / found[OURS]:.2f}"] for name, seconds in found.items()],
        ),
        "",
        "## A whole collection",
        "",
        markdown_table(
            ["stage", "seconds", "of processors"],
            [[stage.name, f"{stage.seconds:.1f}", f"{stage.cpu_seconds:.1f}"] for stage in whole.stages],
        ),
        "",
        f"The server took {while_whole.cpu_seconds:.1f} s of processors beside it.",
    ]
    table = folder / "summary.md"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(table.read_text(encoding="utf-8") + "\n")
    return {
        "downloads": write_csv(folder / "downloads.csv", download_rows),
        "stages": write_csv(folder / "stages.csv", stage_rows),
        "table": table,
    }


def _load_average() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "unknown"


def _progress(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
