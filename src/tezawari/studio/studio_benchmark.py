"""``evaluate.py benchmark=studio``: how fast the page of a thousand images is, and what annotators can lose."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import io
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.found import Fetched, FoundImage
from tezawari.collect.store import open_store
from tezawari.core.browser import chromium
from tezawari.core.errors import UserError
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines, tell
from tezawari.core.runs import measured_here
from tezawari.core.tables import markdown_table, write_csv

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = "studio"
WORD = "ざらざら"
_VIEWPORT = (1440, 900)
_SIZE = (640, 480)
_PATIENCE = 300.0
_TARGET_SCREEN, _TARGET_TASK, _TARGET_ACK = 1.0, 50, 50
_SCROLL = 80  # px a frame, about what a turning wheel does

# From navigation to the frame after the one in which every image of the first screen is there. Long tasks are noted
# from the beginning.
_INIT = """
window.tasks = [];
new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({ type: "longtask", buffered: true });
window.painted = new Promise((resolve) => {
  const look = () => {
    const grid = document.querySelector(".grid");
    const box = grid?.getBoundingClientRect();
    const cells = [...(grid?.querySelectorAll(".cell") ?? [])].filter((cell) => {
      const { top, bottom } = cell.getBoundingClientRect();
      return !cell.hidden && bottom > box.top && top < box.bottom;
    });
    const images = cells.map((cell) => cell.querySelector("img"));
    if (images.length && images.every((image) => image.complete && image.naturalWidth)) {
      requestAnimationFrame(() => resolve([performance.now() / 1000, images.length]));
    } else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
});
"""
_SCROLL_ALL = """async (step) => {
  const grid = document.querySelector(".grid");
  tasks.length = 0;
  let nodes = 0;
  for (let before = -1; grid.scrollTop !== before; ) {
    before = grid.scrollTop;
    grid.scrollTop += step;
    await new Promise(requestAnimationFrame);
    nodes = Math.max(nodes, grid.querySelectorAll(".cell").length);
  }
  const last = Math.max(...[...grid.querySelectorAll(".cell:not([hidden])")].map((cell) => Number(cell.dataset.index)));
  await new Promise((resolve) => setTimeout(resolve, 200));
  return { tasks: [...tasks], nodes, last };
}"""


@dataclass
class Measured:
    """What was measured: seconds, milliseconds, and counts."""

    first_ever: float = 0.0
    """Seconds to the first screen where the thumbnails had to be drawn first."""
    cold: list[float] = field(default_factory=list)
    """Seconds to the first screen of browsers that knew nothing of the page."""
    warm: list[float] = field(default_factory=list)
    """The same of browsers that had been there before."""
    screen: int = 0
    """Thumbnails of a first screen."""
    long_tasks: list[float] = field(default_factory=list)
    """Milliseconds of each task over 50 ms while all images were scrolled through, all visits together."""
    scrolls: int = 0
    nodes: int = 0
    """The most elements of thumbnails at any time."""
    acknowledged: list[float] = field(default_factory=list)
    """Milliseconds from each annotation to its acknowledgement, all writers together."""
    kills: int = 0
    before_kills: int = 0
    """Annotations that were acknowledged by servers which were then killed."""
    lost: int = 0


def benchmark_studio(
    output_dir: str,
    images: Annotated[int, Field(ge=100, le=1000)],
    loads: PositiveInt,
    writers: PositiveInt,
    annotations: PositiveInt,
    kills: NonNegativeInt,
    seed: NonNegativeInt,
) -> dict[str, Path]:
    """Drive a studio of its own, with a set of made images in a folder of its own, and measure its page Annotate.

    The page is opened in headless Chromium, each time by a fresh browser and then again by the same one; its seconds
    count from navigation to the frame after the one in which every visible thumbnail is there. Then all images are
    scrolled through, 80 px a frame, while Chromium notes long tasks. Then writers annotate at once, each as fast as it
    is answered: clients of one connection each, in threads of this process, which shares the machine with the server.
    At last the server is killed (SIGKILL) again and again while they write, and what it had acknowledged is looked up
    in its database: a verdict counts as lost where the last one that was acknowledged of an image is not there.

    The server is the one of ``tezawari studio`` but for the worker that loads networks for pictures beforehand.

    Args:
        output_dir: the files go to its folder ``studio``.
        images: of the set.
        loads: visits of fresh browsers.
        writers: people who annotate at once.
        annotations: of each of them.
        kills: of the server; 0 leaves them out.
        seed: of the images and of what is annotated.

    Returns:
        Name → file: ``summary`` (a row a figure), ``table``, ``figure``.

    Raises:
        UserError: Chromium, or a package, is not installed; a studio that does not start.
    """
    began = time.monotonic()
    load = _load_average()
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UserError(f"the studio needs {' and '.join(missing)}: pip install 'tezawari[studio]'")
    require_matplotlib()
    measured = Measured()
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        store = Path(scratch) / "store"
        with chromium() as browser:
            names = fill_store(store, images, seed)
            with running(store) as server:
                for number in range(1, loads + 1):
                    tell(f"the page, {number} of {loads}")
                    _visit(browser, server, images, measured)
        with running(store) as server:
            tell(f"{writers} writers")
            measured.acknowledged = _write_at_once(server, names, writers, annotations, seed)
        progress = progress_lines("the server is killed", "times")
        for number in range(kills):
            acknowledged, lost = kill_once(store, names, writers, np.random.default_rng([seed, number]))
            measured.kills += 1
            measured.before_kills += acknowledged
            measured.lost += lost
            progress(number + 1, kills)
    record = {
        "images": images,
        "writers": writers,
        "load_before": load,
        "load_after": _load_average(),
        **measured_here(seed, time.monotonic() - began),
    }
    return _write(Path(output_dir) / FOLDER, measured, record)


# --- a studio to measure ----------------------------------------------------------------------------------------------


def fill_store(folder: Path, count: int, seed: int) -> list[str]:
    """Store made pictures for a word, with two rankings; return their names, SHA-256."""
    progress = progress_lines("making pictures", "pictures")
    with open_store(folder) as store:
        query = store.begin_query(WORD, "made", "ja", count)
        finds = [FoundImage(f"https://images.example/{place}.jpg", "made", place) for place in range(1, count + 1)]
        store.add_found(query, finds)
        store.mark_exhausted(query)
        names = []
        for find, found in store.waiting(WORD):
            content = _picture(np.random.default_rng([seed, found.position]))
            names.append(hashlib.sha256(content).hexdigest())
            fetched = Fetched(content, names[-1], "jpg", *_SIZE, found.image_url)
            store.keep(find, fetched, perceptual_hash(content))
            progress(len(names), count)
        passes = [sorted(((name, int(name[at : at + 8], 16) / 2**32) for name in names), key=_score) for at in (0, 8)]
        store.save_rankings(WORD, "efficientnet_lite0/blocks.3", passes)
    return names


def _picture(random: np.random.Generator) -> bytes:
    """Return a JPEG of coarse and fine colours, about as many bytes as a photo of its size. [ours]"""
    coarse, fine = (
        Image.fromarray(random.integers(0, 256, (*cells, 3), np.uint8)).resize(_SIZE, Image.Resampling.BICUBIC)
        for cells in ((9, 12), (120, 160))
    )
    stream = io.BytesIO()
    Image.blend(coarse, fine, 0.3).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _score(ranked: tuple[str, float]) -> float:
    return -ranked[1]


@dataclass(frozen=True)
class Server:
    """A studio's port and process."""

    port: int
    process: BaseProcess

    @property
    def url(self) -> str:
        """Where browsers find it."""
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def running(store: Path) -> Iterator[Server]:
    """Serve a store in a process of its own until the block is left, or somebody kills it."""
    # Forks of a process that has loaded the studio, and computed nothing, start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tezawari.studio.app"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = context.Process(target=_serve, args=(store, port))
    process.start()
    try:
        _wait(port, process)
        yield Server(port, process)
    finally:
        process.terminate()
        process.join(10)
        process.kill()
        process.join()


def _serve(store: Path, port: int) -> None:
    from tezawari.studio import state, studio_command

    state.LANES = {name: replace(lane, ready=False) for name, lane in state.LANES.items()}
    parser = argparse.ArgumentParser()
    studio_command.add_arguments(parser)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        studio_command.run(parser.parse_args(["--store", str(store), "--port", str(port)]))
    os._exit(0)  # without what the process that it was forked from would do at its end


def _wait(port: int, process: BaseProcess) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.is_alive():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.02)
    raise UserError("the studio did not start: try `tezawari studio --port 0` to see why")


