"""Naming and mixing styles: from ``NAME[=W]`` to the condition vector of the network (METHODS §6)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean

ALL = "all"
RANDOM = "random"


def one_hot(index: int, num_styles: int) -> Tensor:
    """Return the weights (S,) of style ``index`` alone; raises ``IndexError`` outside [0, S)."""
    if not 0 <= index < num_styles:
        raise IndexError(f"style {index} of {num_styles}")
    weights = torch.zeros(num_styles)
    weights[index] = 1
    return weights


def equal_mix(num_styles: int) -> Tensor:
    """Return the weights (S,) of all styles in equal parts, 1/S each: with sixteen styles, the talk's 16-style mix."""
    return torch.full((num_styles,), 1 / num_styles)


def random_mix(num_styles: int, seed: int = 0) -> Tensor:
    """Return weights (S,) drawn evenly from all mixtures that sum to 1 (a flat Dirichlet), a function of ``seed``."""
    # -log of a uniform draw is an exponential one, and exponentials divided by their sum are a flat Dirichlet.
    generator = torch.Generator().manual_seed(seed)
    draws = -torch.rand(num_styles, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
    return (draws / draws.sum()).float()


def parse_styles(specs: Sequence[str], style_names: Sequence[str], *, seed: int = 0) -> Tensor:
    """Return one weight vector for each asked style, (K, S), in the order asked.

    A spec is ``NAME`` or ``NAME=W`` with W ≥ 0 (1 when left out): W on that style, 0 elsewhere. ``all`` is
    :func:`equal_mix` and ``random`` is :func:`random_mix` of ``seed``, times W; a style that bears such a name wins.
    Raises ``UserError`` for no spec at all, an unknown or repeated name, and a weight that is no number, negative or
    not finite.
    """
    if not specs:
        raise UserError(f"no style was asked for: name one of {', '.join(style_names)}, or {ALL}, or {RANDOM}")
    rows: list[Tensor] = []
    asked: set[str] = set()
    for spec in specs:
        name, weight = _split(spec, style_names)
        if name in asked:
            raise UserError(f"style {name} is asked for twice: give it once, with one weight, like {name}=0.5")
        asked.add(name)
        rows.append(weight * _vector(name, style_names, seed))
    return torch.stack(rows)


def parse_mix(specs: Sequence[str], style_names: Sequence[str], *, normalize: bool = False, seed: int = 0) -> Tensor:
    """Return the weight vector (S,) of ``NAME[=W]`` specs added up, as asked or normalised to sum to 1.

    The network takes any non-negative weights, so raw ones are allowed: a larger sum is a stronger style. Raises
    ``UserError`` as :func:`parse_styles` does, and where all weights are zero.
    """
    weights = parse_styles(specs, style_names, seed=seed).sum(0)
    total = float(weights.sum())
    if total == 0:
        raise UserError("all style weights are zero: give at least one style a weight above 0, like NAME=0.5")
    return weights / total if normalize else weights


def _vector(name: str, style_names: Sequence[str], seed: int) -> Tensor:
    if name in style_names:
        return one_hot(list(style_names).index(name), len(style_names))
    if name == ALL:
        return equal_mix(len(style_names))
    if name == RANDOM:
        return random_mix(len(style_names), seed)
    raise UserError(f"no style is named {name!r}{did_you_mean(name, [*style_names, ALL, RANDOM])}")


def _split(spec: str, style_names: Sequence[str]) -> tuple[str, float]:
    name, equals, text = spec.rpartition("=")
    if not equals or spec in style_names:
        return spec, 1.0
    try:
        weight = float(text)
    except ValueError:
        raise UserError(f"the weight in {spec!r} is not a number: write it like {name}=0.5") from None
    if not math.isfinite(weight) or weight < 0:
        raise UserError(f"the weight in {spec!r} must be a number that is 0 or more: write it like {name}=0.5")
    return name, weight
