"""The store of a collection: images by their content on disk, and a database of where each came from.

Every change is one transaction, and an image is on disk, whole, before the database says so. Whatever stops the
process, the next one finds what was done done and the rest waiting.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
import unicodedata
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Engine, Update, create_engine, delete, event, insert, inspect, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlmodel import Session, col, select

from tezawari.collect.duplicates import near_duplicates
from tezawari.collect.found import Fetched, FoundImage, Reason, Refused
from tezawari.collect.schema import (
    SCHEMA_VERSION,
    Address,
    Annotation,
    Find,
    Image,
    Query,
    Ranking,
    SchemaVersion,
    Table,
    Word,
)
from tezawari.core.errors import UserError, describe_os_error, did_you_mean
from tezawari.core.files import written_aside

DEFAULT_FOLDER = Path("collected")
DATABASE_NAME = "store.sqlite"

_FINDS_AT_ONCE = 100
_ATTEMPTS = 5
# A file that is still being written after this long was left by a process that is gone.
_ABANDONED_SECONDS = 3600
_LONGEST_SHOWN = 40

T = TypeVar("T")


@dataclass(frozen=True)
class StoredImage:
    """An image of a word: its file, and the best-placed find that led to it.

    ``duplicates`` are the SHA-256 of images further down the search that nearly duplicate it.
    """

    sha256: str
    path: Path
    width: int
    height: int
    bytes: int
    perceptual_hash: str | None
    found: FoundImage
    duplicates: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """An image whose file is in the store, and what the database does not yet say of it."""

    sha256: str
    extension: str
    width: int
    height: int
    bytes: int
    perceptual_hash: str | None


@dataclass(frozen=True)
class RankedPass:
    """One pass of re-ranking a word's images: SHA-256 and score of each, best first."""

    number: int
    features: str
    scores: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """What became of a word's finds, counted by URL: ``found`` = ``waiting`` + ``fetched`` + all ``refused``.

    ``fetched`` = ``images`` + ``exact_duplicates`` (URLs that gave bytes already there) + ``near_duplicates``.
    """

    found: int
    waiting: int
    fetched: int
    refused: dict[Reason, int]
    exact_duplicates: int
    near_duplicates: int
    images: int


def open_store(
    folder: Path, database_url: str | None = None, *, create: bool = True, wait_seconds: float = 10.0
) -> Store:
    """Open the store in ``folder``, making it where there is none yet.

    Args:
        folder: holds ``images/`` and, without ``database_url``, the SQLite database ``store.sqlite``.
        database_url: of another database, as SQLAlchemy writes it: ``postgresql+psycopg://user@host/name``.
        create: False: a store that is not there is an error.
        wait_seconds: how long to wait for another process that is writing to the SQLite database.

    Raises:
        UserError: there is no such store, its tables are of a newer version, or the database cannot be used.
    """
    folder = folder.expanduser()
    file = folder / DATABASE_NAME
    if not create and not (file.is_file() if database_url is None else folder.is_dir()):
        raise UserError(f"there is no store {folder}: tezawari collect WORD --store {folder} makes one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the store {folder} cannot be made: {describe_os_error(error)}; name another folder by --store"
        ) from error
    engine = _sqlite_engine(file, wait_seconds) if database_url is None else _engine(database_url)
    store = Store(folder, engine)
    try:
        store.prepare()
    except BaseException:
        store.close()
        raise
    return store


