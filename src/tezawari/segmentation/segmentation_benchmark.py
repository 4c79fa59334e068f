"""``evaluate.py benchmark=segmentation``: every way from image labels to a mask, and full supervision."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from tezawari.core.config import build
from tezawari.core.errors import UserError
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines
from tezawari.core.training import say
from tezawari.data.labelled import LabelledData
from tezawari.data.labelled_image import LabelledImage
from tezawari.segmentation.crf import CrfParameters, refine_many, require_library
from tezawari.segmentation.masks import class_probabilities, mask_of
from tezawari.segmentation.metrics import confusion_matrix
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.package import TrainedSegmentation, load_trained
from tezawari.segmentation.pseudo_masks import (
    THRESHOLDS,
    calibrate_background,
    photo_labels,
    photo_maps,
    segment_pixels,
    view_side,
)
from tezawari.segmentation.report import Figured, Report, Row, write_report
from tezawari.segmentation.saliency import METHODS, Method
from tezawari.segmentation.segmenter import Segmenter
from tezawari.segmentation.self_training.stages import ROUNDS_FOLDER

_FIGURED = 10
_SOURCES = ("true", "predicted", "none")


def benchmark_segmentation(
    saliency: str | None,
    output_dir: str,
    segmenters: dict[str, str] | None = None,
    methods: list[Method] | None = None,
    crf: dict[str, float] | None = None,
    calibration_images: PositiveInt = 32,
    background: float | None = None,
    max_images: PositiveInt | None = None,
    crf_workers: NonNegativeInt = 2,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure saliency methods and segmenters on held-out images and leave tables and figures in ``output_dir``.

    Every method gets the same treatment: its background score is chosen on training images and their image labels
    (:func:`tezawari.segmentation.pseudo_masks.calibrate_background`), its masks are scored as they are and after the
    CRF, with the image's true labels and with those that the saliency network predicts
    (:func:`tezawari.segmentation.pseudo_masks.photo_labels`). A segmenter's classes are limited in the same two ways,
    and not at all. Scores: intersection over union by class, its mean over background and classes, and pixel accuracy,
    over all pixels of all images that are not 255, at the images' full size, with bootstrap intervals over images.

    Args:
        saliency: a trained saliency network: the folder of a run, whose data are measured.
        output_dir: where the folder ``segmentation`` goes.
        segmenters: name → run or file. A self-training run is measured round by round.
        methods: the saliency methods; None: all.
        crf: the parameters of the CRF; None leaves it out.
        calibration_images: how many training images choose a background score.
        background: a background score for all methods, in place of choosing.
        max_images: of the held-out images, drawn by ``seed``; None: all.
        crf_workers: processes that refine.
        seed: draws images, and the bootstrap.

    Returns:
        Name → file: ``summary`` (a row a method, label source and CRF), ``curves`` (mean IoU at every background score,
        without CRF), ``table``, ``figure``, ``curve figure``.

    Raises:
        UserError: no network is named, a network or the data of its run are missing, networks of different classes.
    """
    began = time.monotonic()
    if saliency is None:
        raise UserError(
            "no network is named: type benchmark.saliency=RUN (train one with python train.py model=saliency)"
        )
    require_matplotlib()
    if crf is not None:
        require_library()
    run = Path(saliency).expanduser()
    trained = load_trained(run, "saliency")
    network = trained.network
    assert isinstance(network, SaliencyNetwork)
    data = run_data(run)
    others = [
        (label, one)
        for name, path in (segmenters or {}).items()
        for label, one in rounds_of(name, Path(path).expanduser())
    ]
    for label, one in others:
        if one.class_names != trained.class_names:
            raise UserError(f"benchmark.segmenters: {label} knows other classes than {saliency}")
    images = held_out(data, max_images, seed)
    side = view_side(trained.image_size)
    bench = _Bench(network, side, images, None if crf is None else CrfParameters(**crf), crf_workers)  # type: ignore[arg-type]
    backgrounds: dict[Method, float] = {}
    for method in methods or METHODS:
        if background is not None:
            backgrounds[method] = background
            continue
        backgrounds[method], _ = calibrate_background(
            network,
            data.examples("train"),
            side,
            method,
            seed,
            calibration_images,
            progress=progress_lines(f"calibrating {method}", "images"),
        )
        say(f"background of {method}: {backgrounds[method]:g}, chosen on training images and their labels")
    rows = [*bench.saliency(backgrounds)]
    for label, one in others:
        rows += bench.segmenter(label, one)
    report = Report(
        rows=rows,
        curves=bench.curves,
        class_names=trained.class_names,
        figured=bench.figured,
        backgrounds={str(method): score for method, score in backgrounds.items()},
        backbone=network.backbone,
        saliency=saliency,
        images=len(images),
        seed=seed,
        wall_seconds=time.monotonic() - began,
    )
    files = write_report(report, Path(output_dir) / "segmentation")
    sys.stdout.write(files["table"].read_text() + "\n")
    return files


