"""The lexicon: which words it has, that their readings and romaji are right, and that a word is found however typed."""

from __future__ import annotations

import csv
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tezawari.words
from tezawari.core.errors import UserError
from tezawari.words.lexicon import (
    KINDS,
    SENSES,
    Entry,
    find,
    is_known,
    load_lexicon,
    lookup_keys,
    select,
    to_hiragana,
    to_katakana,
)

# Every word that the talk names.
TALK = [
    *("ふわふわ", "ごつごつ", "ざらざら", "じゅわじゅわ", "ふさふさ", "ふくふく", "べとべと"),
    *("ぶつぶつ", "ぶくぶく", "しゃきしゃき", "つやつや", "もふもふ", "くたくた", "うぞうぞ"),
    *("ずしずし", "ばしばし", "てらてら", "かしかし", "きらきら", "かちかち", "なめらか"),
]
# Those of the table of region entropies.
VISUAL = ["dark", "purple", "black", "red", "blue", "yellow", "scary", "famous"]
FMD = {
    "fabric": "布",
    "foliage": "葉",
    "glass": "ガラス",
    "leather": "革",
    "metal": "金属",
    "paper": "紙",
    "plastic": "プラスチック",
    "stone": "石",
    "water": "水",
    "wood": "木",
}

# --- an oracle: kana to modified Hepburn ------------------------------------------------------------------------------

_ROWS = {
    "": "あいうえお",
    "k": "かきくけこ",
    "g": "がぎぐげご",
    "s": "さ すせそ",
    "z": "ざ ずぜぞ",
    "t": "た  てと",
    "d": "だ  でど",
    "n": "なにぬねの",
    "h": "はひ へほ",
    "b": "ばびぶべぼ",
    "p": "ぱぴぷぺぽ",
    "m": "まみむめも",
    "y": "や ゆ よ",
    "r": "らりるれろ",
    "w": "わ    ",
}
_SYLLABLES = {kana: row + vowel for row, line in _ROWS.items() for kana, vowel in zip(line, "aiueo") if kana != " "}
_SYLLABLES |= {"し": "shi", "じ": "ji", "ち": "chi", "つ": "tsu", "ふ": "fu", "ん": "n"}
_GLIDES = {"ゃ": "a", "ゅ": "u", "ょ": "o"}
_SMALL_VOWELS = {"ぁ": "a", "ぇ": "e"}  # in loan words: ふぁ
_HUSHED = {"し": "sh", "じ": "j", "ち": "ch"}
_LONG = {"aa": "ā", "uu": "ū", "ee": "ē", "oo": "ō", "ou": "ō"}


def _hepburn(kana: str) -> str:
    half, odd = divmod(len(kana), 2)
    if not odd and kana[:half] == kana[half:]:
        return _hepburn(kana[:half]) * 2  # no vowel grows long across the seam of うるうる
    letters = ""
    for place, sign in enumerate(kana):
        following = kana[place + 1 : place + 2]
        if sign in _GLIDES:
            letters += _GLIDES[sign]
        elif sign in _SMALL_VOWELS:
            letters = letters[:-1] + _SMALL_VOWELS[sign]
        elif sign == "っ":
            letters += "t" if following == "ち" else _SYLLABLES[following][0]
        elif sign == "ー":
            letters += letters[-1]
        elif following in _GLIDES and following:
            letters += _HUSHED.get(sign, _SYLLABLES[sign][0] + "y")
        else:
            letters += _SYLLABLES[sign]
            if sign == "ん" and following and following in "あいうえおやゆよ":
                letters += "'"
    # In words of one piece ii and ei stay; the long mark makes ī.
    letters = re.sub("aa|uu|ee|oo|ou", lambda match: _LONG[match[0]], letters)
    return letters.replace("ii", "ī") if "ー" in kana else letters


@pytest.mark.parametrize(
    ("kana", "romaji"),
    [
        ("とうきょう", "tōkyō"),
        ("おおさか", "ōsaka"),
        ("さっぽろ", "sapporo"),
        ("まっちゃ", "matcha"),
        ("ざっし", "zasshi"),
        ("しんよう", "shin'yō"),
        ("しんぶん", "shinbun"),
        ("じゅうどう", "jūdō"),
        ("せんせい", "sensei"),
        ("おにいさん", "oniisan"),
        ("けーき", "kēki"),
        ("こんくりーと", "konkurīto"),
        ("ふじさん", "fujisan"),
        ("そふぁ", "sofa"),
        ("うるうる", "uruuru"),
    ],
)
def test_the_oracle_knows_hepburn(kana: str, romaji: str) -> None:
    assert _hepburn(kana) == romaji


