"""The studio's own SQLite file: jobs, photos, judgements and hidden sets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from tezawari.core.errors import UserError, describe_os_error

FOLDER = "studio"
_FILE = "studio.sqlite"
_WAIT_SECONDS = 10.0

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    lane TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,
    phase TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    error TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE TABLE IF NOT EXISTS photos (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    file TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS maps (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    photo TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    batch TEXT NOT NULL,
    word TEXT NOT NULL,
    image TEXT NOT NULL,
    annotator TEXT NOT NULL,
    verdict INTEGER,
    before INTEGER,
    state TEXT NOT NULL DEFAULT 'done'
);
CREATE INDEX IF NOT EXISTS changes_by_word ON changes (word, seq);
CREATE TABLE IF NOT EXISTS judgements (
    word TEXT NOT NULL,
    image TEXT NOT NULL,
    annotator TEXT NOT NULL,
    verdict INTEGER NOT NULL,
    PRIMARY KEY (word, image, annotator)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hidden (word TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Database:
    """One connection a thread to the studio's SQLite file in the folder of a store, in WAL; safe to use in threads."""

    def __init__(self, store_folder: Path) -> None:
        self.folder = store_folder / FOLDER
        self._local = threading.local()
        self._writing = threading.Lock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.reading().executescript(_TABLES)
        except OSError as error:
            raise UserError(
                f"the studio's folder {self.folder} cannot be made: {describe_os_error(error)}; "
                "name another store by --store"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{self.folder / _FILE} cannot be used ({error}): name another store by --store") from error

    def reading(self) -> sqlite3.Connection:
        """Return this thread's connection, in which every statement is its own transaction."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.folder / _FILE, timeout=_WAIT_SECONDS, isolation_level=None)
            connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
                connection.execute(f"PRAGMA {pragma}")
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Hold one transaction: all of it is on disk when the block is left, or, after an exception, none."""
        with self._writing:
            connection = self.reading()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()


@contextlib.contextmanager
def alone(store_folder: Path) -> Iterator[None]:
    """Hold the lock of a store's studio; raises :class:`UserError` where another studio has it."""
    folder = store_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UserError(
            f"another studio uses the store {store_folder}: open that one, or name another folder by --store"
        ) from None
    try:
        yield
    finally:
        os.close(handle)
