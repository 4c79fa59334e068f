"""Swapping a material as the studio does it: found in the photo, restyled there and nowhere else, looked at again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tezawari.core.errors import UserError
from tezawari.data.photo import Photo, load_rgb, read_photo, write_photo
from tezawari.segmentation.crf import CrfParameters
from tezawari.segmentation.masks import overlay, write_mask
from tezawari.studio.job_work import Bench, write_jpeg
from tezawari.studio.jobs import Report
from tezawari.studio.restyling import load_stylizer
from tezawari.studio.segmenting import class_colors, segmenter_of
from tezawari.style.swap import Verdict, check_region, find_source, judge_region, swap_material
from tezawari.style.swap_pictures import chain_panels, to_pixels

# What is looked at, by the segmenter and by people; only the full size is made of more pixels.
_SIDE = 1024
_LARGEST_FEATHER = 64.0
_LEAST_SHARE = 0.01


def swap_photo(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Turn one material of a photo into a style, and say what is seen in its region before and after.

    At the size of a preview the swapped photo is a JPEG for screens; in full there is also a PNG of it, so that what
    lies outside of the region keeps its pixels. Both are judged at the size of the preview. The mask is of full size.
    """
    stored = bench.photo(request["photo"])
    segmenter = segmenter_of(bench)
    stylizer = load_stylizer(bench.settings.checkpoint)
    names, crf = segmenter.trained.class_names, CrfParameters()
    report("segmenting", 0, 2)
    small = load_rgb(stored.path, max_side=_SIDE)
    pixels = np.ascontiguousarray(small.permute(1, 2, 0).numpy())
    before = segmenter(pixels, crf=crf).mask
    source = request["source"] or _most_seen(before, names)
    found = find_source(before, names, source)
    check_region(found, f"the region of {source}")
    whole = _resized(found, (stored.height, stored.width))
    photo, region = (read_photo(stored.path), whole) if request["full"] else (Photo(small.float() / 255), found)
    style, tiles = stylizer.mix(request["target"]), functools.partial(report, "restyling")
    swapped = swap_material(
        photo.image,
        region,
        lambda image, _: stylizer(image, style, progress=tiles),
        feather_px=min(request["feather"] * max(region.shape), _LARGEST_FEATHER),
        keep_color=request["keep_color"],
    )
    report("segmenting", 1, 2)
    made = _shown(swapped.image, (pixels.shape[1], pixels.shape[0]))
    after = segmenter(made, crf=crf).mask
    target = 1 + names.index(request["target"]) if request["target"] in names else None
    verdicts = [judge_region(mask, found, target or 0) for mask in (before, after)]
    dimmed = chain_panels(pixels, found.float(), made, None)[1]
    write_mask(folder / "mask.png", whole.numpy().astype(np.uint8))
    files = {
        "shown": write_jpeg(folder / "shown.jpg", made),
        "region": write_jpeg(folder / "region.jpg", to_pixels(dimmed)),
        "before": write_jpeg(folder / "before.jpg", overlay(pixels, before, None)),
        "after": write_jpeg(folder / "after.jpg", overlay(made, after, None)),
        "mask": "mask.png",
    }
    if request["full"]:
        files["image"] = write_photo(folder / "swapped.png", swapped.image, photo).name
    return {
        "files": list(files.values()),
        **files,
        "colors": class_colors(names),
        "source": source,
        "target": request["target"],
        "share": float(found.float().mean()),
        "found": _shares(_class_shares(before, len(names)), names),
        "seen": [_shares(verdict.shares, names) for verdict in verdicts],
        "scores": None if target is None else [_scores(verdict) for verdict in verdicts],
    }


def _class_shares(mask: np.ndarray, classes: int) -> dict[int, float]:
    """Return the share of a mask's pixels that each class has, without the background."""
    counts = np.bincount(mask.ravel(), minlength=1 + classes)[1:] / mask.size
    return {1 + place: float(share) for place, share in enumerate(counts) if share > 0}


def _most_seen(mask: np.ndarray, names: Sequence[str]) -> str:
    shares = _class_shares(mask, len(names))
    if not shares:
        raise UserError(
            f"none of {', '.join(names)} was found in the photo: take another one, or paint the part by hand"
        )
    return names[max(shares, key=lambda value: shares[value]) - 1]


def _shares(shares: dict[int, float], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return shares as pages show them, the largest first; the background has no name."""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return [
        {"name": names[value - 1] if value else None, "share": share}
        for value, share in ordered
        if share >= _LEAST_SHARE or (value, share) == ordered[0]
    ]


def _scores(verdict: Verdict) -> dict[str, float]:
    return {"pixel_accuracy": verdict.pixel_accuracy, "iou": verdict.iou}


def _resized(region: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a region (H, W) bool at another size, its border as straight as it was."""
    if region.shape == size:
        return region
    return interpolate(region[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0] > 0.5


def _shown(image: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return (3, H, W) in [0, 1] as (h, w, 3) uint8 of a size (w, h), shrunk as photos are when they are read."""
    picture = Image.fromarray(to_pixels(image))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.array(picture)
