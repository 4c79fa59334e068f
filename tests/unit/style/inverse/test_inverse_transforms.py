"""The forward transforms: functions of the photo and the key alone, and neutral where there is nothing to do."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import skimage.color
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.seeding import sample_rng
from tezawari.style.inverse.transforms import (
    TASKS,
    ForwardTransform,
    Task,
    add_noise,
    estimate_noise,
    local_wiener,
    lower_resolution,
    to_grey,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def photo(height: int = 41, width: int = 54) -> Tensor:
    pixels = skimage.data.astronaut()[40 : 40 + height, 180 : 180 + width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(16, 23), (41, 54), (33, 17)])
def test_a_key_names_one_degraded_photo_of_any_size(task: Task, size: tuple[int, int]) -> None:
    transform, image = ForwardTransform(task), photo(*size)

    def degraded(*key: int) -> tuple[float, Tensor]:
        rng = sample_rng(*key)
        level = transform.draw(rng)
        return level, transform(image, level, rng)

    level, one = degraded(0, 3, 5)
    assert degraded(0, 3, 5)[0] == level
    assert torch.equal(degraded(0, 3, 5)[1], one)
    assert one.shape == image.shape
    assert 0 <= one.min() <= one.max() <= 1
    assert not torch.equal(one, image)
    if task == "denoise":
        assert all(not torch.equal(degraded(*key)[1], one) for key in ((1, 3, 5), (0, 4, 5), (0, 3, 6)))


def test_grey_has_the_photos_lightness_and_no_colour() -> None:
    image = photo()
    before, after = (skimage.color.rgb2lab(x.permute(1, 2, 0).double().numpy()) for x in (image, to_grey(image)))
    assert np.abs(before[..., 0] - after[..., 0]).max() < 0.01
    assert np.abs(before[..., 1:]).max() > 20
    assert np.abs(after[..., 1:]).max() < 0.02


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_is_what_pillow_makes_of_it(scale: int) -> None:
    image = photo(43, 50)
    ours = lower_resolution(image, scale)
    small = (-(-50 // scale), -(-43 // scale))
    for channel, answer in zip(image.numpy(), ours.numpy()):
        reduced = Image.fromarray(channel).resize(small, Image.Resampling.BICUBIC)
        reduced = Image.fromarray(np.asarray(reduced).clip(0, 1))
        expected = np.asarray(reduced.resize((50, 43), Image.Resampling.BICUBIC)).clip(0, 1)
        assert np.abs(answer - expected).max() < 1e-4


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_constant_image_has_no_resolution_to_lose(scale: int) -> None:
    image = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 37, 51)
    assert (lower_resolution(image, scale) - image).abs().max() < 1e-6


def test_no_noise_is_the_photo_itself() -> None:
    assert torch.equal(add_noise(photo(), 0.0, sample_rng(0, 0, 0)), photo())


@pytest.mark.parametrize("noise", [5.0, 20.0])
def test_noise_has_the_asked_strength_and_is_estimated(noise: float) -> None:
    ramp = torch.linspace(0.3, 0.7, 128).expand(3, 128, 128)
    noisy = add_noise(ramp, noise, sample_rng(0, 0, 0))
    assert float((noisy - ramp).std()) * 255 == pytest.approx(noise, rel=0.02)
    assert estimate_noise(noisy) == pytest.approx(noise, rel=0.05)
    assert estimate_noise(ramp) == pytest.approx(0, abs=1e-2)


def test_the_local_wiener_filter_is_scipys_and_leaves_a_photo_without_noise_alone() -> None:
    noisy = add_noise(photo(), 25.0, sample_rng(0, 0, 0))
    one_channel = noisy[:1].expand(3, -1, -1)
    expected = scipy.signal.wiener(noisy[0].double().numpy(), 5, (25 / 255) ** 2).clip(0, 1)
    inside = np.s_[2:-2, 2:-2]  # scipy pads by zeros
    assert np.abs(local_wiener(one_channel, 25.0)[0].numpy()[inside] - expected[inside]).max() < 1e-4
    assert torch.equal(local_wiener(photo(), 0.0), photo())
    error, before = ((image - photo()).square().mean() for image in (local_wiener(noisy, 25.0), noisy))
    assert error < 0.6 * before


def test_levels_are_drawn_from_their_range_and_conditions_are_shares_of_it() -> None:
    for task in TASKS:
        transform = ForwardTransform(task, 40.0, (2, 3, 4))
        levels = [transform.draw(sample_rng(0, 0, index)) for index in range(60)]
        conditions = [transform.condition(level) for level in levels]
        assert all(0 <= condition <= 1 for condition in conditions)
        if task == "superres":
            assert set(levels) == {2, 3, 4} == set(transform.test_levels())
        elif task == "denoise":
            assert min(levels) < 4 < 36 < max(levels) <= 40
            assert transform.test_levels() == pytest.approx((12, 20, 40))
        else:
            assert set(levels) == set(transform.test_levels()) == {1.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"task": "colourize"}, "did you mean colorize"),
        ({"max_noise": 0.0}, "model.max_noise=0"),
        ({"max_noise": 200.0}, "up to 128"),
        ({"scales": ()}, r"model.scales=\[\]"),
        ({"scales": (1, 2)}, r"model.scales=\[1, 2\]"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ForwardTransform(**{"task": "denoise", **settings})  # type: ignore[arg-type]
