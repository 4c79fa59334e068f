"""``python evaluate.py benchmark=style_speed``: speed and memory beside a textbook network, all in one run."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from tezawari.core.errors import UserError
from tezawari.core.machine import computes_bf16, keep_freed_memory
from tezawari.core.runs import describe_machine
from tezawari.core.timing import count_gflop, matmul_peak, time_in_turns
from tezawari.data.photo import write_photo
from tezawari.data.sample import SampleData
from tezawari.style.equal_steps_benchmark import train_equally
from tezawari.style.inference import export_style_network
from tezawari.style.network import Net
from tezawari.style.package import load_network, save_network
from tezawari.style.peak_memory import Job, PhotoJob, StylizeJob, TrainingJob, measure
from tezawari.style.speed_candidates import (
    STYLIZING,
    TRAINED_NORM,
    TRAINING,
    Setup,
    StylizeCandidate,
    TrainingCandidate,
    as_run,
    eager_of,
    random_network,
    stylize_on_meta,
    stylize_step,
    training_step,
)
from tezawari.style.speed_report import EqualStepsRow, Machine, MemoryRow, Report, StylizeRow, TrainingRow, write_report

Part = Literal["training", "stylise", "memory", "photo"]
FOLDER = "style_speed"
# A quick candidate runs several times in its turn.
_TURN_SECONDS = 0.25
# Every network here takes multiples of 32; beyond 4096 eager candidates take tens of gigabytes.
_SIDE_STEP, _SMALLEST, _LARGEST = 32, 64, 4096


@dataclass(frozen=True)
class Limits:
    """What is left out: candidates that compile, or that compute in bfloat16, and why the latter (None: not)."""

    compile: bool
    no_bf16: str | None

    def reason(self, candidate: TrainingCandidate | StylizeCandidate) -> str | None:
        """Return why ``candidate`` cannot run, None where it can."""
        packages = candidate.packages if isinstance(candidate, StylizeCandidate) else ()
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        if missing:
            return f"not installed: {', '.join(missing)}"
        return self.no_bf16 if candidate.bf16 else None

    def offered(self, candidate: TrainingCandidate | StylizeCandidate) -> bool:
        """Whether ``candidate`` has a row at all: what was not asked for has none."""
        return self.compile or not candidate.compiled


def benchmark_speed(
    output_dir: str,
    parts: list[Part],
    sizes: list[int],
    repeats: PositiveInt,
    train_size: int,
    batch_size: PositiveInt,
    train_steps: PositiveInt,
    weights: str,
    checkpoint: str | None,
    compile: bool,
    bf16: bool | None,
    photo_size: list[int],
    equal_steps: NonNegativeInt,
) -> dict[str, Path]:
    """Measure training, restyling and memory beside Johnson's network under the same loss; return the files by name.

    All candidates of a table take turns in one process, so that its ratios hold on a machine that is busy with other
    things. The textbook's candidates compute in float32, eagerly, with memory as PyTorch has it by itself; one more of
    them keeps freed memory as our commands do, which tells how much of a ratio that is.

    Args:
        output_dir: the files go to its folder ``style_speed``.
        parts: what to measure, of ``training``, ``stylise``, ``memory`` (of all that the first two run) and ``photo``
            (the peak memory of one large photo, from file to file).
        sizes: sides in pixels of the square photos to restyle.
        repeats: turns of each candidate in restyling.
        train_size: side in pixels of the square training crops.
        batch_size: pictures a step, an even number.
        train_steps: timed steps of each candidate in training.
        weights: VGG16's weights, a file or ``random``.
        checkpoint: a trained network to restyle with, in place of an untrained one of its kind, and of the package's
            own for the large photo.
        compile: also measure ``torch.compile``.
        bf16: also measure bfloat16; None: where the processor has instructions for it.
        photo_size: width and height in pixels of the large photo.
        equal_steps: also train Johnson's sizes and both of ours for so many steps each, and compare their losses; 0: do
            not.

    Raises:
        UserError: a size that cannot be measured, nothing to measure, a file that will not do.
    """
    _check(parts, sizes, train_size, batch_size, photo_size, equal_steps)
    folder = Path(output_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    limits = Limits(compile, _why_no_bf16(bf16))
    candidates: list[TrainingCandidate | StylizeCandidate] = [*TRAINING, *STYLIZING]
    for reason in sorted({r for c in candidates if limits.offered(c) and (r := limits.reason(c))}):
        _progress(reason + ("; pip install 'tezawari[export]' brings it" if "not installed" in reason else ""))
    keep_freed_memory()
    load = _load_average()
    threads = torch.get_num_threads()
    peaks = {dtype: matmul_peak(dtype) for dtype in _dtypes(limits)}
    training: list[TrainingRow] = []
    stylizing: list[StylizeRow] = []
    memory: list[MemoryRow] = []
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        setups = _prepare(Path(scratch), checkpoint, limits, threads) if "stylise" in parts else {}
        if "training" in parts:
            training = measure_training(limits, train_size, batch_size, train_steps, weights)
        if "stylise" in parts:
            stylizing = [row for size in sizes for row in measure_stylizing(limits, setups, size, repeats)]
        jobs: list[Job] = []
        if "memory" in parts:
            jobs += [TrainingJob(row.name, train_size, batch_size, weights) for row in training if not row.note]
            jobs += [_stylize_job(row, setups) for row in stylizing if not row.note]
        if "photo" in parts:
            jobs.append(_photo_job(Path(scratch), checkpoint, photo_size[0], photo_size[1]))
        if jobs and (training or stylizing):
            # Memory takes minutes more, and what was timed is not to be lost when someone stops it.
            write_report(folder, Report(_machine(threads, peaks, load), training, stylizing, [], []))
        memory = list(_measure_memory(jobs, threads))
    equally: list[EqualStepsRow] = []
    if equal_steps:
        if weights == "random":
            _progress("losses by random weights of VGG16 mean nothing: name a file with benchmark.weights=FILE")
        _progress(f"training three networks for {equal_steps} steps each")
        equally = list(train_equally(equal_steps, train_size, batch_size, weights, limits.no_bf16 is None))
    # Once more, for the machine may have been busy before.
    peaks = {dtype: max(peak, matmul_peak(dtype)) for dtype, peak in peaks.items()}
    report = Report(_machine(threads, peaks, load), training, stylizing, memory, equally)
    files, summary = write_report(folder, report)
    sys.stdout.write(summary + "\n")
    return files


def measure_training(limits: Limits, size: int, batch_size: int, steps: int, weights: str) -> list[TrainingRow]:
    """Time a training step of each candidate, the candidates taking turns step by step."""
    offered = [c for c in TRAINING if limits.offered(c)]
    able = [c for c in offered if limits.reason(c) is None]
    runs = {}
    for candidate in able:
        _progress(f"training, {size} px, batch {batch_size}: {candidate.name}")
        runs[candidate.name] = as_run(training_step(candidate, size, batch_size, weights), candidate.keep_memory)
        runs[candidate.name]()
    _progress(f"training: {steps} timed steps of each")
    timings = time_in_turns(runs, steps)
    return [
        TrainingRow(
            candidate.name,
            "bf16" if candidate.bf16 else "fp32",
            size,
            batch_size,
            timings.get(candidate.name),
            count_gflop(training_step(candidate, size, batch_size, "random", "meta")),
            limits.reason(candidate) or "",
        )
        for candidate in offered
    ]


def measure_stylizing(limits: Limits, setups: dict[Net, Setup], size: int, turns: int) -> list[StylizeRow]:
    """Time each candidate on one photo of ``size`` pixels, the candidates taking turns."""
    photo = _sample_photo(size)
    offered = [c for c in STYLIZING if limits.offered(c)]
    # Compiled code of the sizes before would count against the compiler's limit of versions.
    torch.compiler.reset()
    runs, pictures = {}, {}
    for candidate in offered:
        if limits.reason(candidate) is None:
            _progress(f"restyling, {size} px: {candidate.name}")
            runs[candidate.name] = as_run(stylize_step(candidate, setups[candidate.net], photo), candidate.keep_memory)
            pictures[candidate.name] = runs[candidate.name]()
    _progress(f"restyling, {size} px: {turns} turns of each")
    timings = time_in_turns(runs, turns, _TURN_SECONDS)
    return [
        StylizeRow(
            candidate.name,
            "bf16" if candidate.bf16 else "fp32",
            size,
            timings.get(candidate.name),
            count_gflop(stylize_on_meta(candidate, setups[candidate.net], size)),
            None
            if candidate.upsampling or candidate.name not in pictures
            else float((pictures[candidate.name] - pictures[eager_of(candidate.net)]).abs().mean()) * 255,
            limits.reason(candidate) or "",
        )
        for candidate in offered
    ]


def _measure_memory(jobs: Sequence[Job], threads: int) -> Iterator[MemoryRow]:
    for number, job in enumerate(jobs, start=1):
        _progress(f"memory, {number} of {len(jobs)}: {job.part}, {job.what}")
        try:
            found = measure(job, threads)
        except UserError as error:  # what was measured before is not to be lost
            _progress(str(error))
            yield MemoryRow(job.part, job.name, job.what, None, None, None, note=str(error))
        else:
            yield MemoryRow(job.part, job.name, job.what, found.loaded, found.peak, found.seconds)


def _prepare(scratch: Path, checkpoint: str | None, limits: Limits, threads: int) -> dict[Net, Setup]:
    """Write the networks' files that every process reads: an untrained one of each kind that has no ``checkpoint``."""
    networks = {net: random_network(net) for net in TRAINED_NORM}
    if checkpoint is not None:
        network = load_network(Path(checkpoint)).network
        if network.net not in TRAINED_NORM:
            raise UserError(f"benchmark.checkpoint={checkpoint}: model.net={network.net} is not measured")
        if network.norm == "instance":
            raise UserError(f"benchmark.checkpoint={checkpoint}: a network with model.norm=instance cannot be deployed")
        networks[network.net] = network
    exports = any(c.packages and not limits.reason(c) for c in STYLIZING)
    setups: dict[Net, Setup] = {}
    for net, network in networks.items():
        names = [f"style{index}" for index in range(network.num_styles)]
        file, onnx = save_network(scratch / f"{net}.safetensors", network, names, {}), None
        if exports:
            _progress(f"exporting {net} to ONNX")
            onnx = export_style_network(network, scratch / f"{net}.onnx").path
        setups[net] = Setup(file, onnx, threads)
    return setups


