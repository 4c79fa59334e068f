"""Pictures and finds for the tests of the store and of what reads it."""

from __future__ import annotations

import functools
import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tezawari.collect.duplicates import perceptual_hash
from tezawari.collect.found import Fetched, FoundImage
from tezawari.collect.store import Store

FEATURES = "efficientnet_lite0/blocks.3"


@functools.cache
def picture(seed: int, side: int = 96) -> Image.Image:
    """Return a picture unlike that of any other seed: random coarse colours, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def fetched(content: bytes, url: str = "") -> Fetched:
    with Image.open(io.BytesIO(content)) as image:
        extension = {"JPEG": "jpg", "PNG": "png"}[image.format or ""]
        return Fetched(content, hashlib.sha256(content).hexdigest(), extension, *image.size, url)


def find(position: int, name: str | None = None, source: str = "openverse") -> FoundImage:
    name = f"picture{position}" if name is None else name
    return FoundImage(
        image_url=f"https://images.example/{name}.jpg",
        source=source,
        position=position,
        page_url=f"https://pages.example/{name}",
        title=f"Picture, “{position}”\nof ざらざら",
        author=f"Author {position}",
        licence="by-sa 4.0",
        licence_url="https://creativecommons.org/licenses/by-sa/4.0/",
    )


def collect(store: Store, word: str, count: int, first_seed: int = 0) -> None:
    """Store ``count`` different pictures for a word, found at positions 1, 2, …"""
    query = store.begin_query(word, "openverse", "ja", count)
    store.add_found(query, [find(place + 1, f"{word}{first_seed + place}") for place in range(count)])
    store.mark_exhausted(query)
    for place, (find_id, _) in enumerate(store.waiting(word)):
        content = encoded(picture(first_seed + place))
        store.keep(find_id, fetched(content), perceptual_hash(content))


def rank_by_content(store: Store, word: str) -> None:
    """Rank the images of a word twice, by numbers that depend on their bytes alone."""
    names = [image.sha256 for image in store.images_of(word)]
    passes = []
    for number in range(2):
        scores = {name: int(name[8 * number : 8 * number + 8], 16) / 2**32 for name in names}
        passes.append(sorted(scores.items(), key=lambda item: -item[1]))
    store.save_rankings(word, FEATURES, passes)


def files(folder: Path) -> dict[str, bytes]:
    """Return every image file below a store's folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in (folder / "images").rglob("*")
        if path.is_file()
    }
