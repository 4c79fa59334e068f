"""Convolutions in integers give what those in floats give, to the steps of their bytes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tezawari.export.browser_models import browser_models
from tezawari.export.integers import compute_in_integers
from tezawari.export.precision import PRECISIONS

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'tezawari[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'tezawari[export]'")

_RANDOM = np.random.default_rng(0)
_KERNEL = _RANDOM.normal(0, 0.1, (24, 16, 4, 4)).astype(np.float32)


def model(with_bias: bool = True, channels: int = 16, group: int = 1) -> bytes:
    """One convolution of stride 2 with a margin, whose input may be negative."""
    helper, numpy_helper, floats = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    kernel = _KERNEL[:, : channels // group]
    inputs = ["x", "kernel", *(["bias"] if with_bias else [])]
    conv = helper.make_node("Conv", inputs, ["y"], pads=[1, 1, 1, 1], strides=[2, 2], group=group)
    graph = helper.make_graph(
        [conv],
        "graph",
        [helper.make_tensor_value_info("x", floats, [1, channels, "rows", "columns"])],
        [helper.make_tensor_value_info("y", floats, [1, 24, "h", "w"])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.arange(24, dtype=np.float32), "bias")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return made.SerializeToString()


def run(file: bytes, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def operations(file: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(file).graph.node]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("size", [1e-3, 1.0, 500.0])
def test_the_result_is_that_of_the_float_convolution(with_bias: bool, size: float) -> None:
    # Not centred: zero must still be a byte of its own, which the margin is filled with.
    x = (size * _RANDOM.normal(0.8, 0.5, (1, 16, 18, 14))).astype(np.float32)
    file = model(with_bias)
    whole = compute_in_integers(file)
    onnx.checker.check_model(onnx.load_model_from_string(whole))
    assert "ConvInteger" in operations(whole)
    assert "Conv" not in operations(whole)
    wanted = run(file, x) - run(file, np.zeros_like(x))
    gap = np.abs(run(whole, x) - run(file, x))
    assert gap.shape == wanted.shape == (1, 24, 9, 7)
    assert gap.max() < 0.05 * np.abs(wanted).max()
    assert gap.max() > 0


def test_whole_numbers_are_exact() -> None:
    """Bytes times kernels of few values have nothing to round, at the margin neither."""
    loaded = onnx.load_model_from_string(model(with_bias=False))
    kernel = np.where(_RANDOM.random(_KERNEL.shape) < 0.5, -1, 1).astype(np.float32)
    loaded.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "kernel"))
    x = _RANDOM.integers(-100, 156, (1, 16, 8, 8)).astype(np.float32)
    x[0, 0, 0, :2] = -100, 155
    file = loaded.SerializeToString()
    assert np.abs(run(compute_in_integers(file), x) - run(file, x)).max() < 0.01


@pytest.mark.parametrize(("channels", "group"), [(4, 1), (16, 2)])
def test_other_convolutions_stay(channels: int, group: int) -> None:
    file = model(channels=channels, group=group)
    whole = compute_in_integers(file)
    assert operations(whole) == ["Conv"]
    x = _RANDOM.normal(0, 1, (1, channels, 8, 8)).astype(np.float32)
    assert np.array_equal(run(whole, x), run(file, x))


def test_one_input_becomes_bytes_once_for_all_that_read_it() -> None:
    loaded = onnx.load_model_from_string(model(with_bias=False))
    twin = type(loaded.graph.node[0]).FromString(loaded.graph.node[0].SerializeToString())
    twin.output[0] = "z"
    loaded.graph.node.append(twin)
    loaded.graph.node.append(onnx.helper.make_node("Add", ["y", "z"], ["sum"]))
    loaded.graph.output[0].name = "sum"
    file = loaded.SerializeToString()
    whole = compute_in_integers(file)
    assert operations(whole).count("DynamicQuantizeLinear") == 1
    x = _RANDOM.normal(0, 1, (1, 16, 8, 8)).astype(np.float32)
    assert np.abs(run(whole, x) - run(file, x)).max() < 0.05 * np.abs(run(file, x)).max()


def test_browsers_get_integers_for_int8_alone() -> None:
    file = model()
    for precision in PRECISIONS:
        models = browser_models(file, precision)
        assert ("ConvInteger" in operations(models.wasm)) is (precision == "int8")
        assert operations(models.webgpu).count("Conv") == 1


def test_a_styles_scale_costs_no_pass_of_its_own() -> None:
    """Multiplied into the step of each channel, of which there are few, not into the result."""
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    made = onnx.load_model_from_string(model(with_bias=False))
    scale = helper.make_tensor_value_info("scale", floats, [24])
    graph, axes = made.graph, onnx.numpy_helper.from_array(np.array([0, 2, 3]), "axes")
    graph.initializer.append(axes)
    graph.input.append(scale)
    graph.node.insert(0, helper.make_node("Unsqueeze", ["scale", "axes"], ["scales"]))
    graph.node.append(helper.make_node("Mul", ["y", "scales"], ["z"]))
    graph.output[0].name = "z"
    file = made.SerializeToString()
    whole = compute_in_integers(file)
    x = _RANDOM.normal(0, 1, (1, 16, 18, 14)).astype(np.float32)
    feeds = {"x": x, "scale": np.linspace(-1, 2, 24, dtype=np.float32)}
    found, wanted = (
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for each in (whole, file)
    )
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    over_results = [node for node in onnx.load_model_from_string(whole).graph.node if "integer_1_float" in node.input]
    assert [node.output[0] for node in over_results] == ["z"], "one pass over the result, which is then scaled"
