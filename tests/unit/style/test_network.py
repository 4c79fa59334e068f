"""The conditional network against its published size and the properties of METHODS §6."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch
from torch import nn

from tezawari.style.network import UpBlock, build_network, settle
from tezawari.style.tiling import stylize_image

KINDS = [
    ("deepstylecam", "concat", "batch"),
    ("deepstylecam", "concat", "instance"),
    ("deepstylecam", "cin", "instance"),
    ("deepstylecam", "cin", "settled"),
    ("swift", "concat", "settled"),
    ("johnson", "concat", "settled"),
    ("johnson", "concat", "batch"),
    ("johnson", "cin", "instance"),
]


def _warmed(net: str, fusion: str, norm: str, styles: int = 3) -> nn.Module:
    """A network whose running moments and conditions are far from neutral, in evaluation mode."""
    torch.manual_seed(0)
    network = build_network(net, styles, fusion, norm)
    for index in range(styles):
        for parameter in network.style_parameters(index):
            nn.init.normal_(parameter, mean=0.3 * index)
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, 48, 48), torch.rand(2, styles))
    return network.eval()


def test_parameter_count_is_the_published_one() -> None:
    network = build_network("deepstylecam", 13)
    assert sum(p.numel() for p in network.parameters()) == 1_250_835


def test_up_block_is_a_transposed_convolution() -> None:
    """The 2×2 convolution and rearrangement equal PyTorch's 4×4 transposed convolution of stride 2."""
    torch.manual_seed(0)
    block = UpBlock(6, 5, nn.Identity(), nn.Identity())
    block.norm.forward = lambda features, style: features  # type: ignore[method-assign]
    reference = nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1)
    bias = torch.randn(5)
    with torch.no_grad():
        reference.bias.copy_(bias)
        block.conv.bias.copy_(bias.repeat_interleave(4))
        weight = block.conv.weight.view(5, 2, 2, 6, 2, 2)  # out, phase y, phase x, in, tap y, tap x
        for py, px, ty, tx in itertools.product(range(2), repeat=4):
            # Output row 2i + py - 1 after the crop, tap t reads input row i + t - 1: kernel row 2(1 - t) + py.
            reference.weight[:, :, 2 * (1 - ty) + py, 2 * (1 - tx) + px] = weight[:, py, px, :, ty, tx].T
    features = torch.randn(2, 6, 7, 9)
    torch.testing.assert_close(block(features, torch.zeros(2, 1)), reference(features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("net", "fusion", "norm"), KINDS)
@torch.no_grad()
def test_a_constant_map_equals_the_vector(net: str, fusion: str, norm: str) -> None:
    network = _warmed(net, fusion, norm)
    photo, weights = torch.rand(2, 3, 41, 54), torch.rand(2, 3)
    by_map = network(photo, weights[:, :, None, None].expand(-1, -1, 11, 7))
    torch.testing.assert_close(by_map, network(photo, weights), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("net", "fusion", "norm"), KINDS)
@torch.no_grad()
def test_permuting_styles_with_their_rows_changes_nothing(net: str, fusion: str, norm: str) -> None:
    network, photo, weights = _warmed(net, fusion, norm), torch.rand(1, 3, 40, 40), torch.tensor([[0.7, 0.2, 0.4]])
    before = network(photo, weights)
    order = [2, 0, 1]
    for rows in network._style_lists():
        values = [rows[i].detach().clone() for i in order]
        for row, value in zip(rows, values):
            row.copy_(value)
    for name, moments in network.named_buffers():
        if "style_" in name:
            moments.copy_(moments[order])
    assert not torch.allclose(network(photo, weights), before, atol=1e-3), "the rows must matter"
    torch.testing.assert_close(network(photo, weights[:, order]), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("net", "fusion", "norm"), KINDS)
@pytest.mark.parametrize("size", [(16, 16), (17, 33), (50, 64)])
@torch.no_grad()
def test_any_size_keeps_its_size_and_range(net: str, fusion: str, norm: str, size: tuple[int, int]) -> None:
    network = _warmed(net, fusion, norm)
    stylized = network(torch.rand(1, 3, *size), torch.rand(1, 3))
    assert stylized.shape == (1, 3, *size)
    assert 0 <= stylized.min() < stylized.max() <= 1


@pytest.mark.parametrize("net", ["deepstylecam", "johnson", "swift"])
@torch.no_grad()
def test_folding_normalisation_changes_nothing(net: str) -> None:
    network, photo, weights = _warmed(net, "concat", "batch"), torch.rand(1, 3, 40, 48), torch.rand(1, 3)
    before = network(photo, weights)
    folded = network.fold_normalization()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(photo, weights), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("net", "fusion", "norm"), KINDS)
