"""``evaluate.py benchmark=words_to_style``: ways to merge a word's images into one style, compared."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.plots import require_matplotlib
from tezawari.core.progress import progress_lines
from tezawari.core.runs import measured_here
from tezawari.core.seeding import epoch_order
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.content_style import KEPT_SCALE, central_crop
from tezawari.data.images import decoded_files, report_skipped
from tezawari.data.sample import SampleData
from tezawari.data.sheet import draw_sheet, square
from tezawari.features.backbone import Backbone, load_backbone
from tezawari.style.gatys import Progress, paint, recipe
from tezawari.style.measures import Judge
from tezawari.style.style_benchmark import choose_judge, load_judge
from tezawari.style.style_clusters import (
    FEWEST_IMAGES,
    StyleImage,
    cluster_styles,
    describe_styles,
    make_style_packs,
    pack_layers,
)
from tezawari.style.style_pack import MERGES, Merge, StylePack
from tezawari.style.style_pack_command import folder_images
from tezawari.words.intervals import mean_and_margin

PHOTO, CENTRE = "photo", "centre image"
_SMALLEST_SIZE = 64
_SMALLEST_PICTURE = 16
_FEWEST_WORDS = 2
_TILE = 144
_SHOWN_MEMBERS = 4
_SHOWN_WORDS = 10

Merges = Annotated[list[Merge], Field(min_length=1)]


@dataclass(frozen=True)
class Member:
    """How far a picture is from one image of the cluster that its style was merged from."""

    word: str
    photo: str
    method: str
    member: str
    distance: float
    content_distance: float


@dataclass(frozen=True)
class Report:
    """All that is written down; ``rows`` of pictures for the figure, the first of which are a word's members."""

    members: list[Member]
    rows: list[list[Tensor]]
    methods: list[str]
    data: str
    backbone: str
    judge: str
    steps: int
    image_size: int
    seed: int
    wall_seconds: float


