"""A trained network rearranged for use: the same function of photo and style, computed with less traffic of memory.

Only for normalisation whose moments are constants after training, ``batch`` and ``settled``. Beside folding them into
the convolutions:

- The channels before each rearrangement are ordered phase first, so that pixels move as whole vectors. The border that
  the original crops is set to zero instead, and serves as the padding of the next convolution.
- The last rearrangement does not happen at all. The features stay at half size, the four phases side by side, and the
  last convolution computes the four phases of the picture: 12 output channels where 3 leave vector units idle. Not for
  ``swift``, whose features end at half size.
- Compiled, ELU is max(x, 0) + exp(min(x, 0)) − 1, which has a vector form where expm1 has a slow one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.export.onnx import Exported, export_onnx
from tezawari.style.network import (
    ConditionalNetwork,
    ConvBlock,
    Normalization,
    ResidualBlock,
    UpBlock,
    condition_at,
    fit_to_cells,
    shares,
)

_PHASES = 2


class _Layer(nn.Module):
    """A convolution and, where the normalisation is the style's, that style's scale and shift.

    Args:
        conv: the convolution.
        rows: each style's scale and shift ``(S, 2, C)``, or None.
        folds: whether to scale the weights rather than what they give, where one style is asked of one photo.
        phase_order: where channel × phase is found among the convolution's outputs, if it doubles the resolution.
    """

    rows: Tensor | None

    def __init__(self, conv: nn.Conv2d, rows: Tensor | None, folds: bool, phase_order: Tensor | None = None) -> None:
        super().__init__()
        self.conv, self.folds, self.phase_order = conv, folds, phase_order
        self.register_buffer("rows", rows)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` under shares of styles ``(B, S)`` or a map of them ``(B, S, h, w)``."""
        rows, conv = self.rows, self.conv
        if rows is None:
            return conv(features)
        if style.dim() == 2:
            assert conv.bias is not None
            scale, shift = map(self._reordered, (style @ rows.flatten(1)).chunk(2, 1))
            shift = conv.bias * scale + shift
            if self.folds and len(style) == 1:
                return F.conv2d(
                    features, conv.weight * scale[0, :, None, None, None], shift[0], conv.stride, conv.padding
                )
            features = F.conv2d(features, conv.weight, None, conv.stride, conv.padding)
            return features * scale[..., None, None] + shift[..., None, None]
        features = conv(features)
        scale, shift = torch.einsum("bshw,skc->kbchw", self._at_outputs(style, *features.shape[-2:]), rows)
        if self.phase_order is not None:
            scale, shift = (F.pixel_unshuffle(part, _PHASES)[:, self.phase_order] for part in (scale, shift))
        return torch.addcmul(shift, features, scale)

    def _reordered(self, channels: Tensor) -> Tensor:
        """Repeat ``(B, C)`` for the phases of a doubling, in their order."""
        if self.phase_order is None:
            return channels
        return channels[:, :, None].expand(-1, -1, _PHASES**2).flatten(1)[:, self.phase_order]

    def _at_outputs(self, style: Tensor, height: int, width: int) -> Tensor:
        """Return the condition at each pixel that the outputs stand for; of those the border is not of the photo."""
        if self.phase_order is None:
            return condition_at(style, (height, width))
        doubled = condition_at(style, (_PHASES * (height - 1), _PHASES * (width - 1)))
        return F.pad(doubled, (1, 1, 1, 1), mode="replicate")


def _settled_rows(norm: Normalization) -> Tensor | None:
    return norm.settled_rows().detach() if norm.settles else None


