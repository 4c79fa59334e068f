"""The tables and figures of the swap benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tezawari.core.runs import describe_machine, measured_here
from tezawari.core.tables import markdown_table, write_csv
from tezawari.data.sheet import draw_sheet, encode_jpeg, square
from tezawari.segmentation.metrics import bootstrap, iou_per_class, mean_iou
from tezawari.style.swap import Verdict, region_accuracy
from tezawari.style.swap_pictures import COLUMNS

IDENTITY, PASTE = "identity", "paste"
NETWORK, SOFT, COLOR, FOUND = "network", "network, soft border", "network, colours kept", "network, found region"
GATYS = "Gatys"
# The talk's two printed pairs of columns, pixel accuracy and mean IU by target, on FMD; their headings are lost.
TALK: dict[str, tuple[float, float, float, float]] = {
    "fabric": (0.83, 0.72, 0.96, 0.93),
    "foliage": (0.85, 0.77, 0.99, 0.96),
    "glass": (0.41, 0.53, 0.36, 0.56),
    "leather": (0.24, 0.33, 0.27, 0.52),
    "metal": (0.44, 0.52, 0.44, 0.60),
    "paper": (0.77, 0.79, 0.64, 0.74),
    "plastic": (0.60, 0.60, 0.54, 0.67),
    "stone": (0.87, 0.79, 0.95, 0.93),
    "water": (0.77, 0.74, 0.69, 0.78),
    "wood": (0.59, 0.51, 0.89, 0.82),
}
_FIGURE_SIDE, _GRID_SIDE = 160, 96
_FIGURE_BYTES = 300_000


@dataclass(frozen=True)
class Measurement:
    """One swap by one method as the judge sees it.

    ``image``: the scene's number; ``source`` and ``target``: places of classes; ``verdict``: what the judge sees
    without a hint, ``told``: limited to the scene's labels and the target; ``source_left``: the part of the region that
    is still seen as the source; ``changed_outside``: pixels; ``border_step``: in units of the scene's own range.
    """

    method: str
    image: int
    scene: str
    source: int
    target: int
    verdict: Verdict = field(repr=False)
    told: Verdict = field(repr=False)
    source_left: float
    changed_outside: int
    border_step: float
    seconds: float


@dataclass(frozen=True)
class Report:
    """All that is written down of one benchmark; ``figured`` and ``grid``: name of the row → pictures (3, H, W)."""

    measurements: Sequence[Measurement]
    class_names: list[str]
    targets: list[str]
    scenes: int
    figured: dict[str, list[Tensor]] = field(repr=False)
    grid: dict[str, list[Tensor]] = field(repr=False)
    judge: str
    judge_backbone: str
    trained_with: str
    checkpoint: str
    scale: float
    feather_px: float
    seed: int
    wall_seconds: float

    @property
    def methods(self) -> list[str]:
        """The methods in the order in which they were measured."""
        return list(dict.fromkeys(row.method for row in self.measurements))

    def of(self, method: str, target: str | None = None) -> list[Measurement]:
        """Return a method's measurements, all or one target's."""
        place = None if target is None else self.class_names.index(target)
        return [row for row in self.measurements if row.method == method and place in (None, row.target)]


@dataclass(frozen=True)
class Score:
    """Means over the targets, in [0, 1], of pooled pixels (see ``benchmark_swap``)."""

    pixel_accuracy: float
    iou: float
    mean_iu: float


def pooled(rows: Sequence[Measurement], targets: Sequence[int], told: bool = False) -> Tensor:
    """Add up the confusions of each scene and target: (N, T, 2, 2) int64 of N scenes, T targets."""
    scenes = sorted({row.image for row in rows})
    total = torch.zeros(len(scenes), len(targets), 2, 2, dtype=torch.int64)
    for row in rows:
        verdict = row.told if told else row.verdict
        total[scenes.index(row.image), targets.index(row.target)] += verdict.confusion
    return total


def target_accuracy(confusions: Tensor) -> Tensor:
    """Return the mean over targets of the regions' share seen as the target, (…) of (…, T, 2, 2); NaN of none."""
    return region_accuracy(confusions).nanmean(-1)


def target_iou(confusions: Tensor) -> Tensor:
    """Return the mean over targets of IoU, (…) of (…, T, 2, 2); a target that was never asked for does not count."""
    asked = confusions[..., 1, :].sum(-1) > 0
    return torch.where(asked, iou_per_class(confusions)[..., 1], torch.nan).nanmean(-1)


def _target_mean_iu(confusions: Tensor) -> Tensor:
    asked = confusions[..., 1, :].sum(-1) > 0
    return torch.where(asked, mean_iou(confusions), torch.nan).nanmean(-1)


