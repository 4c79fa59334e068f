"""What a site says to robots: robots.txt (RFC 9309) and the X-Robots-Tag header."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from protego import Protego

from tezawari.collect.found import Refused

MAX_ROBOTS_BYTES = 512 * 1024
"""RFC 9309, section 2.5: at least 500 kibibytes are read; the rest is ignored."""

# Those that speak of images or of machine learning, and those that forbid all indexing, "none" among them.
_FORBIDDING = {"none", "noai", "noimageai", "noindex", "noimageindex"}
# Directives that have a colon themselves; any other word before a colon names the robot that is spoken to.
_WITH_VALUE = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
_ADDRESSED = re.compile(r"\s*([^\s:,]+)\s*:")

Rules = Protego | Refused
"""A site's robots.txt, or why nothing of the site may be fetched."""


def product_token(user_agent: str) -> str:
    """Return the name by which robots.txt calls a robot: ``tezawari`` of ``tezawari/0.1 (…)``."""
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0].lower()


def read_rules(status: int, body: bytes) -> Rules:
    """Return the rules that an answer for robots.txt means.

    RFC 9309, section 2.3.1: 4xx means that there are none, a server's failure that everything is forbidden.
    """
    if 200 <= status < 300:
        return Protego.parse(body[:MAX_ROBOTS_BYTES].decode("utf-8", "replace").removeprefix("\ufeff"))
    if 400 <= status < 500:
        return Protego.parse("")
    return Refused("robots", f"robots.txt answers {status}, which forbids all until it is mended")


def refusal_by_rules(rules: Rules, url: str, product: str) -> Refused | None:
    """Return why ``rules`` forbid ``url`` to the robot ``product``, or None."""
    if isinstance(rules, Refused):
        return rules
    return None if rules.can_fetch(url, product) else Refused("robots", f"robots.txt forbids it to {product}")


def crawl_delay(rules: Rules, product: str) -> float:
    """Return the seconds that ``rules`` want between two requests of the robot ``product``; 0 where they say nothing.

    Crawl-delay is in no standard and in many files. What is no number above 0 says nothing.
    """
    said = None if isinstance(rules, Refused) else rules.crawl_delay(product)
    return said if said is not None and math.isfinite(said) and said > 0 else 0.0


def refusal_by_tag(headers: Iterable[str], product: str) -> Refused | None:
    """Return why the values of X-Robots-Tag forbid an image to the robot ``product``, or None.

    ``noai``, ``noimageai`` and ``none`` forbid it, and so do ``noindex`` and ``noimageindex``, which ``none`` stands
    for. [ours] A value may speak to one robot alone (``otherbot: noai``): all that follows on its line is for that one.
    """
    for header in headers:
        addressed = _ADDRESSED.match(header)
        words = header
        if addressed and addressed[1].lower() not in _WITH_VALUE:
            if addressed[1].lower() != product:
                continue
            words = header[addressed.end() :]
        said = {word.strip().lower() for word in words.split(",")} & _FORBIDDING
        if said:
            return Refused("robots", f"X-Robots-Tag says {min(said)}")
    return None