def run_data(run: Path) -> LabelledData:
    """Return the data that a run was trained on, as the ``config.yaml`` beside its network says, masks withheld."""
    folder = run if run.is_dir() else run.parent
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserError(
            f"{folder} holds no config.yaml, which says what {run} was trained on: name the folder of a run"
        )
    section = OmegaConf.load(config)["data"]  # type: ignore[index]
    kind = get_object(section["_target_"])
    if not issubclass(kind, LabelledData):
        raise UserError(f"{run} was trained on {kind.__name__}, which has no image labels")
    if "supervision" in section:
        section["supervision"] = "labels"
    data: LabelledData = build(section)
    data.setup()
    return data


def held_out(data: LabelledData, most: int | None, seed: int) -> list[LabelledImage]:
    """Return the held-out images that have masks, at most ``most`` of them, drawn by ``seed``."""
    images = [image for image in data.examples("val") if image.has_mask]
    if not images:
        raise UserError(f"{type(data).__name__} has no masks of held-out images, so no mask can be measured there")
    if most is None or most >= len(images):
        return images
    rng = np.random.Generator(np.random.Philox(seed))
    return [images[i] for i in sorted(rng.permutation(len(images))[:most])]


def rounds_of(name: str, path: Path) -> Iterator[tuple[str, TrainedSegmentation]]:
    """Yield the segmenters of a run: of every round where it was a self-training run, else its only one."""
    files = sorted((path / ROUNDS_FOLDER).glob("round-*.safetensors"), key=lambda file: int(file.stem[6:]))
    if not files:
        yield name, load_trained(path, "segmenter")
    for file in files:
        yield f"{name}, round {file.stem[6:]}", load_trained(file, "segmenter")


@dataclass(frozen=True)
class _Task:
    """Where one prediction belongs: method, source of labels, image."""

    method: str
    labels: str
    image: int
    classes: tuple[int, ...]


