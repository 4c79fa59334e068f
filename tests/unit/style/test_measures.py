"""The measures of the style benchmark by their properties."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tezawari.features.backbone import load_backbone
from tezawari.style.measures import Judge, confusion_matrix, gram_dissimilarity, midpoint_deviation

STYLE_LAYERS, CONTENT_LAYERS = ("block1", "block2"), ("block2",)


def _gram(seed: int, channels: int = 6) -> Tensor:
    features = torch.rand(channels, 40, generator=torch.Generator().manual_seed(seed))
    return features @ features.T / 40


def _picture(seed: int, side: int = 48) -> Tensor:
    """Noise of a few colours and a grain of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4 * (seed + 1), 4 * (seed + 1), generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side))[0]


def test_dissimilarity_is_symmetric_and_within_bounds() -> None:
    for seed in range(20):
        one, other = _gram(seed), _gram(seed + 100) * 10.0 ** (seed % 5 - 2)
        distance = float(gram_dissimilarity(one, other))
        assert 0 < distance < 1
        assert distance == pytest.approx(float(gram_dissimilarity(other, one)))
    assert gram_dissimilarity(one, one) == 0
    assert gram_dissimilarity(torch.zeros(6, 6), torch.zeros(6, 6)) == 0
    apart = gram_dissimilarity(torch.diag(torch.tensor([1.0, 0, 0])), torch.diag(torch.tensor([0, 5.0, 0])))
    assert apart == 1


@pytest.mark.parametrize("ratio", [1.5, 4.0, 100.0])
def test_too_strong_and_too_weak_are_equally_far(ratio: float) -> None:
    gram = _gram(1)
    strong, weak = gram_dissimilarity(ratio * gram, gram), gram_dissimilarity(gram / ratio, gram)
    torch.testing.assert_close(strong, weak)
    assert strong > 0


def test_no_style_is_near_for_being_large() -> None:
    """A picture as far from a faint style as from a vivid one, by direction and by ratio, is equally far from both."""
    faint, vivid = torch.diag(torch.tensor([1.0, 0, 0])), torch.diag(torch.tensor([0, 9.0, 0]))
    between = torch.diag(torch.tensor([3.0, 3.0, 0]) / math.sqrt(2))
    near = gram_dissimilarity(between, torch.stack([faint, vivid]))
    torch.testing.assert_close(near[0], near[1])


def test_half_way_is_zero_and_the_ends_are_one() -> None:
    first, second = _picture(0), _picture(1)
    assert midpoint_deviation((first + second) / 2, first, second) == pytest.approx(0, abs=1e-6)
    assert midpoint_deviation(first, first, second) == pytest.approx(1)
    assert midpoint_deviation(second, first, second) == pytest.approx(1)
    quarter = 0.75 * first + 0.25 * second
    assert midpoint_deviation(quarter, first, second) == pytest.approx(0.5, rel=1e-5)
    # Neither what is common to all three nor their unit matters.
    assert midpoint_deviation(7 * quarter + 3, 7 * first + 3, 7 * second + 3) == pytest.approx(0.5, rel=1e-4)
    assert math.isnan(midpoint_deviation(quarter, first, first))


def test_confusions_are_counted_by_asked_and_nearest() -> None:
    counts = confusion_matrix([0, 0, 1, 2, 2], [0, 2, 1, 2, 2], 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 2]]


@pytest.fixture(scope="module")
def judges() -> tuple[Judge, Judge]:
    """A judge of three styles, and one of the same in the opposite order."""
    backbone = load_backbone("efficientnet_lite0", (*STYLE_LAYERS, *CONTENT_LAYERS))
    styles = [_picture(seed) for seed in range(3)]
    return tuple(Judge(backbone, order, STYLE_LAYERS, CONTENT_LAYERS) for order in (styles, styles[::-1]))  # type: ignore[return-value]


def test_a_style_is_nearest_to_itself_at_no_distance(judges: tuple[Judge, Judge]) -> None:
    for number in range(3):
        distances = judges[0].style_distances(judges[0].look(_picture(number)))
        assert distances.shape == (3, 2)
        assert distances.mean(1).argmin() == number
        torch.testing.assert_close(distances[number], torch.zeros(2))


def test_permuting_the_styles_permutes_the_distances(judges: tuple[Judge, Judge]) -> None:
    look = judges[0].look(_picture(5))
    torch.testing.assert_close(judges[0].style_distances(look).flip(0), judges[1].style_distances(look))


def test_content_is_kept_by_the_photo_alone(judges: tuple[Judge, Judge]) -> None:
    judge, photo = judges[0], judges[0].look(_picture(4))
    assert judge.content_distance(photo, photo) == 0
    little = judge.content_distance(judge.look(_picture(4) * 0.95), photo)
    assert 0 < little < judge.content_distance(judge.look(_picture(2)), photo)


def test_a_mix_that_is_one_of_its_ends_is_as_far_as_they_are(judges: tuple[Judge, Judge]) -> None:
    judge = judges[0]
    first, second = judge.look(_picture(0)), judge.look(_picture(1))
    assert judge.mixing_deviation(first, first, second) == pytest.approx(1, rel=1e-5)
    assert judge.mixing_deviation(judge.look((_picture(0) + _picture(1)) / 2), first, second) > 0
