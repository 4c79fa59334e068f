"""``evaluate.py benchmark=segmentation_speed``: milliseconds an image of every method, as ratios in one run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.runs import current_commit, describe_machine
from tezawari.core.tables import markdown_table, write_csv
from tezawari.core.timing import time_in_turns
from tezawari.core.training import say
from tezawari.data.materials import material_scene
from tezawari.segmentation.crf import CrfParameters, refine, require_library
from tezawari.segmentation.masks import class_probabilities, mask_of
from tezawari.segmentation.naive import naive_dcsm
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.saliency import METHODS, saliency_maps

_BACKGROUND = 0.4


def benchmark_segmentation_speed(
    output_dir: str,
    backbone: str = "efficientnet_lite0",
    weights: str | None = "random",
    num_classes: PositiveInt = 20,
    candidates: PositiveInt = 2,
    size: tuple[PositiveInt, PositiveInt] = (500, 375),
    images: PositiveInt = 3,
    naive: bool = True,
    crf: dict[str, float] | None = None,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Time saliency methods and the CRF on painted scenes, and leave a table in ``output_dir/segmentation_speed``.

    Methods take turns, so that a busy machine slows all of them alike. DCSM is timed beside its literal loop of two
    passes back for every scale, class, competitor and layer, on the same image, and compared with its result, in which
    rounding decides whether a gradient near zero passes a rectifier; the CRF
    on an image's candidate classes beside the CRF on all classes, and compared by the share of pixels with the same
    label; at last a photo end to end, DCSM at three scales and the CRF.

    Args:
        output_dir: where the folder goes.
        backbone: of the saliency network, whose head is untrained: the same time as a trained one.
        weights: of the backbone: ``random`` takes the same time.
        num_classes: K.
        candidates: labels of each image.
        size: width and height of the images, in pixels.
        images: how many; the median counts.
        naive: also time the literal loop, on one image.
        crf: the parameters of the CRF; None leaves it out.
        seed: of the scenes and of the head.

    Returns:
        Name → file: ``results`` and ``table``.

    Raises:
        UserError: more candidates than classes, or fewer classes than two.
    """
    if num_classes < 2 or candidates > num_classes:
        raise UserError(
            f"benchmark.candidates={candidates}, benchmark.num_classes={num_classes}: take fewer candidates"
        )
    if crf is not None:
        require_library()
    parameters = None if crf is None else CrfParameters(**crf)  # type: ignore[arg-type]
    torch.manual_seed(seed)
    network = SaliencyNetwork(backbone, num_classes, "average", weights).eval().requires_grad_(False)
    photos = [_photo(seed, index, size) for index in range(images)]
    labels = torch.zeros(1, num_classes, dtype=torch.bool)
    labels[0, :candidates] = True
    rows: list[dict[str, Any]] = []

    def maps_of(method: Any, photo: Tensor) -> Tensor:
        return saliency_maps(network, photo, labels, method).maps[0]

    def all_photos(method: Any) -> Callable[[], object]:
        return lambda: [maps_of(method, photo) for photo in photos]

    runs: dict[str, Callable[[], object]] = {method: all_photos(method) for method in METHODS}
    for run in runs.values():
        run()
    timings = time_in_turns(runs, 3)
    for method, timing in timings.items():
        rows.append(_row(method, timing.median / images))
    dcsm = timings["dcsm"].median / images
    if naive:
        say("timing the naive loop of DCSM on one image")
        found: list[Tensor] = []
        slow = time_in_turns({"naive": lambda: found.append(naive_dcsm(network, photos[0][0], labels[0]))}, 1)["naive"]
        difference = float((found[0] - maps_of("dcsm", photos[0])).abs().max())
        rows.append(_row("dcsm, naive loop", slow.median, f"{slow.median / dcsm:.1f} × dcsm", f"{difference:.2g}"))
    if parameters is not None:
        rows += _crf_rows(network, photos, labels, parameters, dcsm)
    folder = Path(output_dir) / "segmentation_speed"
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "backbone": backbone,
        "size": f"{size[0]}x{size[1]}",
        "candidates": candidates,
        "num_classes": num_classes,
    }
    record |= {"seed": seed, "commit": current_commit(), **describe_machine()}
    table = folder / "summary.md"
    cells = [[str(row["what"]), f"{row['milliseconds']:.0f}", row["ratio"], row["same"]] for row in rows]
    machine = describe_machine()
    table.write_text(
        f"Milliseconds an image of {size[0]} × {size[1]} pixels with {candidates} of {num_classes} classes, "
        f"{backbone}, {machine['cores']} cores of {machine['processor']}.\n\n"
        + markdown_table(["what", "milliseconds", "ratio", "same result"], cells)
        + "\n",
        encoding="utf-8",
    )
    sys.stdout.write(table.read_text() + "\n")
    return {"results": write_csv(folder / "results.csv", [{**row, **record} for row in rows]), "table": table}


def _crf_rows(
    network: SaliencyNetwork, photos: list[Tensor], labels: Tensor, parameters: CrfParameters, dcsm: float
) -> list[dict[str, Any]]:
    """Time the CRF on candidates and on all classes, of the maps that DCSM makes of the same photos."""
    classes = labels[0].nonzero()[:, 0].tolist()
    everything = list(range(network.num_classes))
    pixels = [np.ascontiguousarray((255 * photo[0]).round().byte().permute(1, 2, 0).numpy()) for photo in photos]
    maps = [saliency_maps(network, photo, labels).maps[0] for photo in photos]
    few = [class_probabilities(of_photo[classes], _BACKGROUND) for of_photo in maps]
    many = [class_probabilities(of_photo, _BACKGROUND) for of_photo in maps]
    results: dict[str, list[np.ndarray]] = {}

    def refine_all(name: str, probabilities: list[np.ndarray], places: list[int]) -> None:
        results[name] = [mask_of(refine(p, q, parameters), places) for p, q in zip(pixels, probabilities)]

    timings = time_in_turns(
        {"few": lambda: refine_all("few", few, classes), "many": lambda: refine_all("many", many, everything)}, 1
    )
    same = float(np.mean([np.mean(a == b) for a, b in zip(results["few"], results["many"])]))
    on_few, on_many = (timings[name].median / len(photos) for name in ("few", "many"))
    return [
        _row(f"CRF on {1 + len(classes)} candidates", on_few),
        _row(
            f"CRF on all {1 + len(everything)} classes", on_many, f"{on_many / on_few:.1f} × candidates", f"{same:.2%}"
        ),
        _row("end to end: dcsm and CRF", dcsm + on_few),
    ]


def _photo(seed: int, index: int, size: tuple[int, int]) -> Tensor:
    """Return a painted scene (1, 3, H, W) in [0, 1] of a photo's shape."""
    width, height = size
    image, _ = material_scene(seed, index, max(size))
    return image[None, :, :height, :width].contiguous()


def _row(what: str, seconds: float, ratio: str = "", same: str = "") -> dict[str, Any]:
    return {"what": what, "milliseconds": round(1000 * seconds, 2), "ratio": ratio, "same": same}
