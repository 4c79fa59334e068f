"""Convolutions with fewer multiplications: Winograd's algorithm as operations of ONNX.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), F(4×4, 3×3): 36 multiplications for a
tile of 4×4 outputs where the plain way takes 144. ONNX Runtime for WebAssembly computes convolutions the plain way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tezawari.export.onnx import parse_model

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

TILE = 4
"""Heights and widths of what the rewritten convolutions read must be multiples of it."""

_FEWEST_CHANNELS = 64  # with fewer the transforms cost more than they save
_INPUT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
_KERNEL = np.array(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    dtype=np.float64,
) / np.array([[24], [24], [24], [24], [24], [24]])
_OUTPUT = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=np.float64,
)
# A tile of 6×6 inputs is a cell of 4×4 and the first two rows and columns of the cells below and to the right.
_REACH = 2


def rewrite_convolutions(model: bytes) -> bytes:
    """Rewrite 3×3 convolutions of stride 1, padding 1 and at least 64 channels in and out, of one image.

    The result is the same to rounding, where heights and widths at these convolutions are multiples of :data:`TILE`.
    Kernels are stored as they were: a runtime transforms them once, when it loads the model.

    Raises:
        UserError: when the package ``onnx`` is not installed.
    """
    loaded = parse_model(model)
    graph = loaded.graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    nodes = [type(node).FromString(node.SerializeToString()) for node in graph.node]
    rewritten, found = [], False
    for place, node in enumerate(nodes):
        if _is_rewritable(node, shapes):
            found = True
            rewritten.extend(_winograd(node, f"winograd_{place}", shapes[node.input[1]]))
        else:
            rewritten.append(node)
    if found:
        graph.initializer.extend(_constants())
    del graph.node[:]
    graph.node.extend(rewritten)
    return loaded.SerializeToString()


def _is_rewritable(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    if node.op_type != "Conv" or len(node.input) < 3:
        return False
    shape = shapes.get(node.input[1], ())
    if len(shape) != 4 or shape[2:] != (3, 3) or min(shape[:2]) < _FEWEST_CHANNELS:
        return False
    values = {each.name: list(each.ints) or each.i for each in node.attribute}
    return (
        values.get("group", 1) == 1
        and values.get("strides", [1, 1]) == [1, 1]
        and values.get("dilations", [1, 1]) == [1, 1]
        and values.get("pads") == [1, 1, 1, 1]
    )


def _winograd(node: NodeProto, name: str, shape: tuple[int, ...]) -> list[NodeProto]:
    """Return the operations that stand for one convolution; their tensors are named after ``name``."""
    from onnx import helper

    outputs, inputs = shape[:2]
    nodes: list[NodeProto] = []

    def add(op: str, sources: list[str], suffix: str, **attributes: Any) -> str:
        result = node.output[0] if not suffix else f"{name}_{suffix}"
        nodes.append(helper.make_node(op, sources, [result], name=f"{name}_{suffix or 'result'}", **attributes))
        return result

    def constant(values: list[int], suffix: str) -> str:
        return add("Constant", [], suffix, value_ints=values)

    weight, bias = node.input[1], node.input[2]
    # Kernels: constants, folded when the model is loaded.
    flat = add("Reshape", [weight, constant([outputs * inputs, 9], "k_shape")], "k_flat")
    turned = add("Transpose", [flat], "k_turned", perm=[1, 0])
    kernel = add("MatMul", ["winograd_kernel", turned], "k_36")
    kernel = add("Reshape", [kernel, constant([36, outputs, inputs], "u_shape")], "u")
    # Cells of 4×4 as channels, with a margin of one pixel before and, to fill the last cells, three after.
    padded = add("Pad", [node.input[0], "winograd_pads"], "padded")
    cells = add("SpaceToDepth", [padded], "cells", blocksize=TILE)
    size = add("Shape", [cells], "size", start=2, end=4)
    by_phase = add("Concat", [constant([TILE, TILE, inputs], "phases"), size], "phase_shape", axis=0)
    cells = add("Reshape", [cells, by_phase], "phases_of_cells")
    # The last row and column of cells only lend their first rows and columns to the tiles before them.
    tiles = cells
    for axis, way in ((0, "below"), (1, "right")):
        along = f"winograd_axis_{axis + 3}"
        here = add("Slice", [tiles, "winograd_0", "winograd_last", along], f"{way}_here")
        next_cells = add("Slice", [tiles, "winograd_1", "winograd_end", along], f"{way}_next")
        lent = add("Slice", [next_cells, "winograd_0", "winograd_reach", f"winograd_axis_{axis}"], f"{way}_lent")
        tiles = add("Concat", [here, lent], f"{way}_tiles", axis=axis)
    tiles = add("Reshape", [tiles, constant([36, -1], "t_shape")], "t_flat")
    spectrum = add("MatMul", ["winograd_input", tiles], "v_flat")
    spectrum = add("Reshape", [spectrum, constant([36, inputs, -1], "v_shape")], "v")
    product = add("MatMul", [kernel, spectrum], "m")
    product = add("Reshape", [product, constant([36, -1], "m_shape")], "m_flat")
    picture = add("MatMul", ["winograd_output", product], "y_flat")
    picture_size = add("Sub", [size, "winograd_1"], "y_size")
    y_shape = add("Concat", [constant([1, TILE * TILE * outputs], "y_channels"), picture_size], "y_shape", axis=0)
    picture = add("Reshape", [picture, y_shape], "y")
    picture = add("DepthToSpace", [picture], "plain", blocksize=TILE, mode="DCR")
    channels = add("Reshape", [bias, constant([outputs, 1, 1], "b_shape")], "b")
    add("Add", [picture, channels], "")
    return nodes


def _constants() -> list[TensorProto]:
    from onnx import numpy_helper

    arrays: dict[str, NDArray[Any]] = {
        "winograd_input": np.kron(_INPUT, _INPUT).astype(np.float32),
        "winograd_kernel": np.kron(_KERNEL, _KERNEL).astype(np.float32),
        "winograd_output": np.kron(_OUTPUT, _OUTPUT).astype(np.float32),
        "winograd_pads": np.array([0, 0, 1, 1, 0, 0, 3, 3], np.int64),
        "winograd_0": np.array([0], np.int64),
        "winograd_1": np.array([1], np.int64),
        "winograd_last": np.array([-1], np.int64),
        "winograd_end": np.array([np.iinfo(np.int32).max], np.int64),
        "winograd_reach": np.array([_REACH], np.int64),
        **{f"winograd_axis_{axis}": np.array([axis], np.int64) for axis in (0, 1, 3, 4)},
    }
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]
