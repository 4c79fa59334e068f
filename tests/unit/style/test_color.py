"""Lab conversion against scikit-image's, and what colour preservation keeps and changes."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch

from tezawari.style import color


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _hwc(image: torch.Tensor) -> np.ndarray:
    return image.movedim(-3, -1).double().numpy()


@pytest.fixture
def narrow_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of few rows, so that small images too are worked on in several."""
    monkeypatch.setattr(color, "_STRIP_PIXELS", 100)


@pytest.mark.usefixtures("narrow_strips")
@pytest.mark.parametrize("shape", [(3, 37, 23), (2, 3, 16, 31), (3, 1, 1)])
def test_rgb_to_lab_agrees_with_scikit_image(shape: tuple[int, ...]) -> None:
    image = _random(*shape)
    np.testing.assert_allclose(_hwc(color.rgb_to_lab(image)), skimage.color.rgb2lab(_hwc(image)), atol=2e-3)


@pytest.mark.parametrize("value", [0.0, 0.001, 0.04, 0.05, 1.0])
def test_greys_have_no_colour(value: float) -> None:
    lab = color.rgb_to_lab(torch.full((3, 2, 2), value))
    assert lab[1:].abs().max() < 0.01
    assert lab[0, 0, 0] == pytest.approx(skimage.color.rgb2lab(np.full((1, 1, 3), value))[0, 0, 0], abs=1e-3)


@pytest.mark.usefixtures("narrow_strips")
def test_lab_to_rgb_agrees_with_scikit_image_inside_and_outside_the_gamut() -> None:
    lab = _random(3, 40, 40)
    lab = lab * torch.tensor([100.0, 240.0, 240.0]).view(3, 1, 1) - torch.tensor([0.0, 120.0, 120.0]).view(3, 1, 1)
    with np.testing.suppress_warnings() as quiet:
        quiet.filter(UserWarning)
        expected = skimage.color.lab2rgb(_hwc(lab))
    image = color.lab_to_rgb(lab)
    assert image.min() >= 0
    assert image.max() <= 1
    np.testing.assert_allclose(_hwc(image), expected, atol=2e-4)


def test_there_and_back_again() -> None:
    image = _random(2, 3, 50, 50)
    torch.testing.assert_close(color.lab_to_rgb(color.rgb_to_lab(image)), image, atol=2e-4, rtol=0)


@pytest.mark.usefixtures("narrow_strips")
def test_preserve_color_takes_lightness_from_one_and_colour_from_the_other() -> None:
    # Pale colours on both sides, so that every mixture exists in sRGB.
    photo = 0.5 + 0.1 * (_random(3, 33, 20, seed=1) - 0.5)
    stylized = 0.5 + 0.3 * (_random(3, 33, 20, seed=2) - 0.5)
    kept = color.rgb_to_lab(color.preserve_color(stylized, photo))
    torch.testing.assert_close(kept[0], color.rgb_to_lab(stylized)[0], atol=0.05, rtol=0)
    torch.testing.assert_close(kept[1:], color.rgb_to_lab(photo)[1:], atol=0.05, rtol=0)


def test_preserve_color_of_a_photo_by_itself_is_the_photo() -> None:
    photo = torch.from_numpy(skimage.data.astronaut()[::8, ::8]).movedim(-1, 0) / 255
    torch.testing.assert_close(color.preserve_color(photo, photo), photo, atol=3e-4, rtol=0)


def test_preserve_color_stays_in_range_where_no_such_colour_exists() -> None:
    photo = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 4, 4)
    image = color.preserve_color(torch.ones(3, 4, 4), photo)
    assert image.min() >= 0
    assert image.max() <= 1
    assert torch.isfinite(image).all()


@pytest.mark.usefixtures("narrow_strips")
def test_color_drift_agrees_with_scikit_image() -> None:
    one, other = _random(2, 3, 20, 30, seed=1), _random(2, 3, 20, 30, seed=2)
    lab_one, lab_other = skimage.color.rgb2lab(_hwc(one)), skimage.color.rgb2lab(_hwc(other))
    assert color.color_drift(one, other) == pytest.approx(
        skimage.color.deltaE_cie76(lab_one, lab_other).mean(), rel=1e-4
    )
    plane = np.linalg.norm((lab_one - lab_other)[..., 1:], axis=-1).mean()
    assert color.color_drift(one, other, lightness=False) == pytest.approx(plane, rel=1e-4)
    assert color.color_drift(one, one) == 0


def test_preserving_color_lowers_the_drift() -> None:
    photo = torch.from_numpy(skimage.data.astronaut()[::4, ::4]).movedim(-1, 0) / 255
    stylized = photo.flip(0) * 0.8
    kept = color.preserve_color(stylized, photo)
    before = color.color_drift(stylized, photo, lightness=False)
    assert color.color_drift(kept, photo, lightness=False) < before / 3


@pytest.mark.parametrize("shape", [(4, 5, 5), (5, 5), (1, 1, 3, 4, 4)])
def test_what_is_not_a_colour_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="colour image"):
        color.rgb_to_lab(torch.zeros(shape))


def test_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        color.preserve_color(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))
