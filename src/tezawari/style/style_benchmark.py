"""``evaluate.py benchmark=style``: a trained network beside Gatys and two controls, judged by another backbone."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torchvision.transforms.functional import center_crop

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.progress import progress_lines
from tezawari.core.seeding import epoch_order
from tezawari.data.content_style import KEPT_SCALE, ContentPhoto, central_crop, decode, shorter_side_to
from tezawari.data.images import ImagesData, decoded_files, report_skipped
from tezawari.data.sample import SampleData
from tezawari.features.backbone import default_content_layers, default_style_layers, load_backbone
from tezawari.style.benchmark_report import (
    GATYS,
    IDENTITY,
    KEEP_COLOR,
    NETWORK,
    STYLE_IMAGE,
    Measurement,
    MixMeasurement,
    Report,
    write_report,
)
from tezawari.style.color import color_drift, preserve_color
from tezawari.style.gatys import paint, recipe
from tezawari.style.measures import Judge, Look, midpoint_deviation
from tezawari.style.mixing import one_hot
from tezawari.style.package import NETWORK_FILE
from tezawari.style.stylize import Stylizer

_SMALLEST_SIDE = 64
_SMALLEST_PICTURE = 16
_STYLE_SIZE = 384
_PICTURED = 5
_DATA = {f"{data.__module__}.{data.__qualname__}": data for data in (ImagesData, SampleData)}


def benchmark_style(
    checkpoint: str | None,
    output_dir: str,
    photos: str | None = None,
    styles: str | None = None,
    max_photos: PositiveInt = 20,
    image_size: PositiveInt = 256,
    judge: str | None = None,
    judge_weights: str | None = None,
    gatys_pairs: NonNegativeInt = 8,
    gatys_steps: PositiveInt = 100,
    gatys_weights: str | None = None,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure style transfer of photos × styles and leave tables and a figure in ``output_dir/style``.

    Methods: the photo unchanged (identity), the style image itself in place of the picture, the network, the network
    with the photo's colours kept, and Gatys. The first two are controls: a measure that ranks either of them well
    beside a method measures only half of the task. Measures, all under the judge:

    * style accuracy: share of pictures to which the asked style is the nearest of all, by the mean over layers of
      :func:`tezawari.style.measures.gram_dissimilarity`. Every photo is asked in each of the S styles, so identity,
      whose nearest style does not depend on what is asked, is at exactly 1/S. The style image is the central square
      of ``image_size`` at the scale at which styles are compared: less than 100 % says that the judge cannot tell
      these styles apart.
    * Gram distance: that same distance to the asked style.
    * content distance: :meth:`tezawari.style.measures.Judge.content_distance` from the photo.
    * colour drift: mean distance from the photo's colours in Lab's (a, b) plane; with lightness it is ΔE*ab.
    * mixing: for each pair of styles in equal parts, the Gram matrices' deviation from the mean of the pure ones', in
      halves of their distance (:func:`tezawari.style.measures.midpoint_deviation`), and the same for a plain
      cross-fade of the two pure pictures, which is what mixing must beat to be more than that.

    Args:
        checkpoint: a trained network, a training checkpoint, or the folder of a run.
        output_dir: where the folder ``style`` goes.
        photos: a folder; None takes the photos that the run held out, as its ``config.yaml`` beside the network says,
            or the embedded ones. The very folder that the run took its photos from stands for those it held out.
        styles: a folder of style images whose stems are names of the network's styles; None takes the run's.
        max_photos: more are drawn from by ``seed``.
        image_size: side, in pixels, of the photos' central squares.
        judge: a backbone that the network was not trained against; None is efficientnet_lite0, or vgg16 for a network
            that was trained with that.
        judge_weights: a file of the judge's weights; None takes those that it comes with.
        gatys_pairs: how many photo-and-style pairs to paint with Gatys, under the network's own loss backbone; 0: none.
        gatys_steps: steps of each painting.
        gatys_weights: a file of that backbone's weights; None takes those of the run.
        seed: draws the photos where there are more than ``max_photos``.

    Returns:
        Name → file: ``results`` (a row a method, photo and style), ``mixing``, ``summary``, ``table``, ``figure``.

    Raises:
        UserError: for a checkpoint, folder or weights that are missing, a judge that was trained against, no photo, and
            fewer than two styles that network and images have in common.
    """
    began = time.monotonic()
    if checkpoint is None:
        raise UserError("no network is named: type benchmark.checkpoint=FILE (train one with `python train.py`)")
    if image_size < _SMALLEST_SIDE:
        raise UserError(f"benchmark.image_size={image_size}: must be at least {_SMALLEST_SIDE}")
    file = Path(checkpoint).expanduser()
    file = file / NETWORK_FILE if file.is_dir() else file
    stylizer = Stylizer.load(file)
    trained_with = stylizer.trained.meta.get("backbone_name")
    if trained_with is None:
        raise UserError(f"{file} does not say which backbone it was trained with, so nobody can tell who may judge it")
    judge = choose_judge(judge, trained_with)
    pictures = find_pictures(run_config(file), stylizer.style_names, photos, styles, max_photos, image_size, seed)
    bench = _Bench(load_judge(judge, judge_weights, pictures.styles), pictures, image_size)

    rows = [*bench.identity(), *bench.style_images(), *bench.network(stylizer)]
    report = Report(
        measurements=rows,
        mixes=list(bench.mixes(stylizer)),
        styles=pictures.styles,
        photos=pictures.photos,
        painted=bench.painted,
        judge=judge,
        trained_with=trained_with,
        checkpoint=checkpoint,
        source=pictures.source,
        image_size=image_size,
        seed=seed,
        wall_seconds=time.monotonic() - began,
    )
    folder = Path(output_dir) / "style"
    files = write_report(report, folder)
    if gatys_pairs:  # takes longer than all the rest, which is safe by now
        weights = gatys_weights or _run_weights(run_config(file))
        rows += bench.gatys(trained_with, weights, gatys_pairs, gatys_steps)
        files = write_report(replace(report, wall_seconds=time.monotonic() - began), folder)
    sys.stdout.write(files["table"].read_text() + "\n")
    return files


