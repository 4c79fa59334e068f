"""Self-training stopped anywhere, in a stage or in a round, ends as the run that nobody stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.kill_many import differences
from tests.resume.tiny_self_training import Forks
from tezawari.core.checkpoints import list_checkpoints

KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
# Three rounds of one step; the second agrees less than the first.
FALLING = [0.5, 0.4, 0.9]
ROUNDS = ["model.rounds=3", "trainer.max_steps=4", "trainer.val_every=0"]


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    forks = Forks(tmp_path_factory.mktemp("log") / "log.txt")
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert forks.train(f"output_dir={folder}") == 0, forks.log.read_text()
    return run_of(folder)


@pytest.fixture(scope="module")
def ended_early(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run whose second round agreed less than its first."""
    folder = tmp_path_factory.mktemp("early")
    assert forks.train(f"output_dir={folder}", *ROUNDS, agreements=FALLING) == 0, forks.log.read_text()
    return run_of(folder)


def run_of(folder: Path) -> Path:
    (run,) = folder.glob("selftraining/*/")
    return run


def status(run: Path) -> str:
    return json.loads((run / "record.json").read_text())["status"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes where a file is written anew, even with the same content."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.png")}


def same(one: Path, other: Path) -> list[str]:
    """What differs between two runs: metrics, the last checkpoint, what the rounds left, or what is published."""
    found = list(differences(one, other))
    a, b = contents(one / "rounds"), contents(other / "rounds")
    found += [name for name in {**a, **b} if a.get(name) != b.get(name)]
    published = ("segmenter.safetensors", "saliency.safetensors", "rounds.png")
    return found + [name for name in published if (one / name).read_bytes() != (other / name).read_bytes()]


def test_killed_in_stages_and_rounds_it_ends_as_the_untouched_one(forks: Forks, whole: Path, tmp_path: Path) -> None:
    words = [f"output_dir={tmp_path}", "resume=auto"]
    assert forks.train(*words, die=f"mask/0/3:{KILL}") == -KILL
    run = run_of(tmp_path)
    assert not (run / "rounds" / "masks-0").exists()
    begun = identities(run / "rounds" / "masks-0.unfinished")
    assert len(begun) == 2

    # On through the rest of the stage and into the round, whose samples a worker makes.
    assert forks.train(*words, "data.num_workers=1", die=f"step/3:{KILL}") == -KILL
    first = identities(run / "rounds" / "masks-0")
    assert begun.items() < first.items(), "masks that were there must not be made again"
    assert not (run / "rounds" / "masks-0.unfinished").exists()

    assert forks.train(*words, die=f"mask/1/2:{KILL}") == -KILL
    second = identities(run / "rounds" / "masks-1.unfinished")
    assert len(second) == 1
    assert status(run) == "running"

    assert forks.train(*words, die=f"step/4:{TERM}") == 128 + TERM
    assert status(run) == "stopped"
    assert list_checkpoints(run / "checkpoints")[0].name == "step-000000005.ckpt"

    assert forks.train(*words) == 0, forks.log.read_text()
    assert status(run) == "finished"
    assert identities(run / "rounds" / "masks-0") == first
    assert second.items() < identities(run / "rounds" / "masks-1").items()
    assert same(whole, run) == []


def test_the_comparison_notices(whole: Path, ended_early: Path) -> None:
    found = " ".join(same(whole, ended_early))
    for name in ("metrics.csv", "state_dict", "exp_avg", "masks-0/manifest.json", "round-1.json", "rounds.png"):
        assert name in found


def test_masks_are_of_every_training_image_and_under_its_labels(whole: Path) -> None:
    from tezawari.data.scenes import ScenesData
    from tezawari.segmentation.masks import read_mask

    for stage in ("masks-0", "masks-1"):
        for scene in ScenesData(train_scenes=5, val_scenes=1, image_size=32).examples("train"):
            mask = read_mask(whole / "rounds" / stage / f"{scene.id}.png", (32, 32))
            assert set(mask.ravel().tolist()) <= {0, *(1 + place for place in scene.labels)}


def test_the_loop_ends_when_agreement_falls_and_the_best_round_is_published(ended_early: Path) -> None:
    record = json.loads((ended_early / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["step"] == 3
    rounds = ended_early / "rounds"
    assert [json.loads((rounds / f"round-{n}.json").read_text())["agreement"] for n in (1, 2)] == FALLING[:2]
    assert not (rounds / "round-3.json").exists()
    assert not list(rounds.glob("masks-2*"))
    assert (ended_early / "segmenter.safetensors").read_bytes() == (rounds / "round-1.safetensors").read_bytes()
    assert list_checkpoints(ended_early / "checkpoints")[0].name == "step-000000003.ckpt"


def test_a_run_that_ended_early_has_finished(forks: Forks, ended_early: Path) -> None:
    before = contents(ended_early)
    words = [f"output_dir={ended_early.parents[1]}", *ROUNDS, "resume=auto"]
    assert forks.train(*words, agreements=FALLING) == 0
    assert "has finished this very configuration" in forks.log.read_text()
    assert contents(ended_early) == before


@pytest.mark.parametrize(("place", "every"), [("closing/2", 1), ("closed/2", 0)])
def test_killed_as_it_ends_early_it_ends_as_the_untouched_one(
    place: str, every: int, forks: Forks, ended_early: Path, tmp_path: Path
) -> None:
    """Also from the very beginning, where no checkpoint was due: what a later round measured is not known yet."""
    words = [f"output_dir={tmp_path}", *ROUNDS, "resume=auto", f"callbacks.checkpoint_every={every}"]
    assert forks.train(*words, die=f"{place}:{KILL}", agreements=FALLING) == -KILL
    assert forks.train(*words, agreements=FALLING) == 0, forks.log.read_text()
    assert status(run_of(tmp_path)) == "finished"
    # Where no checkpoint was due after the last step, it is saved later, when Lightning has counted the epoch too.
    found = same(ended_early, run_of(tmp_path))
    assert [name for name in found if not name.startswith(("checkpoint.epoch", "checkpoint.loops"))] == []


def test_masks_of_another_making_are_refused_and_kept(forks: Forks, tmp_path: Path) -> None:
    words = [f"output_dir={tmp_path}", "resume=auto"]
    assert forks.train(*words, die=f"step/2:{KILL}") == -KILL
    stage = run_of(tmp_path) / "rounds" / "masks-0"
    manifest = json.loads((stage / "manifest.json").read_text())
    (stage / "manifest.json").write_text(json.dumps({**manifest, "key": "0" * 16}))
    before = contents(stage)
    assert forks.train(*words) == 2
    last = [line for line in forks.log.read_text().splitlines() if line.startswith("error: ")][-1]
    assert "masks made by another configuration or from other weights" in last
    assert contents(stage) == before
