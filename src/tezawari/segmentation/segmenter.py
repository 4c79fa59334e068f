"""The network that masks train: one class for every pixel, on any backbone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tezawari.features import efficientnet
from tezawari.features.backbone import available_layers
from tezawari.features.trainable import trainable_trunk
from tezawari.segmentation.network import SaliencyNetwork, class_head

_WIDTH = 128
_GROUPS = 8
_DILATIONS = (2, 4)
_LAYERS = {
    efficientnet.NAME: ("block4_out", "block10_out", "block15_out"),
    "vgg16": ("relu3_3", "relu4_3", "relu5_3"),
    "vgg19": ("relu3_4", "relu4_4", "relu5_4"),
}


def segmenter_layers(backbone: str) -> tuple[str, ...]:
    """Return the three layers, from fine to coarse, that a :class:`Segmenter` reads; the last three of a timm network.

    Raises :class:`~tezawari.core.errors.UserError` for an unknown backbone.
    """
    return _LAYERS[backbone] if backbone in _LAYERS else available_layers(backbone)[-3:]


class Segmenter(nn.Module):
    """Say of every pixel which class it shows.

    The coarsest layer passes a small pyramid of dilated convolutions and the average over the image, after DeepLab
    (Chen et al., "Rethinking atrous convolution", 2017); finer layers are added on the way up, after U-Net
    (Ronneberger et al., 2015). Group normalisation, so that a batch gives what single images give.

    To the classes' logits it adds coarse class maps, which :meth:`start_from` takes from a saliency network and which
    are zero without one: masks then teach shapes to what knows the classes already. [ours: under full supervision on
    VOC-8, six passes over the images, it is most of what is learnt; see experiments/voc8_weak]

    Differs from the paper: depthwise dilated convolutions of 128 channels, which a CPU can train. [ours]

    Args:
        backbone: the pretrained network to start from.
        num_classes: K classes besides the background.
        weights: the backbone's weights, as :func:`tezawari.features.backbone.load_backbone` takes them.
    """

    def __init__(self, backbone: str, num_classes: int, weights: str | None = None) -> None:
        super().__init__()
        self.backbone, self.num_classes = backbone, num_classes
        self.layers = segmenter_layers(backbone)
        self.trunk = trainable_trunk(backbone, self.layers, weights)
        *finer, coarsest = (self.trunk.channels[layer] for layer in self.layers)
        self.pyramid = nn.ModuleList([_pointwise(coarsest), *(_dilated(coarsest, rate) for rate in _DILATIONS)])
        self.whole = nn.Sequential(nn.Conv2d(coarsest, _WIDTH, 1), nn.ReLU())
        self.joined = _pointwise(_WIDTH * (len(_DILATIONS) + 2))
        self.lateral = nn.ModuleList(nn.Conv2d(channels, _WIDTH, 1) for channels in finer)
        self.smooth = nn.ModuleList(_dilated(_WIDTH, 1) for _ in finer)
        self.classifier = nn.Conv2d(_WIDTH, 1 + num_classes, 1)
        self.class_maps = class_head(backbone, coarsest, num_classes)
        for parameter in self.class_maps[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (B, 1 + K, h, w), background first, of RGB images (B, 3, H, W) in [0, 1]; h and w are theirs
        divided by the stride of the finest layer.
        """
        found = dict(self.trunk.walk(image, frozenset(self.layers)))
        *finer, coarsest = (found[layer] for layer in self.layers)
        whole = self.whole(coarsest.mean((2, 3), keepdim=True)).expand(-1, -1, *coarsest.shape[2:])
        features = self.joined(torch.cat([*(branch(coarsest) for branch in self.pyramid), whole], dim=1))
        for features_there, lateral, smooth in zip(finer[::-1], self.lateral[::-1], self.smooth[::-1]):
            features = F.interpolate(features, features_there.shape[2:], mode="bilinear", align_corners=False)
            features = smooth(features + lateral(features_there))
        logits = self.classifier(features)
        maps = F.interpolate(self.class_maps(coarsest), logits.shape[2:], mode="bilinear", align_corners=False)
        return logits + F.pad(maps, (0, 0, 0, 0, 1, 0))  # the background has none

    @torch.no_grad()
    def start_from(self, saliency: SaliencyNetwork) -> None:
        """Take over the weights of a saliency network of the same backbone, as far as both are deep.

        Its class maps come too where they are made of this network's coarsest layer.
        """
        theirs, own = saliency.trunk.state_dict(), self.trunk.state_dict()
        self.trunk.load_state_dict({**own, **{key: theirs[key] for key in own if key in theirs}})
        if saliency.layer == self.layers[-1]:
            self.class_maps.load_state_dict(saliency.head.state_dict())

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start at random, which learn faster than those that may be pretrained."""
        slow = {id(parameter) for part in (self.trunk, self.class_maps) for parameter in part.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in slow]


def _pointwise(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, _WIDTH, 1, bias=False), nn.GroupNorm(_GROUPS, _WIDTH), nn.ReLU())


def _dilated(inputs: int, rate: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=rate, dilation=rate, groups=inputs, bias=False)
    return nn.Sequential(depthwise, *_pointwise(inputs))


@torch.no_grad()
def predict_probabilities(
    segmenter: Segmenter, image: Tensor, image_labels: Tensor | None = None, flip: bool = True
) -> Tensor:
    """Return what the segmenter makes of images, (B, 1 + K, H, W) in [0, 1], summing to 1 over the classes.

    Args:
        segmenter: in evaluation mode.
        image: (B, 3, H, W) RGB in [0, 1].
        image_labels: (B, K) bool: only the background and these classes may be chosen; None: all may.
        flip: average with the prediction of the mirrored image.
    """
    logits = segmenter(image)
    if flip:
        logits = (logits + segmenter(image.flip(-1)).flip(-1)) / 2
    if image_labels is not None:
        allowed = torch.cat([torch.ones_like(image_labels[:, :1], dtype=torch.bool), image_labels.bool()], dim=1)
        logits = logits.masked_fill(~allowed[:, :, None, None], -torch.inf)
    return F.interpolate(logits.softmax(1), image.shape[-2:], mode="bilinear", align_corners=False)
