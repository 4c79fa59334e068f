"""What equal numbers of training steps reach: Johnson's sizes under the plain loss, ours with all that is fast."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from tezawari.core.training import quiet_lightning
from tezawari.data.sample import SampleData
from tezawari.features.vgg import VggTrunk
from tezawari.style.lightning_module import MultiStyle
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
    """Train three networks for as many steps of as many pictures of the sample data, and yield how far each came.

    The first fifth of the steps is spent on giving the photo back, as in every training of ours; content layers and
    learning rate are those of ``experiments/multistyle_paintings``. The third is that of
    ``experiments/paintings_swift``, which makes two pictures of half as many photos a step.

    Args:
        steps: optimiser steps of each.
        size: side in pixels of the square training crops.
        batch_size: pictures a step, an even number.
        weights: VGG16's weights, a file or ``random`` (then the losses mean nothing).
        bf16: train ours in mixed bfloat16.
    """
    precision: Precision = "bf16-mixed" if bf16 else "32-true"
    swift: dict[str, Any] = {"norm": "settled", "style_rate": 5.0, "frozen_moments": 0.5, "styles_per_photo": 2}
    talk: dict[str, Any] = {"norm": "batch", "style_rate": 1.0}
    train = partial(_train, steps, size, weights)
    yield train("johnson, plain loss", PlainMultiStyle, "32-true", batch_size, net="johnson", **talk)
    yield train("deepstylecam", MultiStyle, precision, batch_size, net="deepstylecam", **talk)
    yield train("swift, two styles a photo", MultiStyle, precision, batch_size // 2, net="swift", **swift)


def _train(
    steps: int,
    size: int,
    weights: str,
    name: str,
    kind: type[MultiStyle],
    precision: Precision,
    photos: int,
    **settings: Any,
) -> EqualStepsRow:
    torch.manual_seed(0)
    data = SampleData(image_size=size, style_size=size, batch_size=photos)
    module = kind(
        backbone_name="vgg16",
        backbone_weights=weights,
        reconstruction_steps=steps // 5,
        content_layers=["relu2_2", "relu3_3"],
        content_weight=5.0,
        grid_weight=0.0,
        learning_rate=1e-3,
        **settings,
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
