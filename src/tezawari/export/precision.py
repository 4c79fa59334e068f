"""Smaller ONNX files: weights as float16 or int8, computed in float32.

Only weights are stored smaller. A runtime expands them once, when it loads the model, since operations on constants are
folded, and computes in float32 as before: the file shrinks, the speed stays, and activations lose nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tezawari.export.onnx import parse_model

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STEPS_PER_DEVIATION = 12
"""int8: steps in a channel's root mean square; less than six bits a weight after DEFLATE [ours]."""

_KERNEL_DIMENSIONS = 4
# The input that says how much of each style is asked.
_STYLES = "style_weights"

_Expansion = tuple[list["TensorProto"], list["NodeProto"]]


def reduce_precision(model: bytes, precision: Precision) -> bytes:
    """Return an ONNX model whose kernels of convolutions are stored in ``precision``, styles' scales in float16.

    What an exporter noted of its sources (lines of code, paths, shapes) is left out; runtimes do not need it.

    * ``fp16``: each value rounded to float16.
    * ``int8``: :func:`quantize_channels` of each output channel.

    Biases stay in float32, as all does for ``fp32``.

    Raises:
        UserError: when the package ``onnx`` is not installed.
    """
    loaded = parse_model(model)
    for noted in (loaded, loaded.graph, *loaded.graph.node, *loaded.graph.initializer):
        noted.ClearField("doc_string")
        noted.ClearField("metadata_props")
    del loaded.graph.value_info[:]
    if precision != "fp32":
        _replace_kernels(loaded.graph, _as_half if precision == "fp16" else _as_int8)
    return loaded.SerializeToString()


def quantize_channels(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each output channel of ``weight`` ``(C, ...)`` to whole steps; returns int8 values and steps ``(C,)``.

    The step is the channel's root mean square over :data:`STEPS_PER_DEVIATION`, or, where the largest weight would not
    fit into ±127 steps, what makes it fit. Nothing is clipped, so each error is at most half a step.

    Differs from the usual step, the largest weight over 127: with that one the values spread over all of int8 and
    hardly compress. With this one the frequent values are few, and an entropy coder stores six bits a weight.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    rms = np.sqrt(np.mean(rows**2, axis=1))
    steps = np.maximum(rms / STEPS_PER_DEVIATION, np.abs(rows).max(axis=1) / 127).astype(np.float32)
    steps[steps == 0] = 1  # a channel of zeros
    values = np.rint(rows / steps[:, None]).clip(-127, 127).astype(np.int8)
    return values.reshape(weight.shape), steps


def _replace_kernels(graph: GraphProto, expand: Callable[[str, NDArray[np.float32]], _Expansion]) -> None:
    from onnx import TensorProto, numpy_helper

    rows = _multiplied_by_weights(graph)
    kept, nodes = [], []
    for tensor in graph.initializer:
        is_kernel = tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == _KERNEL_DIMENSIONS
        if is_kernel or tensor.name in rows:
            # A style's rows are a hundredth of a network, and their errors reach every pixel.
            stored, expansion = (expand if is_kernel else _as_half)(tensor.name, numpy_helper.to_array(tensor))
            kept.extend(stored)
            nodes.extend(expansion)
        else:
            kept.append(tensor)
    nodes.extend(graph.node)
    for field, content in ((graph.initializer, kept), (graph.node, nodes)):
        copies = [type(each).FromString(each.SerializeToString()) for each in content]
        del field[:]
        field.extend(copies)


def _multiplied_by_weights(graph: GraphProto) -> set[str]:
    """Return the names of what the weights of styles, or their shares, are multiplied by: one row a style."""
    constants = {tensor.name for tensor in graph.initializer}
    of_weights, rows = {_STYLES}, set()
    for node in graph.node:
        if of_weights.isdisjoint(node.input):
            continue
        if node.op_type in ("MatMul", "Gemm", "Einsum"):
            rows |= constants.intersection(node.input)
        else:
            of_weights.update(node.output)
    return rows


def _as_half(name: str, weight: NDArray[np.float32]) -> _Expansion:
    from onnx import TensorProto, helper, numpy_helper

    half = numpy_helper.from_array(weight.astype(np.float16), f"{name}_half")
    return [half], [helper.make_node("Cast", [half.name], [name], to=TensorProto.FLOAT)]


# Cast and Mul rather than DequantizeLinear: ONNX Runtime leaves that one in place, to be computed for every photo.
def _as_int8(name: str, weight: NDArray[np.float32]) -> _Expansion:
    from onnx import TensorProto, helper, numpy_helper

    values, steps = quantize_channels(weight)
    whole = numpy_helper.from_array(values, f"{name}_int8")
    step = numpy_helper.from_array(steps.reshape(-1, *[1] * (weight.ndim - 1)), f"{name}_step")
    cast = helper.make_node("Cast", [whole.name], [f"{name}_steps"], to=TensorProto.FLOAT)
    return [whole, step], [cast, helper.make_node("Mul", [f"{name}_steps", step.name], [name])]
