"""The fast frozen convolutions against PyTorch's own."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tezawari.features import winograd_tiles
from tezawari.features.backbone import load_backbone
from tezawari.features.buffers import BufferPool
from tezawari.features.frozen_chain import DirectConv, FrozenChain, Step
from tezawari.features.winograd import WinogradConv

SIZES = [(1, 15, 17), (3, 33, 20), (2, 3, 2), (1, 1, 1), (3, 8, 8), (2, 64, 5), (1, 4, 130)]


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _planes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [(64, 64), (64, 96), (128, 32), (5, 7)])
@pytest.mark.parametrize(
    ("kind", "dtype", "bound"),
    [
        (WinogradConv, torch.float32, 1e-4),
        (WinogradConv, torch.float64, 1e-11),
        (DirectConv, torch.float32, 1e-5),
        (DirectConv, torch.bfloat16, 2e-2),
    ],
)
def test_a_frozen_convolution_is_the_convolution(
    size: tuple[int, int, int],
    channels: tuple[int, int],
    kind: type[WinogradConv | DirectConv],
    dtype: torch.dtype,
    bound: float,
) -> None:
    batch, height, width = size
    inputs, outputs = channels
    torch.manual_seed(height * width)
    x = torch.randn(batch, inputs, height, width, dtype=dtype)
    weight, bias = torch.randn(outputs, inputs, 3, 3, dtype=dtype), torch.randn(outputs, dtype=dtype)
    gradient = torch.randn(batch, outputs, height, width, dtype=dtype)
    conv = kind(weight, bias)

    exact = functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for rectify, wanted in ((False, exact), (True, exact.relu())):
        found = _planes(conv.forward(_rows(x), rectify))
        assert (found - wanted).abs().max() <= bound * exact.abs().max()

    exact = torch.nn.grad.conv2d_input(x.shape, weight.double(), gradient.double(), padding=1)
    rows = _rows(gradient)
    found = _planes(conv.input_gradient(lambda target, b, r: target.copy_(rows[b, r]), size))
    assert (found - exact).abs().max() <= bound * exact.abs().max()


def test_winograd_cuts_large_maps_into_chunks_without_seams() -> None:
    """160 × 96 at 64 channels is several chunks an image, the last one smaller."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 64, 162, 96), torch.randn(64, 64, 3, 3)
    found = _planes(WinogradConv(weight, torch.zeros(64)).forward(_rows(x), False))
    wanted = functional.conv2d(x.double(), weight.double(), padding=1)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def _small_chain() -> FrozenChain:
    torch.manual_seed(0)
    widths = [(2, 16), (16, 20), (20, 16)]
    return FrozenChain(
        [Step("conv1_1", "relu1_1", False), Step("conv1_2", "relu1_2", False), Step("conv2_1", "relu2_1", True)],
        [torch.randn(o, i, 3, 3, dtype=torch.float64) / 10 for i, o in widths],
        [torch.randn(o, dtype=torch.float64) / 10 for _, o in widths],
    )


def test_winograd_takes_maps_laid_out_plane_by_plane() -> None:
    conv, planes = WinogradConv(torch.randn(8, 6, 3, 3), torch.randn(8)), torch.randn(2, 6, 9, 12)
    torch.testing.assert_close(conv.forward(planes.permute(0, 2, 3, 1), True), conv.forward(_rows(planes), True))


@pytest.mark.parametrize("rectify", [False, True])
def test_what_is_no_number_stays_so_through_winograd(rectify: bool) -> None:
    conv = WinogradConv(torch.randn(8, 8, 3, 3), torch.zeros(8))
    x = torch.ones(1, 8, 8, 8)
    x[0, 5, 5, 2] = torch.nan
    assert conv.forward(x, rectify)[0, 4:7, 4:7].isnan().all()


def test_kernels_compile_where_nothing_can_be_stored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def njit(cache: bool = False, **_: object) -> Callable[[Any], Any]:
        if cache:
            raise RuntimeError("no locator")
        return lambda kernel: kernel

    monkeypatch.setattr(winograd_tiles, "njit", njit)
    assert winograd_tiles._compiled(gc.collect) is gc.collect  # type: ignore[type-var]
    assert "compiled at every start" in caplog.text


