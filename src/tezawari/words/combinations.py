"""Which words go with a noun: combinations such as ふわふわ + 犬, chosen by how often texts say both.

The talk measures discriminability among images of one noun with different words, the words chosen by co-occurrence in
texts of the web (Yanai, Shimoda and Matsuo 2016). What counts as an occurrence is ours [ours]: the words are looked for
as substrings, longest first, with the guards of :func:`word_finder` and of :func:`count_cooccurrences`, and no
morphological analyser is asked. Homographs across word boundaries in plain hiragana are therefore possible, and rare
for reduplicated words.
"""

from __future__ import annotations

import csv
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Literal, get_args

from tezawari.core.errors import UserError, did_you_mean
from tezawari.words.lexicon import Entry, Kind, find, is_known, load_lexicon, to_hiragana, to_katakana

Criterion = Literal["count", "pmi"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)

_KANA, _SMALL_KANA = "ぁ-ゖァ-ヶー", "ぁぃぅぇぉゃゅょゎァィゥェォャュョヮ"
_KANJI, _KATAKANA, _LATIN = "㐀-鿿々", "ァ-ヺー", "0-9a-zß-ɏ"
_CAPTION_COLUMNS = ("title", "caption")


@dataclass(frozen=True)
class Counts:
    """How often nouns and words occur, alone and together.

    ``pairs`` maps (noun, word) to a count; ``nouns`` and ``words`` are the totals of each, ``total`` that of all.
    """

    pairs: Mapping[tuple[str, str], int]
    nouns: Mapping[str, int]
    words: Mapping[str, int]
    total: int


@dataclass(frozen=True)
class Combination:
    """A noun and a word said of it, with the evidence."""

    noun: str
    word: str
    count: int
    pmi: float
    """Pointwise mutual information in bits."""

    @property
    def query(self) -> str:
        """What to ask an image search for."""
        return f"{self.word} {self.noun}"


def word_finder(entries: Iterable[Entry]) -> Callable[[str], set[str]]:
    """Return the function from a text to those of the words (:attr:`Entry.word`) that it contains.

    Onomatopoeia count in hiragana and in katakana, all entries in their other forms, adjectives in い also inflected
    (く, かった), any width (NFKC). A word does not count as a part of a longer one:

    - where a longer word of the lexicon, or of ``entries``, begins at the same place or covers it from before, only
      that one counts (つる in つるん);
    - a root of two morae does not count next to itself, which is another word even when no list has it (ふわ in
      ふわふわ);
    - a small kana belongs to what is before it (かしかし in かしかしゃ);
    - except for onomatopoeia, a form that begins with a kanji or katakana does not begin inside a run of that script
      (白い in 面白い, ファー in ソファー), nor does one that ends with a kanji end inside such a run (木 in 木曜日).
    """
    wanted = list(entries)
    words = {entry.word for entry in wanted}
    # All of the lexicon is looked for, so that what belongs to a word that is not wanted counts for no other.
    forms = {form: entry for entry in (*load_lexicon(), *wanted) for form in _written_forms(entry)}
    # By their first letter, for then one look at a letter of the text leaves few forms to try; the longest first.
    ordered = sorted(forms, key=lambda form: (form[0], -len(form), form))
    groups = (
        f"{re.escape(first)}(?:{'|'.join(_guarded_rest(form, forms[form].kind) for form in group)})"
        for first, group in itertools.groupby(ordered, key=lambda form: form[0])
    )
    pattern = re.compile(f"(?:{'|'.join(groups)})(?![{_SMALL_KANA}])")
    return lambda text: {forms[match[0]].word for match in pattern.finditer(_normalised(text))} & words