def test_romaji_is_the_hepburn_of_the_reading() -> None:
    for entry in load_lexicon():
        assert entry.romaji == _hepburn(entry.reading), entry


# --- what is in it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", TALK)
def test_the_words_of_the_talk_are_there(word: str) -> None:
    assert find(word).word == word
    assert find(word).kind == ("adjective" if word == "なめらか" else "onomatopoeia")


@pytest.mark.parametrize("word", VISUAL)
def test_the_words_whose_entropy_was_published_are_there(word: str) -> None:
    assert find(word).kind == "adjective"
    assert find(word).gloss == word


@pytest.mark.parametrize(("english", "japanese"), FMD.items())
def test_the_ten_materials_of_fmd_are_there_in_both_languages(english: str, japanese: str) -> None:
    assert find(english) is find(japanese)
    assert (find(english).word, find(english).gloss, find(english).kind) == (japanese, english, "material")


def test_there_are_words_enough() -> None:
    words = [entry for entry in select("onomatopoeia") if {"touch", "look"} & set(entry.senses)]
    assert len(words) >= 150
    assert len(select("material")) >= 40
    assert len(select("adjective")) >= 40
    assert {"段ボール", "毛皮", "陶器"} <= {entry.word for entry in select("material")}


def test_every_entry_is_complete() -> None:
    for entry in load_lexicon():
        assert re.fullmatch("[ぁ-ゖー]+", entry.reading), entry
        assert re.fullmatch(r"[A-Za-z][A-Za-z ,;'-]{1,59}", entry.gloss), entry
        assert bool(entry.senses) or entry.kind != "onomatopoeia", entry
        assert entry.kind != "material" or not entry.senses, entry
        assert len({entry.word, *entry.other_forms}) == 1 + len(entry.other_forms), entry
        for form in (entry.word, *entry.other_forms):
            assert unicodedata.normalize("NFKC", form) == form, entry
        if entry.kind == "onomatopoeia":
            assert entry.word == entry.reading, entry
        if re.fullmatch("[ぁ-ゖァ-ヶー]+", entry.word):
            assert to_hiragana(entry.word) == entry.reading, entry


def test_the_file_has_nothing_that_is_not_read() -> None:
    path = Path(tezawari.words.__file__).with_name("lexicon.tsv")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert {len(row) for row in rows} == {7}
    assert len(rows) == 1 + len(load_lexicon())
    for row, entry in zip(rows[1:], load_lexicon()):
        assert all(cell == cell.strip() for cell in row), row
        assert row[0] == entry.kind
        assert row[4].split() == list(entry.senses), "senses stand in one order"
    assert {row[0] for row in rows[1:]} == set(KINDS)


def test_no_two_entries_answer_to_one_name() -> None:
    owners: dict[str, str] = {}
    for entry in load_lexicon():
        for key in lookup_keys(entry):
            assert owners.setdefault(key, entry.word) == entry.word, key


def test_words_are_chosen_by_kind_and_sense() -> None:
    assert select() == load_lexicon()
    for kind in KINDS:
        for sense in SENSES:
            expected = [entry for entry in load_lexicon() if entry.kind == kind and sense in entry.senses]
            assert list(select(kind, sense)) == expected
            assert bool(expected) == (kind != "material" and (kind, sense) != ("adjective", "sound"))
    assert sum(len(select(kind)) for kind in KINDS) == len(load_lexicon())


# --- finding ----------------------------------------------------------------------------------------------------------

_HALF_WIDTH = {unicodedata.normalize("NFKC", chr(code)): chr(code) for code in range(0xFF66, 0xFF9E)}


def _half_width(katakana: str) -> str:
    marks = {"\u3099": "ﾞ", "\u309a": "ﾟ"}
    return "".join(marks.get(sign) or _HALF_WIDTH[sign] for sign in unicodedata.normalize("NFD", katakana))


def _full_width(letters: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in letters)


