"""Every option of every group, through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tezawari.cli import train
from tezawari.core.config import compose_config

ROOT = Path(__file__).resolve().parents[2]
TINY = ["backbone.weights=random", "data.image_size=32", "data.batch_size=2"]
STYLES = ["data.style_size=32", "data.epoch_size=4"]
SCENES = ["data.train_scenes=4", "data.val_scenes=2"]
SHORT = ["trainer.max_steps=1", "trainer.val_every=0", "trainer.log_every=1"]
# What a model needs for one step besides: a run of stc is cut into phases.
FOR_MODEL = {
    "inverse": STYLES,
    "unseen_style": [*STYLES, "data.paintings=1"],
    "material": ["data.train_textures=1", "data.val_textures=1"],
    "multistyle": STYLES,
    "saliency": SCENES,
    "segmenter": SCENES,
    "stc": [*SCENES, "trainer.max_steps=2", "model.rounds=1", "model.background=0.5", "model.crf=null"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _no_compiler() -> Iterator[None]:
    """torch.compile is asked for as always, and then runs eagerly: building kernels takes a minute."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that data=images needs: a folder of photos and one of styles."""
    base = tmp_path_factory.mktemp("images")
    for kind, count in (("photos", 4), ("styles", 2)):
        (base / kind).mkdir()
        for index in range(count):
            Image.effect_noise((48, 40), 60 + index).convert("RGB").save(base / kind / f"{kind}{index}.png")
    return [f"data.content_dir={base / 'photos'}", f"data.style_dir={base / 'styles'}"]


@pytest.fixture(scope="module")
def images(folders: list[str]) -> list[str]:
    return ["data=images", *folders, *TINY, *STYLES]


def pairs(row: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    return set(combinations(sorted(row.items()), 2))


def companies() -> Iterator[dict[str, str]]:
    """Give rows of one option of each group, until any two options of two groups have met in one."""
    groups = {name: options(name) for name in ("model", "data", "backbone", "trainer", "logger", "callbacks")}
    missing = set().union(*(pairs(dict(zip(groups, row))) for row in product(*groups.values())))
    while missing:
        row = dict(min(missing))
        for group in (name for name in groups if name not in row):
            row[group] = max(groups[group], key=lambda name: len(pairs({**row, group: name}) & missing))
        missing -= pairs(row)
        yield row


def test_any_two_options_compose(folders: list[str]) -> None:
    for row in companies():
        needs = folders if row["data"] == "images" else []
        cfg = compose_config(ROOT, "train", [*(f"{group}={option}" for group, option in row.items()), *needs])
        assert cfg.model.backbone_name == cfg.backbone.name
        assert cfg.data.seed == cfg.seed


def run(output_dir: Path, *words: str) -> dict[str, Any]:
    """Train a step with the real entry point; returns the run's record."""
    assert train([*SHORT, f"output_dir={output_dir}", *words], ROOT) == 0
    (record,) = output_dir.glob("*/*/record.json")
    assert (record.parent / "metrics.csv").read_text().count("\n1,0,train/") >= 1
    return json.loads(record.read_text())


# VGG19 is the code of VGG16 with three more layers: one model trains it.
@pytest.mark.parametrize(
    ("model", "backbone"),
    [*product(options("model"), sorted(set(options("backbone")) - {"vgg19"})), ("saliency", "vgg19")],
)
def test_every_backbone_trains(model: str, backbone: str, images: list[str], tmp_path: Path) -> None:
    smaller = ["backbone.name=resnet18"] if backbone == "timm" else []
    data = images if model == "multistyle" else [*TINY, *FOR_MODEL[model]]
    record = run(tmp_path, f"model={model}", f"backbone={backbone}", *smaller, *data)
    assert record["status"] == "finished"
    assert "checkpoint" in record["artefacts"]


@pytest.mark.parametrize("model", options("model"))
def test_every_model_trains_on_its_own_data(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its pictures are large, and how a run is summed up is tested elsewhere.
    monkeypatch.delattr("tezawari.style.lightning_module.MultiStyle.summarise_run")
    assert run(tmp_path, f"model={model}", *TINY, *FOR_MODEL[model])["status"] == "finished"


@pytest.mark.parametrize("trainer", sorted(set(options("trainer")) - {"cpu", "gpu", "ddp"}))
def test_every_trainer_trains(trainer: str, images: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, f"trainer={trainer}", *images)["status"] == "finished"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["trainer=gpu", f"output_dir={tmp_path}"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "trainer=cpu" in error
    assert not list(tmp_path.iterdir())


def test_ddp_trains_in_two_processes_and_keeps_one_record(tmp_path: Path) -> None:
    words = ["-m", "tests.resume.tiny_train", "trainer=ddp", f"output_dir={tmp_path}", "trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words, "trainer.max_steps=4", "trainer.val_every=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (run_dir,) = tmp_path.glob("*/*/")
    assert (run_dir / "metrics.csv").read_text().count("train/loss") == 4
    assert json.loads((run_dir / "record.json").read_text())["status"] == "finished"


def test_tensorboard_mirrors_the_record(images: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, "logger=tensorboard", *images)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = tmp_path.glob("*/*/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    recorded = (folder.parent / "metrics.csv").read_text()
    for step, _, name, value in (line.split(",") for line in recorded.splitlines()[1:]):
        (event,) = events.Scalars(name)
        assert event.step == int(step)
        assert event.value == pytest.approx(float(value), rel=1e-6)


def test_wandb_is_offline_and_finished(images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path, "logger=wandb", *images)
    assert wandb.run is None
    assert list(tmp_path.glob("*/*/wandb/offline-run-*"))


def test_an_experiment_changes_values_and_a_command_line_changes_it(tmp_path: Path) -> None:
    recipe = tmp_path / "experiments" / "mine" / "run.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        "# @package _global_\ndefaults:\n  - override /backbone: vgg16\nseed: 7\nmodel:\n  net: johnson\n"
    )
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    for word in ("+experiment=mine", "experiment=mine"):
        cfg = compose_config(tmp_path, "train", [word, "seed=8"])
        assert (cfg.backbone.name, cfg.model.net, cfg.seed, cfg.data.seed) == ("vgg16", "johnson", 8, 8)