def benchmark_words_to_style(
    images: str | None,
    output_dir: str,
    words: list[str] | None = None,
    photos: str | None = None,
    max_images: PositiveInt = 40,
    max_photos: PositiveInt = 2,
    members: PositiveInt = 8,
    merges: Merges = list(MERGES),  # noqa: B006 (never changed)
    image_size: PositiveInt = 256,
    steps: PositiveInt = 100,
    backbone: str = "efficientnet_lite0",
    weights: str | None = None,
    judge: str | None = None,
    judge_weights: str | None = None,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Paint photos in styles merged from words' images, in several ways, and measure how near to each image they come.

    Of each word the images nearest to the centre of its largest cluster are merged by each of ``merges``, and photos
    are painted in that style (:func:`tezawari.style.gatys.paint`). Controls: the photo unchanged, and a painting in the
    style of the centre image alone. Measured is, under a judge that painted nothing, the mean over layers of
    :func:`tezawari.style.measures.gram_dissimilarity` to every merged image: their mean, the nearest and the farthest,
    and the content distance from the photo. Means are over words, each of which counts as the mean of its photos, with
    the 95 % interval over words.

    Args:
        images: a folder of one folder of images a word.
        output_dir: where the folders ``words_to_style`` and ``cache`` go.
        words: the folders to take; None: all.
        photos: a folder of photos; None: the held-out photos of the sample.
        max_images: of each word, the first by name.
        max_photos: drawn by ``seed``.
        members: images of a cluster to merge, at most.
        merges: how.
        image_size: side in pixels of the photos' central squares, and shorter side of the images.
        steps: of each painting.
        backbone: what paints and clusters, and ``weights`` as :func:`load_backbone` takes them.
        weights: of ``backbone``.
        judge: another backbone; None: vgg16 for efficientnet_lite0, else that.
        judge_weights: of the judge.
        seed: of photos and clusters.

    Returns:
        Name → file: ``members`` (a row a picture and image), ``summary`` (a row a method), ``pairwise`` (a row a
        pair of methods), ``table``, ``figure`` and ``pairwise figure``.

    Raises:
        UserError: a folder is missing, has too few words, images or photos, or an unknown word is asked for.
    """
    began = time.monotonic()
    require_matplotlib()
    if image_size < _SMALLEST_SIZE:
        raise UserError(f"benchmark.image_size={image_size}: must be at least {_SMALLEST_SIZE}")
    judge = choose_judge(judge, backbone)
    found = _find_words(images, words, image_size, max_images)
    crops = _find_photos(photos, image_size, max_photos, seed)
    layers = pack_layers(backbone)
    network = load_backbone(backbone, {*layers, *recipe(backbone).layers}, weights)
    methods = [PHOTO, CENTRE, *merges]
    painter = _Painter(network, steps, image_size, len(found) * len(crops) * (len(methods) - 1))
    measured: list[Member] = []
    rows: list[list[Tensor]] = []
    files: dict[str, Path] = {}
    for number, (word, of_word) in enumerate(found.items(), 1):
        vectors = describe_styles(of_word, network, layers[-1], image_size, Path(output_dir) / "cache")
        cluster = [of_word[place] for place in cluster_styles(vectors, seed=seed).members[0][:members]]
        styles = _styles(word, cluster, merges, network, layers, image_size)
        pictures = {image.about.name: image.load(image_size) for image in cluster}
        jury = load_judge(judge, judge_weights, pictures)
        for photo, crop in crops.items():
            painted = {PHOTO: crop, **{method: painter(crop, pack) for method, pack in styles.items()}}
            for method, picture in painted.items():
                measured += _measure(jury, word, photo, method, picture, crop, list(pictures))
            if photo == next(iter(crops)) and number <= _SHOWN_WORDS:
                rows.append([*_shown(list(pictures.values())), *(square(one, _TILE) for one in painted.values())])
        if number >= _FEWEST_WORDS:  # an hour's work is safe word by word
            report = Report(
                members=measured,
                rows=rows,
                methods=methods,
                data=f"{number} words × {members} images at most, {len(crops)} photos",
                backbone=backbone,
                judge=judge,
                steps=steps,
                image_size=image_size,
                seed=seed,
                wall_seconds=time.monotonic() - began,
            )
            files = write_report(report, Path(output_dir) / "words_to_style")
    sys.stdout.write(files["table"].read_text(encoding="utf-8") + "\n")
    return files


# --- words, photos, paintings -----------------------------------------------------------------------------------------


def _find_words(
    images: str | None, words: Sequence[str] | None, image_size: int, max_images: int
) -> dict[str, list[StyleImage]]:
    if images is None:
        raise UserError("no images are named: type benchmark.images=FOLDER, of one folder of images for each word")
    root = Path(images).expanduser()
    if not root.is_dir():
        raise UserError(f"benchmark.images={images}: there is no such folder; type benchmark.images=FOLDER")
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    for word in words or ():
        if word not in folders:
            raise UserError(f"benchmark.words: {images} has no folder {word}{did_you_mean(word, folders)}")
    chosen = list(folders if words is None else dict.fromkeys(words))
    if len(chosen) < _FEWEST_WORDS:
        raise UserError(
            f"benchmark.images={images}: {len(chosen)} words, but an interval over words needs {_FEWEST_WORDS}"
        )
    found = {word: folder_images(folders[word], image_size)[:max_images] for word in chosen}
    for word, of_word in found.items():
        if len(of_word) < FEWEST_IMAGES:
            raise UserError(
                f"benchmark.images={images}: {len(of_word)} images of {word}, at least {FEWEST_IMAGES} are needed"
            )
    return found


def _find_photos(photos: str | None, image_size: int, max_photos: int, seed: int) -> dict[str, Tensor]:
    """Return central squares (3, S, S) in [0, 1] by name."""
    if photos is None:
        sample = SampleData(image_size=image_size).find().held_out
        return {photo.name: central_crop(photo.load(), image_size) for photo in sample[:max_photos]}
    root = Path(photos).expanduser()
    if not root.is_dir():
        raise UserError(f"benchmark.photos={photos}: there is no such folder; type benchmark.photos=FOLDER")
    found, skipped = {}, []
    for path, pixels in decoded_files(root, KEPT_SCALE * image_size, _SMALLEST_PICTURE):
        name = path.relative_to(root).as_posix()
        if isinstance(pixels, str):
            skipped.append(f"{name} ({pixels})")
        else:
            found[name] = central_crop(pixels, image_size)
    report_skipped(root, skipped)
    if not found:
        raise UserError(f"benchmark.photos={photos}: holds no picture; type benchmark.photos=FOLDER")
    names = list(found)
    return {names[place]: found[names[place]] for place in sorted(epoch_order(seed, 0, len(names))[:max_photos])}


def _styles(
    word: str,
    cluster: Sequence[StyleImage],
    merges: Sequence[Merge],
    network: Backbone,
    layers: Sequence[str],
    side: int,
) -> dict[str, StylePack]:
    """Return what to paint with, by the method's name: the image at the centre, and each merge."""
    (centre,) = make_style_packs(word, cluster[:1], ["mean"], backbone=network, layers=layers, side=side).values()
    packs = make_style_packs(word, cluster, merges, backbone=network, layers=layers, side=side)
    return {CENTRE: centre, **{str(merge): pack for merge, pack in packs.items()}}


class _Painter:
    """Paints photos with packs and tells how far all of it is."""

    def __init__(self, network: Backbone, steps: int, image_size: int, paintings: int) -> None:
        self._network, self._steps, self._image_size = network, steps, image_size
        self._done, self._paintings = 0, paintings
        self._tell = progress_lines(f"painting by {network.name}", "steps", seconds=10.0)

    def __call__(self, photo: Tensor, pack: StylePack) -> Tensor:
        def step(now: Progress) -> None:
            self._tell(self._done * self._steps + now.step, self._paintings * self._steps)

        painted = paint(
            photo, [pack], backbone=self._network, steps=self._steps, max_side=self._image_size, callback=step
        )
        self._done += 1
        return painted


def _measure(
    judge: Judge, word: str, photo: str, method: str, picture: Tensor, crop: Tensor, members: Sequence[str]
) -> Iterator[Member]:
    look = judge.look(picture)
    content = judge.content_distance(look, judge.look(crop))
    for member, distance in zip(members, judge.style_distances(look).mean(1).tolist()):
        yield Member(word, photo, method, member, distance, content)


def _shown(pictures: Sequence[Tensor]) -> list[Tensor]:
    """Return as many small squares for every word: where a cluster is smaller, its images go round again."""
    return [square(pictures[place % len(pictures)], _TILE) for place in range(_SHOWN_MEMBERS)]


# --- what is written down ---------------------------------------------------------------------------------------------


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``members.csv``, ``summary.csv``, ``pairwise.csv``, ``summary.md`` and two figures; return name → file."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "data": report.data,
        "backbone": report.backbone,
        "judge": report.judge,
        "steps": report.steps,
        "image_size": report.image_size,
        **measured_here(report.seed, report.wall_seconds),
    }
    measures = {method: measures_of(report.members, method) for method in report.methods}
    words = len(next(iter(measures.values()))["mean"])
    rows = [vars(member) | {"distance": f"{member.distance:.6g}"} for member in report.members]
    summary = []
    for method, values in measures.items():
        row: dict[str, Any] = {"method": method, "n": words}
        for name, by_word in values.items():
            mean, margin = mean_and_margin(by_word)
            row |= {name: f"{mean:.6g}", f"{name}_margin": f"{margin:.6g}"}
        summary.append(row | record)
    files = {
        "members": write_csv(folder / "members.csv", rows),
        "summary": write_csv(folder / "summary.csv", summary),
        "pairwise": write_csv(folder / "pairwise.csv", pairwise(report)),
        "table": folder / "summary.md",
        "figure": folder / "figure.png",
        "pairwise figure": draw_pairwise(report, folder / "pairwise.png"),
    }
    files["table"].write_text(render_tables(report, measures), encoding="utf-8")
    draw_figure(report).save(files["figure"], optimize=True)
    return files