@settings(deadline=None)
@given(st.sampled_from(load_lexicon()))
def test_a_word_is_found_however_it_is_typed(entry: Entry) -> None:
    typed = [entry.word, entry.reading, entry.katakana, _half_width(entry.katakana), entry.romaji, *entry.other_forms]
    typed += [unicodedata.normalize("NFD", entry.katakana), entry.romaji.upper(), _full_width(entry.romaji)]
    middle = len(entry.romaji) // 2
    typed += [f" {entry.romaji[:middle]}-{entry.romaji[middle:]} ", entry.romaji.replace("'", "’")]
    for text in typed:
        assert find(text) is entry, text
        assert is_known(text)


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("gyugyu", "ぎゅうぎゅう"),
        ("gyuugyuu", "ぎゅうぎゅう"),
        ("ギューギュー", "ぎゅうぎゅう"),
        ("sūsū", "すうすう"),
        ("suusuu", "すうすう"),
        ("touki", "陶器"),
        ("tooki", "陶器"),
        ("toki", "陶器"),
        ("huwahuwa", "ふわふわ"),
        ("zyarizyari", "じゃりじゃり"),
        ("syakisyaki", "しゃきしゃき"),
        ("potchari", "ぽっちゃり"),
        ("pocchari", "ぽっちゃり"),
        ("pottyari", "ぽっちゃり"),
        ("mottiri", "もっちり"),
        ("tuyatuya", "つやつや"),
        ("hinyari", "ひんやり"),
        ("ﾌﾜﾌﾜ", "ふわふわ"),
        ("ＷＯＯＤ", "木"),
        ("Japanese paper", "和紙"),
        ("皮革", "革"),
    ],
)
def test_usual_spellings_are_understood(typed: str, word: str) -> None:
    assert find(typed).word == word


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("ふわふり", "ふわふわ (fuwafuwa)"),
        ("fuwafuwaa", "ふわふわ (fuwafuwa)"),
        ("カチカ", "かちかち (kachikachi)"),
        ("plastik", "プラスチック (purasuchikku)"),
    ],
)
def test_an_unknown_word_names_the_near_ones(typed: str, near: str) -> None:
    assert not is_known(typed)
    with pytest.raises(
        UserError, match=r"the lexicon has no word .*did you mean .*: tezawari words lists them"
    ) as error:
        find(typed)
    assert near in str(error.value)


@pytest.mark.parametrize("typed", ["", " ", "/", "🐶", "qqqq", "ふ" * 1000, "a\nb"])
def test_what_is_no_word_is_refused_in_one_line(typed: str) -> None:
    with pytest.raises(UserError) as error:
        find(typed)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@settings(deadline=None)
@given(st.text(st.characters(min_codepoint=ord("ぁ"), max_codepoint=ord("ゖ"))))
def test_the_syllabaries_turn_into_each_other(text: str) -> None:
    katakana = to_katakana(text)
    assert to_hiragana(katakana) == text
    for sign, other in zip(text, katakana):
        assert unicodedata.name(other) == unicodedata.name(sign).replace("HIRAGANA", "KATAKANA")


# --- beside a dictionary ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dictionary(shared_dir: Path) -> dict[str, list[tuple[str, str]]]:
    """Readings and meanings of a dictionary of mimetic words, by headword."""
    path = shared_dir / "data" / "onomatopoeia" / "edict_on_mim.tsv"
    if not path.is_file():
        pytest.skip(f"no {path.name} in the folder of real data")
    found: dict[str, list[tuple[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            found.setdefault(row["word"], []).append((row["reading"], row["gloss"]))
    return found


def test_readings_are_those_of_the_dictionary(dictionary: dict[str, list[tuple[str, str]]]) -> None:
    words = select("onomatopoeia")
    known = [entry for entry in words if entry.word in dictionary]
    for entry in known:
        assert entry.reading in {reading for reading, _ in dictionary[entry.word]}
    for entry in words:
        for form in entry.other_forms:
            readings = {reading for reading, _ in dictionary.get(form, [])}
            assert not readings or entry.reading in readings or to_hiragana(form) in readings, form
    # The dictionary misses many everyday words (ふさふさ, つやつや), so not all can be looked up.
    assert len(known) > 0.7 * len(words)


def test_glosses_are_not_the_dictionary_s(dictionary: dict[str, list[tuple[str, str]]]) -> None:
    for entry in select("onomatopoeia"):
        ours = re.findall(r"[a-z']+", entry.gloss.lower())
        runs = {tuple(ours[start : start + 4]) for start in range(len(ours) - 3)}
        for _, gloss in dictionary.get(entry.word, []):
            theirs = re.findall(r"[a-z']+", gloss.lower())
            assert not runs & {tuple(theirs[start : start + 4]) for start in range(len(theirs) - 3)}, entry
            assert entry.gloss.lower() not in {re.sub(r"\([^)]*\)", "", part).strip() for part in gloss.split("/")}
