"""Where in an image a class is seen: four methods behind one function.

``gradient``: Simonyan et al., "Deep inside convolutional networks" (2014). ``cam``: Zhou et al. (CVPR 2016).
``gradcam``: Selvaraju et al. (ICCV 2017). ``dcsm``: Shimoda & Yanai, "Distinct class-specific saliency maps for weakly
supervised semantic segmentation" (ECCV 2016; METHODS §3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features import efficientnet
from tezawari.features.parallel import share
from tezawari.segmentation.guided import guided
from tezawari.segmentation.network import SaliencyNetwork

Method = Literal["gradient", "cam", "gradcam", "dcsm"]
METHODS: tuple[Method, ...] = get_args(Method)
T = TypeVar("T")

DCSM_SCALES = (0.8, 1.0, 1.2)
_COMPETITORS = 4
# ImageNet's mean colour: zero to VGG, nearly so to the others, and what pads images in training.
_MEAN = (0.485, 0.456, 0.406)


@dataclass(frozen=True)
class SaliencyMaps:
    """Where the candidate classes of a batch are seen.

    ``maps`` (B, K, H, W) float32 in [0, 1], all zero for a class that is no candidate; ``probabilities`` (B, K), the
    network's own, the largest over the scales.
    """

    maps: Tensor
    probabilities: Tensor

    @property
    def foreground(self) -> Tensor:
        """Where any candidate is seen, (B, H, W) in [0, 1].

        METHODS §3 exports tanh(3 F / max F) of F = max_c S_c / max S_c. As max F = 1 and tanh rises, it is the largest
        of the classes' maps.
        """
        return self.maps.amax(1)


def saliency_maps(
    network: SaliencyNetwork,
    image: Tensor,
    image_labels: Tensor | None = None,
    method: Method = "dcsm",
    scales: Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
) -> SaliencyMaps:
    """Say where in each image its classes are.

    The maps of the scales are added, so a map is relative to its own maximum. A batch gives what single images give:
    each image is computed by itself, images (or the scales of a single one) shared among PyTorch's threads. VGG's fast
    convolutions round a few rectifiers the other way: about 1e-4 in single pixels.

    Args:
        network: its weights get no gradients, and are left as they are.
        image: (B, 3, H, W) RGB in [0, 1].
        image_labels: (B, K) bool or 0/1, the classes known to be there: those, and only those, are candidates, at every
            scale. None takes what the network finds: a class is a candidate at the scales that give it a probability
            above 0.5; where no class has one, the most probable is a candidate at all scales. [ours]
        method: ``gradient``: largest of the channels of |∂S_c/∂image|, S_c the pooled logit. ``cam``: the positive part
            of the class map. ``gradcam``: the positive part of the features of one layer, weighted by the mean of
            their gradient of S_c. ``dcsm``: see :func:`distinct_maps`.
        scales: sizes, relative to the image, at which it is seen; None: (0.8, 1, 1.2) for ``dcsm``, else 1.
        layers: for ``dcsm``, the layers whose gradients are compared, None for :func:`dcsm_layers`; for ``gradcam`` one
            layer, None for the one that is classified.

    Raises:
        UserError: an unknown method or layer, labels of another shape, an image that the backbone cannot take, or
            ``dcsm`` with a single class, which has nothing to be distinct from.
    """
    if method not in METHODS:
        raise UserError(f"there is no saliency method {method!r}{did_you_mean(method, METHODS)}")
    asked = _layers(network, method, layers)
    batch, classes = len(image), network.num_classes
    if image_labels is not None and image_labels.shape != (batch, classes):
        raise UserError(f"image labels of shape {tuple(image_labels.shape)}, not ({batch}, {classes})")
    if method == "dcsm" and classes < 2:
        raise UserError("dcsm tells classes apart and this network has one: take method=gradcam or method=cam")
    scales = tuple(scales or (DCSM_SCALES if method == "dcsm" else (1.0,)))
    maps = image.new_zeros(batch, classes, *image.shape[2:], dtype=torch.float32)
    probabilities = image.new_zeros(batch, classes, dtype=torch.float32)

    def work(place: int) -> None:
        labels = None if image_labels is None else image_labels[place].bool()
        found, seen = _of_one_image(network, image[place][None], labels, method, scales, asked)
        maps[place], probabilities[place] = found, seen

    with torch.inference_mode(False), _frozen(network):
        image = image.clone() if image.is_inference() else image
        maps, probabilities = maps.clone(), probabilities.clone()  # no inference tensors either
        _spread(work, range(batch))
    return SaliencyMaps(maps, probabilities)


def dcsm_layers(network: SaliencyNetwork) -> tuple[str, ...]:
    """Return the layers at which DCSM compares gradients, from shallow to deep.

    VGG16: the nine inputs of conv3_1 … conv5_3, named by the layer before (that of conv3_1 is ``relu2_2``, pooled).
    EfficientNet-Lite0: the ten block outputs before the layer that is classified [ours]; at that layer itself the
    gradient would be the same everywhere. timm: the stages before it [ours].
    """
    before = network.layers[:-1]
    if network.backbone == efficientnet.NAME:
        return tuple(layer for layer in before if layer.endswith("_out"))[-10:]
    rectified = [layer for layer in before if layer.startswith("relu")]
    if not rectified:
        return before
    second = sum(layer.startswith(("relu1", "relu2")) for layer in rectified)
    return tuple(rectified[second - 1 :])


def _layers(network: SaliencyNetwork, method: Method, layers: Sequence[str] | None) -> tuple[str, ...]:
    if method not in ("gradcam", "dcsm"):
        return ()
    if layers is None:
        layers = dcsm_layers(network) if method == "dcsm" else (network.layer,)
    for layer in layers:
        if layer not in network.layers:
            raise UserError(f"{network.backbone} has no layer {layer!r} here{did_you_mean(layer, network.layers)}")
    if not layers or (method == "gradcam" and len(layers) != 1):
        raise UserError(
            f"{method} takes {'one layer' if method == 'gradcam' else 'one layer or more'}, not {len(layers)}"
        )
    return tuple(layer for layer in network.layers if layer in layers)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Let no weight need a gradient, so that only what is asked for is recorded."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


# --- one image --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recording:
    """One image at one scale: what gradients are asked of, by layer, and the class maps (1, K, h, w) made of it."""

    points: dict[str, Tensor]
    class_maps: Tensor
    score: Tensor
    """The pooled logits (1, K)."""


def _of_one_image(
    network: SaliencyNetwork,
    image: Tensor,
    image_labels: Tensor | None,
    method: Method,
    scales: tuple[float, ...],
    layers: tuple[str, ...],
) -> tuple[Tensor, Tensor]:
    """Return the maps (K, H, W) and probabilities (K,) of ``image`` (1, 3, H, W)."""
    view, inside = _canvas(image) if method == "dcsm" else (image, (slice(None), slice(None)))
    size = (view.shape[2], view.shape[3])

    def record(index: int) -> _Recording:
        return _record(network, _resized(view, scales[index], network.stride), method, layers)

    recordings = _of_each_scale(record, scales)
    probabilities = torch.cat([recording.score for recording in recordings]).detach().sigmoid()
    active = _active(probabilities, image_labels)
    candidates = active.any(0).nonzero()[:, 0].tolist()
    competitors = _competitors(candidates, probabilities.sum(0))

    def contribution(index: int) -> Tensor:
        recording, rows = recordings[index], [row for row, c in enumerate(candidates) if active[index, c]]
        total = image.new_zeros(len(candidates), *size)
        if rows and method == "dcsm":
            total[rows] = distinct_maps(_largest_gradients(network, recording, competitors), rows, size)
        elif rows:
            total[rows] = _to(torch.stack([_PLAIN[method](recording, candidates[row]) for row in rows]), size)
        return total

    maps = image.new_zeros(network.num_classes, *image.shape[2:])
    if candidates:
        total = torch.stack(_of_each_scale(contribution, scales)).sum(0)
        relative = total / total.amax((1, 2), keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
        maps[candidates] = ((3 * relative).tanh() if method == "dcsm" else relative)[:, *inside]
    return maps, probabilities.amax(0)


def _canvas(image: Tensor) -> tuple[Tensor, tuple[slice, slice]]:
    """Centre an image (1, 3, H, W) on a square canvas of the mean colour, whose side is its longer one.

    Return the canvas, and the rows and columns that the image takes. VOC's images are at most 500 px long, the paper's
    canvas is 500 px.
    """
    height, width = image.shape[2:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    inside = slice(top, top + height), slice(left, left + width)
    canvas = image.new_tensor(_MEAN).view(1, 3, 1, 1).repeat(1, 1, side, side)
    canvas[:, :, *inside] = image
    return canvas, inside


def _resized(image: Tensor, scale: float, least: int) -> Tensor:
    height, width = (max(round(scale * length), least) for length in image.shape[2:])
    if (height, width) == tuple(image.shape[2:]):
        return image
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def _record(network: SaliencyNetwork, image: Tensor, method: Method, layers: tuple[str, ...]) -> _Recording:
    with torch.set_grad_enabled(method != "cam"), guided() if method == "dcsm" else nullcontext():
        if method == "gradient":
            image = image.detach().clone().requires_grad_()
            class_maps = network.class_maps(image)
            points = {"image": image}
        else:
            features, class_maps = network.record(image, layers)
            points = dict(zip(layers, features))
        return _Recording(points, class_maps, network.pool(class_maps))


def _spread(work: Callable[[int], None], order: Sequence[int]) -> None:
    """Run ``work`` on each of ``order``, whole pieces by PyTorch's threads: fewer meetings than in every operation."""

    def run(pieces: Iterator[int]) -> None:
        for piece in pieces:
            work(piece)

    share(run, order)


