"""Flickr: public photos by relevance, with a key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tezawari.collect.sources.api import Api, Fetch, Fields, Item, RefusedError, need, need_items, text

_PAGE_SIZE = 500
# Results after the 4,000th are repetitions: https://www.flickr.com/services/api/flickr.photos.search.html
_DEEPEST_RESULT = 4000
_INVALID_KEY = "100"
# [ours] The longer side has 1024, 800, 640 or 500 pixels; the original only where there is nothing else.
_SIZES = ("url_l", "url_c", "url_z", "url_m", "url_o")


def _results(fetch: Fetch, query: str, language: str, limit: int) -> Iterator[Sequence[Fields]]:
    """Yield pages of at most 500 photos, 4,000 in all; Flickr knows no languages."""
    licences = _licences(fetch)
    size = min(limit, _PAGE_SIZE)
    for page in range(1, _DEEPEST_RESULT // size + 1):
        answer = _call(
            fetch,
            "flickr.photos.search",
            {
                "text": query,
                "sort": "relevance",
                "media": "photos",
                "extras": ",".join(("license", "owner_name", *_SIZES)),
                "per_page": size,
                "page": page,
            },
        )
        yield [_fields(item, licences) for item in need_items(answer, "photos.photo")]
        if page >= need(answer, "photos.pages", int):
            return


def _licences(fetch: Fetch) -> dict[str, Item]:
    """Return the licences by the numbers that photos give for theirs."""
    answer = _call(fetch, "flickr.photos.licenses.getInfo", {})
    return {text(licence, "id"): licence for licence in need_items(answer, "licenses.license")}


def _call(fetch: Fetch, method: str, parameters: Mapping[str, str | int]) -> Item:
    answer = fetch({"method": method, "format": "json", "nojsoncallback": 1, **parameters})
    if need(answer, "stat", str) != "ok":
        raise RefusedError(text(answer, "message"), of_key=text(answer, "code") == _INVALID_KEY)
    return answer


def _fields(item: Item, licences: Mapping[str, Item]) -> Fields:
    licence = licences.get(text(item, "license"), {})
    return {
        "image_url": next((url for size in _SIZES if (url := text(item, size))), ""),
        "page_url": f"https://www.flickr.com/photos/{need(item, 'owner', str)}/{need(item, 'id', str)}",
        "title": text(item, "title"),
        "author": text(item, "ownername"),
        "licence": text(licence, "name"),
        "licence_url": text(licence, "url"),
    }


FLICKR = Api(
    name="flickr",
    base_url="https://api.flickr.com/services/rest/",
    results=_results,
    image_field="photos.photo[].url_l",
    key_parameters={"api_key": "TEZAWARI_FLICKR_KEY"},
)
