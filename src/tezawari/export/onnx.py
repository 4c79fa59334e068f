"""ONNX files of networks, checked against PyTorch, and the runtimes that run them."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tezawari.core.errors import UserError

Run = Callable[..., Tensor]
"""Runs a model: tensors in, in the order of the model's inputs, its first output out."""


@dataclass(frozen=True)
class Exported:
    """A written model and how far, in absolute values, ONNX Runtime's result is from PyTorch's on the example."""

    path: Path
    mean_difference: float
    max_difference: float


@torch.no_grad()
def export_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    dynamic: Sequence[Any] | None = None,
    reference: nn.Module | None = None,
) -> Exported:
    """Write ``module`` as an ONNX file and measure its difference from PyTorch.

    Args:
        module: in evaluation mode.
        inputs: example inputs by the names of ``forward``'s arguments, in their order.
        outputs: names of the outputs.
        path: the file; written aside and renamed, so that it is whole or absent.
        dynamic: for each input the dimensions that may vary, as ``torch.export`` takes them; none where not given.
        reference: what to compare with; ``module`` itself where not given.

    Raises:
        UserError: when ONNX's packages are not installed, or the file cannot be written.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _optional(package)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=None if dynamic is None else tuple(dynamic),
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(str(aside), external_data=False)
        aside.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()
    values = tuple(inputs.values())
    gap = (load_onnxruntime(path)(*values) - (reference or module)(*values)).abs()
    return Exported(path, float(gap.mean()), float(gap.max()))


def load_onnxruntime(path: Path, threads: int = 0) -> Run:
    """Load a model into ONNX Runtime on the CPU; ``threads`` 0 is the runtime's choice."""
    runtime = _optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*values: Tensor) -> Tensor:
        feeds = {name: value.contiguous().numpy() for name, value in zip(names, values)}
        return torch.from_numpy(session.run(None, feeds)[0])

    return run


def load_openvino(path: Path, shapes: Sequence[Sequence[int]], threads: int = 0, precision: str = "f32") -> Run:
    """Load a model into OpenVINO on the CPU, for inputs of fixed ``shapes``, in the order of its inputs.

    ``precision`` is what it may compute in (``f32`` or ``bf16``); ``threads`` 0 is the runtime's choice.
    """
    openvino = _optional("openvino")
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape({value.get_any_name(): list(shape) for value, shape in zip(model.inputs, shapes)})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(*values: Tensor) -> Tensor:
        request.infer([value.contiguous().numpy() for value in values])
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def save_openvino(model: Path, path: Path, half: bool = False) -> None:
    """Convert an ONNX file to OpenVINO's pair of files, ``path`` (``.xml``) and its ``.bin``.

    With ``half``, weights are stored as float16.

    Raises:
        UserError: when OpenVINO is not installed.
    """
    openvino = _optional("openvino")
    openvino.save_model(openvino.Core().read_model(str(model)), str(path), compress_to_fp16=half)


def parse_model(model: bytes) -> Any:
    """Return the ``onnx.ModelProto`` of a serialised model; raises UserError where ``onnx`` is not installed."""
    return _optional("onnx").load_model_from_string(model)


def _optional(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"{package} is not installed: pip install 'tezawari[export]'") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress lines: what goes wrong is raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
