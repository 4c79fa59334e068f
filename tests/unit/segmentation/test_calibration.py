"""Calibration where the best threshold is known: a planted object, and a classifier that counts what it sees of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tezawari.segmentation.calibration import agreement, best_threshold, ease, occlusion
from tezawari.segmentation.masks import class_probabilities, mask_of

THRESHOLDS = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
SIDE = 24


def _scene(place: int) -> tuple[Tensor, Tensor]:
    """An image whose central square is pure in one channel, and a map that is 0.6 … 0.75 just there, 0.3 around it."""
    image, maps = torch.full((3, SIDE, SIDE), 0.3), torch.zeros(3, SIDE, SIDE)
    image[:, 8:16, 8:16] = 0
    image[place, 8:16, 8:16] = 1
    maps[place, 4:20, 4:20] = 0.3
    maps[place, 8:16, 8:16] = 0.7
    maps[place, 9:15, 9:15] = 0.9
    return image, maps


def _share_of_object(images: Tensor) -> Tensor:
    """Return which share of the 64 object pixels is seen of each class."""
    return torch.stack([(images[:, c] == 1).sum((1, 2)) / 64 for c in range(3)], dim=1)


def _scenes(count: int = 3) -> tuple[list[Tensor], list[Tensor], list[list[int]]]:
    scenes = [_scene(place % 3) for place in range(count)]
    return [image for image, _ in scenes], [maps for _, maps in scenes], [[place % 3] for place in range(count)]


def test_occlusion_scores_what_is_seen_inside_and_outside() -> None:
    scores = occlusion(_share_of_object, *_scenes(), THRESHOLDS)
    inner, object_, around = 36 / 64, 1.0, 1.0
    shares = torch.tensor([around, around, object_, object_, object_, inner, 0.0], dtype=torch.float64)
    areas = torch.tensor([256, 256, 64, 64, 64, 36, 0], dtype=torch.float64) / SIDE**2
    torch.testing.assert_close(scores, 2 * (shares - areas), rtol=0, atol=1e-6)
    assert best_threshold(THRESHOLDS, scores) == 0.5


def test_without_a_price_the_largest_region_is_as_good() -> None:
    scores = occlusion(_share_of_object, *_scenes(), THRESHOLDS, area_weight=0)
    assert scores[0] == scores.max()


def test_what_is_hidden_has_the_mean_colour() -> None:
    seen: list[Tensor] = []

    def remember(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 3)

    image = torch.ones(3, SIDE, SIDE)
    occlusion(remember, [image], [torch.full((3, SIDE, SIDE), 0.5)], [[1]], [0.2, 0.8])
    shown = torch.cat(seen)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None].expand(3, SIDE, SIDE)
    # All and nothing are shown, then nothing and all are left.
    for picture, expected in zip(shown, [image, mean, mean, image], strict=True):
        torch.testing.assert_close(picture, expected)


def test_equal_regions_are_looked_at_once_and_images_may_differ_in_size() -> None:
    looks = []

    def count(images: Tensor) -> Tensor:
        looks.append(len(images))
        return _share_of_object(images)

    images, maps, labels = _scenes(2)
    images[1], maps[1] = images[1][:, :20], maps[1][:, :20]
    scores = occlusion(count, images, maps, labels, np.linspace(0.01, 0.99, 99).tolist())
    assert sum(looks) == 2 * 2 * 4  # two images, in and out, four regions each
    assert scores.shape == (99,)


def test_images_count_by_their_labels_and_progress_is_told() -> None:
    images, maps, _ = _scenes(2)
    told: list[tuple[int, int]] = []
    both = occlusion(
        _share_of_object, images, maps, [[0], [1]], [0.5], progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]
    one = occlusion(_share_of_object, images[:1], maps[:1], [[0]], [0.5])
    torch.testing.assert_close(both, one)
    torch.testing.assert_close(occlusion(_share_of_object, images, maps, [[0], []], [0.5]), one)


# --- agreement and ease -----------------------------------------------------------------------------------------------


def _to_the_edges(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
    """A CRF that knows the truth: regions that cover most of the object become it, others vanish."""
    for image, probabilities in pairs:
        is_object = (image == 255).any(-1)
        covered = (probabilities[1:].argmax(0) == 0) & (probabilities[1] > probabilities[0])
        foreground = is_object & ((covered & is_object).sum() > 0.5 * is_object.sum())
        yield np.stack([~foreground, foreground]).astype(np.float32)


def _pixels(images: list[Tensor]) -> list[np.ndarray]:
    return [np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8) for image in images]


def test_agreement_is_highest_where_the_crf_has_nothing_to_mend() -> None:
    images, maps, labels = _scenes()
    told: list[tuple[int, int]] = []
    scores = agreement(
        _pixels(images), maps, labels, THRESHOLDS, _to_the_edges, lambda done, total: told.append((done, total))
    )
    assert best_threshold(THRESHOLDS, scores) == 0.5
    assert float(scores[3]) == 1
    background = (SIDE**2 - 256) / (SIDE**2 - 64)
    assert float(scores[0]) == pytest.approx((64 / 256 + background) / 2)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_mask_that_covers_everything_does_not_agree_best() -> None:
    def unchanged(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        return (probabilities for _, probabilities in pairs)

    images, _, labels = _scenes(1)
    everywhere = [torch.full((3, SIDE, SIDE), 0.5)]
    scores = agreement(_pixels(images), everywhere, labels, [0.2, 0.8], unchanged)
    assert scores.tolist() == [0.5, 0.5]
    assert agreement(_pixels(images), [_scene(0)[1]], labels, [0.5], unchanged).tolist() == [1.0]


def test_agreement_under_the_real_crf_is_that_of_its_masks() -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")
    from tezawari.segmentation.crf import refine, refine_many

    images, maps, labels = _scenes(2)
    pixels = _pixels(images)
    scores = agreement(pixels, maps, labels, [0.2, 0.5], lambda pairs: refine_many(pairs, workers=0))
    for row, threshold in enumerate([0.2, 0.5]):
        expected = []
        for image, image_maps, classes in zip(pixels, maps, labels):
            probabilities = class_probabilities(image_maps[classes], threshold)
            before, after = mask_of(probabilities, classes), mask_of(refine(image, probabilities), classes)
            values = np.array([0, classes[0] + 1])[:, None, None]
            both = ((before == values) & (after == values)).sum((1, 2))
            expected.append((both / ((before == values) | (after == values)).sum((1, 2))).mean())
        assert float(scores[row]) == pytest.approx(np.mean(expected))


def test_ease_is_the_mean_iou_of_the_labels() -> None:
    before = np.array([[1, 1, 2, 2], [1, 1, 0, 0]], np.uint8)
    after = np.array([[1, 1, 2, 2], [1, 0, 2, 2]], np.uint8)
    assert ease(before, after, [0, 1]) == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert ease(before, after, [0]) == pytest.approx(3 / 4)
    assert ease(before, before, [0, 1]) == 1


def test_a_blob_is_easier_than_speckle() -> None:
    rng = np.random.default_rng(0)
    blob = np.zeros((40, 40), np.uint8)
    blob[10:30, 10:30] = 1
    speckle = (rng.random((40, 40)) < 0.3).astype(np.uint8)
    smooth = [ndimage.median_filter(mask, 3) for mask in (blob, speckle)]
    assert ease(blob, smooth[0], [0]) > 0.9 > 0.5 > ease(speckle, smooth[1], [0])


def test_what_was_not_found_was_not_easy() -> None:
    empty = np.zeros((3, 3), np.uint8)
    assert ease(empty, empty, [4]) == 0


def test_mistakes_are_refused() -> None:
    empty = np.zeros((3, 3), np.uint8)
    with pytest.raises(ValueError, match="without labels"):
        ease(empty, empty, [])
    with pytest.raises(ValueError, match="differ in size"):
        ease(empty, empty[:1], [0])
    images, maps, labels = _scenes(2)
    for call in (occlusion, agreement):
        with pytest.raises(ValueError, match="at least one image with a label"):
            call(_share_of_object, images, maps, [[], []], [0.5]) if call is occlusion else call(
                _pixels(images), maps, [[], []], [0.5]
            )
    with pytest.raises(ValueError, match="must be as many"):
        occlusion(_share_of_object, images, maps[:1], labels, [0.5])


def test_the_best_threshold_is_the_middle_of_the_best() -> None:
    assert best_threshold([0.1, 0.2, 0.3], torch.tensor([1.0, 3.0, 2.0])) == 0.2
    assert best_threshold([0.1, 0.2, 0.3, 0.4], torch.tensor([3.0, 3.0, 3.0, 0.0])) == 0.2
    for thresholds, scores in (([], []), ([0.1], [1.0, 2.0]), ([0.1], [float("nan")])):
        with pytest.raises(ValueError, match="finite scores"):
            best_threshold(thresholds, torch.tensor(scores))
