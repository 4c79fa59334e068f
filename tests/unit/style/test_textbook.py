"""The textbook's network and loss: what our own are measured beside."""

from __future__ import annotations

import pytest
import torch

from tezawari.core.timing import count_gflop
from tezawari.features.backbone import load_backbone
from tezawari.style.loss import PerceptualLoss, style_targets
from tezawari.style.textbook import TextbookLoss, TextbookNetwork, Upsampling

BOTH: tuple[Upsampling, ...] = ("transposed", "resize")
# (inputs, outputs, kernel) of Johnson's convolutions, in order; five residual blocks of two in the middle.
CONVOLUTIONS = [(3, 32, 9), (32, 64, 3), (64, 128, 3), *[(128, 128, 3)] * 10, (128, 64, 3), (64, 32, 3), (32, 3, 9)]


@pytest.mark.parametrize("upsampling", BOTH)
def test_it_has_the_published_number_of_parameters(upsampling: Upsampling) -> None:
    convolutions = sum(i * o * k * k + o for i, o, k in CONVOLUTIONS)
    norms = sum(2 * o for _, o, _ in CONVOLUTIONS[:-1])
    assert sum(p.numel() for p in TextbookNetwork(upsampling).parameters()) == convolutions + norms == 1_679_235


@pytest.mark.parametrize("upsampling", BOTH)
def test_a_photo_keeps_its_size_and_range(upsampling: Upsampling) -> None:
    network = TextbookNetwork(upsampling)
    for height, width in ((20, 24), (32, 52)):
        stylized = network(torch.rand(2, 3, height, width) * 2 - 0.5)
        assert stylized.shape == (2, 3, height, width)
        assert 0 <= float(stylized.min().detach()) < float(stylized.max().detach()) <= 1


def test_it_does_the_published_work() -> None:
    """Multiplications at 64×64, by where each convolution's output (transposed: input) lies on the way down and up."""
    sides = [64, 32, 16, *[16] * 10, 32, 64, 64]
    resize = sum(2 * i * o * k * k * s * s for (i, o, k), s in zip(CONVOLUTIONS, sides))
    sides[-3:-1] = [16, 32]
    transposed = sum(2 * i * o * k * k * s * s for (i, o, k), s in zip(CONVOLUTIONS, sides))
    photo = torch.rand(1, 3, 64, 64)
    assert count_gflop(lambda: TextbookNetwork("resize")(photo)) == pytest.approx(resize / 1e9)
    assert count_gflop(lambda: TextbookNetwork("transposed")(photo)) == pytest.approx(transposed / 1e9)


def test_its_loss_is_ours_computed_otherwise() -> None:
    layers = ("relu1_2", "relu2_2", "relu3_3")
    backbone = load_backbone("vgg16", layers, "random")
    targets = style_targets(backbone, [torch.rand(3, 32, 40), torch.rand(3, 32, 32)], layers[:2])
    content, style = torch.rand(2, 3, 32, 32), torch.tensor([1, 0])
    found = []
    for kind in (PerceptualLoss, TextbookLoss):
        stylized = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        losses = kind(backbone, targets, layers[2:])(stylized, content, style)
        (gradient,) = torch.autograd.grad((losses.content + 5 * losses.style).sum(), stylized)
        found.append((torch.stack(losses), gradient))
    (ours, our_gradient), (plain, plain_gradient) = found
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=0)
    torch.testing.assert_close(our_gradient, plain_gradient, rtol=1e-3, atol=1e-4 * float(our_gradient.abs().max()))
