"""``evaluate.py benchmark=crf_search``: choose the CRF's parameters on training images and their labels alone."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines
from tezawari.core.tables import markdown_table, write_csv
from tezawari.core.training import say
from tezawari.segmentation.crf import CrfParameters, require_library
from tezawari.segmentation.crf_search import crf_grid, score_crf
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.package import load_trained
from tezawari.segmentation.pseudo_masks import (
    THRESHOLDS,
    calibrate_background,
    calibration_images,
    photo_maps,
    photo_view,
    view_side,
)
from tezawari.segmentation.saliency import Method
from tezawari.segmentation.segmentation_benchmark import run_data

_SEARCHED = ("bilateral_sxy", "bilateral_srgb", "bilateral_weight")


def search_crf(
    saliency: str | None,
    output_dir: str,
    method: Method = "dcsm",
    bilateral_sxy: tuple[float, ...] = (30.0, 50.0, 80.0),
    bilateral_srgb: tuple[float, ...] = (13.0,),
    bilateral_weight: tuple[float, ...] = (3.0, 5.0, 10.0),
    images: PositiveInt = 32,
    crf_workers: NonNegativeInt = 2,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Score a grid of CRF parameters on training images and leave the table in ``output_dir``.

    The masks are those of a saliency method under the images' own labels; each setting is scored with the background
    score that calibration chose without a CRF and with its two neighbours, and beside no CRF at all. No mask is read.

    Args:
        saliency: a trained saliency network: the folder of a run, whose training images are taken.
        output_dir: where the folder ``crf_search`` goes.
        method: the saliency method.
        bilateral_sxy: standard deviations in pixels to try.
        bilateral_srgb: standard deviations in levels of 0 … 255 to try.
        bilateral_weight: weights to try.
        images: how many training images, drawn by ``seed``.
        crf_workers: processes that refine.
        seed: draws the images.

    Returns:
        Name → file: ``summary`` (a row a setting and background score), ``table``.

    Raises:
        UserError: no network is named, or it or its data are missing; a value that the CRF cannot take.
    """
    if saliency is None:
        raise UserError(
            "no network is named: type benchmark.saliency=RUN (train one with python train.py model=saliency)"
        )
    require_library()
    settings: list[CrfParameters | None] = [None, *crf_grid(bilateral_sxy, bilateral_srgb, bilateral_weight)]
    run = Path(saliency).expanduser()
    trained = load_trained(run, "saliency")
    network = trained.network
    assert isinstance(network, SaliencyNetwork)
    train = run_data(run).examples("train")
    side = view_side(trained.image_size)
    background, _ = calibrate_background(
        network, train, side, method, seed, images, progress=progress_lines(f"calibrating {method}", "images")
    )
    place = THRESHOLDS.index(background)
    backgrounds = THRESHOLDS[max(0, place - 1) : place + 2]
    chosen = calibration_images(train, seed, images)
    pixels = [image.load_image() for image in chosen]
    maps = [
        photo_maps(network, photo, side, image.labels, method)[list(image.labels)]
        for photo, image in zip(pixels, chosen)
    ]
    scores = score_crf(
        lambda shown: network(shown).sigmoid(),
        pixels,
        [photo_view(photo, side)[0] for photo in pixels],
        maps,
        [image.labels for image in chosen],
        backgrounds,
        settings,
        crf_workers,
        progress_lines("scoring", "looks"),
    )
    rows = [
        {**_values(setting), "background": score, "score": round(float(scores[row, column]), 4)}
        for row, setting in enumerate(settings)
        for column, score in enumerate(backgrounds)
    ]
    folder = Path(output_dir) / "crf_search"
    folder.mkdir(parents=True, exist_ok=True)
    files = {"summary": folder / "summary.csv", "table": folder / "table.md"}
    write_csv(files["summary"], rows)
    header = [*_SEARCHED, "background", "score"]
    rows.sort(key=lambda row: float(row["score"]), reverse=True)
    table = markdown_table(header, [[f"{row[name]}" for name in header] for row in rows])
    best = next(row for row in rows if row["bilateral_sxy"] != "no CRF")
    lines = [
        f"# {method} on {len(chosen)} training images and their labels, seed {seed}",
        "",
        table,
        "",
        "Best with a CRF: "
        + " ".join(f"benchmark.crf.{name}={best[name]}" for name in _SEARCHED)
        + f" benchmark.background={best['background']}",
    ]
    files["table"].write_text("\n".join(lines) + "\n")
    sys.stdout.write(files["table"].read_text() + "\n")
    say(f"{len(settings) - 1} settings scored on {len(chosen)} images")
    return files


def _values(setting: CrfParameters | None) -> dict[str, float | str]:
    if setting is None:
        return dict.fromkeys(_SEARCHED, "no CRF")
    return {name: asdict(setting)[name] for name in _SEARCHED}
