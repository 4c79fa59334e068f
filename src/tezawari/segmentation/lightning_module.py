"""Training from image labels (saliency) and from masks (the segmenter under full supervision)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_average_precision

from tezawari.core.errors import UserError
from tezawari.core.schedule import recipe
from tezawari.data.labelled import LabelledData
from tezawari.data.labelled_image import IGNORE_INDEX
from tezawari.features.trainable import fine_tuning_groups, fine_tuning_optimizer
from tezawari.segmentation.metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from tezawari.segmentation.network import Pooling, SaliencyNetwork
from tezawari.segmentation.package import SALIENCY_FILE, SEGMENTER_FILE, describe, load_trained, save_trained
from tezawari.segmentation.pictures import save_saliency_sheet, save_segmentation_sheet
from tezawari.segmentation.segmenter import Segmenter, predict_probabilities


class Saliency(pl.LightningModule):
    """Train a fully convolutional network on image labels alone: one logistic loss a class (METHODS §3).

    Args:
        pooling: how a class's map becomes its score: ``max``, ``average`` or ``lse`` (log-sum-exp).
        learning_rate: peak of AdamW's learning rate for the pretrained layers.
        head_factor: times that for the layers that start at random.
        weight_decay: of AdamW.
        freeze_up_to: the deepest layer of the backbone that keeps its pretrained weights; None: all layers learn.
        layer: the backbone's layer to classify; None for its deepest.
        backbone_name: the network to start from.
        backbone_weights: a file of its weights, or None for those it comes with.
    """

    def __init__(
        self,
        pooling: Pooling = "average",
        learning_rate: float = 3e-4,
        head_factor: float = 10.0,
        weight_decay: float = 1e-4,
        freeze_up_to: str | None = None,
        layer: str | None = None,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.class_names: list[str] = []
        self.saliency: SaliencyNetwork | None = None
        self.seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        """Build the network; how many classes there are is the data's to say."""
        if self.saliency is not None:
            return
        self.class_names = list(labelled_data(self).class_names)
        hparams, classes = self.hparams, len(self.class_names)
        self.saliency = SaliencyNetwork(
            hparams["backbone_name"], classes, hparams["pooling"], hparams["backbone_weights"], hparams["layer"]
        )
        self.saliency.freeze_up_to(hparams["freeze_up_to"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the logistic loss of a batch ``{image, labels}``, averaged over images and classes."""
        assert self.saliency is not None
        loss = logistic_loss(self.saliency(batch["image"]), batch["labels"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to gather."""
        self.seen = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Gather the scores of held-out images."""
        assert self.saliency is not None
        logits = self.saliency(batch["image"])
        self.seen.append((logits.sigmoid(), batch["labels"]))
        self.log("val/loss", logistic_loss(logits, batch["labels"]), batch_size=len(logits))

    def on_validation_epoch_end(self) -> None:
        """Log each class's average precision, and their mean over the classes that some image shows."""
        log_average_precision(self, self.seen, self.class_names)

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rates rise over the first 5 % of the steps and fall to zero along a cosine."""
        assert self.saliency is not None
        return scheduled(self, parameter_groups(self.saliency, self.hparams))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the network is, so that the checkpoint can be used by itself."""
        assert self.saliency is not None
        described = describe(self.saliency, self.class_names, labelled_data(self).image_size)
        checkpoint["networks"] = {"saliency": described}

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and draw its heat maps: rows are held-out images, columns saliency methods."""
        assert self.saliency is not None
        network, data = self.saliency.eval().requires_grad_(False), labelled_data(self)
        meta = recipe(self.hparams, self.global_step)
        published = save_trained(run_dir / SALIENCY_FILE, network, self.class_names, data.image_size, meta)
        sheet = save_saliency_sheet(
            run_dir / "saliency.png", network, self.class_names, data.examples("val")[:6], data.image_size
        )
        return {"network": published, "heat maps": sheet}


class SegmenterTraining(pl.LightningModule):
    """Train the segmenter on true masks: the ceiling that weak supervision is measured against.

    Args:
        start: a trained saliency network (a file or a run) from whose backbone to begin, as self-training does; None
            begins from the pretrained one.
        learning_rate: peak of AdamW's learning rate for the pretrained layers.
        head_factor: times that for the layers that start at random.
        weight_decay: of AdamW.
        backbone_name: the network to start from.
        backbone_weights: a file of its weights, or None for those it comes with.
    """

    def __init__(
        self,
        start: str | None = None,
        learning_rate: float = 3e-4,
        head_factor: float = 10.0,
        weight_decay: float = 1e-4,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.class_names: list[str] = []
        self.segmenter: Segmenter | None = None
        self.confusion: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Build the network. Raises UserError where the data withholds its masks."""
        if self.segmenter is not None:
            return
        data = labelled_data(self)
        if data.supervision != "full":
            raise UserError("model=segmenter trains on masks: add data.supervision=full (model=stc needs none)")
        self.class_names = list(data.class_names)
        hparams = self.hparams
        self.segmenter = Segmenter(hparams["backbone_name"], len(self.class_names), hparams["backbone_weights"])
        if hparams["start"] is not None:
            started = load_trained(Path(hparams["start"]), "saliency").network
            assert isinstance(started, SaliencyNetwork)
            if started.backbone != hparams["backbone_name"]:
                raise UserError(
                    f"model.start={hparams['start']} is a {started.backbone}: take backbone={started.backbone}"
                )
            self.segmenter.start_from(started)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the cross-entropy of a batch ``{image, mask}``, averaged over the pixels that are not ignored."""
        assert self.segmenter is not None
        loss = mask_loss(self.segmenter(batch["image"]), batch["mask"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.confusion = None

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count which class the pixels of held-out images were given."""
        assert self.segmenter is not None
        counts = batch_confusion(self.segmenter, batch, len(self.class_names))
        self.confusion = counts if self.confusion is None else self.confusion + counts

    def on_validation_epoch_end(self) -> None:
        """Log intersection over union by class, its mean and the pixel accuracy."""
        assert self.confusion is not None
        log_segmentation(self, self.confusion, self.class_names)

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rates rise over the first 5 % of the steps and fall to zero along a cosine."""
        assert self.segmenter is not None
        return scheduled(self, parameter_groups(self.segmenter, self.hparams))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the network is, so that the checkpoint can be used by itself."""
        assert self.segmenter is not None
        described = describe(self.segmenter, self.class_names, labelled_data(self).image_size)
        checkpoint["networks"] = {"segmenter": described}

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and draw its masks of held-out images."""
        assert self.segmenter is not None
        network, data = self.segmenter.eval().requires_grad_(False), labelled_data(self)
        meta = recipe(self.hparams, self.global_step)
        published = save_trained(run_dir / SEGMENTER_FILE, network, self.class_names, data.image_size, meta)
        sheet = save_segmentation_sheet(
            run_dir / "segmentation.png", network, self.class_names, data.examples("val")[:6], data.image_size
        )
        return {"network": published, "masks": sheet}


# --- what the modules of this room share ------------------------------------------------------------------------------


def labelled_data(module: pl.LightningModule) -> LabelledData:
    """Return the trainer's data; raises UserError where it has no image labels."""
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, LabelledData):
        raise UserError(
            f"{type(data).__name__} has no image labels: take data=scenes, data=voc, data=fmd or data=images_by_class"
        )
    return data


def logistic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over images and classes of the logistic loss of ``(B, K)`` logits and multi-hot labels."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the cross-entropy of logits (B, C, h, w) and masks (B, H, W), mean over the pixels that are not 255.

    A batch whose pixels are all ignored has loss 0, not NaN.
    """
    logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (mask != IGNORE_INDEX).sum().clamp_min(1)


@torch.no_grad()
def batch_confusion(segmenter: Segmenter, batch: dict[str, Any], num_classes: int) -> Tensor:
    """Return the confusion matrix (1 + K, 1 + K) of a batch ``{image, mask}``, all classes allowed."""
    predicted = predict_probabilities(segmenter, batch["image"], flip=False).argmax(1)
    return confusion_matrix(predicted, batch["mask"], 1 + num_classes)


def log_segmentation(module: pl.LightningModule, confusion: Tensor, class_names: list[str]) -> None:
    """Log ``val/miou`` over background and classes, ``val/pixel_accuracy`` and ``val/iou/NAME``."""
    ious = iou_per_class(confusion)
    module.log("val/miou", mean_iou(confusion), prog_bar=True)
    module.log("val/pixel_accuracy", pixel_accuracy(confusion))
    module.log_dict({f"val/iou/{name}": iou for name, iou in zip(["background", *class_names], ious)})


def log_average_precision(
    module: pl.LightningModule, seen: Sequence[tuple[Tensor, Tensor]], class_names: list[str]
) -> None:
    """Log ``val/ap/NAME`` and ``val/map``, their mean, of the classes that some image shows.

    ``seen`` holds probabilities (B, K) and labels (B, K), a pair a batch.
    """
    scores, labels = (torch.cat(part) for part in zip(*seen))
    found = {
        name: binary_average_precision(scores[:, place], labels[:, place].long())
        for place, name in enumerate(class_names)
        if labels[:, place].any()
    }
    module.log("val/map", torch.stack(list(found.values())).mean(), prog_bar=True)
    module.log_dict({f"val/ap/{name}": value for name, value in found.items()})


def parameter_groups(network: SaliencyNetwork | Segmenter, hparams: Any) -> list[dict[str, Any]]:
    """Return two groups of a network's parameters: those that may be pretrained, and those that learn faster."""
    values = (hparams[name] for name in ("learning_rate", "head_factor", "weight_decay"))
    return fine_tuning_groups(network, network.head_parameters(), *values)


def scheduled(module: pl.LightningModule, groups: Iterable[dict[str, Any]], phases: int = 1) -> Any:
    """Return AdamW over ``groups`` and a learning rate that rises and falls once in each of ``phases`` equal phases."""
    steps = max(1, int(module.trainer.estimated_stepping_batches) // phases)
    optimizer, schedule = fine_tuning_optimizer(groups, steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
