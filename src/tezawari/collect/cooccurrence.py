"""Co-occurrence: a word searched for together with nouns that it is said of, all results in the word's own set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tezawari.collect.found import FoundImage
from tezawari.collect.gather import Named
from tezawari.collect.sources.api import ApiSource
from tezawari.collect.sources.source import Source
from tezawari.core.errors import UserError


@dataclass(frozen=True)
class WithNoun:
    """A source that is asked for the word and ``noun``; see :class:`~tezawari.collect.sources.source.Source`."""

    source: Source
    noun: str

    @property
    def name(self) -> str:
        """The source's own: an image is from there, whatever it was asked for."""
        return self.source.name

    def search(self, query: str, language: str, limit: int) -> Iterator[FoundImage]:
        """Return the images found for ``query`` and the noun, as ``ふわふわ 犬``."""
        return self.source.search(f"{query} {self.noun}", language, limit)


def with_nouns(sources: Sequence[Named], nouns: Sequence[str]) -> list[Named]:
    """Return the sources, and each search API again for each of the nouns.

    What ``ふわふわ 犬`` finds shows ふわふわ too. It joins the word's own results, each image at the place that it has
    in its own search, so that the first ones, of which re-ranking learns what the word looks like, show it on several
    things [ours]. Folders, lists of URLs and tables of captions are searched for the word alone: they hold what they
    hold, and a folder without a subfolder of that name would give all that it has.

    Raises :class:`UserError` for nouns where no source is a search API.
    """
    apis = [named for named in sources if isinstance(named.source, ApiSource)]
    if nouns and not apis:
        raise UserError(
            f"{', '.join(nouns)}: nouns go with search APIs only, and no source is one: choose one, or leave the nouns"
            " out"
        )
    return [
        *sources,
        *(Named(f"{named.key} + {noun}", WithNoun(named.source, noun)) for noun in nouns for named in apis),
    ]
