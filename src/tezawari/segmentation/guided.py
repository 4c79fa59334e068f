"""Guided back-propagation (Springenberg et al., "Striving for simplicity", ICLR workshop 2015), for any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_RECTIFIERS: frozenset[Callable[..., Any]] = frozenset(
    {
        F.relu,
        F.relu_,
        F.relu6,
        F.hardtanh,  # what nn.ReLU6 calls
        F.leaky_relu,
        F.elu,
        F.silu,
        F.gelu,
        F.mish,
        F.hardswish,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
    }
)


class _PositiveGradient(torch.autograd.Function):
    """The identity, through which only positive gradients come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp_min(0)


class guided(TorchFunctionMode):
    """A context in which what is computed is differentiated by guided back-propagation.

    The rectifiers called inside, by whatever module, pass back only the positive part of the gradient that reaches
    them, and that only where they pass their input on: `R_l = (f_l > 0) · (R_{l+1} > 0) · R_{l+1}`. ReLU6 passes
    nothing where it is saturated. Activations without a hard zero (SiLU, GELU, …) multiply the positive part by their
    own derivative. [ours] The backward pass itself may run outside of the context, several times, and batched. The
    gradient *at* a rectifier's output is the one that reaches it, not yet cut.

    Holds for the thread that enters it.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        return _PositiveGradient.apply(out) if func in _RECTIFIERS and out.requires_grad else out
