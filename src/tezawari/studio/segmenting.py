"""Segmenting as the studio does it: one photo, several methods side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data.photo import load_rgb
from tezawari.segmentation.crf import CrfParameters
from tezawari.segmentation.masks import overlay, voc_colors, write_mask
from tezawari.segmentation.pictures import heat_overlay
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.studio.job_work import Bench, write_jpeg
from tezawari.studio.jobs import Report

_SIDE = 1024


def segment_photo(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Find classes in a photo by each method asked for: an overlay, a mask and heat maps."""
    methods: list[Any] = request["methods"]
    report("segmenting", 0, len(methods))
    stored = bench.photo(request["photo"])
    pixels = np.ascontiguousarray(load_rgb(stored.path, max_side=_SIDE).permute(1, 2, 0).numpy())
    crf = CrfParameters() if request["crf"] else None
    segmenter = segmenter_of(bench)
    names = segmenter.trained.class_names
    answers = []
    for number, method in enumerate(methods):
        found = segmenter(pixels, request["labels"] or None, method, crf=crf)
        mask = folder / f"{number}-mask.png"
        full = Image.fromarray(found.mask).resize((stored.width, stored.height), Image.Resampling.NEAREST)
        write_mask(mask, np.asarray(full))
        counts = np.bincount(found.mask.ravel(), minlength=1 + len(names)) / found.mask.size
        answers.append(
            {
                "method": method,
                "overlay": write_jpeg(folder / f"{number}-overlay.jpg", overlay(pixels, found.mask, None)),
                "mask": mask.name,
                "classes": [
                    {
                        "name": name,
                        "share": float(counts[1 + names.index(name)]),
                        "heat": write_jpeg(folder / f"{number}-{place}-heat.jpg", heat_overlay(pixels, heat)),
                    }
                    for place, (name, heat) in enumerate(found.maps.items())
                ],
            }
        )
        report("segmenting", number + 1, len(methods))
    files = [answer["overlay"] for answer in answers] + [answer["mask"] for answer in answers]
    files += [one["heat"] for answer in answers for one in answer["classes"]]
    return {"files": files, "answers": answers, "colors": class_colors(names)}


def class_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each class in overlays and masks, as ``#rrggbb``."""
    return {name: "#" + bytes(color).hex() for name, color in zip(names, voc_colors()[1:])}


def segmenter_of(bench: Bench) -> PhotoSegmenter:
    """Return the segmenter that the studio was started with, read once; raises UserError where there is none."""
    if bench.settings.segmenter is None:
        raise UserError("the studio was started without a segmenter: tezawari studio --segmenter RUN")
    return _load_segmenter(bench.settings.segmenter)


@functools.cache
def _load_segmenter(checkpoint: Path) -> PhotoSegmenter:
    return PhotoSegmenter.load(checkpoint)
