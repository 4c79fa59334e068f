"""Linear support vector machines, many at once: words × folds against the same random images.

All problems look at the same rows of negatives, so that one step of all of them is a few products of large matrices
instead of thousands of small ones.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tezawari.features.parallel import share

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# Newton's method on a piecewise quadratic function ends after about ten steps, whatever the data.
_MOST_STEPS = 60
_MOST_PRODUCTS = 120
_MOST_LINE_STEPS = 12
_LINE_ACCURACY = 1e-2  # of the slope at the start
# The most active rows of a group for which its systems are solved directly, rows by rows.
_MOST_ACTIVE = 640
# The residual of a first direction, relative to the gradient.
_ROUGH = 0.1
# Above this, the preconditioner (dims²) costs more than it saves, and soon more memory than there is.
_PRECONDITIONED_DIMS = 4096
# Elements of one (problems, rows) matrix, of which about ten live at a time.
_BLOCK_ELEMENTS = 4_000_000


@dataclass(frozen=True)
class LinearSVMs:
    """The separating planes of G × F problems.

    ``weights`` (G, F, D) and ``biases`` (G, F), in the type of the data; ``gradient_norms`` (G, F), of the objective
    where the solver stopped relative to its start at zero.
    """

    weights: Tensor
    biases: Tensor
    gradient_norms: Tensor

    def decide(self, rows: Tensor) -> Tensor:
        """Return the decision values (G, F, N) of the same ``rows`` (N, D) by every plane."""
        groups, folds, dims = self.weights.shape
        values = self.weights.reshape(-1, dims) @ rows.T
        return values.view(groups, folds, -1) + self.biases[..., None]

    def decide_own(self, own: Tensor) -> Tensor:
        """Return the decision values (G, F, n) of rows ``own`` (G, n, D), each group's by its own planes."""
        return self.weights @ own.transpose(1, 2) + self.biases[..., None]