class Store:
    """Words, searches, finds, images, rankings and annotations; made by :func:`open_store`, safe to use in threads.

    Methods that take a word take it in any Unicode normalisation, and raise :class:`UserError` for one that the store
    does not hold. All of them raise it where the database is locked for too long, full, damaged or not to be reached.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder
        self._engine = engine
        self._writing = threading.Lock()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def prepare(self) -> None:
        """Make the tables where there are none; raises :class:`UserError` for tables of a newer version."""
        if self._read(_schema_version) is None:
            self._write(_make_tables)
        version = self._read(_schema_version)
        if version is not None and version > SCHEMA_VERSION:
            raise UserError(
                f"the store {self.folder} was written by a newer tezawari (its tables are of version {version}, this "
                f"one knows {SCHEMA_VERSION}): update tezawari, or name another folder by --store"
            )
        _remove_abandoned(self.folder / "writing")

    # --- searching ----------------------------------------------------------------------------------------------------

    def begin_query(self, word: str, source: str, language: str, limit: int) -> int:
        """Return the id of a search; the same one for the same arguments."""
        return self._write(partial(_begin_query, _normalised(word), source, language, limit))

    def is_exhausted(self, query: int) -> bool:
        """Say whether all results of a search are in the store."""
        return self._read(lambda session: session.get_one(Query, query).exhausted)

    def mark_exhausted(self, query: int) -> None:
        """Note that all results of a search are in the store."""

        def work(session: Session) -> None:
            session.get_one(Query, query).exhausted = True

        self._write(work)

    def add_found(self, query: int, found: Iterable[FoundImage]) -> int:
        """Store results of a search and return how many were new; a URL counts once in a query, where it came first.

        ``found`` is consumed as it comes, and what came is stored even where it then raises.
        """
        new = 0
        batch: list[FoundImage] = []

        def flush() -> int:
            added = self._write(partial(_add_found, query, list(batch))) if batch else 0
            batch.clear()
            return added

        try:
            for each in found:
                batch.append(each)
                if len(batch) == _FINDS_AT_ONCE:
                    new += flush()
        finally:
            new += flush()
        return new

    # --- fetching -----------------------------------------------------------------------------------------------------

    def waiting(self, word: str) -> list[tuple[int, FoundImage]]:
        """Return what is still to be fetched, in search order, each URL once, with the id of the find.

        An image whose file is gone or of another length (a power cut may take back what was written last) waits again.
        """
        result: dict[int | None, tuple[int, FoundImage]] = {}
        for row in self._rows(word):
            missing = row.image is not None and not _is_whole(self._path(row.image), row.image.bytes)
            if (row.address.status == "waiting" or missing) and row.address.id not in result:
                result[row.address.id] = (cast(int, row.find.id), row.found)
        return list(result.values())

    def keep(self, find: int, fetched: Fetched, perceptual_hash: str | None) -> None:
        """Store the image that a find led to: the file, then in one transaction what is known of it.

        Raises :class:`UserError` where the disk will not take it; the find then goes on waiting.
        """
        self.record([(find, self.write(fetched, perceptual_hash))])

    def refuse(self, find: int, refused: Refused) -> None:
        """Note why the image of a find was not taken, unless it was taken already."""
        self.record([(find, refused)])

    def write(self, fetched: Fetched, perceptual_hash: str | None) -> Written:
        """Write the file of an image, and return what :meth:`record` then says of it; raises as :meth:`keep` does."""
        self._write_image(fetched)
        size = len(fetched.content)
        return Written(fetched.sha256, fetched.extension, fetched.width, fetched.height, size, perceptual_hash)

    def record(self, outcomes: Sequence[tuple[int, Written | Refused]]) -> None:
        """Note what finds led to, in one transaction for all: as :meth:`keep` and :meth:`refuse` do for one."""
        self._write(partial(_record, outcomes))

    def retry(self, word: str, reasons: Collection[Reason]) -> int:
        """Let the finds of a word that were refused for one of ``reasons`` wait again; return how many URLs."""

        def work(session: Session) -> int:
            rows = _search_order(session, _word_id(session, self.folder, word))
            again = {row.address.id: row.address for row in rows if row.address.reason in reasons}
            for address in again.values():
                address.status, address.reason, address.detail = "waiting", None, None
                session.add(address)
            return len(again)

        return self._write(work)

    # --- reading ------------------------------------------------------------------------------------------------------

    def words(self) -> list[str]:
        """Return all words of the store, sorted."""
        return self._read(lambda session: sorted(session.exec(select(Word.text))))

    def images_of(self, word: str) -> list[StoredImage]:
        """Return the images of a word in search order, each once.

        An image stands where the best-placed of its finds does; positions that several queries share are ordered by
        source, language and URL. What has the same bytes as an earlier image, or nearly duplicates it
        (:func:`~tezawari.collect.duplicates.near_duplicates`), is joined to it.
        """
        return [self._stored(group) for group in _joined(self._rows(word))]

    def summary(self, word: str) -> Summary:
        """Count what became of the finds of a word."""
        rows = self._rows(word)
        addresses = {row.address.id: row.address for row in rows}.values()
        status = Counter(address.status for address in addresses)
        reasons = Counter(address.reason for address in addresses if address.status == "refused")
        groups = _joined(rows)
        distinct = sum(len(group) for group in groups)
        return Summary(
            found=len(addresses),
            waiting=status["waiting"],
            fetched=status["fetched"],
            refused=cast("dict[Reason, int]", dict(sorted(reasons.items()))),
            exact_duplicates=status["fetched"] - distinct,
            near_duplicates=distinct - len(groups),
            images=len(groups),
        )

    # --- ranking ------------------------------------------------------------------------------------------------------

    def save_rankings(self, word: str, features: str, passes: Sequence[Sequence[tuple[str, float]]]) -> None:
        """Replace all rankings of a word, in one transaction.

        Args:
            word: a word of the store.
            features: what was ranked by, such as ``efficientnet_lite0/blocks.3``.
            passes: for each pass, SHA-256 and score of each image, best first; scores are finite.
        """
        if not all(math.isfinite(score) for ranked in passes for _, score in ranked):
            raise ValueError("a score that is not finite ranks nothing")

        def work(session: Session) -> None:
            word_id = _word_id(session, self.folder, word)
            ids = _image_ids(session, {sha256 for ranked in passes for sha256, _ in ranked})
            session.exec(delete(Ranking).where(col(Ranking.word_id) == word_id))
            session.add_all(
                Ranking(
                    word_id=word_id,
                    pass_number=number,
                    image_id=ids[sha256],
                    features=features,
                    score=float(score),
                    rank=rank,
                )
                for number, ranked in enumerate(passes, 1)
                for rank, (sha256, score) in enumerate(ranked, 1)
            )

        self._write(work)

    def rankings(self, word: str) -> list[RankedPass]:
        """Return the passes of the last re-ranking of a word, the first first; none where it was never ranked.

        An image that has since been found to duplicate another gives its place to that one.
        """
        return self._rankings(word, _joined_names(_joined(self._rows(word))))

    def images_and_rankings(self, word: str) -> tuple[list[StoredImage], list[RankedPass]]:
        """Return what :meth:`images_of` and :meth:`rankings` do, for little more than the time of one of them."""
        groups = _joined(self._rows(word))
        return [self._stored(group) for group in groups], self._rankings(word, _joined_names(groups))

    def annotate(self, word: str, image: str, positive: bool | None) -> None:
        """Note that an image (its SHA-256) shows the word, or does not; None takes the note back.

        Raises :class:`UserError` for an image that is not one of the word's.
        """
        self.annotate_all(word, {image: positive})

    def annotate_all(self, word: str, verdicts: Mapping[str, bool | None]) -> None:
        """Do what :meth:`annotate` does for many images, in one transaction: for all of them or, where it raises, none.

        To read a word and group its duplicates takes as long for one image as for all.
        """
        unknown = verdicts.keys() - _joined_names(_joined(self._rows(word))).keys()
        if unknown:
            raise UserError(f"{shown(word)} has no image {min(unknown)} in the store {self.folder}")

        def work(session: Session) -> None:
            word_id = _word_id(session, self.folder, word)
            ids = _image_ids(session, set(verdicts))
            rows = session.exec(select(Annotation).where(Annotation.word_id == word_id))
            known = {row.image_id: row for row in rows}
            for image, positive in verdicts.items():
                row = known.get(ids[image])
                if positive is None:
                    if row is not None:
                        session.delete(row)
                elif row is None:
                    session.add(Annotation(word_id=word_id, image_id=ids[image], positive=positive))
                else:
                    row.positive = positive

        self._write(work)

    def annotations(self, word: str) -> dict[str, bool]:
        """Return what was noted of images (SHA-256) of a word, in search order: True for positives.

        A note about an image counts for the earlier image that it duplicates, unless that one has its own.
        """
        return self._annotations(word, _joined_names(_joined(self._rows(word))))

    def best_images(self, word: str, pass_number: int | None = None) -> list[StoredImage]:
        """Return the images of a word best first, by a pass of its ranking (None: the last).

        Images annotated as positives come first, negatives are left out [ours]. Where the word was never ranked, the
        order is that of the search; otherwise images that were not ranked are left out too.

        Raises :class:`UserError` for a pass that there is not.
        """
        groups = _joined(self._rows(word))
        joined = _joined_names(groups)
        images = {image.sha256: image for image in map(self._stored, groups)}
        passes = {ranked.number: ranked for ranked in self._rankings(word, joined)}
        if pass_number is not None and pass_number not in passes:
            known = ", ".join(str(number) for number in passes) or "none"
            raise UserError(f"{shown(word)} has no ranking pass {pass_number} (known: {known})")
        order = list(images)
        if passes:
            ranked = passes[max(passes) if pass_number is None else pass_number]
            order = [sha256 for sha256 in ranked.scores if sha256 in images]
        noted = self._annotations(word, joined)
        kept = [sha256 for sha256 in order if noted.get(sha256) is not False]
        return [images[sha256] for sha256 in sorted(kept, key=lambda sha256: not noted.get(sha256, False))]

    # --- within -------------------------------------------------------------------------------------------------------

    def _rows(self, word: str) -> list[_Row]:
        return self._read(lambda session: _search_order(session, _word_id(session, self.folder, word)))

    def _rankings(self, word: str, joined: dict[str, str]) -> list[RankedPass]:
        def work(session: Session) -> list[RankedPass]:
            word_id = _word_id(session, self.folder, word)
            rows = session.exec(
                select(Ranking, Image.sha256)
                .where(Ranking.image_id == Image.id, Ranking.word_id == word_id)
                .order_by(col(Ranking.pass_number), col(Ranking.rank))
            ).all()
            passes: dict[int, RankedPass] = {}
            for row, sha256 in rows:
                ranked = passes.setdefault(row.pass_number, RankedPass(row.pass_number, row.features, {}))
                ranked.scores.setdefault(joined.get(sha256, sha256), row.score)
            return list(passes.values())

        return self._read(work)

    def _annotations(self, word: str, joined: dict[str, str]) -> dict[str, bool]:
        def work(session: Session) -> dict[str, bool]:
            word_id = _word_id(session, self.folder, word)
            rows = session.exec(
                select(Image.sha256, Annotation.positive).where(
                    Annotation.image_id == Image.id, Annotation.word_id == word_id
                )
            ).all()
            return dict(rows)

        noted = self._read(work)
        result: dict[str, bool] = {}
        for sha256, first in joined.items():
            if sha256 in noted:
                result.setdefault(first, noted[sha256])
        return result

    def _stored(self, group: list[tuple[_Row, Image]]) -> StoredImage:
        (row, image), *others = group
        return StoredImage(
            sha256=image.sha256,
            path=self._path(image),
            width=image.width,
            height=image.height,
            bytes=image.bytes,
            perceptual_hash=image.perceptual_hash,
            found=row.found,
            duplicates=tuple(other.sha256 for _, other in others),
        )

    def _path(self, image: Image | Fetched) -> Path:
        return self.folder / "images" / image.sha256[:2] / f"{image.sha256[2:]}.{image.extension}"

    def _write_image(self, fetched: Fetched) -> None:
        path = self._path(fetched)
        aside = self.folder / "writing" / uuid.uuid4().hex
        try:
            if _is_whole(path, len(fetched.content)):
                return
            for folder in (path.parent, aside.parent):
                folder.mkdir(parents=True, exist_ok=True)
            with written_aside(path, aside) as file:
                file.write(fetched.content)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {describe_os_error(error)}; what is stored is kept: mend that, then type "
                "the same command again"
            ) from error

    def _read(self, work: Callable[[Session], T]) -> T:
        with self._described_errors(), Session(self._engine, expire_on_commit=False) as session:
            return work(session)

    def _write(self, work: Callable[[Session], T]) -> T:
        with self._writing, self._described_errors():
            for _ in range(_ATTEMPTS - 1):
                # Another process may make the same row, or the tables, in the meantime: the next look finds them.
                with contextlib.suppress(IntegrityError, ProgrammingError):
                    return self._attempt(work)
            return self._attempt(work)

    def _attempt(self, work: Callable[[Session], T]) -> T:
        with Session(self._engine.execution_options(writes=True), expire_on_commit=False) as session, session.begin():
            return work(session)

    @contextlib.contextmanager
    def _described_errors(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, ProgrammingError):
            raise
        except DatabaseError as error:
            reason = " ".join(str(error.orig).split())
            where = f"the database of the store {self.folder}"
            if "locked" in reason:
                raise UserError(
                    f"{where} is locked by another process: wait for that to end, then type the same command again; "
                    "what is stored is kept"
                ) from error
            raise UserError(
                f"{where} cannot be used ({reason}): mend that, then type the same command again, or name another store"
            ) from error


def _is_whole(path: Path, length: int) -> bool:
    try:
        return path.stat().st_size == length
    except FileNotFoundError:
        return False


def shown(word: str) -> str:
    """Return a word as messages show it: a long one shortened."""
    return word if len(word) <= _LONGEST_SHOWN else f"{word[:_LONGEST_SHOWN]}…"


# --- opening ----------------------------------------------------------------------------------------------------------


def _sqlite_engine(file: Path, wait_seconds: float) -> Engine:
    engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": wait_seconds})

    @event.listens_for(engine, "connect")
    def _(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions begin below, not where the driver thinks they should
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        # One that begins by reading and then writes is refused at once, without waiting, where another wrote between.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _engine(database_url: str) -> Engine:
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise UserError(
            "the database is not named as SQLAlchemy names one: postgresql+psycopg://user@host/name"
        ) from None
    try:
        return create_engine(url)
    except (NoSuchModuleError, ImportError) as error:
        raise UserError(
            f"{url.render_as_string(hide_password=True)}: its driver is not installed ({error}): "
            "pip install 'psycopg[binary]' for postgresql+psycopg://"
        ) from error


def _schema_version(session: Session) -> int | None:
    if not inspect(session.connection()).has_table(str(SchemaVersion.__tablename__)):
        return None
    return session.exec(select(SchemaVersion.version)).first()


def _make_tables(session: Session) -> None:
    if _schema_version(session) is None:
        Table.metadata.create_all(session.connection())
        session.add(SchemaVersion(version=SCHEMA_VERSION))


def _remove_abandoned(folder: Path) -> None:
    oldest = time.time() - _ABANDONED_SECONDS
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # another process may be quicker
            if path.stat().st_mtime < oldest:
                path.unlink()


# --- within a transaction ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A find of a word, with what belongs to it."""

    find: Find
    address: Address
    image: Image | None

    @property
    def found(self) -> FoundImage:
        return FoundImage(
            image_url=self.address.url,
            source=self.find.source,
            position=self.find.position,
            page_url=self.find.page_url,
            title=self.find.title,
            author=self.find.author,
            licence=self.find.licence,
            licence_url=self.find.licence_url,
        )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _storable(text: str) -> str:
    """Return text without what a database cannot hold: lone surrogates and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "")


def _normalised(word: str) -> str:
    normalised = unicodedata.normalize("NFC", word.strip())
    if not normalised or _storable(normalised) != normalised:
        raise UserError(f"{word!a}: a word is at least one character, and Unicode")
    return normalised


def _word_id(session: Session, folder: Path, word: str) -> int:
    normalised = _normalised(word)
    found = session.exec(select(Word.id).where(Word.key == _key(normalised))).first()
    if found is None:
        known = [shown(each) for each in session.exec(select(Word.text))]
        raise UserError(
            f"the store {folder} has no word {shown(normalised)}{did_you_mean(shown(normalised), known)}: "
            f"tezawari collect {shown(normalised)} --store {folder} collects it"
        )
    return found


def _begin_query(word: str, source: str, language: str, limit: int, session: Session) -> int:
    word_row = session.exec(select(Word).where(Word.key == _key(word))).first()
    if word_row is None:
        word_row = Word(key=_key(word), text=word)
        session.add(word_row)
        session.flush()
    query = Query(word_id=cast(int, word_row.id), source=_storable(source), language=language, limit=limit)
    known = session.exec(
        select(Query).where(
            Query.word_id == query.word_id,
            Query.source == query.source,
            Query.language == language,
            Query.limit == limit,
        )
    ).first()
    if known is not None:
        return cast(int, known.id)
    session.add(query)
    session.flush()
    return cast(int, query.id)


def _add_found(query: int, batch: list[FoundImage], session: Session) -> int:
    by_key: dict[str, FoundImage] = {}
    for found in batch:
        by_key.setdefault(_key(_storable(found.image_url)), found)
    known = session.exec(select(Address).where(col(Address.key).in_(by_key))).all()
    addresses = {address.key: address for address in known}
    for key, found in sorted(by_key.items()):  # in an order that all processes share, or two could block each other
        if key not in addresses:
            addresses[key] = Address(key=key, url=_storable(found.image_url))
            session.add(addresses[key])
    session.flush()
    ids = [address.id for address in addresses.values()]
    have = set(session.exec(select(Find.address_id).where(Find.query_id == query, col(Find.address_id).in_(ids))).all())
    new = [(addresses[key].id, found) for key, found in by_key.items() if addresses[key].id not in have]
    session.add_all(
        Find(
            query_id=query,
            address_id=cast(int, address_id),
            position=found.position,
            source=_storable(found.source),
            page_url=_storable(found.page_url),
            title=_storable(found.title),
            author=_storable(found.author),
            licence=_storable(found.licence),
            licence_url=_storable(found.licence_url),
        )
        for address_id, found in new
    )
    return len(new)


def _record(outcomes: Sequence[tuple[int, Written | Refused]], session: Session) -> None:
    # Without mapped objects: this runs for every image, and they double its cost. Images and finds each in an order
    # that all processes share, or two could block each other.
    written = {each.sha256: each for _, each in outcomes if isinstance(each, Written)}
    known = session.exec(select(Image.sha256, Image.id).where(col(Image.sha256).in_(written))).all()
    ids = dict(known)
    for sha256, image in sorted(written.items()):
        if sha256 not in ids:
            row = insert(Image).values(**asdict(image))
            ids[sha256] = session.connection().execute(row).inserted_primary_key[0]  # type: ignore[index]
    for find, outcome in sorted(outcomes, key=lambda each: each[0]):
        change = _update_address(find)
        values: dict[str, str | int | None]
        if isinstance(outcome, Refused):
            change = change.where(col(Address.status) != "fetched")
            values = {"status": "refused", "reason": outcome.reason, "detail": _storable(outcome.detail)}
        else:
            values = {"status": "fetched", "reason": None, "detail": None, "image_id": ids[outcome.sha256]}
        session.connection().execute(change.values(**values))


def _update_address(find: int) -> Update:
    address = select(Find.address_id).where(Find.id == find).scalar_subquery()
    return update(Address).where(col(Address.id) == address)


def _image_ids(session: Session, names: set[str]) -> dict[str, int]:
    """Return the id of each image; raises KeyError where one is not in the store."""
    found = session.exec(select(Image.sha256, Image.id).where(col(Image.sha256).in_(names))).all()
    ids = {sha256: cast(int, image_id) for sha256, image_id in found}
    if len(ids) < len(names):
        raise KeyError(min(names - ids.keys()))
    return ids


def _search_order(session: Session, word_id: int) -> list[_Row]:
    rows = session.exec(
        select(Find, Address, Image, Query)
        .join(Query, col(Find.query_id) == col(Query.id))
        .join(Address, col(Find.address_id) == col(Address.id))
        .outerjoin(Image, col(Address.image_id) == col(Image.id))
        .where(Query.word_id == word_id)
    ).all()
    # In Python: databases differ in how they collate text.
    ordered = sorted(rows, key=lambda row: (row[0].position, row[3].source, row[3].language, row[1].url, row[3].limit))
    return [_Row(find, address, image) for find, address, image, _ in ordered]


def _joined(rows: list[_Row]) -> list[list[tuple[_Row, Image]]]:
    """Group the images of a word, given in search order: each group one image and then its near duplicates."""
    distinct: dict[str, tuple[_Row, Image]] = {}
    for row in rows:
        if row.image is not None:
            distinct.setdefault(row.image.sha256, (row, row.image))
    images = list(distinct.values())
    groups: dict[int, list[tuple[_Row, Image]]] = {}
    for each, first in zip(images, near_duplicates([image.perceptual_hash for _, image in images])):
        groups.setdefault(first, []).append(each)
    return list(groups.values())


def _joined_names(groups: list[list[tuple[_Row, Image]]]) -> dict[str, str]:
    """Return, for every image of a word in search order of the groups, the SHA-256 of the first of its group."""
    return {image.sha256: group[0][1].sha256 for group in groups for _, image in group}