def test_an_added_style_trains_alone(net: str, fusion: str, norm: str) -> None:
    network = _warmed(net, fusion, norm)
    photo, old = torch.rand(2, 3, 32, 32), torch.rand(2, 3)
    with torch.no_grad():
        before = network(photo, old)
    network.add_styles(2)
    network.train()
    network.train_only_styles([3, 4])
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.1)
    new = torch.tensor([[0.0, 0, 0, 1, 0], [0, 0, 0, 0, 1]])
    start = network(photo, new).detach()
    for _ in range(2):
        optimizer.zero_grad()
        network(photo, new).mean().backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(photo, torch.cat([old, torch.zeros(2, 2)], 1)), before), "the old styles stay"
        assert not torch.allclose(network(photo, new), start, atol=1e-4), "the new ones learn"


@torch.no_grad()
def test_a_settled_network_is_the_one_it_was_made_of() -> None:
    network, photo = _warmed("deepstylecam", "concat", "batch"), torch.rand(2, 3, 48, 48)
    settled, style = settle(network).eval(), torch.rand(2, 3)
    style /= style.sum(1, keepdim=True)
    torch.testing.assert_close(settled(photo, style), network(photo, style), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="norm=settled: only"):
        settle(settled)


@torch.no_grad()
def test_settled_scales_take_the_shares_of_a_mix() -> None:
    """Half of one style is not half the scale in each of thirteen layers, and of nothing all styles are in it alike."""
    network, photo = _warmed("deepstylecam", "cin", "settled"), torch.rand(1, 3, 40, 40)
    for weights, same in (([0.5, 0, 0], [1.0, 0, 0]), ([3, 0, 1], [0.75, 0, 0.25]), ([0, 0, 0], [1 / 3] * 3)):
        found, wanted = (network(photo, torch.tensor([each], dtype=torch.float32)) for each in (weights, same))
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_settled_moments_are_what_each_style_had() -> None:
    """Asked for one style on one photo again and again, they become that photo's; another style keeps its own."""
    torch.manual_seed(0)
    network, photo, first = (
        build_network("deepstylecam", 2, "cin", "settled"),
        torch.rand(1, 3, 48, 48),
        torch.eye(2)[:1],
    )
    with torch.no_grad():
        for _ in range(200):
            young = network(photo, first)
        network.freeze_moments()
        torch.testing.assert_close(network(photo, first), young, atol=1e-4, rtol=0)
        assert not torch.allclose(network(photo * 0.5, first), network.train()(photo * 0.5, first), atol=1e-2)
    for name, moments in network.named_buffers():
        assert (moments[1] == (0 if name.endswith("mean") else 1)).all()


@pytest.mark.parametrize(("net", "fusion", "norm"), [KINDS[0], KINDS[3], KINDS[5]])
@pytest.mark.parametrize("mapped", [False, True])
@torch.no_grad()
def test_tiles_leave_no_seam(net: str, fusion: str, norm: str, mapped: bool) -> None:
    """With moments that are constants a tiled photo is the untiled one."""
    network, photo = _warmed(net, fusion, norm), torch.rand(3, 203, 261)
    style = torch.rand(3, 203, 261) if mapped else torch.rand(3)
    calls: list[tuple[int, int]] = []
    tiled = stylize_image(network, photo, style, tile=64, progress=lambda done, count: calls.append((done, count)))
    assert calls[-1] == (20, 20)
    torch.testing.assert_close(tiled, network(photo[None], style[None])[0], atol=1e-4, rtol=0)


def _seam_contrast(picture: torch.Tensor, tile: int) -> float:
    """Mean step between the columns on the two sides of a seam, relative to that between all other columns."""
    steps = (picture[..., 1:] - picture[..., :-1]).abs().mean((0, 1))
    at_seam = torch.zeros(len(steps), dtype=torch.bool)
    at_seam[tile - 1 :: tile] = True
    return float(steps[at_seam].mean() / steps[~at_seam].mean())


@torch.no_grad()
def test_instance_tiles_share_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the photo is dark: tiles with moments of their own would each be stretched to full contrast."""
    network = _warmed("deepstylecam", "concat", "instance")
    photo = nn.functional.interpolate(torch.rand(1, 3, 16, 32), scale_factor=16, mode="bilinear")[0]
    photo[:, :, 256:] *= 0.1
    whole = _seam_contrast(network(photo[None], torch.ones(1, 3))[0], 128)
    shared = _seam_contrast(stylize_image(network, photo, torch.ones(3), tile=128), 128)
    monkeypatch.setattr(network, "moments_of", lambda *_: contextlib.nullcontext())
    own = _seam_contrast(stylize_image(network, photo, torch.ones(3), tile=128), 128)
    assert own > 1.6 * whole, "the photo must be one where it matters"
    assert shared < 1.3 * whole


def test_impossible_networks_are_refused() -> None:
    for arguments in [
        ("deepstylecam", 0),
        ("unet", 3),
        ("johnson", 2, "cin", "batch"),
    ]:
        with pytest.raises(ValueError, match=r"style|unknown|instance"):
            build_network(*arguments)
