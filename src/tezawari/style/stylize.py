"""Restyle photos with a trained network in a few lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.style.color import preserve_color
from tezawari.style.inference import DeployedNetwork
from tezawari.style.mixing import parse_mix
from tezawari.style.network import ConditionalNetwork
from tezawari.style.package import LoadedNetwork, load_network
from tezawari.style.tiling import stylize_image

_EMBEDDED = "multistyle.safetensors"
_SMALLEST_SIDE = 16


@dataclass(frozen=True)
class Stylizer:
    """A trained network made ready for use.

    >>> stylizer = Stylizer.load(Path("network.safetensors"))        # doctest: +SKIP
    >>> restyled = stylizer(photo.image, stylizer.mix("wood=0.7", "water=0.3"))  # doctest: +SKIP
    """

    trained: LoadedNetwork

    @classmethod
    def load(cls, checkpoint: Path | None = None) -> Stylizer:
        """Read a published network or a training checkpoint; None reads the network that comes with the package.

        Raises:
            UserError: when there is no such file, or it is not a multi-style network.
        """
        if checkpoint is None:
            embedded = Path(str(files("tezawari").joinpath("assets", _EMBEDDED)))
            if not embedded.is_file():
                raise UserError(
                    "no network comes with this installation: train one (`make train`) and name it by --checkpoint"
                )
            checkpoint = embedded
        return cls(load_network(checkpoint))

    @property
    def style_names(self) -> list[str]:
        """The names of the styles, in the order of the condition vector."""
        return self.trained.style_names

    @cached_property
    def _network(self) -> ConditionalNetwork | DeployedNetwork:
        network = self.trained.network
        return network if network.norm == "instance" else DeployedNetwork(network)

    def __call__(
        self,
        image: Tensor,
        style: Tensor,
        keep_color: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Restyle one photo.

        Args:
            image: ``(3, H, W)`` RGB in [0, 1].
            style: style weights ``(S,)`` or a style map ``(S, H, W)``, non-negative; a map may also have
                the resolution of the network's bottleneck, which is what ``read_style_map`` gives with its stride.
            keep_color: keep the photo's own colours and take only the lightness of the restyled picture.
            progress: called with (tiles done, tiles in all) for photos larger than a tile.

        Returns:
            ``(3, H, W)`` RGB in [0, 1].

        Raises:
            UserError: when the photo is smaller than 16 pixels, or a map is of another size than the photo.
        """
        height, width = image.shape[-2:]
        if min(height, width) < _SMALLEST_SIDE:
            raise UserError(
                f"a photo of {width}x{height} pixels is too small to restyle: it needs {_SMALLEST_SIDE} each way"
            )
        stride = self.trained.network.bottleneck_stride
        fits = {(height, width), (-(-height // stride), -(-width // stride))}
        if style.dim() == 3 and tuple(style.shape[-2:]) not in fits:
            raise UserError(
                f"the style map is {style.shape[-1]}x{style.shape[-2]} pixels, "
                f"the photo {width}x{height}: make them equal"
            )
        with torch.inference_mode():
            stylized = stylize_image(self._network, image, style, progress=progress)
            return preserve_color(stylized, image) if keep_color else stylized

    def mix(self, *specs: str, normalize: bool = False, seed: int = 0) -> Tensor:
        """Return the condition ``(S,)`` of ``NAME[=W]`` specs; see :func:`tezawari.style.mixing.parse_mix`."""
        return parse_mix(specs, self.style_names, normalize=normalize, seed=seed)