def score(rows: Sequence[Measurement], targets: Sequence[int], told: bool = False) -> Score:
    """Return the scores of measurements of one method."""
    total = pooled(rows, targets, told).sum(0)
    return Score(float(target_accuracy(total)), float(target_iou(total)), float(_target_mean_iu(total)))


def write_report(report: Report, folder: Path) -> dict[str, Path]:
    """Write ``results.csv``, ``confusion.csv``, ``summary.csv``, ``summary.md``, ``figure.jpg``, ``grid.jpg``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "results": write_csv(folder / "results.csv", [_result(row, report) for row in report.measurements]),
        "confusion": write_csv(folder / "confusion.csv", confusion_rows(report)),
        "summary": write_csv(folder / "summary.csv", [summary_of(method, report) for method in report.methods]),
        "table": folder / "summary.md",
        "figure": folder / "figure.jpg",
        "grid": folder / "grid.jpg",
    }
    files["table"].write_text(render_tables(report), encoding="utf-8")
    files["figure"].write_bytes(encode_jpeg(draw_figure(report), _FIGURE_BYTES))
    files["grid"].write_bytes(encode_jpeg(draw_grid(report), _FIGURE_BYTES))
    return files


def _result(row: Measurement, report: Report) -> dict[str, Any]:
    return {
        "method": row.method,
        "scene": row.scene,
        "source": report.class_names[row.source],
        "target": report.class_names[row.target],
        "seen": ["background", *report.class_names][row.verdict.value],
        "region_pixels": int(row.verdict.confusion[1].sum()),
        "pixel_accuracy": f"{row.verdict.pixel_accuracy:.6g}",
        "iou": f"{row.verdict.iou:.6g}",
        "told_pixel_accuracy": f"{row.told.pixel_accuracy:.6g}",
        "told_iou": f"{row.told.iou:.6g}",
        "source_left": f"{row.source_left:.6g}",
        "changed_outside": row.changed_outside,
        "border_step": f"{row.border_step:.6g}",
        "seconds": f"{row.seconds:.4g}",
    }


def confusion_rows(report: Report) -> list[dict[str, Any]]:
    """Return what is seen in regions, as shares of their pixels: before by source, after by target and method."""
    rows = []
    names = ["background", *report.class_names]
    for method in report.methods:
        for place, name in enumerate(report.class_names):
            before = method == IDENTITY
            own = [row for row in report.of(method) if (row.source if before else row.target) == place]
            if not own:
                continue
            pixels = np.array([int(row.verdict.confusion[1].sum()) for row in own], float)
            shares = np.array([[row.verdict.shares.get(value, 0.0) for value in range(len(names))] for row in own])
            mean = pixels @ shares / pixels.sum()
            rows.append(
                {
                    "when": "before" if before else f"after, {method}",
                    "should_be": name,
                    **{seen: f"{share:.4f}" for seen, share in zip(names, mean)},
                }
            )
    return rows


def summary_of(method: str, report: Report) -> dict[str, Any]:
    """Return a method's row: scores, half of their 95 % intervals over scenes, and how it was measured."""
    rows = report.of(method)
    targets = _places(report)
    free, told = score(rows, targets), score(rows, targets, told=True)
    confusions = pooled(rows, targets)
    values = {
        "pixel_accuracy": free.pixel_accuracy,
        "pixel_accuracy_margin": _margin(confusions, target_accuracy, report.seed),
        "iou": free.iou,
        "iou_margin": _margin(confusions, target_iou, report.seed),
        "mean_iu": free.mean_iu,
        "told_pixel_accuracy": told.pixel_accuracy,
        "told_iou": told.iou,
        "source_left": float(np.mean([row.source_left for row in rows])),
        "changed_outside": float(sum(row.changed_outside for row in rows)),
        "border_step": float(np.nanmean([row.border_step for row in rows])),
        "seconds": float(np.median([row.seconds for row in rows])),
    }
    by_target = {f"iou/{name}": score(report.of(method, name), targets).iou for name in report.targets}
    return {
        "method": method,
        "n": len(rows),
        "published_iou": f"{_talk_mean(3):.3f}" if method == NETWORK else "",
        **{name: f"{value:.6g}" for name, value in {**values, **by_target}.items()},
        "data": f"{report.scenes} held-out scenes, {len(report.targets)} targets, judge {report.judge_backbone}, "
        f"scale {report.scale:g}",
        "judge": report.judge,
        "trained_with": report.trained_with,
        "checkpoint": report.checkpoint,
        **measured_here(report.seed, report.wall_seconds),
    }