def measures_of(members: Sequence[Member], method: str) -> dict[str, np.ndarray]:
    """Return what a method reaches, word by word (W,): distance to the cluster's images, mean, nearest and farthest.

    Each is of a picture, then averaged over the word's photos; so is ``content``, the content distance.
    """
    by_word: dict[str, dict[str, list[Member]]] = {}
    for member in members:
        if member.method == method:
            by_word.setdefault(member.word, {}).setdefault(member.photo, []).append(member)
    of_pictures = [
        [[member.distance for member in picture] for picture in pictures.values()] for pictures in by_word.values()
    ]
    content = [[picture[0].content_distance for picture in pictures.values()] for pictures in by_word.values()]
    return {
        "mean": np.array([np.mean([np.mean(each) for each in pictures]) for pictures in of_pictures]),
        "nearest": np.array([np.mean([np.min(each) for each in pictures]) for pictures in of_pictures]),
        "farthest": np.array([np.mean([np.max(each) for each in pictures]) for pictures in of_pictures]),
        "content": np.array([np.mean(each) for each in content]),
    }


def pairwise(report: Report) -> list[dict[str, Any]]:
    """Compare each method with each other one, picture by picture and image by image.

    ``nearer``: share of all (word, photo, image) to which the picture of ``method`` is nearer than that of ``other``.
    ``gain``: by how much, on the mean over words, with half of its 95 % interval.
    """
    distance: dict[str, dict[tuple[str, str, str], float]] = {method: {} for method in report.methods}
    for member in report.members:
        distance[member.method][member.word, member.photo, member.member] = member.distance
    means = {method: measures_of(report.members, method)["mean"] for method in report.methods}
    rows = []
    for method, other in itertools.permutations(report.methods, 2):
        wins = [value < distance[other][place] for place, value in distance[method].items()]
        gain, margin = mean_and_margin(means[other] - means[method])
        rows.append(
            {
                "method": method,
                "other": other,
                "n": len(wins),
                "nearer": f"{np.mean(wins):.6g}",
                "gain": f"{gain:.6g}",
                "gain_margin": f"{margin:.6g}",
            }
        )
    return rows


