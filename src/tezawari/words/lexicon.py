"""The words the project knows: onomatopoeia of touch and look, names of materials, adjectives.

The entries are in ``lexicon.tsv`` beside this module, one a line. Glosses, senses and the choice of words are ours
[ours]; the words that the talk and the papers behind it name are all among them.
"""

from __future__ import annotations

import csv
import difflib
import functools
import reprlib
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

from tezawari.core.errors import UserError

Kind = Literal["onomatopoeia", "material", "adjective"]
Sense = Literal["touch", "look", "sound", "food"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SENSES: tuple[Sense, ...] = get_args(Sense)

# The two syllabaries stand in the same order in Unicode.
_HIRAGANA = range(ord("ぁ"), ord("ゖ") + 1)
_TO_KATAKANA = {code: code + ord("ァ") - ord("ぁ") for code in _HIRAGANA}
_TO_HIRAGANA = {katakana: hiragana for hiragana, katakana in _TO_KATAKANA.items()}

_MACRONS = {"ā": "aa", "ī": "ii", "ū": "uu", "ē": "ee", "ō": "oo"}
# What is typed on a keyboard is often not Hepburn (huwahuwa, zyarizyari, pocchari). Longer spellings come first.
_AS_TYPED = (
    *(("tchi", "tti"), ("tch", "tty"), ("shi", "si"), ("sh", "sy"), ("chi", "ti"), ("ch", "ty")),
    *(("tsu", "tu"), ("ji", "zi"), ("j", "zy"), ("fu", "hu")),
)
_IGNORED = str.maketrans("", "", " -'’・")


@dataclass(frozen=True)
class Entry:
    """One word: how it is written, read and meant."""

    kind: Kind
    word: str
    """As it is usually written; onomatopoeia in hiragana."""
    reading: str
    """In hiragana."""
    romaji: str
    """Modified Hepburn: long vowels bear a macron (``gyūgyū``; ei and ii stay as they are), n' before a vowel or y."""
    gloss: str
    """A short English meaning; of materials and most adjectives the English name."""
    senses: tuple[Sense, ...]
    """What the word tells of, at least one for onomatopoeia; empty for materials and for adjectives of none of them."""
    other_forms: tuple[str, ...]
    """Other spellings and close synonyms that name the same thing, such as 滑らか of なめらか or 硝子 of ガラス."""

    @property
    def katakana(self) -> str:
        """The reading in katakana."""
        return to_katakana(self.reading)


def to_katakana(text: str) -> str:
    """Return ``text`` with hiragana turned into katakana, all else unchanged."""
    return text.translate(_TO_KATAKANA)


def to_hiragana(text: str) -> str:
    """Return ``text`` with katakana turned into hiragana (the long mark ー stays), all else unchanged."""
    return text.translate(_TO_HIRAGANA)


@functools.cache
def load_lexicon() -> tuple[Entry, ...]:
    """Return all entries: onomatopoeia, then materials, then adjectives."""
    lines = files("tezawari.words").joinpath("lexicon.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(_entry(row) for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def select(kind: Kind | None = None, sense: Sense | None = None) -> tuple[Entry, ...]:
    """Return the entries of a kind and with a sense, in the lexicon's order; None asks for all."""
    return tuple(
        entry
        for entry in load_lexicon()
        if (kind is None or entry.kind == kind) and (sense is None or sense in entry.senses)
    )


def find(word: str) -> Entry:
    """Return the entry of a word: in hiragana, katakana or kanji, in romaji, or by the English name of a material.

    Width, case, spaces, hyphens and apostrophes do not matter (Unicode NFKC). Of a long vowel the macron (``gyūgyū``),
    the doubled letter (``gyuugyuu``), ``ou`` for ō and the bare letter (``gyugyu``) are all understood, and so are
    Kunrei spellings (``huwahuwa``) and ``cch`` for tch.

    Raises:
        UserError: a word that the lexicon does not have; the message names the nearest ones.
    """
    key = _key(word)
    entry = _index().get(key)
    if entry is None:
        near = difflib.get_close_matches(key, _index(), n=3, cutoff=0.5)
        words = (f"{found.word} ({found.romaji})" for found in dict.fromkeys(_index()[name] for name in near))
        hint = f" (did you mean {', '.join(words)}?)" if near else ""
        raise UserError(f"the lexicon has no word {reprlib.repr(word)}{hint}: tezawari words lists them all")
    return entry


def is_known(word: str) -> bool:
    """Say whether :func:`find` knows a word."""
    return _key(word) in _index()


def lookup_keys(entry: Entry) -> set[str]:
    """Return the keys under which :func:`find` looks an entry up; no two entries share one."""
    names = {entry.word, entry.reading, *entry.other_forms, *_romaji_spellings(entry.romaji)}
    if entry.kind != "onomatopoeia":
        names.add(entry.gloss)
    return {_key(name) for name in names}


def _key(text: str) -> str:
    return to_hiragana(unicodedata.normalize("NFKC", text).casefold()).translate(_IGNORED)


def _romaji_spellings(romaji: str) -> set[str]:
    doubled = "".join(_MACRONS.get(letter, letter) for letter in romaji)
    bare = "".join(_MACRONS.get(letter, letter)[0] for letter in romaji)
    kunrei = functools.reduce(lambda text, pair: text.replace(*pair), _AS_TYPED, doubled)
    return {romaji, doubled, doubled.replace("oo", "ou"), bare, kunrei, doubled.replace("tch", "cch")}


@functools.cache
def _index() -> dict[str, Entry]:
    return {key: entry for entry in load_lexicon() for key in lookup_keys(entry)}


def _entry(row: dict[str, str]) -> Entry:
    senses = tuple(sense for sense in SENSES if sense in row["senses"].split())
    kind = next(kind for kind in KINDS if kind == row["kind"])
    others = tuple(row["other_forms"].split())
    return Entry(kind, row["word"], row["reading"], row["romaji"], row["gloss"], senses, others)
