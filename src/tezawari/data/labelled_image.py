"""Images with image-level labels and, where there are any, masks: what recognition and segmentation learn from.

With K classes, a mask (H, W) holds 0 for the background, k for class ``class_names[k - 1]`` and 255 for pixels that
are not scored; the labels of an image are places in ``class_names``, or as ``image_labels`` a multi-hot vector (K,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.photo import load_rgb

IGNORE_INDEX = 255
UNKNOWN = -1
"""In a table of codes: a value that a mask file must not hold."""

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

# What lies outside of an image looks to a network like nothing in particular.
_OUTSIDE = np.array([0.485, 0.456, 0.406], np.float32)
_ORIENTATION = 0x0112
_MOST_NAMED = 20


class PixelCache:
    """Decoded pictures, as far as ``megabytes`` reach; what does not fit is decoded each time it is asked for.

    A loader's workers each fill a copy of their own, which ends with the epoch: it is made for ``num_workers=0``.
    """

    def __init__(self, megabytes: int) -> None:
        self._left = megabytes * 2**20
        self._kept: dict[Path, np.ndarray] = {}

    def read(self, path: Path) -> np.ndarray:
        """Return the pixels (H, W, 3) uint8 of a picture."""
        if path in self._kept:
            return self._kept[path]
        pixels = _read_pixels(path)
        if pixels.nbytes <= self._left:
            self._left -= pixels.nbytes
            self._kept[path] = pixels
        return pixels


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image, its labels and perhaps its mask, each as pixels, or as what gives them when they are asked for.

    ``id`` is unique in its set and may hold slashes; ``labels`` are sorted places in the set's ``class_names``.
    ``max_short_side`` bounds the shorter side that a file is read at. ``mask=None``: there is none, or it is withheld.
    """

    id: str
    labels: tuple[int, ...]
    image: np.ndarray | Path | Callable[[], np.ndarray]  # (H, W, 3) uint8
    mask: np.ndarray | Callable[[], np.ndarray] | None = None  # (H, W) uint8
    max_short_side: int | None = None
    cache: PixelCache | None = field(default=None, repr=False)

    def load_image(self, max_side: int | None = None) -> np.ndarray:
        """Return the pixels (H, W, 3) uint8, the longer side at most ``max_side``.

        Raises :class:`UserError` for a file that is missing, no picture or damaged.
        """
        if not isinstance(self.image, Path):
            return _shrunk(self.image if isinstance(self.image, np.ndarray) else self.image(), max_side)
        if self.cache is not None and max_side is None and self.max_short_side is None:
            return self.cache.read(self.image)
        return _read_pixels(self.image, max_side, self.max_short_side)

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask to load."""
        return self.mask is not None

    def load_mask(self) -> np.ndarray | None:
        """Return the mask (H, W) uint8 at the image's full size, or None.

        Raises :class:`UserError` for a file that is missing, of another size than the image, of another kind than
        palette or grey of 8 bits, or that holds a value which stands for no class.
        """
        if self.mask is None:
            return None
        mask = self.mask if isinstance(self.mask, np.ndarray) else self.mask()
        height, width = self._size()
        if mask.shape != (height, width):
            raise UserError(
                f"{self.id}: its mask has {mask.shape[1]} × {mask.shape[0]} pixels and the image {width} × {height}: "
                "take the mask that was made for this image"
            )
        return mask

    def _size(self) -> tuple[int, int]:
        if not isinstance(self.image, Path):
            height, width = self.load_image().shape[:2]
            return height, width
        try:
            with Image.open(self.image) as picture:
                width, height = picture.size
                turned = picture.getexif().get(_ORIENTATION, 1) >= 5
        except Exception:  # Whatever is wrong with the file, decoding it says it best.
            height, width = self.load_image().shape[:2]
            turned = False
        return (width, height) if turned else (height, width)


def read_coded_mask(path: Path, codes: np.ndarray) -> np.ndarray:
    """Read a mask file as (H, W) uint8, each value v of the file as ``codes[v]``.

    Args:
        path: a palette or grey picture of 8 bits.
        codes: (256,) integers: what a value of the file means, :data:`UNKNOWN` for one that it must not hold.

    Raises:
        UserError: the file is missing, damaged, of another kind, or holds an unknown value.
    """
    with open_mask(path) as picture:
        if picture.mode not in ("P", "L"):
            raise UserError(
                f"{path}: a mask is a palette or grey picture of 8 bits, one value a class, and this is of the kind "
                f"{picture.mode}: save it as one"
            )
        values = np.asarray(picture)
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    unknown = [str(value) for value in found if codes[value] == UNKNOWN]
    if unknown:
        known = int(np.flatnonzero(codes[:IGNORE_INDEX] != UNKNOWN)[-1])
        raise UserError(
            f"{path}: holds {some(unknown)}, which stand for no class "
            f"(0 … {known}, {IGNORE_INDEX} for what is not scored)"
        )
    return codes[values].astype(np.uint8)


def open_mask(path: Path) -> Image.Image:
    """Open and decode a mask file; raises :class:`UserError` where it is missing, damaged or no picture."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such mask")
    try:
        picture = Image.open(path)
        picture.load()
    except Exception as error:  # A damaged file makes Pillow's readers raise almost anything.
        raise UserError(f"{path}: the mask cannot be read ({error})") from error
    return picture


