"""Wikimedia Commons: its search through the MediaWiki action API, without a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html.parser import HTMLParser

from tezawari.collect.sources.api import Api, ChangedFormError, Fetch, Fields, Item, RefusedError, clean, need, text

_PAGE_SIZE = 50
_FILES = 6  # the namespace
# [ours] Originals of tens of megabytes are common, and nothing here looks at more pixels. Wikimedia keeps this width.
_WIDTH = 1280
_BLOCKS = {"br", "div", "li", "p", "td", "tr", "ul"}


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield pages of at most 50 bitmaps in the order of the search.

    The API may spread what it says of a page's images over several answers, until one says ``batchcomplete``:
    https://www.mediawiki.org/wiki/API:Continue
    """
    asked: dict[str, str | int] = {
        "action": "query",
        "format": "json",
        "formatversion": 2,
        "generator": "search",
        "gsrsearch": f"filetype:bitmap {query}",
        "gsrnamespace": _FILES,
        "gsrlimit": min(limit, _PAGE_SIZE),
        "prop": "imageinfo",
        "iiprop": "url|extmetadata|mime|size",
        "iiurlwidth": _WIDTH,
        "iiextmetadatalanguage": language.partition("-")[0] or "en",
    }
    found: dict[int, Item] = {}
    following: Item = {}
    while True:
        answer = fetch({**asked, **following})
        if "error" in answer:
            raise RefusedError(text(answer, "error.info"))
        for page in _pages_of(answer):
            number = need(page, "pageid", int)
            found[number] = {**found.get(number, {}), **page}
        before, following = following, need(answer, "continue", dict) if "continue" in answer else {}
        if following and following == before:
            raise ChangedFormError("continue")  # or this would never end
        if answer.get("batchcomplete") or not following:
            # The order is in `index`, not in the list.
            ordered = sorted(found.values(), key=lambda page: need(page, "index", int))
            yield [_fields(info, page) for page in ordered if _is_image(info := _info_of(page))]
            found = {}
        if not following:
            return


def _pages_of(answer: Item) -> list[Item]:
    if "query" not in answer and "batchcomplete" in answer:
        return []  # as a search answers that finds nothing, or no more
    pages = need(answer, "query.pages", list)
    if not all(isinstance(page, dict) for page in pages):
        raise ChangedFormError("query.pages")
    return pages


def _info_of(page: Item) -> Item:
    infos = page.get("imageinfo")
    return infos[0] if isinstance(infos, list) and infos and isinstance(infos[0], dict) else {}


def _is_image(info: Item) -> bool:
    """Say whether a file is a picture, or of a type that is not told."""
    return text(info, "mime").startswith("image/") or not text(info, "mime")


def _fields(info: Item, page: Item) -> Fields:
    about = {name: _plain(text(info, f"extmetadata.{name}.value")) for name in ("ObjectName", "Artist")}
    return {
        "image_url": text(info, "thumburl") or text(info, "url"),
        "page_url": text(info, "descriptionurl"),
        "title": about["ObjectName"] or text(page, "title").partition(":")[2],
        "author": about["Artist"],
        "licence": text(info, "extmetadata.LicenseShortName.value"),
        "licence_url": text(info, "extmetadata.LicenseUrl.value"),
    }


class _Words(HTMLParser):
    """Gathers the words of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCKS:
            self.words.append(" ")


def _plain(html: str) -> str:
    parser = _Words()
    parser.feed(html)
    parser.close()
    return clean("".join(parser.words))


COMMONS = Api(
    name="commons",
    base_url="https://commons.wikimedia.org/w/api.php",
    results=_results,
    image_field="query.pages[].imageinfo[].url",
)