def _of_each_scale(work: Callable[[int], T], scales: Sequence[float]) -> list[T]:
    """Return ``work`` of the index of each scale, in order."""
    results: dict[int, T] = {}

    def keep(index: int) -> None:
        results[index] = work(index)

    # The largest first, so that the threads end at about the same time.
    _spread(keep, sorted(range(len(scales)), key=lambda index: -scales[index]))
    return [results[index] for index in range(len(scales))]


def _active(probabilities: Tensor, image_labels: Tensor | None) -> Tensor:
    """Say which classes are candidates at which scale, (S, K), of probabilities (S, K)."""
    if image_labels is not None:
        return image_labels.expand_as(probabilities)
    active = probabilities > 0.5
    if not active.any():
        active[:, probabilities.amax(0).argmax()] = True
    return active


def _competitors(candidates: list[int], total: Tensor) -> list[int]:
    """Return the candidates, filled up to four by the classes of the highest summed probability (K,)."""
    others = [c for c in total.argsort(descending=True, stable=True).tolist() if c not in candidates]
    return candidates + others[: max(0, _COMPETITORS - len(candidates))]


def _gradients(recording: _Recording, of: Tensor, place: int) -> list[Tensor]:
    """Return the gradients, at every point of ``recording``, of the sum over class ``place`` of its maps or score."""
    seed = torch.zeros_like(of)
    seed[0, place] = 1
    points = recording.points
    found = torch.autograd.grad(of, list(points.values()), seed, retain_graph=True, allow_unused=True)
    for layer, gradient in zip(points, found):
        if gradient is None:
            raise UserError(
                f"layer {layer} is a copy beside the network's path, so it has no gradient: take method=gradient or "
                "method=cam, or a convolutional backbone"
            )
    return list(found)


