"""The loader's order, its independence of workers, and exact resume under a real trainer."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tests.unit.quiet_trainer import quiet_trainer

from tezawari.core.errors import UserError
from tezawari.core.seeding import epoch_order, sample_rng
from tezawari.data import loader as loader_module
from tezawari.data.loader import ResumableData, ResumableLoader, SampleKey


class Draws(torch.utils.data.Dataset):
    """Items that record their key and one random draw, and count how often they were decoded in this process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.decoded = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: SampleKey) -> dict[str, torch.Tensor]:
        self.decoded += 1
        draw = sample_rng(5, key.epoch, key.index).random()
        return {"key": torch.tensor(key), "draw": torch.tensor(draw, dtype=torch.float64)}


def keys_of(batches: object) -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for batch in batches for row in batch["key"]]  # type: ignore[attr-defined]


def test_an_epoch_as_long_as_the_dataset_is_its_permutation() -> None:
    loader = ResumableLoader(Draws(12), batch_size=4, seed=3)
    for epoch in range(3):
        expected = [(epoch, int(i)) for i in epoch_order(3, epoch, 12)]
        assert keys_of(loader) == expected


@pytest.mark.parametrize("epoch_size", [4, 8, 22, 40])
def test_any_epoch_size_visits_every_item_equally_often_and_names_no_sample_twice(epoch_size: int) -> None:
    loader = ResumableLoader(Draws(10), batch_size=4, seed=0, epoch_size=epoch_size)
    assert len(loader) == epoch_size // 4
    stream = list(itertools.chain.from_iterable(keys_of(loader) for _ in range(20)))[
        : 10 * (20 * len(loader) * 4 // 10)
    ]
    counts = Counter(index for _, index in stream)
    assert len(set(counts.values())) == 1
    assert sorted(counts) == list(range(10))
    assert len(set(stream)) == len(stream)


def test_without_shuffling_the_order_is_the_datasets() -> None:
    assert [index for _, index in keys_of(ResumableLoader(Draws(6), 3, seed=1, shuffle=False))] == list(range(6))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_batch_gives_the_rest_without_decoding_what_was_seen(workers: int) -> None:
    whole = ResumableLoader(Draws(10), 2, seed=1, epoch_size=6)
    states, seen = [whole.state_dict()], []
    for _ in range(3):
        for batch in whole:
            seen.append(batch)
            states.append(whole.state_dict())
    for start in range(6) if workers == 0 else (1, 3):
        dataset = Draws(10)
        resumed = ResumableLoader(dataset, 2, seed=1, epoch_size=6, num_workers=workers)
        resumed.load_state_dict(states[start])
        rest = list(resumed)
        assert len(rest) == 3
        assert dataset.decoded == (6 if workers == 0 else 0)
        for got, expected in zip(rest, seen[start:]):
            assert torch.equal(got["key"], expected["key"])
            assert torch.equal(got["draw"], expected["draw"])


def test_the_state_names_the_next_epoch_before_the_last_batch_is_used() -> None:
    loader = ResumableLoader(Draws(6), 2, seed=0)
    states = [dict(loader.state_dict()) for _ in loader]
    assert states == [{"epoch": 0, "batch": 1}, {"epoch": 0, "batch": 2}, {"epoch": 1, "batch": 0}]
    assert all(type(value) is int for state in states for value in state.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_are_left_alone(workers: int) -> None:
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(ResumableLoader(Draws(4), 2, seed=0, num_workers=workers))
    assert torch.equal(before, torch.get_rng_state())
    assert (before_numpy == np.random.get_state()[1]).all()  # noqa: NPY002


def test_processes_share_out_the_batches_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = keys_of(ResumableLoader(Draws(16), 4, seed=2))
    shares = []
    for rank in range(2):
        monkeypatch.setattr(loader_module, "_rank_and_processes", lambda rank=rank: (rank, 2))
        shares.append(keys_of(ResumableLoader(Draws(16), 2, seed=2)))
    joined = [key for a in range(0, 8, 2) for share in shares for key in share[a : a + 2]]
    assert joined == alone


def test_an_epoch_without_a_whole_batch_says_what_to_set() -> None:
    with pytest.raises(UserError, match=r"data\.epoch_size to at least 4"):
        ResumableLoader(Draws(3), 4, seed=0)


def test_a_state_from_other_settings_is_refused() -> None:
    loader = ResumableLoader(Draws(8), 4, seed=0)
    with pytest.raises(UserError, match="batch_size"):
        loader.load_state_dict({"epoch": 0, "batch": 2})


class Recorder(pl.LightningModule):
    """A module of one weight that keeps the keys of its training batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["key"].flatten().tolist())
        return (self.weight * batch["draw"].float().mean() - 0.3).square().mean()

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.weight.sum())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


class DrawsData(ResumableData):
    """Seven items, of which an epoch holds six."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers

    def make_train_loader(self) -> ResumableLoader:
        return ResumableLoader(Draws(7), 2, seed=4, epoch_size=6, num_workers=self.workers)

    def val_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader([{"key": torch.zeros(2), "draw": torch.zeros(1)}])


class SaveEverywhere(pl.Callback):
    """Writes a checkpoint after every batch, every validation and every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: pl.Trainer, when: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{when}-{trainer.current_epoch}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self._save(trainer, "epoch")


def fit(workers: int, callbacks: list[pl.Callback], checkpoint: Path | None = None, **options: object) -> Recorder:
    module = Recorder()
    trainer = quiet_trainer(callbacks=callbacks, **({"max_epochs": 3} | options))
    trainer.fit(module, DrawsData(workers), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return module


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 9), ({"limit_train_batches": 2}, 6), ({"max_epochs": -1, "max_steps": 7}, 7)],
    ids=["whole epochs", "cut epochs", "counted steps"],
)
def test_a_trainer_resumed_at_any_checkpoint_sees_the_same_batches(
    tmp_path: Path, options: dict[str, object], steps: int
) -> None:
    whole = fit(0, [SaveEverywhere(tmp_path)], **options)
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(whole.seen) == steps
    assert len(checkpoints) >= steps + 4
    for checkpoint in checkpoints:
        step = int(checkpoint.stem.rsplit("-", 1)[1])
        resumed = fit(0, [], checkpoint, **options)
        assert resumed.seen == whole.seen[step:], checkpoint.name
        assert torch.equal(resumed.weight, whole.weight), checkpoint.name


def test_a_trainer_with_workers_sees_the_batches_of_one_without(tmp_path: Path) -> None:
    whole = fit(0, [])
    assert fit(2, [SaveEverywhere(tmp_path)]).seen == whole.seen
    for name in ("batch-0-2", "batch-1-6", "epoch-1-6"):
        resumed = fit(2, [], tmp_path / f"{name}.ckpt")
        assert resumed.seen == whole.seen[int(name[-1]) :], name
        assert torch.equal(resumed.weight, whole.weight)
