"""Long work in processes of its own: a bounded queue on disk, progress, cancelling, and going on after a restart.

A job is written down before it is acknowledged. Each lane has one worker process, which is kept between jobs because
loading networks takes longer than using them; a lane's jobs run one after the other, in the order they came. What a
server was doing when it stopped, it begins again when it starts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import secrets
import shutil
import signal
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tezawari.core.errors import UserError
from tezawari.studio.database import Database

log = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""Called by work with its phase, things done and things in all; raises where the job is cancelled."""

Work = Callable[[str, dict[str, Any], Path, Report], dict[str, Any]]
"""Does a job of a kind: takes the kind, the request and a folder for files, and returns the result as plain values."""

OpenWork = Callable[[Any], Work]
"""Makes :data:`Work` of the settings, in the worker process; a function of a module, so that it can be sent there."""

RESULTS = "results"

_POLL_SECONDS = 0.1
_WRITE_SECONDS = 0.5
_PAUSE_SECONDS = 2.0
_GRACE_SECONDS = 2.0
_MOST_STARTS = 3
_KEPT_JOBS = 200

_spawn = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Lane:
    """The kinds of jobs that wait for each other.

    Their process gives way to others by ``niceness``, and is begun with the server where it is ``ready``.
    """

    kinds: tuple[str, ...]
    niceness: int = 0
    ready: bool = False


class BusyError(Exception):
    """The queue is full."""


class CancelledError(Exception):
    """The job that is running is no longer wanted."""


@dataclass(frozen=True)
class Job:
    """A job as it stands: ``state`` is queued, running, done, failed or cancelled.

    ``done`` of ``total`` things of ``phase`` are done; ``result`` is what a done job made, ``error`` says in a line
    why a failed one did not.
    """

    id: str
    kind: str
    request: dict[str, Any]
    state: str
    phase: str
    done: int
    total: int
    result: dict[str, Any] | None
    error: str | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ("done", "failed", "cancelled")


class Jobs:
    """The queue of a studio.

    Args:
        database: where jobs are written down.
        open_work: makes what does them.
        settings: its argument, plain values or what else can be sent to a process.
        lanes: by their names.
        most: the most jobs of a lane that wait or run.
    """

    def __init__(
        self, database: Database, open_work: OpenWork, settings: Any, lanes: Mapping[str, Lane], most: int
    ) -> None:
        self._database = database
        self._most = most
        self._lane_of = {kind: name for name, lane in lanes.items() for kind in lane.kinds}
        self._recover()
        self._lanes = {name: _Feeder(database, name, lane, open_work, settings) for name, lane in lanes.items()}

    def start(self) -> None:
        """Begin to work."""
        for lane in self._lanes.values():
            lane.start()

    def close(self) -> None:
        """Stop; jobs that run are begun again by the next start."""
        for lane in self._lanes.values():
            lane.close()

    def submit(self, kind: str, request: dict[str, Any]) -> Job:
        """Write down a job and return it.

        Raises:
            BusyError: as many jobs as the lane holds are waiting or running.
        """
        lane, identity = self._lane_of[kind], secrets.token_hex(16)
        with self._database.writing() as connection:
            (waiting,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE lane = ? AND state IN ('queued', 'running')", (lane,)
            ).fetchone()
            if waiting >= self._most:
                raise BusyError
            connection.execute(
                "INSERT INTO jobs (id, kind, lane, request, state) VALUES (?, ?, ?, ?, 'queued')",
                (identity, kind, lane, json.dumps(request)),
            )
        self._lanes[lane].wake()
        self._forget_old()
        found = self.find(identity)
        assert found is not None
        return found

    def find(self, identity: str) -> Job | None:
        """Return a job by its id, or None."""
        row = self._database.reading().execute("SELECT * FROM jobs WHERE id = ?", (identity,)).fetchone()
        return None if row is None else _job(row)

    def recent(self, count: int = 30) -> list[Job]:
        """Return the last jobs, the newest first."""
        rows = self._database.reading().execute("SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (count,))
        return [_job(row) for row in rows]

    def cancel(self, identity: str) -> None:
        """Take a job out of the queue, or stop it; one that is over stays as it is."""
        with self._database.writing() as connection:
            connection.execute("UPDATE jobs SET state = 'cancelled' WHERE id = ? AND state = 'queued'", (identity,))
        for lane in self._lanes.values():
            lane.cancel(identity)

    def results(self, identity: str) -> Path:
        """Return the folder of the files that a job of this queue made."""
        return self._database.folder / RESULTS / identity

    def _recover(self) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET state = 'failed', error = ? WHERE state = 'running' AND starts >= ?",
                (f"the studio ended {_MOST_STARTS} times while this ran: it is not begun again", _MOST_STARTS),
            )
            connection.execute("UPDATE jobs SET state = 'queued', done = 0, total = 0 WHERE state = 'running'")

    def _forget_old(self) -> None:
        with self._database.writing() as connection:
            rows = connection.execute(
                "DELETE FROM jobs WHERE state NOT IN ('queued', 'running') AND number <="
                " (SELECT max(number) FROM jobs) - ? RETURNING id",
                (_KEPT_JOBS,),
            ).fetchall()
        for row in rows:
            shutil.rmtree(self.results(row["id"]), ignore_errors=True)


