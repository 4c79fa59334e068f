"""VOC: a miniature of its layout, its three sources of labels, subsets of its classes, and what is missing by name."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data import voc
from tezawari.data.voc import VOC8, VOC_CLASSES, VocData

CAT, DOG, TRAIN = (VOC_CLASSES.index(name) + 1 for name in ("cat", "dog", "train"))
# id → the values of its mask, one a column
TRAINED = {"t0": [0, CAT, 255], "t1": [DOG, TRAIN, 0], "t2": [0, TRAIN, 0]}
HELD_OUT = {"v0": [CAT, DOG, 0], "v1": [0, TRAIN, 255]}
NAMES = {"t0": ["cat"], "t1": ["dog", "train"], "t2": ["train"], "v0": ["dog", "cat"], "v1": ["train"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A miniature of VOC2012 with image_labels.json."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for inner in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / inner).mkdir(parents=True)
    for split, masks in (("train", TRAINED), ("val", HELD_OUT)):
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{i}\n" for i in masks))
        for image_id, values in masks.items():
            pixels = np.random.default_rng(len(image_id)).integers(0, 256, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{image_id}.jpg")
            picture = Image.fromarray(np.tile(np.repeat(np.uint8(values), 10), (20, 1))).convert("P")
            picture.putdata(np.tile(np.repeat(values, 10), 20).tolist())
            picture.save(folder / "SegmentationClass" / f"{image_id}.png")
    (folder / "ImageSets" / "image_labels.json").write_text(json.dumps(NAMES))
    return folder


def data(root: Path, **settings: object) -> VocData:
    return VocData(str(root), **({"image_size": 32, "batch_size": 2} | settings))  # type: ignore[arg-type]


def labels(found: VocData) -> dict[str, set[str]]:
    examples = [*found.examples("train"), *found.examples("val")]
    return {example.id: {found.class_names[place] for place in example.labels} for example in examples}


def columns(found: VocData, split: str, number: int) -> list[int]:
    mask = found.examples(split)[number].load_mask()  # type: ignore[arg-type]
    assert mask is not None
    assert mask.shape == (20, 30)
    return mask[0, ::10].tolist()


def test_all_classes_keep_the_official_values(root: Path) -> None:
    found = data(root, supervision="full")
    assert found.class_names == list(VOC_CLASSES)
    assert [example.id for example in found.examples("train")] == list(TRAINED)
    assert [columns(found, "train", number) for number in range(3)] == list(TRAINED.values())
    assert [columns(found, "val", number) for number in range(2)] == list(HELD_OUT.values())
    assert labels(found) == {image_id: set(names) for image_id, names in NAMES.items()}
    assert next(iter(found.train_dataloader()))["mask"].shape == (2, 32, 32)


def test_a_subset_ignores_what_it_does_not_name(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = data(root, classes=["dog", "cat"], supervision="full")
        assert found.class_names == ["dog", "cat"]
        assert labels(found) == {"t0": {"cat"}, "t1": {"dog"}, "v0": {"cat", "dog"}}
    assert "1 of 3 training and 1 of 2 held-out images show none of the 2 classes" in caplog.text
    assert columns(found, "train", 0) == [0, 2, 255]
    assert columns(found, "train", 1) == [1, 255, 0]
    assert columns(found, "val", 0) == [2, 1, 0]
    assert [example.labels for example in found.examples("val")] == [(0, 1)]


def test_training_from_labels_needs_no_training_mask_and_sees_none(root: Path) -> None:
    for image_id in TRAINED:
        (root / "SegmentationClass" / f"{image_id}.png").unlink()
    found = data(root)
    assert all(example.mask is None for example in found.examples("train"))
    assert columns(found, "val", 0) == HELD_OUT["v0"]
    with pytest.raises(UserError, match=r"t0\.png and 2 others: there is no such mask"):
        data(root, supervision="full").setup()


def test_annotations_and_masks_give_the_same_labels(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "ImageSets" / "image_labels.json").rename(root / "labels.json")
    with caplog.at_level(logging.WARNING):
        expected = labels(data(root, image_labels=str(root / "labels.json")))
        assert not caplog.text
        assert labels(data(root)) == expected
    assert "labels are read off masks" in caplog.text
    (root / "Annotations").mkdir()
    for image_id, names in NAMES.items():
        objects = "".join(f"<object><name>{n}</name><part><name>head</name></part></object>" for n in [*names, *names])
        (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{objects}</annotation>")
    (root / "SegmentationClass" / "t0.png").unlink()
    assert labels(data(root)) == expected


def test_masks_with_the_sbd_added_are_preferred_and_another_folder_can_be_named(root: Path) -> None:
    (root / "SegmentationClassAug").mkdir()
    Image.fromarray(np.full((20, 30), CAT, np.uint8)).save(root / "SegmentationClassAug" / "v0.png")
    (root / "ImageSets" / "Segmentation" / "one.txt").write_text("v0")
    assert columns(data(root, val_split="one"), "val", 0) == [CAT] * 3
    assert columns(data(root, val_split="one", mask_dir="SegmentationClass"), "val", 0) == HELD_OUT["v0"]
    with pytest.raises(UserError, match=r"v1\.png: there is no such mask"):
        data(root).setup()
    with pytest.raises(UserError, match=r"Elsewhere: there is no such folder of masks; name one by data\.mask_dir"):
        data(root, mask_dir="Elsewhere").setup()


def test_images_in_both_lists_are_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "ImageSets" / "Segmentation" / "trainval.txt").write_text("\n".join([*TRAINED, "v1"]))
    with caplog.at_level(logging.WARNING):
        data(root, train_split="trainval").setup()
    assert "1 held-out images are trained on as well: v1" in caplog.text


def test_an_image_without_a_label_is_no_image_of_another_class(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "ImageSets" / "image_labels.json").write_text(json.dumps(NAMES | {"t1": []}))
    with caplog.at_level(logging.WARNING):
        assert [example.id for example in data(root, classes=["cat", "dog"]).examples("train")] == ["t0"]
    assert "1 of 3 training" in caplog.text
    assert "1 training images without any label are left out: t1" in caplog.text


def test_what_is_missing_or_wrong_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"type data\.root=FOLDER/VOCdevkit/VOC2012"):
        VocData().setup()
    with pytest.raises(UserError, match="there is no such folder"):
        data(tmp_path / "absent").setup()
    with pytest.raises(UserError, match=r"holds no folder JPEGImages; type data\.root=.*VOCdevkit/VOC2012"):
        data(tmp_path).setup()
    with pytest.raises(UserError, match=r"trian\.txt: there is no such list of images \(did you mean train"):
        data(root, train_split="trian").setup()
    with pytest.raises(UserError, match=r"no class 'doge' \(did you mean dog"):
        data(root, classes=["cat", "doge"]).setup()
    for classes in ([], ["cat", "cat"]):
        with pytest.raises(UserError, match=r"data\.classes=.*each once"):
            data(root, classes=classes).setup()
    path = root / "ImageSets" / "image_labels.json"
    for content, message in (
        (json.dumps(NAMES | {"t1": ["hrose"]}), r"t1 is labelled 'hrose', no VOC class \(did you mean horse"),
        (json.dumps({i: n for i, n in NAMES.items() if i != "v0"}), r"has no entry for v0"),
        (json.dumps({"t0": "cat"}), "must hold"),
        ("{", "is no JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            data(root).setup()
    with pytest.raises(UserError, match=r"no such file of image labels; mend data\.image_labels"):
        data(root, image_labels=str(tmp_path / "none.json")).setup()
    (root / "JPEGImages" / "t1.jpg").unlink()
    with pytest.raises(UserError, match=r"t1\.jpg: there is no such image"):
        data(root).setup()
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(UserError, match=r"val\.txt: the list is empty"):
        data(root).setup()


def test_annotations_that_will_not_do_are_named(root: Path) -> None:
    (root / "ImageSets" / "image_labels.json").unlink()
    (root / "Annotations").mkdir()
    with pytest.raises(UserError, match=r"t0\.xml: there is no such annotation"):
        data(root).setup()
    for content, message in (("<annotation>", "is damaged"), ("<a><object/></a>", "t0 is labelled ''")):
        (root / "Annotations" / "t0.xml").write_text(content)
        with pytest.raises(UserError, match=message):
            data(root).setup()


def test_the_archive_is_the_one_that_torchvision_knows() -> None:
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    known = DATASET_YEAR_DICT["2012"]
    assert (known["url"], known["md5"], known["base_dir"]) == (
        voc.ARCHIVE_URL,
        voc.ARCHIVE_MD5,
        str(Path("VOCdevkit") / "VOC2012"),
    )


def test_a_download_is_asked_for_only_where_there_is_no_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(voc, "download_folder", lambda *words: asked.append(words) or root.rename(words[-1]))
    data(root, download=True).setup()
    assert asked == []
    data(tmp_path / "new" / "VOC2012", download=True).setup()
    assert asked == [(voc.ARCHIVE_URL, voc.ARCHIVE_MD5, "VOCdevkit/VOC2012", tmp_path / "new" / "VOC2012")]


def test_voc8_of_the_real_subset(shared_dir: Path) -> None:
    root = shared_dir / "data" / "VOC2012"
    found = data(root, classes=VOC8, supervision="full")
    assert len(found.examples("train")) == 717
    assert len(found.examples("val")) == 150
    assert data(root, classes=VOC8).examples("train")[0].mask is None
    for example in [*found.examples("train")[::40], *found.examples("val")[::10]]:
        mask = example.load_mask()
        assert mask is not None
        assert mask.shape == example.load_image().shape[:2]
        assert {int(v) - 1 for v in np.unique(mask) if 0 < v < 255} == set(example.labels)
