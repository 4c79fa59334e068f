"""From images of a word to style packs: style vectors, clusters of them, and the merging of a cluster (METHODS §8)."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.data.sheet import square
from tezawari.features.backbone import Backbone, available_layers, default_style_layers
from tezawari.features.gram import gram_matrix
from tezawari.style.gatys import recipe
from tezawari.style.loss import StyleTarget
from tezawari.style.style_pack import Merge, PackedImage, StylePack, upper_triangle, weights_digest

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

FEWEST_IMAGES = 4
_MOST_CLUSTERS = 8
# Of fifty style vectors the first few components tell kinds apart, the rest tells images apart.
_MOST_COMPONENTS = 8
_BATCH_SIZE = 8
_SCALES = (1.0, 0.5, 0.25)
_SMALLEST_SIDE = 32
_PREVIEWED = 8
_PREVIEW_SIDE = 96
# Changes with everything between an image's pixels and its style vector that no argument tells.
_METHOD = "central square, gram hw, upper triangle, l2; 1"


@dataclass(frozen=True)
class StyleImage:
    """An image to take a style from.

    ``key`` names its content; ``load(side)`` returns it (3, H, W) in [0, 1], its shorter side ``side`` pixels.
    """

    key: str
    about: PackedImage
    load: Callable[[int], Tensor]


# --- style vectors ----------------------------------------------------------------------------------------------------


def pack_layers(backbone: str, more: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the layers that a pack is to hold, in depth order: those of painting, those of training, and ``more``."""
    wanted = {*recipe(backbone).style_layers, *default_style_layers(backbone), *more}
    return tuple(layer for layer in available_layers(backbone) if layer in wanted)


def style_vectors(grams: Tensor) -> Tensor:
    """Return style vectors (N, C (C + 1) / 2): upper triangles of Gram matrices (N, C, C), of length 1; METHODS §8.

    A matrix of zeros gives zeros.
    """
    return torch.nn.functional.normalize(upper_triangle(grams), dim=-1)


