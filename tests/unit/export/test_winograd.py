"""Rewritten convolutions compute what convolutions do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tezawari.export.precision import reduce_precision
from tezawari.export.winograd import rewrite_convolutions

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'tezawari[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'tezawari[export]'")


def model_of(inputs: int, outputs: int, kernel: int = 3, **attributes: Any) -> bytes:
    """Two such convolutions of one size after each other, so that names must not clash."""
    random = np.random.default_rng(0)
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weights, nodes = [], []
    for place, (source, target, channels) in enumerate([("x", "h", inputs), ("h", "y", outputs)]):
        kernels = random.normal(0, 0.1, (outputs, channels, kernel, kernel)).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(kernels, f"kernel{place}"))
        bias = random.normal(0, 1, outputs).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(bias, f"bias{place}"))
        settings = {"pads": [kernel // 2] * 4, **attributes}
        nodes.append(helper.make_node("Conv", [source, f"kernel{place}", f"bias{place}"], [target], **settings))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", floats, [1, inputs, "rows", "columns"])],
        [helper.make_tensor_value_info("y", floats, [1, outputs, None, None])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def run(model: bytes, photo: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": photo})[0]


def operations(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(model).graph.node]


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (96, 72)])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 20), (32, 12)])
def test_the_result_is_the_convolutions(inputs: int, outputs: int, rows: int, columns: int) -> None:
    model = model_of(inputs, outputs)
    rewritten = rewrite_convolutions(model)
    assert "Conv" not in operations(rewritten)
    photo = np.random.default_rng(1).normal(0, 1, (1, inputs, rows, columns)).astype(np.float32)
    wanted = run(model, photo)
    np.testing.assert_allclose(run(rewritten, photo), wanted, atol=1e-4 * np.abs(wanted).max())


def test_kernels_are_stored_as_before() -> None:
    model = model_of(64, 64)
    rewritten = rewrite_convolutions(model)
    assert len(rewritten) - len(model) < 24_000
    photo = np.random.default_rng(1).normal(0, 1, (1, 64, 8, 8)).astype(np.float32)
    wanted, found = run(reduce_precision(model, "int8"), photo), run(reduce_precision(rewritten, "int8"), photo)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes"),
    [
        (32, 3, {}),
        (64, 5, {}),
        (64, 3, {"strides": [2, 2]}),
        (64, 3, {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        (64, 3, {"pads": [0, 0, 0, 0]}),
    ],
)
def test_other_convolutions_stay(channels: int, kernel: int, attributes: dict[str, Any]) -> None:
    assert operations(rewrite_convolutions(model_of(channels, channels, kernel, **attributes))) == ["Conv", "Conv"]
