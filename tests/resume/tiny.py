"""A model and data that use every kind of randomness and state that a resume must bring back, in milliseconds."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tezawari.core.seeding import sample_rng
from tezawari.data.loader import ResumableLoader, SampleKey

# "STEP:SIGNAL": the training process sends itself the signal in the middle of that step (counted from 0).
KILL_VARIABLE = "TEZAWARI_TEST_KILL"


class TinyModel(pl.LightningModule):
    """Dropout, batch norm, Adam, a learning rate schedule, draws from all global generators, an own running buffer."""

    def __init__(self, width: int = 8, lr: float = 1e-2, nan_at: int | None = None, pause: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.width, self.lr, self.nan_at, self.pause = width, lr, nan_at, pause
        self.network = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout(0.3), nn.Flatten(), nn.LazyLinear(2)
        )
        self.network(torch.zeros(2, 3, 8, 8))
        self.register_buffer("average", torch.zeros(()))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        _kill_if_due(self.global_step)
        time.sleep(self.pause)
        noise = random.random() + float(np.random.rand()) + torch.rand(())  # noqa: NPY002 - the global one is the point
        loss = (self.network(batch["image"]) ** 2).mean() * (1 + noise)
        if self.nan_at == self.global_step:
            loss = loss * torch.nan
        self.average = 0.9 * self.average + 0.1 * loss.detach()
        self.log("train/loss", loss)
        self.log("train/average", self.average)
        if random.random() < 0.3:
            self.log("train/sometimes", loss)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val/loss", (self.network(batch["image"]) ** 2).mean(), batch_size=len(batch["image"]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        (run_dir / "summary.txt").write_text(f"{float(self.average)!r}\n")
        return {"summary": run_dir / "summary.txt"}


def _kill_if_due(step: int) -> None:
    due, _, number = os.environ.get(KILL_VARIABLE, "").partition(":")
    if due == str(step):
        os.environ.pop(KILL_VARIABLE)
        os.kill(os.getpid(), signal.Signals(int(number)))


class _Noise:
    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        image = sample_rng(self.seed, key.epoch, key.index).random((3, 8, 8), dtype=np.float32)
        return {"image": torch.from_numpy(image), "id": f"noise-{key.index}"}


class TinyData(pl.LightningDataModule):
    """Random images whose draws are a function of (seed, epoch, index)."""

    def __init__(self, size: int = 22, batch_size: int = 4, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.size, self.batch_size, self.seed, self.num_workers = size, batch_size, seed, num_workers

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(_Noise(self.size, self.seed), self.batch_size, self.seed, self.num_workers)

    def val_dataloader(self) -> Any:
        # Lightning's usual loader, which does draw from the global generator.
        keys = [[SampleKey(0, 0), SampleKey(0, 1)], [SampleKey(0, 2), SampleKey(0, 3)]]
        return torch.utils.data.DataLoader(_Noise(4, self.seed + 1), batch_sampler=keys)  # type: ignore[arg-type]