@torch.no_grad()
def describe_styles(
    images: Sequence[StyleImage],
    backbone: Backbone,
    layer: str,
    side: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the style vectors (N, D) float32 of images' central squares at one layer.

    Args:
        images: N images.
        backbone: loaded with ``layer``.
        layer: a deep one: the deeper, the larger the motifs that it tells apart.
        side: of the squares, in pixels.
        cache: a folder that keeps vectors by the image's content and all that they depend on; damaged files are
            computed again.
        progress: called with (images done, images in all).
    """
    method = hashlib.sha256(json.dumps([_METHOD, weights_digest(backbone), layer, side]).encode()).hexdigest()
    found = {image.key: _cached(cache, method, image.key) for image in images}
    missing = list({image.key: image for image in images if found[image.key] is None}.values())
    for start in range(0, len(missing), _BATCH_SIZE):
        batch = missing[start : start + _BATCH_SIZE]
        squares = torch.stack([square(image.load(side), side) for image in batch])
        vectors = style_vectors(gram_matrix(backbone(squares, (layer,))[layer], "hw"))
        for image, vector in zip(batch, vectors.numpy()):
            found[image.key] = vector
            _keep(cache, method, image.key, vector)
        if progress is not None:
            progress(len(images) - len(missing) + start + len(batch), len(images))
    return np.stack([vector for image in images if (vector := found[image.key]) is not None])


def _cached(cache: Path | None, method: str, key: str) -> np.ndarray | None:
    if cache is None or not (file := _cache_file(cache, method, key)).is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as kept:
            vector: np.ndarray = kept["vector"]
            return vector
    except Exception as error:  # a damaged archive fails in as many ways as there are readers
        log.warning("%s is damaged (%s): computed again", file, error)
        return None


def _keep(cache: Path | None, method: str, key: str, vector: np.ndarray) -> None:
    if cache is None:
        return
    file = _cache_file(cache, method, key)
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    np.savez(stream, vector=vector)  # an archive, for its checksum
    write_atomically(file, stream.getvalue())


def _cache_file(cache: Path, method: str, key: str) -> Path:
    return cache / method[:16] / f"{key}.npz"


# --- clusters ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    """Images grouped by style.

    ``members``: for each cluster, the largest first, the places of its images, the nearest to its centre first.
    ``silhouettes``: number of clusters tried → mean silhouette in [−1, 1]. ``points``: (N, P) principal components.
    """

    members: tuple[tuple[int, ...], ...]
    silhouettes: dict[int, float]
    points: np.ndarray


def cluster_styles(vectors: np.ndarray, count: int | None = None, seed: int = 0) -> Clusters:
    """Group style vectors (N, D) by k-means on their principal components (METHODS §8).

    Without ``count`` the number of clusters, from 2 to 8 and of at least two images on the average, is that of the
    largest mean silhouette, which cannot say that all are of one kind. Raises :class:`UserError` for fewer than four
    vectors, and for more clusters than different vectors.
    """
    if len(vectors) < FEWEST_IMAGES:
        raise UserError(f"{len(vectors)} images make no clusters: {FEWEST_IMAGES} or more are needed")
    points = _components(vectors, seed)
    different = len(np.unique(points.round(6), axis=0))
    if count is not None and not 1 <= count <= different:
        raise UserError(f"{count} clusters of {different} different images: ask for 1 to {different}")
    tried = range(2, min(_MOST_CLUSTERS, len(vectors) // 2, different) + 1) if count is None else [count]
    labels = {number: _labels(points, number, seed) for number in tried}
    silhouettes = {
        number: float(silhouette_score(points, found)) for number, found in labels.items() if 1 < number < len(points)
    }
    chosen = count or max(silhouettes, key=lambda number: silhouettes[number], default=1)
    found = labels[chosen] if chosen in labels else np.zeros(len(points), int)
    groups = [_nearest_first(points, np.flatnonzero(found == label)) for label in np.unique(found)]
    groups.sort(key=lambda group: (-len(group), min(group)))
    return Clusters(tuple(groups), silhouettes, points)


def _components(vectors: np.ndarray, seed: int) -> np.ndarray:
    if np.ptp(vectors, axis=0).max() == 0:  # PCA would divide by a variance of zero
        return np.zeros((len(vectors), 1))
    most = min(_MOST_COMPONENTS, len(vectors) - 1, vectors.shape[1])
    points: np.ndarray = PCA(most, random_state=seed).fit_transform(vectors.astype(np.float64))
    return points


def _labels(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count == 1:
        return np.zeros(len(points), int)
    labels: np.ndarray = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
    return labels


def _nearest_first(points: np.ndarray, group: np.ndarray) -> tuple[int, ...]:
    away = np.linalg.norm(points[group] - points[group].mean(0), axis=1)
    return tuple(int(place) for place in group[np.argsort(away, kind="stable")])


# --- merging ----------------------------------------------------------------------------------------------------------


def merge_grams(grams: Tensor, merge: Merge, weights: Tensor | None = None) -> Tensor:
    """Merge images' Gram matrices (N, C, C) into (M, C, C): METHODS §8.

    ``mean`` and ``mean+covariance``: their mean (M = 1), by ``weights`` (N,) where given; the latter's covariance is
    what remains of it about the means. ``max``: the largest of each entry (M = 1). ``minimise``: all of them
    (M = N), the nearest of which counts at each step [ours].
    """
    if merge == "max":
        return grams.amax(0, keepdim=True)
    if merge == "minimise":
        return grams
    return combine_moments(grams, weights)


def combine_moments(moments: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the raw moments (1, …) of a union from those of its N parts, (N, …), by the parts' ``weights`` (N,).

    First and second moments about zero combine linearly, which covariances do not. Sums are in double precision, so
    that the parts' order does not show.
    """
    weights = torch.ones(len(moments)) if weights is None else weights
    weighted = torch.einsum("n,n...->...", weights.double(), moments.double()) / weights.double().sum()
    return weighted.to(moments)[None]


def merge_targets(targets: Sequence[StyleTarget], merge: Merge) -> StyleTarget:
    """Merge the statistics of N images, each a target of one member with means, into one target."""
    layers = list(targets[0].grams)
    grams = {layer: merge_grams(torch.cat([target.grams[layer] for target in targets]), merge) for layer in layers}
    if merge != "mean+covariance":
        return StyleTarget(grams)
    means = {layer: combine_moments(torch.cat([(target.means or {})[layer] for target in targets])) for layer in layers}
    return StyleTarget(grams, means)


@torch.no_grad()
def image_moments(backbone: Backbone, image: Tensor, layers: Sequence[str]) -> StyleTarget:
    """Return the Gram matrix and the mean of the features at each of ``layers``, of an image (3, H, W) in [0, 1]."""
    features = backbone(image[None], layers)
    return StyleTarget(
        {layer: gram_matrix(features[layer], "hw") for layer in layers},
        {layer: features[layer].mean((2, 3)) for layer in layers},
    )


def make_style_packs(
    word: str,
    images: Sequence[StyleImage],
    merges: Sequence[Merge],
    *,
    backbone: Backbone,
    layers: Sequence[str],
    side: int,
    cluster: int = 1,
    clusters: int = 1,
    progress: Progress | None = None,
) -> dict[Merge, StylePack]:
    """Merge images into one pack for each of ``merges``.

    Args:
        word: what the images show.
        images: of one cluster.
        merges: how to merge them.
        backbone: loaded with ``layers``.
        layers: what to gather statistics of.
        side: shorter side in pixels at which the images are seen: the scale of the strokes. They are seen at a half
            and at a quarter of it too, for painting from coarse to fine.
        cluster: which of ``clusters``, from 1.
        clusters: how many there were.
        progress: called with (images done, images in all).
    """
    sides = [round(side * scale) for scale in _SCALES if scale == 1 or side * scale >= _SMALLEST_SIDE]
    seen: dict[int, list[StyleTarget]] = {side: [] for side in sides}
    tiles = []
    for done, image in enumerate(images, 1):
        for one in sides:
            seen[one].append(image_moments(backbone, image.load(one), layers))
        if done <= _PREVIEWED:
            tiles.append(square(image.load(_PREVIEW_SIDE), _PREVIEW_SIDE))
        if progress is not None:
            progress(done, len(images))
    return {
        merge: StylePack(
            word=word,
            merge=merge,
            backbone=backbone.name,
            weights=weights_digest(backbone),
            targets={one: merge_targets(seen[one], merge) for one in sides},
            cluster=cluster,
            clusters=clusters,
            images=tuple(image.about for image in images),
            preview=torch.cat(tiles, 2).mul(255).round().to(torch.uint8),
        )
        for merge in merges
    }
