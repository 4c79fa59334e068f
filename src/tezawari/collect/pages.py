"""Answers of search APIs, asked for politely: paced, tried again, bounded in size and time, and clear when refused."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3

from tezawari.core.errors import UserError

CONTACT_VARIABLE = "TEZAWARI_CONTACT"

_TRY_AGAIN = {429, 500, 502, 503, 504}
_KEY_REFUSED = {401, 403}
_LONGEST_DETAIL = 160
# Where the services put the words of a refusal.
_DETAIL_FIELDS = ("error", "errors", "message", "detail", "info")


@dataclass(frozen=True)
class Service:
    """A search service as its users know it: its name, and the keys it is asked with.

    ``keys`` maps environment variables to their values; no message ever shows a value.
    """

    name: str
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes


def user_agent() -> str:
    """Return how requests introduce themselves: the program, its purpose, and whom to contact where that is known.

    The contact, an address or a page, is ``$TEZAWARI_CONTACT``. Raises UserError where it is not printable ASCII.
    """
    contact = os.environ.get(CONTACT_VARIABLE, "").strip()
    if not (contact.isascii() and contact.isprintable()):
        raise UserError(f"{CONTACT_VARIABLE} must be printable ASCII: an e-mail address or the URL of a page")
    words = ["builds image sets for research on material appearance", *([f"contact: {contact}"] if contact else [])]
    return f"tezawari/{version('tezawari')} ({'; '.join(words)})"


def refusal(service: Service, detail: str, of_key: bool) -> UserError:
    """Return the error for a request that a service answers with a refusal: of its key, or of something else."""
    said = _shown(service, detail)
    if of_key and service.keys:
        names = " or ".join(service.keys)
        return UserError(f"{service.name} refuses the key in {names} ({said}): export {names} with a valid one")
    if of_key:
        return UserError(
            f"{service.name} refuses access ({said}): it may want to know whom to contact:"
            f" export {CONTACT_VARIABLE}=you@example.org"
        )
    return UserError(f"{service.name} refuses the request ({said}): change the query, or choose another --source")


class Pages:
    """Fetches the JSON answers of search services with one session; for one thread at a time.

    Args:
        interval: least seconds between the starts of two requests to one host.
        timeout: seconds for connecting, for each wait for more bytes, and for one answer in all.
        attempts: how often a request is sent before it is given up.
        backoff: seconds before the second attempt; doubled for each further one. A longer ``Retry-After`` is obeyed.
        longest_wait: seconds beyond which a ``Retry-After`` is not waited for.
        max_bytes: size of the largest answer that is read, after decompression.
    """

    def __init__(
        self,
        interval: float = 1.0,
        timeout: float = 30.0,
        attempts: int = 4,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        max_bytes: int = 8 * 2**20,
    ) -> None:
        self.interval = interval
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self.longest_wait = longest_wait
        self.max_bytes = max_bytes
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": user_agent(), "Accept": "application/json"})
        self._next_start: dict[str, float] = {}

    def get(
        self, service: Service, url: str, parameters: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the JSON object that a service answers with.

        An answer 429 or 5xx, a connection that fails and one that stalls are tried again after a pause; redirects are
        not followed, so that a key goes nowhere but to the host that it is for.

        Raises:
            UserError: no connection, no answer in time, a refusal (of the key: its variable is named), an answer that
                is too large or is no JSON object, or a URL that is none.
        """
        where = _host(service, url)
        for attempt in range(1, self.attempts + 1):
            self._pace(where)
            wait = self.backoff * 2 ** (attempt - 1)
            try:
                answer = self._ask(service, url, parameters, headers)
            except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError, TimeoutError) as error:
                problem = _describe_failure(error, where, self.timeout)
            else:
                if answer.status not in _TRY_AGAIN:
                    return _read(service, answer)
                problem = f"answers {_shown(service, _described(answer))}"
                wait = max(wait, self._asked_wait(service, answer))
            if attempt < self.attempts:
                time.sleep(wait)
        raise UserError(f"{service.name} {problem}, {self.attempts} times over: type the same command again later")

    def _pace(self, host: str) -> None:
        now = time.monotonic()
        start = max(now, self._next_start.get(host, now))
        self._next_start[host] = start + self.interval
        time.sleep(start - now)

    def _asked_wait(self, service: Service, answer: _Answer) -> float:
        seconds = _retry_after(answer.headers.get("Retry-After", ""))
        if seconds > self.longest_wait:
            raise UserError(
                f"{service.name} answers {answer.status} and asks to wait {seconds:.0f} s:"
                " type the same command again after that"
            )
        return seconds

    def _ask(
        self, service: Service, url: str, parameters: Mapping[str, str | int], headers: Mapping[str, str]
    ) -> _Answer:
        deadline = time.monotonic() + self.timeout
        try:
            response = self._session.get(
                url, params=parameters, headers=headers, timeout=self.timeout, allow_redirects=False, stream=True
            )
        except requests.exceptions.SSLError as error:
            raise UserError(
                f"{service.name}: the certificate of {_host(service, url)} cannot be trusted: check the address, the"
                " clock and the network"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{service.name}: {_host(service, url)} is no address to search at") from error
        with response:
            content = bytearray()
            # read1 returns what there is: read() would let a dripping server hold it beyond the deadline.
            while chunk := response.raw.read1(65536, decode_content=True):
                content += chunk
                if len(content) > self.max_bytes:
                    raise UserError(
                        f"{service.name} answers with more than {self.max_bytes / 2**20:g} MB: is {_host(service, url)}"
                        " the right address?"
                    )
                if time.monotonic() > deadline:
                    raise TimeoutError
            return _Answer(response.status_code, response.headers, bytes(content))


def _retry_after(value: str) -> float:
    """Return the seconds of a ``Retry-After``, a number or a date (RFC 9110, 10.2.3); 0 for what is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _host(service: Service, url: str) -> str:
    """Return the host and port of a URL: without user, password, or query, which may hold keys."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None:
        raise UserError(f"{service.name} has no valid address: write it as https://HOST/PATH")
    return f"{host}:{port}" if port else host


def _describe_failure(error: Exception, where: str, timeout: float) -> str:
    # The exceptions' own words quote the URL, and with it the key.
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return f"({where}) did not answer within {timeout:g} s"
    if isinstance(error, requests.ConnectionError):
        return f"({where}) cannot be reached, check the network"
    return f"({where}) broke its answer off"


def _read(service: Service, answer: _Answer) -> dict[str, Any]:
    if answer.status != 200:
        described = _described(answer)
        if 300 <= answer.status < 400:
            target = answer.headers.get("Location", "nowhere").partition("?")[0]
            raise UserError(_shown(service, f"{service.name} has moved to {target}: search at that address"))
        # Google says 400 of a key that it does not know.
        of_key = answer.status in _KEY_REFUSED or (answer.status == 400 and "api key" in described.lower())
        raise refusal(service, described, of_key)
    read = _parsed(answer)
    if not isinstance(read, dict):
        kind = answer.headers.get("Content-Type", "no type given")
        raise UserError(
            _shown(service, f"{service.name} answers with something that is no JSON object ({kind})")
            + ": try again later, or choose another --source"
        )
    return read


def _parsed(answer: _Answer) -> object:
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        return None


def _described(answer: _Answer) -> str:
    said = _detail(_parsed(answer), depth=4)
    return f"{answer.status}: {said}" if said else str(answer.status)


def _detail(answer: object, depth: int) -> str:
    """Return the first words of a refusal that are found where services put them."""
    if isinstance(answer, str):
        return answer
    inside: list[object] = []
    if isinstance(answer, list):
        inside = answer[:1]
    elif isinstance(answer, dict):
        inside = [answer[name] for name in _DETAIL_FIELDS if name in answer]
    found = (_detail(value, depth - 1) for value in inside if depth)
    return next((words for words in found if words), "")


def _shown(service: Service, words: str) -> str:
    """Return words of a service as one short line without control characters or keys."""
    for key in service.keys.values():
        words = words.replace(key, "…")
    line = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    return line if len(line) <= _LONGEST_DETAIL else f"{line[: _LONGEST_DETAIL - 1]}…"
