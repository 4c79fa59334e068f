"""Many linear SVMs at once, against scikit-learn's one at a time."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC
from torch import Tensor

from tezawari.features import linear_svm
from tezawari.features.linear_svm import fit_many


def _rows(count: int, dims: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    rows = torch.randn(count, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)


def _targets(count: int, seed: int) -> Tensor:
    targets = torch.randint(0, 2, (count,), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    targets[:2] = torch.tensor([1.0, -1.0])
    return targets


def _objective(weights: Tensor, bias: Tensor, rows: Tensor, targets: Tensor, cost: float) -> float:
    slack = (1 - targets * (rows @ weights + bias)).clamp(min=0)
    return float(0.5 * (weights @ weights + bias * bias) + cost * (slack * slack).sum())


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 60),
    dims=st.integers(1, 12),
    cost=st.sampled_from([0.01, 1.0, 30.0]),
    weight=st.sampled_from([1.0, 7.5]),
    seed=st.integers(0, 10_000),
)
def test_the_optimum_is_that_of_scikit_learn(count: int, dims: int, cost: float, weight: float, seed: int) -> None:
    rows, targets = _rows(count, dims, seed), _targets(count, seed)
    ours = fit_many(rows, targets[None, None], cost=cost, positive_weight=weight, tolerance=1e-11)
    theirs = LinearSVC(C=cost, class_weight={1: weight, -1: 1}, dual=False, tol=1e-12, max_iter=100_000)
    theirs.fit(rows.numpy(), targets.numpy())
    np.testing.assert_allclose(ours.decide(rows)[0, 0], theirs.decision_function(rows.numpy()), atol=1e-5)


def test_float32_decides_as_scikit_learn_on_realistic_sizes() -> None:
    negatives, positives = _rows(1500, 200, 0).abs(), _rows(40, 200, 1).abs()
    positives[:, :20] *= 2
    rows = torch.cat([negatives, positives]) / torch.cat([negatives, positives]).norm(dim=1, keepdim=True)
    targets = torch.cat([-torch.ones(1500), torch.ones(40)])
    ours = fit_many(rows.float(), targets[None, None])
    theirs = LinearSVC(dual=False, tol=1e-10).fit(rows.numpy(), targets.numpy())
    np.testing.assert_allclose(ours.decide(rows.float())[0, 0], theirs.decision_function(rows.numpy()), atol=2e-4)
    assert float(ours.gradient_norms.max()) <= 1e-6


def _words_and_folds() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shared, own = _rows(90, 15, 3), _rows(4 * 10, 15, 4).view(4, 10, 15)
    shared_targets, own_targets = -torch.ones(1, 3, 90), torch.ones(4, 3, 10)
    for fold in range(3):
        shared_targets[:, fold, fold::3] = 0
        own_targets[:, fold, fold::3] = 0
    own_targets[2, :, 7:] = 0  # a word with fewer images
    own_targets[3, :, 0] *= -1  # an annotated negative
    return shared, shared_targets, own, own_targets


# Few active rows are solved exactly, many by conjugate gradients; a block may hold one group or all.
@pytest.mark.parametrize("most_active", [0, 70, 1000])
@pytest.mark.parametrize("elements", [1, 4_000_000])
def test_many_problems_are_as_many_single_ones(
    monkeypatch: pytest.MonkeyPatch, most_active: int, elements: int
) -> None:
    monkeypatch.setattr(linear_svm, "_MOST_ACTIVE", most_active)
    monkeypatch.setattr(linear_svm, "_BLOCK_ELEMENTS", elements)
    shared, shared_targets, own, own_targets = _words_and_folds()
    seen: list[tuple[int, int]] = []
    together = fit_many(
        shared, shared_targets, own, own_targets, tolerance=1e-10, progress=lambda *done: seen.append(done)
    )
    assert seen[-1] == (4, 4)
    assert len(seen) == (4 if elements == 1 else 1)
    decided, decided_own = together.decide(shared), together.decide_own(own)
    for group in range(4):
        for fold in range(3):
            rows = torch.cat([shared, own[group]])
            targets = torch.cat([shared_targets[0, fold], own_targets[group, fold]])
            kept = targets != 0
            alone = LinearSVC(dual=False, tol=1e-12, max_iter=100_000).fit(rows[kept].numpy(), targets[kept].numpy())
            expected = alone.decision_function(rows.numpy())
            found = torch.cat([decided[group, fold], decided_own[group, fold]])
            np.testing.assert_allclose(found, expected, atol=1e-6)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    rows, targets = _rows(40, 6, seed), _targets(40, seed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    first = fit_many(rows, targets[None, None], tolerance=1e-11)
    second = fit_many(rows[order], targets[order][None, None], tolerance=1e-11)
    torch.testing.assert_close(first.weights, second.weights, atol=1e-7, rtol=0)
    torch.testing.assert_close(first.biases, second.biases, atol=1e-7, rtol=0)


@given(seed=st.integers(0, 10_000), cost=st.sampled_from([0.1, 10.0]))
@settings(max_examples=15, deadline=None)
def test_no_other_plane_has_a_lower_objective(seed: int, cost: float) -> None:
    rows, targets = _rows(30, 5, seed), _targets(30, seed).double()
    solved = fit_many(rows, targets[None, None], cost=cost, tolerance=1e-10)
    weights, bias = solved.weights[0, 0], solved.biases[0, 0]
    best = _objective(weights, bias, rows, targets, cost)
    generator = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1e-1, 1.0):
        moved = weights + scale * torch.randn(5, generator=generator, dtype=torch.float64)
        assert _objective(moved, bias + scale, rows, targets, cost) > best


def test_a_row_of_cost_two_is_a_row_twice() -> None:
    rows, targets = _rows(30, 5, 0), _targets(30, 0)
    doubled = torch.cat([rows, rows[targets > 0]]), torch.cat([targets, targets[targets > 0]])
    weighted = fit_many(rows, targets[None, None], positive_weight=2, tolerance=1e-10)
    twice = fit_many(doubled[0], doubled[1][None, None], tolerance=1e-10)
    torch.testing.assert_close(weighted.weights, twice.weights, atol=1e-8, rtol=0)


def test_problems_without_rows_are_zero() -> None:
    solved = fit_many(torch.zeros(0, 3), torch.zeros(1, 2, 0))
    assert solved.weights.shape == (1, 2, 3)
    assert not solved.weights.any()
    assert not solved.biases.any()
    ignored = fit_many(_rows(5, 3, 0), torch.zeros(2, 1, 5))
    assert not ignored.weights.any()


def test_what_rounding_stops_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    rows, targets = _rows(50, 5, 0, torch.float32), _targets(50, 0)
    with caplog.at_level(logging.WARNING):
        solved = fit_many(rows, targets[None, None], tolerance=1e-15)
    assert "1 of 1 linear SVMs stopped by rounding" in caplog.text
    assert float(solved.gradient_norms) < 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shared_targets": torch.full((1, 1, 4), 2.0)}, "must be -1, 0 or 1"),
        ({"shared_targets": torch.ones(4)}, "three dimensions"),
        ({"shared": torch.full((4, 3), torch.nan)}, "not finite"),
        ({"cost": 0.0}, "cost must be above 0"),
        ({"positive_weight": float("nan")}, "positive_weight must be above 0"),
        ({"own": torch.ones(1, 2, 3)}, "come together"),
        ({"own": torch.ones(1, 2, 9), "own_targets": torch.ones(1, 1, 2)}, r"rows are \(N, D\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Tensor | float], message: str) -> None:
    right = {"shared": torch.ones(4, 3), "shared_targets": torch.ones(1, 1, 4)}
    with pytest.raises(ValueError, match=message):
        fit_many(**{**right, **arguments})  # type: ignore[arg-type]
