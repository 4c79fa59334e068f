"""The store: what is put in comes out, once, in the order of the search, whoever else writes at the same time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable
from tests.unit.collect.store_material import collect, encoded, fetched, files, find, picture, rank_by_content

from tezawari.collect import store as store_module
from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.found import FoundImage, Refused
from tezawari.collect.schema import SCHEMA_VERSION, Table
from tezawari.collect.store import DATABASE_NAME, Store, Summary, open_store
from tezawari.core.errors import UserError

WORD = "ふわふわ"
fork = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "set") as opened:
        yield opened


def keep(store: Store, find_id: int, content: bytes) -> None:
    store.keep(find_id, fetched(content), perceptual_hash(content))


def keep_all(store: Store, word: str, contents: dict[str, bytes]) -> None:
    """Keep what waits for a word; ``contents`` by the name of its URL."""
    for find_id, found in store.waiting(word):
        name = found.image_url.rpartition("/")[2].removesuffix(".jpg")
        if name in contents:
            keep(store, find_id, contents[name])


# --- searching --------------------------------------------------------------------------------------------------------


def test_the_same_search_is_the_same_query(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 100)
    assert store.begin_query(WORD, "openverse", "ja", 100) == query
    others = [(WORD, "commons", "ja", 100), (WORD, "openverse", "en", 100), (WORD, "openverse", "ja", 50)]
    assert len({query, *(store.begin_query(*other) for other in others)}) == 4
    assert not store.is_exhausted(query)
    store.mark_exhausted(query)
    assert store.is_exhausted(store.begin_query(WORD, "openverse", "ja", 100))
    assert store.words() == [WORD]


def test_a_word_is_one_word_in_every_normalisation(store: Store) -> None:
    composed, decomposed = "がさがさ", "か\u3099さか\u3099さ"
    assert store.begin_query(composed, "a", "ja", 1) == store.begin_query(f" {decomposed} ", "a", "ja", 1)
    assert store.words() == [composed]
    assert store.images_of(decomposed) == []


@pytest.mark.parametrize("word", ["a/b", "🪨🧸", "長" * 1000, "x" * 1000, 'it\'s "quoted"; DROP TABLE words', "100%_"])
def test_any_word_can_be_collected(store: Store, word: str) -> None:
    collect(store, word, 1)
    assert store.words() == [word]
    assert len(store.images_of(word)) == 1


@pytest.mark.parametrize("word", ["", "  ", "\ud800"])
def test_what_is_no_word_is_refused(store: Store, word: str) -> None:
    with pytest.raises(UserError, match="a word is at least one character, and Unicode"):
        store.begin_query(word, "openverse", "ja", 1)
    assert store.words() == []


def test_finds_come_back_as_they_were_given_in_search_order(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 300)
    found = [find(position) for position in range(1, 251)]
    assert store.add_found(query, reversed(found)) == 250
    assert [each for _, each in store.waiting(WORD)] == found


def test_finds_added_again_change_nothing(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    found = [find(1), find(2), find(3, "picture1")]
    assert store.add_found(query, found) == 2
    before = store.waiting(WORD)
    assert store.add_found(query, [*found, find(4)]) == 1
    assert store.waiting(WORD)[:2] == before
    assert [each.position for _, each in store.waiting(WORD)] == [1, 2, 4]


def test_what_a_source_gave_before_it_failed_is_kept(store: Store) -> None:
    def failing() -> Iterator[FoundImage]:
        yield from (find(position) for position in range(1, 131))
        raise UserError("the source went away")

    query = store.begin_query(WORD, "openverse", "ja", 1000)
    with pytest.raises(UserError, match="went away"):
        store.add_found(query, failing())
    assert len(store.waiting(WORD)) == 130


def test_text_that_no_database_holds_is_stored_readably(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    odd = FoundImage("https://images.example/\ud83d.jpg", "openverse", 1, title="nul\0 and \udce3", author="é")
    store.add_found(query, [odd])
    assert store.add_found(query, [odd]) == 0
    ((find_id, found),) = store.waiting(WORD)
    assert (found.image_url, found.title, found.author) == (
        "https://images.example/\\ud83d.jpg",
        "nul and \\udce3",
        "é",
    )
    store.refuse(find_id, Refused("status", "\0\udc00"))
    assert store.summary(WORD).refused == {"status": 1}


def test_a_very_long_url_is_stored(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    long = [find(1, "a" * 100_000 + "1"), find(2, "a" * 100_000 + "2")]
    store.add_found(query, long)
    assert [each for _, each in store.waiting(WORD)] == long


# --- fetching ---------------------------------------------------------------------------------------------------------


def test_an_image_is_stored_by_its_content(store: Store) -> None:
    collect(store, WORD, 1)
    (image,) = store.images_of(WORD)
    content = image.path.read_bytes()
    assert content == encoded(picture(0))
    assert image.path == store.folder / "images" / image.sha256[:2] / f"{image.sha256[2:]}.jpg"
    assert (image.width, image.height, image.bytes) == (96, 96, len(content))
    assert image.found.author == "Author 1"
    assert list((store.folder / "writing").iterdir()) == []


def test_urls_are_fetched_once_for_all_queries_and_words(store: Store) -> None:
    first = store.begin_query(WORD, "openverse", "ja", 10)
    second = store.begin_query(WORD, "commons", "ja", 10)
    store.add_found(first, [find(5, "shared"), find(2, "refused"), find(3, "own")])
    store.add_found(second, [find(1, "shared", "commons")])
    assert [(each.position, each.source) for _, each in store.waiting(WORD)] == [
        (1, "commons"),
        (2, "openverse"),
        (3, "openverse"),
    ]
    (shared, _), (refused, _), _ = store.waiting(WORD)
    keep(store, shared, encoded(picture(0)))
    store.refuse(refused, Refused("robots", "no"))
    other = store.begin_query("もこもこ", "openverse", "ja", 10)
    store.add_found(other, [find(7, "shared"), find(8, "refused"), find(9, "new")])
    assert [each.position for _, each in store.waiting("もこもこ")] == [9]
    assert [image.found.position for image in store.images_of("もこもこ")] == [7]
    assert store.summary("もこもこ").refused == {"robots": 1}
    assert [image.found.source for image in store.images_of(WORD)] == ["commons"]


def test_the_summary_adds_up(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    names = ["first", "same", "near", "other", "gone", "private", "gone2", "later"]
    store.add_found(query, [find(position, name) for position, name in enumerate(names, 1)])
    first = picture(0)
    contents = {
        "first": encoded(first),
        "same": encoded(first),
        "near": encoded(first.resize((64, 64))),
        "other": encoded(picture(1)),
    }
    keep_all(store, WORD, contents)
    ids = {found.image_url: find_id for find_id, found in store.waiting(WORD)}
    for name, reason in (("gone", "status"), ("gone2", "status"), ("private", "address")):
        store.refuse(ids[find(1, name).image_url], Refused(reason, "why"))  # type: ignore[arg-type]
    assert store.summary(WORD) == Summary(
        found=8,
        waiting=1,
        fetched=4,
        refused={"address": 1, "status": 2},
        exact_duplicates=1,
        near_duplicates=1,
        images=2,
    )
    first_image, _ = store.images_of(WORD)
    assert len(first_image.duplicates) == 1


def test_an_image_that_was_fetched_is_not_refused_any_more(store: Store) -> None:
    collect(store, WORD, 1)
    query = store.begin_query("もこもこ", "openverse", "ja", 1)
    store.add_found(query, [find(1, f"{WORD}0"), find(2, "fresh")])
    ((fresh, _),) = store.waiting("もこもこ")
    store.refuse(fresh, Refused("time", "slow"))
    keep(store, fresh, encoded(picture(1)))
    store.refuse(fresh, Refused("time", "slow"))
    assert store.summary("もこもこ").refused == {}
    assert len(store.images_of("もこもこ")) == 2


def test_refused_finds_wait_again_when_asked(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    store.add_found(query, [find(1), find(2), find(3)])
    (a, _), (b, _), (c, _) = store.waiting(WORD)
    store.refuse(a, Refused("connection", "no network"))
    store.refuse(b, Refused("robots", "no"))
    store.refuse(c, Refused("time", "slow"))
    assert store.waiting(WORD) == []
    assert store.retry(WORD, {"connection", "time"}) == 2
    assert [find_id for find_id, _ in store.waiting(WORD)] == [a, c]
    assert store.summary(WORD).refused == {"robots": 1}


def test_an_image_whose_file_is_gone_waits_again(store: Store) -> None:
    collect(store, WORD, 3)
    lost = store.images_of(WORD)[1]
    lost.path.unlink()
    ((find_id, found),) = store.waiting(WORD)
    assert found == lost.found
    keep(store, find_id, encoded(picture(1)))
    assert store.waiting(WORD) == []
    assert lost.path.is_file()


# --- order and duplicates ---------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(order=st.permutations(range(8)))
def test_what_is_read_does_not_depend_on_the_order_of_arrival(
    order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = [encoded(picture(0)), encoded(picture(1))]
    contents = [
        base[0],
        encoded(picture(0), quality=60),
        base[1],
        base[0],
        encoded(picture(1).resize((120, 120))),
        encoded(picture(2)),
        base[1],
        encoded(picture(0).resize((70, 70))),
    ]
    with open_store(tmp_path_factory.mktemp("order")) as store:
        for source in ("commons", "openverse") if order[0] % 2 else ("openverse", "commons"):
            query = store.begin_query(WORD, source, "ja", 4)
            offset = 0 if source == "commons" else 4
            store.add_found(query, [find(place + 1, f"p{offset + place}", source) for place in range(4)])
        ids = {found.image_url: find_id for find_id, found in store.waiting(WORD)}
        for place in order:
            keep(store, ids[find(1, f"p{place}").image_url], contents[place])
        images = store.images_of(WORD)
        assert [(image.found.source, image.found.position) for image in images] == [
            ("commons", 1),
            ("openverse", 1),
            ("openverse", 2),
        ]
        names = [fetched(content).sha256 for content in contents]
        # The search interleaves both sources: 0, 4, 1, 5, 2, 6, 3, 7.
        assert [(image.sha256, image.duplicates) for image in images] == [
            (names[0], (names[1], names[7])),
            (names[4], (names[2],)),
            (names[5], ()),
        ]


# --- rankings and annotations -----------------------------------------------------------------------------------------


def test_rankings_come_back_and_are_replaced_as_a_whole(store: Store) -> None:
    collect(store, WORD, 3)
    a, b, c = (image.sha256 for image in store.images_of(WORD))
    store.save_rankings(WORD, "layer", [[(b, 0.25), (a, 0.25), (c, -1.5)], [(c, 2.0), (b, 1.0)]])
    first, second = store.rankings(WORD)
    assert (first.number, first.features, list(first.scores.items())) == (1, "layer", [(b, 0.25), (a, 0.25), (c, -1.5)])
    assert (second.number, list(second.scores)) == (2, [c, b])
    assert [image.sha256 for image in store.best_images(WORD)] == [c, b]
    assert [image.sha256 for image in store.best_images(WORD, 1)] == [b, a, c]
    store.save_rankings(WORD, "other", [[(a, 1.0)]])
    assert [(ranked.features, list(ranked.scores)) for ranked in store.rankings(WORD)] == [("other", [a])]
    with pytest.raises(UserError, match=r"has no ranking pass 2 \(known: 1\)"):
        store.best_images(WORD, 2)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_ranking_that_cannot_be_saved_leaves_the_last_one(store: Store, score: float) -> None:
    collect(store, WORD, 1)
    (image,) = store.images_of(WORD)
    store.save_rankings(WORD, "layer", [[(image.sha256, 1.0)]])
    with pytest.raises(ValueError, match="not finite"):
        store.save_rankings(WORD, "layer", [[(image.sha256, score)]])
    with pytest.raises(KeyError):
        store.save_rankings(WORD, "layer", [[("0" * 64, 1.0)]])
    assert store.rankings(WORD)[0].scores == {image.sha256: 1.0}


def test_without_a_ranking_the_search_says_what_is_best(store: Store) -> None:
    collect(store, WORD, 4)
    assert store.rankings(WORD) == []
    assert store.best_images(WORD) == store.images_of(WORD)


def test_annotated_images_come_first_or_not_at_all(store: Store) -> None:
    collect(store, WORD, 5)
    rank_by_content(store, WORD)
    ranked = [image.sha256 for image in store.best_images(WORD)]
    store.annotate(WORD, ranked[3], True)
    store.annotate(WORD, ranked[0], False)
    assert [image.sha256 for image in store.best_images(WORD)] == [ranked[3], ranked[1], ranked[2], ranked[4]]
    assert store.annotations(WORD) == {ranked[3]: True, ranked[0]: False}
    store.annotate(WORD, ranked[3], False)
    store.annotate(WORD, ranked[0], None)
    store.annotate(WORD, ranked[1], None)
    assert store.annotations(WORD) == {ranked[3]: False}
    collect(store, "もこもこ", 1, first_seed=50)
    with pytest.raises(UserError, match="もこもこ has no image"):
        store.annotate("もこもこ", ranked[0], True)


def test_many_images_are_annotated_as_one_by_one_would_or_not_at_all(store: Store) -> None:
    for word, seed in ((WORD, 0), ("もこもこ", 50)):
        collect(store, word, 9, first_seed=seed)
    images = [image.sha256 for image in store.images_of(WORD)]
    (other, *_) = [image.sha256 for image in store.images_of("もこもこ")]
    verdicts = (None, True, False)
    before = dict(zip(images, (verdict for verdict in verdicts for _ in verdicts)))
    after = dict(zip(images, 3 * verdicts))  # every change of a verdict into every verdict
    store.annotate_all(WORD, before)
    for image, verdict in after.items():
        store.annotate(WORD, image, verdict)
    one_by_one = store.annotations(WORD)
    store.annotate_all(WORD, before)
    assert store.annotations(WORD) == {image: verdict for image, verdict in before.items() if verdict is not None}
    for unknown in (other, "0" * 64):
        with pytest.raises(UserError, match=f"has no image {unknown}"):
            store.annotate_all(WORD, {**after, unknown: True})
    assert store.annotations(WORD) == {image: verdict for image, verdict in before.items() if verdict is not None}
    store.annotate_all(WORD, after)
    assert store.annotations(WORD) == one_by_one
    assert len(one_by_one) == 6


def test_images_and_rankings_read_together_are_those_read_apart(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    store.add_found(query, [find(1, "other"), find(2, "large"), find(3, "small")])
    small = encoded(picture(0).resize((64, 64)))
    keep_all(store, WORD, {"other": encoded(picture(1)), "large": encoded(picture(0)), "small": small})
    rank_by_content(store, WORD)
    images, passes = store.images_and_rankings(WORD)
    assert (images, passes) == (store.images_of(WORD), store.rankings(WORD))
    assert [len(image.duplicates) for image in images] == [0, 1]
    assert len(passes) == 2


def test_notes_and_ranks_pass_to_the_image_that_joins_later_and_stands_earlier(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 10)
    store.add_found(query, [find(1, "small"), find(2, "other"), find(3, "large")])
    keep_all(store, WORD, {"other": encoded(picture(1)), "large": encoded(picture(0))})
    other, large = (image.sha256 for image in store.images_of(WORD))
    store.save_rankings(WORD, "layer", [[(large, 2.0), (other, 1.0)]])
    store.annotate(WORD, large, True)
    keep_all(store, WORD, {"small": encoded(picture(0).resize((64, 64)))})
    small = store.images_of(WORD)[0].sha256
    assert store.rankings(WORD)[0].scores == {small: 2.0, other: 1.0}
    assert store.annotations(WORD) == {small: True}
    store.annotate(WORD, small, False)
    assert store.annotations(WORD) == {small: False}


def test_an_unknown_word_names_those_that_are_near(store: Store) -> None:
    collect(store, WORD, 1)
    for ask in (store.images_of, store.waiting, store.summary, store.rankings, store.annotations, store.best_images):
        with pytest.raises(UserError, match=r"has no word ふわふね \(did you mean ふわふわ\?\): tezawari collect"):
            ask("ふわふね")
    with pytest.raises(UserError) as raised:
        store.images_of("ふ" * 1000)
    assert len(str(raised.value).replace(str(store.folder), "")) < 200


# --- opening ----------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_not_made_where_it_should_only_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no store .*: tezawari collect WORD --store"):
        open_store(tmp_path / "none", create=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made: .*name another folder by --store"):
        open_store(tmp_path / "file")


def test_a_newer_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        collect(store, WORD, 1)
    raw = sqlite3.connect(tmp_path / DATABASE_NAME)
    raw.execute("UPDATE schema_version SET version = ?", (SCHEMA_VERSION + 1,))
    raw.commit()
    before = list(raw.iterdump())
    with pytest.raises(UserError, match=rf"newer tezawari .*version {SCHEMA_VERSION + 1}.* knows {SCHEMA_VERSION}"):
        open_store(tmp_path)
    assert list(raw.iterdump()) == before
    raw.close()


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_database_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"the database of the store .* cannot be used \("):
        open_store(tmp_path)
    assert (tmp_path / DATABASE_NAME).read_bytes() == content


def test_a_locked_database_is_waited_for_then_one_line(tmp_path: Path) -> None:
    with open_store(tmp_path, wait_seconds=0.5) as store:
        collect(store, WORD, 1)
        holder = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None, check_same_thread=False)
        holder.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(UserError, match="is locked by another process: wait for that to end"):
            store.begin_query("もこもこ", "openverse", "ja", 1)
        assert time.monotonic() - started >= 0.4
        assert len(store.images_of(WORD)) == 1  # reading never waits
        with open_store(tmp_path, create=False, wait_seconds=0.1) as reader:
            assert reader.words() == [WORD]
        release = threading.Thread(target=lambda: (time.sleep(0.2), holder.rollback()))
        release.start()
        store.begin_query("もこもこ", "openverse", "ja", 1)
        release.join()
        assert "もこもこ" in store.words()
        holder.close()


def test_a_full_disk_is_one_line_and_the_find_waits_on(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        query = store.begin_query(WORD, "openverse", "ja", 1)
        store.add_found(query, [find(1)])
    large = encoded(picture(0).resize((900, 900)), "PNG")

    def child(answers: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(large) - 1, len(large) - 1))
        with open_store(tmp_path) as store:
            ((find_id, _),) = store.waiting(WORD)
            try:
                keep(store, find_id, large)
            except UserError as error:
                answers.send(str(error))  # type: ignore[attr-defined]

    here, there = fork.Pipe()
    process = fork.Process(target=child, args=(there,))
    process.start()
    assert here.poll(20)
    message = here.recv()
    process.join()
    assert "cannot be written: " in message
    assert "type the same command again" in message
    with open_store(tmp_path) as store:
        assert len(store.waiting(WORD)) == 1
        assert files(tmp_path) == {}
        assert list((tmp_path / "writing").iterdir()) == []


def test_files_that_killed_processes_left_go_after_a_while(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        collect(store, WORD, 1)
    old, new = tmp_path / "writing" / "old", tmp_path / "writing" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * store_module._ABANDONED_SECONDS,) * 2)
    with open_store(tmp_path):
        assert [old.exists(), new.exists()] == [False, True]


# --- others at the same time ------------------------------------------------------------------------------------------


def test_threads_share_a_store(store: Store) -> None:
    query = store.begin_query(WORD, "openverse", "ja", 40)
    store.add_found(query, [find(position) for position in range(1, 41)])
    waiting = store.waiting(WORD)
    failures = []

    def work(part: int) -> None:
        try:
            for find_id, found in waiting[part::8]:
                keep(store, find_id, encoded(picture(found.position % 10)))
                store.summary(WORD)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    summary = store.summary(WORD)
    assert (summary.fetched, summary.images, summary.exact_duplicates) == (40, 10, 30)


def test_processes_share_a_store_and_make_it_together(tmp_path: Path) -> None:
    def child(part: int) -> None:
        with open_store(tmp_path / "shared") as store:
            query = store.begin_query(WORD, "openverse", "ja", 30)
            store.add_found(query, [find(position) for position in range(1, 31)])
            for find_id, found in store.waiting(WORD)[part::2]:
                keep(store, find_id, encoded(picture(found.position % 6)))
        os._exit(0)

    processes = [fork.Process(target=child, args=(part,)) for part in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    with open_store(tmp_path / "shared", create=False) as store:
        for find_id, found in store.waiting(WORD):  # what one process skipped because the other had it
            keep(store, find_id, encoded(picture(found.position % 6)))
        summary = store.summary(WORD)
        assert (summary.found, summary.fetched, summary.images) == (30, 30, 6)
    assert len(files(tmp_path / "shared")) == 6


# --- other databases --------------------------------------------------------------------------------------------------


def test_another_database_is_used_by_its_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with open_store(tmp_path / "set", url) as store:
        collect(store, WORD, 2)
        rank_by_content(store, WORD)
    assert not (tmp_path / "set" / DATABASE_NAME).exists()
    with open_store(tmp_path / "set", url, create=False) as store:
        assert len(store.best_images(WORD)) == 2


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no url", "not named as SQLAlchemy names one"),
        ("oracle+nothing://me:secret@host/name", r"oracle\+nothing://me:\*\*\*@host/name: its driver is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        open_store(tmp_path, url)
    assert "secret" not in str(raised.value)


def test_the_tables_are_ones_that_postgres_has_too() -> None:
    text = "".join(
        str(CreateTable(table).compile(dialect=postgresql.dialect())) for table in Table.metadata.sorted_tables
    )
    assert text.count("SERIAL NOT NULL") == 5
    assert "AUTOINCREMENT" not in text.upper()