class _Bench:
    """Makes every method's masks of the same images and counts their pixels."""

    def __init__(
        self,
        network: SaliencyNetwork,
        side: int,
        images: list[LabelledImage],
        crf: CrfParameters | None,
        workers: int,
    ) -> None:
        self._network, self._side = network, side
        self._images = images
        self._crf = crf
        self._workers = workers
        self._predicted: dict[int, tuple[int, ...]] = {}
        self.curves: dict[str, Tensor] = {}
        """Method → (T, C, C) confusion matrices at every background score, with the true labels."""
        count = min(_FIGURED, len(images))
        self._shown = {int(i): row for row, i in enumerate(np.linspace(0, len(images) - 1, count).round())}
        self.figured = [Figured.of(images[i]) for i in self._shown]

    def saliency(self, backgrounds: dict[Method, float]) -> list[Row]:
        """Return the rows of saliency methods, without and with CRF, under true and predicted labels."""
        self.curves = {
            method: torch.zeros(len(THRESHOLDS), *[self._classes] * 2, dtype=torch.int64) for method in backgrounds
        }
        return self._measure(lambda place: self._from_saliency(place, backgrounds), "saliency methods")

    def segmenter(self, name: str, trained: TrainedSegmentation) -> list[Row]:
        """Return the rows of a segmenter, without and with CRF, under true and predicted labels and without any."""
        segmenter = trained.network
        assert isinstance(segmenter, Segmenter)
        return self._measure(lambda place: self._from_segmenter(place, name, segmenter, trained.image_size), name)

    @property
    def _classes(self) -> int:
        return 1 + self._network.num_classes

    def _from_saliency(self, place: int, backgrounds: dict[Method, float]) -> Iterator[tuple[_Task, np.ndarray]]:
        image = self._images[place]
        pixels, true = image.load_image(), self._true(place)
        predicted = self._labels(place, pixels)
        for method, background in backgrounds.items():
            found: dict[tuple[int, ...], Tensor] = {}
            for source, classes in (("true", image.labels), ("predicted", predicted)):
                if classes not in found:  # most often both are the same
                    found[classes] = photo_maps(self._network, pixels, self._side, classes, method)[list(classes)]
                maps = found[classes]
                if source == "true":
                    for row, threshold in enumerate(THRESHOLDS):
                        mask = mask_of(class_probabilities(maps, threshold), classes)
                        self.curves[method][row] += confusion_matrix(torch.from_numpy(mask), true, self._classes)
                yield _Task(method, source, place, classes), class_probabilities(maps, background)

    def _from_segmenter(
        self, place: int, name: str, segmenter: Segmenter, side: int
    ) -> Iterator[tuple[_Task, np.ndarray]]:
        image = self._images[place]
        pixels = image.load_image()
        everything = tuple(range(self._network.num_classes))
        sources = {"true": image.labels, "predicted": self._labels(place, pixels), "none": everything}
        probabilities = segment_pixels(segmenter, pixels, side)
        for source, classes in sources.items():
            kept = probabilities[[0, *(1 + c for c in classes)]].clip(1e-8)
            kept = kept / kept.sum(0)
            if source == "none" and self._crf is not None:  # what is nowhere likely cannot win, and costs time
                likely = [c for c in classes if probabilities[1 + c].max() > 0.1]
                kept, classes = kept[[0, *(1 + c for c in likely)]], tuple(likely)
                kept = kept / kept.sum(0)
            yield _Task(name, source, place, tuple(classes)), kept

    def _measure(self, make: Any, title: str) -> list[Row]:
        counts: dict[tuple[str, str, bool], Tensor] = {}
        progress = progress_lines(title, "images")

        def count(task: _Task, refined: bool, probabilities: np.ndarray) -> None:
            mask = mask_of(probabilities, task.classes)
            key = (task.method, task.labels, refined)
            if key not in counts:
                counts[key] = torch.zeros(len(self._images), self._classes, self._classes, dtype=torch.int64)
            counts[key][task.image] = confusion_matrix(torch.from_numpy(mask), self._true(task.image), self._classes)
            if task.image in self._shown and task.labels == "predicted" and refined == (self._crf is not None):
                self.figured[self._shown[task.image]].masks[task.method] = mask

        def plain() -> Iterator[tuple[_Task, np.ndarray]]:
            for place in range(len(self._images)):
                for task, probabilities in make(place):
                    count(task, False, probabilities)
                    yield task, probabilities
                progress(place + 1, len(self._images))

        for task, refined in _refined(plain(), self._images, self._crf, self._workers):
            count(task, True, refined)
        order = list(dict.fromkeys(method for method, _, _ in counts))
        rows = [Row(method, labels, refined, of_images) for (method, labels, refined), of_images in counts.items()]
        return sorted(rows, key=lambda row: (order.index(row.method), _SOURCES.index(row.labels), row.crf))

    def _true(self, place: int) -> Tensor:
        mask = self._images[place].load_mask()
        assert mask is not None
        return torch.from_numpy(mask)

    def _labels(self, place: int, pixels: np.ndarray) -> tuple[int, ...]:
        if place not in self._predicted:
            self._predicted[place] = photo_labels(self._network, pixels, self._side)
        return self._predicted[place]


def _refined(
    predictions: Iterable[tuple[_Task, np.ndarray]],
    images: Sequence[LabelledImage],
    crf: CrfParameters | None,
    workers: int,
) -> Iterator[tuple[_Task, np.ndarray]]:
    """Yield what the CRF makes of predictions, in their order; nothing where there is none."""
    if crf is None:
        deque(predictions, maxlen=0)
        return
    waiting: deque[_Task] = deque()

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for task, probabilities in predictions:
            waiting.append(task)
            yield images[task.image].load_image(), probabilities

    for refined in refine_many(pairs(), crf, workers):
        yield waiting.popleft(), refined