# --- the page ---------------------------------------------------------------------------------------------------------


def _visit(browser: Browser, server: Server, images: int, measured: Measured) -> None:
    from tezawari.studio.state import word_id

    address = f"{server.url}#/annotate/{word_id(WORD)}"
    width, height = _VIEWPORT
    context = browser.new_context(viewport={"width": width, "height": height}, locale="en-GB")
    try:
        context.set_default_timeout(1000 * _PATIENCE)
        context.add_init_script(_INIT)
        page = context.new_page()
        seconds, screen = _open(page, address)
        if measured.scrolls == 0:
            measured.first_ever, measured.screen = seconds, screen
        else:
            measured.cold.append(seconds)
        measured.warm.append(_open(page, address)[0])
        found = page.evaluate(_SCROLL_ALL, _SCROLL)
        if found["last"] != images - 1:
            raise UserError(f"the page scrolled to image {found['last'] + 1} of {images} only")
        measured.long_tasks += found["tasks"]
        measured.nodes = max(measured.nodes, found["nodes"])
        measured.scrolls += 1
    finally:
        context.close()


def _open(page: Page, address: str) -> tuple[float, int]:
    page.goto("about:blank")
    page.goto(address)
    seconds, screen = page.evaluate("painted")
    return seconds, screen


# --- the writers ------------------------------------------------------------------------------------------------------


