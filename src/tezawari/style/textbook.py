"""The network and the loss that textbooks teach, written plainly: what our own are measured beside.

One network a style, of the shape of Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and
Super-Resolution" (ECCV 2016, supplementary table 1), with the changes that have become usual since.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tezawari.features.vgg import VggTrunk
from tezawari.style.loss import PerceptualLoss, PerceptualLosses, content_distance, gram_distance, total_variation

Upsampling = Literal["transposed", "resize"]


class TextbookNetwork(nn.Module):
    """Restyle a photo in the one style it was trained on: 1,679,235 parameters, 32-64-128 channels, 9×9 at both ends.

    Differs from the paper: instance normalisation with scale and shift instead of batch normalisation (Ulyanov et al.,
    2017); every convolution keeps its input's size by reflection, where the paper pads the photo once by 40 pixels.

    Args:
        upsampling: ``transposed``, the paper's 3×3 transposed convolutions of stride 2, or ``resize``, nearest
            neighbours ×2 and then a 3×3 convolution (Odena et al., 2016), which draws no checkerboard.
    """

    def __init__(self, upsampling: Upsampling = "transposed") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(_conv(3, 32, 9), 32),
            *_block(_conv(32, 64, 3, stride=2), 64),
            *_block(_conv(64, 128, 3, stride=2), 128),
            *(TextbookResidual(128) for _ in range(5)),
            *_block(_doubling(128, 64, upsampling), 64),
            *_block(_doubling(64, 32, upsampling), 32),
            _conv(32, 3, 9),
            nn.Tanh(),
        )

    def forward(self, content_image: Tensor) -> Tensor:
        """Restyle ``(B, 3, H, W)`` RGB in [0, 1], H and W multiples of 4 from 20 up; same shape and range."""
        return (self.layers(content_image * 2 - 1) + 1) / 2


class TextbookResidual(nn.Module):
    """Two 3×3 convolutions, normalised, added to their input; no activation after the sum (Gross & Wilber, 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_block(_conv(channels, channels, 3), channels),
            _conv(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return features + self.layers(features)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, padding_mode="reflect")


def _block(conv: nn.Module, channels: int) -> tuple[nn.Module, ...]:
    return conv, nn.InstanceNorm2d(channels, affine=True), nn.ReLU(inplace=True)


def _doubling(inputs: int, outputs: int, upsampling: Upsampling) -> nn.Module:
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _conv(inputs, outputs, 3))


class TextbookLoss(PerceptualLoss):
    """The values of :class:`PerceptualLoss` computed as example code does; only for VGG and its rectified layers.

    Convolutions are ``nn.Conv2d`` and rectified in place; all layers are computed for the photo too, though its content
    is compared at one of them; Gram matrices are products of maps laid out plane by plane.
    """

    def forward(self, stylized: Tensor, content_image: Tensor, style: Tensor) -> PerceptualLosses:
        """Compute the three losses of each image; arguments as of :class:`PerceptualLoss`."""
        with torch.no_grad():
            content = self._features(content_image)
        features = self._features(stylized)
        content_losses = [content_distance(features[layer], content[layer]) for layer in self.content_layers]
        style_losses = [
            gram_distance(_gram_of_planes(features[layer]), self.target_grams(layer)[style])
            for layer in self.style_layers
        ]
        return PerceptualLosses(
            torch.stack(content_losses).mean(0), torch.stack(style_losses).mean(0), total_variation(stylized)
        )

    def _features(self, image: Tensor) -> dict[str, Tensor]:
        vgg = self.backbone.trunk
        assert isinstance(vgg, VggTrunk)
        found: dict[str, Tensor] = {}
        features = (image - vgg.mean) / vgg.std
        for (stage, number), conv in zip(vgg.positions, vgg.convs()):
            if number == 1 and stage > 1:
                features = nn.functional.max_pool2d(features, 2)
            features = nn.functional.relu(conv(features), inplace=True)
            if (layer := f"relu{stage}_{number}") in vgg.layers:
                found[layer] = features
        return found


def _gram_of_planes(features: Tensor) -> Tensor:
    """Return the Gram matrices ``(B, C, C)`` of ``(B, C, H, W)``, divided by height × width."""
    planes = features.flatten(2)
    return torch.bmm(planes, planes.transpose(1, 2)) / planes.shape[2]
