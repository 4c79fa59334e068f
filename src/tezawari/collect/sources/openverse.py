"""Openverse: openly licensed images of many collections, without a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tezawari.collect.sources.api import Api, Fetch, Fields, Item, need, need_items, text

# What a request without a key may ask for: https://api.openverse.org/v1/#tag/images/operation/images_search
_PAGE_SIZE = 20
_DEEPEST_RESULT = 240


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield pages of at most 20 results, 240 in all; Openverse knows no languages and cuts queries at 200."""
    for page in range(1, _DEEPEST_RESULT // _PAGE_SIZE + 1):
        answer = fetch({"q": query, "page": page, "page_size": _PAGE_SIZE})
        yield [_fields(item) for item in need_items(answer, "results")]
        if page >= need(answer, "page_count", int):
            return


def _fields(item: Item) -> Fields:
    return {
        "image_url": text(item, "url"),
        "page_url": text(item, "foreign_landing_url"),
        "title": text(item, "title"),
        "author": text(item, "creator"),
        "licence": f"{text(item, 'license')} {text(item, 'license_version')}".strip(),
        "licence_url": text(item, "license_url"),
    }


OPENVERSE = Api(
    name="openverse",
    base_url="https://api.openverse.org/v1/images/",
    results=_results,
    image_field="results[].url",
)
