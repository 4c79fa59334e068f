"""What a trained classifier takes images for, as one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tezawari.core.files import write_atomically
from tezawari.data.labelled_image import LabelledImage, letterbox
from tezawari.data.sheet import draw_sheet, encode_jpeg, square
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.training import predict_probabilities

_ROWS = 4
_SIDE = 96
_FRAME = 4
_BATCH = 16
_MOST_BYTES = 300_000
_RIGHT, _WRONG = (0.1, 0.6, 0.2), (0.85, 0.1, 0.1)


def save_taken_for_sheet(
    path: Path,
    network: MaterialClassifier,
    class_names: Sequence[str],
    examples: Sequence[LabelledImage],
    image_size: int,
) -> Path:
    """Draw under each class the images that are taken for it, mistakes first; return the path.

    A green frame says that the image's label is that class, a red one that it is another. At most four images a class,
    the surest ones of each kind first.

    Args:
        path: of the JPEG.
        network: of K classes.
        class_names: K names.
        examples: images of one label each, at least one.
        image_size: side, in pixels, of the squares that the network is shown.
    """
    squares = [letterbox(example.load_image(), image_size)[0] for example in examples]
    batches = [torch.stack(squares[first : first + _BATCH]) for first in range(0, len(squares), _BATCH)]
    sureness, taken_for = predict_probabilities(network, batches).max(1)
    columns: list[list[Tensor]] = []
    for place in range(len(class_names)):
        ours = [number for number in range(len(examples)) if int(taken_for[number]) == place]
        ours.sort(key=lambda number: (examples[number].labels[0] == place, -float(sureness[number])))
        shown = [_framed(squares[number], examples[number].labels[0] == place) for number in ours[:_ROWS]]
        columns.append(shown + [torch.ones(3, _SIDE, _SIDE)] * (_ROWS - len(shown)))
    sheet = draw_sheet(list(zip(*columns)), class_names)
    write_atomically(path, encode_jpeg(sheet, _MOST_BYTES))
    return path


def _framed(image: Tensor, right: bool) -> Tensor:
    framed = torch.tensor(_RIGHT if right else _WRONG)[:, None, None].repeat(1, _SIDE, _SIDE)
    inside = _SIDE - 2 * _FRAME
    framed[:, _FRAME : _FRAME + inside, _FRAME : _FRAME + inside] = square(image, inside)
    return framed
