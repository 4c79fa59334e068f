"""Training the material classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.schedule import recipe
from tezawari.data.labelled import LabelledData
from tezawari.data.labelled_image import LabelledImage
from tezawari.recognition.classifier import MaterialClassifier
from tezawari.recognition.package import MATERIAL_FILE, describe, save_classifier
from tezawari.recognition.pictures import save_taken_for_sheet
from tezawari.recognition.training import classification_loss, classifier_optimizer

_SHOWN = 80
_ONE_LABEL = "take data=textures, data=images_by_class or data=fmd"


class Material(pl.LightningModule):
    """Fine-tune a pretrained backbone to tell the one material of an image: cross-entropy over classes (METHODS §9).

    Args:
        learning_rate: peak of AdamW's learning rate for the pretrained layers.
        head_factor: times that for the layer that starts at random.
        weight_decay: of AdamW.
        freeze_up_to: the deepest layer of the backbone that keeps its pretrained weights; None: all layers learn.
        layer: the backbone's layer to classify; None for its deepest.
        backbone_name: the network to start from.
        backbone_weights: a file of its weights, or None for those it comes with.
    """

    def __init__(
        self,
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
        self.classifier: MaterialClassifier | None = None
        self.seen: list[tuple[Tensor, Tensor]] = []

    def setup(self, stage: str) -> None:
        """Build the network; how many classes there are is the data's to say.

        Raises :class:`UserError` for data without image labels, and for an image of none or several.
        """
        if self.classifier is not None:
            return
        data = _labelled_data(self)
        _require_one_label([*data.examples("train"), *data.examples("val")])
        self.class_names = list(data.class_names)
        hparams = self.hparams
        self.classifier = MaterialClassifier(
            hparams["backbone_name"], len(self.class_names), hparams["backbone_weights"], hparams["layer"]
        )
        self.classifier.freeze_up_to(hparams["freeze_up_to"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch ``{image, labels}``."""
        assert self.classifier is not None
        loss = classification_loss(self.classifier(batch["image"]), batch["labels"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin to gather."""
        self.seen = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Gather what held-out images are taken for."""
        assert self.classifier is not None
        logits = self.classifier(batch["image"])
        self.seen.append((logits.argmax(1), batch["labels"].argmax(1)))
        self.log("val/loss", classification_loss(logits, batch["labels"]), batch_size=len(logits))

    def on_validation_epoch_end(self) -> None:
        """Log the share of images that are told right, of all and of each class that some image shows."""
        predicted, truth = (torch.cat(part) for part in zip(*self.seen))
        right = (predicted == truth).float()
        self.log("val/accuracy", right.mean(), prog_bar=True)
        for place, name in enumerate(self.class_names):
            if (truth == place).any():
                self.log(f"val/accuracy/{name}", right[truth == place].mean())

    def configure_optimizers(self) -> Any:
        """AdamW whose learning rates rise over the first 5 % of the steps and fall to zero along a cosine."""
        assert self.classifier is not None
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        optimizer, schedule = classifier_optimizer(
            self.classifier,
            steps,
            self.hparams["learning_rate"],
            self.hparams["head_factor"],
            self.hparams["weight_decay"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the network is, so that the checkpoint can be used by itself."""
        assert self.classifier is not None
        described = describe(self.classifier, self.class_names, _labelled_data(self).image_size)
        checkpoint["networks"] = {"material": described}

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and show which held-out images it takes for each class."""
        assert self.classifier is not None
        network, data = self.classifier.eval().requires_grad_(False), _labelled_data(self)
        meta = recipe(self.hparams, self.global_step)
        published = save_classifier(run_dir / MATERIAL_FILE, network, self.class_names, data.image_size, meta)
        shown = _spread(data.examples("val"), _SHOWN)
        sheet = save_taken_for_sheet(run_dir / "taken_for.jpg", network, self.class_names, shown, data.image_size)
        return {"network": published, "held-out images by predicted class": sheet}


def _labelled_data(module: pl.LightningModule) -> LabelledData:
    data = module.trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(data, LabelledData):
        raise UserError(f"{type(data).__name__} has no image labels: {_ONE_LABEL}")
    return data


def _require_one_label(examples: list[LabelledImage]) -> None:
    for example in examples:
        if len(example.labels) != 1:
            raise UserError(
                f"image {example.id} has {len(example.labels)} labels and model=material tells one an image: "
                f"{_ONE_LABEL}, or model=saliency for several"
            )


def _spread(examples: list[LabelledImage], most: int) -> list[LabelledImage]:
    """Return at most ``most`` examples from all over a list, which may be sorted by class."""
    return examples[:: -(-len(examples) // most)]
