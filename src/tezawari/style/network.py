"""The conditional encoder-decoder: one network, many styles, mixed and painted region by region.

Yanai and Tanno, "Conditional Fast Style Transfer Network" (ICMR 2017), whose sizes are those of their public mobile
application, and the same condition on the widths of Johnson et al. (ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Net = Literal["deepstylecam", "johnson", "swift"]
Fusion = Literal["concat", "cin"]
Norm = Literal["batch", "instance", "settled"]


@dataclass(frozen=True)
class _Shape:
    """The sizes of an encoder-decoder: each of ``widths`` at half the size before.

    The first is at full size, or with ``cell`` of 2 at half of it: then the first convolution halves as well, and the
    last gives each pixel's colour for the four pixels of a cell. ``inner`` is the width within a residual block of
    1×1, 3×3 and 1×1 convolutions; without it, it has two of 3×3.
    """

    widths: tuple[int, ...]
    outer_kernel: int
    down_kernel: int
    residual_blocks: int
    cell: Literal[1, 2] = 1
    inner: int | None = None
    activation: type[nn.Module] = nn.ELU


_SHAPES: dict[str, _Shape] = {
    "deepstylecam": _Shape(widths=(16, 32, 64, 128), outer_kernel=5, down_kernel=4, residual_blocks=3),
    "johnson": _Shape(widths=(32, 64, 128), outer_kernel=9, down_kernel=3, residual_blocks=5),
    # A third of deepstylecam's operations, none of them at full size, where few channels leave a processor waiting for
    # memory; residual blocks as of He et al. (2016), fig. 5 right. [ours]
    "swift": _Shape(
        widths=(24, 48, 128),
        outer_kernel=3,
        down_kernel=4,
        residual_blocks=3,
        cell=2,
        inner=64,
        activation=nn.ReLU,
    ),
}


# Added to a variance before its root is divided by, as PyTorch's own normalisations do.
_EPSILON = 1e-5
# What one more image leaves of a style's running moments.
_MEMORY = 0.9


def condition_at(style: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a condition to ``size``.

    Args:
        style: ``(B, S)`` weights, or a ``(B, S, h, w)`` map of weights at any resolution.
        size: the ``(height, width)`` of the features that it conditions.

    Returns:
        ``(B, S, 1, 1)`` for weights, ``(B, S, height, width)`` for a map, each cell the mean of what it covers.
    """
    if style.dim() == 2:
        return style[:, :, None, None]
    return F.interpolate(style, tuple(size), mode="area")


def shares(style: Tensor) -> Tensor:
    """Divide weights ``(B, S)`` or ``(B, S, h, w)`` by their sum over styles; where that is 0, all get equal shares.

    A scale that grew with the sum of the weights would grow with its power over the layers.
    """
    total = style.sum(1, keepdim=True)
    return torch.where(total > 0, style / total.clamp_min(1e-12), torch.full_like(style, 1 / style.shape[1]))


