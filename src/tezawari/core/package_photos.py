"""Photographs that need no download: scikit-image and scikit-learn carry them in their wheels."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tezawari.core.errors import UserError

# (package, file in it)
_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "page": ("skimage", "data/page.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
PHOTOS = tuple(_FILES)
"""The names of the photographs, sorted."""


def package_photo(name: str) -> Path:
    """Return the file of a photograph of :data:`PHOTOS`; the package that carries it is not imported.

    Raises :class:`UserError` where the installed package no longer carries it.
    """
    package, file = _FILES[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None or not (path := Path(spec.origin).parent / file).is_file():
        raise UserError(f"the installed {package} does not carry {file}: reinstall it")
    return path
