"""PASCAL VOC 2012 segmentation, learnt from image labels alone or from masks (Everingham et al. 2015)."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tezawari.core.errors import UserError, did_you_mean
from tezawari.data.labelled import (
    LabelledData,
    LabelledSet,
    Supervision,
    download_folder,
    named_folder,
    require_files,
)
from tezawari.data.labelled_image import IGNORE_INDEX, UNKNOWN, LabelledImage, PixelCache, read_coded_mask, some

log = logging.getLogger(__name__)

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The official classes: the masks' values are 1 + the place in here."""

VOC8 = ["cat", "chair", "cow", "dog", "horse", "person", "sheep", "sofa"]
"""The classes of the subset VOC-8, which is scored with the background as nine."""

ARCHIVE_URL = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
ARCHIVE_MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
_INSIDE_ARCHIVE = "VOCdevkit/VOC2012"
_ROOT_EXAMPLE = "FOLDER/VOCdevkit/VOC2012 (and data.download=true to have it downloaded there, 2 GB)"


class VocData(LabelledData):
    """The folder ``VOC2012`` of the VOC development kit, or a part of it in the same layout.

    Images are those of the lists ``ImageSets/Segmentation/<split>.txt``; their masks lie in ``mask_dir`` (None:
    ``SegmentationClassAug`` where it exists, as with the masks of the SBD added, else ``SegmentationClass``). Image
    labels come from ``image_labels``, a JSON file id → class names (None: ``ImageSets/image_labels.json`` where it
    exists, else the objects in ``Annotations``, else, with a warning, the masks).

    ``classes`` keeps a part of the twenty classes, in the order given: pixels of the others become 255, their labels
    are dropped, training images that are left with no label are left out and counted in a warning, and so are
    held-out images whose mask shows no pixel of a named class [ours].

    Up to ``cache_mb`` megabytes of decoded images stay in memory. ``download`` fetches the official archive to ``root``
    where there is none.

    Raises :class:`UserError` for a folder of another layout, a listed id without image, label or needed mask, and an
    unknown class.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: list[str] | None = None,
        train_split: str = "train",
        val_split: str = "val",
        image_labels: str | None = None,
        supervision: Supervision = "labels",
        mask_dir: str | None = None,
        download: bool = False,
        cache_mb: int = 1024,
        image_size: int = 320,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(supervision, image_size, batch_size, epoch_size, num_workers, seed)
        self.root = root
        self.classes = classes
        self.train_split = train_split
        self.val_split = val_split
        self.image_labels = image_labels
        self.mask_dir = mask_dir
        self.download = download
        self.cache_mb = cache_mb

    def find(self) -> LabelledSet:
        """Read the lists and the labels, and see that every file is there."""
        names = self._names()
        root = self._folder()
        train, val = _listed(root, self.train_split), _listed(root, self.val_split)
        both = sorted(set(train) & set(val))
        if both:
            log.warning("%d held-out images are trained on as well: %s", len(both), some(both))
        require_files((_image_path(root, image_id) for image_id in [*train, *val]), "image")
        masks = self._masks(root)
        require_files((masks / f"{image_id}.png" for image_id in val), "mask")
        if self.supervision == "full":
            require_files((masks / f"{image_id}.png" for image_id in train), "mask")
        labels = self._labels(root, masks, list(dict.fromkeys([*train, *val])))
        codes, cache = _codes(names), PixelCache(self.cache_mb)

        def example(image_id: str, has_mask: bool) -> LabelledImage:
            mask = functools.partial(read_coded_mask, masks / f"{image_id}.png", codes) if has_mask else None
            places = sorted({names.index(name) for name in labels[image_id] if name in names})
            return LabelledImage(image_id, tuple(places), _image_path(root, image_id), mask, cache=cache)

        # An image that shows unnamed classes alone is no mistake; one without any label is, and is named later.
        shown = [i for i in train if not labels[i] or set(labels[i]) & set(names)]
        kept = [example(i, has_mask=True) for i in val]
        if set(names) != set(VOC_CLASSES):
            kept = [one for one in kept if _shows_a_class(one)]
        if len(shown) < len(train) or len(kept) < len(val):
            log.warning(
                "%s: %d of %d training and %d of %d held-out images show none of the %d classes and are left out",
                root,
                len(train) - len(shown),
                len(train),
                len(val) - len(kept),
                len(val),
                len(names),
            )
        return LabelledSet(names, [example(i, self.supervision == "full") for i in shown], kept)

    def _names(self) -> list[str]:
        names = list(VOC_CLASSES) if self.classes is None else self.classes
        for name in names:
            if name not in VOC_CLASSES:
                raise UserError(f"data.classes: VOC has no class {name!r}{did_you_mean(name, VOC_CLASSES)}")
        if not names or len(set(names)) < len(names):
            raise UserError(f"data.classes={names}: name at least one class, and each once")
        return names

    def _folder(self) -> Path:
        if self.download and self.root is not None and not Path(self.root).expanduser().exists():
            target = Path(self.root).expanduser()
            target.parent.mkdir(parents=True, exist_ok=True)
            download_folder(ARCHIVE_URL, ARCHIVE_MD5, _INSIDE_ARCHIVE, target)
        root = named_folder("voc", self.root, _ROOT_EXAMPLE)
        if not (root / "JPEGImages").is_dir():
            deeper = [inner for inner in ("VOC2012", _INSIDE_ARCHIVE) if (root / inner / "JPEGImages").is_dir()]
            hint = f"type data.root={root / deeper[0]}" if deeper else "name the folder VOCdevkit/VOC2012"
            raise UserError(f"data.root={self.root}: holds no folder JPEGImages; {hint}")
        return root

    def _masks(self, root: Path) -> Path:
        if self.mask_dir is not None:
            folder = root / self.mask_dir
        else:
            augmented = root / "SegmentationClassAug"
            folder = augmented if augmented.is_dir() else root / "SegmentationClass"
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder of masks; name one by data.mask_dir")
        return folder

    def _labels(self, root: Path, masks: Path, ids: Sequence[str]) -> dict[str, list[str]]:
        usual = root / "ImageSets" / "image_labels.json"
        if self.image_labels is not None or usual.is_file():
            path = usual if self.image_labels is None else Path(self.image_labels).expanduser()
            return _labels_of_json(path, ids)
        if (root / "Annotations").is_dir():
            return {image_id: _labels_of_xml(root / "Annotations" / f"{image_id}.xml") for image_id in ids}
        log.warning("%s: holds neither ImageSets/image_labels.json nor Annotations: labels are read off masks", root)
        require_files((masks / f"{image_id}.png" for image_id in ids), "mask")
        codes = _codes(VOC_CLASSES)
        shown = {image_id: np.unique(read_coded_mask(masks / f"{image_id}.png", codes)) for image_id in ids}
        return {i: [VOC_CLASSES[v - 1] for v in values if 0 < v < IGNORE_INDEX] for i, values in shown.items()}


def _image_path(root: Path, image_id: str) -> Path:
    return root / "JPEGImages" / f"{image_id}.jpg"


def _listed(root: Path, split: str) -> list[str]:
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = did_you_mean(split, (other.stem for other in folder.glob("*.txt")))
        raise UserError(f"{path}: there is no such list of images{known}")
    ids = list(dict.fromkeys(path.read_text(encoding="utf-8").split()))
    if not ids:
        raise UserError(f"{path}: the list is empty")
    return ids


def _codes(names: Sequence[str]) -> np.ndarray:
    """Return what the values of a VOC mask mean where ``names`` are the classes."""
    codes = np.full(256, UNKNOWN, np.int16)
    codes[0], codes[IGNORE_INDEX] = 0, IGNORE_INDEX
    for value, name in enumerate(VOC_CLASSES, start=1):
        codes[value] = names.index(name) + 1 if name in names else IGNORE_INDEX
    return codes


def _shows_a_class(example: LabelledImage) -> bool:
    mask = example.load_mask()
    return mask is not None and bool(((mask > 0) & (mask < IGNORE_INDEX)).any())


def _labels_of_json(path: Path, ids: Iterable[str]) -> dict[str, list[str]]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of image labels; mend data.image_labels")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error})") from None
    if not isinstance(values, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in values.values()
    ):
        raise UserError(f'{path}: must hold {{"id": ["class", …], …}}')
    missing = [image_id for image_id in ids if image_id not in values]
    if missing:
        raise UserError(f"{path}: has no entry for {some(missing)}, listed in ImageSets/Segmentation")
    return {image_id: _known(path, image_id, values[image_id]) for image_id in ids}


def _labels_of_xml(path: Path) -> list[str]:
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such annotation; complete the folder or mend the list") from None
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: the annotation is damaged ({error})") from None
    return _known(path, path.stem, [(item.findtext("name") or "").strip() for item in objects])


def _known(path: Path, image_id: str, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in VOC_CLASSES:
            raise UserError(f"{path}: {image_id} is labelled {name!r}, no VOC class{did_you_mean(name, VOC_CLASSES)}")
    return list(dict.fromkeys(names))
