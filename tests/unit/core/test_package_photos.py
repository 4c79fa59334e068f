"""Photographs of installed packages: there, different from each other, and named when they are gone."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from PIL import Image

from tezawari.core import package_photos
from tezawari.core.errors import UserError
from tezawari.core.package_photos import PHOTOS, package_photo


def test_every_photograph_is_there_and_another() -> None:
    contents = set()
    for name in PHOTOS:
        with Image.open(package_photo(name)) as picture:
            picture.load()
            assert min(picture.size) >= 150
        contents.add(hashlib.sha256(package_photo(name).read_bytes()).hexdigest())
    assert len(contents) == len(PHOTOS)
    assert list(PHOTOS) == sorted(PHOTOS)


def test_a_photograph_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package_photos._FILES, "coffee", ("skimage", "data/tea.png"))
    with pytest.raises(UserError, match=r"installed skimage does not carry data/tea\.png: reinstall it"):
        package_photo("coffee")
    monkeypatch.setitem(package_photos._FILES, "coffee", ("no_such_package", "tea.png"))
    with pytest.raises(UserError, match="no_such_package"):
        package_photo("coffee")


def test_finding_them_imports_neither_package() -> None:
    script = (
        "import sys\nfrom tezawari.core.package_photos import PHOTOS, package_photo\n"
        "for name in PHOTOS: package_photo(name)\nassert not {'skimage', 'sklearn', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
