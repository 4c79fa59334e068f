"""Judgements: by name, undoable, compared, and given to the store."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.collect.store_material import collect

from tezawari.collect.store import open_store
from tezawari.studio.database import Database
from tezawari.studio.judgements import Judgements, agreements, cohen_kappa, consensus

WORD = "ざらざら"


@pytest.fixture
def judgements(tmp_path: Path) -> Judgements:
    return Judgements(Database(tmp_path))


def test_changes_are_kept_by_name_and_only_where_something_changes(judgements: Judgements) -> None:
    assert [c.verdict for c in judgements.change(WORD, "Aiko", {"a": True, "b": False, "c": None})] == [True, False]
    assert judgements.change(WORD, "Aiko", {"a": True}) == []
    judgements.change(WORD, "Ben", {"a": False})
    judgements.change("other", "Aiko", {"a": False})
    assert judgements.of_word(WORD) == {"Aiko": {"a": True, "b": False}, "Ben": {"a": False}}


def test_undo_takes_back_ones_own_strokes_one_by_one(judgements: Judgements) -> None:
    judgements.change(WORD, "Aiko", {"a": True})
    judgements.change(WORD, "Ben", {"a": False})
    judgements.change(WORD, "Aiko", {"a": False, "b": True})
    assert {(c.image, c.verdict) for c in judgements.undo(WORD, "Aiko")} == {("a", True), ("b", None)}
    assert {(c.image, c.verdict) for c in judgements.undo(WORD, "Aiko")} == {("a", None)}
    assert judgements.undo(WORD, "Aiko") == []
    assert judgements.of_word(WORD) == {"Ben": {"a": False}}


strokes = st.lists(
    st.one_of(
        st.just("undo"),
        st.dictionaries(st.sampled_from("abcd"), st.sampled_from([True, False, None]), min_size=1),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(strokes)
def test_any_strokes_and_undos_are_what_a_stack_of_copies_says(
    tmp_path_factory: pytest.TempPathFactory, strokes: list[str | dict[str, bool | None]]
) -> None:
    judgements = Judgements(Database(tmp_path_factory.mktemp("strokes")))
    stack: list[dict[str, bool]] = [{}]
    told: dict[str, bool | None] = {}
    for stroke in strokes:
        if isinstance(stroke, str):
            changes = judgements.undo(WORD, "Aiko")
            if len(stack) > 1:
                stack.pop()
        else:
            changes = judgements.change(WORD, "Aiko", stroke)
            after = {k: v for k, v in {**stack[-1], **stroke}.items() if v is not None}
            if after != stack[-1]:
                stack.append(after)
        told |= {change.image: change.verdict for change in changes}
    assert judgements.of_word(WORD).get("Aiko", {}) == stack[-1]
    assert {k: v for k, v in told.items() if v is not None} == stack[-1]
    assert {c.image: c.verdict for c in judgements.since(WORD, 0) if c.verdict is not None} == stack[-1]


def test_since_tells_each_image_once_with_its_last_verdict(judgements: Judgements) -> None:
    first = judgements.change(WORD, "Aiko", {"a": True, "b": True})
    judgements.change(WORD, "Aiko", {"a": False})
    later = judgements.since(WORD, first[-1].seq)
    assert [(c.image, c.verdict) for c in later] == [("a", False)]
    assert judgements.since(WORD, later[-1].seq) == []


def test_writers_at_once_lose_nothing(judgements: Judgements) -> None:
    def write(name: str) -> None:
        for number in range(20):
            judgements.change(WORD, name, {str(number): number % 2 == 0})

    threads = [threading.Thread(target=write, args=(f"annotator {n}",)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = judgements.of_word(WORD)
    assert len(said) == 10
    assert all(len(marks) == 20 for marks in said.values())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(deadline=None)
def test_kappa_is_what_its_definition_says(pairs: list[tuple[bool, bool]]) -> None:
    first, second = np.array(pairs).T
    observed = np.mean(first == second)
    chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    kappa = cohen_kappa(list(first), list(second))
    if kappa is None:
        assert chance == pytest.approx(1)
    else:
        assert kappa == pytest.approx((observed - chance) / (1 - chance))


def test_agreement_counts_only_what_both_judged() -> None:
    said = {"Ben": {"a": True, "b": False, "d": True}, "Aiko": {"a": True, "b": True, "c": True}, "Chie": {"z": True}}
    (pair,) = agreements(said)
    assert (pair.first, pair.second, pair.images, pair.agreed, pair.differing) == ("Aiko", "Ben", 2, 1, ("b",))
    assert consensus(said) == {"a": True, "b": None, "c": True, "d": True, "z": True}


def test_the_store_is_given_what_most_say(tmp_path: Path, judgements: Judgements) -> None:
    with open_store(tmp_path) as store:
        collect(store, WORD, 5)
        images = [image.sha256 for image in store.images_of(WORD)]
        store.annotate(WORD, images[4], False)  # by somebody else than the studio
        for name, verdict in (("Aiko", True), ("Ben", True), ("Chie", False)):
            judgements.change(WORD, name, {images[0]: verdict})
        judgements.change(WORD, "Ben", {images[1]: False, images[2]: True})
        judgements.change(WORD, "Chie", {images[2]: False, "f" * 64: True})
        judgements.mirror(store, WORD)
        assert store.annotations(WORD) == {images[0]: True, images[1]: False, images[4]: False}
        judgements.undo(WORD, "Ben")
        judgements.mirror(store, WORD)
        assert store.annotations(WORD) == {images[0]: True, images[2]: False, images[4]: False}
