"""Brave's image search, with a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tezawari.collect.sources.api import Api, Fetch, Fields, Item, need_items, text

_MOST_RESULTS = 200
# Where Brave's codes are not those of ISO 639.
_LANGUAGES = {"ja": "jp", "zh": "zh-hans", "pt": "pt-pt"}


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield the one page there is: at most 200 results, of all countries.

    Brave's spelling correction is off: it would turn an unusual onomatopoeia into a usual word. [ours]
    """
    asked: dict[str, str | int] = {
        "q": query,
        "count": min(limit, _MOST_RESULTS),
        "country": "ALL",
        "spellcheck": "false",
    }
    code = language.partition("-")[0]
    if code:
        asked["search_lang"] = _LANGUAGES.get(code, code)
    yield [_fields(item) for item in need_items(fetch(asked), "results")]


def _fields(item: Item) -> Fields:
    return {
        "image_url": text(item, "properties.url"),
        "page_url": text(item, "url"),
        "title": text(item, "title"),
    }


BRAVE = Api(
    name="brave",
    base_url="https://api.search.brave.com/res/v1/images/search",
    results=_results,
    image_field="results[].properties.url",
    key_headers={"X-Subscription-Token": "TEZAWARI_BRAVE_KEY"},
)
