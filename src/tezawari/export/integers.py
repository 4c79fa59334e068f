"""Convolutions in whole numbers: 8-bit kernels and activations, each activation's step chosen for each picture.

ONNX Runtime for WebAssembly multiplies bytes three times as fast as floats: 128-bit vectors hold eight products of 16
bits, and there is no fused multiply-add for floats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tezawari.export.onnx import parse_model
from tezawari.export.precision import quantize_channels

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

# With fewer, as of a picture, collecting the pixels takes longer than multiplying them.
_FEWEST_CHANNELS = 16
_ZERO = 128
_ZERO_NAME = "integer_zero"


def compute_in_integers(model: bytes) -> bytes:
    """Rewrite the convolutions of an ONNX model, of one group and at least 16 input channels, in integers.

    Their inputs become bytes between their smallest and largest value (``DynamicQuantizeLinear``), their kernels
    :func:`~tezawari.export.precision.quantize_channels`, sums are exact in 32 bits, and results are float32 again
    before anything else is done to them. So nothing has to be calibrated, and no mix of styles is out of range.

    Kernels are stored without sign, zero at 128: MLAS, which ONNX Runtime multiplies by, has no vector form of a
    product whose first factor has a sign (measured in WebAssembly: 15 to 20 times slower).

    Raises:
        UserError: when the package ``onnx`` is not installed.
    """
    from onnx import numpy_helper

    loaded = parse_model(model)
    graph = loaded.graph
    kernels = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 4}
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    rewritten: list[NodeProto] = []
    quantized: set[str] = set()
    replaced: set[str] = set()
    for place, node in enumerate(nodes):
        kernel = kernels.get(node.input[1]) if node.op_type == "Conv" else None
        if kernel is None or not _is_rewritable(node, kernel):
            rewritten.append(node)
            continue
        source = node.input[0]
        if source not in quantized:
            quantized.add(source)
            rewritten.append(_quantize(source))
        replaced.add(kernel.name)
        values, steps = quantize_channels(numpy_helper.to_array(kernel))
        name = f"integer_{place}"
        graph.initializer.append(
            numpy_helper.from_array((values.astype(np.int16) + _ZERO).astype(np.uint8), f"{name}_kernel")
        )
        graph.initializer.append(numpy_helper.from_array(steps.reshape(-1, 1, 1), f"{name}_steps"))
        rewritten.extend(_integer(node, name))
    if replaced:
        graph.initializer.append(numpy_helper.from_array(np.array(_ZERO, np.uint8), _ZERO_NAME))
        for tensor in [each for each in graph.initializer if each.name in replaced]:
            graph.initializer.remove(tensor)
    del graph.node[:]
    graph.node.extend(rewritten)
    return loaded.SerializeToString()


def _is_rewritable(node: NodeProto, kernel: TensorProto) -> bool:
    groups = [each.i for each in node.attribute if each.name == "group"]
    return kernel.dims[1] >= _FEWEST_CHANNELS and groups in ([], [1])


def _quantize(source: str) -> NodeProto:
    from onnx import helper

    outputs = [f"{source}_{part}" for part in ("bytes", "step", "zero")]
    return helper.make_node("DynamicQuantizeLinear", [source], outputs, name=f"{source}_quantized")


def _integer(node: NodeProto, name: str) -> list[NodeProto]:
    """Return the operations that stand for one convolution; their tensors are named after ``name``."""
    from onnx import TensorProto, helper

    source = node.input[0]
    conv = helper.make_node(
        "ConvInteger", [f"{source}_bytes", f"{name}_kernel", f"{source}_zero", _ZERO_NAME], [f"{name}_sums"], name=name
    )
    conv.attribute.extend(node.attribute)
    result = f"{name}_scaled" if len(node.input) > 2 else node.output[0]
    nodes = [
        conv,
        helper.make_node("Cast", [f"{name}_sums"], [f"{name}_float"], name=f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_steps", f"{source}_step"], [f"{name}_scale"], name=f"{name}_steps_of_sums"),
        helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [result], name=f"{name}_unscale"),
    ]
    if len(node.input) > 2:
        # Biases lie along channels, behind which are height and width.
        axes = helper.make_node("Constant", [], [f"{name}_axes"], name=f"{name}_constant", value_ints=[1, 2])
        bias = helper.make_node("Unsqueeze", [node.input[2], f"{name}_axes"], [f"{name}_bias"], name=f"{name}_raise")
        nodes += [axes, bias, helper.make_node("Add", [result, f"{name}_bias"], [node.output[0]], name=f"{name}_add")]
    return nodes
