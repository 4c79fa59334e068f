"""Each search API against a local server that answers in its documented form, and holds clients to its limits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from api_server import ApiServer, Reply, Request, serve

from tezawari.collect.found import FoundImage
from tezawari.collect.pages import Pages
from tezawari.collect.sources import Source, open_source
from tezawari.core.errors import UserError

KEY = "s3cret-key"


@dataclass(frozen=True)
class Picture:
    """What a service knows of one image of its catalogue; None is left out of its answers, or null there."""

    number: int
    title: str | None
    author: str | None
    licence: bool

    @property
    def url(self) -> str:
        """Where it is, with what must survive in a URL."""
        return f"https://img.example.org/{self.number}.jpg?w=1&x=%E3%81%B5"

    @property
    def page(self) -> str:
        """The page that shows it."""
        return f"https://www.example.org/{self.number}"


def catalogue(count: int) -> list[Picture]:
    """Make pictures of which every third lacks all that is optional."""
    return [
        Picture(n, f"ふわふわ no. {n}", f"Ms {n} 手", True) if n % 3 else Picture(n, None, None, False)
        for n in range(1, count + 1)
    ]


def expected(picture: Picture, name: str, position: int, **fields: str) -> FoundImage:
    return FoundImage(picture.url, name, position, **({"title": picture.title or ""} | fields))


class Refusal(Exception):
    """Raised by a service below when a request breaks its rules."""


def number(request: Request, name: str, default: int | None, low: int, high: int) -> int:
    """Read a whole number between bounds, as the services do."""
    if default is None and name not in request.query:
        raise Refusal(f"{name} is required")
    value = int(request.query.get(name, str(default)))
    if not low <= value <= high:
        raise Refusal(f"{name} must lie between {low} and {high}")
    return value


def present(**fields: Any) -> dict[str, Any]:
    """Make an object without the fields that are None."""
    return {name: value for name, value in fields.items() if value is not None}


# Each service: how it answers, by its documentation, and what FoundImage should become of a picture.


def openverse(pictures: Sequence[Picture], request: Request) -> Any:
    """https://api.openverse.org/v1/ (images_search), as an anonymous client sees it."""
    size, page = number(request, "page_size", 20, 1, 20), number(request, "page", 1, 1, 240)
    if size * page > 240:
        raise Refusal("too deep")
    return {
        "result_count": len(pictures),
        "page_count": -(-len(pictures) // size),  # pages there are, not pages that may be asked for
        "page_size": size,
        "page": page,
        "results": [
            {
                "id": f"4bc43a04-{p.number}",
                "title": p.title,
                "foreign_landing_url": p.page,
                "url": p.url,
                "creator": p.author,
                "license": "by-sa" if p.licence else "pdm",
                "license_version": "4.0" if p.licence else None,
                "license_url": "https://creativecommons.org/licenses/by-sa/4.0/" if p.licence else None,
                "thumbnail": f"https://api.example.org/{p.number}/thumb/",
                "unstable__sensitivity": [],
            }
            for p in pictures[(page - 1) * size : page * size]
        ],
    }


def from_openverse(p: Picture, position: int) -> FoundImage:
    url = "https://creativecommons.org/licenses/by-sa/4.0/"
    licence = {"licence": "by-sa 4.0", "licence_url": url} if p.licence else {"licence": "pdm"}
    return expected(p, "openverse", position, page_url=p.page, author=p.author or "", **licence)


def commons(pictures: Sequence[Picture], request: Request) -> Any:
    """https://www.mediawiki.org/wiki/API:Search and API:Imageinfo, format version 2.

    Half of a page's images get their imageinfo in the first answer, the others in one that continues it; the list is
    in the order of the page numbers, not of the search.
    """
    asked = request.query
    if [asked.get(n) for n in ("action", "format", "formatversion", "generator", "gsrnamespace", "prop")] != [
        "query",
        "json",
        "2",
        "search",
        "6",
        "imageinfo",
    ]:
        return {"error": {"code": "badvalue", "info": "Unrecognized value"}}
    size, offset = number(request, "gsrlimit", 10, 1, 50), number(request, "gsroffset", 0, 0, 10_000)
    hits = list(enumerate(pictures, start=1))[offset : offset + size]
    second = "iistart" in asked
    more = {"gsroffset": offset + size, "continue": "gsroffset||"} if offset + size < len(pictures) else None
    if not hits:
        return {"batchcomplete": True}
    listed = [
        {"pageid": 10_000 - p.number, "ns": 6, "title": f"File:Picture {p.number}.jpg", "index": index}
        | ({"imageinfo": [commons_info(p)]} if (index % 2 == 0) == second else {})
        for index, p in hits
    ]
    answer: dict[str, Any] = {"query": {"pages": sorted(listed, key=lambda page: page["pageid"])}}
    if not second:
        return {"continue": {"iistart": "2016", "gsroffset": offset, "continue": "||"}, **answer}
    return {"batchcomplete": True, **({"continue": more} if more else {}), **answer}


def commons_info(p: Picture) -> dict[str, Any]:
    about: Any = []  # PHP's empty object
    if p.licence:
        about = {
            "ObjectName": {"value": f"<b>{p.title}</b>", "source": "commons-desc-page"},
            "Artist": {"value": f'<p><a href="//c.org/U:{p.number}" title="a > b">{p.author}</a></p><p>&amp; co</p>'},
            "LicenseShortName": {"value": "CC BY-SA 4.0"},
            "LicenseUrl": {"value": "https://creativecommons.org/licenses/by-sa/4.0"},
        }
    return {
        "size": 4_000_000,
        "width": 3746,
        "height": 2400,
        "mime": "image/jpeg",
        "thumburl": p.url,
        "url": f"https://img.example.org/original/{p.number}.jpg",
        "descriptionurl": p.page,
        "extmetadata": about,
    }


def from_commons(p: Picture, position: int) -> FoundImage:
    if not p.licence:
        return expected(p, "commons", position, page_url=p.page, title=f"Picture {p.number}.jpg")
    licence_url = "https://creativecommons.org/licenses/by-sa/4.0"
    return expected(
        p,
        "commons",
        position,
        page_url=p.page,
        author=f"{p.author} & co",
        licence="CC BY-SA 4.0",
        licence_url=licence_url,
    )


def flickr(pictures: Sequence[Picture], request: Request) -> Any:
    """https://www.flickr.com/services/api/flickr.photos.search.html and flickr.photos.licenses.getInfo.html."""
    asked = request.query
    if asked.get("api_key") != KEY:
        return {"stat": "fail", "code": 100, "message": "Invalid API Key (Key has invalid format)"}
    if (asked.get("format"), asked.get("nojsoncallback")) != ("json", "1"):
        raise Refusal("XML is what you get")
    if asked["method"] == "flickr.photos.licenses.getInfo":
        by = {"id": 4, "name": "CC BY 2.0", "url": "https://creativecommons.org/licenses/by/2.0/"}
        return {"licenses": {"license": [{"id": 0, "name": "All Rights Reserved", "url": ""}, by]}, "stat": "ok"}
    size, page = number(request, "per_page", 100, 1, 500), number(request, "page", 1, 1, 4000)
    extras = asked["extras"].split(",")
    # A page beyond the last one is the last one again.
    pages = -(-len(pictures) // size)
    start = (max(1, min(page, pages)) - 1) * size
    photos = [
        {"id": str(p.number), "owner": "47058503995@N01", "secret": "a", "server": "2", "farm": 1, "ispublic": 1}
        | {"title": p.title or ""}
        | (present(ownername=p.author) if "owner_name" in extras else {})
        | ({"license": "4" if p.licence else "0"} if "license" in extras else {})
        | ({"url_l": p.url, "height_l": 700, "width_l": 1024} if p.licence and "url_l" in extras else {})
        | ({"url_z": p.url, "url_o": "https://img.example.org/o.jpg"} if not p.licence and "url_z" in extras else {})
        for p in pictures[start : start + size]
    ]
    found = {"page": page, "pages": pages, "perpage": size, "total": str(len(pictures)), "photo": photos}
    return {"photos": found, "stat": "ok"}


def from_flickr(p: Picture, position: int) -> FoundImage:
    page = f"https://www.flickr.com/photos/47058503995@N01/{p.number}"
    licence = {"licence": "All Rights Reserved"}
    if p.licence:
        licence = {"licence": "CC BY 2.0", "licence_url": "https://creativecommons.org/licenses/by/2.0/"}
    return expected(p, "flickr", position, page_url=page, author=p.author or "", **licence)


def brave(pictures: Sequence[Picture], request: Request) -> Any:
    """https://api-dashboard.search.brave.com/app/documentation/image-search."""
    if request.headers.get("x-subscription-token") != KEY:
        raise PermissionError("The provided subscription token is invalid.")
    if request.query.get("search_lang") == "ja":
        raise Refusal("Unable to validate request parameter(s)")  # Japanese is jp there
    count = number(request, "count", 50, 1, 200)
    results = [
        present(
            type="image_result",
            title=p.title,
            url=p.page,
            source="example.org",
            thumbnail={"src": "https://imgs.example.org/t"},
            properties={"url": p.url, "placeholder": "https://imgs.example.org/p"},
            confidence="high",
        )
        for p in pictures[:count]
    ]
    return {"type": "images", "query": {"original": request.query["q"]}, "results": results, "extra": {}}


def from_brave(p: Picture, position: int) -> FoundImage:
    return expected(p, "brave", position, page_url=p.page)


def google(pictures: Sequence[Picture], request: Request) -> Any:
    """https://developers.google.com/custom-search/v1/reference/rest/v1/cse/list."""
    if request.query.get("key") != KEY:
        raise Refusal("API key not valid. Please pass a valid API key.")
    if request.query.get("cx") != KEY or request.query.get("searchType") != "image":
        raise Refusal("Request contains an invalid argument.")
    size, start = number(request, "num", 10, 1, 10), number(request, "start", 1, 1, 91)
    hits = pictures[start - 1 : start - 1 + size]
    queries: dict[str, Any] = {"request": [{"totalResults": str(len(pictures)), "startIndex": start}]}
    if start - 1 + size < len(pictures):
        queries["nextPage"] = [{"startIndex": start + size}]  # also where it may not be asked for
    items = [
        present(kind="customsearch#result", title=p.title, link=p.url, mime="image/jpeg")
        | {"image": {"contextLink": p.page, "thumbnailLink": "https://t.example.org/", "width": 1}}
        for p in hits
    ]
    return {"kind": "customsearch#search", "queries": queries, **({"items": items} if items else {})}


def from_google(p: Picture, position: int) -> FoundImage:
    return expected(p, "google", position, page_url=p.page)


def bing(pictures: Sequence[Picture], request: Request) -> Any:
    """https://learn.microsoft.com/bing/search-apis/bing-image-search/reference/response-objects."""
    if request.headers.get("ocp-apim-subscription-key") != KEY:
        raise PermissionError("Access denied due to invalid subscription key.")
    count, offset = number(request, "count", 35, 1, 150), number(request, "offset", 0, 0, 10_000)
    value = [
        present(
            name=p.title, contentUrl=p.url, hostPageUrl=p.page, creativeCommons="Attribution" if p.licence else None
        )
        for p in pictures[offset : offset + count]
    ]
    # Estimates are high, and the last page names a next one.
    return {
        "_type": "Images",
        "totalEstimatedMatches": len(pictures) + 50,
        "nextOffset": offset + len(value),
        "value": value,
    }


def from_bing(p: Picture, position: int) -> FoundImage:
    licence = {"licence": "Attribution"} if p.licence else {}
    return expected(p, "bing-like", position, page_url=p.page, **licence)


Edit = Callable[[Any], None]


@dataclass(frozen=True)
class Case:
    """One API: its server's behaviour, and what the tests need to know of it."""

    name: str
    answer: Callable[[Sequence[Picture], Request], Any]
    found: Callable[[Picture, int], FoundImage]
    items: tuple[str, ...]
    """Where an answer has its results."""
    url_in: str
    """The field of a result with, or around, the URL of the image."""
    page: int
    """Results in one answer."""
    deepest: int
    keys: tuple[str, ...] = ()
    requests_a_page: int = 1
    requests_before: int = 0
    drops: Sequence[tuple[str, Edit]] = field(default_factory=tuple)
    """(field that the error names, how to take it out of an answer)."""


def drop(*path: str) -> Edit:
    """Take a field out of an answer; ``*`` goes into every element of a list."""

    def edit(answer: Any, path: Sequence[str] = path) -> None:
        if path[0] == "*":
            for element in answer:
                edit(element, path[1:])
        elif path[0] in answer and len(path) > 1:
            edit(answer[path[0]], path[1:])
        elif path[0] in answer:
            del answer[path[0]]

    return edit


def put(name: str, value: Any) -> Edit:
    """Put something else in the place of a field."""
    return lambda answer: answer.update({name: value}) if name in answer else None


def both(*edits: Edit) -> Edit:
    return lambda answer: [edit(answer) for edit in edits] and None


CASES = [
    Case(
        "openverse",
        openverse,
        from_openverse,
        items=("results",),
        url_in="url",
        page=20,
        deepest=240,
        drops=(
            ("results", drop("results")),
            ("results", put("results", {"0": {}})),
            ("results", put("results", ["a", "b"])),
            ("page_count", drop("page_count")),
            ("results[].url", drop("results", "*", "url")),
        ),
    ),
    Case(
        "commons",
        commons,
        from_commons,
        items=("query", "pages"),
        url_in="imageinfo",
        page=50,
        deepest=1000,
        requests_a_page=2,
        drops=(
            ("query.pages", both(drop("query"), drop("batchcomplete"))),
            ("query.pages", put("query", {"pages": {"83547663": {}}})),
            ("pageid", drop("query", "pages", "*", "pageid")),
            ("index", drop("query", "pages", "*", "index")),
            ("query.pages[].imageinfo[].url", drop("query", "pages", "*", "imageinfo")),
            ("continue", put("continue", {"iistart": "2016", "continue": "||"})),
        ),
    ),
    Case(
        "flickr",
        flickr,
        from_flickr,
        items=("photos", "photo"),
        url_in="url_l",
        page=500,
        deepest=4000,
        keys=("TEZAWARI_FLICKR_KEY",),
        requests_before=1,
        drops=(
            ("stat", drop("stat")),
            ("licenses.license", drop("licenses")),
            ("photos.photo", drop("photos", "photo")),
            ("photos.pages", drop("photos", "pages")),
            ("owner", drop("photos", "photo", "*", "owner")),
            (
                "photos.photo[].url_l",
                both(*(drop("photos", "photo", "*", f"url_{size}") for size in ("l", "z", "o"))),
            ),
        ),
    ),
    Case(
        "brave",
        brave,
        from_brave,
        items=("results",),
        url_in="properties",
        page=200,
        deepest=200,
        keys=("TEZAWARI_BRAVE_KEY",),
        drops=(
            ("results", drop("results")),
            ("results[].properties.url", drop("results", "*", "properties")),
        ),
    ),
    Case(
        "google",
        google,
        from_google,
        items=("items",),
        url_in="link",
        page=10,
        deepest=100,
        keys=("TEZAWARI_GOOGLE_KEY", "TEZAWARI_GOOGLE_CX"),
        drops=(
            ("queries", drop("queries")),
            ("items", put("items", "none")),
            ("items[].link", drop("items", "*", "link")),
        ),
    ),
    Case(
        "bing-like",
        bing,
        from_bing,
        items=("value",),
        url_in="contentUrl",
        page=150,
        deepest=1000,
        keys=("TEZAWARI_BING_KEY",),
        drops=(
            ("value", drop("value")),
            ("nextOffset", put("nextOffset", "150")),
            ("value[].contentUrl", drop("value", "*", "contentUrl")),
        ),
    ),
]
each_api = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@contextmanager
def running(
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    edit: Edit | None = None,
    before: Sequence[Reply] = (),
    key: str = KEY,
) -> Iterator[tuple[Source, ApiServer]]:
    """Run a service with a catalogue of ``count`` pictures and open it as a source, with the keys it wants."""
    first = list(before)

    def answer(request: Request) -> Reply:
        if first:
            return first.pop(0)
        try:
            body = case.answer(catalogue(count), request)
        except Refusal as error:
            return Reply({"error": {"code": 400, "message": str(error)}}, 400)
        except PermissionError as error:
            return Reply({"error": {"code": "401", "message": str(error)}}, 401)
        if edit is not None:
            edit(body)
        return Reply(body)

    for variable in case.keys:
        monkeypatch.setenv(variable, key)
    with serve(answer) as server:
        pages = Pages(interval=0.0, backoff=0.01, timeout=10.0)
        url = f"{server.url}/search"
        source = open_source(url, pages) if case.name == "bing-like" else open_source(case.name, pages, base_url=url)
        yield source, server


def search_all(source: Source, limit: int = 10_000, query: str = "ふわふわ", language: str = "ja") -> list[FoundImage]:
    return list(source.search(query, language, limit))


@each_api
def test_results_of_all_pages_come_in_order_with_all_that_is_said_of_them(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = min(case.page + 7, case.deepest)
    with running(case, monkeypatch, count) as (source, server):
        found = search_all(source)
    assert found == [case.found(picture, n) for n, picture in enumerate(catalogue(count), start=1)]
    assert len({request.query.get("q") for request in server.requests}) == 1


@each_api
def test_pages_are_fetched_when_they_are_needed_and_not_before(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(case, monkeypatch, case.page + 7) as (source, server):
        images = source.search("ふわふわ", "ja", case.page + 7)
        assert server.requests == []
        list(itertools.islice(images, case.page))
        one_page = case.requests_before + case.requests_a_page
        assert len(server.requests) == one_page
        rest = list(images)
        assert len(rest) == min(case.page + 7, case.deepest) - case.page
        assert len(server.requests) == one_page + (case.requests_a_page if rest else 0)


@each_api
@pytest.mark.parametrize("limit", [1, 13])
def test_no_more_is_found_than_the_limit(case: Case, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    with running(case, monkeypatch, 60) as (source, server):
        found = search_all(source, limit)
        pages = (
            -(-limit // min(case.page, limit)) if case.name not in {"google", "openverse"} else -(-limit // case.page)
        )
        assert len(server.requests) == case.requests_before + pages * case.requests_a_page
    assert found == [case.found(picture, n) for n, picture in enumerate(catalogue(limit), start=1)]


@each_api
def test_a_service_is_not_asked_for_more_than_it_gives(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers refuse what lies deeper, so a search that goes on would end in an error."""
    count = case.deepest + case.page + 1
    with running(case, monkeypatch, count) as (source, _):
        found = search_all(source)
    unbounded = case.name in {"commons", "bing-like"}
    assert len(found) == (count if unbounded else case.deepest)
    assert len({image.image_url for image in found}) == len(found)


@each_api
def test_nothing_found_is_no_error(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(case, monkeypatch, 0) as (source, _):
        assert search_all(source) == []


@each_api
def test_the_query_arrives_as_it_was_typed_in_nfc(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(case, monkeypatch, 1) as (source, server):
        list(source.search(" か\u3099さ/か\u3099さ 👩‍🔬 a&b=c+d#e%41 ", "ja", 5))
    asked = server.requests[-1].query
    got = asked.get("q") or asked.get("text") or asked["gsrsearch"].removeprefix("filetype:bitmap ")
    assert got == "がさ/がさ 👩‍🔬 a&b=c+d#e%41"


@pytest.mark.parametrize(
    ("name", "language", "sent"),
    [
        ("brave", "ja", {"search_lang": "jp"}),
        ("brave", "en-US", {"search_lang": "en"}),
        ("google", "ja-JP", {"lr": "lang_ja", "hl": "ja"}),
        ("bing-like", "ja-JP", {"setLang": "ja", "mkt": "ja-JP"}),
        ("bing-like", "ja", {"setLang": "ja"}),
        ("commons", "ja", {"iiextmetadatalanguage": "ja"}),
        ("brave", "", {}),
        ("google", "", {}),
        ("bing-like", "", {}),
    ],
)
def test_the_language_is_said_as_each_service_wants_it(
    monkeypatch: pytest.MonkeyPatch, name: str, language: str, sent: dict[str, str]
) -> None:
    names = {"search_lang", "lr", "hl", "setLang", "mkt", "iiextmetadatalanguage"}
    case = next(case for case in CASES if case.name == name)
    with running(case, monkeypatch, 1) as (source, server):
        list(source.search("ふわふわ", language, 5))
    assert {key: value for key, value in server.requests[-1].query.items() if key in names} == sent


@each_api
def test_a_busy_service_is_asked_again_without_losing_a_place(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(case, monkeypatch, 15) as (source, calm):
        undisturbed = search_all(source, 13)
    before = [Reply({"detail": "slow down"}, 429, {"Retry-After": "0"}), Reply(b"<html>", 503)]
    with running(case, monkeypatch, 15, before=before) as (source, server):
        assert search_all(source, 13) == undisturbed
        assert len(server.requests) == len(calm.requests) + 2


@pytest.mark.parametrize(
    ("case", "field_name", "edit"),
    [
        pytest.param(case, field_name, edit, id=f"{case.name}-{n}-{field_name}")
        for case in CASES
        for n, (field_name, edit) in enumerate(case.drops)
    ],
)
def test_an_answer_of_another_form_is_one_line_that_names_the_field(
    case: Case, field_name: str, edit: Edit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(case, monkeypatch, 60, edit) as (source, server), pytest.raises(UserError) as caught:
        search_all(source, 600)
    assert f"{case.name} has changed the form of its answers, {field_name} is missing" in str(caught.value)
    assert len(server.requests) < 10


@each_api
def test_results_without_the_url_of_an_image_are_left_out_and_take_no_position(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(answer: Any) -> None:
        items: Any = answer
        for name in case.items:
            items = items.get(name, {})
        for item in items:
            if "/1.jpg" in str(item):
                del item[case.url_in]

    with running(case, monkeypatch, 7, edit) as (source, _):
        found = search_all(source)
    assert found == [case.found(picture, n) for n, picture in enumerate(catalogue(7)[1:], start=1)]


@each_api
def test_a_refused_search_is_one_line_with_what_the_service_says(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Reply({"error": {"message": "No such parameter"}}, 400)
    with running(case, monkeypatch, 5, before=[refused]) as (source, server):
        with pytest.raises(UserError, match=f"{case.name} refuses the request \\(400: No such parameter\\)"):
            search_all(source)
        assert len(server.requests) == 1


with_key = pytest.mark.parametrize("case", [case for case in CASES if case.keys], ids=lambda case: case.name)


@with_key
def test_a_wrong_key_is_one_line_that_names_its_variable_and_not_the_key(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(case, monkeypatch, 5, key="wr0ng") as (source, _), pytest.raises(UserError) as caught:
        search_all(source)
    assert f"{case.name} refuses the key in {case.keys[0]}" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "  "])
@pytest.mark.parametrize(
    ("name", "variable"), [(case.name, key) for case in CASES for key in case.keys if case.name != "bing-like"]
)
def test_a_missing_key_is_named_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str, value: str | None
) -> None:
    for other in ("TEZAWARI_FLICKR_KEY", "TEZAWARI_BRAVE_KEY", "TEZAWARI_GOOGLE_KEY", "TEZAWARI_GOOGLE_CX"):
        monkeypatch.setenv(other, KEY)
    monkeypatch.setenv(variable, value) if value is not None else monkeypatch.delenv(variable)
    with pytest.raises(UserError, match=f"{name} needs a key: export {variable}="):
        open_source(name)


@pytest.mark.parametrize("key", ["two words", "鍵", "a\r\nX-Evil: 1"])
def test_a_key_that_no_header_can_hold_is_refused_unshown(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("TEZAWARI_BRAVE_KEY", key)
    with pytest.raises(UserError, match="TEZAWARI_BRAVE_KEY holds characters") as caught:
        open_source("brave")
    assert key not in str(caught.value)


def test_an_endpoint_like_bings_works_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEZAWARI_BING_KEY", raising=False)
    with serve(lambda request: Reply({"_type": "Images", "value": []})) as server:
        assert search_all(open_source(server.url + "/v7.0/images/search?safeSearch=off")) == []
    (request,) = server.requests
    assert "ocp-apim-subscription-key" not in request.headers
    assert request.path == "/v7.0/images/search"
    assert request.query["safeSearch"] == "off"


@pytest.mark.parametrize("following", [{"nextOffset": 0}, {"nextOffset": 2, "totalEstimatedMatches": 2}, {}])
def test_an_endpoint_like_bings_may_end_in_any_of_three_ways(following: dict[str, int]) -> None:
    value = [{"contentUrl": "https://a.org/1.jpg"}, {"contentUrl": "https://a.org/2.jpg"}]
    with serve(lambda request: Reply({"_type": "Images", "value": value, **following})) as server:
        assert len(search_all(open_source(server.url, Pages(interval=0.0)))) == 2
    assert len(server.requests) == 1


def test_an_error_of_mediawiki_in_an_answer_200_is_a_refusal() -> None:
    said = {"error": {"code": "internal_api_error", "info": "An error has occurred while searching"}}
    with (
        serve(lambda request: Reply(said)) as server,
        pytest.raises(UserError, match=r"commons refuses the request \(An error has occurred"),
    ):
        search_all(open_source("commons", Pages(interval=0.0), server.url))


def test_files_that_are_no_pictures_are_left_out_of_commons(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_sound(answer: Any) -> None:
        for page in answer["query"]["pages"]:
            for info in page.get("imageinfo", []):
                info["mime"] = "audio/ogg"

    case = next(case for case in CASES if case.name == "commons")
    with running(case, monkeypatch, 4, as_sound) as (source, _):
        assert search_all(source) == []


def test_texts_are_one_clean_line_that_any_file_and_database_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(answer: Any) -> None:
        answer["results"][0].update(title="a\x00\nb \ud800 c\u3000d", creator=7, license=None, license_url={"x": 1})

    case = CASES[0]
    with running(case, monkeypatch, 1, edit) as (source, _):
        (image,) = search_all(source)
    assert (image.title, image.author, image.licence, image.licence_url) == ("a b ? c d", "7", "4.0", "")
