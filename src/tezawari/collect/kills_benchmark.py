"""``evaluate.py benchmark=collect_kills``: collections that are killed at random and taken up again.

They end like one that never was: the same files, the same manifest.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from tezawari.collect.export import export_word
from tezawari.collect.gather import fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.local_web import make_pictures, serving
from tezawari.collect.pages import user_agent
from tezawari.collect.store import open_store
from tezawari.core.errors import UserError
from tezawari.core.runs import current_commit, describe_machine
from tezawari.core.tables import write_csv

FOLDER = "collect_kills"
_WORD = "ごつごつ"
_KILOBYTES = 40
_NEGATIVES = 12
_WORKERS = 4
_SECONDS_A_LINE = 5.0


@dataclass(frozen=True)
class State:
    """All that a user sees of a collection: the export's bytes, what is on disk and what the store counts."""

    archive: str
    files: dict[str, str]
    summary: str


@dataclass(frozen=True)
class Kill:
    """One kill: of which collection, after how many seconds, and how many of its images were on disk by then."""

    collection: int
    after_seconds: float
    images: int


def benchmark_collect_kills(
    output_dir: str,
    kills: PositiveInt,
    images: Annotated[int, Field(ge=12)],
    backbone: str,
    weights: str | None,
    layer: str | None,
    seed: NonNegativeInt,
) -> dict[str, Path]:
    """Kill collections at random moments, go on with each, and compare what they end with.

    A collection is searched for, fetched from a server of this machine, stored, described and ranked in a process of
    its own, which is killed (SIGKILL) at a moment drawn from the time an undisturbed one takes. The next process goes
    on; where one is done before its moment comes, its collection is compared and the next one begins, until ``kills``
    have been dealt.

    Processes are forked from one that has imported everything: nothing but collecting is killed.

    Args:
        output_dir: the files go to its folder ``collect_kills``.
        kills: how many.
        images: of each collection.
        backbone: with ``weights`` and ``layer``, what ranks, as ``tezawari collect`` names them.
        seed: of the pictures and of the moments.

    Returns:
        Name → file: ``kills``, a row each.

    Raises:
        UserError: no fork here, a collection that failed, or one that ended otherwise than the undisturbed one.
    """
    if "fork" not in multiprocessing.get_all_start_methods():
        raise UserError("benchmark=collect_kills: this system cannot fork processes")
    result = Path(output_dir) / FOLDER
    result.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        web = Path(scratch) / "web"
        web.mkdir()
        names = make_pictures(web, images + _NEGATIVES, _KILOBYTES, seed)
        negatives = Path(scratch) / "negatives"
        negatives.mkdir()
        for name in names[images:]:
            (web / name).rename(negatives / name)
        with serving(web) as server:
            urls = Path(scratch) / "urls.txt"
            # One address that answers 404 and one with the bytes of another.
            shutil.copy(web / names[0], web / "again.jpg")
            urls.write_text("\n".join(server.urls([*names[:images], "absent.jpg", "again.jpg"])), encoding="utf-8")
            work = _prepared(urls, negatives, backbone, weights, layer)
            dealt = kill_many(work, kills, Path(scratch) / "collections", random.Random(seed))
    record = {"images": images, "seed": seed, "commit": current_commit(), **describe_machine()}
    table = write_csv(
        result / "kills.csv",
        [
            {
                "collection": kill.collection,
                "after_s": round(kill.after_seconds, 3),
                "images_on_disk": kill.images,
                **record,
            }
            for kill in dealt
        ],
    )
    sys.stdout.write(
        f"{len(dealt)} kills of {dealt[-1].collection} collections of {images} images, after "
        f"{min(kill.after_seconds for kill in dealt):.2f} to {max(kill.after_seconds for kill in dealt):.2f} s, with "
        f"{min(kill.images for kill in dealt)} to {max(kill.images for kill in dealt)} images on disk: every manifest, "
        "file and count as in the undisturbed collection\n\n"
    )
    return {"kills": table}


