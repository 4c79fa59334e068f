"""Convolutions in whole numbers: 8-bit kernels and activations, each activation's step chosen for each picture.

ONNX Runtime for WebAssembly multiplies bytes three times as fast as floats: 128-bit vectors hold eight products of 16
bits, and there is no fused multiply-add for floats.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from tezawari.export.onnx import parse_model
from tezawari.export.precision import quantize_channels

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

# With fewer, as of a picture, collecting the pixels takes longer than multiplying them.
_FEWEST_CHANNELS = 16
_ZERO = 128
_ZERO_NAME = "integer_zero"


def compute_in_integers(model: bytes) -> bytes:
    """Rewrite the convolutions of an ONNX model, of one group and at least 16 input channels, in integers.

    Their inputs become bytes between their smallest and largest value (``DynamicQuantizeLinear``), their kernels
    :func:`~tezawari.export.precision.quantize_channels`, sums are exact in 32 bits, and results are float32 again
    before anything else is done to them. So nothing has to be calibrated, and no mix of styles is out of range.

    Where a result is multiplied by a number a channel, as by a style's scale, the step is multiplied by it instead.

    Kernels are stored without sign, zero at 128: MLAS, which ONNX Runtime multiplies by, has no vector form of a
    product whose first factor has a sign (measured in WebAssembly: 15 to 20 times slower).

    Raises:
        UserError: when the package ``onnx`` is not installed.
    """
    from onnx import helper, numpy_helper

    loaded = parse_model(model)
    graph = loaded.graph
    scaled_by = _scales_of_results(loaded)
    scaling: dict[str, tuple[str, str]] = {}
    kernels = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 4}
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    rewritten: list[NodeProto] = []
    quantized: set[str] = set()
    replaced: set[str] = set()
    for place, node in enumerate(nodes):
        kernel = kernels.get(node.input[1]) if node.op_type == "Conv" else None
        if node.output[0] in scaling:
            name, scale = scaling[node.output[0]]
            rewritten.append(
                helper.make_node("Mul", [f"{name}_scale", scale], [f"{name}_scales"], name=f"{name}_style")
            )
            rewritten.append(_unscale(name, f"{name}_scales", node.output[0]))
            continue
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
        following = scaled_by.get(node.output[0]) if len(node.input) == 2 else None
        if following is not None:
            scaling[following[0]] = name, following[1]
        rewritten.extend(_integer(node, name, unscaled=following is not None))
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


def _scales_of_results(model: ModelProto) -> dict[str, tuple[str, str]]:
    """Return, by what is only multiplied, and by a number a channel: the product's name and the multiplier's."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    uses = Counter(name for node in graph.node for name in node.input)
    a_number_a_channel = {
        value.name
        for value in graph.value_info
        if [d.dim_value for d in value.type.tensor_type.shape.dim][-2:] == [1, 1]
    }
    found = {}
    for node in graph.node:
        if node.op_type == "Mul":
            for value, scale in (node.input, node.input[::-1]):
                if scale in a_number_a_channel and value not in a_number_a_channel and uses[value] == 1:
                    found[value] = node.output[0], scale
    return found


def _quantize(source: str) -> NodeProto:
    from onnx import helper

    outputs = [f"{source}_{part}" for part in ("bytes", "step", "zero")]
    return helper.make_node("DynamicQuantizeLinear", [source], outputs, name=f"{source}_quantized")


def _unscale(name: str, scale: str, result: str) -> NodeProto:
    from onnx import helper

    return helper.make_node("Mul", [f"{name}_float", scale], [result], name=f"{name}_unscale")


def _integer(node: NodeProto, name: str, unscaled: bool) -> list[NodeProto]:
    """Return the operations that stand for one convolution; their tensors are named after ``name``.

    ``unscaled`` leaves out the last one, which gives the result its scale.
    """
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
    ]
    if not unscaled:
        nodes.append(_unscale(name, f"{name}_scale", result))
    if len(node.input) > 2:
        # Biases lie along channels, behind which are height and width.
        axes = helper.make_node("Constant", [], [f"{name}_axes"], name=f"{name}_constant", value_ints=[1, 2])
        bias = helper.make_node("Unsqueeze", [node.input[2], f"{name}_axes"], [f"{name}_bias"], name=f"{name}_raise")
        nodes += [axes, bias, helper.make_node("Add", [result, f"{name}_bias"], [node.output[0]], name=f"{name}_add")]
    return nodes
