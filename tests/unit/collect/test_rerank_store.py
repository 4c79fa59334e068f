"""Ranking the words of a store: both passes kept, annotations honoured, every descriptor computed once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.collect.store_material import encoded, fetched, find, picture

from tezawari.collect.contact_sheet import load_pixels
from tezawari.collect.rerank import rerank
from tezawari.collect.rerank_store import (
    Negatives,
    default_layer,
    loaded_ahead,
    negatives_of_folder,
    negatives_of_photos,
    open_descriptors,
    photo_crops,
    rank_word,
)
from tezawari.collect.store import Store, open_store
from tezawari.core.errors import UserError
from tezawari.core.package_photos import package_photo
from tezawari.features.descriptors import DescriptorCache, describe, letterbox

WORD, OTHER = "ごつごつ", "ふわふわ"
BACKBONE, LAYER = "efficientnet_lite0", "block1"


def striped(seed: int) -> Image.Image:
    """Return a picture of fine stripes in some colours: what :data:`WORD` looks like in these tests."""
    rng = np.random.default_rng(seed)
    pixels = np.empty((96, 96, 3), np.uint8)
    pixels[:] = rng.integers(0, 120, 3)
    pixels[:, rng.integers(3) :: 4] = rng.integers(140, 256, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> DescriptorCache:
    return open_descriptors(tmp_path_factory.mktemp("cache"), BACKBONE, LAYER, "random")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A word whose search results are stripes, and others further and further down; and another word."""
    with open_store(tmp_path / "store") as opened:
        right = {place for place in range(30) if (place * 7) % 30 >= place * 0.6}
        results = [striped(place) if place in right else picture(place) for place in range(30)]
        for word, pictures in ((WORD, results), (OTHER, [picture(100 + place) for place in range(12)])):
            query = opened.begin_query(word, "openverse", "ja", 100)
            opened.add_found(query, [find(place + 1, f"{word}{place}") for place in range(len(pictures))])
            for (find_id, _), image in zip(opened.waiting(word), pictures, strict=True):
                opened.keep(find_id, fetched(encoded(image, "PNG")), None)
        yield opened


@pytest.fixture
def negatives(store: Store) -> Negatives:
    images = {image.sha256: partial(load_pixels, image.path, 448) for image in store.images_of(OTHER)}
    return Negatives(images, "of the other word")


def test_both_passes_are_kept_as_reranking_by_the_layer_says(
    store: Store, cache: DescriptorCache, negatives: Negatives
) -> None:
    progress: list[tuple[int, int]] = []
    assert rank_word(store, WORD, cache, LAYER, negatives, lambda *done: progress.append(done)) == 30
    assert progress[-1] == (42, 42)
    images = store.images_of(WORD)
    rows = describe(cache.backbone, [load_pixels(image.path, 500) for image in images], [LAYER])[LAYER]
    against = describe(cache.backbone, [load() for load in negatives.images.values()], [LAYER])[LAYER]
    expected = rerank(rows, against)
    kept = store.rankings(WORD)
    assert [one.number for one in kept] == [1, 2]
    assert {one.features for one in kept} == {"efficientnet_lite0/block1"}
    for stored, one in zip(kept, expected, strict=True):
        order = [images[place].sha256 for place in np.argsort(one.ranks)]
        assert list(stored.scores) == order
        by_image = dict(zip((image.sha256 for image in images), one.scores.tolist(), strict=True))
        assert stored.scores == pytest.approx(by_image, abs=1e-5)


def test_ranking_raises_what_the_word_looks_like(store: Store, cache: DescriptorCache, negatives: Negatives) -> None:
    right = {image.sha256 for image in store.images_of(WORD) if _is_striped(image.path)}
    searched = [image.sha256 in right for image in store.images_of(WORD)]
    rank_word(store, WORD, cache, LAYER, negatives)
    ranked = [image.sha256 in right for image in store.best_images(WORD)]
    count = len(right)
    assert 5 < count < 25
    assert sum(ranked[:count]) > sum(searched[:count]) + 2


def _is_striped(path: Path) -> bool:
    with Image.open(path) as image:
        return len(image.getcolors(100_000) or []) == 2


def test_annotations_are_honoured(store: Store, cache: DescriptorCache, negatives: Negatives) -> None:
    rank_word(store, WORD, cache, LAYER, negatives)
    best, worst = store.best_images(WORD)[0].sha256, store.best_images(WORD)[-1].sha256
    before = store.rankings(WORD)[0].scores
    store.annotate(WORD, best, False)
    store.annotate(WORD, worst, True)
    rank_word(store, WORD, cache, LAYER, negatives)
    names = [image.sha256 for image in store.best_images(WORD)]
    assert names[0] == worst
    assert best not in names
    after = store.rankings(WORD)[0].scores
    assert after[worst] > before[worst]
    assert after[best] < before[best]


def test_descriptors_are_computed_once_and_a_word_ranked_again_is_ranked_alike(
    store: Store, cache: DescriptorCache, negatives: Negatives
) -> None:
    rank_word(store, WORD, cache, LAYER, negatives)
    first = store.rankings(WORD)
    for image in [*store.images_of(WORD), *store.images_of(OTHER)]:
        image.path.unlink()  # nothing could be computed from now on
    rank_word(store, WORD, cache, LAYER, negatives)
    assert store.rankings(WORD) == first


