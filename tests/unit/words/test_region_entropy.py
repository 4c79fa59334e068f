"""Region entropy: its bounds, what it must not depend on, and planted concepts that it must find."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tezawari.core.errors import UserError
from tezawari.words.region_entropy import (
    RegionModel,
    best_rows,
    component_weights,
    describe_regions,
    entropy_in_bits,
    fit_region_model,
    grid_labels,
    map_regions,
    region_entropy,
    score_regions,
    segment_labels,
)

FEATURES = 4


def _random_images(seed: int, count: int, regions: int = 12) -> list[np.ndarray]:
    """Images whose regions come from ten clusters, which nothing distinguishes."""
    rng = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).standard_normal((10, FEATURES))
    return [
        centres[rng.integers(10, size=regions)] + 0.3 * rng.standard_normal((regions, FEATURES)) for _ in range(count)
    ]


def _planted_images(seed: int, count: int, share: float = 0.4) -> list[np.ndarray]:
    """Random images of which some regions are all alike, and unlike any other."""
    rng = np.random.default_rng(seed)
    images = _random_images(seed, count)
    for regions in images:
        planted = rng.permutation(len(regions))[: round(share * len(regions))]
        regions[planted] = [6.0, -6.0, 6.0, -6.0] + 0.3 * rng.standard_normal((len(planted), FEATURES))
    return images


@pytest.fixture(scope="module")
def model() -> RegionModel:
    return fit_region_model([*_random_images(1, 40), *_planted_images(2, 3)], components=25)


def test_one_component_has_no_entropy() -> None:
    model = fit_region_model(_random_images(0, 10), components=1)
    (measured,) = region_entropy({"any": _random_images(1, 10)}, _random_images(2, 10), model)
    assert measured.entropy == 0
    assert measured.interval == (0, 0)
    np.testing.assert_allclose(measured.components, [1])


@pytest.mark.parametrize("count", [2, 8, 250])
def test_uniform_components_have_log2_of_their_number(count: int) -> None:
    assert entropy_in_bits(np.full(count, 0.37)) == pytest.approx(np.log2(count))
    weights = component_weights(np.full((7, count), 1 / count), np.linspace(0.1, 1, 7))
    assert entropy_in_bits(weights) == pytest.approx(np.log2(count))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=9).filter(lambda w: sum(w) > 1e-3), st.randoms())
@settings(max_examples=50, deadline=None)
def test_entropy_is_its_definition_whatever_the_order(weights: list[float], random: object) -> None:
    share = np.array(weights) / np.sum(weights)
    expected = -sum(p * np.log2(p) for p in share if p > 0)
    assert entropy_in_bits(np.array(weights)) == pytest.approx(expected, abs=1e-9)
    assert 0 <= entropy_in_bits(np.array(weights)) <= np.log2(len(weights)) + 1e-9
    random.shuffle(weights)  # type: ignore[attr-defined]
    assert entropy_in_bits(np.array(weights)) == pytest.approx(expected, abs=1e-9)


def test_nothing_has_no_entropy() -> None:
    with pytest.raises(ValueError, match="zero"):
        entropy_in_bits(np.zeros(3))


def test_relabelling_components_changes_nothing(model: RegionModel) -> None:
    order = np.random.default_rng(0).permutation(25)
    relabelled = copy.deepcopy(model)
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(relabelled.mixture, name, getattr(model.mixture, name)[order])
    words, others = {"w": _planted_images(3, 12)}, _random_images(4, 12)
    (one,), (other,) = region_entropy(words, others, model), region_entropy(words, others, relabelled)
    assert other.entropy == pytest.approx(one.entropy, abs=1e-9)
    np.testing.assert_allclose(other.components, one.components[order], atol=1e-9)


def test_a_planted_concept_ranks_below_random_images(model: RegionModel) -> None:
    words = {
        "planted": _planted_images(5, 30),
        "random": _random_images(6, 30),
        "other": _random_images(7, 30),
    }
    planted, *chance = region_entropy(words, _random_images(8, 60), model, seeds=(0, 1))
    for measured in chance:
        assert planted.entropy < measured.entropy - 1
        assert planted.interval[1] < measured.interval[0]


def test_what_was_planted_scores_highest(model: RegionModel) -> None:
    images = _planted_images(9, 20)
    (measured,) = region_entropy({"w": images}, _random_images(10, 40), model)
    is_planted = np.concatenate([regions[:, 0] > 3.5 for regions in images]) & np.concatenate(
        [regions[:, 1] < -3.5 for regions in images]
    )
    scores = np.concatenate(measured.region_scores)
    assert [len(part) for part in measured.region_scores] == [len(regions) for regions in images]
    assert 0.2 < is_planted.mean() < 0.6
    assert scores[is_planted].min() > scores[~is_planted].max()


def test_first_scores_are_the_definition() -> None:
    """One round without a choice: P(X|c) is the word's share of a component, P(X|r) its mean over a region's own."""
    word, others = np.concatenate(_planted_images(11, 6)), np.concatenate(_random_images(12, 9))
    from sklearn.mixture import GaussianMixture

    rows = np.concatenate([word, others])
    oracle = GaussianMixture(5, covariance_type="diag", reg_covar=1e-3, random_state=3).fit(rows)
    memberships = oracle.predict_proba(rows)
    expected = np.zeros(len(word))
    for i in range(len(word)):
        for j in range(5):
            share = sum(memberships[: len(word), j]) / sum(memberships[:, j])
            expected[i] += share * memberships[i, j]
    np.testing.assert_allclose(score_regions(word, others, 5, kept=1, iterations=1, seed=3), expected, rtol=1e-9)


def test_choosing_again_sets_what_the_word_shares_with_others_further_apart() -> None:
    images = _planted_images(13, 20, share=0.3)
    word, others = np.concatenate(images), np.concatenate(_random_images(14, 20))
    planted = (word[:, 0] > 3.5) & (word[:, 1] < -3.5)

    def contrast(iterations: int) -> float:
        scores = score_regions(word, others, kept=0.25, iterations=iterations)
        return float(scores[planted].mean() / scores[~planted].mean())

    assert contrast(2) > 2 * contrast(1)


def test_best_rows_are_those_of_the_highest_scores() -> None:
    assert best_rows(np.array([0.2, 0.9, 0.5, 0.9, 0.5]), 3).tolist() == [1, 2, 3]


def test_a_word_alone_measures_as_among_others_and_again_the_same(model: RegionModel) -> None:
    words = {"a": _planted_images(15, 10), "b": _random_images(16, 12)}
    others = _random_images(17, 30)
    both, (alone,) = region_entropy(words, others, model), region_entropy({"b": words["b"]}, others, model)
    assert alone.entropy == both[1].entropy
    np.testing.assert_array_equal(alone.components, both[1].components)


def test_leaving_a_fold_out_is_measuring_without_its_regions(model: RegionModel) -> None:
    """One image a fold: each left out by hand, and the interval by the textbook's formula of the jackknife."""
    images = _planted_images(18, 12, share=0.15)
    (measured,) = region_entropy({"w": images}, _random_images(19, 12), model, folds=12)
    scores = np.concatenate(measured.region_scores)
    memberships = model.memberships(model.place(np.concatenate(images)))
    image_of = np.arange(12).repeat(12)
    kept = best_rows(scores, 36)
    np.testing.assert_allclose(scores[kept] @ memberships[kept] / scores[kept].sum(), measured.components)
    by_hand = []
    for image in range(12):
        rest = kept[image_of[kept] != image]
        by_hand.append(stats.entropy(scores[rest] @ memberships[rest], base=2))
    (left_out,) = measured.fold_entropies
    np.testing.assert_allclose(np.sort(left_out), np.sort(by_hand))
    error = np.sqrt(11 / 12 * np.sum((left_out - left_out.mean()) ** 2))
    reach = stats.t(11).ppf(0.975) * error
    assert error > 0.01
    low, high = max(0, measured.entropy - reach), min(np.log2(25), measured.entropy + reach)
    assert measured.interval == pytest.approx((low, high))


