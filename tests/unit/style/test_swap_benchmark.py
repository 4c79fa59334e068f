"""``evaluate.py benchmark=swap`` on generated scenes, with an untrained judge and an untrained network."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from tezawari.cli import evaluate
from tezawari.data.materials import MATERIALS
from tezawari.data.scenes import ScenesData
from tezawari.segmentation.package import save_trained
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.segmentation.segmenter import Segmenter
from tezawari.style.network import build_network
from tezawari.style.package import save_network
from tezawari.style.swap import judge_region, region_of
from tezawari.style.swap_benchmark import _paste
from tezawari.style.swap_report import (
    COLOR,
    FOUND,
    GATYS,
    IDENTITY,
    NETWORK,
    PASTE,
    SOFT,
    TALK,
    Measurement,
    Report,
    score,
    verdict,
)

ROOT = Path(__file__).resolve().parents[3]
SIDE, SCENES = 32, 2
STYLES = ["glass", "sky", "wood"]
TARGETS = ["glass", "wood"]


def _data() -> dict[str, object]:
    return {"train_scenes": 1, "val_scenes": SCENES, "image_size": SIDE}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of a judge and one of a network."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    for name, classes in (("judge", list(MATERIALS)), ("animals", ["cat", "dog"])):
        segmenter = Segmenter("efficientnet_lite0", len(classes), "random")
        with torch.no_grad():
            segmenter.classifier.weight *= 20  # so that several classes win somewhere
        (folder / name).mkdir()
        save_trained(folder / name / "segmenter.safetensors", segmenter, classes, SIDE, {})
        section = {"_target_": "tezawari.data.scenes.ScenesData", **_data()}
        OmegaConf.save({"data": section}, folder / name / "config.yaml")
    for name, styles in (("style", STYLES), ("paintings", ["wave", "sky"])):
        network = build_network("johnson", len(styles))
        with torch.no_grad():
            network(torch.rand(2, 3, 48, 48), torch.eye(len(styles))[:2])
        (folder / name).mkdir()
        meta = {"backbone_name": "efficientnet_lite0"}
        save_network(folder / name / "network.safetensors", network.eval(), styles, meta)
    return folder


def _evaluate(out: Path, *words: str) -> int:
    return evaluate(["benchmark=swap", f"output_dir={out}", *words], ROOT)


@pytest.fixture(scope="module")
def done(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a whole benchmark left."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("out")
    words = ["benchmark.gatys_pairs=1", "benchmark.gatys_steps=2", "benchmark.gatys_weights=random"]
    named = [f"benchmark.checkpoint={runs / 'style'}", f"benchmark.segmenter={runs / 'judge'}"]
    assert _evaluate(out, *named, *words, "benchmark.feather_px=1.5") == 0
    torch.set_num_threads(threads)
    return out / "swap"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_material_of_a_scene_becomes_every_target_that_it_lacks(done: Path) -> None:
    expected = {
        (image.id, MATERIALS[source], target)
        for image in ScenesData(**_data()).examples("val")
        for source in image.labels
        for target in TARGETS
        if not (image.load_mask() == 1 + MATERIALS.index(target)).any()
    }
    rows = _read(done / "results.csv")
    for method in (IDENTITY, PASTE, NETWORK, SOFT, COLOR, FOUND):
        assert {(row["scene"], row["source"], row["target"]) for row in rows if row["method"] == method} == expected
    assert sum(row["method"] == GATYS for row in rows) == 1


def test_nothing_changes_outside_of_hard_masks_and_a_little_at_soft_ones(done: Path) -> None:
    changed = {row["method"]: float(row["changed_outside"]) for row in _read(done / "summary.csv")}
    assert changed.pop(SOFT) > 0
    assert set(changed.values()) == {0.0}


def test_identity_is_what_the_judge_sees_of_the_scene_itself(done: Path, runs: Path) -> None:
    judge = PhotoSegmenter.load(runs / "judge")
    images = {image.id: image for image in ScenesData(**_data()).examples("val")}
    hits: dict[str, np.ndarray] = {name: np.zeros(3, int) for name in TARGETS}
    for row in (row for row in _read(done / "results.csv") if row["method"] == IDENTITY):
        image = images[row["scene"]]
        seen = judge(image.load_image()).mask == 1 + MATERIALS.index(row["target"])
        region = image.load_mask() == 1 + MATERIALS.index(row["source"])
        assert float(row["pixel_accuracy"]) == pytest.approx(seen[region].mean(), abs=1e-5)
        hits[row["target"]] += [(seen & region).sum(), (seen | region).sum(), region.sum()]
    (summary,) = (row for row in _read(done / "summary.csv") if row["method"] == IDENTITY)
    asked = [counts for counts in hits.values() if counts[2]]
    assert float(summary["iou"]) == pytest.approx(np.mean([c[0] / c[1] for c in asked]), abs=1e-5)
    assert float(summary["pixel_accuracy"]) == pytest.approx(np.mean([c[0] / c[2] for c in asked]), abs=1e-5)


def test_told_labels_leave_no_other_class(done: Path) -> None:
    """Limited to fewer classes, the target can only gain pixels of its region."""
    rows = _read(done / "results.csv")
    assert all(float(row["told_pixel_accuracy"]) >= float(row["pixel_accuracy"]) - 1e-6 for row in rows)
    assert any(float(row["told_pixel_accuracy"]) > float(row["pixel_accuracy"]) for row in rows)


def test_confusions_are_shares_of_regions(done: Path) -> None:
    rows = _read(done / "confusion.csv")
    for row in rows:
        shares = [float(row[name]) for name in ("background", *MATERIALS)]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert {row["should_be"] for row in rows if row["when"] == f"after, {NETWORK}"} <= set(TARGETS)
    assert not {row["should_be"] for row in rows if row["when"] == "before"} <= set(TARGETS)


def test_tables_and_figures_are_there(done: Path) -> None:
    table = (done / "summary.md").read_text(encoding="utf-8")
    assert "Half way from identity" in table
    assert "which flatters it" in table
    with Image.open(done / "figure.jpg") as figure:
        assert figure.width > 4 * 160
    with Image.open(done / "grid.jpg") as grid:
        assert grid.width > (1 + len(TARGETS)) * 96


def test_a_pasted_texture_is_darker_at_the_rim_and_the_materials_own_inside() -> None:
    region = torch.zeros(64, 80, dtype=torch.bool)
    region[10:50, 10:70] = True
    pasted = _paste("paper", 0, torch.zeros(3, 64, 80), region)
    assert pasted.shape == (3, 64, 80)
    middle, rim = pasted[:, 25:35, 30:50].mean(), pasted[:, 10:50, 10].mean()
    assert rim < 0.85 * middle
    assert not torch.equal(pasted, _paste("paper", 1, torch.zeros(3, 64, 80), region))


def _measurement(method: str, image: int, target: int, seen: np.ndarray, region: torch.Tensor) -> Measurement:
    judged = judge_region(seen, region, target + 1)
    return Measurement(method, image, str(image), 0, target, judged, judged, 0.0, 0, 1.0, 0.1)


def _report(network_share: float) -> Report:
    """Scenes of 10 × 10, the left half restyled: paste is seen fully, identity not at all, the network in part."""
    region = region_of(np.repeat([[1] * 5 + [0] * 5], 10, 0).astype(np.uint8))
    rows = []
    for method, share in ((IDENTITY, 0.0), (PASTE, 1.0), (NETWORK, network_share)):
        for target in (1, 2):
            seen = np.zeros((10, 10), np.uint8)
            seen[: round(10 * share), :5] = target + 1
            rows.append(_measurement(method, target, target, seen, region))
    names = list(MATERIALS[:3])
    return Report(rows, names, names[1:], 2, {}, {}, "run", "a", "b", "net", 1.0, 1.0, 0, 1.0)


def test_the_verdict_compares_with_half_way_and_the_talk() -> None:
    report = _report(0.6)
    assert score(report.of(NETWORK), [1, 2]).iou == pytest.approx(0.6)
    assert score(report.of(NETWORK), [1, 2]).mean_iu == pytest.approx((0.6 + 50 / 70) / 2)
    said = verdict(report)
    assert "is 0.500: the network, at 0.600, is 60% of the way, so reached" in said
    assert said.endswith("0.751 on average: not reached.")
    assert "so not reached" in verdict(_report(0.4))
    assert verdict(_report(0.8)).endswith("0.751 on average: reached.")


def test_the_talks_averages_are_those_of_its_columns() -> None:
    assert set(TALK) == set(MATERIALS)
    assert np.mean(list(TALK.values()), 0) == pytest.approx([0.637, 0.630, 0.673, 0.751])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no network is named"),
        (["benchmark.checkpoint={runs}/style"], "no judge is named"),
        (["benchmark.checkpoint={runs}/paintings", "benchmark.segmenter={runs}/judge"], "none of the judge's classes"),
        (["benchmark.checkpoint={runs}/style", "benchmark.segmenter={runs}/animals"], "knows cat, dog"),
        (["benchmark.checkpoint={runs}/style", "benchmark.segmenter={runs}/none"], "no segmenter network at"),
        (["benchmark.checkpoint={runs}/style", "benchmark.segmenter={runs}/judge", "benchmark.scale=9"], "scale=9"),
    ],
)
def test_a_mistake_is_one_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert _evaluate(tmp_path, *(word.format(runs=runs) for word in words)) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error
    assert not list(tmp_path.iterdir())
