"""Google's Programmable Search (Custom Search JSON API), with a key and the number of a search engine.

Google takes no new users, and has announced the end of this API for 1 January 2027.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tezawari.collect.sources.api import Api, Fetch, Fields, Item, need, need_items, text

_PAGE_SIZE = 10
_DEEPEST_RESULT = 100


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield pages of at most 10 results, 100 in all."""
    code = language.partition("-")[0]
    of_language = {"lr": f"lang_{code}", "hl": code} if code else {}
    for start in range(1, _DEEPEST_RESULT, _PAGE_SIZE):
        answer = fetch({"q": query, "searchType": "image", "num": _PAGE_SIZE, "start": start, **of_language})
        queries = need(answer, "queries", dict)
        # `items` is left out where there are none.
        yield [_fields(item) for item in need_items(answer, "items")] if "items" in answer else []
        if not queries.get("nextPage"):
            return


def _fields(item: Item) -> Fields:
    return {
        "image_url": text(item, "link"),
        "page_url": text(item, "image.contextLink"),
        "title": text(item, "title"),
    }


GOOGLE = Api(
    name="google",
    base_url="https://www.googleapis.com/customsearch/v1",
    results=_results,
    image_field="items[].link",
    key_parameters={"key": "TEZAWARI_GOOGLE_KEY", "cx": "TEZAWARI_GOOGLE_CX"},
)
