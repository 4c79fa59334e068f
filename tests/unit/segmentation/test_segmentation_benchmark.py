"""``evaluate.py benchmark=segmentation`` on runs trained a moment before, through both entry points."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from scipy.special import logit, softmax
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F

from tezawari import cli
from tezawari.cli import evaluate, train
from tezawari.core.config import compose_config
from tezawari.data.labelled_image import LabelledImage, letterbox
from tezawari.data.scenes import ScenesData
from tezawari.segmentation.crf import CrfParameters, refine
from tezawari.segmentation.package import load_trained, save_trained
from tezawari.segmentation.saliency import METHODS, saliency_maps
from tezawari.segmentation.segmenter import Segmenter, predict_probabilities

pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")
pytest.importorskip("matplotlib", reason="the curves need matplotlib, of the extra sweep")

ROOT = Path(__file__).resolve().parents[3]
SIDE, SCENES, BACKGROUND = 48, 3, 0.3
CRF = CrfParameters(iterations=2, bilateral_sxy=20.0, bilateral_weight=4.0)
TINY = [
    "backbone.weights=random",
    "data.train_scenes=5",
    f"data.val_scenes={SCENES}",
    f"data.image_size={SIDE}",
    "data.batch_size=2",
    "trainer.val_every=0",
    "callbacks.checkpoint_every=0",
]
STC = ["model.rounds=2", "model.background=0.5", "model.crf.iterations=1", "trainer.max_steps=3"]
QUICK = [
    *(f"benchmark.crf.{name}={value}" for name, value in asdict(CRF).items()),
    "benchmark.crf_workers=1",
    f"benchmark.background={BACKGROUND}",
]


def _train(folder: Path, model: str, *words: str) -> Path:
    assert train([f"model={model}", *TINY, f"output_dir={folder}", *words], ROOT) == 0
    (run,) = folder.glob("*/*/")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model → its run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    made = {
        "saliency": _train(folder / "a", "saliency", "trainer.max_steps=2"),
        "stc": _train(folder / "b", "stc", *STC),
        "segmenter": _train(folder / "c", "segmenter", "trainer.max_steps=1"),
    }
    torch.set_num_threads(threads)
    return made


def _evaluate(runs: dict[str, Path], out: Path, *words: str) -> int:
    named = [] if any(word.startswith("benchmark.saliency=") for word in words) else [runs["saliency"]]
    saliency = [f"benchmark.saliency={run}" for run in named]
    return evaluate(["benchmark=segmentation", *saliency, f"output_dir={out}", *QUICK, *words], ROOT)


@pytest.fixture(scope="module")
def done(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a whole benchmark left."""
    out = tmp_path_factory.mktemp("out")
    segmenters = f"benchmark.segmenters={{weak: {runs['stc']}, full: {runs['segmenter']}}}"
    assert _evaluate(runs, out, segmenters) == 0
    return out / "segmentation"


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _row(done: Path, name: str) -> dict[str, str]:
    (row,) = (row for row in _read(done / "summary.csv") if row["method"] == name)
    return row


def _scenes() -> list[LabelledImage]:
    return ScenesData(5, SCENES, image_size=SIDE).examples("val")


def test_every_method_is_measured_under_every_source_of_labels_with_and_without_crf(done: Path) -> None:
    segmenters = ["weak, round 1", "weak, round 2", "full"]
    expected = [
        f"{method}{crf}, {labels}"
        for method in (*METHODS, *segmenters)
        for crf in ("", " + CRF")
        for labels in ("true labels", "predicted labels", *(["any class"] if method in segmenters else []))
    ]
    rows = _read(done / "summary.csv")
    assert sorted(row["method"] for row in rows) == sorted(expected)
    table = (done / "summary.md").read_text(encoding="utf-8")
    assert table.count("\n| ") == 2 * (2 + len(expected)), "means and classes, each with its head and a rule"
    for row in rows:
        assert row["n"] == str(SCENES)
        assert row["checkpoint"]
        assert row["data"] == f"{SCENES} held-out images, 10 classes and background, efficientnet_lite0"
        assert 0 <= float(row["miou"]) <= 1
        assert 0 <= float(row["pixel_accuracy"]) <= 1
        assert float(row["miou_margin"]) >= 0
        named = [float(value) for name, value in row.items() if name.startswith("iou/")]
        assert len(named) == 11
        assert float(row["miou"]) == pytest.approx(np.nanmean(named), abs=1e-5)
    assert {path.name for path in done.iterdir()} == {
        "summary.csv",
        "summary.md",
        "curves.csv",
        "figure.jpg",
        "curves.png",
    }
    assert (done / "figure.jpg").stat().st_size < 300_000


