"""Any endpoint that answers as Bing's image search (v7) did; Bing's own was closed in 2025."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tezawari.collect.sources.api import Api, Fetch, Fields, Item, need, need_items, text

_PAGE_SIZE = 150


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield pages of at most 150 results, each beginning where the one before says that the next one does."""
    of_language = {"setLang": language.partition("-")[0]} if language else {}
    if "-" in language:
        of_language["mkt"] = language
    offset = 0
    while True:
        answer = fetch({"q": query, "count": min(limit, _PAGE_SIZE), "offset": offset, **of_language})
        items = need_items(answer, "value")
        yield [_fields(item) for item in items]
        if not items or "nextOffset" not in answer:
            return
        following, total = need(answer, "nextOffset", int), answer.get("totalEstimatedMatches")
        if following <= offset or (isinstance(total, int) and following >= total):
            return
        offset = following


def _fields(item: Item) -> Fields:
    return {
        "image_url": text(item, "contentUrl"),
        "page_url": text(item, "hostPageUrl"),
        "title": text(item, "name"),
        "licence": text(item, "creativeCommons"),
    }


def bing_like(url: str) -> Api:
    """Describe an endpoint by its URL; the key ``$TEZAWARI_BING_KEY`` is sent where it is set."""
    return Api(
        name="bing-like",
        base_url=url,
        results=_results,
        image_field="value[].contentUrl",
        key_headers={"Ocp-Apim-Subscription-Key": "TEZAWARI_BING_KEY"},
        keys_optional=True,
    )