def _stylize_job(row: StylizeRow, setups: dict[Net, Setup]) -> StylizeJob:
    setup = setups[next(c.net for c in STYLIZING if c.name == row.name)]
    return StylizeJob(row.name, row.size, str(setup.network), str(setup.onnx or ""))


def _photo_job(scratch: Path, checkpoint: str | None, width: int, height: int) -> PhotoJob:
    _progress(f"painting a photo of {width}×{height} pixels")
    photo = F.interpolate(_sample_photo(512), (height, width), mode="bilinear")[0]
    path = write_photo(scratch / "photo.jpg", photo)
    return PhotoJob(checkpoint or "", str(path), str(scratch / "restyled.jpg"), width, height)


def _sample_photo(size: int) -> Tensor:
    """Return the middle of a sample photograph as ``(1, 3, size, size)`` in [0, 1]."""
    data = SampleData(styles=["wood"], scenes=0, image_size=256)
    photo = data.validation_photos()[1]
    edge = min(photo.shape[1:])
    top, left = (photo.shape[1] - edge) // 2, (photo.shape[2] - edge) // 2
    square = photo[None, :, top : top + edge, left : left + edge]
    return F.interpolate(square, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def _machine(threads: int, peaks: dict[torch.dtype, float], before: str) -> Machine:
    found = describe_machine()
    names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    return Machine(
        processor=str(found["processor"]),
        cores=int(found["cores"]),
        threads=threads,
        versions=f"Python {platform.python_version()}, PyTorch {torch.__version__}",
        date=time.strftime("%Y-%m-%d"),
        load=f"Load average {before} before and {_load_average()} after, about {threads} of it this benchmark's own.",
        peaks={names[dtype]: peak for dtype, peak in peaks.items()},
    )


def _load_average() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f}"
    except (AttributeError, OSError):
        return "unknown"