def map_cells(style_map: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Average a style map over the cells of the bottleneck.

    Args:
        style_map: ``(B, S, h, w)`` of any resolution, over a photo of ``height`` × ``width`` pixels.
        height: the photo's height.
        width: the photo's width.
        stride: side of a cell in pixels.

    Returns:
        ``(B, S, ⌈height / stride⌉, ⌈width / stride⌉)``; a map that has this size already is returned as it is.
    """
    if style_map.shape[-2:] == (-(-height // stride), -(-width // stride)):
        return style_map
    if style_map.shape[-2:] != (height, width):
        style_map = F.interpolate(style_map, (height, width), mode="area")
    below, right = -height % stride, -width % stride
    return F.avg_pool2d(F.pad(style_map, (0, right, 0, below), mode="replicate"), stride)


def fit_to_cells(content_image: Tensor, style: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Pad photos ``(B, 3, H, W)`` below and right, by reflection, to whole cells of the bottleneck's ``stride``.

    Style weights ``(B, S)`` come back as they are, a style map ``(B, S, h, w)`` as one value a cell.
    """
    height, width = content_image.shape[-2:]
    below, right = -height % stride, -width % stride
    if below or right:
        content_image = F.pad(content_image, (0, right, 0, below), mode="reflect")
    return content_image, map_cells(style, height, width, stride) if style.dim() == 4 else style


def _mix(style: Tensor, rows: Tensor) -> Tensor:
    """Mix one row a style, ``rows`` ``(S, C)``, by a condition ``(B, S, h, w)``; returns ``(B, C, h, w)``."""
    if style.shape[-2:] == (1, 1):
        return (style.flatten(1) @ rows)[:, :, None, None]
    return torch.einsum("bshw,sc->bchw", style, rows)


class Normalization(nn.Module):
    """Normalisation without parameters of its own, or, with ``num_styles``, with a scale and shift for each style.

    ``batch`` uses the batch's moments in training and their running mean after; ``instance`` uses each image's own.
    The conditional form is Dumoulin et al. (ICLR 2017), eq. 5: instance moments, then the style's scale and shift.

    ``settled``, which is always conditional, is ``instance`` while it trains, and after that uses the running mean of
    what each style's moments were. Inside a trained network they hardly differ between photos, but much between styles.
    Of a mix, the shares count, not the sum. It learns as fast as ``instance``; afterwards a picture no longer depends
    on what else the photo shows, tiles are exact, and the network can be exported. [ours]
    """

    style_mean: Tensor
    style_variance: Tensor

    def __init__(self, channels: int, norm: Norm, num_styles: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.batch = nn.BatchNorm2d(channels, affine=False) if norm == "batch" else None
        self.moments: tuple[Tensor, Tensor] | None = None
        self.recording = False
        self.scale_shift = nn.ParameterList([_neutral_scale_shift(channels) for _ in range(num_styles)])
        self.settles = norm == "settled"
        if self.settles:
            self.register_buffer("style_mean", torch.zeros(num_styles, channels))
            self.register_buffer("style_variance", torch.ones(num_styles, channels))

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` under a condition ``(B, S)`` or ``(B, S, h, w)``."""
        if self.settles:
            style = shares(style)
            if self.training:
                return self._by_own_moments(features, style)
            scale, shift = self._mixed(self.settled_rows(), features, style)
            return features * scale + shift
        normalized = self.batch(features) if self.batch is not None else self._by_instance(features)
        if not len(self.scale_shift):
            return normalized
        scale, shift = self._mixed(torch.stack(list(self.scale_shift)), features, style)
        return normalized * scale + shift

    def _by_own_moments(self, features: Tensor, style: Tensor) -> Tensor:
        """Normalise each image, scale and shift it, in one pass, and follow what its moments were.

        PyTorch's own instance normalisation takes several, and lays channels-last maps out anew on the way.
        """
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        variance, mean = torch.var_mean(exact, (2, 3), correction=0, keepdim=True)
        self._follow(variance.detach().flatten(1), mean.detach().flatten(1), style)
        scale, shift = self._mixed(torch.stack(list(self.scale_shift)), features, style)
        scale = scale * (variance + _EPSILON).rsqrt()
        shift = shift - mean * scale
        return torch.addcmul(shift.to(features.dtype), features, scale.to(features.dtype))

    @staticmethod
    def _mixed(rows: Tensor, features: Tensor, style: Tensor) -> tuple[Tensor, ...]:
        """Return scale and shift, from ``rows`` ``(S, 2, C)``, at the features' places."""
        return _mix(condition_at(style, features.shape[-2:]), rows.flatten(1)).chunk(2, dim=1)

    def settled_rows(self) -> Tensor:
        """Return ``(S, 2, C)``: what each style scales features by and adds to them, its moments included."""
        scale, shift = torch.stack(list(self.scale_shift)).unbind(1)
        scale = scale * (self.style_variance + _EPSILON).rsqrt()
        return torch.stack([scale, shift - scale * self.style_mean], dim=1)

    @torch.no_grad()
    def _follow(self, variance: Tensor, mean: Tensor, style: Tensor) -> None:
        """Move each style's running moments towards those ``(B, C)`` of the images that ask for it."""
        asked = style.flatten(2).mean(2) if style.dim() == 4 else style
        count = asked.sum(0)[:, None]
        parts = (asked / count.T.clamp_min(1e-6)).T  # (S, B)
        rate = 1 - _MEMORY**count
        self.style_mean += rate * (parts.to(mean) @ mean - self.style_mean)
        self.style_variance += rate * (parts.to(mean) @ variance - self.style_variance)

    def add_styles(self, count: int) -> None:
        """Add ``count`` styles, each starting as the mean of those there."""
        _extend_by_mean(self.scale_shift, count)
        if self.settles:
            for name in ("style_mean", "style_variance"):
                moments = getattr(self, name)
                setattr(self, name, torch.cat([moments, moments.mean(0, keepdim=True).expand(count, -1)]))

    def _by_instance(self, features: Tensor) -> Tensor:
        if self.recording:
            variance, mean = torch.var_mean(features, (0, 2, 3), correction=0)
            self.moments = mean, variance
        if self.moments is not None:
            return F.batch_norm(features, *self.moments)
        return F.instance_norm(features)


def _extend_by_mean(rows: nn.ParameterList, count: int) -> None:
    start = torch.stack([row.detach() for row in rows]).mean(0)
    rows.extend(nn.Parameter(start.clone()) for _ in range(count))


def _neutral_scale_shift(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.stack([torch.ones(channels), torch.zeros(channels)]))


class StyleFusion(nn.Module):
    """Concatenate the tiled condition to the bottleneck and fuse both by a 1×1 convolution back to its width.

    A 1×1 convolution of a concatenation is the sum of one over the features and one over the condition. Writing it so
    tiles nothing, and gives each style its own row, which is what makes a style something that can be added.
    """

    def __init__(self, channels: int, num_styles: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(channels, channels, 1)
        self.style_rows = nn.ParameterList([self._new_row() for _ in range(num_styles)])

    def _new_row(self) -> nn.Parameter:
        channels = self.features.out_channels
        return nn.Parameter(torch.randn(channels))

    def add_styles(self, count: int) -> None:
        """Add ``count`` styles, each starting as the mean of those there."""
        _extend_by_mean(self.style_rows, count)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Fuse ``(B, C, H, W)`` features with a condition ``(B, S)`` or ``(B, S, h, w)``."""
        rows = torch.stack(list(self.style_rows))
        return self.features(features) + _mix(condition_at(style, features.shape[-2:]), rows)


class ConvBlock(nn.Module):
    """A convolution, normalisation and, where asked, an activation."""

    def __init__(self, conv: nn.Conv2d, norm: Normalization, activation: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.activation = activation

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the convolution's output shape."""
        features = self.norm(self.conv(features), style)
        return features if self.activation is None else self.activation(features)


class ResidualBlock(nn.Module):
    """Convolutions added to their input: two of 3×3 (Johnson et al., supplement), or 1×1, 3×3 and 1×1."""

    def __init__(self, first: ConvBlock, second: ConvBlock, third: ConvBlock | None = None) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.third = third

    def blocks(self) -> list[ConvBlock]:
        """Return what is computed one after the other."""
        return [block for block in (self.first, self.second, self.third) if block is not None]

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        change = features
        for block in self.blocks():
            change = block(change, style)
        return features + change


class UpBlock(nn.Module):
    """Double the resolution: a 2×2 convolution to four times the channels, rearranged to twice the height and width.

    Padding one pixel on every side and cropping one after the rearrangement makes it the 4×4 transposed convolution
    of stride 2, with a bias for each of the four phases.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Normalization, activation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 2, padding=1)
        self.norm = norm
        self.activation = activation
        _start_phases_alike(self.conv)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C_out, 2H, 2W)``."""
        doubled = F.pixel_shuffle(self.conv(features), 2)[:, :, 1:-1, 1:-1]
        return self.activation(self.norm(doubled, style))


@torch.no_grad()
def _start_phases_alike(conv: nn.Conv2d) -> None:
    """Give the four phases of each output channel the same weights, so that training starts without a checkerboard.

    Aitken et al., "Checkerboard artifact free sub-pixel convolution" (2017).
    """
    assert conv.bias is not None
    conv.weight.copy_(conv.weight[::4].repeat_interleave(4, dim=0))
    conv.bias.copy_(conv.bias[::4].repeat_interleave(4))


class ConditionalNetwork(nn.Module):
    """Restyle a photo in any non-negative mix of the styles it was trained on, uniform or varying over the image.

    Sizes, layer order and the parameter count (1,250,835 with 13 styles, ``deepstylecam`` with ``concat``) are those
    of Yanai and Tanno's public application; the residual blocks follow the fusion.

    Differs from the paper: normalisation precedes the activation, so that it folds into the convolution exactly;
    ``cin`` replaces the fusion by conditional instance normalisation in every layer (Dumoulin et al., ICLR 2017).

    Args:
        net: ``deepstylecam``, ``johnson`` or ``swift``, which is ours and three times as fast as the first.
        num_styles: how many styles, at least one.
        fusion: ``concat`` or ``cin``.
        norm: ``batch``, ``instance`` or ``settled``; ``cin`` does not know ``batch``.

    Raises:
        ValueError: for an unknown ``net``, ``fusion`` or ``norm``, no style, or ``cin`` with ``batch``.
    """

    def __init__(self, net: Net, num_styles: int, fusion: Fusion = "concat", norm: Norm = "batch") -> None:
        super().__init__()
        if net not in _SHAPES or fusion not in ("concat", "cin") or norm not in get_args(Norm):
            raise ValueError(f"unknown network: net={net}, fusion={fusion}, norm={norm}")
        if num_styles < 1:
            raise ValueError("a conditional network needs at least one style")
        if fusion == "cin" and norm == "batch":
            raise ValueError("fusion=cin conditions instance moments: use norm=instance or settled")
        self.net, self.fusion, self.norm, self.num_styles = net, fusion, norm, num_styles
        shape = _SHAPES[net]
        widths, kernel, down = shape.widths, shape.outer_kernel, shape.down_kernel
        self.cell, self.active = shape.cell, shape.activation()
        self.bottleneck_stride = shape.cell * 2 ** (len(widths) - 1)
        self.receptive_radius = _receptive_radius(shape)

        def normalization(channels: int) -> Normalization:
            return Normalization(channels, norm, num_styles if fusion == "cin" or norm == "settled" else 0)

        def block(inputs: int, outputs: int, size: int, stride: int = 1, active: bool = True) -> ConvBlock:
            conv = nn.Conv2d(inputs, outputs, size, stride, padding=(size - 1) // 2)
            return ConvBlock(conv, normalization(outputs), shape.activation() if active else None)

        def residual(width: int) -> ResidualBlock:
            if shape.inner is None:
                return ResidualBlock(block(width, width, 3), block(width, width, 3, active=False))
            inner = shape.inner
            return ResidualBlock(block(width, inner, 1), block(inner, inner, 3), block(inner, width, 1, active=False))

        halves_at_once = shape.cell == 2
        self.encoder = nn.ModuleList([block(3, widths[0], down if halves_at_once else kernel, stride=shape.cell)])
        self.encoder.extend(block(a, b, down, stride=2) for a, b in pairwise(widths))
        self.style_fusion = StyleFusion(widths[-1], num_styles) if fusion == "concat" else None
        self.residuals = nn.ModuleList(residual(widths[-1]) for _ in range(shape.residual_blocks))
        outward = widths[::-1]
        self.decoder = nn.ModuleList(UpBlock(a, b, normalization(b), shape.activation()) for a, b in pairwise(outward))
        self.to_rgb = nn.Conv2d(widths[0], 3 * shape.cell**2, kernel, padding=kernel // 2)
        if halves_at_once:
            _start_phases_alike(self.to_rgb)

    def forward(self, content_image: Tensor, style: Tensor) -> Tensor:
        """Restyle photos.

        Args:
            content_image: ``(B, 3, H, W)`` RGB in [0, 1], any height and width of at least 16 pixels.
            style: style weights ``(B, S)``, or a style map ``(B, S, h, w)`` of any resolution, non-negative.

        Returns:
            ``(B, 3, H, W)`` RGB in [0, 1].
        """
        height, width = content_image.shape[-2:]
        content_image, style = fit_to_cells(content_image, style, self.bottleneck_stride)
        features = content_image * 2 - 1
        for layer in self.encoder:
            features = layer(features, style)
        if self.style_fusion is not None:
            features = self.active(self.style_fusion(features, style))
        for layer in self.residuals:
            features = layer(features, style)
        for layer in self.decoder:
            features = layer(features, style)
        stylized = F.pixel_shuffle((torch.tanh(self.to_rgb(features)) + 1) / 2, self.cell)
        return stylized[..., :height, :width]

    def style_parameters(self, index: int) -> list[nn.Parameter]:
        """Return what belongs to style ``index`` alone: its row of the fusion, its scales and shifts."""
        return [rows[index] for rows in self._style_lists()]

    def _style_lists(self) -> list[nn.ParameterList]:
        fusion = [] if self.style_fusion is None else [self.style_fusion.style_rows]
        return fusion + [module.scale_shift for module in self._normalizations() if len(module.scale_shift)]

    def _normalizations(self) -> list[Normalization]:
        return [module for module in self.modules() if isinstance(module, Normalization)]

    def add_styles(self, count: int) -> None:
        """Add ``count`` styles, each starting as the mean of those there; what is there is not touched."""
        if self.style_fusion is not None:
            self.style_fusion.add_styles(count)
        for module in self._normalizations():
            if len(module.scale_shift):
                module.add_styles(count)
        self.num_styles += count

    def train_only_styles(self, indices: Sequence[int]) -> None:
        """Freeze everything, running moments included, but what belongs to the styles at ``indices``."""
        self.requires_grad_(False)
        for index in indices:
            for parameter in self.style_parameters(index):
                parameter.requires_grad_(True)
        self.freeze_moments()

    def freeze_moments(self) -> None:
        """Normalise by the running moments from now on, also in training (until the next ``train()``)."""
        for module in self._normalizations():
            module.eval()

    @contextmanager
    def moments_of(self, content_image: Tensor, style: Tensor) -> Iterator[None]:
        """Within the block, normalise instances by the moments of this image rather than by each input's own.

        The tiles of a large photo then agree with each other. Moments that are constants need none of it.
        """
        instances = self._normalizations() if self.norm == "instance" else []
        try:
            for module in instances:
                module.recording = True
            if instances:
                with torch.no_grad():
                    self(content_image, style)
            for module in instances:
                module.recording = False
            yield
        finally:
            for module in instances:
                module.recording, module.moments = False, None

    @torch.no_grad()
    def fold_normalization(self) -> ConditionalNetwork:
        """Fold batch normalisation into the convolutions, in place, for use after training; returns the network.

        Instance moments depend on the image and stay. The folded network gives what ``eval()`` gave, to rounding.
        """
        for module in self.modules():
            if isinstance(module, ConvBlock | UpBlock) and isinstance(module.norm.batch, nn.BatchNorm2d):
                _fold_into(module.conv, module.norm.batch)
                module.norm.batch = nn.Identity()  # type: ignore[assignment]
        return self


@torch.no_grad()
def settle(network: ConditionalNetwork) -> ConditionalNetwork:
    """Return the same function of photo and style weights that sum to one, with ``norm=settled``.

    Each style gets the moments of all. Trained further, styles then differ by a scale and a shift in every layer as
    well, not by the fusion alone.

    Raises:
        ValueError: for a network whose normalisation is not ``batch``.
    """
    if network.norm != "batch":
        raise ValueError(f"norm={network.norm}: only the running moments of norm=batch can be given to each style")
    settled = build_network(network.net, network.num_styles, network.fusion, "settled")
    settled.load_state_dict(network.state_dict(), strict=False)  # all but the normalisations, whose moments follow
    for old, new in zip(network._normalizations(), settled._normalizations()):
        assert old.batch is not None
        assert old.batch.running_mean is not None
        assert old.batch.running_var is not None
        new.style_mean[:] = old.batch.running_mean
        new.style_variance[:] = old.batch.running_var
    return settled


def _fold_into(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale and shift ``conv`` so that it gives what ``norm`` made of it; four phases share a channel's moments."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    phases = conv.out_channels // norm.num_features
    scale = (norm.running_var + norm.eps).rsqrt().repeat_interleave(phases)
    conv.weight.mul_(scale[:, None, None, None])
    conv.bias.sub_(norm.running_mean.repeat_interleave(phases)).mul_(scale)


def _receptive_radius(shape: _Shape) -> int:
    """How far, in pixels and rounded up, an output pixel sees into the photo (what a tile must overlap by)."""
    levels = len(shape.widths) - 1
    first_kernel = shape.outer_kernel if shape.cell == 1 else shape.down_kernel
    radius = first_kernel // 2 + shape.cell * (shape.outer_kernel // 2) + shape.cell - 1
    for level in range(levels):
        radius += shape.cell * 2**level * (shape.down_kernel // 2)  # encoder, at the finer side
        radius += shape.cell * 2 ** (level + 1)  # decoder, one cell of the coarser side
    steps = 2 if shape.inner is None else 1  # of 3×3 in a block
    return radius + shape.cell * 2**levels * steps * shape.residual_blocks


def build_network(net: Net, num_styles: int, fusion: Fusion = "concat", norm: Norm = "batch") -> ConditionalNetwork:
    """Build an untrained :class:`ConditionalNetwork` laid out channels-last, which is faster on CPUs."""
    network = ConditionalNetwork(net, num_styles, fusion, norm)
    return network.to(memory_format=torch.channels_last)