@pytest.mark.parametrize(
    "wanted",
    [("relu2_1",), ("conv1_1", "relu1_1", "conv1_2", "relu1_2", "conv2_1", "relu2_1"), ("conv1_2",), ("relu1_2",)],
)
def test_gradients_by_finite_differences(wanted: tuple[str, ...]) -> None:
    chain = _small_chain()
    image = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: chain(x, wanted), (image,), fast_mode=True)


def test_only_some_outputs_may_have_a_gradient() -> None:
    chain = _small_chain()
    image = torch.randn(1, 2, 9, 7, dtype=torch.float64, requires_grad=True)
    shallow = torch.autograd.grad(chain(image, ["relu1_1"])[0].sum(), image)[0]
    outputs = chain(image, ["relu1_1", "relu2_1"])
    torch.testing.assert_close(torch.autograd.grad(outputs[0].sum(), image)[0], shallow)


def test_features_that_are_kept_are_not_overwritten_by_later_calls() -> None:
    chain = _small_chain()
    torch.manual_seed(0)
    images = torch.randn(4, 1, 2, 12, 12, dtype=torch.float64)
    kept = [chain(image, ["relu1_1", "relu2_1"]) for image in images]
    copies = [[f.clone() for f in features] for features in kept]
    for image in images.flip(0):
        chain(image.clone().requires_grad_(), ["relu2_1"])[0].sum().backward()
    for features, copied in zip(kept, copies):
        for feature, clone in zip(features, copied):
            assert torch.equal(feature, clone)


def test_changing_a_feature_that_the_gradient_needs_is_noticed() -> None:
    image = torch.randn(1, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    (feature,) = _small_chain()(image, ["relu2_1"])
    with torch.no_grad():
        feature.mul_(0)
    with pytest.raises(RuntimeError, match="inplace"):
        feature.sum().backward()


def test_a_chain_can_be_copied() -> None:
    chain = _small_chain()
    image = torch.randn(1, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(copy.deepcopy(chain)(image, ["relu2_1"])[0], chain(image, ["relu2_1"])[0])


def test_memory_returns_to_the_pool_after_its_last_user() -> None:
    pool = BufferPool()
    first = pool.take(3, 5)
    view, address = first[1:], first.data_ptr()
    del first
    gc.collect()
    assert pool.take(3, 5).data_ptr() != address, "a view still uses it"
    del view
    gc.collect()
    again = {pool.take(15).data_ptr() for _ in range(2)}
    assert address in again


def test_the_pool_keeps_no_more_than_its_limit() -> None:
    pool = BufferPool(limit=1000)
    tensors = [pool.take(100) for _ in range(5)]  # 400 bytes each
    del tensors
    gc.collect()
    assert pool._idle_bytes <= 1000
    assert len(pool._idle) == 2


def test_bfloat16_features_and_gradients_are_those_of_float32_to_its_digits() -> None:
    """bfloat16 keeps 8 bits: about 0.4 % a rounding, which some layers add up."""
    torch.manual_seed(0)
    layers = ("relu1_2", "relu2_2", "relu3_3")
    backbone = load_backbone("vgg16", layers, "random")
    image = torch.rand(2, 3, 48, 40)
    direction: dict[str, Tensor] = {}

    def run(precise: bool) -> tuple[dict[str, Tensor], Tensor]:
        photo = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            features = backbone(photo)
        for layer, found in features.items():
            direction.setdefault(layer, torch.randn_like(found))
        torch.stack([(features[layer].float() * direction[layer]).mean() for layer in layers]).sum().backward()
        assert photo.grad is not None
        return features, photo.grad

    exact, exact_gradient = run(precise=True)
    found, gradient = run(precise=False)
    for layer in layers:
        assert found[layer].dtype == torch.bfloat16
        assert (found[layer] - exact[layer]).norm() < 0.02 * exact[layer].norm()
    assert functional.cosine_similarity(gradient.flatten(), exact_gradient.flatten(), dim=0) > 0.97