def _dtypes(limits: Limits) -> list[torch.dtype]:
    return [torch.float32] if limits.no_bf16 else [torch.float32, torch.bfloat16]


def _why_no_bf16(asked: bool | None) -> str | None:
    if asked is None and not computes_bf16():
        return "left out: no bfloat16 instructions here (benchmark.bf16=true measures it all the same)"
    return "left out: benchmark.bf16=false" if asked is False else None


def _check(
    parts: Sequence[str],
    sizes: Sequence[int],
    train_size: int,
    batch_size: int,
    photo_size: Sequence[int],
    equal_steps: int,
) -> None:
    if not parts and not equal_steps:
        raise UserError(
            "benchmark.parts is empty: name training, stylise, memory or photo, or ask for benchmark.equal_steps=N"
        )
    if set(parts) == {"memory"}:
        raise UserError("benchmark.parts=[memory]: memory is that of other parts, add training or stylise")
    if "stylise" in parts and not sizes:
        raise UserError("benchmark.sizes is empty: name sides in pixels, for example [256,512]")
    for size in sizes:
        if size % _SIDE_STEP or not _SMALLEST <= size <= _LARGEST:
            raise UserError(
                f"benchmark.sizes has {size}: a side is a multiple of {_SIDE_STEP} from {_SMALLEST} to {_LARGEST}"
            )
    if train_size % 8 or not 32 <= train_size <= 1024:
        raise UserError(f"benchmark.train_size={train_size}: must be a multiple of 8 from 32 to 1024")
    if batch_size % 2:
        raise UserError(f"benchmark.batch_size={batch_size}: must be even, for one candidate asks two styles a photo")
    if len(photo_size) != 2 or min(photo_size) < 16:
        raise UserError(f"benchmark.photo_size={photo_size}: must be a width and a height of at least 16 pixels")


def _progress(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
