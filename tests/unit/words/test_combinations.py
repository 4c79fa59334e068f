"""Which words go with a noun: occurrences in texts, counts files, and the choice among them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from tezawari.core.errors import UserError
from tezawari.words.combinations import (
    Combination,
    Counts,
    choose_combinations,
    count_cooccurrences,
    read_captions,
    read_counts,
    word_finder,
)
from tezawari.words.lexicon import Entry, find, load_lexicon, select, to_katakana

ONOMATOPOEIA = select("onomatopoeia")
SAID_OF_NOUNS = (*ONOMATOPOEIA, *select("adjective"))


def _root(word: str) -> Entry:
    return Entry("onomatopoeia", word, word, "", "", ("touch",), ())


@pytest.fixture(scope="module")
def find_words() -> Callable[[str], set[str]]:
    return word_finder(load_lexicon())


# --- words in a text --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.sampled_from(load_lexicon()), max_size=6), st.randoms(use_true_random=False))
def test_words_between_marks_are_found_in_all_their_forms(
    find_words: Callable[[str], set[str]], entries: list[Entry], chance: random.Random
) -> None:
    shown = []
    for entry in entries:
        forms = [entry.word, *entry.other_forms]
        if entry.kind == "onomatopoeia":
            forms += [to_katakana(form) for form in forms]
        shown.append(chance.choice(forms))
    assert find_words("、".join(shown)) == {entry.word for entry in entries}


@pytest.mark.parametrize("ending", ["の", "な", "した", "だ", "と"])
def test_no_onomatopoeia_is_found_in_another(find_words: Callable[[str], set[str]], ending: str) -> None:
    for entry in ONOMATOPOEIA:
        for form in (entry.word, entry.katakana):
            assert find_words(form + ending) == {entry.word}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ふわふわの犬", {"ふわふわ"}),
        ("フワフワの犬", {"ふわふわ"}),
        ("ﾌﾜﾌﾜの犬", {"ふわふわ"}),
        ("ふわふわふわの犬", {"ふわふわ"}),
        ("ふわふわモフモフ", {"ふわふわ", "もふもふ"}),
        ("モフモフソファー", {"もふもふ"}),
        ("つるんとした肌", {"つるん", "肌"}),
        ("ちかちかちかちか", {"ちかちか"}),
        ("かしかしゃと", set()),
        ("ギューギューの電車", {"ぎゅうぎゅう"}),
        ("凸凹の道", {"でこぼこ"}),
        ("滑らかな", {"なめらか"}),
        ("柔らかくて白かった", {"柔らかい", "白い"}),
        ("面白い犬", set()),
        ("半透明の袋", {"半透明"}),
        ("不透明の袋", set()),
        ("シンプルケーキ", {"シンプル"}),
        ("フェイクシルク", set()),
        ("ファーの襟", {"毛皮"}),
        ("ソファーの脚", set()),
        ("木の机", {"木"}),
        ("木製の机", {"木"}),
        ("木曜日の手紙", set()),
        ("雪と氷", {"雪", "氷"}),
        ("", set()),
        ("dog 🐶", set()),
    ],
)
def test_a_word_is_no_part_of_a_longer_one(find_words: Callable[[str], set[str]], text: str, words: set[str]) -> None:
    assert find_words(text) == words


def test_a_root_is_no_part_of_its_doubling_even_when_no_list_has_that() -> None:
    roots = [_root("ふわ"), _root("ざく"), _root("にゅる"), _root("もき")]
    find_roots = word_finder(roots)
    assert find_roots("ふわっと、ザクの、にゅると") == {"ふわ", "ざく", "にゅる"}
    assert find_roots("ふわふわ、ザクザク、にゅるにゅる、もきもき、モキモキモキ") == set()


def test_a_wanted_word_is_not_found_in_one_that_is_not_wanted() -> None:
    find_words = word_finder([_root("つる"), find("透明")])
    assert find_words("透明な鶴、つると書く") == {"つる", "透明"}
    assert find_words("つるんとした、半透明") == set()


# --- counts -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(["犬", "靴", "ケーキ"])),
            st.sets(st.sampled_from(["ふわふわ", "もふもふ", "白い", "ぶつぶつ"])),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_are_those_of_the_texts_as_they_were_made(
    contents: list[tuple[set[str], set[str]]], chance: random.Random
) -> None:
    nouns, words = ["犬", "靴", "ケーキ"], ["ふわふわ", "もふもふ", "白い", "ぶつぶつ"]
    texts = []
    for held_nouns, held_words in contents:
        parts = [*held_nouns, *held_words, *sorted(held_words)[:2]]
        chance.shuffle(parts)
        texts.append("。".join(parts))
    counts = count_cooccurrences(iter(texts), nouns, SAID_OF_NOUNS)
    assert counts.total == len(texts)
    for noun in nouns:
        assert counts.nouns.get(noun, 0) == sum(noun in held for held, _ in contents)
        for word in words:
            both = sum(noun in held_nouns and word in held_words for held_nouns, held_words in contents)
            assert counts.pairs.get((noun, word), 0) == both
    for word in words:
        assert counts.words.get(word, 0) == sum(word in held for _, held in contents)


@pytest.mark.parametrize(
    ("noun", "text", "found"),
    [
        ("犬", "ふわふわの犬", True),
        ("犬", "白い子犬と", True),
        ("犬", "犬小屋", False),
        ("靴", "革靴が", True),
        ("靴", "靴下", False),
        ("靴", "靴下と靴", True),
        ("ケーキ", "ショートケーキの", True),
        ("ケーキ", "ｹｰｷ", True),
        ("ケーキ", "けーきを", True),
        ("けーき", "ケーキを", True),
        ("ケーキ", "ケーキセット", False),
        ("ソファ", "白いソファー", True),
        ("ソファ", "ソファーベッド", False),
        ("消しゴム", "消しゴムの", True),
        ("dog", "A white Dog.", True),
        ("DOG", "ｄｏｇの写真", True),
        ("dog", "hotdogs", False),
        ("dog", "dogma", False),
        ("running shoe", "my running shoe", True),
        ("a.b", "axb", False),
    ],
)
def test_a_noun_may_end_a_compound_but_not_begin_it(noun: str, text: str, found: bool) -> None:
    counts = count_cooccurrences([text], [noun], ONOMATOPOEIA)
    assert sum(counts.nouns.values()) == found


def test_an_empty_noun_is_refused() -> None:
    with pytest.raises(UserError, match="noun is empty"):
        count_cooccurrences([], ["　"], ONOMATOPOEIA)


# --- the choice -------------------------------------------------------------------------------------------------------


def _texts(table: dict[tuple[str, str], int], seed: int = 0) -> list[str]:
    texts = [f"{word}の{noun}" for (noun, word), count in table.items() for _ in range(count)]
    random.Random(seed).shuffle(texts)
    return texts


# きらきら is said of everything, もふもふ of dogs.
TABLE = {
    ("犬", "きらきら"): 6,
    ("犬", "もふもふ"): 5,
    ("犬", "ふわふわ"): 5,
    ("犬", "ごつごつ"): 1,
    ("靴", "きらきら"): 30,
    ("靴", "ふわふわ"): 4,
    ("花", "きらきら"): 20,
}


def _words(found: Sequence[Combination]) -> list[str]:
    return [combination.word for combination in found]


def test_count_takes_what_is_said_most_and_pmi_what_is_typical() -> None:
    counts = count_cooccurrences(_texts(TABLE), ["犬", "靴", "花"], ONOMATOPOEIA)
    assert _words(choose_combinations(counts, "犬", 3)) == ["きらきら", "ふわふわ", "もふもふ"]
    assert _words(choose_combinations(counts, "犬", 2, "pmi")) == ["もふもふ", "ごつごつ"]
    assert _words(choose_combinations(counts, "犬", 9, "pmi", fewest=2)) == ["もふもふ", "ふわふわ", "きらきら"]
    assert _words(choose_combinations(counts, "犬", 9, among={"ごつごつ", "ふわふわ"})) == ["ふわふわ", "ごつごつ"]
    best = choose_combinations(counts, "犬", 1)[0]
    assert (best.noun, best.count, best.query) == ("犬", 6, "きらきら 犬")
    shares = (6 / 71) / ((17 / 71) * (56 / 71))
    assert best.pmi == pytest.approx(math.log2(shares))


def test_the_mean_of_pmi_is_mutual_information(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text("noun,word,count\n" + "".join(f"{n},{w},{c}\n" for (n, w), c in TABLE.items()), encoding="utf-8")
    counts = read_counts(path)
    nouns, words = ["犬", "靴", "花"], sorted({word for _, word in TABLE})
    contingency = np.array([[TABLE.get((noun, word), 0) for word in words] for noun in nouns])
    expected = mutual_info_score(None, None, contingency=contingency) / math.log(2)
    found = [pair for noun in nouns for pair in choose_combinations(counts, noun, 99, "pmi")]
    assert sum(pair.count / counts.total * pair.pmi for pair in found) == pytest.approx(expected)


@pytest.mark.parametrize("criterion", ["count", "pmi"])
def test_ties_do_not_depend_on_the_order_of_the_texts(criterion: str) -> None:
    table = {("犬", entry.word): 3 for entry in ONOMATOPOEIA[:20]} | {("靴", "ふわふわ"): 0, ("靴", "つるん"): 2}
    chosen = [
        choose_combinations(count_cooccurrences(_texts(table, seed), ["犬", "靴"], ONOMATOPOEIA), "犬", 7, criterion)  # type: ignore[arg-type]
        for seed in range(4)
    ]
    assert all(other == chosen[0] for other in chosen)
    assert _words(chosen[0]) == sorted(entry.word for entry in ONOMATOPOEIA[:20])[:7]


def test_the_noun_may_be_typed_in_another_width() -> None:
    counts = count_cooccurrences(["ふわふわのケーキ", "花"], ["ｹｰｷ"], ONOMATOPOEIA)
    assert choose_combinations(counts, "ケーキ ", 1) == choose_combinations(counts, "ｹｰｷ", 1)


@pytest.mark.parametrize(
    ("noun", "number", "criterion", "fewest", "message"),
    [
        ("猫", 3, "count", 1, "nothing that was counted says 猫"),
        ("犬", 0, "count", 1, "must be 1 or more"),
        ("犬", 3, "count", 0, "must be 1 or more"),
        ("犬", 3, "count", 7, "no word is said of 犬 7 times or more"),
        ("靴", 3, "count", 1, "no word is said of 靴 1 times or more"),
    ],
)
def test_what_cannot_be_chosen_is_said(noun: str, number: int, criterion: str, fewest: int, message: str) -> None:
    counts = count_cooccurrences(["ふわふわの犬", "靴"], ["犬", "靴"], ONOMATOPOEIA)
    with pytest.raises(UserError, match=message):
        choose_combinations(counts, noun, number, criterion, fewest)  # type: ignore[arg-type]


def test_nothing_counted_is_said_without_near_names() -> None:
    with pytest.raises(UserError, match=r"says 犬: give other texts"):
        choose_combinations(Counts({}, {}, {}, 0), "犬", 1)


def test_pmi_needs_texts_without_the_noun() -> None:
    counts = count_cooccurrences(["ふわふわの犬", "もふもふの犬"], ["犬"], ONOMATOPOEIA)
    with pytest.raises(UserError, match="pmi needs texts or counts without 犬"):
        choose_combinations(counts, "犬", 1, "pmi")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_counts_file_adds_up_the_forms_of_a_word(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(
        "\ufeffsource,noun,word,count\r\na,犬,ふわふわ,3\r\nb,犬,フワフワ,4\r\nc,犬,ﾌﾜﾌﾜ, ５ \r\n"
        "d,犬,おとなしい,2\r\ne,猫,ふわふわ,1\r\n",
        encoding="utf-8",
    )
    counts = read_counts(path)
    assert counts.pairs == {("犬", "ふわふわ"): 12, ("犬", "おとなしい"): 2, ("猫", "ふわふわ"): 1}
    assert (counts.nouns, counts.words, counts.total) == ({"犬": 14, "猫": 1}, {"ふわふわ": 13, "おとなしい": 2}, 15)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must name the columns noun and word and count"),
        ("noun,count\n犬,3\n", "must name the columns noun and word and count"),
        ("noun,word,count\n犬,ふわふわ,3\n犬,もふもふ,many\n", "line 3: the count 'many' is no whole number"),
        ("noun,word,count\n犬,ふわふわ,-3\n", "line 2: the count '-3'"),
        ("noun,word,count\n犬,ふわふわ,2.5\n", r"line 2: the count '2\.5'"),
        ("noun,word,count\n犬,ふわふわ\n", "line 2: the count '' is"),
        ("noun,word,count\n,ふわふわ,3\n", "line 2: the noun is missing"),
        ("noun,word,count\n犬, ,3\n", "line 2: the word is missing"),
        ('noun,word,count\n犬,"ふわ"ふわ,3\n', "cannot be read as CSV"),
    ],
)
def test_a_damaged_counts_file_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "counts.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_counts(path)
    assert str(path) in str(error.value)


def test_captions_are_lines_or_columns(tmp_path: Path) -> None:
    lines = tmp_path / "titles.txt"
    lines.write_text("\ufeffふわふわの犬\r\n\r\n  白い靴  \n", encoding="utf-8")
    assert list(read_captions(lines)) == ["ふわふわの犬", "白い靴"]
    table = tmp_path / "found.CSV"
    table.write_text('url,title,caption\nu,ふわふわ,"犬が\n走る"\nu,,\nu,靴\n', encoding="utf-8")
    assert list(read_captions(table)) == ["ふわふわ 犬が\n走る", "靴"]
    table.write_text("caption\n靴\n", encoding="utf-8")
    assert list(read_captions(table)) == ["靴"]


def test_captions_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        list(read_captions(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="there is no file"):
        list(read_captions(tmp_path))
    path = tmp_path / "titles.txt"
    path.write_bytes("ふわふわの犬\n".encode("shift_jis"))
    with pytest.raises(UserError, match="is not UTF-8 text"):
        list(read_captions(path))
    table = tmp_path / "found.csv"
    table.write_text("url,name\nu,犬\n", encoding="utf-8")
    with pytest.raises(UserError, match="must name the columns title or caption"):
        list(read_captions(table))
