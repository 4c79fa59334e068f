"""``model=inverse`` through the real entry point: it learns, resumes exactly and publishes what it learnt."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tests.resume.kill_many import differences

from tezawari.cli import train
from tezawari.core.checkpoints import list_checkpoints
from tezawari.core.runs import last_metrics
from tezawari.style.inverse.lightning_module import Inverse
from tezawari.style.inverse.package import load_inverse

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[4]
TINY = [
    "model=inverse",
    "model.net=deepstylecam",
    "backbone.weights=random",
    "data.scenes=0",
    "data.image_size=32",
    "trainer.log_every=1",
    "callbacks.progress=false",
]
SHORT = ["data.batch_size=2", "data.epoch_size=6", "trainer.max_steps=6", "trainer.val_every=3"]


def run_of(folder: Path) -> Path:
    (run,) = folder.glob("inverse/*/")
    return run


@pytest.mark.parametrize(("task", "net"), [("superres", "johnson"), ("colorize", "deepstylecam")])
def test_sixty_steps_beat_the_degraded_photos(task: str, net: str, tmp_path: Path) -> None:
    """Held-out photos: an untrained network gives them back as they are, so any gain is learnt."""
    words = [f"model.task={task}", f"model.net={net}", "model.perceptual_weight=0", "model.scales=[4]"]
    steps = ["data.batch_size=4", "trainer.max_steps=60", "trainer.val_every=60", f"output_dir={tmp_path}"]
    rate = ["model.learning_rate=3e-3"] if task == "colorize" else []
    assert train([*TINY, *words, *steps, *rate], ROOT) == 0
    metrics = last_metrics(run_of(tmp_path))
    assert metrics["val/psnr_gain"] > 0
    assert metrics["val/psnr"] > metrics["val/psnr_gain"]


def test_a_stopped_run_ends_as_the_untouched_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train([*TINY, *SHORT, f"output_dir={whole}"], ROOT) == 0
    step = Inverse.training_step

    def interrupted(self: Inverse, batch: dict[str, object], batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Inverse, "training_step", interrupted)
        assert train([*TINY, *SHORT, f"output_dir={stopped}"], ROOT) == 143
    assert list_checkpoints(run_of(stopped) / "checkpoints")[0].name == "step-000000004.ckpt"
    assert train([*TINY, *SHORT, f"output_dir={stopped}", "resume=auto"], ROOT) == 0
    assert list(differences(run_of(whole), run_of(stopped))) == []

    run = run_of(whole)
    artefacts = json.loads((run / "record.json").read_text())["artefacts"]
    assert set(artefacts) == {"checkpoint", "metrics", "network", "contact sheet"}
    assert all((run / path).is_file() for path in artefacts.values())
    published, saved = load_inverse(run), load_inverse(run / artefacts["checkpoint"])
    assert published.transform == saved.transform
    assert published.meta["steps"] == 6
    assert all(torch.equal(a, b) for a, b in zip(published.network.parameters(), saved.network.parameters()))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.task=blur"], "model.task=blur"),
        (["model.scales=[1]"], "model.scales=[1]"),
        (["model.perceptual_weight=-1"], "model.perceptual_weight=-1"),
        (["data=scenes", "data.train_scenes=2", "data.val_scenes=1"], "data=sample or data=images"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = [word for word in TINY if word != "data.scenes=0" or "data=scenes" not in words]
    assert train([*tiny, "data.batch_size=2", *words, f"output_dir={tmp_path}"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