class _Annotator:
    """One person's connection; judges random images of the set."""

    def __init__(self, server: Server, name: str, images: Sequence[str], random: np.random.Generator) -> None:
        from tezawari.studio.safety import CSRF_HEADER
        from tezawari.studio.state import word_id

        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE)
        self._path = f"/api/sets/{word_id(WORD)}/judgements"
        self._headers = {CSRF_HEADER: "1", "Content-Type": "application/json"}
        self._images, self._random, self._name = images, random, name

    def choose(self) -> tuple[str, bool]:
        return self._images[int(self._random.integers(len(self._images)))], bool(self._random.integers(2))

    def say(self, image: str, verdict: bool) -> float:
        """Return the milliseconds to the acknowledgement; raises OSError or HTTPException where there is none."""
        body = json.dumps({"annotator": self._name, "verdicts": {image: verdict}})
        began = time.perf_counter()
        self._connection.request("POST", self._path, body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        milliseconds = 1000 * (time.perf_counter() - began)
        if answer.status != 200:
            raise UserError(f"an annotation was refused: {answer.status} {content[:200]!r}")
        return milliseconds


def _in_threads(work: Sequence[Callable[[], None]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    return threads


def _write_at_once(server: Server, names: Sequence[str], writers: int, annotations: int, seed: int) -> list[float]:
    times: list[float] = []

    def write(number: int) -> None:
        annotator = _Annotator(server, f"writer {number}", names, np.random.default_rng([seed, number]))
        times.extend([annotator.say(*annotator.choose()) for _ in range(annotations)])

    for thread in _in_threads([lambda number=number: write(number) for number in range(writers)]):  # type: ignore[misc]
        thread.join()
    if len(times) != writers * annotations:
        raise UserError("the studio did not answer every writer")
    return times


def kill_once(store: Path, names: Sequence[str], writers: int, random: np.random.Generator) -> tuple[int, int]:
    """Kill a server while people write, after a random number of acknowledgements; return how many, and how many lost.

    Lost are those verdicts of an annotator on an image that were the last to be acknowledged, and that the database
    does not hold; one that was sent after it and not answered may stand in its place.
    """
    known: list[dict[str, bool]] = [{} for _ in range(writers)]
    answers: list[int] = []
    enough = int(random.integers(1, 20 * writers))
    generators = random.spawn(writers)
    with running(store) as server:

        def write(number: int) -> None:
            annotator = _Annotator(server, f"writer {number}", names, generators[number])
            while True:
                image, verdict = annotator.choose()
                try:
                    annotator.say(image, verdict)
                except (OSError, http.client.HTTPException):
                    known[number].pop(image, None)
                    return
                known[number][image] = verdict
                answers.append(number)

        threads = _in_threads([lambda number=number: write(number) for number in range(writers)])  # type: ignore[misc]
        while len(answers) < enough and any(thread.is_alive() for thread in threads):
            time.sleep(0.001)
        server.process.kill()
        for thread in threads:
            thread.join()
    return len(answers), count_lost(store, {f"writer {number}": said for number, said in enumerate(known)})


def count_lost(store: Path, known: Mapping[str, Mapping[str, bool]]) -> int:
    """Return how many of the verdicts that annotators know of, by annotator and image, a store does not hold."""
    from tezawari.studio.database import Database
    from tezawari.studio.judgements import Judgements

    held = Judgements(Database(store)).of_word(WORD)
    return sum(
        held.get(annotator, {}).get(image) is not verdict
        for annotator, said in known.items()
        for image, verdict in said.items()
    )


# --- the report -------------------------------------------------------------------------------------------------------


def rows_of(measured: Measured) -> list[dict[str, Any]]:
    """Return a row a figure: what, its value and unit, what was asked for, and whether it is met."""
    acks = measured.acknowledged
    cold = measured.cold or [measured.first_ever]
    rows = [
        _row("first screen, thumbnails drawn by it", measured.first_ever, "s"),
        _row("first screen, fresh browser, median", statistics.median(cold), "s", _TARGET_SCREEN),
        _row("first screen, fresh browser, slowest", max(cold), "s"),
        _row("first screen, seen before, median", statistics.median(measured.warm), "s", _TARGET_SCREEN),
        _row("first screen, seen before, slowest", max(measured.warm), "s"),
        _row("thumbnails of a first screen", measured.screen, ""),
        # Chromium reports some that are a little shorter by its own figure.
        _row("tasks over 50 ms while scrolling", sum(task > _TARGET_TASK for task in measured.long_tasks), "", 0),
        _row("longest of them", max(measured.long_tasks, default=0), "ms"),
        _row("scrolls through all", measured.scrolls, ""),
        _row("elements of thumbnails kept", measured.nodes, ""),
        _row("acknowledgement, median", statistics.median(acks), "ms", _TARGET_ACK),
        _row("acknowledgement, 95 %", float(np.quantile(acks, 0.95)), "ms"),
        _row("acknowledgement, slowest", max(acks), "ms"),
        _row("annotations acknowledged", len(acks), ""),
    ]
    if measured.kills:
        rows += [
            _row("kills of the server", measured.kills, ""),
            _row("acknowledged before them", measured.before_kills, ""),
            _row("acknowledged and lost", measured.lost, "", 0),
        ]
    return rows


def _row(what: str, value: float, unit: str, most: float | None = None) -> dict[str, Any]:
    met = "" if most is None else value <= most
    return {"what": what, "value": round(value, 3), "unit": unit, "asked": "" if most is None else most, "met": met}


def _write(folder: Path, measured: Measured, record: dict[str, Any]) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(measured)
    files = {
        "summary": write_csv(folder / "summary.csv", [{**row, **record} for row in rows]),
        "table": folder / "summary.md",
        "figure": _draw(measured, folder / "figure.png"),
    }
    lines = [
        "# The studio with a thousand images"
        if record["images"] == 1000
        else f"# The studio, {record['images']} images",
        "",
        f"Headless Chromium of {_VIEWPORT[0]} × {_VIEWPORT[1]} px and {record['writers']} writers on the machine that "
        f"serves: {record['cores']} cores of {record['processor']}; load average {record['load_before']} before and "
        f"{record['load_after']} after.",
        "",
        markdown_table(
            ["what", "measured", "asked for"],
            [[row["what"], f"{row['value']:g} {row['unit']}".strip(), _asked(row)] for row in rows],
        ),
    ]
    files["table"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


def _asked(row: Mapping[str, Any]) -> str:
    if row["asked"] == "":
        return ""
    bound = "none" if row["asked"] == 0 else f"under {row['asked']:g} {row['unit']}"
    return bound if row["met"] else f"{bound}: missed"


def _draw(measured: Measured, path: Path) -> Path:
    """Draw every visit's seconds, and the share of annotations acknowledged by each millisecond."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    screens, acks = figure.subplots(1, 2)
    for name, values, marker in (("fresh browser", measured.cold, "o"), ("seen before", measured.warm, "s")):
        screens.plot(range(1, len(values) + 1), values, marker, label=name, markersize=5)
    screens.axhline(_TARGET_SCREEN, color="0.5", linestyle="--", label="asked for")
    screens.set(xlabel="visit", ylabel="seconds to the first screen", ylim=(0, None))
    screens.legend()
    times = np.sort(measured.acknowledged)
    acks.plot(times, np.arange(1, len(times) + 1) / len(times))
    acks.axvline(_TARGET_ACK, color="0.5", linestyle="--")
    acks.axhline(0.5, color="0.8", linewidth=1)
    acks.set(xlabel="milliseconds to the acknowledgement", ylabel="share of annotations", xlim=(0, None), ylim=(0, 1))
    for axes in (screens, acks):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def _load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"