def multi_hot(labels: Sequence[int], num_classes: int) -> Tensor:
    """Return ``image_labels`` (K,) float32: 1 at the places ``labels``, 0 elsewhere."""
    image_labels = np.zeros(num_classes, np.float32)
    image_labels[list(labels)] = 1
    return torch.from_numpy(image_labels)


def random_view(
    pixels: np.ndarray,
    mask: np.ndarray | None,
    rng: np.random.Generator,
    side: int,
    scale: tuple[float, float] = (0.7, 1.3),
) -> tuple[Tensor, Tensor | None]:
    """Return a square view of an image at random scale and place, mirrored every other time, with its mask.

    The longer side is resized to ``scale`` · ``side``, uniformly drawn; what is smaller than the square lies anywhere
    within it, of what is larger any part is seen. Outside of the image lie ImageNet's mean colour and 255. Images are
    resampled with antialiasing, masks by nearest neighbour.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (H, W) uint8, or None.
        rng: of all draws; always the same number of them.
        side: of the view, in pixels.
        scale: the smallest and the largest scale.

    Returns:
        The image (3, side, side) float32 in [0, 1] and the mask (side, side) int64, or None.
    """
    height, width = _resized(pixels.shape[:2], side * rng.uniform(*scale))
    # What shows of the resized image along an axis: from where, on the canvas from where, and how many pixels.
    rows, columns = _placed(height, side, rng), _placed(width, side, rng)
    image, labels = _on_canvas(pixels, mask, side, (height, width), rows, columns)
    if rng.random() < 0.5:
        image, labels = image[..., ::-1].copy(), None if labels is None else labels[..., ::-1].copy()
    return torch.from_numpy(image), None if labels is None else torch.from_numpy(labels)


def letterbox(pixels: np.ndarray, side: int, mask: np.ndarray | None = None) -> tuple[Tensor, Tensor | None, Box]:
    """Return the whole image, its longer side resized to ``side``, in the middle of a square, with its mask.

    Outside of the image lie ImageNet's mean colour and 255, as in :func:`random_view`.

    Args:
        pixels: (H, W, 3) uint8.
        side: of the square, in pixels.
        mask: (H, W) uint8, or None.

    Returns:
        The image (3, side, side) float32 in [0, 1], the mask (side, side) int64 or None, and where the image lies in
        the square.
    """
    height, width = _resized(pixels.shape[:2], side)
    top, left = (side - height) // 2, (side - width) // 2
    image, labels = _on_canvas(pixels, mask, side, (height, width), (0, top, height), (0, left, width))
    return torch.from_numpy(image), None if labels is None else torch.from_numpy(labels), (top, left, height, width)


def _resized(size: tuple[int, int], longer: float) -> tuple[int, int]:
    height, width = (max(1, round(length * longer / max(size))) for length in size)
    return height, width


def _placed(length: int, side: int, rng: np.random.Generator) -> tuple[int, int, int]:
    offset = int(rng.integers(abs(side - length) + 1))
    return (0, offset, length) if length <= side else (offset, 0, side)


def _on_canvas(
    pixels: np.ndarray,
    mask: np.ndarray | None,
    side: int,
    size: tuple[int, int],
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Resample the part of an image that shows, and nothing but that, onto a square."""
    if mask is not None and mask.shape != pixels.shape[:2]:
        raise ValueError(f"the mask is of {mask.shape} pixels, the image of {pixels.shape[:2]}")
    (top, y, height), (left, x, width) = rows, columns
    step_y, step_x = pixels.shape[0] / size[0], pixels.shape[1] / size[1]
    # Rounding may leave the far edge a hair outside of the picture, which Pillow refuses.
    bottom, right = min((top + height) * step_y, pixels.shape[0]), min((left + width) * step_x, pixels.shape[1])
    box = (left * step_x, top * step_y, right, bottom)
    seen = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=box))
    # In numpy: torch would start its threads for this, which costs fifty times as much on a busy machine.
    canvas = np.empty((3, side, side), np.float32)
    canvas[:] = _OUTSIDE[:, None, None]
    np.multiply(seen.transpose(2, 0, 1), np.float32(1 / 255), out=canvas[:, y : y + height, x : x + width])
    if mask is None:
        return canvas, None
    labels = np.full((side, side), IGNORE_INDEX, np.int64)
    nearest = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST, box=box)
    labels[y : y + height, x : x + width] = np.asarray(nearest)
    return canvas, labels


def some(names: Sequence[str]) -> str:
    """Return names in one line, only the first of very many."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _read_pixels(path: Path, max_side: int | None = None, max_short_side: int | None = None) -> np.ndarray:
    return np.ascontiguousarray(load_rgb(path, max_side, max_short_side).permute(1, 2, 0).numpy())


def _shrunk(pixels: np.ndarray, max_side: int | None) -> np.ndarray:
    if max_side is None or max(pixels.shape[:2]) <= max_side:
        return pixels
    height, width = _resized(pixels.shape[:2], max_side)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
