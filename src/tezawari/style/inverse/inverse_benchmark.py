"""``evaluate.py benchmark=inverse``: restored photos beside the degraded ones and the true ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from skimage.restoration import denoise_nl_means
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.seeding import epoch_order, sample_rng
from tezawari.data.content_style import KEPT_SCALE, ContentPhoto, central_crop, decode
from tezawari.data.images import ImagesData, decoded_files, report_skipped
from tezawari.data.sample import SampleData
from tezawari.features.backbone import Backbone, default_content_layers, load_backbone
from tezawari.style.color import color_drift
from tezawari.style.inverse.measures import quality
from tezawari.style.inverse.package import find_network
from tezawari.style.inverse.report import (
    DEGRADED,
    LOCAL_WIENER,
    NETWORK,
    NON_LOCAL_MEANS,
    Measurement,
    Report,
    write_report,
)
from tezawari.style.inverse.restore import Restorer
from tezawari.style.style_benchmark import run_config

_SMALLEST_SIDE = 64
_SMALLEST_PICTURE = 16
_FIGURED = 4
# What the authors of non-local means advise for a known noise: the filter's strength in its standard deviations.
_NON_LOCAL_STRENGTH = 0.8


def benchmark_inverse(
    checkpoint: str | list[str] | None,
    output_dir: str,
    photos: str | None = None,
    max_photos: PositiveInt = 20,
    image_size: PositiveInt = 256,
    judge: str = "efficientnet_lite0",
    judge_weights: str | None = None,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure networks of ``model=inverse`` on photos and leave tables and a figure in ``output_dir/inverse``.

    Every photo's central square is degraded at each of the task's test levels (noise: 0.3, 0.5 and 1 of the largest;
    each factor of resolution; grey) and measured as it is, which is the baseline (noisy, bicubic, grey), and as the
    network restores it, told the level; noisy ones also as the local Wiener filter that the network begins at and
    non-local means (Buades et al., CVPR 2005) restore them, told the level.
    Measures: :func:`tezawari.style.inverse.measures.quality` under the judge, and the drift of colours.

    Args:
        checkpoint: a run, a network or a checkpoint, or several, of one task or of different ones.
        output_dir: where the folder ``inverse`` goes.
        photos: a folder; None takes the photos that the run held out, as its ``config.yaml`` says, or the embedded
            ones; several runs must have held out the same.
        max_photos: more are drawn from by ``seed``.
        image_size: side, in pixels, of the photos' central squares, at least 64.
        judge: the backbone whose features are compared.
        judge_weights: a file of its weights, or None for those it comes with.
        seed: of the noise, and of the choice where there are more photos than ``max_photos``.

    Returns:
        name → file: ``results`` (a row a picture), ``summary`` (a row a method), ``table``, ``figure``.

    Raises:
        UserError: no network is named, it or the photos are missing, or the runs held out different photos.
    """
    began = time.monotonic()
    names = [checkpoint] if isinstance(checkpoint, str) else list(checkpoint or [])
    if not names:
        raise UserError(
            "no network is named: type benchmark.checkpoint=RUN (train one with python train.py model=inverse)"
        )
    if image_size < _SMALLEST_SIDE:
        raise UserError(f"benchmark.image_size={image_size}: must be at least {_SMALLEST_SIDE}")
    restorers = [Restorer.load(Path(name)) for name in names]
    truths = choose_photos(names, photos, max_photos, image_size, seed)
    layers = default_content_layers(judge)
    try:
        backbone = load_backbone(judge, layers, judge_weights)
    except UserError as error:
        raise UserError(f"benchmark.judge={judge}: {error}") from error
    bench = _Bench(truths.photos, backbone, layers, seed)
    rows = [row for name, restorer in zip(names, restorers) for row in bench.measure(name, restorer)]
    report = Report(
        measurements=rows,
        figured=[[*bench.figured[name], photo] for name, photo in list(truths.photos.items())[:_FIGURED]],
        columns=[*bench.columns, "photo"],
        judge=judge,
        trained_with=[_trained_with(restorer) for restorer in restorers],
        source=truths.source,
        image_size=image_size,
        seed=seed,
        wall_seconds=time.monotonic() - began,
    )
    files = write_report(report, Path(output_dir) / "inverse")
    sys.stdout.write(files["table"].read_text() + "\n")
    return files


def _trained_with(restorer: Restorer) -> str:
    meta = restorer.trained.meta
    perceptual = meta.get("backbone_name", "unknown") if meta.get("perceptual_weight") else "none"
    return f"{restorer.transform.task} {perceptual}"


# --- photos -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truths:
    """The photos ``(3, s, s)`` in [0, 1] by name, and where they are from."""

    photos: dict[str, Tensor]
    source: str


