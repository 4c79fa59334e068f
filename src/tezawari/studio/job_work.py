"""What the studio's jobs do, in the worker process: a table of kinds and what they share."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.machine import keep_freed_memory
from tezawari.studio.database import Database
from tezawari.studio.jobs import Report, Work
from tezawari.studio.judgements import Judgements
from tezawari.studio.uploads import StoredPhoto, Uploads

# Each kind of job: the module and the function that does it. A module is loaded by the first job that needs it, for
# together they load for many seconds and restyling needs the fewest.
KINDS = {
    "restyle": ("tezawari.studio.restyling", "restyle_photo"),
    "styles": ("tezawari.studio.restyling", "show_styles"),
    "segment": ("tezawari.studio.segmenting", "segment_photo"),
    "swap": ("tezawari.studio.swapping", "swap_photo"),
    "collect": ("tezawari.studio.collecting", "collect_word"),
    "rank": ("tezawari.studio.collecting", "rank_again"),
    "pack": ("tezawari.studio.collecting", "pack_set"),
    "bot": ("tezawari.studio.bot", "answer_photo"),
    "measure": ("tezawari.studio.measuring", "measure_words"),
}

BACKBONES = ("efficientnet_lite0", "vgg16", "vgg19")
"""Networks whose features may rank images: the one that comes with the package, then those that are downloaded once."""

MEASURED = "measured.json"
"""What the last measurement of words said, in the studio's folder."""

FOLDER_SOURCE = "folder"
"""The name, for browsers, of the folder that the studio was started with."""

_SAMPLE_QUALITY = 88


@dataclass(frozen=True)
class Settings:
    """What the studio was started with, as the worker needs it.

    ``checkpoint``: of the style network, None for the one of the package; ``segmenter``: a run or file, or None;
    ``folder``: a folder of images that collecting may search, or None; ``allow_private``: whether collecting may fetch
    from this machine and the local network; ``negatives``: a folder of random photos that words are ranked and
    measured against, None for crops of photographs that installed packages carry.
    """

    store: Path
    checkpoint: Path | None = None
    segmenter: Path | None = None
    folder: Path | None = None
    allow_private: bool = False
    negatives: Path | None = None


@dataclass(frozen=True)
class Bench:
    """What jobs work with: the settings, and the studio's database with what is in it."""

    settings: Settings
    database: Database
    uploads: Uploads
    judgements: Judgements

    def photo(self, identity: str) -> StoredPhoto:
        """Return a photo that was sent; raises :class:`UserError` where it is gone."""
        stored = self.uploads.photo(identity)
        if stored is None:
            raise UserError("the photo is gone: choose it again")
        return stored


def open_work(settings: Settings) -> Work:
    """Return what does the jobs of a studio."""
    keep_freed_memory()
    database = Database(settings.store)
    bench = Bench(settings, database, Uploads(database), Judgements(database))
    return functools.partial(_work, bench)


def write_jpeg(path: Path, pixels: np.ndarray) -> str:
    """Write (H, W, 3) uint8 as a JPEG for screens, and return the file's name."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=_SAMPLE_QUALITY)
    write_atomically(path, stream.getvalue())
    return path.name


def _work(bench: Bench, kind: str, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    module, function = KINDS[kind]
    do: Callable[[Bench, dict[str, Any], Path, Report], dict[str, Any]] = getattr(import_module(module), function)
    folder.mkdir(parents=True, exist_ok=True)
    return do(bench, request, folder, report)