def test_only_the_talks_own_rows_have_its_numbers(done: Path) -> None:
    published = {row["method"]: row["published_miou"] for row in _read(done / "summary.csv") if row["published_miou"]}
    assert published == {
        "gradient + CRF, predicted labels": "0.338",
        "dcsm, predicted labels": "0.405",
        "dcsm + CRF, predicted labels": "0.441",
    }


def _scores(masks: list[np.ndarray]) -> tuple[float, float, list[float]]:
    """Mean IoU, pixel accuracy and IoU by class of the held-out scenes' masks, counted by scikit-learn."""
    true = np.concatenate([scene.load_mask().ravel() for scene in _scenes()])  # type: ignore[union-attr]
    counts = confusion_matrix(true, np.concatenate([mask.ravel() for mask in masks]), labels=range(11))
    with np.errstate(invalid="ignore"):
        ious = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    return float(np.nanmean(ious)), float(np.diag(counts).sum() / counts.sum()), ious.tolist()


def _tensor(scene: LabelledImage) -> torch.Tensor:
    """A scene as a saliency network sees it: a third larger than in training."""
    pixels = torch.from_numpy(scene.load_image()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(pixels, (SIDE * 4 // 3, SIDE * 4 // 3), mode="bilinear", antialias=True)


def _predicted(network: torch.nn.Module, scene: LabelledImage) -> list[int]:
    seen = _tensor(scene)
    probabilities = ((network(seen) + network(seen.flip(-1))) / 2)[0].sigmoid()
    return [int(c) for c in range(10) if probabilities[c] > 0.5] or [int(probabilities.argmax())]


def _saliency_mask(
    network: torch.nn.Module, scene: LabelledImage, method: str, classes: list[int], crf: bool
) -> np.ndarray:
    labels = torch.zeros(1, 10, dtype=torch.bool)
    labels[0, classes] = True
    seen_maps = saliency_maps(network, _tensor(scene), labels, method).maps  # type: ignore[arg-type]
    maps = F.interpolate(seen_maps, (SIDE, SIDE), mode="bilinear")[0, classes].numpy()
    scores = np.concatenate([np.full((1, SIDE, SIDE), BACKGROUND, np.float32), maps])
    if crf:  # what is compared are log-odds
        scores = softmax(logit(scores.clip(0, 0.999)) - logit(BACKGROUND), axis=0)
        scores = refine(scene.load_image(), scores.astype(np.float32), CRF)
    return np.array([0, *(1 + c for c in classes)])[scores.argmax(0)]


@pytest.mark.parametrize(
    ("name", "method", "true", "crf"),
    [("dcsm + CRF, predicted labels", "dcsm", False, True), ("cam, true labels", "cam", True, False)],
)
def test_a_saliency_row_is_what_counting_by_hand_gives(
    name: str, method: str, true: bool, crf: bool, done: Path, runs: dict[str, Path]
) -> None:
    network = load_trained(runs["saliency"], "saliency").network
    masks = [
        _saliency_mask(network, scene, method, list(scene.labels) if true else _predicted(network, scene), crf)
        for scene in _scenes()
    ]
    _compare(_row(done, name), masks)


@pytest.mark.parametrize("name", ["weak, round 1, any class", "weak, round 2, true labels", "full, predicted labels"])
def test_a_segmenters_row_is_what_counting_by_hand_gives(name: str, done: Path, runs: dict[str, Path]) -> None:
    file = runs["stc"] / "rounds" / f"round-{name[12]}.safetensors" if name[0] == "w" else runs["segmenter"]
    segmenter = load_trained(file, "segmenter").network
    assert isinstance(segmenter, Segmenter)
    network = load_trained(runs["saliency"], "saliency").network
    masks = []
    for scene in _scenes():
        view, _, box = letterbox(scene.load_image(), SIDE)
        assert box == (0, 0, SIDE, SIDE)
        probabilities = predict_probabilities(segmenter, view[None])[0]
        allowed = {"e": range(10), "t": scene.labels, "p": _predicted(network, scene)}[
            "e" if "any" in name else "t" if "true" in name else "p"
        ]
        shut = [1 + c for c in range(10) if c not in allowed]
        probabilities[shut] = -1
        masks.append(probabilities.argmax(0).numpy())
    _compare(_row(done, name), masks)


def _compare(row: dict[str, str], masks: list[np.ndarray]) -> None:
    miou, accuracy, ious = _scores(masks)
    assert float(row["miou"]) == pytest.approx(miou, abs=2e-4)
    assert float(row["pixel_accuracy"]) == pytest.approx(accuracy, abs=2e-4)
    found = [float(value) for name, value in row.items() if name.startswith("iou/")]
    assert found == pytest.approx(ious, abs=2e-3, nan_ok=True)


def test_a_background_is_chosen_on_training_images_and_marked_on_the_curve(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    load = LabelledImage.load_mask

    def load_mask(self: LabelledImage) -> np.ndarray | None:
        seen.append(self.id)
        return load(self)

    monkeypatch.setattr(LabelledImage, "load_mask", load_mask)
    words = ["benchmark.background=null", "benchmark.calibration_images=2", "benchmark.methods=[cam,gradient]"]
    assert _evaluate(runs, tmp_path, *words, "benchmark.crf=null") == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "segmentation"
    rows, curves = _read(folder / "summary.csv"), _read(folder / "curves.csv")
    assert [row["method"] for row in rows] == [
        f"{method}, {labels} labels" for method in ("cam", "gradient") for labels in ("true", "predicted")
    ]
    for method in ("cam", "gradient"):
        (line,) = (line for line in printed.splitlines() if line.startswith(f"background of {method}: "))
        chosen = float(line.split(": ")[1].split(",")[0])
        (point,) = (c for c in curves if c["method"] == method and float(c["background"]) == chosen)
        assert float(point["miou"]) == pytest.approx(float(_row(folder, f"{method}, true labels")["miou"]), abs=1e-5)
    assert all(name.startswith("val") for name in seen), "no training mask is looked at"


def test_few_images_are_drawn_by_the_seed(runs: dict[str, Path], tmp_path: Path) -> None:
    words = ["benchmark.max_images=1", "benchmark.methods=[cam]", "benchmark.crf=null"]
    accuracies = set()
    for seed in range(4):
        assert _evaluate(runs, tmp_path, *words, f"benchmark.seed={seed}") == 0
        row = _row(tmp_path / "segmentation", "cam, true labels")
        assert row["n"] == "1"
        accuracies.add(row["pixel_accuracy"])
    assert len(accuracies) > 1


# --- what cannot be measured ------------------------------------------------------------------------------------------


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("backbone ")]
    assert line.startswith("error: ")
    return line


def _copy(run: Path, folder: Path, *left_out: str) -> Path:
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(*left_out))
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.saliency=null"], "type benchmark.saliency=RUN"),
        (["benchmark.saliency={tmp}/nowhere"], "nowhere: train one with `python train.py model=saliency`"),
        (["benchmark.saliency={segmenter}"], "no saliency network"),
        (["benchmark.methods=[grad]"], "benchmark.methods"),
        (["benchmark.background=1.5"], "background=1.5: must lie between 0 and 1"),
        (["benchmark.background=0"], "background=0: must lie between 0 and 1"),
        (["benchmark.crf.bilateral_sxy=0"], "crf.bilateral_sxy=0"),
        (["benchmark.max_images=0"], "benchmark.max_images=0"),
        (["benchmark.methods=[cam]", "benchmark.crf=null", "benchmark.segmenters={{x: {tmp}/nowhere}}"], "nowhere"),
        (
            ["benchmark.methods=[cam]", "benchmark.crf=null", "benchmark.segmenters={{x: {saliency}}}"],
            "holds no segmenter network",
        ),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _evaluate(runs, out, *(word.format(tmp=tmp_path, **runs) for word in words)) == 2
    assert said in _error(capsys)
    assert not out.exists()


def test_a_file_without_its_run_does_not_say_which_data(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = shutil.copy(runs["saliency"] / "saliency.safetensors", tmp_path / "n.safetensors")
    assert _evaluate(runs, tmp_path / "out", f"benchmark.saliency={file}") == 2
    assert "holds no config.yaml" in _error(capsys)


def test_networks_of_other_classes_are_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save_trained(tmp_path / "n.safetensors", Segmenter("resnet18", 1, "random"), ["cat"], 32, {})
    words = ["benchmark.methods=[cam]", "benchmark.crf=null", f"benchmark.segmenters={{mine: {file}}}"]
    assert _evaluate(runs, tmp_path / "out", *words) == 2
    assert "benchmark.segmenters: mine knows other classes" in _error(capsys)


def test_a_run_of_data_without_labels_is_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _copy(runs["saliency"], tmp_path / "run")
    config = DictConfig(OmegaConf.load(run / "config.yaml"))
    config["data"] = compose_config(ROOT, "train", ["model=multistyle"]).data
    OmegaConf.save(config, run / "config.yaml")
    assert _evaluate(runs, tmp_path / "out", f"benchmark.saliency={run}") == 2
    assert "which has no image labels" in _error(capsys)


def test_a_run_of_data_without_masks_is_refused(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("wood", "water"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.effect_noise((40, 40), 30 + 40 * number).convert("RGB")
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    by_class = ["data=images_by_class", f"data.root={tmp_path / 'pictures'}", "data.image_size=32", "data.batch_size=2"]
    words = ["model=saliency", "backbone.weights=random", *by_class, "trainer.max_steps=1", "trainer.val_every=0"]
    assert train([*words, f"output_dir={tmp_path / 'runs'}"], ROOT) == 0
    (run,) = (tmp_path / "runs").glob("*/*/")
    capsys.readouterr()
    assert _evaluate(runs, tmp_path / "out", f"benchmark.saliency={run}") == 2
    assert "has no masks of held-out images" in _error(capsys)


# --- runs that have not finished --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["stc", "segmenter"])
def test_a_segmenter_whose_run_has_not_finished_is_measured_by_its_checkpoint(
    model: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run = _copy(runs[model], tmp_path / "run", "*.safetensors", "rounds")
    words = ["benchmark.methods=[cam]", "benchmark.crf=null", f"benchmark.segmenters={{it: {run}}}"]
    assert _evaluate(runs, tmp_path / "out", *words) == 0
    assert _row(tmp_path / "out" / "segmentation", "it, any class")["n"] == str(SCENES)


@pytest.mark.parametrize("model", ["saliency", "stc", "segmenter"])
def test_a_photo_is_segmented_by_a_run_and_by_its_checkpoint(
    model: str, runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(_scenes()[0].load_image()).save("photo.png")
    (checkpoint,) = (runs[model] / "checkpoints").glob("*.ckpt")
    unfinished = _copy(runs[model], tmp_path / "run", "*.safetensors", "rounds")
    for place in (runs[model], checkpoint, unfinished):
        words = ["--labels", "wood,water", "--crf", "none", "-o", f"out-{place.name}"]
        assert cli.main(["segment", "photo.png", "--checkpoint", str(place), *words]) == 0
        assert (tmp_path / f"out-{place.name}" / "photo-mask.png").is_file()


def test_runs_say_what_they_left(runs: dict[str, Path]) -> None:
    for model, names in {
        "saliency": {"network", "heat maps"},
        "segmenter": {"network", "masks"},
        "stc": {"network", "saliency", "rounds", "masks"},
    }.items():
        record = json.loads((runs[model] / "record.json").read_text())
        assert set(record["artefacts"]) == {"checkpoint", "metrics", *names}
        assert all((runs[model] / path).exists() for path in record["artefacts"].values())