def test_a_ranking_that_was_stopped_ends_with_the_same_scores_to_the_last_bit(
    store: Store, tmp_path: Path, negatives: Negatives
) -> None:
    rank_word(store, WORD, open_descriptors(tmp_path / "whole", BACKBONE, LAYER, "random"), LAYER, negatives)
    whole = store.rankings(WORD)
    images = store.images_of(WORD)
    stopped = open_descriptors(tmp_path / "stopped", BACKBONE, LAYER, "random")
    # Seven: all batches after them hold other images together than in the whole one.
    some = {image.sha256: partial(load_pixels, image.path, 448) for image in images[:7]}
    stopped.describe(some, [LAYER], batch_size=3)
    rank_word(store, WORD, stopped, LAYER, negatives)
    assert store.rankings(WORD) == whole


def test_images_are_loaded_ahead_of_being_asked_for_and_never_far(store: Store) -> None:
    begun: list[int] = []

    def load(place: int) -> np.ndarray:
        begun.append(place)
        if place == 90:
            raise UserError("the image is gone")
        return np.full((30 + place, 60, 3), place, np.uint8)

    loaders = {f"{place:03}": partial(load, place) for place in range(100)}
    with loaded_ahead(loaders, 224) as ahead:
        assert list(ahead) == list(loaders)
        assert begun == []
        # Some of them are known already, and nobody asks for those.
        for place in [0, 1, 2, 40, 41, 70, 71, 72]:
            pixels = ahead[f"{place:03}"]()
            assert np.array_equal(pixels, letterbox(np.full((30 + place, 60, 3), place, np.uint8)))
            assert np.array_equal(letterbox(pixels), pixels)
            assert max(begun) <= place + 15
        with pytest.raises(UserError, match="is gone"):
            ahead["090"]()
    assert not any(thread.name.startswith("tezawari-decode") for thread in threading.enumerate())


def test_a_words_own_images_are_never_its_negatives(store: Store, cache: DescriptorCache) -> None:
    own = Negatives({image.sha256: lambda: np.zeros((9, 9, 3), np.uint8) for image in store.images_of(WORD)}, "own")
    rank_word(store, WORD, cache, LAYER, own)
    assert set(store.rankings(WORD)[-1].scores.values()) == {0.0}  # there was nothing to learn from


def test_crops_differ_and_show_no_material() -> None:
    crops = photo_crops()
    assert negatives_of_photos().images.keys() == crops.keys()
    pixels = [load() for load in crops.values()]
    assert len({each.tobytes() for each in pixels}) == len(crops) > 100
    assert all(each.dtype == np.uint8 and each.shape[2] == 3 and min(each.shape[:2]) >= 50 for each in pixels)
    grass = load_pixels(package_photo("grass"), 672)
    assert not any(np.array_equal(grass, each) for each in pixels)


def test_a_folder_of_negatives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="no such folder"):
        negatives_of_folder(tmp_path / "absent")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="holds no picture"):
        negatives_of_folder(tmp_path)
    for place, name in enumerate(("b.png", "deeper/a.PNG", "same.png")):
        (tmp_path / name).write_bytes(encoded(picture(place % 2), "PNG"))
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING):
        found = negatives_of_folder(tmp_path)
    assert len(found.images) == 2  # b and same have the same bytes
    assert "broken.jpg" in caplog.text
    assert {load().shape for load in found.images.values()} == {(96, 96, 3)}


@pytest.mark.parametrize("content", [None, b"\x89PNG damaged"])
def test_an_image_that_is_gone_or_damaged_is_named(
    store: Store, tmp_path: Path, negatives: Negatives, content: bytes | None
) -> None:
    path = store.images_of(WORD)[3].path
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    fresh = open_descriptors(tmp_path / "fresh", BACKBONE, LAYER, "random")
    with pytest.raises(UserError, match=rf"{path.name}: the image (file is gone|is damaged)"):
        rank_word(store, WORD, fresh, LAYER, negatives)


def test_a_word_without_images_is_left_as_it_is(store: Store, cache: DescriptorCache, negatives: Negatives) -> None:
    store.begin_query("からから", "openverse", "ja", 100)
    assert rank_word(store, "からから", cache, LAYER, negatives) == 0
    assert store.rankings("からから") == []


def test_the_default_layer_is_one_of_the_backbone_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    open_descriptors(tmp_path, BACKBONE, default_layer(BACKBONE), "random")
    with pytest.raises(UserError, match="no layer 'block99'"):
        open_descriptors(tmp_path, BACKBONE, "block99", "random")


def test_stored_pictures_are_read_upright_on_white_and_bounded(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert load_pixels(tmp_path / "turned.jpg", 100).shape == (60, 40, 3)
    Image.new("RGBA", (40, 40), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    assert (load_pixels(tmp_path / "clear.png", 100) == 255).all()
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert (load_pixels(tmp_path / "deep.png", 100) == 40_000 >> 8).all()
    Image.new("CMYK", (40, 40)).save(tmp_path / "print.jpg")
    assert load_pixels(tmp_path / "print.jpg", 100).shape == (40, 40, 3)
    for name in ("wide.jpg", "wide.png"):
        picture(3, 900).crop((0, 0, 900, 300)).save(tmp_path / name)
        assert load_pixels(tmp_path / name, 90).shape == (30, 90, 3)
