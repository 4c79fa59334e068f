"""The scores of masks against scikit-learn, torchmetrics and cases counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional.classification import multiclass_jaccard_index

from tezawari.data.labelled_image import IGNORE_INDEX
from tezawari.segmentation.metrics import bootstrap, confusion_matrix, iou_per_class, mean_iou, pixel_accuracy

CLASSES = 5


def _masks(seed: int, shape: tuple[int, ...] = (3, 20, 30), right: float = 0.6) -> tuple[Tensor, Tensor]:
    """A prediction that is right with some probability, and the truth, a tenth of which is to be ignored."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, CLASSES, shape)
    prediction = np.where(rng.random(shape) < right, target, rng.integers(0, CLASSES, shape))
    target[rng.random(shape) < 0.1] = IGNORE_INDEX
    return torch.from_numpy(prediction), torch.from_numpy(target)


def test_counts_are_scikit_learns() -> None:
    prediction, target = _masks(0)
    known = target != IGNORE_INDEX
    counts = confusion_matrix(prediction, target, CLASSES)
    expected = sklearn_metrics.confusion_matrix(target[known], prediction[known], labels=range(CLASSES))
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts.numpy(), expected)
    # The truth is in the rows.
    assert counts.sum(1).tolist() == [int((target == value).sum()) for value in range(CLASSES)]


def test_images_add_up_and_bytes_are_taken() -> None:
    prediction, target = _masks(1)
    together = confusion_matrix(prediction.byte(), target.byte(), CLASSES)
    assert torch.equal(together, sum(confusion_matrix(p, t, CLASSES) for p, t in zip(prediction, target)))


def test_scores_are_those_of_scikit_learn_and_torchmetrics() -> None:
    prediction, target = _masks(2)
    known = target != IGNORE_INDEX
    counts = confusion_matrix(prediction, target, CLASSES)
    jaccard = sklearn_metrics.jaccard_score(target[known], prediction[known], average=None)
    np.testing.assert_allclose(iou_per_class(counts).numpy(), jaccard, rtol=1e-12)
    macro = multiclass_jaccard_index(prediction, target, CLASSES, ignore_index=IGNORE_INDEX)
    assert float(mean_iou(counts)) == pytest.approx(float(macro), rel=1e-6)
    assert float(mean_iou(counts, with_background=False)) == pytest.approx(jaccard[1:].mean())
    accuracy = sklearn_metrics.accuracy_score(target[known], prediction[known])
    assert float(pixel_accuracy(counts)) == pytest.approx(accuracy)


def test_absent_classes_are_left_out_and_missed_ones_are_not() -> None:
    counts = confusion_matrix(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2]), 5)
    ious = iou_per_class(counts)
    assert ious[:3].tolist() == [0.5, 1 / 3, 0.0]
    assert ious[3:].isnan().all()
    assert float(mean_iou(counts)) == pytest.approx((0.5 + 1 / 3) / 3)


def test_nothing_to_score_is_not_a_number() -> None:
    counts = confusion_matrix(torch.zeros(2, 2).long(), torch.full((2, 2), IGNORE_INDEX), CLASSES)
    assert counts.shape == (CLASSES, CLASSES)
    assert counts.sum() == 0
    assert math.isnan(mean_iou(counts))
    assert math.isnan(pixel_accuracy(counts))


def test_matrices_in_a_batch_are_scored_each() -> None:
    counts = torch.stack([confusion_matrix(*_masks(seed), CLASSES) for seed in range(4)]).unflatten(0, (2, 2))
    for statistic in (mean_iou, pixel_accuracy):
        scores = statistic(counts)
        assert scores.shape == (2, 2)
        assert float(scores[1, 0]) == float(statistic(counts[1, 0]))


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, CLASSES], [0, 0], "prediction holds values from 0 to 5"),
        ([0, IGNORE_INDEX], [0, 0], "prediction holds values from 0 to 255"),
        ([-1, 0], [0, 0], "prediction holds values from -1"),
        ([0, 0], [0, CLASSES], "target holds values"),
        ([0, 0, 0], [0, 0], "differ in shape"),
    ],
)
def test_values_that_are_no_class_are_refused(prediction: list[int], target: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(target), CLASSES)


def test_a_prediction_does_not_matter_where_the_truth_is_unknown() -> None:
    ignored = torch.tensor([1, IGNORE_INDEX])
    assert confusion_matrix(ignored, ignored, CLASSES).sum() == 1


# --- the interval -----------------------------------------------------------------------------------------------------


def _per_image(count: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.stack(
        [confusion_matrix(*_masks(image, (12, 12), rng.uniform(0.3, 0.9)), CLASSES) for image in range(count)]
    )


def test_the_interval_is_that_of_drawing_images_one_by_one() -> None:
    images, rng = _per_image(40), np.random.default_rng(1)
    low, high = bootstrap(images, mean_iou, samples=2000)
    drawn = [float(mean_iou(images[rng.integers(0, 40, 40)].sum(0))) for _ in range(2000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    assert low < float(mean_iou(images.sum(0))) < high
    np.testing.assert_allclose([low, high], expected, atol=0.1 * (expected[1] - expected[0]))


def test_the_interval_of_equal_images_is_a_point_and_more_images_narrow_it() -> None:
    low, high = bootstrap(_per_image(1).repeat(5, 1, 1))
    assert low == pytest.approx(high)
    few, many = bootstrap(_per_image(10)), bootstrap(_per_image(160))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_the_interval_repeats_by_its_seed() -> None:
    images = _per_image(10)
    assert bootstrap(images, pixel_accuracy, seed=3) == bootstrap(images, pixel_accuracy, seed=3)
    assert bootstrap(images, pixel_accuracy, seed=3) != bootstrap(images, pixel_accuracy, seed=4)


def test_draws_without_any_class_are_left_out() -> None:
    """One image of two has nothing to score; a quarter of the draws hold it alone."""
    images = torch.stack([torch.eye(CLASSES).long(), torch.zeros(CLASSES, CLASSES).long()])
    assert bootstrap(images) == (1.0, 1.0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_interval(count: int) -> None:
    low, high = bootstrap(_per_image(1)[:count])
    assert math.isnan(low)
    assert math.isnan(high)