# --- the judge --------------------------------------------------------------------------------------------------------


def choose_judge(judge: str | None, trained_with: str) -> str:
    """Return the judge's name; raises UserError for the network that was trained against."""
    if judge is None:
        return "vgg16" if trained_with == "efficientnet_lite0" else "efficientnet_lite0"
    if judge == trained_with:
        other = "vgg16" if judge == "efficientnet_lite0" else "efficientnet_lite0"
        raise UserError(
            f"benchmark.judge={judge}: the network was trained to please {judge}, which is no judge of it: "
            f"type benchmark.judge={other}"
        )
    return judge


def load_judge(name: str, weights: str | None, styles: dict[str, Tensor]) -> Judge:
    """Return the judge of these styles; raises UserError with what to type where its weights cannot be had."""
    style_layers, content_layers = default_style_layers(name), default_content_layers(name)
    try:
        backbone = load_backbone(name, (*style_layers, *content_layers), weights)
    except UserError as error:
        if weights is not None:
            raise UserError(f"benchmark.judge_weights={weights}: {error}") from error
        reason = str(error).partition(": go online")[0]
        raise UserError(
            f"the judge {name} has no weights here ({reason}): go online once, name a file with "
            "benchmark.judge_weights=FILE, or another judge with benchmark.judge=NAME"
        ) from error
    return Judge(backbone, list(styles.values()), style_layers, content_layers)


# --- photos and styles ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """What is measured: photos (3, s, s) and styles (3, H, W) in [0, 1] by name, and where the photos are from."""

    photos: dict[str, Tensor]
    styles: dict[str, Tensor]
    source: str


def run_config(checkpoint: Path) -> dict[str, Any]:
    """Return the configuration of the run that a network or checkpoint lies in; empty where it lies in none."""
    for folder in (checkpoint.parent, checkpoint.parent.parent):  # checkpoints/ is a folder of the run
        if (folder / "config.yaml").is_file():
            values = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
            if isinstance(values, dict) and "model" in values:
                return {str(key): value for key, value in values.items()}
    return {}


def _run_weights(config: dict[str, Any]) -> str | None:
    return config.get("backbone", {}).get("weights")


