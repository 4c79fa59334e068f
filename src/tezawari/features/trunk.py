"""What every pretrained network offers to :class:`~tezawari.features.backbone.Backbone`."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


class Trunk(nn.Module):
    """A frozen network that yields its named layers in depth order.

    Attributes: ``layers`` (depth order); of each its ``channels`` and ``strides`` (pixels of the input that a position
    advances).
    """

    layers: tuple[str, ...]
    channels: dict[str, int]
    strides: dict[str, int]

    def walk(self, image: Tensor, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield ``(name, features (B, C, h, w))`` of the wanted layers; what nobody asks for next is never computed.

        ``image`` is (B, 3, H, W) RGB in [0, 1].
        """
        raise NotImplementedError
