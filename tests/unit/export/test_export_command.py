"""One command for networks and for words."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from tezawari.core.errors import UserError
from tezawari.style.export_command import add_arguments, load_stylizer, run
from tezawari.style.network import build_network
from tezawari.style.package import save_network


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ふわふわ"], "--zip FILE for a collected word"),
        (["ふわふわ", "--zip", "a.zip", "--precision", "int8"], "--precision is for networks"),
        (["ふわふわ", "--zip", "a.zip", "--serve", "0"], "--serve is for networks"),
        (["net", "--to", "onnx", "--zip", "a.zip"], "leave one of them out"),
        (["net", "--to", "onnx", "--serve", "0"], "only --to web"),
        (["net", "--to", "openvino", "--precision", "int8"], "fp32 or fp16"),
        (["net", "--to", "onnx"], "no checkpoint at net"),
        (["embedded", "--to", "onnx", "-o", "net.pt"], r"ends in \.onnx"),
        (["embedded", "--to", "openvino", "-o", "net.onnx"], r"ends in \.xml"),
        (["ふわふわ", "--zip", "a.zip", "--count", "none"], "--count none"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        run(parse(*words))
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_stands_for_its_network(tmp_path: Path) -> None:
    save_network(tmp_path / "network.safetensors", build_network("deepstylecam", 2), ["wood", "water"], {})
    assert load_stylizer(str(tmp_path)).style_names == ["wood", "water"]
    assert len(load_stylizer("embedded").style_names) == 8


@pytest.mark.parametrize("fusion", ["concat", "cin"])
def test_moments_of_each_photo_cannot_be_exported(tmp_path: Path, fusion: str) -> None:
    file = save_network(
        tmp_path / "n.safetensors", build_network("deepstylecam", 2, fusion, "instance"), ["a", "b"], {}
    )
    with pytest.raises(UserError, match=r"model\.norm=instance cannot be exported"):
        load_stylizer(str(file))


def test_the_embedded_network_fits_into_a_megabyte_and_hardly_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'tezawari[export]'")
    pytest.importorskip("onnxscript", reason="needs onnxscript: pip install 'tezawari[export]'")
    file = tmp_path / "new" / "style.onnx.gz"
    assert run(parse("embedded", "--to", "onnx", "--precision", "int8", "-o", str(file))) == 0
    assert file.stat().st_size < 1_000_000
    told = capsys.readouterr().out
    assert "int8, 0.3" in told
    assert "8 styles" in told
    # The test's own measure of what the command told: another photo, another size, a mix.
    session = onnxruntime.InferenceSession(gzip.decompress(file.read_bytes()), providers=["CPUExecutionProvider"])
    photo = torch.rand(1, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    style = torch.tensor([[0.5, 0, 0, 0, 0.25, 0, 0, 0.25]])
    found = session.run(None, {"content_image": photo.numpy(), "style_weights": style.numpy()})[0]
    with torch.no_grad():
        wanted = load_stylizer("embedded").trained.network(photo, style).numpy()
    assert 0 < np.abs(found - wanted).mean() < 2 / 255
