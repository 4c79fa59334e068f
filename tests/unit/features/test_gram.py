"""Gram matrices against sums written out."""

from __future__ import annotations

import pytest
import torch

from tezawari.features.gram import gram_matrix


@pytest.mark.parametrize(("normalization", "divisor"), [("none", 1), ("hw", 4 * 7), ("chw", 3 * 4 * 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gram_is_the_mean_of_products(normalization: str, divisor: int, memory_format: torch.memory_format) -> None:
    features = torch.randn(2, 3, 4, 7).to(memory_format=memory_format)
    wanted = torch.einsum("bchw,bdhw->bcd", features, features) / divisor
    torch.testing.assert_close(gram_matrix(features, normalization), wanted)  # type: ignore[arg-type]


def test_gram_does_not_know_where() -> None:
    """Moving the positions about changes nothing: a Gram matrix is style, not content."""
    features = torch.randn(1, 5, 6, 6)
    moved = features.flatten(2)[:, :, torch.randperm(36)].view_as(features)
    torch.testing.assert_close(gram_matrix(features), gram_matrix(moved))


def test_hw_gram_does_not_depend_on_the_size_of_a_repeated_texture() -> None:
    features = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(gram_matrix(features, "hw"), gram_matrix(features.repeat(1, 1, 2, 3), "hw"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gram_gradient_by_finite_differences(memory_format: torch.memory_format) -> None:
    features = torch.randn(2, 3, 2, 4, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(2, 3, 3, dtype=torch.float64)  # not symmetric
    assert torch.autograd.gradcheck(lambda f: gram_matrix(f) * weights, (features,))


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match="chw"):
        gram_matrix(torch.rand(1, 2, 3, 3), "wh")  # type: ignore[arg-type]