def count_cooccurrences(texts: Iterable[str], nouns: Iterable[str], entries: Iterable[Entry]) -> Counts:
    """Count in how many texts (titles, captions) each noun, each word, and each pair of them occurs.

    A text counts once however often it repeats a word [ours]; texts are read once and not kept. Words are those of
    :func:`word_finder`. A noun is found in any width and case, in either syllabary when it is all kana, and as the end
    of a compound but not as its beginning, for the last part is what a compound names [ours]: 子犬 is a 犬, 靴下 is no
    靴. Where one noun ends and another word begins does not show in hiragana: write a noun in kanji where it has one.

    Raises:
        UserError: a noun that is empty.
    """
    find_words = word_finder(entries)
    patterns = {_plain(noun): _noun_pattern(_plain(noun)) for noun in nouns}
    pairs: Counter[tuple[str, str]] = Counter()
    noun_counts: Counter[str] = Counter()
    word_counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        total += 1
        normalised = _normalised(text)
        found_nouns = [noun for noun, pattern in patterns.items() if pattern.search(normalised)]
        found_words = find_words(text)
        noun_counts.update(found_nouns)
        word_counts.update(found_words)
        pairs.update((noun, word) for noun in found_nouns for word in found_words)
    return Counts(pairs, noun_counts, word_counts, total)


def choose_combinations(
    counts: Counts,
    noun: str,
    number: int,
    criterion: Criterion = "count",
    fewest: int = 1,
    among: Collection[str] | None = None,
) -> list[Combination]:
    """Return the ``number`` words that go best with a noun, the best first; fewer where the counts have no more.

    ``count``, the default [ours], takes the words said of the noun most often: each must have dozens of images to be
    found, and does when many texts say it. ``pmi`` takes the words most typical of the noun,
    ``log2(c(n, w) N / (c(n) c(w)))`` (Church and Hanks, *Word Association Norms, Mutual Information, and
    Lexicography*, Computational Linguistics 16, 1990): what is said of everything falls back. It overrates rare pairs,
    so give it a ``fewest`` of some five. Pairs of a count below ``fewest`` are left out, and words that are not
    ``among`` those named, when any are. Ties go to the larger count, then to the order of the words' characters.

    Raises:
        UserError: a noun without counts, no word said ``fewest`` times of it, a ``number`` or ``fewest`` below 1, and
            ``pmi`` from counts that are all of this noun: they do not say how common a word is elsewhere.
    """
    if number < 1 or fewest < 1:
        raise UserError(f"{number} combinations, each at least {fewest} times: both must be 1 or more")
    noun = _plain(noun)
    if not counts.nouns.get(noun):
        hint = did_you_mean(noun, counts.nouns) if counts.nouns else ""
        raise UserError(f"nothing that was counted says {noun}{hint}: give other texts or counts, or another noun")
    if criterion == "pmi" and counts.nouns[noun] == counts.total:
        raise UserError(f"pmi needs texts or counts without {noun} too, to tell what is typical of it: choose by count")
    found = {
        word: count
        for (other, word), count in counts.pairs.items()
        if other == noun and count >= fewest and (among is None or word in among)
    }
    if not found:
        raise UserError(
            f"no word is said of {noun} {fewest} times or more: give more texts, or a lower number of times"
        )

    def rank(word: str) -> tuple[Fraction, int, str]:
        # For one noun the rest of the ratio is the same, and fractions tie exactly where logarithms may not.
        merit = Fraction(found[word], counts.words[word] if criterion == "pmi" else 1)
        return -merit, -found[word], word

    return [Combination(noun, word, found[word], _pmi(counts, noun, word)) for word in sorted(found, key=rank)[:number]]


