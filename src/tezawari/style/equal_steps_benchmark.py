"""What equal numbers of training steps reach: Johnson's sizes under the plain loss, and ours with all that is fast."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import pytorch_lightning as pl
import torch

from tezawari.core.training import quiet_lightning
from tezawari.data.sample import SampleData
from tezawari.features.vgg import VggTrunk
from tezawari.style.lightning_module import MultiStyle
from tezawari.style.network import Net
from tezawari.style.speed_report import EqualStepsRow

Precision = Literal["32-true", "bf16-mixed"]


class PlainMultiStyle(MultiStyle):
    """Training whose loss network convolves by ``nn.Conv2d``."""

    def setup(self, stage: str) -> None:
        """Build the network and the loss, and take the fast path from it."""
        super().setup(stage)
        assert self.loss is not None
        trunk = self.loss.backbone.trunk
        assert isinstance(trunk, VggTrunk)
        trunk.fast_convolutions = False


def train_equally(steps: int, size: int, batch_size: int, weights: str, bf16: bool) -> Iterator[EqualStepsRow]:
    """Train two networks on the same batches of the sample data, in the same order, and yield how far each came.

    The first fifth of the steps is spent on giving the photo back, as in every training of ours; content layers and
    learning rate are those of ``experiments/multistyle_paintings``.

    Args:
        steps: optimiser steps of each.
        size: side in pixels of the square training crops.
        batch_size: crops a step.
        weights: VGG16's weights, a file or ``random`` (then the losses mean nothing).
        bf16: train ours in mixed bfloat16.
    """
    yield _train("johnson, plain loss", PlainMultiStyle, "johnson", "32-true", steps, size, batch_size, weights)
    precision: Precision = "bf16-mixed" if bf16 else "32-true"
    yield _train("ours", MultiStyle, "deepstylecam", precision, steps, size, batch_size, weights)


def _train(
    name: str,
    kind: type[MultiStyle],
    net: Net,
    precision: Precision,
    steps: int,
    size: int,
    batch_size: int,
    weights: str,
) -> EqualStepsRow:
    torch.manual_seed(0)
    data = SampleData(image_size=size, style_size=size, batch_size=batch_size)
    module = kind(
        net,
        backbone_name="vgg16",
        backbone_weights=weights,
        reconstruction_steps=steps // 5,
        content_layers=["relu2_2", "relu3_3"],
        content_weight=5.0,
        learning_rate=1e-3,
    )
    with quiet_lightning():
        start = time.perf_counter()
        _trainer(precision, steps).fit(module, datamodule=data)
        seconds = time.perf_counter() - start
        (losses,) = _trainer("32-true", steps).validate(module, datamodule=data, verbose=False)
    return EqualStepsRow(
        name,
        "bf16" if precision == "bf16-mixed" else "fp32",
        steps,
        seconds,
        float(losses["val/content_loss"]),
        float(losses["val/style_loss"]),
    )


def _trainer(precision: Precision, steps: int) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision=precision,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=None,
        check_val_every_n_epoch=None,
        val_check_interval=steps + 1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
