"""A network in the forms that browsers run fast: one for WebAssembly, one for WebGPU."""

from __future__ import annotations

from dataclasses import dataclass

from tezawari.export.integers import compute_in_integers
from tezawari.export.precision import Precision, reduce_precision
from tezawari.export.winograd import TILE, rewrite_convolutions


@dataclass(frozen=True)
class BrowserModels:
    """ONNX files of one network; the sides that ``wasm`` takes are multiples of ``multiple`` times the network's."""

    wasm: bytes
    webgpu: bytes
    multiple: int


def browser_models(model: bytes, precision: Precision) -> BrowserModels:
    """Return a float32 ONNX model in the forms for browsers, their kernels stored in ``precision``.

    WebAssembly computes int8 in integers, where they are faster than anything in float32, and the others with fewer
    multiplications. WebGPU has fast convolutions of its own and none in integers: it computes in float32.

    Raises:
        UserError: when the package ``onnx`` is not installed.
    """
    whole = precision == "int8"
    return BrowserModels(
        wasm=reduce_precision(compute_in_integers(model) if whole else rewrite_convolutions(model), precision),
        webgpu=reduce_precision(model, precision),
        multiple=1 if whole else TILE,
    )
