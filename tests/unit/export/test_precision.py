"""Smaller files hold nearly the same weights, and runtimes read them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tezawari.export.precision import STEPS_PER_DEVIATION, Precision, quantize_channels, reduce_precision

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'tezawari[export]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'tezawari[export]'")

_RANDOM = np.random.default_rng(0)
_KERNEL = _RANDOM.normal(0, 0.1, (48, 32, 3, 3)).astype(np.float32)
_BIAS = _RANDOM.normal(0, 1, 48).astype(np.float32)
_PHOTO = _RANDOM.random((1, 32, 12, 10), dtype=np.float32)


def convolution_model() -> bytes:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node("Conv", ["x", "kernel", "bias"], ["y"], pads=[1, 1, 1, 1], doc_string="/somewhere/model.py")
    node.metadata_props.add(key="stack", value="/somewhere/model.py:1")
    floats = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", floats, [1, 32, "rows", "columns"])],
        [helper.make_tensor_value_info("y", floats, [1, 48, "rows", "columns"])],
        [numpy_helper.from_array(_KERNEL, "kernel"), numpy_helper.from_array(_BIAS, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def run(model: bytes, photo: NDArray[np.float32] = _PHOTO) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": photo})[0]


@pytest.mark.parametrize(("precision", "bytes_each"), [("fp32", 4), ("fp16", 2), ("int8", 1)])
def test_a_file_shrinks_as_its_weights_do(precision: Precision, bytes_each: int) -> None:
    size = len(reduce_precision(convolution_model(), precision))
    assert bytes_each * _KERNEL.size < size < bytes_each * _KERNEL.size + 1500


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_runtime_computes_with_the_stored_weights(precision: Precision) -> None:
    model = convolution_model()
    if precision == "fp16":
        stored = _KERNEL.astype(np.float16).astype(np.float32)
    else:
        values, steps = quantize_channels(_KERNEL)
        stored = values * steps[:, None, None, None]
    plain = onnx.load_model_from_string(model)
    plain.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(stored, "kernel"))
    found = run(reduce_precision(model, precision))
    np.testing.assert_allclose(found, run(plain.SerializeToString()), atol=1e-4)
    assert 0 < np.abs(found - run(model)).max() < (0.01 if precision == "fp16" else 0.2)


def test_int8_compresses_to_six_bits_a_weight() -> None:
    size = len(gzip.compress(reduce_precision(convolution_model(), "int8"), 9))
    assert size < 6.5 / 8 * _KERNEL.size + 1000


def test_nothing_is_told_of_the_machine_that_exported() -> None:
    assert b"/somewhere" in convolution_model()
    assert b"/somewhere" not in reduce_precision(convolution_model(), "fp32")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e4), st.sampled_from([0.0, 1.0, 40.0]))
def test_each_weight_is_within_half_a_step(seed: int, scale: float, outlier: float) -> None:
    random = np.random.default_rng(seed)
    weight = (random.normal(0, scale, (3, 4, 2, 2))).astype(np.float32)
    weight[0, 0, 0, 0] += outlier * scale
    values, steps = quantize_channels(weight)
    assert values.dtype == np.int8
    error = np.abs(values * steps[:, None, None, None].astype(np.float64) - weight)
    assert (error <= steps[:, None, None, None] * 0.5001).all()
    deviation = np.sqrt(np.mean(weight.astype(np.float64) ** 2, axis=(1, 2, 3)))
    assert (steps >= deviation / STEPS_PER_DEVIATION * 0.9999).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    values, steps = quantize_channels(np.zeros((2, 3, 1, 1), np.float32))
    assert not values.any()
    assert np.isfinite(steps).all()
