"""Masks that follow the edges of the image: a fully connected conditional random field (Krähenbühl & Koltun, 2011).

The optional package ``pydensecrf2`` computes it. That package trusts its caller: what it cannot take kills the process
or quietly gives nonsense, so everything is checked here first.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from queue import SimpleQueue
from subprocess import PIPE, Popen
from types import ModuleType
from typing import TypeAlias

import numpy as np

from tezawari.core.errors import UserError

# A probability of zero would be an infinite energy; this is pydensecrf's own bound.
_LEAST_PROBABILITY = 1e-5
_SUM_TOLERANCE = 1e-3
# Far below, a width is 0 in float32 and the library crashes; far above, a weight is infinite and the result no number.
_SMALLEST, _LARGEST = 1e-3, 1e6
_MOST_ITERATIONS = 1000
# The library counts lattice points in 16 bits. Beyond, its code for some processors writes outside of its memory; that
# for the others takes pixels far apart for neighbours, and crashes further on.
_LATTICE_REACH = 32_000
# An image of noise needs about 100 bytes for each pixel and class, and a refused allocation ends the process.
_MOST_VALUES = 20_000_000

_Worker: TypeAlias = "Popen[bytes]"


@dataclass(frozen=True)
class CrfParameters:
    """The field's two kernels (Krähenbühl & Koltun, 2011, eq. 3) and how long it is iterated.

    ``gaussian_sxy`` and ``bilateral_sxy`` are standard deviations in pixels of the image, ``bilateral_srgb`` one in
    levels of 0 … 255; the weights multiply the kernels. The defaults are those of the authors' example but for
    ``bilateral_sxy`` and ``bilateral_weight``, 80 and 10 there: on the true masks of 40 training images of VOC, CAM
    had 2 to 4 points of mean IoU more with these, DCSM between half a point less and one more. [ours]

    Raises :class:`UserError` for a value that is not a number in 0.001 … 1e6, or a number of iterations that is not a
    whole one in 1 … 1000.
    """

    iterations: int = 10
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 13.0
    bilateral_weight: float = 5.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            whole = field.name == "iterations"
            least, most = (1, _MOST_ITERATIONS) if whole else (_SMALLEST, _LARGEST)
            right_kind = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
            if not right_kind or not least <= value <= most:
                what = "a whole number" if whole else "a number"
                raise UserError(
                    f"crf.{field.name}={value}: must be {what} from {least:g} to {most:g}; take the default,"
                    f" crf.{field.name}={field.default}"
                )


def refine(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters | None = None) -> np.ndarray:
    """Let neighbouring pixels of like colour agree on their class (Krähenbühl & Koltun, 2011, algorithm 1).

    The unary energy is −log of the probabilities, each at least 1e-5. Give only the classes that may be in the image:
    21 take 2.6 times as long as 3, and those of probability zero change no label.

    Differs from the paper: kernels are normalised symmetrically, as the library does by default.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (C, H, W), summing to 1 over the classes.
        parameters: None takes the defaults.

    Returns:
        (C, H, W) float32 in [0, 1], summing to 1 over the classes.

    Raises:
        UserError: ``pydensecrf2`` is not installed; probabilities that are not finite; kernels too narrow for an image
            of this size; an image too large.
        ValueError: arrays of other shapes or types, probabilities that are negative or do not sum to 1.
    """
    library = _library()
    parameters = parameters or CrfParameters()
    unary = _unary(image, probabilities)
    classes, height, width = probabilities.shape
    _require_reach(height, width, parameters)
    field = library.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(unary)
    field.addPairwiseGaussian(sxy=float(parameters.gaussian_sxy), compat=float(parameters.gaussian_weight))
    field.addPairwiseBilateral(
        sxy=float(parameters.bilateral_sxy),
        srgb=float(parameters.bilateral_srgb),
        rgbim=np.require(image, requirements=["C", "W"]),
        compat=float(parameters.bilateral_weight),
    )
    refined = np.array(field.inference(int(parameters.iterations)), dtype=np.float32, order="C")
    return refined.reshape(classes, height, width)


def refine_many(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], parameters: CrfParameters | None = None, workers: int = 2
) -> Iterator[np.ndarray]:
    """Refine ``(image, probabilities)`` pairs in worker processes and yield the results in the order of the pairs.

    Pairs are taken at most 2 × ``workers`` ahead of what has been yielded, so they may be made on the way, and the
    workers compute while the caller makes the next ones. Results are those of :func:`refine`, bit for bit.

    Args:
        pairs: what :func:`refine` takes.
        parameters: None takes the defaults.
        workers: number of processes, each of one thread; 0 computes in this one.

    Raises:
        UserError: as :func:`refine` does; a worker that died, naming the image.
    """
    _library()
    if workers < 0:
        raise UserError(f"crf.workers={workers}: must be 0 (compute in this process) or more")
    parameters = parameters or CrfParameters()
    if workers == 0:
        return (refine(image, probabilities, parameters) for image, probabilities in pairs)
    return _refine_in_workers(pairs, parameters, workers)


def _refine_in_workers(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], parameters: CrfParameters, workers: int
) -> Iterator[np.ndarray]:
    started = [_start_worker() for _ in range(workers)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in started:
        idle.put(worker)

    def ask(number: int, image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        worker = idle.get()
        try:
            return _ask(worker, number, (image, probabilities, parameters))
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers, "crf")
    pending: deque[Future[np.ndarray]] = deque()
    try:
        for number, pair in enumerate(pairs, start=1):
            pending.append(threads.submit(ask, number, *pair))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
        for worker in started:
            _end_worker(worker)


# A worker is a plain Python that imports this module alone and answers through its standard output. multiprocessing
# would fork PyTorch's threads, which may hang, or import the program's main module again, which takes seconds and needs
# a guard in every script; and its workers outlive a parent that is killed, where these find their input at its end.
_WORKER = "from tezawari.segmentation import crf; crf._serve()"


def _start_worker() -> _Worker:
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = {**os.environ, **one_thread, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return Popen([sys.executable, "-P", "-c", _WORKER], stdin=PIPE, stdout=PIPE, env=environment)


def _ask(worker: _Worker, number: int, request: tuple[np.ndarray, np.ndarray, CrfParameters]) -> np.ndarray:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        pickle.dump(request, worker.stdin, protocol=5)
        worker.stdin.flush()
        answer = pickle.load(worker.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"the CRF worker process died (exit code {worker.wait()}) at image {number}, probabilities"
            f" {np.shape(request[1])}: where memory is short take fewer workers (one is least), or smaller images"
        ) from error
    if isinstance(answer, Exception):
        raise answer
    assert isinstance(answer, np.ndarray)
    return answer


def _end_worker(worker: _Worker) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        worker.stdin.close()
    worker.stdout.close()
    worker.wait()


def _serve() -> None:
    """Answer requests until there are no more: all that a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says when to end
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else prints must not mix with the answers
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: np.ndarray | Exception = refine(*request)
        except Exception as error:  # it is the parent's to raise
            answer = error
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


