"""The deployed and the exported network compute what the trained one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tezawari.core.errors import UserError
from tezawari.export.onnx import export_onnx, load_onnxruntime, load_openvino
from tezawari.style.inference import DeployedNetwork, ExportableNetwork, export_style_network
from tezawari.style.network import ConditionalNetwork, build_network
from tezawari.style.tiling import stylize_image


def _trained(net: str, norm: str = "batch", styles: int = 3) -> ConditionalNetwork:
    """A network whose moments, biases and style rows are far from neutral, so that an error of any would show."""
    torch.manual_seed(0)
    network = build_network(net, styles, "cin" if norm == "settled" else "concat", norm)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(float(name.endswith("weight")), 0.3)
            elif "scale_shift" in name:
                parameter += 0.3 * torch.randn_like(parameter)
        for _ in range(3):
            network(torch.rand(2, 3, 48, 48), torch.rand(2, styles))
    return network.eval()


@pytest.mark.parametrize("norm", ["batch", "settled"])
@pytest.mark.parametrize("net", ["deepstylecam", "johnson", "swift"])
@pytest.mark.parametrize("size", [(64, 64), (17, 33), (50, 71)])
@torch.no_grad()
def test_the_deployed_network_is_the_trained_one(net: str, norm: str, size: tuple[int, int]) -> None:
    network = _trained(net, norm)
    photo = torch.rand(2, 3, *size)
    deployed = DeployedNetwork(network)
    for style in (torch.rand(2, 3), torch.rand(2, 3, *size)):
        wanted = network(photo, style)
        assert wanted.std() > 0.05
        torch.testing.assert_close(deployed(photo, style), wanted, atol=2e-5, rtol=0)
        torch.testing.assert_close(deployed(photo[:1], style[:1]), wanted[:1], atol=2e-5, rtol=0)


@torch.no_grad()
def test_deploying_leaves_the_trained_network_as_it_was() -> None:
    network, photo, style = _trained("deepstylecam"), torch.rand(1, 3, 32, 32), torch.rand(1, 3)
    before = network(photo, style)
    DeployedNetwork(network)
    assert torch.equal(network(photo, style), before)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.no_grad()
def test_tiles_of_the_deployed_network_leave_no_seam() -> None:
    network, photo, style = _trained("deepstylecam"), torch.rand(3, 203, 261), torch.rand(3)
    tiled = stylize_image(DeployedNetwork(network), photo, style, tile=64)
    torch.testing.assert_close(tiled, network(photo[None], style[None])[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_bfloat16_differs_by_less_than_two_of_255() -> None:
    network, photo, style = _trained("deepstylecam"), torch.rand(1, 3, 64, 64), torch.rand(1, 3)
    half = DeployedNetwork(network).to(torch.bfloat16)
    found = half(photo.bfloat16(), style.bfloat16()).float()
    assert (found - network(photo, style)).abs().mean() < 2 / 255


def test_instance_moments_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="instance moments"):
        DeployedNetwork(_trained("deepstylecam", "instance"))


@pytest.mark.parametrize("norm", ["batch", "settled"])
@pytest.mark.parametrize("net", ["deepstylecam", "johnson", "swift"])
@torch.no_grad()
def test_the_exportable_network_is_the_trained_one(net: str, norm: str) -> None:
    network = _trained(net, norm)
    exportable, multiple = ExportableNetwork(network), network.bottleneck_stride
    photo, style = torch.rand(1, 3, 2 * multiple, 3 * multiple), torch.rand(1, 3)
    torch.testing.assert_close(exportable(photo, style), network(photo, style), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["batch", "settled"])
@torch.no_grad()
def test_a_written_model_runs_at_any_such_size(tmp_path: Path, norm: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    network = _trained("deepstylecam", norm)
    exported = export_style_network(network, tmp_path / "new" / "network.onnx", side=64)
    assert exported.max_difference < 1e-4
    photo, style = torch.rand(1, 3, 96, 64), torch.rand(1, 3)
    wanted = network(photo, style)
    torch.testing.assert_close(load_onnxruntime(exported.path, threads=1)(photo, style), wanted, atol=1e-4, rtol=0)
    openvino = load_openvino(exported.path, [photo.shape, style.shape], threads=1)
    torch.testing.assert_close(openvino(photo, style), wanted, atol=1e-4, rtol=0)


def test_a_path_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx(nn.Identity(), {"input": torch.zeros(1)}, ["output"], tmp_path / "file" / "network.onnx")
