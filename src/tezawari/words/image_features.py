"""What measures of words look at: layers of a network, Fisher vectors, colours and regions of pictures.

Each is computed once and kept in a folder, by the pixels that it is of. How far it is, is told on stderr.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.progress import progress_lines, tell
from tezawari.features.backbone import load_backbone
from tezawari.features.color_histogram import color_histogram
from tezawari.features.descriptors import IMAGE_SIZE, DescriptorCache, LoadImage, early_middle_late
from tezawari.features.fisher import FisherEncoder, dense_sift, fit_descriptors, load_fisher
from tezawari.words.region_entropy import describe_regions, grid_labels

FISHER, COLOR = "Fisher vectors", "colour histogram"
_STAGES = ("early", "middle", "late")
# Of the random images, all that a vocabulary of visual words is learnt from.
_VOCABULARY_IMAGES = 400
_VOCABULARY_DESCRIPTORS = 100_000
# So many images' features are kept together: what a stopped process loses of them.
_IMAGES_A_FILE = 200


@dataclass(frozen=True)
class Picture:
    """A picture: ``load`` returns its central square (224, 224, 3) uint8, and ``key`` names those pixels."""

    key: str
    load: LoadImage


@dataclass(frozen=True)
class Features:
    """One kind of features: for each word (P, …), and of the random images (R, …)."""

    words: dict[str, np.ndarray]
    random: np.ndarray


def central_square(pixels: np.ndarray) -> np.ndarray:
    """Return the central square of an image (H, W, 3) uint8 as (224, 224, 3); the shape of a photo is not to tell."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if side == IMAGE_SIZE:
        return square
    return np.asarray(Image.fromarray(square).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def name_layers(backbone: str, layers: Sequence[str] | None) -> dict[str, str]:
    """Return what to call each layer → its name; None: :func:`early_middle_late`, as such.

    Raises :class:`UserError` for an unknown backbone.
    """
    if layers is None:
        return {f"{stage} ({layer})": layer for stage, layer in zip(_STAGES, early_middle_late(backbone))}
    return {layer: layer for layer in layers}


def layer_features(
    words: Mapping[str, Sequence[Picture]],
    random: Sequence[Picture],
    backbone: str,
    weights: str | None,
    named: Mapping[str, str],
    cache: Path,
) -> dict[str, Features]:
    """Return the descriptors (P, D) of all pictures by each of the ``named`` layers of a backbone.

    Raises :class:`UserError` as :func:`load_backbone` does.
    """
    everything = [picture for pictures in [*words.values(), random] for picture in pictures]
    network = load_backbone(backbone, named.values(), weights)
    found = DescriptorCache(cache, network).describe(
        {picture.key: picture.load for picture in everything},
        list(named.values()),
        progress=progress_lines(f"describing by {backbone}", "images"),
    )
    row_of = {key: row for row, key in enumerate(dict.fromkeys(picture.key for picture in everything))}

    def rows(pictures: Sequence[Picture]) -> list[int]:
        return [row_of[picture.key] for picture in pictures]

    return {
        label: Features(
            {word: found[layer][rows(of_word)] for word, of_word in words.items()}, found[layer][rows(random)]
        )
        for label, layer in named.items()
    }


def fisher_features(
    words: Mapping[str, Sequence[Picture]],
    random: Sequence[Picture],
    components: int,
    step: int,
    seed: int,
    cache: Path,
) -> Features:
    """Return improved Fisher vectors of dense SIFT every ``step`` px, whose mixture is fitted to the random images.

    Raises :class:`UserError` where OpenCV is missing, or a file that was kept is damaged.
    """
    some = random[:_VOCABULARY_IMAGES]
    key = _digest([components, step, seed, _VOCABULARY_DESCRIPTORS, *(picture.key for picture in some)])
    path = cache / f"fisher-{key}.safetensors"
    if path.exists():
        encoder = load_fisher(path)
    else:
        encoder = _fit_fisher(some, components, step, seed)
        encoder.save(path)
    return _described_by(
        lambda image: encoder.encode_descriptors(dense_sift(image, step)), f"fisher-{key}", FISHER, words, random, cache
    )


def color_features(words: Mapping[str, Sequence[Picture]], random: Sequence[Picture], cache: Path) -> Features:
    """Return the colour histograms (P, D) of all pictures."""
    return _described_by(color_histogram, "color-1", "colour histograms", words, random, cache)


def region_features(words: Mapping[str, Sequence[Picture]], random: Sequence[Picture], cache: Path) -> Features:
    """Return colour and texture of 5 × 5 regions of all pictures, (P, 25, 18): :func:`describe_regions`."""
    return _described_by(_regions, "regions-grid5-1", "regions", words, random, cache)


def _regions(image: np.ndarray) -> np.ndarray:
    return describe_regions(image, grid_labels(*image.shape[:2]))


def _fit_fisher(pictures: Sequence[Picture], components: int, step: int, seed: int) -> FisherEncoder:
    share = -(-_VOCABULARY_DESCRIPTORS // len(pictures))
    progress = progress_lines("SIFT for Fisher vectors", "images")
    drawn = []
    for number, picture in enumerate(pictures):
        found = dense_sift(picture.load(), step)
        drawn.append(found[np.random.default_rng([seed, number]).permutation(len(found))[:share]])
        progress(number + 1, len(pictures))
    tell(f"Fisher vectors: fitting a mixture of {components} components")
    return fit_descriptors(np.concatenate(drawn), components, seed=seed)


def _described_by(
    describe: Callable[[np.ndarray], np.ndarray],
    key: str,
    title: str,
    words: Mapping[str, Sequence[Picture]],
    random: Sequence[Picture],
    cache: Path,
) -> Features:
    """Return what ``describe`` says of each picture, stacked; ``key`` names all that it hangs on beside the picture."""
    progress = progress_lines(title, "images")
    total = len(random) + sum(len(pictures) for pictures in words.values())
    done = 0

    def stacked(pictures: Sequence[Picture]) -> np.ndarray:
        nonlocal done
        path = cache / f"{key}-{_digest([picture.key for picture in pictures])}.npy"
        if path.exists():
            found = _load(path)
            done += len(pictures)
            return found
        rows = []
        for picture in pictures:
            rows.append(describe(picture.load()))
            done += 1
            progress(done, total)
        found = np.stack(rows)
        content = io.BytesIO()
        np.save(content, found)
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
        return found

    def all_of(pictures: Sequence[Picture]) -> np.ndarray:
        parts = [pictures[first : first + _IMAGES_A_FILE] for first in range(0, len(pictures), _IMAGES_A_FILE)]
        return np.concatenate([stacked(part) for part in parts])

    return Features({word: all_of(pictures) for word, pictures in words.items()}, all_of(random))


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged: delete it, and it is made again") from error


def _digest(values: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()[:16]
