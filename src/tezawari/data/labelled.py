"""What every data module of labelled images shares: batches, the withholding of masks, and the care for files."""

from __future__ import annotations

import logging
import shutil
import tarfile
import zipfile
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tezawari.core.errors import UserError
from tezawari.core.seeding import sample_rng
from tezawari.data.labelled_image import LabelledImage, letterbox, multi_hot, random_view, some
from tezawari.data.loader import KeyedDataset, ResumableData, ResumableLoader, SampleKey

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
Supervision = Literal["labels", "full"]


class LabelledSamples(Dataset[dict[str, Any]]):
    """Random views of labelled images; all draws are a function of (seed, key)."""

    def __init__(self, examples: Sequence[LabelledImage], num_classes: int, image_size: int, seed: int) -> None:
        self.examples = examples
        self.num_classes = num_classes
        self.image_size = image_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        example = self.examples[key.index]
        rng = sample_rng(self.seed, key.epoch, key.index)
        image, mask = random_view(example.load_image(), example.load_mask(), rng, self.image_size)
        return _sample(example, self.num_classes, image, mask)


class WholeImages(Dataset[dict[str, Any]]):
    """Labelled images whole, letterboxed."""

    def __init__(self, examples: Sequence[LabelledImage], num_classes: int, image_size: int) -> None:
        self.examples = examples
        self.num_classes = num_classes
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.examples[index]
        image, mask, _ = letterbox(example.load_image(), self.image_size, example.load_mask())
        return _sample(example, self.num_classes, image, mask)


def _sample(example: LabelledImage, num_classes: int, image: Tensor, mask: Tensor | None) -> dict[str, Any]:
    sample = {"image": image, "labels": multi_hot(example.labels, num_classes), "id": example.id}
    return sample if mask is None else {**sample, "mask": mask}


@dataclass(frozen=True)
class LabelledSet:
    """What a data module found. In each split either every image has a mask or none has; ``test`` may be empty."""

    class_names: list[str]
    train: list[LabelledImage]
    val: list[LabelledImage]
    test: list[LabelledImage] = field(default_factory=list)


class LabelledData(ResumableData):
    """Batches of images with labels and, where there are any, masks.

    A batch is ``image`` (B, 3, S, S) float32 in [0, 1], ``labels`` (B, K) float32 of 0 and 1, ``id``, B names, and
    ``mask`` (B, S, S) int64 only where there are masks. With ``supervision="labels"`` the training images carry no
    mask at all, so that none can leak into what learns from labels; the held-out ones keep theirs for scoring.

    Every draw is a function of (seed, pass over the images, image). Training images without any label are left out
    with a warning that names them.

    Raises :class:`UserError` for settings or files that will not do, in :meth:`setup` or when first asked for anything.
    """

    def __init__(
        self,
        supervision: Supervision,
        image_size: int,
        batch_size: int,
        epoch_size: int | None,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.supervision = supervision
        self.image_size = image_size
        self.batch_size = batch_size
        self.epoch_size = epoch_size
        self.num_workers = num_workers
        self.seed = seed
        self._found: LabelledSet | None = None
        self._samples: KeyedDataset | None = None

    @abstractmethod
    def find(self) -> LabelledSet:
        """Look for the images, their labels and their masks."""

    def setup(self, stage: str | None = None) -> None:
        """Look for the images, once."""
        self._set()

    @property
    def class_names(self) -> list[str]:
        """The K classes, without the background."""
        return list(self._set().class_names)

    def examples(self, split: Split) -> list[LabelledImage]:
        """Return the images of a split, always in the same order; ``"test"`` is empty where a set has none."""
        return list(getattr(self._set(), split))

    def train_on(self, samples: KeyedDataset) -> None:
        """Let the training loader show ``samples`` in their own order, in place of random views: one pass an epoch."""
        self._samples = samples

    def make_train_loader(self) -> ResumableLoader:
        """Return the loader of random views of the training images, or of what :meth:`train_on` was given."""
        if self._samples is not None:
            return ResumableLoader(self._samples, self.batch_size, self.seed, self.num_workers, shuffle=False)
        found = self._set()
        samples = LabelledSamples(found.train, len(found.class_names), self.image_size, self.seed)
        return ResumableLoader(samples, self.batch_size, self.seed, self.num_workers, self.epoch_size)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of the held-out images: whole, and always the same."""
        found = self._set()
        whole = WholeImages(found.val, len(found.class_names), self.image_size)
        # Without a generator of its own, every pass over it would draw from the global one.
        return DataLoader(whole, self.batch_size, generator=torch.Generator().manual_seed(self.seed))

    def _set(self) -> LabelledSet:
        if self._found is None:
            smallest = {"image_size": 16, "batch_size": 1, "num_workers": 0, "seed": 0}
            for name, least in smallest.items():
                if getattr(self, name) < least:
                    raise UserError(f"data.{name}={getattr(self, name)}: must be at least {least}")
            self._found = self._checked(self.find())
        return self._found

    def _checked(self, found: LabelledSet) -> LabelledSet:
        train = [example for example in found.train if example.labels]
        unlabelled = [example.id for example in found.train if not example.labels]
        if unlabelled:
            log.warning("%d training images without any label are left out: %s", len(unlabelled), some(unlabelled))
        if not train or not found.val:
            raise UserError(
                f"{len(train)} labelled images to train on and {len(found.val)} held out: both need at least one"
            )
        if self.supervision == "labels":
            train = [replace(example, mask=None) for example in train]
        return replace(found, train=train)


def require_files(paths: Iterable[Path], what: str) -> None:
    """Raise :class:`UserError` naming the first file that is not there, and how many others are not."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}{others}: there is no such {what}; complete the folder or mend the list")


def named_folder(data: str, root: str | None, example: str = "FOLDER") -> Path:
    """Return the folder that ``data.root`` names; raises :class:`UserError` where it names none."""
    if root is None:
        raise UserError(f"data={data} needs a folder: type data.root={example}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UserError(f"data.root={root}: {what}; type data.root={example}")
    return folder


def download_folder(url: str, md5: str, inside: str, folder: Path) -> None:
    """Download an archive, check it, and make what it holds under ``inside`` the folder ``folder``.

    The folder appears whole or not at all. Raises :class:`UserError` where the site cannot be reached, sends something
    else, or the disk will not take it.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    aside = folder.with_name(f"{folder.name}.download")
    try:
        download_and_extract_archive(url, str(aside), str(aside / "extracted"), md5=md5)
        (aside / "extracted" / inside).rename(folder)
    except (OSError, RuntimeError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{url} could not be downloaded to {folder} ({error}): try again when online, or get the archive elsewhere "
            "and name the folder that it holds by data.root"
        ) from error
    shutil.rmtree(aside, ignore_errors=True)
