"""What the routes of one running studio share."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request

from tezawari.collect.sources import APIS, open_source
from tezawari.collect.store import DATABASE_NAME, RankedPass, Store, StoredImage, open_store
from tezawari.core.errors import UserError
from tezawari.studio.database import Database
from tezawari.studio.job_work import FOLDER_SOURCE, Settings, open_work
from tezawari.studio.jobs import Jobs, Lane
from tezawari.studio.judgements import Judgements
from tezawari.studio.safety import Safety
from tezawari.studio.uploads import Uploads
from tezawari.style.stylize import Stylizer

log = logging.getLogger(__name__)

# Pictures are waited for by somebody who looks at the page, so they never wait behind an hour of collecting.
LANES = {
    "pictures": Lane(("restyle", "styles", "segment", "bot", "swap"), ready=True),
    "sets": Lane(("collect", "rank", "pack", "measure"), niceness=5),
}
_MOST_JOBS = 12
_MIRROR_SECONDS = 2.0


@dataclass(frozen=True)
class SetView:
    """A word's images and rankings as they were read together."""

    word: str
    images: dict[str, StoredImage]
    passes: list[RankedPass]


class Studio:
    """The parts of a studio; made before the server starts, so that a wrong argument is told at once.

    Raises:
        UserError: a network that cannot be read, a folder that is not there, a store that cannot be used.
    """

    def __init__(self, settings: Settings, safety: Safety, most_jobs: int = _MOST_JOBS) -> None:
        if settings.folder is not None and not settings.folder.is_dir():
            raise UserError(f"--folder {settings.folder}: there is no such folder")
        self.settings = settings
        self.safety = safety
        self.style_names = Stylizer.load(settings.checkpoint).style_names
        self.class_names, self.methods = _segmenter(settings.segmenter)
        self.sources = _sources(settings.folder)
        self.store: Store = open_store(settings.store)
        self.database = Database(settings.store)
        self.uploads = Uploads(self.database)
        self.judgements = Judgements(self.database)
        self.jobs = Jobs(self.database, open_work, settings, LANES, most_jobs)
        self.mirror = _Mirror(self.judgements, self.store)
        self._known_words: dict[str, str] = {}
        self._views: dict[str, tuple[object, SetView]] = {}
        self._reading = threading.Lock()  # or all who come first would read the same word, each as slowly as all

    def start(self) -> None:
        """Begin to work."""
        self.uploads.sweep()
        self.jobs.start()
        self.mirror.start()

    def close(self) -> None:
        """Stop working; what is under way is begun again by the next start."""
        self.jobs.close()
        self.mirror.close()
        self.store.close()

    def words(self) -> dict[str, str]:
        """Return all words of the store by their ids."""
        return {word_id(word): word for word in self.store.words()}

    def word(self, identity: str) -> str:
        """Return the word of an id; raises 404 for an id that is none."""
        if identity not in self._known_words:  # a store keeps every word that it had once
            self._known_words = self.words()
        word = self._known_words.get(identity)
        if word is None:
            raise HTTPException(404, "there is no such set")
        return word

    def view(self, word: str) -> SetView:
        """Return a word's images and rankings, read again only where the store has changed."""
        with self._reading:
            version = self._store_version()
            known = self._views.get(word)
            if known is not None and known[0] == version:
                return known[1]
            images, passes = self.store.images_and_rankings(word)
            view = SetView(word, {image.sha256: image for image in images}, passes)
            self._views[word] = (version, view)
            return view

    def glance(self, word: str) -> SetView:
        """Return a word's images and rankings as they were read last, for what need not be of this moment.

        A large word takes a tenth of a second to read, and every note that the store is given is a change.
        """
        known = self._views.get(word)
        return self.view(word) if known is None else known[1]

    def view_with(self, word: str, images: Collection[str]) -> SetView:
        """Return a view that holds ``images``, if there is one: an image that a word had once it keeps."""
        glance = self.glance(word)
        return glance if all(image in glance.images for image in images) else self.view(word)

    def hidden(self) -> set[str]:
        """Return the words whose sets were put away."""
        return {row["word"] for row in self.database.reading().execute("SELECT word FROM hidden")}

    def hide(self, word: str, away: bool) -> None:
        """Put a set away, or take it back out."""
        with self.database.writing() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO hidden VALUES (?)" if away else "DELETE FROM hidden WHERE word = ?", (word,)
            )

    def _store_version(self) -> object:
        file = self.settings.store / DATABASE_NAME
        version = []
        for path in (file, file.with_name(f"{file.name}-wal")):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                version.append((status.st_mtime_ns, status.st_size))
        return version


class _Mirror:
    """A thread that gives the store what annotators agree on once they pause: it is too slow to wait for."""

    def __init__(self, judgements: Judgements, store: Store) -> None:
        self._judgements = judgements
        self._store = store
        self._changed: dict[str, float] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tezawari-mirror", daemon=True)

    def start(self) -> None:
        for word in self._judgements.words():  # a server that was killed may have been behind
            self.add(word)
        self._thread.start()

    def add(self, word: str) -> None:
        with self._lock:
            self._changed[word] = time.monotonic()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closing.wait(_MIRROR_SECONDS)
            for word in self._take(0.0 if last else _MIRROR_SECONDS):
                try:
                    self._judgements.mirror(self._store, word)
                except UserError as error:
                    log.warning("what was said of %s is not in the store yet: %s", word, error)

    def _take(self, quiet_seconds: float) -> list[str]:
        before = time.monotonic() - quiet_seconds
        with self._lock:
            words = [word for word, changed in self._changed.items() if changed <= before]
            for word in words:
                del self._changed[word]
        return words


async def studio_of(request: Request) -> Studio:
    """Return the studio that a request was sent to, for routes that depend on it; async, or a thread would do it."""
    studio: Studio = request.app.state.studio
    return studio


def word_id(word: str) -> str:
    """Return the id of a word: sixteen digits of its SHA-256."""
    return hashlib.sha256(word.encode()).hexdigest()[:16]


def _segmenter(checkpoint: Path | None) -> tuple[list[str], list[str]]:
    """Return the classes and the methods of the segmenter, none where there is none."""
    if checkpoint is None:
        return [], []
    # Here: they load for seconds, and most studios have none.
    from tezawari.segmentation.package import load_any
    from tezawari.segmentation.saliency import METHODS
    from tezawari.segmentation.segmenter import Segmenter

    trained = load_any(checkpoint)
    # A segmenter has one way of its own; the name of a method is asked for, and of no matter.
    methods: list[str] = [METHODS[-1]] if isinstance(trained.network, Segmenter) else list(METHODS)
    return list(trained.class_names), methods


def _sources(folder: Path | None) -> dict[str, str | None]:
    """Return, by its name, what keeps each source from being asked, None for those that are ready."""
    sources: dict[str, str | None] = {} if folder is None else {FOLDER_SOURCE: None}
    for name in APIS:
        try:
            open_source(name)
        except UserError as error:
            sources[name] = str(error)
        else:
            sources[name] = None
    return sources
