"""Descriptors of images, and the cache that computes each of them once."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.features.backbone import Backbone, available_layers, load_backbone
from tezawari.features.descriptors import (
    DescriptorCache,
    LoadImage,
    describe,
    early_middle_late,
    fingerprint,
    letterbox,
    pool,
)

_LAYERS = ("stem", "block1")
_SIZE = 32


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("efficientnet_lite0", _LAYERS)


def _image(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _key(seed: int) -> str:
    return hashlib.sha256(str(seed).encode()).hexdigest()


class _Counted:
    """Images by key that count how often each is loaded."""

    def __init__(self, count: int) -> None:
        self.loads = dict.fromkeys((_key(seed) for seed in range(count)), 0)
        self.images: dict[str, LoadImage] = {_key(seed): self._loader(seed) for seed in range(count)}

    def _loader(self, seed: int) -> LoadImage:
        def load() -> np.ndarray:
            self.loads[_key(seed)] += 1
            return _image(seed)

        return load


def test_descriptors_are_unit_vectors_of_pooled_features(backbone: Backbone) -> None:
    images = [_image(seed) for seed in range(3)]
    found = describe(backbone, images, _LAYERS, image_size=_SIZE, batch_size=2)
    assert set(found) == set(_LAYERS)
    for layer, rows in found.items():
        assert rows.shape == (3, 2 * backbone.channels[layer])
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    square = torch.from_numpy(letterbox(images[2], _SIZE).copy()).permute(2, 0, 1)[None].float() / 255
    features = backbone(square, ["block1"])["block1"][0].numpy().reshape(backbone.channels["block1"], -1)
    expected = np.sqrt(np.concatenate([features.mean(1), features.std(1)]))
    np.testing.assert_allclose(found["block1"][2], expected / np.linalg.norm(expected), atol=1e-4)


def test_a_batch_gives_what_single_images_give(backbone: Backbone) -> None:
    images = [_image(seed, 20 + seed, 50 - seed) for seed in range(5)]
    seen: list[tuple[int, int]] = []
    together = describe(backbone, images, _LAYERS, _SIZE, batch_size=4, progress=lambda *done: seen.append(done))
    assert seen == [(4, 5), (5, 5)]
    for place, image in enumerate(images):
        alone = describe(backbone, iter([image]), _LAYERS, _SIZE)
        for layer in _LAYERS:
            np.testing.assert_allclose(together[layer][place], alone[layer][0], atol=1e-5)


def test_no_images_are_no_rows(backbone: Backbone) -> None:
    assert describe(backbone, [], ["stem"], _SIZE)["stem"].shape == (0, 64)


def test_pooling_ignores_positions_and_keeps_signs() -> None:
    features = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    shuffled = features.flatten(2)[..., torch.randperm(20)].view_as(features)
    torch.testing.assert_close(pool(features), pool(shuffled))
    torch.testing.assert_close(pool(3 * features), pool(features))
    assert (pool(features)[:, :6].sign() == features.mean((2, 3)).sign()).all()
    assert not pool(torch.zeros(1, 3, 2, 2)).any()


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (32, 32), (1, 500), (200, 100)])
def test_letterbox_keeps_the_whole_image_in_the_middle(height: int, width: int) -> None:
    square = letterbox(np.full((height, width, 3), 255, np.uint8), 32)
    assert square.shape == (32, 32, 3)
    white = (square == 255).all(axis=2)
    rows, columns = white.any(axis=1).nonzero()[0], white.any(axis=0).nonzero()[0]
    assert (len(rows), len(columns)) == tuple(max(1, round(32 * side / max(height, width))) for side in (height, width))
    assert abs(rows[0] - (31 - rows[-1])) <= 1
    assert abs(columns[0] - (31 - columns[-1])) <= 1
    assert (square[~white] == 127).all()


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an image is \(H, W, 3\) uint8"):
        letterbox(pixels)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vgg16", "vgg19", "resnet18", "vit_tiny_patch16_224"])
def test_three_layers_of_any_backbone_are_early_middle_and_late(name: str) -> None:
    known = available_layers(name)
    places = [known.index(layer) for layer in early_middle_late(name)]
    assert places == sorted(set(places))
    assert places[-1] >= 0.9 * (len(known) - 2)


def test_the_cache_gives_what_describing_gives_and_loads_each_image_once(backbone: Backbone, tmp_path: Path) -> None:
    counted = _Counted(5)
    cache = DescriptorCache(tmp_path / "cache", backbone, _SIZE)
    seen: list[tuple[int, int]] = []
    first = cache.describe(counted.images, ["stem"], batch_size=2, progress=lambda *done: seen.append(done))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert set(counted.loads.values()) == {1}
    expected = describe(backbone, [_image(seed) for seed in range(5)], ["stem"], _SIZE, batch_size=2)
    np.testing.assert_array_equal(first["stem"], expected["stem"])

    turned = dict(reversed(counted.images.items()))
    again = DescriptorCache(tmp_path / "cache", backbone, _SIZE).describe(turned, ["stem"])
    np.testing.assert_array_equal(again["stem"], first["stem"][::-1])
    assert set(counted.loads.values()) == {1}

    cache.describe(counted.images, _LAYERS)
    assert set(counted.loads.values()) == {2}, "a new layer needs the images once more"
    cache.describe({}, _LAYERS)


def test_other_weights_sizes_and_networks_are_kept_apart(backbone: Backbone, tmp_path: Path) -> None:
    other = load_backbone("efficientnet_lite0", _LAYERS, "random")
    same = load_backbone("efficientnet_lite0", _LAYERS)
    assert fingerprint(backbone, 32) == fingerprint(same, 32)
    assert len({fingerprint(backbone, 32), fingerprint(backbone, 64), fingerprint(other, 32)}) == 3
    counted = _Counted(1)
    ours = DescriptorCache(tmp_path, backbone, 32).describe(counted.images, ["stem"])
    theirs = DescriptorCache(tmp_path, other, 32).describe(counted.images, ["stem"])
    assert counted.loads[_key(0)] == 2
    assert not np.allclose(ours["stem"], theirs["stem"])


def test_what_was_finished_before_an_interruption_stays(backbone: Backbone, tmp_path: Path) -> None:
    counted = _Counted(6)

    def interrupted() -> np.ndarray:
        raise KeyboardInterrupt

    images = {**counted.images, _key(4): interrupted}
    with pytest.raises(KeyboardInterrupt):
        DescriptorCache(tmp_path, backbone, _SIZE).describe(images, ["stem"], batch_size=2)
    DescriptorCache(tmp_path, backbone, _SIZE).describe(counted.images, ["stem"], batch_size=2)
    assert [counted.loads[_key(seed)] for seed in range(6)] == [1, 1, 1, 1, 1, 1]


_ENDLESS = """
import sys, numpy as np
from tezawari.features.backbone import load_backbone
from tezawari.features.descriptors import DescriptorCache
cache = DescriptorCache(sys.argv[1], load_backbone("efficientnet_lite0", ("stem", "block1")), 32)
images = {f"{place:064x}": lambda: np.zeros((8, 8, 3), np.uint8) for place in range(5000)}
cache.describe(images, ["stem"], batch_size=2, progress=lambda done, total: print(done, flush=True))
"""


def test_a_kill_loses_nothing_that_was_reported(backbone: Backbone, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(5)][-1]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    def unexpected() -> np.ndarray:
        raise AssertionError("this was computed before")

    images: dict[str, LoadImage] = {f"{place:064x}": unexpected for place in range(reported)}
    found = DescriptorCache(tmp_path, backbone, _SIZE).describe(images, ["stem"])
    np.testing.assert_array_equal(found["stem"], np.repeat(found["stem"][:1], reported, axis=0))


def test_several_writers_at_once_lose_nothing(backbone: Backbone, tmp_path: Path) -> None:
    caches = [DescriptorCache(tmp_path, backbone, _SIZE) for _ in range(3)]
    counted = _Counted(12)
    with ThreadPoolExecutor(3) as pool_of_threads:
        runs = [pool_of_threads.submit(cache.describe, counted.images, ["stem"], 1) for cache in caches]
        results = [run.result()["stem"] for run in runs]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
    loads = dict(counted.loads)
    caches[0].describe(counted.images, ["stem"])
    assert counted.loads == loads


def _spoil_vector(path: Path) -> None:
    with sqlite3.connect(path) as database:
        (blob,) = database.execute("SELECT vector FROM descriptor WHERE image = ?", (_key(2),)).fetchone()
        spoilt = bytes([blob[0] ^ 1]) + blob[1:]
        database.execute("UPDATE descriptor SET vector = ? WHERE image = ?", (spoilt, _key(2)))
    database.close()


def _cut_vector(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE descriptor SET vector = x'00' WHERE image = ?", (_key(2),))
    database.close()


@pytest.mark.parametrize("damage", [_spoil_vector, _cut_vector])
def test_a_damaged_descriptor_alone_is_computed_again(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    counted = _Counted(4)
    cache = DescriptorCache(tmp_path, backbone, _SIZE)
    first = cache.describe(counted.images, ["stem"])
    damage(cache.path)
    with caplog.at_level(logging.WARNING):
        second = cache.describe(counted.images, ["stem"])
    np.testing.assert_allclose(second["stem"], first["stem"], atol=1e-6)
    assert [counted.loads[_key(seed)] for seed in range(4)] == [1, 1, 2, 1]
    assert f"the descriptor of image {_key(2)} is damaged" in caplog.text
    caplog.clear()
    cache.describe(counted.images, ["stem"])
    assert caplog.text == ""


@pytest.mark.parametrize("reopened", [True, False])
def test_a_damaged_database_is_set_aside(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture, reopened: bool
) -> None:
    counted = _Counted(2)
    cache = DescriptorCache(tmp_path, backbone, _SIZE)
    first = cache.describe(counted.images, ["stem"])
    cache.path.write_bytes(b"no database at all" * 1000)
    with caplog.at_level(logging.WARNING):
        cache = DescriptorCache(tmp_path, backbone, _SIZE) if reopened else cache
        second = cache.describe(counted.images, ["stem"])
    np.testing.assert_array_equal(second["stem"], first["stem"])
    assert "is damaged" in caplog.text
    assert len(list(tmp_path.glob("*.damaged"))) == 1
    cache.describe(counted.images, ["stem"])
    assert set(counted.loads.values()) == {2}


def test_a_layer_that_was_not_loaded_is_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="without layer 'block9'"):
        DescriptorCache(tmp_path, backbone, _SIZE).describe({}, ["block9"])


def test_a_folder_that_is_a_file_is_one_clear_line(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file, not a folder"):
        DescriptorCache(tmp_path / "file" / "cache", backbone, _SIZE)
