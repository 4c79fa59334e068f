"""Collecting as the studio does it: from a word to ranked images with thumbnails, ranked again, packed."""

from __future__ import annotations

import functools
from contextlib import closing
from pathlib import Path
from typing import Any

from tezawari.collect import rerank_store
from tezawari.collect.cooccurrence import with_nouns
from tezawari.collect.export import export_word, safe_name
from tezawari.collect.gather import UnreachableError, fetch_waiting, open_sources, search_words
from tezawari.collect.limits import Limits
from tezawari.collect.pages import user_agent
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError
from tezawari.studio.job_work import BACKBONES, FOLDER_SOURCE, Bench
from tezawari.studio.jobs import Report
from tezawari.studio.thumbnails import make_thumbnail

_FETCHERS = 16


def collect_word(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Search, fetch, rank and draw thumbnails; what another run left undone is taken up."""
    word = request["word"]
    problems: list[str] = []
    with closing(open_store(bench.settings.store)) as store:
        sources = with_nouns(open_sources([_source(bench, name) for name in request["sources"]]), request["nouns"])
        searching = functools.partial(report, "searching")
        problems += search_words(store, [word], sources, request["language"], request["limit"], False, searching)
        if word not in store.words():
            raise UserError("; ".join(problems) or f"nothing was found for {word}: try another word or source")
        try:
            limits = Limits(allow_private=bench.settings.allow_private)
            fetch_waiting(store, [word], user_agent(), limits, _FETCHERS, functools.partial(report, "fetching"))
        except UnreachableError as error:
            problems.append(str(error))
        images = store.images_of(word)
        for number, image in enumerate(images):
            report("drawing", number, len(images))
            make_thumbnail(bench.database.folder, image)
        ranked = _rank(bench, store, word, request["backbone"], request["layer"], report) if images else 0
    return {"files": [], "word": word, "images": len(images), "ranked": ranked, "problems": problems}


def rank_again(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Rank a word's images again, by what people said of them, and by what ranked them last where that is left open."""
    word, backbone, layer = request["word"], request["backbone"], request["layer"]
    with closing(open_store(bench.settings.store, create=False)) as store:
        bench.judgements.mirror(store, word)
        if backbone is None and layer is None:
            backbone, layer = _last_ranked_by(store, word)
        ranked = _rank(bench, store, word, backbone or BACKBONES[0], layer, report)
    return {"files": [], "word": word, "ranked": ranked}


def pack_set(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Write the best images of a word as a ZIP."""
    report("packing", 0, 1)
    word = request["word"]
    with closing(open_store(bench.settings.store, create=False)) as store:
        bench.judgements.mirror(store, word)
        exported = export_word(store, word, folder / "images.zip", request["count"])
    return {"files": ["images.zip"], "word": word, "images": exported.images, "name": f"{safe_name(word)}.zip"}


@functools.cache
def negatives(folder: Path | None) -> rerank_store.Negatives:
    """Return the random images of a studio: those of its folder, or crops of installed packages' photographs.

    Raises :class:`UserError` for a folder that is not there or holds no picture.
    """
    return rerank_store.negatives_of_photos() if folder is None else rerank_store.negatives_of_folder(folder)


def _rank(bench: Bench, store: Store, word: str, backbone: str, layer: str | None, report: Report) -> int:
    report("ranking", 0, 0)  # a network that is downloaded first takes a while
    layer = layer or rerank_store.default_layer(backbone)
    descriptors = rerank_store.open_descriptors(store.folder, backbone, layer)
    against = negatives(bench.settings.negatives)
    return rerank_store.rank_word(store, word, descriptors, layer, against, functools.partial(report, "ranking"))


def _last_ranked_by(store: Store, word: str) -> tuple[str | None, str | None]:
    """Return backbone and layer of a word's last ranking; None and None where the studio has no such backbone."""
    passes = store.rankings(word)
    backbone, _, layer = passes[-1].features.partition("/") if passes else ("", "", "")
    return (backbone, layer) if backbone in BACKBONES else (None, None)


def _source(bench: Bench, name: str) -> str:
    if name != FOLDER_SOURCE:
        return name
    if bench.settings.folder is None:
        raise UserError("the studio was started without a folder: tezawari studio --folder DIR")
    return str(bench.settings.folder)