@torch.no_grad()
def fit_many(
    shared: Tensor,
    shared_targets: Tensor,
    own: Tensor | None = None,
    own_targets: Tensor | None = None,
    cost: float = 1.0,
    positive_weight: float = 1.0,
    tolerance: float = 1e-6,
    progress: Progress | None = None,
) -> LinearSVMs:
    """Fit G × F linear SVMs with squared hinge loss, whose rows are shared by all or by the F problems of a group.

    Each problem minimises ``½ (‖w‖² + b²) + cost · Σ_i v_i max(0, 1 − t_i (w·x_i + b))²`` over its rows, where v is
    ``positive_weight`` for targets t = +1 and 1 for −1. The bias is regularised like a weight: this is the optimum of
    LIBLINEAR's L2-regularised L2-loss SVC with a constant feature of 1, that is of scikit-learn's
    ``LinearSVC(C=cost, intercept_scaling=1)``.

    Solved in the primal by truncated Newton steps (Keerthi & DeCoste, JMLR 2005; Lin, Weng & Keerthi, JMLR 2008) with
    an exact line search. The conjugate gradients of all problems run together, preconditioned by one matrix, the
    Hessian for the mean activity of the shared rows [ours]: problems differ little in which random images they find
    difficult.

    Args:
        shared: rows (N, D) that every problem may use, float32 or float64; L2-normalised rows solve fastest.
        shared_targets: broadcastable to (G, F, N); +1, −1, or 0 for a row that a problem does not train on.
        own: rows (G, n, D) that only the problems of one group use, such as a word's positives.
        own_targets: broadcastable to (G, F, n), like ``shared_targets``.
        cost: C of the objective, above 0.
        positive_weight: multiplies the cost of positives, above 0; many negatives to a positive balance at their ratio.
        tolerance: the norm of the gradient, relative to that at zero, at which a problem is solved. float32 reaches
            1e-6; a problem that rounding stops earlier is reported in the log.
        progress: called with (groups solved, groups in all).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, other targets than −1, 0 and 1, or a cost or
            weight that is not positive.
    """
    if (own is None) != (own_targets is None):
        raise ValueError("own rows and own targets come together")
    own = shared.new_zeros(1, 0, shared.shape[-1]) if own is None else own
    own_targets = torch.zeros(1, 1, 0) if own_targets is None else own_targets
    _check(shared, shared_targets, own, own_targets, cost, positive_weight)
    groups = max(shared_targets.shape[0], own.shape[0], own_targets.shape[0])
    folds = max(shared_targets.shape[1], own_targets.shape[1])
    shared_targets = shared_targets.expand(groups, folds, len(shared))
    own_targets = own_targets.expand(groups, folds, own.shape[1])
    own = own.expand(groups, -1, -1)
    rows = _with_constant(shared)
    block = max(1, _BLOCK_ELEMENTS // (folds * max(1, len(shared) + own.shape[1], shared.shape[1])))
    planes, norms = [], []
    for start in range(0, groups, block):
        part = slice(start, min(start + block, groups))
        targets = torch.cat([shared_targets[part].to(rows), own_targets[part].to(rows)], dim=-1)
        doubled = 2 * cost * torch.where(targets > 0, positive_weight, targets.abs())
        solved, norm = _solve(rows, _Problems(_with_constant(own[part]), targets, doubled), tolerance)
        planes.append(solved)
        norms.append(norm)
        if progress is not None:
            progress(part.stop, groups)
    weights, gradient_norms = torch.cat(planes), torch.cat(norms)
    unsolved = int((gradient_norms > tolerance).sum())
    if unsolved:
        log.warning(
            "%d of %d linear SVMs stopped by rounding, at a relative gradient of %.1e instead of %.1e",
            unsolved,
            gradient_norms.numel(),
            float(gradient_norms.max()),
            tolerance,
        )
    return LinearSVMs(weights[..., :-1], weights[..., -1], gradient_norms)


def _check(
    shared: Tensor, shared_targets: Tensor, own: Tensor, own_targets: Tensor, cost: float, positive_weight: float
) -> None:
    if shared.ndim != 2 or own.ndim != 3 or own.shape[2] != shared.shape[1]:
        raise ValueError(f"rows are (N, D) and (G, n, D), not {tuple(shared.shape)} and {tuple(own.shape)}")
    if shared_targets.ndim != 3 or own_targets.ndim != 3:
        raise ValueError("targets have three dimensions: groups, folds, rows")
    for name, value in (("cost", cost), ("positive_weight", positive_weight)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be above 0, not {value}")
    for name, rows, targets in (("shared", shared, shared_targets), ("own", own, own_targets)):
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{name} rows hold values that are not finite")
        if not bool(((targets == 0) | (targets.abs() == 1)).all()):
            raise ValueError(f"{name} targets must be -1, 0 or 1")


def _with_constant(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], dim=-1)


@dataclass(frozen=True)
class _Problems:
    """A block of problems: own rows (G, n, D); targets and twice the costs of shared and own rows, (G, F, N + n)."""

    own: Tensor
    targets: Tensor
    # Twice the cost is what remains in gradients and Hessians.
    doubled: Tensor

    def take(self, groups: Tensor) -> _Problems:
        return _Problems(self.own[groups], self.targets[groups], self.doubled[groups])


def _values(rows: Tensor, own: Tensor, planes: Tensor) -> Tensor:
    """Return the decision values (G, F, N + n) of shared and own rows."""
    shared = (planes.reshape(-1, planes.shape[-1]) @ rows.T).view(*planes.shape[:2], len(rows))
    return torch.cat([shared, planes @ own.transpose(1, 2)], dim=-1)


def _combine(rows: Tensor, own: Tensor, factors: Tensor) -> Tensor:
    """Return the sums (G, F, D) of rows times ``factors`` (G, F, N + n): the transpose of :func:`_values`."""
    groups, folds, _ = factors.shape
    count = len(rows)
    shared = factors[..., :count].reshape(groups * folds, count) @ rows
    return shared.view(groups, folds, -1) + factors[..., count:] @ own


def _solve(rows: Tensor, problems: _Problems, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return the planes (G, F, D) and relative gradient norms (G, F) of a block of problems."""
    groups, folds, _ = problems.targets.shape
    solved = rows.new_zeros(groups, folds, rows.shape[1])
    norms = rows.new_zeros(groups, folds)
    left = torch.arange(groups)
    planes, values = solved.clone(), torch.zeros_like(problems.targets)
    start: Tensor | None = None
    for _ in range(_MOST_STEPS):
        slack = (1 - problems.targets * values).clamp_(min=0)
        gradient = planes - _combine(rows, problems.own, problems.doubled * problems.targets * slack)
        norm = gradient.norm(dim=-1)
        start = norm.clamp(min=torch.finfo(norm.dtype).tiny) if start is None else start
        norm = norm / start
        solved[left], norms[left] = planes, norm
        going = (norm > tolerance).any(dim=1)
        if not bool(going.any()):
            break
        if not bool(going.all()):
            left, problems, start = left[going], problems.take(going), start[going]
            planes, values, slack = planes[going], values[going], slack[going]
            gradient, norm = gradient[going], norm[going]
        curvature = torch.where(slack > 0, problems.doubled, 0)
        direction, along = _newton_direction(rows, problems.own, curvature, gradient, norm)
        step = _line_search(planes, values, direction, along, problems)
        planes = planes + step * direction
        values = values + step * along
    return solved, norms


def _newton_direction(
    rows: Tensor, own: Tensor, curvature: Tensor, gradient: Tensor, norm: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the d (G, F, D) of H d = −g, where H is I + Xᵀ diag(``curvature``) X, and its values (G, F, N + n).

    Where few rows of a group are active, d is exact; elsewhere its residual is below a share of ``gradient`` that
    shrinks with ``norm`` (G, F), the gradient's norm relative to its start.
    """
    active = (curvature > 0).any(dim=1)
    few = active.sum(dim=1) <= _MOST_ACTIVE
    direction = torch.empty_like(gradient)

    def exact(places: Iterator[int]) -> None:
        for place in places:
            kept = active[place].nonzero()[:, 0]
            count = int((kept < len(rows)).sum())
            near = torch.cat([rows[kept[:count]], own[place, kept[count:] - len(rows)]])
            direction[place] = _exact_direction(near, curvature[place, :, kept], gradient[place])

    share(exact, few.nonzero()[:, 0].tolist())
    if bool((~few).any()):
        accuracy = norm[~few].sqrt().clamp(max=_ROUGH)
        direction[~few] = _approximate_direction(rows, own[~few], curvature[~few], gradient[~few], accuracy)
    return direction, _values(rows, own, direction)


def _exact_direction(near: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """Solve H d = −g for the F problems of a group by the active rows ``near`` (A, D) of any of them.

    H⁻¹ = I − Xᵀ (diag(1 / curvature) + X Xᵀ)⁻¹ X (Woodbury): A × A matrices instead of D × D.
    """
    root = curvature.sqrt()
    system = root[:, :, None] * (near @ near.T) * root[:, None, :]
    system.diagonal(dim1=-2, dim2=-1).add_(1)
    seen = root * (gradient @ near.T)
    factors = torch.cholesky_solve(seen[..., None], torch.linalg.cholesky(system))[..., 0]
    return (root * factors) @ near - gradient


def _approximate_direction(rows: Tensor, own: Tensor, curvature: Tensor, gradient: Tensor, accuracy: Tensor) -> Tensor:
    """Solve H d = −g by conjugate gradients, each problem to a residual below ``accuracy`` (G, F) times ‖g‖."""
    precondition = _preconditioner(rows, curvature[..., : len(rows)])
    direction = torch.zeros_like(gradient)
    residual = -gradient
    goal = accuracy * residual.norm(dim=-1)
    conjugate = precondition(residual)
    energy = (residual * conjugate).sum(-1)
    for _ in range(_MOST_PRODUCTS):
        going = residual.norm(dim=-1) > goal
        if not bool(going.any()):
            break
        product = conjugate + _combine(rows, own, curvature * _values(rows, own, conjugate))
        bend = (conjugate * product).sum(-1)
        length = torch.where(going & (bend > 0), energy / bend, 0)[..., None]
        direction += length * conjugate
        residual -= length * product
        candidate = precondition(residual)
        new_energy = (residual * candidate).sum(-1)
        conjugate = candidate + torch.where(energy > 0, new_energy / energy, 0)[..., None] * conjugate
        energy = new_energy
    return direction


def _preconditioner(rows: Tensor, curvature: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the product with the inverse of I + Xᵀ diag(mean curvature) X over the shared rows."""
    dims = rows.shape[1]
    if dims > _PRECONDITIONED_DIMS or len(rows) == 0:
        return lambda residual: residual
    hessian = rows.T @ (rows * curvature.mean(dim=(0, 1))[:, None])
    hessian.diagonal().add_(1)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    return lambda residual: (residual.reshape(-1, dims) @ inverse).view_as(residual)


def _line_search(planes: Tensor, values: Tensor, direction: Tensor, along: Tensor, problems: _Problems) -> Tensor:
    """Return the best lengths (G, F, 1) along ``direction``: where the objective's slope is zero.

    The slope is piecewise linear and rises, so Newton's method in one dimension, kept between the ends known to
    have either sign, finds its root in a few steps.
    """
    flat = (planes * direction).sum(-1)
    bend = direction.square().sum(-1)
    low, high = torch.zeros_like(flat), torch.full_like(flat, math.inf)
    length = torch.ones_like(flat)
    margins, change = 1 - problems.targets * values, problems.targets * along
    weighted = problems.doubled * change
    at_zero = (flat - (weighted * margins.clamp(min=0)).sum(-1)).abs()
    for _ in range(_MOST_LINE_STEPS):
        slack = margins - length[..., None] * change
        violated = slack > 0
        slope = flat + length * bend - (weighted * slack.clamp_(min=0)).sum(-1)
        curve = bend + (weighted * change * violated).sum(-1)
        low, high = torch.where(slope < 0, length, low), torch.where(slope >= 0, length, high)
        proposal = length - torch.where(curve > 0, slope / curve, 0)
        halved = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        moved = torch.where((proposal > low) & (proposal < high), proposal, halved)
        done = (slope.abs() <= _LINE_ACCURACY * at_zero) | (bend == 0)
        length = torch.where(done, length, moved)
        if bool(done.all()):
            break
    return length[..., None]