def find_pictures(
    config: dict[str, Any],
    style_names: Sequence[str],
    photos: str | None,
    styles: str | None,
    max_photos: int,
    image_size: int,
    seed: int,
) -> Pictures:
    """Return the photos and those styles that the network knows, in its order; see :func:`benchmark_style`."""
    section = dict(config.get("data", {}))
    kind = _DATA.get(section.pop("_target_", ""), SampleData)
    images = styles or section.get("style_dir")
    size = int(section.get("style_size", _STYLE_SIZE))
    found = _folder_styles(images, size) if images else _sample_styles(style_names, section, size)
    known = {name: found[name] for name in style_names if name in found}
    if len(known) < 2:
        raise UserError(
            f"{images or 'the sample'}: holds {len(known)} of the network's styles {', '.join(style_names)}, and to "
            f"tell styles apart takes two{did_you_mean(style_names[0], found)}: name their folder with "
            "benchmark.styles=FOLDER"
        )
    own = section.get("content_dir")
    if photos and not (own and Path(photos).expanduser().resolve() == Path(own).expanduser().resolve()):
        candidates, source = _folder_photos(photos, image_size), f"the folder {photos}"
    elif kind is ImagesData:
        candidates, source = _held_out_images(section, images, image_size), f"held out by the run from {own}"
    else:
        values: dict[str, Any] = {**section, "image_size": image_size}
        candidates, source = SampleData(**values).find().held_out, "the held-out photos of the sample"
    chosen = sorted(int(place) for place in epoch_order(seed, 0, len(candidates))[:max_photos])
    crops = {candidates[place].name: central_crop(candidates[place].load(), image_size) for place in chosen}
    return Pictures(crops, known, source)


def _folder_photos(folder: str, image_size: int) -> list[ContentPhoto]:
    side = KEPT_SCALE * image_size
    return [ContentPhoto(name, path=path, max_short_side=side) for name, path in _files("photos", folder)]


def _folder_styles(folder: str, style_size: int) -> dict[str, Tensor]:
    styles: dict[str, Tensor] = {}
    for name, path in _files("styles", folder):
        if path.stem in styles:
            raise UserError(f"{folder}: {name} is the second style of the name {path.stem}; rename one")
        pixels = torch.from_numpy(decode(path, 2 * style_size)).permute(2, 0, 1)
        styles[path.stem] = shorter_side_to(pixels.float() / 255, style_size)
    return styles


def _files(setting: str, folder: str) -> list[tuple[str, Path]]:
    """Return the pictures of a folder and its subfolders, by their names in it; what is none is named in a warning."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"benchmark.{setting}={folder}: there is no such folder; type benchmark.{setting}=FOLDER")
    found, skipped = [], []
    for path, pixels in decoded_files(root, _SMALLEST_SIDE, _SMALLEST_PICTURE):
        name = path.relative_to(root).as_posix()
        if isinstance(pixels, str):
            skipped.append(f"{name} ({pixels})")
        else:
            found.append((name, path))
    report_skipped(root, skipped)
    if not found:
        raise UserError(f"benchmark.{setting}={folder}: holds no picture; type benchmark.{setting}=FOLDER")
    return found


def _held_out_images(section: dict[str, Any], styles: str | None, image_size: int) -> list[ContentPhoto]:
    """Return the photos that a run with ``data=images`` held out, by that module's own split."""
    folder = Path(str(section["content_dir"])).expanduser()
    if not folder.is_dir():
        raise UserError(f"the run's photos {folder} are not here: name others with benchmark.photos=FOLDER")
    try:
        held_out = ImagesData(**{**section, "style_dir": styles}).find().held_out
    except TypeError as error:
        raise UserError(
            f"the run's config.yaml is of another version ({error}): add benchmark.photos=FOLDER"
        ) from error
    # The run may have kept them smaller than they are measured here.
    return [ContentPhoto(photo.name, decode(folder / photo.name, KEPT_SCALE * image_size)) for photo in held_out]


def _sample_styles(names: Sequence[str], section: dict[str, Any], style_size: int) -> dict[str, Tensor]:
    values = section or {"styles": list(names), "style_size": style_size}
    try:
        data = SampleData(**values)
        return dict(zip(data.style_names, data.style_images()))
    except (UserError, TypeError) as error:
        raise UserError(
            f"the network's style images are not to be found ({error}): name their folder with benchmark.styles=FOLDER"
        ) from error


# --- the measuring ----------------------------------------------------------------------------------------------------