def test_the_interval_holds_the_mean_of_many_like_it(model: RegionModel) -> None:
    """Fifteen words of one kind: the intervals of most hold what they are on average, and say something."""
    words = {str(n): _planted_images(100 + n, 20, share=0.15) for n in range(15)}
    measured = region_entropy(words, _random_images(20, 40), model)
    mean = np.mean([word.entropy for word in measured])
    held = [word.interval[0] <= mean <= word.interval[1] for word in measured]
    widths = [word.interval[1] - word.interval[0] for word in measured]
    assert sum(held) >= 11
    assert 0.05 < np.median(widths) < 0.5 * np.log2(25)


def test_progress_counts_words(model: RegionModel) -> None:
    calls: list[tuple[int, int]] = []
    words = {"a": _random_images(21, 6), "b": _random_images(22, 6)}
    region_entropy(words, _random_images(23, 6), model, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_too_few_images_are_an_error_that_names_the_word(model: RegionModel) -> None:
    with pytest.raises(UserError, match="ふわふわ: 3 images"):
        region_entropy({"ふわふわ": _random_images(0, 3)}, _random_images(1, 9), model)


def test_no_other_images_are_an_error(model: RegionModel) -> None:
    with pytest.raises(UserError, match="random"):
        region_entropy({"w": _random_images(0, 9)}, [], model)


def test_too_few_regions_for_the_mixture_are_an_error() -> None:
    with pytest.raises(UserError, match="250 components"):
        fit_region_model(_random_images(0, 5))


def test_principal_axes_are_standardised_too() -> None:
    model = fit_region_model(_random_images(0, 30), components=5, dimensions=2)
    placed = model.place(np.concatenate(_random_images(0, 30)))
    assert placed.shape == (360, 2)
    np.testing.assert_allclose(np.cov(placed.T), np.eye(2), atol=1e-6)


def _photo(seed: int, color: tuple[int, int, int] | None, side: int = 60) -> np.ndarray:
    """Blocks of random colours under noise, and, with ``color``, a striped patch of it somewhere on them."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (5, 5, 3)).repeat(side // 5, 0).repeat(side // 5, 1)
    image = np.clip(blocks + rng.normal(0, rng.choice([1, 10, 30]), (side, side, 3)), 0, 255)
    if color is not None:
        top, left = rng.integers(0, 3, 2) * (side // 5)
        image[top : top + 36, left : left + 36] = color
        image[top : top + 36 : 4, left : left + 36] = np.array(color) // 2
    return image.astype(np.uint8)


def test_a_color_and_texture_planted_in_pixels_is_found() -> None:
    labels = grid_labels(60, 60)

    def regions(first: int, count: int, color: tuple[int, int, int] | None) -> list[np.ndarray]:
        return [describe_regions(_photo(first + n, color), labels) for n in range(count)]

    others = regions(0, 30, None)
    model = fit_region_model([*others, *regions(500, 2, (230, 120, 10))], components=40)
    visual, not_visual = region_entropy(
        {"striped orange": regions(100, 20, (230, 120, 10)), "nothing": regions(200, 20, None)}, others, model
    )
    assert visual.entropy < not_visual.entropy - 1


def test_regions_are_described_by_their_own_pixels() -> None:
    """Mean and deviation are those of the region, whatever lies beside it; texture knows direction and strength."""
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, :32] = (200, 30, 30)
    image[::8, 32:64] = image[1::8, 32:64] = image[2::8, 32:64] = image[3::8, 32:64] = 255  # lies
    image[:, 64:] = np.rot90(image[:, 32:64])  # stands
    described = describe_regions(image, grid_labels(32, 96, 1, 3))
    plain, lying, standing = described
    assert described.shape == (3, 18)
    assert plain[1] > 30  # red has a high a
    np.testing.assert_allclose(plain[3:6], 0, atol=1e-4)
    np.testing.assert_allclose(lying[3], 50, atol=0.1)
    at_two_pixels = slice(10, 12)
    across, down = lying[at_two_pixels]
    assert down > across + 2
    across, down = standing[at_two_pixels]
    assert across > down + 2
    assert lying[12] > plain[12] + 2


def test_the_diagonal_has_a_sign() -> None:
    y, x = np.mgrid[:40, :40]
    falling = ((x - y) // 5 % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    one = describe_regions(falling, np.zeros((40, 40), int))[0, 13]
    other = describe_regions(falling[:, ::-1].copy(), np.zeros((40, 40), int))[0, 13]
    assert abs(one) > 0.8
    assert one == pytest.approx(-other, abs=0.05)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_grid_has_all_its_regions_of_nearly_equal_size(height: int, width: int, rows: int, columns: int) -> None:
    if rows > height or columns > width:
        with pytest.raises(ValueError, match="regions"):
            grid_labels(height, width, rows, columns)
        return
    labels = grid_labels(height, width, rows, columns)
    sizes = np.bincount(labels.ravel())
    assert labels.shape == (height, width)
    assert len(sizes) == rows * columns
    assert sizes.min() >= (height // rows) * (width // columns)
    assert sizes.max() <= -(-height // rows) * -(-width // columns)
    assert labels[0, -1] == columns - 1


def test_segments_follow_colors() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 23:] = (250, 200, 0)
    labels = segment_labels(image, 8)
    assert labels.min() == 0
    assert not set(np.unique(labels[:, :23])) & set(np.unique(labels[:, 23:]))


def test_positions_of_a_map_are_regions() -> None:
    features = np.arange(24.0).reshape(2, 3, 4)
    regions = map_regions(features)
    assert regions.shape == (12, 2)
    np.testing.assert_array_equal(regions[6], features[:, 1, 2])


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        describe_regions(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), int))
