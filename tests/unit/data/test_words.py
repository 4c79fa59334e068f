"""Word sets: the best images of each word, what is held out, and what a store must hold."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.collect.store_material import collect, encoded, fetched, find, picture, rank_by_content

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.store import open_store
from tezawari.core.errors import UserError
from tezawari.data.words import WordsData

SOFT, ROUGH = "ふわふわ", "ごつごつ"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two words: 20 ranked images of one, 10 unranked ones of the other."""
    folder = tmp_path_factory.mktemp("filled")
    with open_store(folder) as store:
        collect(store, SOFT, 20)
        rank_by_content(store, SOFT)
        collect(store, ROUGH, 10, first_seed=100)
    return folder


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """A copy of that store."""
    return Path(shutil.copytree(filled, tmp_path / "set"))


def data(folder: Path, **settings: object) -> WordsData:
    return WordsData(str(folder), **({"image_size": 16, "batch_size": 4} | settings))  # type: ignore[arg-type]


def names(found: WordsData, split: str) -> set[str]:
    listed = [example.id for example in found.examples(split)]  # type: ignore[arg-type]
    assert len(set(listed)) == len(listed)
    return set(listed)


def test_the_best_images_of_each_word_are_its_class(folder: Path) -> None:
    found = data(folder, words=[SOFT, ROUGH], keep=8)
    assert found.class_names == [SOFT, ROUGH]
    with open_store(folder) as store:
        soft = {image.sha256 for image in store.best_images(SOFT)[:8]}
        rough = {image.sha256 for image in store.images_of(ROUGH)[:8]}
    assert names(found, "train") | names(found, "val") == soft | rough
    assert names(found, "train") & names(found, "val") == set()
    for example in [*found.examples("train"), *found.examples("val")]:
        assert example.labels == ((0,) if example.id in soft else (1,))
    assert data(folder).class_names == sorted([SOFT, ROUGH])


def test_batches_are_those_of_labelled_images(folder: Path) -> None:
    found = data(folder, words=[ROUGH, SOFT])
    with open_store(folder) as store:
        rough = {image.sha256 for image in store.images_of(ROUGH)}
    (batch, *_) = found.train_dataloader()
    assert set(batch) == {"image", "labels", "id"}
    assert batch["image"].shape == (4, 3, 16, 16)
    assert batch["labels"].tolist() == [[1.0, 0.0] if name in rough else [0.0, 1.0] for name in batch["id"]]


def test_a_word_is_found_in_another_normalisation(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        collect(store, "ごわごわ", 3)
    assert len(names(data(tmp_path, words=["こ\u3099わこ\u3099わ"]), "train")) == 2


def test_a_fraction_of_each_word_is_held_out_by_content_and_seed(folder: Path) -> None:
    found = data(folder, val_fraction=0.3)
    val = names(found, "val")
    with open_store(folder) as store:
        words = {word: {image.sha256 for image in store.images_of(word)} for word in (SOFT, ROUGH)}
    assert [len(val & words[word]) for word in (SOFT, ROUGH)] == [6, 3]
    assert names(data(folder, val_fraction=0.3), "val") == val
    assert len({frozenset(names(data(folder, seed=seed), "val")) for seed in range(3)}) == 3
    # A larger fraction, another order of words or a new ranking moves no image to the other side.
    assert val < names(data(folder, val_fraction=0.5), "val")
    assert names(data(folder, val_fraction=0.3, words=[ROUGH]), "val") == val & words[ROUGH]
    with open_store(folder) as store:
        rank_by_content(store, ROUGH)
    assert names(data(folder, val_fraction=0.3), "val") == val
    for fraction in (0.01, 0.99):
        parts = [names(data(folder, val_fraction=fraction), split) for split in ("train", "val")]
        assert all(part & words[word] for part in parts for word in words)


def test_an_image_of_two_words_has_both_labels_and_near_duplicates_share_a_side(folder: Path) -> None:
    with open_store(folder) as store:
        query = store.begin_query("もこもこ", "openverse", "ja", 30)
        store.add_found(query, [find(place + 1, f"m{place}") for place in range(20)])
        for find_id, found_image in store.waiting("もこもこ"):
            place = found_image.position - 1
            image = picture(place)
            content = encoded(image) if place < 10 else encoded(image.resize((64, 64)))
            store.keep(find_id, fetched(content), perceptual_hash(content))
        soft = [image.sha256 for image in store.images_of(SOFT)]
        other = [image.sha256 for image in store.images_of("もこもこ")]
    assert soft[:10] == other[:10]
    for seed in range(3):
        found = data(folder, words=[SOFT, "もこもこ"], seed=seed)
        val = names(found, "val")
        labels = {example.id: example.labels for split in ("train", "val") for example in found.examples(split)}  # type: ignore[arg-type]
        assert [labels[name] for name in soft] == [(0, 1)] * 10 + [(0,)] * 10
        assert [labels[name] for name in other[10:]] == [(1,)] * 10
        assert [name in val for name in soft] == [name in val for name in other]


def test_images_beyond_the_memory_allowed_give_the_same_samples(folder: Path) -> None:
    cached, uncached = data(folder), data(folder, cache_mb=0)
    assert all(isinstance(example.image, np.ndarray) for example in cached.examples("train"))
    assert all(isinstance(example.image, Path) for example in uncached.examples("train"))
    for a, b in zip(cached.train_dataloader(), uncached.train_dataloader()):
        assert a["id"] == b["id"]
        assert torch.equal(a["image"], b["image"])


def test_the_log_says_what_is_unranked_and_what_is_short(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data(folder, keep=20).setup()
    assert f"{ROUGH}: not ranked yet, so the first 20 of the search are taken" in caplog.text
    assert f"{ROUGH}: only 10 images of 20: tezawari collect {ROUGH} --store {folder} may find more" in caplog.text
    assert SOFT not in caplog.text


def test_stores_that_will_not_do_say_what_is_needed(folder: Path, tmp_path: Path) -> None:
    with open_store(folder) as store:
        collect(store, "つるつる", 1, first_seed=300)
        (last, *_) = store.images_of(ROUGH)
    with pytest.raises(UserError, match=r"there is no store .*: tezawari collect WORD --store"):
        data(tmp_path / "none").setup()
    with pytest.raises(UserError, match=r"has no word ふわふね \(did you mean ふわふわ\?\)"):
        data(folder, words=["ふわふね"]).setup()
    with pytest.raises(UserError, match="name at least one word, and each once"):
        data(folder, words=[SOFT, SOFT]).setup()
    with pytest.raises(
        UserError, match=r"つるつる: 1 images of 50 .*at least 2 needed.*: tezawari collect つるつる --store"
    ):
        data(folder).setup()
    with pytest.raises(UserError, match=r"data\.keep=1: must be at least 2"):
        data(folder, keep=1).setup()
    with pytest.raises(UserError, match=r"data\.val_fraction=0: must lie between 0 and 1"):
        data(folder, val_fraction=0).setup()
    last.path.unlink()
    with pytest.raises(UserError, match="the image file is gone: tezawari collect WORD --store"):
        data(folder, words=[ROUGH]).setup()


def test_words_that_share_all_their_images_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for word in ("a", "b"):
            query = store.begin_query(word, "openverse", "en", 9)
            store.add_found(query, [find(place + 1, f"p{place}") for place in range(2 if word == "b" else 9)])
        for find_id, found in store.waiting("a"):
            content = encoded(picture(found.position))
            store.keep(find_id, fetched(content), perceptual_hash(content))
    with pytest.raises(UserError, match="b: no image left to train on, for they share theirs with other words"):
        data(tmp_path, val_fraction=0.99).setup()
