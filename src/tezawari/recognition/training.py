"""Fine-tuning a classifier: its loss, its optimiser, and the plain loop that needs no trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tezawari.core.progress import Progress
from tezawari.features.trainable import fine_tuning_groups, fine_tuning_optimizer
from tezawari.recognition.classifier import MaterialClassifier


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits (B, K) and labels (B, K), each row of which has its 1 at one class."""
    return F.cross_entropy(logits, labels.argmax(1))


def classifier_optimizer(
    network: MaterialClassifier, steps: int, learning_rate: float, head_factor: float, weight_decay: float
) -> tuple[AdamW, LambdaLR]:
    """Return AdamW over what trains of a network, and its schedule: a rise over 5 % of the steps, a cosine to zero.

    Args:
        network: whose frozen weights are left out.
        steps: of the whole training; the schedule moves once a step.
        learning_rate: peak for the pretrained layers.
        head_factor: times that for the layer that starts at random.
        weight_decay: of AdamW.
    """
    groups = fine_tuning_groups(network, network.head_parameters(), learning_rate, head_factor, weight_decay)
    return fine_tuning_optimizer(groups, steps)


def fine_tune(
    network: MaterialClassifier,
    batches: Iterable[dict[str, Any]],
    steps: int,
    learning_rate: float = 3e-4,
    head_factor: float = 10.0,
    weight_decay: float = 1e-4,
    progress: Progress | None = None,
) -> list[float]:
    """Train a classifier in place, a step a batch, and return the loss of each step.

    Args:
        network: to train, on the device where the batches are.
        batches: at least ``steps`` of ``{image (B, 3, H, W) in [0, 1], labels (B, K)}``, one label an image.
        steps: how many batches are taken.
        learning_rate, head_factor, weight_decay: :func:`classifier_optimizer`'s.
        progress: called with (steps done, steps).

    Raises:
        ValueError: too few batches.
    """
    optimizer, schedule = classifier_optimizer(network, steps, learning_rate, head_factor, weight_decay)
    network.train()
    losses: list[float] = []
    for _, batch in zip(range(steps), batches):
        loss = classification_loss(network(batch["image"]), batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(len(losses), steps)
    if len(losses) < steps:
        raise ValueError(f"{steps} steps were asked for, and there were {len(losses)} batches")
    network.eval()
    return losses


@torch.no_grad()
def predict_probabilities(network: MaterialClassifier, batches: Iterable[Tensor]) -> Tensor:
    """Return the probabilities (N, K) of all images of ``batches``, each (B, 3, H, W) RGB in [0, 1]."""
    return torch.cat([network(images).softmax(1) for images in batches])