class _Bench:
    """Makes every method's pictures of the same photos and styles and measures them."""

    def __init__(self, judge: Judge, pictures: Pictures, image_size: int) -> None:
        self._judge = judge
        self._photos = pictures.photos
        self._names = list(pictures.styles)
        # The scale of the strokes is part of a style: cut, not shrunk, unless the style is smaller than the photos.
        self._style_squares = [
            shorter_side_to(center_crop(image, [min(image_size, *image.shape[-2:])] * 2), image_size)
            for image in pictures.styles.values()
        ]
        self._photo_looks = {name: judge.look(photo) for name, photo in pictures.photos.items()}
        self.painted: dict[tuple[str, str], Tensor] = {}
        """Pictures of the network for the figure, by photo and style."""

    def _measure(self, method: str, photo: str, asked: int, picture: Tensor, look: Look) -> Measurement:
        distances = self._judge.style_distances(look)
        return Measurement(
            method=method,
            photo=photo,
            style=self._names[asked],
            nearest=self._names[int(distances.mean(1).argmin())],
            gram_distances=dict(zip(self._judge.style_layers, distances[asked].tolist())),
            content_distance=self._judge.content_distance(look, self._photo_looks[photo]),
            color_drift=color_drift(picture, self._photos[photo], lightness=False),
            color_and_lightness_drift=color_drift(picture, self._photos[photo]),
        )

    def identity(self) -> Iterator[Measurement]:
        for name, photo in self._photos.items():
            for asked in range(len(self._names)):
                yield self._measure(IDENTITY, name, asked, photo, self._photo_looks[name])

    def style_images(self) -> Iterator[Measurement]:
        for asked, square in enumerate(self._style_squares):
            look = self._judge.look(square)
            for name in self._photos:
                yield self._measure(STYLE_IMAGE, name, asked, square, look)

    def network(self, stylizer: Stylizer) -> Iterator[Measurement]:
        """Measure the network without and with the photo's colours kept."""
        pairs = list(itertools.product(self._photos.items(), range(len(self._names))))
        progress = progress_lines(NETWORK, "pictures")
        pictured = list(self._photos)[:_PICTURED]
        for done, ((name, photo), asked) in enumerate(pairs, start=1):
            restyled = stylizer(photo, self._condition(stylizer, asked))
            if name in pictured:
                self.painted[name, self._names[asked]] = restyled
            yield self._measure(NETWORK, name, asked, restyled, self._judge.look(restyled))
            kept = preserve_color(restyled, photo)
            yield self._measure(KEEP_COLOR, name, asked, kept, self._judge.look(kept))
            progress(done, len(pairs))

    def mixes(self, stylizer: Stylizer) -> Iterator[MixMeasurement]:
        """Mix each two styles half and half: photos and pairs in rotation until each has had its turn."""
        pairs = list(itertools.combinations(range(len(self._names)), 2))
        count = max(len(pairs), len(self._photos))
        progress = progress_lines("mixing", "pairs")
        photos = list(self._photos.items())
        for number in range(count):
            (name, photo), (first, second) = photos[number % len(photos)], pairs[number % len(pairs)]
            conditions = [self._condition(stylizer, style) for style in (first, second)]
            ends = [stylizer(photo, condition) for condition in conditions]
            looks = [self._judge.look(end) for end in ends]
            mixed = stylizer(photo, (conditions[0] + conditions[1]) / 2)
            faded = (ends[0] + ends[1]) / 2
            yield MixMeasurement(
                photo=name,
                first=self._names[first],
                second=self._names[second],
                network=self._judge.mixing_deviation(self._judge.look(mixed), *looks),
                cross_fade=self._judge.mixing_deviation(self._judge.look(faded), *looks),
                pixels=midpoint_deviation(mixed, *ends),
            )
            progress(number + 1, count)

    def gatys(self, loss_backbone: str, weights: str | None, pairs: int, steps: int) -> Iterator[Measurement]:
        """Paint some pairs, each style as often as the others, under the backbone that the network was trained with."""
        backbone = load_backbone(loss_backbone, recipe(loss_backbone).layers, weights)
        chosen = list(itertools.islice(_diagonals(len(self._photos), len(self._names)), pairs))
        progress = progress_lines(GATYS, "paintings")
        photos = list(self._photos.items())
        for done, (place, asked) in enumerate(chosen, start=1):
            name, photo = photos[place]
            painting = paint(
                photo,
                [self._style_squares[asked]],
                backbone=backbone,
                steps=steps,
                max_side=max(photo.shape),
            )
            yield self._measure(GATYS, name, asked, painting, self._judge.look(painting))
            progress(done, len(chosen))

    def _condition(self, stylizer: Stylizer, style: int) -> Tensor:
        return one_hot(stylizer.style_names.index(self._names[style]), len(stylizer.style_names))


def _diagonals(photos: int, styles: int) -> Iterator[tuple[int, int]]:
    """Yield each pair once, all the styles before any of them again, each time with the next photo."""
    for shift in range(photos):
        for style in range(styles):
            yield (style + shift) % photos, style
