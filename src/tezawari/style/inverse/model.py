"""The network that undoes a transform, what its answer means, and the loss that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tezawari.features.backbone import Backbone
from tezawari.style.color import lab_to_rgb, rgb_to_lab
from tezawari.style.inverse.transforms import Task
from tezawari.style.loss import content_distance
from tezawari.style.network import ConditionalNetwork, Net, build_network

CHROMA_RANGE = 110.0
"""The a and b of Lab that the network can answer lie between minus this and this: all of sRGB."""
_CHARBONNIER = 1e-3
# Lightness, of 100, that a colour may lose by the clamping to sRGB before it counts as one that sRGB cannot show.
_LIGHTNESS_TOLERANCE = 0.02
_GAMUT_STEPS = 12


def build_inverse_network(net: Net) -> ConditionalNetwork:
    """Build the multi-style network's encoder-decoder for an inverse; its one condition is the level's share.

    The condition enters as a style does (METHODS §6), so a network asked at the level 0 has none. The last layer
    starts at zero, so that an untrained network gives the start back. [ours]
    """
    network = build_network(net, num_styles=1)
    nn.init.zeros_(network.to_rgb.weight)
    assert network.to_rgb.bias is not None
    nn.init.zeros_(network.to_rgb.bias)
    return network


def restored(task: Task, start: Tensor, answer: Tensor) -> Tensor:
    """Return the picture that the network's answer stands for, differentiable in the answer.

    For ``superres`` and ``denoise`` the answer is the difference from the start [ours], and the picture may leave
    [0, 1]; for ``colorize`` it is the a and b of Lab beside the start's L (its first channel is not used), and what
    sRGB cannot show is clamped.

    Args:
        task: the inverse.
        start: ``(…, 3, H, W)`` in [0, 1], see :meth:`tezawari.style.inverse.transforms.ForwardTransform.start`.
        answer: what the network gave for the degraded photo, of its shape and in [0, 1]; 1/2 stands for zero.
    """
    if task != "colorize":
        return start + _signed(answer)
    lab = _colored(start, answer)
    if lab.requires_grad:
        # Where a channel is clamped to no light, the transfer curve's infinite slope times none is not a number.
        lab.register_hook(lambda gradient: gradient.where(gradient.isfinite(), 0))
    return lab_to_rgb(lab)


@torch.no_grad()
def finished(task: Task, start: Tensor, answer: Tensor) -> Tensor:
    """Return the picture in [0, 1] that a user gets; arguments as of :func:`restored`.

    ``colorize`` keeps the start's lightness: colours that sRGB cannot show at it are made paler.
    """
    if task != "colorize":
        return restored(task, start, answer).clamp_(0, 1)
    return lab_to_rgb(within_gamut(_colored(start, answer)))


def _signed(answer: Tensor) -> Tensor:
    return answer * 2 - 1


def _colored(start: Tensor, answer: Tensor) -> Tensor:
    lightness = rgb_to_lab(start)[..., :1, :, :]
    return torch.cat([lightness, CHROMA_RANGE * _signed(answer)[..., 1:, :, :].to(lightness)], dim=-3)


def within_gamut(lab: Tensor) -> Tensor:
    """Scale the a and b of colours that sRGB cannot show towards grey until it can, lightness and hue kept.

    ``lab`` is ``(…, 3, H, W)``, L in [0, 100]; the answer has its shape. Found by bisection, pixel by pixel. [ours]
    """
    outside = _loses_lightness(lab)
    if not bool(outside.any()):
        return lab
    pixels = lab.movedim(-3, 0)[:, outside][..., None]  # (3, N, 1)
    share, step = torch.zeros_like(pixels[0]), 0.5
    for _ in range(_GAMUT_STEPS):
        tried = share + step
        share = torch.where(_loses_lightness(_paler(pixels, tried)), share, tried)
        step /= 2
    inside = lab.movedim(-3, 0).clone()
    inside[:, outside] = _paler(pixels, share)[..., 0]
    return inside.movedim(0, -3)


def _paler(lab: Tensor, share: Tensor) -> Tensor:
    return torch.cat([lab[:1], lab[1:] * share])


def _loses_lightness(lab: Tensor) -> Tensor:
    shown = rgb_to_lab(lab_to_rgb(lab))
    return (shown - lab)[..., 0, :, :].abs() > _LIGHTNESS_TOLERANCE


class RestorationLosses(NamedTuple):
    """What the loss of each image of a batch is made of; every tensor is ``(B,)`` and non-negative."""

    pixel: Tensor
    perceptual: Tensor
    """0 where no backbone was given."""


def charbonnier(difference: Tensor) -> Tensor:
    """Return the mean of √(d² + ε²) − ε over the pixels of ``(B, C, H, W)``, ``(B,)``: L1 with a rounded tip.

    Charbonnier et al. (ICIP 1994), as Lai et al. (CVPR 2017) use it, ε = 1e-3.
    """
    return ((difference.square() + _CHARBONNIER**2).sqrt() - _CHARBONNIER).mean((1, 2, 3))


def restoration_losses(
    task: Task,
    start: Tensor,
    answer: Tensor,
    truth: Tensor,
    backbone: Backbone | None = None,
    layers: Sequence[str] = (),
) -> RestorationLosses:
    """Compare what the network's answer stands for with the true photo.

    The pixel loss is Charbonnier's over RGB in [0, 1], and for ``colorize`` over a and b in units of
    :data:`CHROMA_RANGE`, since L is given. The perceptual loss is the mean over ``layers`` of the features' relative
    squared distance (Johnson et al., ECCV 2016, eq. 2, over the target's norm).

    Args:
        task: the inverse.
        start: ``(B, 3, H, W)`` in [0, 1], what the answer begins at.
        answer: what the network gave for the degraded photo, with gradient.
        truth: ``(B, 3, H, W)`` in [0, 1], what it was degraded from.
        backbone: the frozen loss network, loaded with ``layers``; None for the pixel loss alone.
        layers: the layers at which the pictures are compared.
    """
    picture = restored(task, start, answer)
    if task == "colorize":
        pixel = charbonnier(_signed(answer)[:, 1:] - rgb_to_lab(truth)[:, 1:] / CHROMA_RANGE)
    else:
        pixel = charbonnier(picture - truth)
    if backbone is None:
        return RestorationLosses(pixel, torch.zeros_like(pixel))
    return RestorationLosses(pixel, perceptual_distance(backbone, layers, picture, truth))


def perceptual_distance(backbone: Backbone, layers: Sequence[str], image: Tensor, truth: Tensor) -> Tensor:
    """Return the mean over ``layers`` of the features' relative squared distance, ``(B,)``, 0 for equal images.

    ``image`` and ``truth`` are ``(B, 3, H, W)`` RGB in [0, 1]; gradients flow to ``image``.
    """
    with torch.no_grad():
        targets = backbone(truth, layers)
    features = backbone(image, layers)
    return torch.stack([content_distance(features[layer], targets[layer]) for layer in layers]).mean(0)
