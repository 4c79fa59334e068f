"""CIE Lab: keeping a photo's colours under a style, and measuring how far colours drift.

Everything works on strips of rows of some 65,000 pixels, so that a 24-megapixel image needs its inputs, its output and
a few MB, not ten copies of itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import EllipsisType

import torch
from torch import Tensor

# IEC 61966-2-1 (sRGB) to CIE XYZ, and the D65 white of the 2° observer: the same figures as scikit-image's.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_LINEAR_BELOW = 0.04045
_CUBE_ROOT_ABOVE = 0.008856
_STRIP_PIXELS = 1 << 16


def rgb_to_lab(image: Tensor) -> Tensor:
    """Convert sRGB to CIE Lab (D65, 2° observer).

    ``image`` is (B, 3, H, W) or (3, H, W) in [0, 1]; the answer has its shape, L in [0, 100], a and b about ±110.
    Raises ``ValueError`` where the colour dimension is not 3.
    """
    _check_rgb(image)
    lab = torch.empty_like(image)
    for rows in _strips(image):
        lab[rows] = _strip_to_lab(image[rows])
    return lab


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIE Lab (D65, 2° observer) to sRGB in [0, 1]; (B, 3, H, W) or (3, H, W), shape kept.

    Colours that sRGB cannot show are clamped channel by channel. Raises ``ValueError`` where the colour dimension is
    not 3.
    """
    _check_rgb(lab)
    image = torch.empty_like(lab)
    for rows in _strips(lab):
        image[rows] = _strip_to_rgb(lab[rows])
    return image


def preserve_color(stylized: Tensor, photo: Tensor) -> Tensor:
    """Return the stylised image's lightness L under the photo's a and b (METHODS §6, Yanai & Tanno's app).

    Both are (B, 3, H, W) or (3, H, W) in [0, 1] and of one shape, as is the answer. Where the photo's colour does not
    exist at the new lightness the result is clamped to sRGB channel by channel, so its colour is then paler.
    Raises ``ValueError`` where the shapes differ.
    """
    _check_rgb(stylized)
    _check_same(stylized, photo)
    image = torch.empty_like(stylized)
    for rows in _strips(stylized):
        lab = _strip_to_lab(photo[rows])
        lab[..., 0, :, :] = _strip_to_lab(stylized[rows])[..., 0, :, :]
        image[rows] = _strip_to_rgb(lab)
    return image


def color_drift(image: Tensor, reference: Tensor, *, lightness: bool = True) -> float:
    """Return the mean colour difference ΔE*ab (CIE 1976) over all pixels of two images of one shape.

    Both are (B, 3, H, W) or (3, H, W) in [0, 1]. Without ``lightness`` only the distance in the (a, b) plane counts:
    what colour preservation promises to keep, while L is the style's to change. About 2.3 is just noticeable.
    Raises ``ValueError`` where the shapes differ.
    """
    _check_rgb(image)
    _check_same(image, reference)
    first = 0 if lightness else 1
    total, pixels = 0.0, 0
    for rows in _strips(image):
        gap = _strip_to_lab(image[rows]) - _strip_to_lab(reference[rows])
        distance = torch.linalg.vector_norm(gap[..., first:, :, :], dim=-3)
        total += float(distance.sum(dtype=torch.float64))
        pixels += distance.numel()
    return total / pixels


def _strip_to_lab(image: Tensor) -> Tensor:
    linear = torch.where(image > _LINEAR_BELOW, ((image.clamp_min(0) + 0.055) / 1.055) ** 2.4, image / 12.92)
    matrix = image.new_tensor(_XYZ_FROM_RGB) / image.new_tensor(_WHITE)[:, None]
    xyz = torch.einsum("dc,...chw->...dhw", matrix, linear)
    # Below the threshold the cube root's slope runs away: CIE continues it with its tangent.
    root = torch.where(xyz > _CUBE_ROOT_ABOVE, xyz.clamp_min(0) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def _strip_to_rgb(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    # A very blue colour at a very low lightness asks for negative light: there is none.
    root = torch.stack([y + a / 500, y, (y - b / 200).clamp_min(0)], dim=-3)
    xyz = torch.where(root > _CUBE_ROOT_ABOVE ** (1 / 3), root**3, (root - 16 / 116) / 7.787)
    matrix = torch.linalg.inv(torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64)) * torch.tensor(_WHITE)
    linear = torch.einsum("dc,...chw->...dhw", matrix.to(lab), xyz)
    bent = 1.055 * linear.clamp_min(0) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, bent, 12.92 * linear).clamp_(0, 1)


def _strips(image: Tensor) -> Iterator[tuple[EllipsisType, slice, slice]]:
    """Yield the index of each strip of rows of an (…, C, H, W) tensor."""
    height, width = image.shape[-2:]
    images = image.shape[0] if image.dim() == 4 else 1
    step = max(1, _STRIP_PIXELS // max(1, width * images))
    for top in range(0, height, step):
        yield (..., slice(top, top + step), slice(None))


def _check_rgb(image: Tensor) -> None:
    if image.dim() not in (3, 4) or image.shape[-3] != 3:
        raise ValueError(f"a colour image is (B, 3, H, W) or (3, H, W), not {tuple(image.shape)}")


def _check_same(image: Tensor, other: Tensor) -> None:
    if image.shape != other.shape:
        raise ValueError(f"two images of one shape are needed, not {tuple(image.shape)} and {tuple(other.shape)}")
