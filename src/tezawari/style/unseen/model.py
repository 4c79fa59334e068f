"""The network that turns what a style asks for into the condition of the multi-style network.

After Ghiasi et al., "Exploring the structure of a real-time, arbitrary neural artistic stylization network" (BMVC
2017): the scales and shifts of conditional instance normalisation are predicted from the style.

Differs from the paper: it predicts from the Gram matrices of the frozen loss network, which are what the style loss
compares, rather than from another network's look at the style image. A style pack, which holds no picture, then
conditions the network exactly as an image does. [ours]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tezawari.style.loss import StyleTarget
from tezawari.style.network import ConditionalNetwork, Fusion, Net, build_network
from tezawari.style.style_pack import upper_triangle

# A style whose statistic is this many deviations from the pool's mean counts as hardly less than one of twice that.
_FARTHEST = 4.0
# Channels that hardly change over the pool would otherwise be blown up by the first style that does change them.
_LEAST_SPREAD = 0.1
_ROW_SPREAD = 0.5


class StyleStatistics(nn.Module):
    """Describe styles by standardised numbers: of each layer how strongly channels fire, and which fire together.

    The strength of a channel is the root of the Gram matrix's diagonal. Which fire together are the cosines
    ``G_ij / √(G_ii G_jj)``, of which a fixed random projection of the channels onto ``projected`` directions keeps the
    upper triangle. Every number is standardised over the styles of :meth:`fit`, and bounded softly. [ours]

    Args:
        channels: layer → how many channels it has, in the order of the numbers.
        projected: directions that each layer's channels are projected onto.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: Mapping[str, int], projected: int) -> None:
        super().__init__()
        self.layers = tuple(channels)
        generator = torch.Generator().manual_seed(0)
        for number, count in enumerate(channels.values()):
            directions = torch.linalg.qr(torch.randn(count, min(projected, count), generator=generator))[0]
            self.register_buffer(f"directions_{number}", directions.T.contiguous())
        kept = [min(projected, count) for count in channels.values()]
        self.parts = [size for count, k in zip(channels.values(), kept) for size in (count, k * (k + 1) // 2)]
        self.register_buffer("mean", torch.zeros(sum(self.parts)))
        self.register_buffer("deviation", torch.ones(sum(self.parts)))

    @property
    def count(self) -> int:
        """How many numbers describe a style."""
        return sum(self.parts)

    def measure(self, grams: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers ``(B, count)``, not yet standardised, of Gram matrices ``(B, C, C)`` a layer."""
        found = []
        for number, layer in enumerate(self.layers):
            strength = grams[layer].diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
            norm = strength.clamp_min(1e-6)
            directions = getattr(self, f"directions_{number}")
            cosines = grams[layer] / (norm[:, :, None] * norm[:, None, :])
            found += [strength, upper_triangle(directions @ cosines @ directions.T)]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def fit(self, measured: Tensor) -> None:
        """Standardise over the styles that :meth:`measure` gave the numbers ``(N, count)`` of, N at least 1."""
        self.mean.copy_(measured.mean(0))
        spread = measured.std(0, correction=0).split(self.parts)
        self.deviation.copy_(torch.cat([s.clamp_min(_LEAST_SPREAD * float(s.mean()) + 1e-6) for s in spread]))

    def forward(self, grams: Mapping[str, Tensor]) -> Tensor:
        """Return the standardised numbers ``(B, count)``, each between -4 and 4, of Gram matrices ``(B, C, C)``."""
        standard = (self.measure(grams) - self.mean) / self.deviation
        return _FARTHEST * torch.tanh(standard / _FARTHEST)


class UnseenStyleNetwork(nn.Module):
    """Restyle photos in the style that Gram matrices ask for, whether or not it was trained on.

    A condition is 1 followed by an embedding of the style, and takes the place of the style weights of a
    :class:`~tezawari.style.network.ConditionalNetwork`, normalised by instance moments: the row of 1 is what all styles
    have in common, the other rows map the embedding linearly to scales and shifts (``cin``) or to the fusion's summand
    (``concat``).

    Args:
        channels: style layer → how many channels it has.
        net: ``deepstylecam`` or ``johnson``.
        fusion: ``cin`` or ``concat``.
        embedding: numbers of the embedding.
        hidden: units between statistics and embedding.
        projected: see :class:`StyleStatistics`.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        net: Net = "deepstylecam",
        fusion: Fusion = "cin",
        embedding: int = 32,
        hidden: int = 128,
        projected: int = 16,
    ) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.embedding, self.hidden, self.projected = embedding, hidden, projected
        self.statistics = StyleStatistics(channels, projected)
        self.embed = nn.Sequential(nn.Linear(self.statistics.count, hidden), nn.ELU(), nn.Linear(hidden, embedding))
        self.network = build_network(net, 1 + embedding, fusion, "instance")
        # Equal rows would get equal gradients for ever; of the first, a neutral one is right.
        for style in range(1, 1 + embedding):
            for row in self.network.style_parameters(style):
                nn.init.normal_(row, std=_ROW_SPREAD)

    @property
    def layers(self) -> tuple[str, ...]:
        """The style layers whose Gram matrices it reads."""
        return self.statistics.layers

    def condition(self, grams: Mapping[str, Tensor]) -> Tensor:
        """Return the conditions ``(B, 1 + embedding)`` of Gram matrices ``(B, C, C)`` a layer, over height × width."""
        # Adam moves all rows at once: unscaled, a step would move scales and shifts by as much more as there are rows.
        embedding = self.embed(self.statistics(grams)) / math.sqrt(self.embedding)
        return torch.cat([torch.ones_like(embedding[:, :1]), embedding], dim=1)

    def forward(self, content_image: Tensor, grams: Mapping[str, Tensor]) -> Tensor:
        """Restyle ``(B, 3, H, W)`` photos in [0, 1], each as its Gram matrices ask; same shape and range."""
        return self.network(content_image.contiguous(memory_format=torch.channels_last), self.condition(grams))

    @torch.no_grad()
    def with_styles(self, styles: Sequence[StyleTarget]) -> ConditionalNetwork:
        """Return an ordinary network of these styles, in evaluation mode: one pass, no training.

        It restyles exactly as this one does, mixes them, paints them region by region, and can be published or trained
        further like any other. Nothing is shared with this network.

        Args:
            styles: at least one; of one of several members the mean counts, and means of features are not read.
        """
        rows = [self.network.style_parameters(row) for row in range(self.network.num_styles)]
        network = build_network(self.network.net, len(styles), self.network.fusion, "instance")
        # Rows of styles are named by their numbers, everything else by what it is.
        common = {k: v for k, v in self.network.state_dict().items() if not k.rpartition(".")[2].isdigit()}
        network.load_state_dict(common, strict=False)
        for number, style in enumerate(styles):
            condition = self.condition(mean_grams(style))[0]
            for place, row in enumerate(network.style_parameters(number)):
                row.copy_(torch.tensordot(condition, torch.stack([own[place] for own in rows]), dims=1))
        return network.eval()


def mean_grams(style: StyleTarget) -> dict[str, Tensor]:
    """Return a style's Gram matrices ``(1, C, C)`` by layer, the mean of its members'."""
    return {layer: grams.mean(0, keepdim=True) for layer, grams in style.grams.items()}