class _Feeder:
    """The thread that feeds the worker process of a lane."""

    def __init__(self, database: Database, name: str, lane: Lane, open_work: OpenWork, settings: Any) -> None:
        self._database = database
        self._name = name
        self._lane = lane
        self._open_work = open_work
        self._settings = settings
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._cancelled: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=f"tezawari-{name}", daemon=True)
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def cancel(self, identity: str) -> None:
        self._cancelled.add(identity)

    def close(self) -> None:
        self._closing.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join()
        self._end_process()

    def _run(self) -> None:
        if self._lane.ready:
            self._worker()
        while not self._closing.is_set():
            self._woken.clear()
            row = None
            try:
                row = self._claim()
                if row is None:
                    self._woken.wait()
                    self._cancelled.clear()
                else:
                    self._do(row["id"], row["kind"], json.loads(row["request"]))
            except Exception:  # of one job or one moment (a full disk), which must not end the lane
                log.exception("the lane %s", self._name)
                self._end_process()
                if row is not None:
                    with contextlib.suppress(sqlite3.Error):
                        self._finish(row["id"], "failed", error="the studio could not run it: its terminal says why")
                self._closing.wait(_PAUSE_SECONDS)

    def _claim(self) -> sqlite3.Row | None:
        with self._database.writing() as connection:
            row: sqlite3.Row | None = connection.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1 WHERE number ="
                " (SELECT min(number) FROM jobs WHERE lane = ? AND state = 'queued') RETURNING *",
                (self._name,),
            ).fetchone()
        return row

    def _do(self, identity: str, kind: str, request: dict[str, Any]) -> None:
        connection = self._worker()
        folder = self._database.folder / RESULTS / identity
        connection.send((kind, request, str(folder)))
        written, asked_to_stop = 0.0, None
        while not self._closing.is_set():
            if identity in self._cancelled and asked_to_stop is None:
                asked_to_stop = time.monotonic()
                with contextlib.suppress(OSError):
                    connection.send("cancel")
            if asked_to_stop is not None and time.monotonic() - asked_to_stop > _GRACE_SECONDS:
                self._end_process()
                self._finish(identity, "cancelled")
                return
            try:
                if not connection.poll(_POLL_SECONDS):
                    continue
                what, *values = connection.recv()
            except (EOFError, OSError):
                self._end_process()
                state = "cancelled" if asked_to_stop is not None else "failed"
                self._finish(identity, state, error="its process ended: perhaps the machine's memory is too small")
                return
            if what == "progress":
                phase, done, total = values
                if done >= total or time.monotonic() - written > _WRITE_SECONDS:
                    written = time.monotonic()
                    self._note(identity, phase, done, total)
                continue
            if what == "done":
                self._finish(identity, "done", result=values[0])
            else:
                self._finish(identity, what, error=values[0])
            return

    def _note(self, identity: str, phase: str, done: int, total: int) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET phase = ?, done = ?, total = ? WHERE id = ?", (phase, done, total, identity)
            )

    def _finish(
        self, identity: str, state: str, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        self._cancelled.discard(identity)
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE jobs SET state = ?, result = ?, error = ? WHERE id = ?",
                (state, json.dumps(result), error if state == "failed" else None, identity),
            )

    def _worker(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._connection is None:
            self._end_process()
            self._connection, theirs = _spawn.Pipe()
            self._process = _spawn.Process(
                target=_serve,
                args=(theirs, self._lane.niceness, self._open_work, self._settings),
                name=f"tezawari-{self._name}",
            )
            self._process.daemon = True
            self._process.start()
            theirs.close()
        return self._connection

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _serve(connection: Connection, niceness: int, open_work: OpenWork, settings: Any) -> None:
    """Do jobs until the server is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the server, which ends this process itself
    os.nice(niceness)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work = open_work(settings)

    def report(phase: str, done: int, total: int) -> None:
        if connection.poll():
            connection.recv()
            raise CancelledError
        connection.send(("progress", phase, done, total))

    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        if asked == "cancel":  # of a job that was over by then
            continue
        kind, request, folder = asked
        connection.send(_outcome(work, kind, request, Path(folder), report))


def _outcome(work: Work, kind: str, request: dict[str, Any], folder: Path, report: Report) -> tuple[str, Any]:
    try:
        return "done", work(kind, request, folder, report)
    except CancelledError:
        return "cancelled", None
    except UserError as error:
        return "failed", " ".join(str(error).split())
    except Exception as error:
        traceback.print_exc()
        return "failed", f"an error of the studio itself ({type(error).__name__}): its terminal has the details"


def _end_with_parent() -> None:
    # A server that was killed cannot end its workers, and the next one begins the same jobs again.
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _job(row: sqlite3.Row) -> Job:
    return Job(
        id=row["id"],
        kind=row["kind"],
        request=json.loads(row["request"]),
        state=row["state"],
        phase=row["phase"],
        done=row["done"],
        total=row["total"],
        result=None if row["result"] is None else json.loads(row["result"]),
        error=row["error"],
    )