def require_library() -> None:
    """Raise UserError where ``pydensecrf2`` is not installed: before long work that ends in it."""
    _library()


def _library() -> ModuleType:
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise UserError(
            "refining masks by a CRF needs pydensecrf2: type pip install 'tezawari[segmentation]', or take crf=none"
        ) from error
    return densecrf


def _unary(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Check both arrays and return the energies (C, H·W) float32."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if probabilities.ndim != 3 or probabilities.shape[0] == 0 or probabilities.shape[1:] != image.shape[:2]:
        raise ValueError(f"probabilities must be (C, {image.shape[0]}, {image.shape[1]}), not {probabilities.shape}")
    if probabilities.size > _MOST_VALUES:
        classes, height, width = probabilities.shape
        raise UserError(
            f"an image of {width} × {height} pixels with {classes} classes is too large for the CRF, which takes"
            f" {_MOST_VALUES / 1e6:g} million pixels × classes: shrink it to {_MOST_VALUES // classes} pixels"
        )
    # The library drops a NaN from a pixel's largest class without a word.
    if not np.isfinite(probabilities).all():
        raise UserError(
            "the probabilities for the CRF are not all finite: the network that made them has diverged; train it with"
            " a lower learning rate"
        )
    if probabilities.min() < 0 or np.abs(probabilities.sum(0) - 1).max() > _SUM_TOLERANCE:
        raise ValueError("probabilities must be non-negative and sum to 1 over the classes of each pixel")
    likely = np.clip(probabilities, _LEAST_PROBABILITY, 1.0).astype(np.float32)
    return -np.log(likely).reshape(len(probabilities), -1)


def _require_reach(height: int, width: int, parameters: CrfParameters) -> None:
    """Raise UserError where a kernel is so narrow for the image that its lattice does not fit into 16 bits."""
    across, down = width - 1, height - 1
    narrow = parameters.gaussian_sxy
    if _lattice_reach([across / narrow, down / narrow]) > _LATTICE_REACH:
        raise UserError(f"crf.gaussian_sxy={narrow:g} is too small for an image of {width} × {height} pixels: take 1")
    narrow, levels = parameters.bilateral_sxy, 255 / parameters.bilateral_srgb
    if _lattice_reach([across / narrow, down / narrow, levels, levels, levels]) > _LATTICE_REACH:
        raise UserError(
            f"crf.bilateral_sxy={narrow:g} with crf.bilateral_srgb={parameters.bilateral_srgb:g} is too small for an"
            f" image of {width} × {height} pixels: take 10 with 1 or more"
        )


def _lattice_reach(extents: Sequence[float]) -> float:
    """Return the largest coordinate in the permutohedral lattice of features that span ``extents`` standard deviations.

    Adams, Baek & Davis, *Fast high-dimensional filtering using the permutohedral lattice* (2010), section 3.
    """
    scale = (len(extents) + 1) * math.sqrt(2 / 3)
    steps = [scale * extent / math.sqrt((axis + 1) * (axis + 2)) for axis, extent in enumerate(extents)]
    return max(sum(steps), *((axis + 1) * step for axis, step in enumerate(steps)))