def choose_photos(
    checkpoints: Sequence[str], photos: str | None, max_photos: int, image_size: int, seed: int
) -> Truths:
    """Return the central squares that are measured; see :func:`benchmark_inverse`."""
    if photos is not None:
        candidates, source = _folder_photos(photos, image_size), f"the folder {photos}"
    else:
        found = [_held_out(run_config(find_network(Path(name).expanduser())), image_size) for name in checkpoints]
        candidates, source = found[0]
        names = {photo.name for photo in candidates}
        for checkpoint, (others, _) in zip(checkpoints, found):
            if {photo.name for photo in others} != names:
                raise UserError(
                    f"{checkpoint} and {checkpoints[0]} held out different photos, and trained on each other's: "
                    "name photos that none has seen with benchmark.photos=FOLDER"
                )
    chosen = sorted(int(place) for place in epoch_order(seed, 0, len(candidates))[:max_photos])
    return Truths({candidates[p].name: central_crop(candidates[p].load(), image_size) for p in chosen}, source)


def _folder_photos(folder: str, image_size: int) -> list[ContentPhoto]:
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"benchmark.photos={folder}: there is no such folder; type benchmark.photos=FOLDER")
    found, skipped = [], []
    for path, pixels in decoded_files(root, KEPT_SCALE * image_size, _SMALLEST_PICTURE):
        name = path.relative_to(root).as_posix()
        if isinstance(pixels, str):
            skipped.append(f"{name} ({pixels})")
        else:
            found.append(ContentPhoto(name, path=path, max_short_side=KEPT_SCALE * image_size))
    report_skipped(root, skipped)
    if not found:
        raise UserError(f"benchmark.photos={folder}: holds no picture; type benchmark.photos=FOLDER")
    return found


def _held_out(config: dict[str, Any], image_size: int) -> tuple[list[ContentPhoto], str]:
    """Return the photos that a run held out, by its data module's own split, large enough to measure on."""
    section = dict(config.get("data", {}))
    kind = section.pop("_target_", "")
    try:
        if kind != f"{ImagesData.__module__}.{ImagesData.__qualname__}":
            values: dict[str, Any] = {"styles": ["paper"], "style_size": 16, **section, "image_size": image_size}
            return SampleData(**values).find().held_out, "held out of the sample"
        folder = Path(str(section["content_dir"])).expanduser()
        if not folder.is_dir():
            raise UserError(f"the run's photos {folder} are not here: name others with benchmark.photos=FOLDER")
        held_out = ImagesData(**section).find().held_out
    except TypeError as error:
        raise UserError(
            f"the run's config.yaml is of another version ({error}): add benchmark.photos=FOLDER"
        ) from error
    # The run may have kept them smaller than they are measured here.
    larger = [ContentPhoto(photo.name, decode(folder / photo.name, KEPT_SCALE * image_size)) for photo in held_out]
    return larger, f"held out of {folder.name}"


# --- the measuring ----------------------------------------------------------------------------------------------------


class _Bench:
    """Degrades the same photos for every network and measures every method's pictures."""

    def __init__(self, photos: dict[str, Tensor], backbone: Backbone, layers: tuple[str, ...], seed: int) -> None:
        self._photos = photos
        self._backbone = backbone
        self._layers = layers
        self._seed = seed
        self.columns: list[str] = []
        self.figured: dict[str, list[Tensor]] = {name: [] for name in photos}
        """Of each photo, what the middle level and each network made of it."""

    def measure(self, checkpoint: str, restorer: Restorer) -> Iterator[Measurement]:
        """Measure a network and its baselines at every test level."""
        transform = restorer.transform
        levels = transform.test_levels()
        figured = levels[len(levels) // 2]
        self.columns += [transform.describe(figured), f"{transform.task} {NETWORK}"]
        for number, level in enumerate(levels):
            for place, (name, truth) in enumerate(self._photos.items()):
                degraded = transform(truth, level, sample_rng(self._seed, number, place))
                pictures = {DEGRADED: degraded, NETWORK: restorer.undo(degraded, level)}
                if level == figured:
                    self.figured[name] += pictures.values()
                if transform.task == "denoise":
                    pictures[LOCAL_WIENER] = transform.start(degraded, level)  # what the network has to add to
                    pictures[NON_LOCAL_MEANS] = non_local_means(degraded, level)
                for method, picture in pictures.items():
                    found = quality(picture[None], truth[None], self._backbone, self._layers)
                    yield Measurement(
                        checkpoint=checkpoint,
                        task=transform.task,
                        degradation=transform.describe(level),
                        method=method,
                        photo=name,
                        psnr=float(found.psnr),
                        ssim=float(found.ssim),
                        perceptual_distance=float(found.perceptual_distance),
                        color_drift=color_drift(picture, truth, lightness=False),
                    )


def non_local_means(image: Tensor, noise: float) -> Tensor:
    """Denoise ``(3, H, W)`` in [0, 1] by non-local means for a noise of known standard deviation (levels of 255)."""
    pixels = image.permute(1, 2, 0).double().numpy()
    sigma = noise / 255
    smooth = denoise_nl_means(
        pixels, patch_size=5, patch_distance=6, h=_NON_LOCAL_STRENGTH * sigma, sigma=sigma, channel_axis=-1
    )
    return torch.from_numpy(np.ascontiguousarray(smooth.transpose(2, 0, 1))).float().clamp_(0, 1)
