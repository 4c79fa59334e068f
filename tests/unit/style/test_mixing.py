"""Style specs become the weight vectors they name, and every mistake is one clear message."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tezawari.core.errors import UserError
from tezawari.style.mixing import equal_mix, one_hot, parse_mix, parse_styles, random_mix

NAMES = ["wave", "scream", "starry_night", "cafe"]


def test_one_hot_is_a_row_of_the_identity() -> None:
    torch.testing.assert_close(torch.stack([one_hot(i, 5) for i in range(5)]), torch.eye(5))


@pytest.mark.parametrize("index", [-1, 5])
def test_one_hot_refuses_a_style_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError):
        one_hot(index, 5)


def test_the_sixteen_style_mix_is_a_sixteenth_each() -> None:
    assert equal_mix(16).tolist() == [1 / 16] * 16
    assert parse_mix(["all"], [f"s{i}" for i in range(16)]).tolist() == [1 / 16] * 16


@given(st.integers(1, 40), st.integers(0, 2**31))
def test_a_random_mix_is_a_mix_and_a_function_of_its_seed(num_styles: int, seed: int) -> None:
    mix = random_mix(num_styles, seed)
    assert mix.shape == (num_styles,)
    assert (mix >= 0).all()
    assert float(mix.sum()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(mix, random_mix(num_styles, seed), rtol=0, atol=0)


def test_random_mixes_are_flat_dirichlet() -> None:
    mixes = torch.stack([random_mix(4, seed) for seed in range(2000)])
    # Of a flat Dirichlet over S each weight has mean 1/S and variance (S-1)/(S²(S+1)).
    torch.testing.assert_close(mixes.mean(0), torch.full((4,), 0.25), atol=0.02, rtol=0)
    torch.testing.assert_close(mixes.var(0), torch.full((4,), 3 / 80), atol=0.006, rtol=0)


def test_raw_and_normalised_weights() -> None:
    specs = ["wave=2", "cafe", "scream=0"]
    assert parse_mix(specs, NAMES).tolist() == [2, 0, 0, 1]
    torch.testing.assert_close(parse_mix(specs, NAMES, normalize=True), torch.tensor([2 / 3, 0, 0, 1 / 3]))


def test_specs_keep_their_order_one_row_each() -> None:
    rows = parse_styles(["cafe=0.5", "wave"], NAMES)
    assert rows.tolist() == [[0, 0, 0, 0.5], [1, 0, 0, 0]]


def test_all_and_random_take_a_weight_and_add_up() -> None:
    torch.testing.assert_close(parse_mix(["all=2", "wave=0.5"], NAMES), torch.tensor([1.0, 0.5, 0.5, 0.5]))
    torch.testing.assert_close(parse_mix(["random=3"], NAMES, seed=7), 3 * random_mix(4, 7))


def test_a_style_named_like_a_mix_wins_and_names_may_hold_an_equals_sign() -> None:
    assert parse_mix(["all"], ["all", "x=1"]).tolist() == [1, 0]
    assert parse_mix(["x=1"], ["all", "x=1"]).tolist() == [0, 1]
    assert parse_mix(["x=1=0.25"], ["all", "x=1"]).tolist() == [0, 0.25]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["wvae"], "did you mean wave"),
        (["wave=-1"], "0 or more"),
        (["wave=nan"], "0 or more"),
        (["wave=inf"], "0 or more"),
        (["wave=much"], "not a number"),
        (["wave="], "not a number"),
        (["wave", "wave=2"], "twice"),
        (["wave=0", "cafe=0"], "all style weights are zero"),
        ([], "no style was asked for"),
        ([""], "no style is named"),
    ],
)
def test_mistakes_are_told(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_mix(specs, NAMES)
