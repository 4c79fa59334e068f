"""Style images and style packs as the styles of an ordinary network, without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tezawari.core.errors import UserError
from tezawari.data.photo import load_rgb
from tezawari.features.backbone import Backbone
from tezawari.style.loss import StyleTarget, image_target
from tezawari.style.package import LoadedNetwork
from tezawari.style.style_pack import SUFFIX, load_style_pack
from tezawari.style.unseen.package import LoadedUnseen


def read_style(path: Path, backbone: Backbone, layers: Sequence[str], style_size: int) -> StyleTarget:
    """Return what a style image, its shorter side brought to ``style_size`` pixels, or a style pack asks for.

    Raises:
        UserError: a file that is missing or damaged, or a pack of another backbone.
    """
    if path.suffix == SUFFIX:
        pack = load_style_pack(path)
        pack.warn_of_other_side(style_size)
        return pack.target(backbone, layers, style_size)
    from tezawari.data.content_style import shorter_side_to  # brings Lightning, which the other readers do without

    image = load_rgb(path, max_short_side=2 * style_size).float().div_(255)
    return image_target(backbone, shorter_side_to(image, style_size), layers)


def network_of_styles(unseen: LoadedUnseen, sources: Sequence[Path], weights: str | None = None) -> LoadedNetwork:
    """Return an ordinary network whose styles are the sources', each named by its file's stem.

    Args:
        unseen: the trained network.
        sources: style images and style packs, at least one.
        weights: a file of the backbone's weights; None for those that it comes with.

    Raises:
        UserError: two sources of one name, one that cannot be read, a pack of another backbone, or other weights than
            the network was trained with.
    """
    names = [source.stem for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two style images are called {name}: rename one")
    backbone = unseen.backbone(weights)
    styles = [read_style(source, backbone, unseen.network.layers, unseen.style_size) for source in sources]
    return LoadedNetwork(unseen.network.with_styles(styles), names, dict(unseen.meta))
