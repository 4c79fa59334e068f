"""``train.py model=material``: what it records, that it resumes exactly, and which data it takes."""

from __future__ import annotations

import copy
import csv
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tests.resume.kill_many import differences

from tezawari.cli import train
from tezawari.core.config import compose_config
from tezawari.core.resume import TrainingStopped
from tezawari.core.runs import last_metrics
from tezawari.core.training import run_training
from tezawari.data.materials import MATERIALS
from tezawari.data.textures import TexturesData
from tezawari.recognition.lightning_module import Material
from tezawari.recognition.package import load_classifier
from tezawari.recognition.training import fine_tune, predict_probabilities

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
LAYER = "block1"
TINY = ["model=material", f"model.layer={LAYER}", "backbone.weights=random", "data.image_size=32", "data.batch_size=4"]
TEXTURES = ["data.train_textures=1", "data.val_textures=1"]
STEPS = ["trainer.max_steps=6", "trainer.val_every=3", "trainer.log_every=1", "callbacks.checkpoint_every=1"]


def _train(out: Path, *words: str) -> int:
    return train([*TINY, *STEPS, f"output_dir={out}", *words], ROOT)


def _run_of(out: Path) -> Path:
    (run,) = out.glob("material/*/")
    return run


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads add this backbone's gradients in an order of their own on some machines: bits then differ."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert _train(out, *TEXTURES) == 0
    return _run_of(out)


def test_recorded_accuracies_are_those_of_the_published_network(whole: Path) -> None:
    metrics, trained = last_metrics(whole), load_classifier(whole)
    assert trained.class_names == list(MATERIALS)
    assert trained.image_size == 32
    data = TexturesData(1, 1, image_size=32, batch_size=4)
    batches = list(data.val_dataloader())
    taken_for = predict_probabilities(trained.network, (batch["image"] for batch in batches)).argmax(1)
    right = (taken_for == torch.arange(10)).float()
    assert metrics["val/accuracy"] == pytest.approx(float(right.mean()))
    assert [metrics[f"val/accuracy/{name}"] for name in MATERIALS] == right.tolist()
    with (whole / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["metric"] == "train/loss" for row in rows) == 6
    assert sum(row["metric"] == "val/loss" for row in rows) == 2


def test_a_run_ends_with_a_sheet_of_what_is_taken_for_what(whole: Path) -> None:
    with Image.open(whole / "taken_for.jpg") as sheet:
        assert sheet.width > 10 * 96
        assert sheet.height > 4 * 96


class _Stop(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_ends_as_the_untouched_one(whole: Path, tmp_path: Path) -> None:
    cfg = compose_config(ROOT, "train", [*TINY, *STEPS, *TEXTURES, f"output_dir={tmp_path}"])
    with pytest.raises(TrainingStopped):
        run_training(cfg, [_Stop()])
    assert last_metrics(_run_of(tmp_path)) != last_metrics(whole)
    assert _train(tmp_path, *TEXTURES, "resume=auto") == 0
    assert list(differences(whole, _run_of(tmp_path))) == []


class _Beginning(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.network = copy.deepcopy(pl_module.classifier)


def test_the_plain_loop_of_benchmarks_trains_the_same_weights() -> None:
    def textures() -> TexturesData:
        return TexturesData(1, 1, image_size=32, batch_size=4, epoch_size=12)

    module, beginning = Material(layer=LAYER, backbone_weights="random"), _Beginning()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=3,
        callbacks=[beginning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    trainer.fit(module, datamodule=textures())
    fine_tune(beginning.network, textures().make_train_loader(), 3)
    assert module.classifier is not None
    for key, value in module.classifier.state_dict().items():
        torch.testing.assert_close(beginning.network.state_dict()[key], value, rtol=0, atol=0)


def _noise(path: Path, seed: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), np.uint8)
    Image.fromarray(values).convert(mode).save(path)


def test_it_trains_on_folders_and_on_the_flickr_material_database(tmp_path: Path) -> None:
    for place, name in enumerate(MATERIALS):
        for number in range(2):
            file = f"{name}/{name}_{('moderate', 'object')[number]}_{number:03d}_new.jpg"
            _noise(tmp_path / "fmd" / "image" / file, 10 * place + number)
            _noise(tmp_path / "fmd" / "mask" / file, 500 + 10 * place + number, "L")
    one = ["trainer.max_steps=1", "trainer.val_every=1"]
    folders = ["data=images_by_class", f"data.root={tmp_path / 'fmd' / 'image'}"]
    assert _train(tmp_path / "folders", *one, *folders) == 0
    assert _train(tmp_path / "database", *one, "data=fmd", f"data.root={tmp_path / 'fmd'}") == 0
    for out in ("folders", "database"):
        assert {f"val/accuracy/{name}" for name in MATERIALS} < last_metrics(_run_of(tmp_path / out)).keys()


def test_images_of_several_labels_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path, "data=scenes", "data.train_scenes=4", "data.val_scenes=1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "labels and model=material tells one an image: take data=textures" in error
    assert "model=saliency" in error


def test_data_without_labels_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _train(tmp_path, "data=sample", "data.scenes=1", "data.style_size=32", "data.epoch_size=4") == 2
    assert "SampleData has no image labels: take data=textures" in capsys.readouterr().err.splitlines()[-1]
