"""What people say of a word's images: each by name, every change on disk before it is acknowledged, all undoable.

The collection's store has one note an image, which re-ranking and export go by; here each annotator has their own. The
store is given what most of them say, and no note where they are evenly divided [ours].
"""

from __future__ import annotations

import math
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from tezawari.collect.store import Store
from tezawari.studio.database import Database

_UNDONE, _UNDOES = "undone", "undoes"


@dataclass(frozen=True)
class Change:
    """One judgement as it was changed: ``verdict`` True for "shows the word", False for "does not", None for neither.

    ``seq`` rises with every change of the studio.
    """

    seq: int
    image: str
    annotator: str
    verdict: bool | None


@dataclass(frozen=True)
class Agreement:
    """How far two annotators agree on the ``images`` that both judged.

    ``kappa`` is Cohen's, 1 for full agreement and 0 for what chance would give; None where chance alone would make
    them agree on everything (both gave one and the same verdict throughout). ``differing``: images they differ on.
    """

    first: str
    second: str
    images: int
    agreed: int
    kappa: float | None
    differing: tuple[str, ...]


class Judgements:
    """The judgements in a studio's database; safe to use in threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def change(self, word: str, annotator: str, verdicts: Mapping[str, bool | None]) -> list[Change]:
        """Note verdicts of an annotator in one transaction, and return what changed by it."""
        with self._database.writing() as connection:
            return _write(connection, word, annotator, verdicts, "done")

    def undo(self, word: str, annotator: str) -> list[Change]:
        """Take back the last change of an annotator that was not taken back yet, and return what changed by it."""
        with self._database.writing() as connection:
            row = connection.execute(
                "SELECT batch FROM changes WHERE word = ? AND annotator = ? AND state = 'done'"
                " ORDER BY seq DESC LIMIT 1",
                (word, annotator),
            ).fetchone()
            if row is None:
                return []
            rows = connection.execute(
                "UPDATE changes SET state = ? WHERE batch = ? RETURNING image, before", (_UNDONE, row["batch"])
            ).fetchall()
            before = {each["image"]: _verdict(each["before"]) for each in rows}
            return _write(connection, word, annotator, before, _UNDOES)

    def since(self, word: str, seq: int) -> list[Change]:
        """Return the changes of a word after number ``seq``, the oldest first; a later one replaces an earlier."""
        rows = self._database.reading().execute(
            "SELECT seq, image, annotator, verdict FROM changes WHERE word = ? AND seq > ? ORDER BY seq", (word, seq)
        )
        latest: dict[tuple[str, str], Change] = {}
        for row in rows:
            latest.pop((row["image"], row["annotator"]), None)
            latest[row["image"], row["annotator"]] = Change(
                row["seq"], row["image"], row["annotator"], _verdict(row["verdict"])
            )
        return list(latest.values())

    def of_word(self, word: str) -> dict[str, dict[str, bool]]:
        """Return the verdicts of each annotator, by image."""
        rows = self._database.reading().execute(
            "SELECT annotator, image, verdict FROM judgements WHERE word = ? ORDER BY annotator, image", (word,)
        )
        found: dict[str, dict[str, bool]] = defaultdict(dict)
        for row in rows:
            found[row["annotator"]][row["image"]] = bool(row["verdict"])
        return dict(found)

    def words(self) -> list[str]:
        """Return the words that anything was ever said of."""
        return [row["word"] for row in self._database.reading().execute("SELECT DISTINCT word FROM changes")]

    def mirror(self, store: Store, word: str) -> None:
        """Give the store what most annotators say of each image of a word that was ever judged here.

        Raises:
            UserError: the store does not hold the word, or cannot be written.
        """
        rows = self._database.reading().execute("SELECT DISTINCT image FROM changes WHERE word = ?", (word,))
        wanted = {row["image"]: None for row in rows} | consensus(self.of_word(word))
        if not wanted:
            return
        noted = store.annotations(word)
        # A duplicate found since then has given its notes to the image that it duplicates.
        first_of = {name: image.sha256 for image in store.images_of(word) for name in (image.sha256, *image.duplicates)}
        changed = {
            image: verdict
            for image, verdict in wanted.items()
            if image in first_of and noted.get(first_of[image]) is not verdict
        }
        if changed:
            store.annotate_all(word, changed)


def consensus(verdicts: Mapping[str, Mapping[str, bool]]) -> dict[str, bool | None]:
    """Return what most annotators say of each image, None where as many say one thing as the other."""
    balance: dict[str, int] = defaultdict(int)
    for said in verdicts.values():
        for image, verdict in said.items():
            balance[image] += 1 if verdict else -1
    return {image: None if sum_ == 0 else sum_ > 0 for image, sum_ in balance.items()}


def agreements(verdicts: Mapping[str, Mapping[str, bool]]) -> list[Agreement]:
    """Compare every two annotators on the images that both judged; pairs without any are left out."""
    found = []
    for first, second in combinations(sorted(verdicts), 2):
        both = sorted(verdicts[first].keys() & verdicts[second].keys())
        if not both:
            continue
        ours = [verdicts[first][image] for image in both]
        theirs = [verdicts[second][image] for image in both]
        differing = tuple(image for image, one, other in zip(both, ours, theirs) if one is not other)
        found.append(
            Agreement(first, second, len(both), len(both) - len(differing), cohen_kappa(ours, theirs), differing)
        )
    return found


def cohen_kappa(first: Sequence[bool], second: Sequence[bool]) -> float | None:
    """Return Cohen's κ of two annotators' verdicts on the same images; None where chance explains full agreement."""
    from sklearn.metrics import cohen_kappa_score  # here: it takes a second to import, and few pages need it

    if len({*first, *second}) < 2:
        return None
    kappa = float(cohen_kappa_score(first, second))
    return kappa if math.isfinite(kappa) else None


def _write(
    connection: sqlite3.Connection, word: str, annotator: str, verdicts: Mapping[str, bool | None], state: str
) -> list[Change]:
    batch = secrets.token_hex(8)
    changes = []
    for image, verdict in verdicts.items():
        key = (word, image, annotator)
        row = connection.execute(
            "SELECT verdict FROM judgements WHERE word = ? AND image = ? AND annotator = ?", key
        ).fetchone()
        before = None if row is None else row["verdict"]
        if _verdict(before) is verdict:
            continue
        if verdict is None:
            connection.execute("DELETE FROM judgements WHERE word = ? AND image = ? AND annotator = ?", key)
        else:
            connection.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?, ?, ?)", (*key, int(verdict)))
        added = connection.execute(
            "INSERT INTO changes (batch, word, image, annotator, verdict, before, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (batch, *key, None if verdict is None else int(verdict), before, state),
        )
        changes.append(Change(int(added.lastrowid or 0), image, annotator, verdict))
    return changes


def _verdict(stored: int | None) -> bool | None:
    return None if stored is None else bool(stored)