def render_tables(report: Report) -> str:
    """Return the Markdown: targets in the talk's form, then methods, then the verdict."""
    targets = _places(report)
    head = ["target", "talk A", "talk B", "network: acc / IoU", "mean IU", "told: acc / IoU", "identity IoU"]
    head += ["paste: acc / IoU", "half way", "swaps"]
    lines = []
    for name in report.targets:
        rows = {method: report.of(method, name) for method in (IDENTITY, PASTE, NETWORK)}
        if rows[NETWORK]:
            a, b, c, d = TALK[name]
            lines.append([name, f"{a:.2f} / {b:.2f}", f"{c:.2f} / {d:.2f}", *_cells(rows, targets)])
    everything = {method: report.of(method) for method in (IDENTITY, PASTE, NETWORK)}
    means = [f"{_talk_mean(0):.3f} / {_talk_mean(1):.3f}", f"{_talk_mean(2):.3f} / {_talk_mean(3):.3f}"]
    lines.append(["**mean**", *means, *_cells(everything, targets)])
    methods = []
    for method in report.methods:
        row = summary_of(method, report)
        methods.append(
            [
                method,
                f"{float(row['pixel_accuracy']):.3f} ± {float(row['pixel_accuracy_margin']):.3f}",
                f"{float(row['iou']):.3f} ± {float(row['iou_margin']):.3f}",
                f"{float(row['told_pixel_accuracy']):.3f} / {float(row['told_iou']):.3f}",
                f"{float(row['source_left']):.3f}",
                f"{float(row['changed_outside']):.0f}",
                f"{float(row['border_step']):.2f}",
                f"{float(row['seconds']):.2f}",
                str(row["n"]),
            ]
        )
    machine = describe_machine()
    return "\n\n".join(
        [
            f"{report.scenes} held-out scenes, every material of each into every target that it lacks; judge "
            f"{report.judge_backbone}, network trained with {report.trained_with}, scale {report.scale:g}, soft border "
            f"{report.feather_px:g} px, seed {report.seed}, {machine['cores']} cores of {machine['processor']}. The "
            "talk's columns: pixel accuracy / mean IU on FMD, another set. Told: the judge is limited to the scene's "
            "labels and the target.",
            markdown_table(head, lines),
            markdown_table(
                ["method", "pixel accuracy", "IoU", "told", "source left", "changed outside", "border", "s", "swaps"],
                methods,
            ),
            verdict(report) + "\n",
        ]
    )


def _cells(rows: dict[str, list[Measurement]], targets: Sequence[int]) -> list[str]:
    identity, paste, network = (score(rows[method], targets) for method in (IDENTITY, PASTE, NETWORK))
    told = score(rows[NETWORK], targets, told=True)
    return [
        f"{network.pixel_accuracy:.2f} / {network.iou:.2f}",
        f"{network.mean_iu:.2f}",
        f"{told.pixel_accuracy:.2f} / {told.iou:.2f}",
        f"{identity.iou:.2f}",
        f"{paste.pixel_accuracy:.2f} / {paste.iou:.2f}",
        "yes" if network.iou >= (identity.iou + paste.iou) / 2 else "no",
        str(len(rows[NETWORK])),
    ]


def verdict(report: Report) -> str:
    """Say whether the network's mean IoU lies half way from identity to paste, and above the talk's better column."""
    targets = _places(report)
    identity, paste, network = (score(report.of(method), targets).iou for method in (IDENTITY, PASTE, NETWORK))
    half, talk = (identity + paste) / 2, _talk_mean(3)
    way = (network - identity) / (paste - identity) if paste != identity else math.nan
    same = report.trained_with == report.judge_backbone
    return (
        f"Half way from identity ({identity:.3f}) to paste ({paste:.3f}) is {half:.3f}: the network, at {network:.3f}, "
        f"is {way:.0%} of the way, so {'reached' if network >= half else 'not reached'}. The talk's better column, "
        f"{talk:.3f} on average: {'reached' if network >= talk else 'not reached'}."
        + (" The network was trained to please the judge's own backbone, which flatters it." if same else "")
    )


def draw_figure(report: Report) -> Image.Image:
    """Draw, of each target, the chain of the median swap: photo, region, swapped, re-segmented."""
    rows = [[square(panel, _FIGURE_SIDE) for panel in panels] for panels in report.figured.values()]
    return draw_sheet(rows, COLUMNS)


def draw_grid(report: Report) -> Image.Image:
    """Draw sources down and targets across; in the first column is the photo."""
    rows = [[square(picture, _GRID_SIDE) for picture in pictures] for pictures in report.grid.values()]
    return draw_sheet(rows, ["photo", *report.targets])


def _places(report: Report) -> list[int]:
    return [report.class_names.index(name) for name in report.targets]


def _talk_mean(column: int) -> float:
    return sum(columns[column] for columns in TALK.values()) / len(TALK)


def _margin(confusions: Tensor, statistic: Callable[[Tensor], Tensor], seed: int) -> float:
    low, high = bootstrap(confusions, statistic, seed=seed)
    return (high - low) / 2
