"""Where images of a word are found: search APIs, lists and folders, all opened by :func:`open_source`."""

from __future__ import annotations

from pathlib import Path

from tezawari.collect.pages import Pages
from tezawari.collect.sources.api import Api, ApiSource
from tezawari.collect.sources.bing import bing_like
from tezawari.collect.sources.brave import BRAVE
from tezawari.collect.sources.captions import SUFFIXES as TABLES
from tezawari.collect.sources.captions import Captions
from tezawari.collect.sources.commons import COMMONS
from tezawari.collect.sources.flickr import FLICKR
from tezawari.collect.sources.folder import Folder
from tezawari.collect.sources.google import GOOGLE
from tezawari.collect.sources.openverse import OPENVERSE
from tezawari.collect.sources.source import Source
from tezawari.collect.sources.url_list import UrlList
from tezawari.core.errors import UserError, describe_os_error, did_you_mean

APIS: dict[str, Api] = {api.name: api for api in (OPENVERSE, COMMONS, FLICKR, BRAVE, GOOGLE)}


def open_source(which: str, pages: Pages | None = None, base_url: str | None = None) -> Source:
    """Open a source by the name of an API, the URL of an endpoint that answers as Bing did, or a path.

    A path is that of a folder of images, of a text file (``.txt``) with a URL a line, or of a table
    (``.csv``, ``.tsv``, ``.parquet``) of URLs and captions. Names go first: a folder called flickr is ``./flickr``.

    Args:
        which: ``openverse``, ``commons``, ``flickr``, ``brave``, ``google``, ``https://…`` or a path.
        pages: what fetches the answers of APIs, to be shared between them.
        base_url: of a mirror to ask in place of the API itself.

    Raises:
        UserError: a name that is unknown, a path where there is nothing or a file of another kind, a key that is not
            in the environment.
    """
    if which in APIS:
        return ApiSource(APIS[which], pages or Pages(), base_url)
    if which.lower().startswith(("http://", "https://")):
        return ApiSource(bing_like(which), pages or Pages(), base_url)
    try:
        return _open_path(which)
    except OSError as error:
        raise UserError(f"source {which[:80]} cannot be opened: {describe_os_error(error)[:200]}") from error


def _open_path(which: str) -> Source:
    path = Path(which)
    suffix = path.suffix.lower()
    if path.is_dir() and which:  # an empty path would be the folder that one is in
        return Folder(path)
    if not path.is_file():
        if suffix or len(path.parts) > 1:
            raise UserError(f"source {which}: there is no such file or folder")
        raise UserError(
            f"there is no source {which}{did_you_mean(which, APIS)}: name one of {', '.join(APIS)}, the URL of an"
            " endpoint that answers as Bing did, a folder of images, or a file (.txt, .csv, .tsv, .parquet) of URLs"
        )
    if suffix == ".txt":
        return UrlList(path)
    if suffix in TABLES:
        return Captions(path)
    raise UserError(f"source {which} is neither a folder nor a file called .txt, .csv, .tsv or .parquet")
