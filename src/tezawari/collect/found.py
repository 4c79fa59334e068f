"""What a source finds and what becomes of it on the way: the values that sources, download and store exchange."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal[
    "address",  # a private, loopback or link-local address, or a scheme that is not http(s)
    "robots",  # robots.txt or X-Robots-Tag says no
    "status",  # an answer other than 200: gone, forbidden, refused too often
    "redirects",
    "connection",  # no such host, refused, reset, cut short
    "time",
    "bytes",  # more of them than allowed, or fewer than announced
    "type",  # not a picture, or not of a format that is read
    "pixels",  # too many or too few
    "damaged",
]
REASONS: tuple[Reason, ...] = get_args(Reason)


@dataclass(frozen=True)
class FoundImage:
    """One result of a search: where the image is, and whose it is.

    ``image_url`` may also be the path of a file, from a folder. Empty strings stand for what the source does not say.
    """

    image_url: str
    source: str
    """The name of the source, such as ``openverse``."""
    position: int
    """Its place in the order of the search, from 1."""
    page_url: str = ""
    title: str = ""
    author: str = ""
    licence: str = ""
    """As the source names it, such as ``by-sa 4.0``."""
    licence_url: str = ""


@dataclass(frozen=True)
class Fetched:
    """An image that arrived whole and was decoded once: its bytes as they came, and what is known of them."""

    content: bytes
    sha256: str
    extension: str
    """Of the format that was found in the bytes, without a dot: ``jpg``, ``png``, ``webp``, ``gif``, …"""
    width: int
    height: int
    final_url: str
    """After redirects."""


@dataclass(frozen=True)
class Refused:
    """An image that was not taken, and why: a reason to count by, and a line to read."""

    reason: Reason
    detail: str