class DeployedNetwork(nn.Module):
    """What :class:`ConditionalNetwork` without instance moments computes in evaluation mode, faster, to rounding.

    Takes and returns what the original does, and has the attributes that tiling needs. The original is not changed.

    Raises:
        ValueError: for a network with instance normalisation, whose moments are each photo's own.
    """

    _folds_styles = True

    def __init__(self, network: ConditionalNetwork) -> None:
        super().__init__()
        if network.norm == "instance":
            raise ValueError("instance moments are not constant after training and cannot be folded")
        folded = copy.deepcopy(network).eval().fold_normalization()
        fusion = folded.style_fusion
        self.num_styles = network.num_styles
        self.bottleneck_stride = network.bottleneck_stride
        self.receptive_radius = network.receptive_radius
        self.encoder = nn.ModuleList(self._layer(block) for block in folded.encoder)
        self.fuse = None if fusion is None else fusion.features
        if fusion is not None:
            self.register_buffer("style_rows", torch.stack([row.detach() for row in fusion.style_rows]))
        self.residuals = nn.ModuleList(
            nn.ModuleList(self._layer(layer) for layer in block.blocks())
            for block in folded.residuals
            if isinstance(block, ResidualBlock)
        )
        # The first doubling pads; the border that it and the next ones leave is the padding of those after them.
        self.decoder = nn.ModuleList(self._doubling(block, i == 0) for i, block in enumerate(folded.decoder))
        self.rectifies = isinstance(network.active, nn.ReLU)
        self.ends_in_phases = network.cell == 1
        to_rgb, order = folded.to_rgb, self._phase_order(3)
        if self.ends_in_phases:
            self.to_rgb = _over_cells(to_rgb, self._phase_order(to_rgb.in_channels), order)
        else:
            assert to_rgb.bias is not None
            self.to_rgb = _conv(to_rgb.weight[order], to_rgb.bias[order], padding=0)
        self.requires_grad_(False)
        self.eval()
        self.to(memory_format=torch.channels_last)

    def forward(self, content_image: Tensor, style: Tensor) -> Tensor:
        """Restyle photos; arguments and result as of :meth:`ConditionalNetwork.forward`."""
        height, width = content_image.shape[-2:]
        content_image, style = fit_to_cells(content_image, style, self.bottleneck_stride)
        return self._restyle(content_image, style)[..., :height, :width]

    def _restyle(self, content_image: Tensor, style: Tensor) -> Tensor:
        features = (content_image * 2 - 1).contiguous(memory_format=torch.channels_last)
        own = shares(style)
        for layer in self.encoder:
            features = self._active(layer(features, own))
        if self.fuse is not None:
            condition = torch.einsum("bshw,sc->bchw", condition_at(style, features.shape[-2:]), self.style_rows)
            features = self._active(self.fuse(features) + condition)
        features = self._residual_blocks(features, own)
        *before, last = self.decoder
        for layer in before:
            features = self._clear_border(self._rearrange(self._active(layer(features, own))))
        features = self._active(last(features, own))
        if self.ends_in_phases:
            picture = self._rearrange(torch.tanh(self.to_rgb(self._clear_phases(features))))[..., 1:-1, 1:-1]
        else:
            picture = self._rearrange(torch.tanh(self.to_rgb(self._clear_border(self._rearrange(features)))))
        return (picture + 1) / 2

    def _residual_blocks(self, features: Tensor, style: Tensor) -> Tensor:
        for layers in self.residuals:
            assert isinstance(layers, nn.ModuleList)
            *before, last = layers
            change = features
            for layer in before:
                change = self._active(layer(change, style))
            features = features + last(change, style)
        return features

    def _active(self, features: Tensor) -> Tensor:
        return self._relu(features) if self.rectifies else self._elu(features)

    @contextmanager
    def moments_of(self, content_image: Tensor, style: Tensor) -> Iterator[None]:
        """Do nothing: folded moments are those of no image."""
        yield

    @staticmethod
    def _phase_order(channels: int) -> Tensor:
        """Where channel × phase ``(c, p)``, in the original's order, is found in ours: as (phase, channel)."""
        return torch.arange(channels * _PHASES**2).view(channels, -1).T.flatten()

    def _layer(self, block: nn.Module) -> _Layer:
        assert isinstance(block, ConvBlock)
        return _Layer(block.conv, _settled_rows(block.norm), self._folds_styles)

    def _doubling(self, block: nn.Module, padded: bool) -> _Layer:
        assert isinstance(block, UpBlock)
        old, order = block.conv, self._phase_order(block.conv.out_channels // _PHASES**2)
        assert old.bias is not None
        conv = _conv(old.weight[order], old.bias[order], padding=int(padded))
        return _Layer(conv, _settled_rows(block.norm), self._folds_styles, order)

    @staticmethod
    def _relu(features: Tensor) -> Tensor:
        return F.relu_(features)

    @staticmethod
    def _elu(features: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return features.clamp_min(0) + features.clamp_max(0).exp() - 1
        return F.elu_(features)

    @staticmethod
    def _rearrange(features: Tensor) -> Tensor:
        """Lay out the phases ``(B, 4C, h, w)`` as ``(B, C, 2h, 2w)``."""
        batch, _, height, width = features.shape
        cells = features.permute(0, 2, 3, 1).reshape(batch, height, width, _PHASES, -1)
        rows = cells.transpose(2, 3).reshape(batch, _PHASES * height, _PHASES * width, -1)
        return rows.permute(0, 3, 1, 2)

    @staticmethod
    def _clear_border(features: Tensor) -> Tensor:
        for edge in (features[:, :, 0], features[:, :, -1], features[..., 0], features[..., -1]):
            edge.zero_()
        return features

    @staticmethod
    def _clear_phases(features: Tensor) -> Tensor:
        """What :meth:`_clear_border` does, before the rearrangement."""
        phases = features.unflatten(1, (_PHASES, _PHASES, -1))
        for edge in (
            phases[:, 0, ..., 0, :],
            phases[:, 1, ..., -1, :],
            phases[:, :, 0, ..., 0],
            phases[:, :, 1, ..., -1],
        ):
            edge.zero_()
        return features


class ExportableNetwork(DeployedNetwork):
    """The same function in operations that runtimes run fast: one photo, sides multiples of ``bottleneck_stride``."""

    _folds_styles = False  # runtimes prepare weights that are constants

    def forward(self, content_image: Tensor, style: Tensor) -> Tensor:
        """Restyle one photo ``(1, 3, H, W)`` in [0, 1] by weights ``(1, S)``; same shape and range."""
        return self._restyle(content_image, style)

    @staticmethod
    def _phase_order(channels: int) -> Tensor:
        return torch.arange(channels * _PHASES**2)

    @staticmethod
    def _relu(features: Tensor) -> Tensor:
        return F.relu(features)

    @staticmethod
    def _elu(features: Tensor) -> Tensor:
        return F.elu(features)

    @staticmethod
    def _rearrange(features: Tensor) -> Tensor:
        return F.pixel_shuffle(features, _PHASES)

    @staticmethod
    def _clear_border(features: Tensor) -> Tensor:
        return features * _inside(features.shape[-2], features.shape[-1])

    @staticmethod
    def _clear_phases(features: Tensor) -> Tensor:
        _, channels, height, width = features.shape
        inside = F.pixel_unshuffle(_inside(_PHASES * height, _PHASES * width), _PHASES)
        return features * inside.repeat(1, channels // _PHASES**2, 1, 1)


def _inside(height: int, width: int) -> Tensor:
    """Return ones ``(1, 1, height, width)`` with a border of zeros."""
    return F.pad(torch.ones(1, 1, height - 2, width - 2), (1, 1, 1, 1))


def _conv(weight: Tensor, bias: Tensor, padding: int) -> nn.Conv2d:
    outputs, inputs, *size = weight.shape
    conv = nn.Conv2d(inputs, outputs, (size[0], size[1]), padding=padding)
    conv.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return conv


def _over_cells(conv: nn.Conv2d, input_order: Tensor, output_order: Tensor) -> nn.Conv2d:
    """Rewrite a convolution over pixels as one over cells of 2×2 pixels, whose phases are channels.

    Output phase q of cell i is pixel 2i + q; its tap t reads pixel 2i + q + t − k//2, that is phase p of cell i + d
    where 2d + p = q + t − k//2. The orders say where in (channel, phase) each channel of the result is.
    """
    size = conv.kernel_size[0]
    reach = (size // 2 + 1) // 2
    outputs, inputs = conv.out_channels, conv.in_channels
    weight = torch.zeros(outputs, _PHASES, _PHASES, inputs, _PHASES, _PHASES, 2 * reach + 1, 2 * reach + 1)
    places = [(q, t, *divmod(q + t - size // 2, _PHASES)) for q in range(_PHASES) for t in range(size)]
    for qy, ty, dy, py in places:
        for qx, tx, dx, px in places:
            weight[:, qy, qx, :, py, px, dy + reach, dx + reach] = conv.weight.detach()[:, :, ty, tx]
    assert conv.bias is not None
    over_cells = weight.reshape(_PHASES**2 * outputs, _PHASES**2 * inputs, *weight.shape[-2:])
    bias = conv.bias.repeat_interleave(_PHASES**2)
    return _conv(over_cells[output_order][:, input_order], bias[output_order], padding=reach)


def export_style_network(network: ConditionalNetwork, path: Path, side: int = 256) -> Exported:
    """Write ``network`` as an ONNX model of one photo, and compare it with PyTorch at ``side`` pixels.

    The model takes ``content_image`` ``(1, 3, H, W)`` in [0, 1], H and W multiples of 8 or (``johnson``) 4, and
    ``style_weights`` ``(1, S)``; it gives ``stylized``, of the photo's shape and range.

    Args:
        network: a trained network, but with instance normalisation.
        path: the file to write.
        side: side of the photo that the difference is measured on, such a multiple.

    Raises:
        UserError: when an optional package is missing or the file cannot be written.
        ValueError: for instance normalisation.
    """
    exportable = ExportableNetwork(network)
    generator = torch.Generator().manual_seed(0)
    photo = torch.rand(1, 3, side, side, generator=generator)
    weights = torch.rand(1, network.num_styles, generator=generator)
    rows, columns = (
        exportable.bottleneck_stride * torch.export.Dim(name, min=2, max=1024) for name in ("rows", "columns")
    )
    return export_onnx(
        exportable,
        {"content_image": photo, "style_weights": weights / weights.sum()},
        ["stylized"],
        path,
        dynamic=[{2: rows, 3: columns}, None],
        reference=copy.deepcopy(network).eval(),
    )
