"""What every source of images keeps to: one way to be searched, and the same limits on what is asked of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Protocol

from tezawari.collect.found import FoundImage
from tezawari.core.errors import UserError

LONGEST_QUERY = 1000

_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")
# Control characters, halves of surrogate pairs, line and paragraph separators. Joiners of emoji (Cf) are welcome.
_FORBIDDEN_CATEGORIES = {"Cc", "Cs", "Zl", "Zp"}


class Source(Protocol):
    """Somewhere that images of a word are found."""

    @property
    def name(self) -> str:
        """What :attr:`FoundImage.source` holds for its images."""

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images found for a query, in the order of the search, at most ``limit``; perhaps none.

        The query is checked at the call; results are fetched as they are asked for.

        Args:
            query: a word or several, passed on in Unicode's NFC form.
            language: of the query, like ``ja`` or ``ja-JP``; empty where it is unknown. Sources that know no languages
                pay no heed to it.
            limit: from 1.

        Raises:
            UserError: a query that is empty, too long or holds control characters; a language or limit that is none;
                at the call or while results are taken, whatever keeps the source from answering.
        """


def check_search(query: str, language: str, limit: int) -> str:
    """Return a query as it is to be passed on (NFC, no space around it), or raise UserError for what is wrong."""
    checked = unicodedata.normalize("NFC", query).strip()
    if not checked:
        raise UserError("the query is empty: type a word, such as ふわふわ")
    if len(checked) > LONGEST_QUERY:
        raise UserError(f"the query has {len(checked):,} characters, more than {LONGEST_QUERY:,}: type a shorter one")
    bad = next((c for c in checked if unicodedata.category(c) in _FORBIDDEN_CATEGORIES), None)
    if bad is not None:
        raise UserError(f"the query holds the control character U+{ord(bad):04X}: type it without")
    if language and not _LANGUAGE.fullmatch(language):
        raise UserError(f"language {language!r} must look like ja or ja-JP, or be empty")
    if limit < 1:
        raise UserError(f"limit {limit}: must be at least 1")
    return checked
