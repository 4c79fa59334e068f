"""What every pretrained network offers to :class:`~tezawari.features.backbone.Backbone`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from torch import Tensor, nn

# Random weights without a warning, for a network whose own state dict is loaded next.
REPLACED = "replaced"


class Trunk(nn.Module):
    """A network that yields its named layers in depth order.

    Attributes: ``layers`` (depth order); of each its ``channels`` and ``strides`` (pixels of the input that a position
    advances); ``lazy``, whether :meth:`walk` computes a layer only when it is asked for, from the tensor it yielded
    before.
    """

    layers: tuple[str, ...]
    channels: dict[str, int]
    strides: dict[str, int]
    lazy = True

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: batch norms keep their pretrained moments, whatever trains around them."""
        return super().train(False)

    def walk(self, image: Tensor, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, features (B, C, h, w))`` of the wanted layers; what nobody asks for next is never computed.

        ``image`` is (B, 3, H, W) RGB in [0, 1]. Where the trunk is ``lazy``, a yielded layer may be marked with
        ``requires_grad_()`` before the next is asked for: what is deeper is then differentiable with respect to it, and
        nothing shallower is recorded.
        """
        raise NotImplementedError
