"""Search APIs as sources: each is a description of its own, all are driven by one class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, TypeVar

from tezawari.collect.found import FoundImage
from tezawari.collect.pages import Pages, Service, refusal
from tezawari.collect.sources.source import check_search
from tezawari.core.errors import UserError

Item = Mapping[str, Any]
Fetch = Callable[[Mapping[str, str | int]], Item]
"""Parameters of a request → the JSON object it is answered with; keys are added on the way."""

Kind = TypeVar("Kind")


class Fields(TypedDict, total=False):
    """What an API says of one image; ``image_url`` is absent or empty where it does not say that."""

    image_url: str
    page_url: str
    title: str
    author: str
    licence: str
    licence_url: str


@dataclass(frozen=True)
class Api:
    """How one search API is asked, and how its answers are read."""

    name: str
    base_url: str
    results: Callable[[Fetch, str, str, int], Iterator[Sequence[Fields]]]
    """(fetch, query, language, limit) → pages of results, each fetched when it is asked for."""
    image_field: str
    """Where an answer holds an image's URL: named when no result has one."""
    key_headers: Mapping[str, str] = field(default_factory=dict)
    """Header of a request → environment variable with its value."""
    key_parameters: Mapping[str, str] = field(default_factory=dict)
    """Parameter of a request → environment variable with its value."""
    keys_optional: bool = False


class ChangedFormError(Exception):
    """An answer lacks a field that the API's documentation promises, or holds something else there."""


class RefusedError(Exception):
    """An answer 200 whose content is a refusal."""

    def __init__(self, detail: str, of_key: bool = False) -> None:
        super().__init__(detail)
        self.of_key = of_key


class ApiSource:
    """Images found by a search API; see :class:`~tezawari.collect.sources.source.Source`.

    Results without the URL of an image are left out, unless a whole page has none: then the answer's form has changed.

    Raises UserError for a key that is missing from the environment or could not be sent.
    """

    def __init__(self, api: Api, pages: Pages, base_url: str | None = None) -> None:
        self.name = api.name
        self._api = api
        self._pages = pages
        self._base_url = base_url or api.base_url
        self._headers = _keys(api, api.key_headers)
        self._parameters = _keys(api, api.key_parameters)
        named = {**api.key_headers, **api.key_parameters}
        self._service = Service(
            api.name, {named[sent]: key for sent, key in {**self._headers, **self._parameters}.items()}
        )

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images found, the pages of results being fetched one after another as they are needed."""
        return self._found(check_search(query, language, limit), language, limit)

    def _found(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        position = 0
        try:
            for page in self._api.results(self._fetch, query, language, limit):
                named = [fields for fields in page if fields.get("image_url")]
                if page and not named:
                    raise ChangedFormError(self._api.image_field)
                for fields in named:
                    position += 1
                    yield FoundImage(source=self.name, position=position, **fields)
                    if position == limit:
                        return
        except ChangedFormError as error:
            raise UserError(
                f"{self.name} has changed the form of its answers, {error} is missing or unlike what is documented:"
                " choose another --source, or look for a newer tezawari"
            ) from error
        except RefusedError as error:
            raise refusal(self._service, str(error), error.of_key) from error

    def _fetch(self, parameters: Mapping[str, str | int]) -> Item:
        return self._pages.get(self._service, self._base_url, {**parameters, **self._parameters}, self._headers)


def need(answer: Item, path: str, kind: type[Kind]) -> Kind:
    """Return what an answer holds at a dotted path, or raise ChangedFormError where that is not of its kind."""
    value: object = answer
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ChangedFormError(path)
    return value


def need_items(answer: Item, path: str) -> list[Item]:
    """Return the list of objects at a dotted path, or raise ChangedFormError."""
    items = need(answer, path, list)
    if not all(isinstance(item, Mapping) for item in items):
        raise ChangedFormError(path)
    return items


def text(item: Item, path: str) -> str:
    """Return the text (or number) at a dotted path as one clean line; empty where the answer holds none."""
    value: object = item
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return clean(str(value)) if isinstance(value, (str, int, float)) else ""


def clean(words: str) -> str:
    """Return words as one line that any file and database can hold: no control characters, no half surrogates."""
    whole = words.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(" " if c < " " or c == "\x7f" else c for c in whole).split())


def _keys(api: Api, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that are in the environment, by the header or parameter they are sent in."""
    keys = {}
    for sent, variable in variables.items():
        key = os.environ.get(variable, "").strip()
        if not key:
            if api.keys_optional:
                continue
            raise UserError(f"{api.name} needs a key: export {variable}=… with yours, or choose another --source")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError(f"{variable} holds characters that no key has: export it again")
        keys[sent] = key
    return keys
