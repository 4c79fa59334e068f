"""Pseudo masks: under the image's own labels, at the image's own size, in the images' order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.data.labelled_image import LabelledImage
from tezawari.segmentation import pseudo_masks as module
from tezawari.segmentation.crf import CrfParameters, refine
from tezawari.segmentation.masks import class_probabilities
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.pseudo_masks import (
    THRESHOLDS,
    Candidates,
    PseudoMask,
    by_id,
    calibrate_background,
    from_saliency,
    from_segmenter,
    image_tensor,
    photo_labels,
    photo_maps,
    pseudo_masks,
    segment_pixels,
)
from tezawari.segmentation.saliency import saliency_maps

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 4
RED, GREEN = 0, 1


class ByColour(nn.Module):
    """A segmenter that needs no training: class 1 is what is red, class 2 what is green, at an eighth of the size."""

    num_classes = CLASSES

    def forward(self, image: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(image, 8)
        logits = torch.full((len(image), 1 + CLASSES, *small.shape[2:]), -9.0)
        logits[:, 0] = 0
        for place in (RED, GREEN):
            logits[:, 1 + place] = 20 * (small[:, place] - small[:, [2, 1 - place]].mean(1)) - 5
        return logits


@pytest.fixture(scope="module")
def network() -> SaliencyNetwork:
    torch.manual_seed(0)
    return SaliencyNetwork("efficientnet_lite0", CLASSES, "average", "random").eval().requires_grad_(False)


def _image(name: str, labels: tuple[int, ...], height: int = 36, width: int = 48) -> LabelledImage:
    """Red on the left, green on the right, and noise over all of it."""
    pixels = np.random.default_rng(len(name)).integers(0, 60, (height, width, 3), np.uint8)
    pixels[:, : width // 2, RED] += 180
    pixels[:, width // 2 :, GREEN] += 180
    return LabelledImage(name, labels, pixels)


def _candidates(count: int, seed: int = 0) -> list[Candidates]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        pixels = _image("x" * (1 + number), (1, 3)).load_image()
        scores = rng.random((3, *pixels.shape[:2]), np.float32) + 0.1
        found.append(Candidates(f"image{number}", pixels, (1, 3), scores / scores.sum(0)))
    return found


def test_saliency_candidates_are_the_methods_maps_of_the_images_labels(network: SaliencyNetwork) -> None:
    images = [_image("a", (2,)), _image("bb", (0, 3), height=64, width=33)]
    for image, found in zip(images, from_saliency(network, images, 120, "gradcam", 0.25), strict=True):
        pixels = image.load_image()
        maps = photo_maps(network, pixels, 120, image.labels, "gradcam")[list(image.labels)]
        assert (found.id, found.classes) == (image.id, image.labels)
        assert (found.pixels == pixels).all()
        assert np.array_equal(found.probabilities, class_probabilities(maps, 0.25))


def test_a_photo_is_seen_at_the_asked_size_and_its_maps_have_its_own(network: SaliencyNetwork) -> None:
    pixels = _image("a", (2,), height=60, width=90).load_image()
    labels = torch.zeros(1, CLASSES, dtype=torch.bool)
    labels[0, 2] = True
    assert torch.equal(
        photo_maps(network, pixels, 90, (2,), "cam"),
        saliency_maps(network, image_tensor(pixels), labels, "cam").maps[0],
    )
    twice = np.asarray(Image.fromarray(pixels).resize((180, 120), Image.Resampling.BILINEAR))
    found = photo_maps(network, pixels, 180, (2,), "cam")
    assert found.shape == (CLASSES, 60, 90)
    expected = photo_maps(network, twice, 180, (2,), "cam")[2]
    shrunk = F.interpolate(expected[None, None], (60, 90), mode="bilinear")[0, 0]
    assert float((found[2] - shrunk).abs().mean()) < 0.03


def test_labels_of_a_photo_are_those_of_its_mirror_image(network: SaliencyNetwork) -> None:
    for name in ("a", "bb", "ccc"):
        pixels = _image(name, (2,)).load_image()
        labels = photo_labels(network, pixels, 96)
        assert labels
        assert labels == photo_labels(network, np.ascontiguousarray(pixels[:, ::-1]), 96)


def test_a_segmenters_candidates_lie_where_the_image_does() -> None:
    """The letterbox is undone, whichever side is the longer one."""
    for size in ((40, 90), (90, 40), (64, 64)):
        (found,) = from_segmenter(ByColour(), [_image("a", (RED, GREEN), *size)], 64)  # type: ignore[arg-type]
        assert found.probabilities.shape == (3, *size)
        assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
        (pseudo,) = pseudo_masks([found], None)
        left, right = pseudo.mask[:, : size[1] // 2], pseudo.mask[:, size[1] // 2 :]
        assert (left == 1 + RED).mean() > 0.9
        assert (right == 1 + GREEN).mean() > 0.9


def test_a_segmenter_may_only_choose_among_the_images_labels() -> None:
    (found,) = from_segmenter(ByColour(), [_image("a", (GREEN, 3))], 64)  # type: ignore[arg-type]
    (pseudo,) = pseudo_masks([found], None)
    assert set(np.unique(pseudo.mask)) <= {0, 1 + GREEN, 1 + 3}
    assert (pseudo.mask[:, 28:] == 1 + GREEN).mean() > 0.9
    free = segment_pixels(ByColour(), found.pixels, 64).argmax(0)  # type: ignore[arg-type]
    assert (free[:, :20] == 1 + RED).mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5)])
def test_tiny_and_elongated_photos_keep_their_size(size: tuple[int, int]) -> None:
    pixels = np.full((*size, 3), 200, np.uint8)
    found = segment_pixels(ByColour(), pixels, 64)  # type: ignore[arg-type]
    assert found.shape == (1 + CLASSES, *size)
    assert np.isfinite(found).all()
    assert np.allclose(found.sum(0), 1, atol=1e-5)


def test_without_a_crf_a_mask_is_the_most_probable_class_and_ease_its_probability() -> None:
    candidates = _candidates(3)
    for given, pseudo in zip(candidates, pseudo_masks(iter(candidates), None), strict=True):
        assert pseudo.id == given.id
        expected = np.array([0, 2, 4], np.uint8)[given.probabilities.argmax(0)]
        assert (pseudo.mask == expected).all()
        assert pseudo.ease == pytest.approx(np.max(given.probabilities, 0).mean(), abs=1e-6)


def test_unsure_pixels_are_ignored_and_ease_is_not_touched_by_it() -> None:
    (candidate,) = _candidates(1)
    sure = candidate.probabilities.max(0)
    (all_of_it,), (kept,) = pseudo_masks([candidate], None), pseudo_masks([candidate], None, confidence=0.5)
    assert 0.1 < (sure < 0.5).mean() < 0.9
    assert (kept.mask == np.where(sure < 0.5, 255, all_of_it.mask)).all()
    assert kept.ease == all_of_it.ease


def test_with_a_crf_ease_is_how_little_it_changes() -> None:
    pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")
    parameters, candidates = CrfParameters(iterations=3), _candidates(4)
    in_one, in_two = (list(pseudo_masks(iter(candidates), parameters, workers=w)) for w in (0, 2))
    for given, pseudo, other in zip(candidates, in_one, in_two, strict=True):
        values = np.array([0, 2, 4], np.uint8)
        before = values[given.probabilities.argmax(0)]
        after = values[refine(given.pixels, given.probabilities, parameters).argmax(0)]
        assert (pseudo.mask == after).all()
        scores = [
            jaccard_score((before == v).ravel(), (after == v).ravel(), zero_division=0.0)  # ours: not found, not easy
            for v in (2, 4)
        ]
        assert pseudo.ease == pytest.approx(np.mean(scores))
        assert pseudo.ease < 1
        assert (pseudo.id, pseudo.ease) == (other.id, other.ease)
        assert (pseudo.mask == other.mask).all()


@pytest.mark.parametrize("crf", [None, CrfParameters(iterations=1)])
def test_candidates_are_made_as_they_are_needed(crf: CrfParameters | None) -> None:
    """A stage of thousands of photos must not hold all of them in memory."""
    if crf is not None:
        pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")
    made = 0

    def making() -> Iterator[Candidates]:
        nonlocal made
        for candidate in _candidates(8):
            made += 1
            yield candidate

    for taken, _ in enumerate(pseudo_masks(making(), crf, workers=1), start=1):
        assert made <= taken + 2
    assert made == 8


def test_images_are_found_by_their_ids_in_the_order_asked() -> None:
    images = [_image(name, (0,)) for name in ("a", "b/c", "d")]

    def make(chosen: object) -> Iterator[PseudoMask]:
        for image in chosen:  # type: ignore[attr-defined]
            yield PseudoMask(image.id, np.zeros((1, 1), np.uint8), 1.0)

    assert [pseudo.id for pseudo in by_id(make, images)(["d", "b/c"])] == ["d", "b/c"]


def test_pixels_become_a_batch_of_one() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = image_tensor(pixels)
    assert image.shape == (1, 3, 2, 3)
    assert float(image[0, 2, 1, 0]) == pytest.approx(pixels[1, 0, 2] / 255)


def test_the_background_is_the_best_threshold_on_images_that_the_seed_draws(
    network: SaliencyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [_image("x" * (1 + number), (number % CLASSES,)) for number in range(6)]
    asked: list[list[float]] = []
    real = module.occlusion

    def occlusion(classify: object, tensors: Sequence[Tensor], *rest: object) -> Tensor:
        asked.append([float(tensor.sum()) for tensor in tensors])
        return real(classify, tensors, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "occlusion", occlusion)
    steps: list[tuple[int, int]] = []
    chosen, figures = calibrate_background(
        network, images, 96, "cam", seed=0, count=4, progress=lambda done, count: steps.append((done, count))
    )
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(figures) == {f"occlusion at {threshold:g}" for threshold in THRESHOLDS}
    assert figures[f"occlusion at {chosen:g}"] == max(figures.values())
    assert calibrate_background(network, images, 96, "cam", seed=0, count=4) == (chosen, figures)
    calibrate_background(network, images, 96, "cam", seed=1, count=4)
    calibrate_background(network, images, 96, "cam", seed=1, count=48)
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[3])) == len(images)