def kill_many(work: Callable[[Path], None], kills: int, folder: Path, rng: random.Random) -> list[Kill]:
    """Deal ``kills`` kills to processes that do ``work`` on stores in ``folder``; return them.

    Raises :class:`UserError` where ``work`` fails or a collection ends otherwise than the undisturbed one.
    """
    began = time.monotonic()
    _finish(work, folder / "undisturbed")
    takes = time.monotonic() - began
    undisturbed = state_of(folder / "undisturbed")
    dealt: list[Kill] = []
    collection, said = 1, time.monotonic()
    store = folder / "killed 1"
    while len(dealt) < kills:
        moment = rng.uniform(0, takes)
        if _killed(work, store, moment):
            dealt.append(Kill(collection, moment, len(_files(store))))
            if time.monotonic() - said > _SECONDS_A_LINE:
                said = time.monotonic()
                sys.stderr.write(f"{len(dealt)} of {kills} kills, {dealt[-1].images} images on disk\n")
        else:
            _require_same(undisturbed, state_of(store), dealt)
            shutil.rmtree(store)
            collection += 1
            store = folder / f"killed {collection}"
    _finish(work, store)
    _require_same(undisturbed, state_of(store), dealt)
    return dealt


def state_of(folder: Path) -> State:
    """Return what a finished collection holds; raises :class:`UserError` where images still wait."""
    with open_store(folder, create=False) as store, tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        if store.waiting(_WORD):
            raise UserError(f"a collection that ended has {len(store.waiting(_WORD))} images waiting")
        export_word(store, _WORD, Path(scratch) / "set.zip")
        archive = hashlib.sha256((Path(scratch) / "set.zip").read_bytes()).hexdigest()
        return State(archive, _files(folder), str(store.summary(_WORD)))


def _files(folder: Path) -> dict[str, str]:
    images = folder / "images"
    return {
        path.relative_to(images).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(images.rglob("*"))
        if path.is_file()
    }


def _require_same(undisturbed: State, found: State, dealt: list[Kill]) -> None:
    for what in ("summary", "files", "archive"):
        if getattr(found, what) != getattr(undisturbed, what):
            which = dealt[-1].collection if dealt else 1
            raise UserError(
                f"after {len(dealt)} kills the {what} of collection {which} differ from those of an undisturbed one"
            )


def _finish(work: Callable[[Path], None], store: Path) -> None:
    if _killed(work, store, None):
        raise UserError("a collection was killed by someone else: perhaps the memory ran out")


def _killed(work: Callable[[Path], None], store: Path, after_seconds: float | None) -> bool:
    """Do ``work`` in a forked process, kill it after a while, and say whether it was killed before it was done."""

    def child() -> None:
        work(store)
        os._exit(0)  # what the parent would do at its end is not the child's

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(after_seconds)
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(f"a collection failed (exit {process.exitcode}): its error is above")
    return process.exitcode != 0


def _prepared(
    urls: Path, negatives: Path, backbone: str, weights: str | None, layer: str | None
) -> Callable[[Path], None]:
    """Import and load all that a collection needs and return the collection itself, to be run in a forked process."""
    from tezawari.collect import rerank_store
    from tezawari.features.backbone import load_backbone

    named = layer or rerank_store.default_layer(backbone)
    network = load_backbone(backbone, [named], weights)
    against = rerank_store.negatives_of_folder(negatives)

    def work(folder: Path) -> None:
        rerank_store.use_one_thread()
        with open_store(folder) as store:
            search_words(store, [_WORD], open_sources([str(urls)]), "ja", 1_000_000)
            fetch_waiting(store, [_WORD], user_agent(), Limits(allow_private=True), _WORKERS)
            descriptors = rerank_store.AheadDescriptors(folder / "descriptors", network)
            rerank_store.rank_word(store, _WORD, descriptors, named, against)

    return work
