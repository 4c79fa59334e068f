"""What an answer of the network stands for, what is measured of it, and what it is trained by."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import skimage.metrics
import torch
from torch import Tensor

from tezawari.features.backbone import load_backbone
from tezawari.style.color import rgb_to_lab
from tezawari.style.inverse.measures import MOST_PSNR, quality
from tezawari.style.inverse.model import (
    build_inverse_network,
    charbonnier,
    finished,
    restoration_losses,
    restored,
    within_gamut,
)
from tezawari.style.inverse.transforms import TASKS, ForwardTransform, Task, to_grey

pytestmark = pytest.mark.usefixtures("one_thread")
LAYERS = ("block2",)


def photo() -> Tensor:
    return torch.from_numpy(skimage.data.astronaut()[40:104, 180:260].copy()).permute(2, 0, 1).float() / 255


def wild(image: Tensor, seed: int = 0) -> Tensor:
    return torch.rand(image.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(16, 19), (33, 40)])
@torch.no_grad()
def test_an_untrained_network_gives_the_degraded_photo_back(task: Task, size: tuple[int, int]) -> None:
    degraded = to_grey(photo()[None, :, : size[0], : size[1]])
    answer = build_inverse_network("deepstylecam").eval()(degraded, torch.tensor([[0.7]]))
    assert answer.shape == degraded.shape
    assert (finished(task, degraded, answer) - degraded).abs().max() < 1e-4


@torch.no_grad()
def test_the_condition_matters_once_the_last_layer_is_not_zero() -> None:
    network = build_inverse_network("deepstylecam").eval()
    torch.nn.init.normal_(network.to_rgb.weight, std=0.05)
    weak, strong = (network(photo()[None], torch.tensor([[level]])) for level in (0.0, 1.0))
    assert (weak - strong).abs().mean() > 1e-3


def test_colours_are_added_and_lightness_kept_even_where_srgb_has_no_such_colour() -> None:
    grey = to_grey(photo())
    colored = finished("colorize", grey, wild(grey))
    before, after = rgb_to_lab(grey), rgb_to_lab(colored)
    assert (before[0] - after[0]).abs().max() < 0.05
    assert torch.linalg.vector_norm(after[1:], dim=0).mean() > 20
    clamped = rgb_to_lab(restored("colorize", grey, wild(grey)))
    assert (before[0] - clamped[0]).abs().max() > 5, "these colours do not exist in sRGB"


def test_paler_colours_keep_their_hue_and_others_are_not_touched() -> None:
    inside = rgb_to_lab(photo())
    assert torch.equal(within_gamut(inside), inside)
    outside = torch.cat([inside[:1], 110 * (2 * wild(inside)[1:] - 1)])
    paler = within_gamut(outside)
    assert torch.equal(paler[0], outside[0])
    crossed = outside[1] * paler[2] - outside[2] * paler[1]
    assert crossed.abs().max() < 0.01
    shares = torch.linalg.vector_norm(paler[1:], dim=0) / torch.linalg.vector_norm(outside[1:], dim=0)
    assert shares.max() <= 1 + 1e-5
    assert 0.2 < shares.mean() < 0.9
    assert torch.equal(within_gamut(outside[None]), paler[None])


@pytest.mark.parametrize("task", TASKS)
def test_gradients_are_finite_and_the_true_answer_costs_nothing(task: Task) -> None:
    backbone = load_backbone("efficientnet_lite0", LAYERS, "random")
    truth = photo()[None].clone()
    truth[..., :20, :] *= torch.tensor([0.0, 0.02, 1.0])[:, None, None]  # black and blue, at the edge of sRGB
    degraded = to_grey(truth) if task == "colorize" else truth.flip(-1)
    answer = wild(degraded).requires_grad_()
    losses = restoration_losses(task, degraded, answer, truth, backbone, LAYERS)
    (losses.pixel + losses.perceptual).sum().backward()
    assert answer.grad is not None
    assert bool(answer.grad.isfinite().all())
    assert float(answer.grad.abs().sum()) > 0
    exact = rgb_to_lab(truth) / 110 if task == "colorize" else truth - degraded
    right = restoration_losses(task, degraded, (exact + 1) / 2, truth, backbone, LAYERS)
    assert float(right.pixel) < 1e-5 < 1e-2 < float(losses.pixel)
    assert float(right.perceptual) < 1e-4 < float(losses.perceptual)


def test_at_no_noise_the_best_answer_is_no_difference() -> None:
    image = photo()[None]
    noiseless = ForwardTransform("denoise")(image[0], 0.0, np.random.default_rng(0))[None]
    losses = restoration_losses("denoise", noiseless, torch.full_like(image, 0.5), image)
    assert float(losses.pixel) == 0
    assert float(losses.perceptual) == 0


def test_charbonnier_is_just_below_the_absolute_difference() -> None:
    difference = wild(photo()[None]) - 0.5
    plain = difference.abs().mean((1, 2, 3))
    assert 0 < float(plain - charbonnier(difference)) < 1e-3
    assert float(charbonnier(torch.zeros(1, 3, 4, 4))) == 0


def test_measures_agree_with_scikit_image() -> None:
    backbone = load_backbone("efficientnet_lite0", LAYERS, "random")
    truth = torch.stack([photo(), photo().flip(-1)])
    picture = (truth + 0.2 * (wild(truth) - 0.5)).clamp(0, 1)
    found = quality(picture, truth, backbone, LAYERS)
    for index in range(2):
        a, b = (x[index].permute(1, 2, 0).double().numpy() for x in (truth, picture))
        psnr = skimage.metrics.peak_signal_noise_ratio(a, b, data_range=1)
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        _, ssim = skimage.metrics.structural_similarity(a, b, channel_axis=-1, data_range=1, **settings)
        assert float(found.psnr[index]) == pytest.approx(psnr, abs=1e-3)
        assert float(found.ssim[index]) == pytest.approx(ssim.mean(), abs=5e-3)
    equal = quality(truth, truth, backbone, LAYERS)
    assert equal.psnr.tolist() == [MOST_PSNR, MOST_PSNR]
    assert equal.ssim.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert equal.perceptual_distance.tolist() == [0, 0]