def _gradient(recording: _Recording, place: int) -> Tensor:
    (found,) = _gradients(recording, recording.score, place)
    return _largest(found)[0]


def _cam(recording: _Recording, place: int) -> Tensor:
    return recording.class_maps[0, place].relu()


def _gradcam(recording: _Recording, place: int) -> Tensor:
    (features,) = recording.points.values()
    (found,) = _gradients(recording, recording.score, place)
    return torch.einsum("c,chw->hw", found[0].mean((1, 2)), features.detach()[0]).relu()


_PLAIN: dict[str, Callable[[_Recording, int], Tensor]] = {"gradient": _gradient, "cam": _cam, "gradcam": _gradcam}


def _largest(gradient: Tensor) -> Tensor:
    """Return the largest absolute value over the channels, (B, h, w) of (B, C, h, w)."""
    return gradient.abs().amax(1)


def _to(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring maps (N, h, w) to ``size``."""
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


# --- distinct maps ----------------------------------------------------------------------------------------------------


def _largest_gradients(network: SaliencyNetwork, recording: _Recording, classes: list[int]) -> Iterator[Tensor]:
    """Yield, layer by layer, M (N, h, w): by class, the largest gradient of the sum over its map at each position.

    One pass back a class gives all layers. Classes are not batched: at the size of photos a batch of four takes longer
    than four passes, whose maps stay in the processor's cache.
    """
    by_class = []
    for place in classes:
        found = _gradients(recording, recording.class_maps, place)
        by_class.append([_largest(gradient)[0] for gradient in found])
    for layer, of_layer in zip(recording.points, zip(*by_class)):
        maps = torch.stack(of_layer)
        # Pooling hands each gradient to one place of its window: the largest of a window is the one at its output.
        yield F.max_pool2d(maps, 2) if _is_pooled(network, layer) else maps


def distinct_maps(largest_gradients: Iterable[Tensor], rows: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Add up what sets classes apart, over layers and competitors, at one scale (Shimoda & Yanai, 2016, section 3.2).

    For class c, each other class c' and each layer: `D = M_c − M_c'` on the canvas, `D / max D`, `tanh(3 D)`, its
    positive part. Differs from the authors' code: where max D ≤ 0 the contribution is zero; theirs divides all the same
    and so flips the signs.

    Args:
        largest_gradients: of each layer M (N, h, w), the largest gradient of the N compared classes.
        rows: the classes whose maps are asked for, as rows of M.
        size: (H, W) of the canvas.

    Returns:
        (len(rows), H, W), not negative and not normalised.
    """
    total: Tensor | None = None
    for of_layer in largest_gradients:
        maps = _to(of_layer, size)
        total = maps.new_zeros(len(rows), *size) if total is None else total
        for place, row in enumerate(rows):
            for other in range(len(maps)):
                if other == row:
                    continue
                difference = maps[row] - maps[other]
                top = float(difference.max())
                if top > 0:
                    # The positive part first, as tanh keeps signs; tanh(x) = 2 σ(2x) − 1, in a third of the time.
                    total[place] += difference.clamp_min_(0).mul_(6 / top).sigmoid_().mul_(2).sub_(1)
    assert total is not None
    return total


def _is_pooled(network: SaliencyNetwork, layer: str) -> bool:
    """Say whether the network takes 2×2 maxima right after ``layer``: VGG, at the end of a stage."""
    following = network.layers[network.layers.index(layer) + 1 :][:1]
    return layer.startswith("relu") and following != () and following[0][4] != layer[4]
