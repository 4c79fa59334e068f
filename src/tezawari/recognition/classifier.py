"""The network that tells an image's material: a pretrained backbone, pooled, and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from tezawari.core.errors import UserError, did_you_mean
from tezawari.features.backbone import available_layers
from tezawari.features.trainable import freeze_up_to, trainable_trunk


class MaterialClassifier(nn.Module):
    """A classifier of one label an image, on any backbone.

    The features of one layer are averaged over all positions and classified by a linear layer that starts at random.
    The backbone trains as well; its batch norms are folded or keep their moments, so that a batch gives what single
    images give. Published (METHODS §9): features of a fine-tuned network; which network and layer is not said, so both
    are to choose here. [ours: the linear layer alone, for VGG too, in place of its fully connected layers]

    Attributes: ``backbone``, ``num_classes`` and ``layer`` as given; ``stride`` of the layer, in pixels.

    Args:
        backbone: the pretrained network to start from.
        num_classes: K.
        weights: the backbone's weights, as :func:`tezawari.features.backbone.load_backbone` takes them; ``replaced``
            where a state dict, which holds the backbone too, is loaded next.
        layer: the backbone's layer that is classified; None for its deepest.

    Raises:
        UserError: an unknown backbone or layer, or wrong weights.
    """

    def __init__(self, backbone: str, num_classes: int, weights: str | None = None, layer: str | None = None) -> None:
        super().__init__()
        known = available_layers(backbone)
        if layer is not None and layer not in known:
            raise UserError(f"layer={layer}: {backbone} has no such layer{did_you_mean(layer, known)}")
        self.backbone, self.num_classes = backbone, num_classes
        self.layer = layer or known[-1]
        self.trunk = trainable_trunk(backbone, [self.layer], weights)
        self.stride = self.trunk.strides[self.layer]
        self.head = nn.Linear(self.trunk.channels[self.layer], num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the classes' logits (B, K) of RGB images (B, 3, H, W) in [0, 1]; ``softmax`` makes probabilities.

        Raises :class:`UserError` for images smaller than one position.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.stride:
            raise UserError(
                f"an image of {width}×{height} px is too small for layer {self.layer} of {self.backbone}: "
                f"{self.stride} px at least"
            )
        (features,) = (found for _, found in self.trunk.walk(image, frozenset({self.layer})))
        return self.head(features.mean((2, 3)))

    def freeze_up_to(self, layer: str | None) -> None:
        """Keep the backbone's weights up to and including ``layer``, and train the others; None trains all."""
        freeze_up_to(self.trunk, self.backbone, layer)

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start at random, which learn faster than the pretrained ones."""
        return list(self.head.parameters())