def read_counts(path: Path) -> Counts:
    """Read a counts file: UTF-8 CSV with the columns ``noun``, ``word`` and ``count``; others are ignored.

    A word that the lexicon knows is taken under its usual form, so that counts of ふわふわ and フワフワ add up; words
    that it does not know are kept as they are. Totals of nouns and words are the sums over the file.

    Raises:
        UserError: a file that is missing, is no such CSV, or has a row without noun or word or with a count that is no
            whole number of 0 or more; the message names the line.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    nouns: Counter[str] = Counter()
    words: Counter[str] = Counter()
    total = 0
    for line, row in _csv_rows(path, ("noun", "word", "count"), all):
        noun, word, number = (_plain(row[name]) for name in ("noun", "word", "count"))
        if not noun or not word:
            raise UserError(f"{path}, line {line}: the {'word' if noun else 'noun'} is missing")
        if not (number.isascii() and number.isdigit()):
            raise UserError(f"{path}, line {line}: the count {number!r} is no whole number of 0 or more")
        if is_known(word):
            word = find(word).word
        pairs[noun, word] += int(number)
        nouns[noun] += int(number)
        words[word] += int(number)
        total += int(number)
    return Counts(pairs, nouns, words, total)


def read_captions(path: Path) -> Iterator[str]:
    """Yield the texts of a UTF-8 file: of ``.csv`` the columns title and caption of each row, else each line.

    Empty texts are skipped.

    Raises:
        UserError: a file that is missing, is not UTF-8, or is a CSV without either column; at the first text.
    """
    for text in _texts(path):
        if stripped := text.strip():
            yield stripped


def _texts(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".csv":
        for _, row in _csv_rows(path, _CAPTION_COLUMNS, any):
            yield " ".join(row.get(name, "") for name in _CAPTION_COLUMNS)
    else:
        with _reading(path) as file:
            yield from file


def _csv_rows(
    path: Path, columns: Sequence[str], enough: Callable[[Iterable[object]], bool]
) -> Iterator[tuple[int, dict[str, str]]]:
    with _reading(path) as file:
        reader = csv.DictReader(file, restval="", strict=True)
        if not enough(name in (reader.fieldnames or ()) for name in columns):
            words = " and " if enough is all else " or "
            raise UserError(f"{path}: the first line must name the columns {words.join(columns)}")
        for row in reader:
            yield reader.line_num, row


@contextmanager
def _reading(path: Path) -> Iterator[IO[str]]:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: save it in that encoding") from None
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from None


def _pmi(counts: Counts, noun: str, word: str) -> float:
    expected = Fraction(counts.nouns[noun] * counts.words[word], counts.total)
    return math.log2(counts.pairs[noun, word] / expected)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def _normalised(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _noun_pattern(noun: str) -> re.Pattern[str]:
    if not noun:
        raise UserError("the noun is empty: name what the words are said of")
    noun = _normalised(noun)
    spellings = {noun, to_hiragana(noun), to_katakana(noun)} if re.fullmatch(f"[{_KANA}]+", noun) else {noun}
    return re.compile("|".join(_as_last_part(spelling) for spelling in sorted(spellings)))


def _as_last_part(noun: str) -> str:
    """Return the expression of a noun that no letter of its own script follows: 犬 of 子犬, but not of 犬小屋."""
    if re.search(f"[{_LATIN}]$", noun):
        return f"(?<![{_LATIN}]){re.escape(noun)}(?![{_LATIN}])"
    if re.search(f"[{_KATAKANA}]$", noun):
        return f"{re.escape(noun)}ー?(?![{_KATAKANA}])"  # for ソファ is also written ソファー
    return re.escape(noun) + (f"(?![{_KANJI}])" if re.search(f"[{_KANJI}]$", noun) else "")


def _guarded_rest(form: str, kind: Kind) -> str:
    """Return the expression of a form from its second letter on, where the form is no part of a longer word."""
    not_before, not_after = [], []
    if re.fullmatch(f"[{_KANA}][{_SMALL_KANA}]?[{_KANA}][{_SMALL_KANA}]?", form):  # two morae
        not_before.append(form)
        not_after.append(form)
    if kind != "onomatopoeia":
        not_before += [f"[{script}]" for script in (_KANJI, _KATAKANA) if re.match(f"[{script}]", form)]
        not_after += [f"[{_KANJI}]"] if re.search(f"[{_KANJI}]$", form) else []
    first, rest = re.escape(form[0]), re.escape(form[1:])
    return "".join([*(f"(?<!{text}{first})" for text in not_before), rest, *(f"(?!{text})" for text in not_after)])


def _written_forms(entry: Entry) -> set[str]:
    written = {_normalised(form) for form in (entry.word, *entry.other_forms)}
    if entry.kind == "onomatopoeia":
        return {form for text in written for form in (to_hiragana(text), to_katakana(text))}
    if entry.kind == "adjective":
        stems = {form[:-1] for form in written if form.endswith("い")}
        return written | {stem + ending for stem in stems for ending in ("く", "かった")}
    return written
