"""DCSM as METHODS §3 writes it down, loop in loop: what the fast one is tested and timed against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.core.errors import UserError
from tezawari.features.vgg import VggTrunk
from tezawari.segmentation.guided import guided
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.saliency import DCSM_SCALES

_MEAN = (0.485, 0.456, 0.406)


def compared_convolutions(network: SaliencyNetwork) -> list[nn.Module]:
    """Return the convolutions at whose inputs gradients are compared: conv3_1 … conv5_3 of VGG16, and the first ones of
    EfficientNet-Lite0's last ten blocks. Raises :class:`UserError` for another backbone or layer.
    """
    modules = dict(network.trunk.named_modules())
    if network.backbone == "vgg16" and network.layer == "relu5_3":
        return [modules[f"features.{i}"] for i in (10, 12, 14, 17, 19, 21, 24, 26, 28)]
    if network.backbone == "efficientnet_lite0" and network.layer == "block15_out":
        return [modules[f"blocks.{i}.first"] for i in range(6, 16)]
    raise UserError("the naive DCSM knows vgg16 and efficientnet_lite0, classified at their deepest layers")


@torch.enable_grad()
def naive_dcsm(
    network: SaliencyNetwork,
    image: Tensor,
    image_labels: Tensor | None = None,
    scales: Sequence[float] = DCSM_SCALES,
) -> Tensor:
    """Return the maps (K, H, W) in [0, 1] of one image (3, H, W): two passes back for every scale, class, competitor
    and layer. Arguments as in :func:`tezawari.segmentation.saliency.saliency_maps`; ``image_labels`` is (K,).
    """
    convolutions = compared_convolutions(network)
    height, width = image.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = image.new_tensor(_MEAN).view(3, 1, 1).repeat(1, side, side)
    canvas[:, top : top + height, left : left + width] = image
    inputs: dict[nn.Module, Tensor] = {}
    hooks = [
        convolution.register_forward_pre_hook(lambda module, args: inputs.update({module: args[0]}))
        for convolution in convolutions
    ]
    recorded = []
    fast = isinstance(network.trunk, VggTrunk) and network.trunk.fast_convolutions
    try:
        _convolve_fast(network, False)  # it calls no module, so no hook
        for scale in scales:
            length = max(round(scale * side), network.stride)
            seen = canvas[None]
            if length != side:
                seen = F.interpolate(seen, (length, length), mode="bilinear", antialias=True)
            with torch.enable_grad(), guided():
                class_maps = network.class_maps(seen.requires_grad_())[0]
            recorded.append((class_maps, [inputs[convolution] for convolution in convolutions]))
    finally:
        _convolve_fast(network, fast)
        for hook in hooks:
            hook.remove()

    probabilities = torch.stack([network.pool(class_maps[None])[0] for class_maps, _ in recorded]).detach().sigmoid()
    active = probabilities > 0.5
    if image_labels is not None:
        active = image_labels.bool().expand(len(scales), -1)
    elif not active.any():
        active[:, int(probabilities.amax(0).argmax())] = True
    candidates = [c for c in range(network.num_classes) if active[:, c].any()]
    compared = list(candidates)
    for c in probabilities.sum(0).argsort(descending=True, stable=True).tolist():
        if len(compared) < 4 and c not in compared:
            compared.append(c)

    maps = image.new_zeros(network.num_classes, height, width)
    for c in candidates:
        total = image.new_zeros(side, side)
        for scale_active, (class_maps, layers) in zip(active[:, c].tolist(), recorded):
            for other in [o for o in compared if o != c and scale_active]:
                for layer in layers:
                    m_c = _canvas_gradient(class_maps[c], layer, side)
                    m_other = _canvas_gradient(class_maps[other], layer, side)
                    difference = m_c - m_other
                    if difference.max() > 0:
                        total += torch.tanh(3 * difference / difference.max()).clamp(min=0)
        if total.max() > 0:
            maps[c] = torch.tanh(3 * total / total.max())[top : top + height, left : left + width]
    return maps


def _convolve_fast(network: SaliencyNetwork, fast: bool) -> None:
    if isinstance(network.trunk, VggTrunk):
        network.trunk.fast_convolutions = fast


def _canvas_gradient(class_map: Tensor, layer: Tensor, side: int) -> Tensor:
    (gradient,) = torch.autograd.grad(class_map.sum(), layer, retain_graph=True)
    largest = gradient.abs().amax(1, keepdim=True)
    return F.interpolate(largest, (side, side), mode="bilinear", align_corners=False)[0, 0]
