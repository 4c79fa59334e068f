"""FMD: a miniature of its layout, as odd as the original, and its two protocols."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data import fmd
from tezawari.data.fmd import FmdData
from tezawari.data.materials import MATERIALS


def kinds(name: str) -> tuple[str, ...]:
    return ("final", "final") if name == "foliage" else ("moderate", "object")


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photos a class, five of each kind; masks are JPEGs, white on the left, every other one in colour."""
    root = tmp_path_factory.mktemp("fmd")
    for name in MATERIALS:
        for inner in ("image", "mask"):
            (root / inner / name).mkdir(parents=True)
        for number in range(10):
            file = f"{name}_{kinds(name)[number % 2]}_{number + 1:03d}_new.jpg"
            Image.new("RGB", (24, 16), (number * 20, 90, 40)).save(root / "image" / name / file)
            mask = Image.new("L", (24, 16))
            mask.paste(255, (0, 0, 16, 16))
            (mask.convert("RGB") if number % 2 else mask).save(root / "mask" / name / file, quality=60)
    (root / "image" / "Thumbs.db").write_bytes(b"")
    return root


def data(root: Path, **settings: object) -> FmdData:
    return FmdData(str(root), **({"image_size": 16, "batch_size": 2} | settings))  # type: ignore[arg-type]


def ids(found: FmdData, split: str) -> set[str]:
    return {example.id for example in found.examples(split)}  # type: ignore[arg-type]


def count(names: set[str]) -> Counter[tuple[str, str]]:
    return Counter((name.split("/")[0], name.split("_")[1]) for name in names)


def test_halves_share_every_class_and_kind_and_differ_from_split_to_split(miniature: Path) -> None:
    found = data(miniature)
    train, val = ids(found, "train"), ids(found, "val")
    assert found.class_names == list(MATERIALS)
    assert len(train) == len(val) == 50
    assert not train & val
    assert found.examples("test") == []
    for half in (train, val):
        assert Counter(name.split("/")[0] for name in half) == dict.fromkeys(MATERIALS, 5)
        assert all(2 <= number <= 3 for (name, _), number in count(half).items() if name != "foliage")
    assert ids(data(miniature), "train") == train
    others = [ids(data(miniature, split=1), "train"), ids(data(miniature, seed=1), "train")]
    assert len({frozenset(half) for half in [train, *others]}) == 3


def test_five_folds_are_each_tested_once_and_never_trained_on(miniature: Path) -> None:
    tested: list[str] = []
    for fold in range(5):
        found = data(miniature, protocol="5fold", split=fold)
        parts = [ids(found, split) for split in ("train", "val", "test")]
        assert [len(part) for part in parts] == [60, 20, 20]
        assert len(set.union(*parts)) == 100
        assert set(count(parts[2]).values()) <= {1, 2}
        assert parts[1] == ids(data(miniature, protocol="5fold", split=(fold + 1) % 5), "test")
        tested += parts[2]
    assert len(tested) == len(set(tested)) == 100


def test_a_mask_is_its_material_where_its_file_is_bright(miniature: Path) -> None:
    found = data(miniature, supervision="full")
    for example in [*found.examples("train"), *found.examples("val")]:
        (place,) = example.labels
        assert example.id.startswith(MATERIALS[place] + "/")
        mask = example.load_mask()
        assert mask is not None
        assert (mask[:, :15] == place + 1).all()
        assert (mask[:, 17:] == 0).all()
    assert all(example.load_mask() is None for example in data(miniature).examples("train"))
    assert set(next(iter(found.train_dataloader()))) == {"image", "labels", "mask", "id"}


def test_png_masks_will_do_and_missing_ones_are_named(miniature: Path, tmp_path: Path) -> None:
    root = tmp_path / "FMD"
    (root / "mask").mkdir(parents=True)
    (root / "image").symlink_to(miniature / "image")
    for name in MATERIALS:
        (root / "mask" / name).symlink_to(miniature / "mask" / name)
    (root / "mask" / "wood").unlink()
    (root / "mask" / "wood").mkdir()
    with pytest.raises(UserError, match=r"mask/wood/wood_\w+\.jpg: there is no such mask, nor of 4 others"):
        data(root).setup()
    for path in (miniature / "image" / "wood").glob("*.jpg"):
        Image.fromarray(np.full((16, 24), 200, np.uint8)).save(root / "mask" / "wood" / f"{path.stem}.png")
    (mask,) = {
        int(value)
        for example in data(root).examples("val")
        if example.id.startswith("wood") and (loaded := example.load_mask()) is not None
        for value in np.unique(loaded)
    }
    assert mask == MATERIALS.index("wood") + 1


def test_what_is_missing_or_wrong_is_named(miniature: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"type data\.root=FOLDER/FMD \(and data\.download=true"):
        FmdData().setup()
    with pytest.raises(UserError, match="holds no folder image; name the folder of FMD"):
        data(tmp_path).setup()
    with pytest.raises(UserError, match=r"data\.split=5: must be 0 to 4 with data\.protocol=5fold"):
        data(miniature, protocol="5fold", split=5).setup()
    with pytest.raises(UserError, match=r"data\.split=-1: must be at least 0"):
        data(miniature, split=-1).setup()
    (tmp_path / "image" / "fabric").mkdir(parents=True)
    (tmp_path / "mask").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "image" / "fabric" / "my_photo.jpg")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(UserError, match=r"fabric: 0 photos fabric_\*_NNN_new\.jpg found, at least 2 needed"),
    ):
        data(tmp_path).setup()
    assert "skipped 1 files: my_photo.jpg" in caplog.text


def test_a_download_is_asked_for_only_where_there_is_no_folder(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(fmd, "download_folder", lambda *words: asked.append(words) or words[-1].symlink_to(miniature))
    data(miniature, download=True).setup()
    assert asked == []
    data(tmp_path / "new" / "FMD", download=True).setup()
    assert asked == [(fmd.ARCHIVE_URL, fmd.ARCHIVE_MD5, "", tmp_path / "new" / "FMD")]