def render_tables(report: Report, measures: dict[str, dict[str, np.ndarray]]) -> str:
    """Return the Markdown: a row a method, then how often one is nearer than another, in per cent."""
    head = ["style", "mean of all images", "nearest image", "farthest image", "content distance"]
    rows = [
        [method, *(f"{mean:.3f} ± {margin:.3f}" for mean, margin in map(mean_and_margin, values.values()))]
        for method, values in measures.items()
    ]
    nearer = {(row["method"], row["other"]): 100 * float(row["nearer"]) for row in pairwise(report)}
    wins = [
        [method, *(f"{nearer[method, other]:.0f}" if method != other else "" for other in report.methods)]
        for method in report.methods
    ]
    return "\n\n".join(
        [
            f"{report.data}; painted in {report.steps} steps at {report.image_size} px by {report.backbone}, judged by "
            f"{report.judge}. Gram dissimilarity (0 to 1) to the images that were merged; means over words, ± half of "
            "the 95 % interval over words.",
            markdown_table(head, rows),
            "Per cent of (word, photo, image) where the row's picture is nearer to the image than the column's:",
            markdown_table(["", *report.methods], wins) + "\n",
        ]
    )


def draw_figure(report: Report) -> Image.Image:
    """Draw a row a word: images of its cluster, the photo, and the photo painted in each style."""
    return draw_sheet(report.rows, [*(f"image {n}" for n in range(1, _SHOWN_MEMBERS + 1)), *report.methods])


def draw_pairwise(report: Report, path: Path) -> Path:
    """Draw how often one method is nearer than another, and the distances of each with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    matrix, bars = figure.subplots(1, 2)
    methods = report.methods
    shares = np.full((len(methods), len(methods)), np.nan)
    for row in pairwise(report):
        shares[methods.index(row["method"]), methods.index(row["other"])] = 100 * float(row["nearer"])
    matrix.imshow(shares, cmap="RdBu", vmin=0, vmax=100)
    for (y, x), share in np.ndenumerate(shares):
        if y != x:
            matrix.text(
                x, y, f"{share:.0f}", ha="center", va="center", color="white" if abs(share - 50) > 30 else "black"
            )
    matrix.set_xticks(range(len(methods)), methods, rotation=35, ha="right")
    matrix.set_yticks(range(len(methods)), methods)
    matrix.set_title("% of images to which the row is nearer", fontsize=10)
    for shift, name in enumerate(("nearest", "mean", "farthest")):
        values = [mean_and_margin(measures_of(report.members, method)[name]) for method in methods]
        mean, margin = np.array(values).T
        places = np.arange(len(methods)) + 0.15 * (shift - 1)
        bars.errorbar(
            places, mean, margin, fmt="o", label=f"{name} image" if name != "mean" else "mean of all", capsize=2
        )
    bars.set_xticks(range(len(methods)), methods, rotation=35, ha="right")
    bars.set(ylabel="Gram dissimilarity")
    bars.grid(alpha=0.3)
    bars.legend(fontsize=8)
    figure.savefig(path, dpi=100)
    return path
