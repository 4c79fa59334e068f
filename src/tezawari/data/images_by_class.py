"""A folder of pictures a class: labels without masks."""

from __future__ import annotations

from pathlib import Path

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.seeding import epoch_order
from tezawari.data.content_style import KEPT_SCALE
from tezawari.data.images import decoded_files, report_skipped
from tezawari.data.labelled import LabelledData, LabelledSet, named_folder
from tezawari.data.labelled_image import LabelledImage

# A placeholder or an icon is no picture of its class: it would have to be blown up more than this many times.
_MOST_ENLARGED = 16


class ImagesByClassData(LabelledData):
    """The pictures of ``root/<class>/``, subfolders included: one label an image, no masks.

    ``classes`` names the folders to take, in the order of the classes (None: all, sorted). Every file is decoded once
    at the start; what is damaged, no picture or tiny is skipped and named in a warning, hidden files silently. Pictures
    are read with their shorter side at most twice ``image_size``, and stay in memory up to ``cache_mb`` megabytes in
    all. ``val_fraction`` of each class (at least one picture) is held out, chosen by ``seed`` and the sorted names.

    Raises :class:`UserError` for a folder that is missing or holds no class, and a class of fewer than two pictures.
    """

    def __init__(
        self,
        root: str | None = None,
        classes: list[str] | None = None,
        val_fraction: float = 0.2,
        cache_mb: int = 1024,
        image_size: int = 320,
        batch_size: int = 8,
        epoch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__("labels", image_size, batch_size, epoch_size, num_workers, seed)
        self.root = root
        self.classes = classes
        self.val_fraction = val_fraction
        self.cache_mb = cache_mb

    def find(self) -> LabelledSet:
        """Decode every picture and hold some of each class out."""
        if not 0 < self.val_fraction < 1:
            raise UserError(f"data.val_fraction={self.val_fraction}: must lie between 0 and 1")
        root = named_folder("images_by_class", self.root)
        names = self._names(root)
        train: list[LabelledImage] = []
        val: list[LabelledImage] = []
        budget = self.cache_mb * 2**20
        for place, name in enumerate(names):
            pictures, budget = self._pictures(root, name, place, budget)
            count = min(max(1, round(len(pictures) * self.val_fraction)), len(pictures) - 1)
            held_out = {int(number) for number in epoch_order(self.seed, place, len(pictures))[:count]}
            train += [picture for number, picture in enumerate(pictures) if number not in held_out]
            val += [picture for number, picture in enumerate(pictures) if number in held_out]
        return LabelledSet(names, train, val)

    def _names(self, root: Path) -> list[str]:
        known = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        if not known:
            raise UserError(f"data.root={self.root}: holds no folder; there must be one of pictures for each class")
        names = known if self.classes is None else self.classes
        for name in names:
            if name not in known:
                raise UserError(f"data.classes: {root} has no folder {name!r}{did_you_mean(name, known)}")
        if not names or len(set(names)) < len(names):
            raise UserError(f"data.classes={names}: name at least one class, and each once")
        return names

    def _pictures(self, root: Path, name: str, place: int, budget: int) -> tuple[list[LabelledImage], int]:
        side = KEPT_SCALE * self.image_size
        pictures, skipped = [], []
        for path, pixels in decoded_files(root / name, side, self.image_size / _MOST_ENLARGED):
            image_id = path.relative_to(root).as_posix()
            if isinstance(pixels, str):
                skipped.append(f"{path.relative_to(root / name).as_posix()} ({pixels})")
            elif pixels.nbytes <= budget:
                budget -= pixels.nbytes
                pictures.append(LabelledImage(image_id, (place,), pixels))
            else:
                pictures.append(LabelledImage(image_id, (place,), path, max_short_side=side))
        report_skipped(root / name, skipped)
        if len(pictures) < 2:
            also = f" ({len(skipped)} files were skipped)" if skipped else ""
            raise UserError(
                f"{root / name}: {len(pictures)} pictures found{also}, at least 2 needed, one of them to hold out: "
                "add some, or leave the class out by data.classes"
            )
        return pictures, budget
