"""Training of the inverse of a transform on pairs that the transform makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.core.schedule import recipe, warm_cosine
from tezawari.core.seeding import sample_rng
from tezawari.data.content_style import ContentStyleData
from tezawari.data.sheet import draw_sheet, square
from tezawari.features.backbone import Backbone, default_content_layers, load_backbone
from tezawari.style.inverse.measures import quality
from tezawari.style.inverse.model import RestorationLosses, build_inverse_network, finished, restoration_losses
from tezawari.style.inverse.package import NETWORK_FILE, describe_inverse, save_inverse
from tezawari.style.inverse.restore import Restorer
from tezawari.style.inverse.transforms import ForwardTransform, Task
from tezawari.style.network import ConditionalNetwork, Net

_SHEET_PHOTOS, _SMALLEST_SHEET_SIDE, _LARGEST_SHEET_SIDE = 6, 64, 256
# Adam's first steps all go one way: through the thousands of weights of the last layer's large kernel they would throw
# the picture far from the degraded photo that it starts as.
_LAST_LAYER_SHARE = 0.1


class _Degraded(NamedTuple):
    """A batch of degraded photos and what answers begin at, ``(B, 3, H, W)`` each, and their conditions ``(B,)``."""

    photos: Tensor
    starts: Tensor
    conditions: Tensor


class Inverse(pl.LightningModule):
    """Train one encoder-decoder to give photos their colour, their resolution or their smoothness back.

    Each photo of a batch is degraded anew, at a level of its own. What is drawn is a function of the seed and of the
    sample's place in the run alone, so that a resumed run degrades as the undisturbed one would have.

    Args:
        task: ``denoise``, ``superres`` or ``colorize``.
        net: ``johnson`` or ``deepstylecam``.
        max_noise: largest standard deviation of the noise, in levels of 0 … 255.
        scales: factors by which resolution is lowered.
        perceptual_weight: weight of the perceptual loss beside Charbonnier's; 0 leaves it out.
        learning_rate: peak of Adam's learning rate; it falls to zero along a cosine.
        frozen_moments: share of the steps, at the end, that train under the running moments that are used after
            training; the network then is trained as it is used.
        seed: of the levels and of the noise.
        backbone_name: the loss network, which also measures the perceptual distance on held-out photos.
        backbone_weights: a file of its weights, or None for those it comes with.
        content_layers: its layers; None for its usual ones.
    """

    def __init__(
        self,
        task: Task = "denoise",
        net: Net = "johnson",
        max_noise: float = 50.0,
        scales: list[int] | None = None,
        perceptual_weight: float = 0.05,
        learning_rate: float = 1e-3,
        frozen_moments: float = 0.25,
        seed: int = 0,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
        content_layers: list[str] | None = None,
    ) -> None:
        super().__init__()
        if perceptual_weight < 0:
            raise UserError(f"model.perceptual_weight={perceptual_weight:g}: must be at least 0")
        self.save_hyperparameters()
        self.strict_loading = False  # the loss network's weights are not in the checkpoint: see on_save_checkpoint
        self.transform = ForwardTransform(task, max_noise, tuple([2, 4] if scales is None else scales))
        self.network: ConditionalNetwork = build_inverse_network(net)
        self.layers = tuple(content_layers or default_content_layers(backbone_name))
        self.backbone: Backbone | None = None

    def setup(self, stage: str) -> None:
        """Load the loss network; raises UserError for data that are not plain photos."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ContentStyleData):
            raise UserError(
                f"model=inverse learns from photos alone, which {type(data).__name__} does not give: "
                "take data=sample or data=images"
            )
        if self.backbone is None:
            hparams = self.hparams
            self.backbone = load_backbone(hparams["backbone_name"], self.layers, hparams["backbone_weights"])

    def compile_network(self) -> None:
        """Compile the network's forward and backward; the first step then takes a minute or so."""
        self.network.compile()

    def forward(self, degraded: Tensor, conditions: Tensor) -> Tensor:
        """Return the network's answer to ``(B, 3, H, W)`` photos in [0, 1] under conditions ``(B,)`` in [0, 1].

        It has the photos' shape and range; :func:`tezawari.style.inverse.model.restored` says what it stands for.
        """
        return self.network(degraded.contiguous(memory_format=torch.channels_last), conditions[:, None])

    def _degraded(self, truth: Tensor, epoch: int, first: int, level: float | None = None) -> _Degraded:
        """Degrade photos ``(B, 3, H, W)``, each by the draws of (seed, epoch, place).

        ``first`` is the place of the first photo; ``level`` None draws each photo's level.
        """
        photos, starts, conditions = [], [], []
        for place, image in enumerate(truth, start=first):
            rng = sample_rng(self.hparams["seed"], epoch, place)
            of_photo = self.transform.draw(rng) if level is None else level
            photos.append(self.transform(image, of_photo, rng))
            starts.append(self.transform.start(photos[-1], of_photo))
            conditions.append(self.transform.condition(of_photo))
        return _Degraded(torch.stack(photos), torch.stack(starts), truth.new_tensor(conditions))

    def _losses(self, start: Tensor, answer: Tensor, truth: Tensor) -> RestorationLosses:
        backbone = self.backbone if self.hparams["perceptual_weight"] else None
        return restoration_losses(self.transform.task, start, answer, truth, backbone, self.layers)

    def _total(self, losses: RestorationLosses) -> Tensor:
        return (losses.pixel + self.hparams["perceptual_weight"] * losses.perceptual).mean()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Train the last steps under the moments that the network is used with afterwards."""
        if self.global_step >= (1 - self.hparams["frozen_moments"]) * self.trainer.estimated_stepping_batches:
            self.network.freeze_moments()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch ``{image, …}`` degraded anew, and log its parts."""
        truth = batch["image"]
        # A step sees each place of its batch once in a run, over all processes, so both name the sample.
        degraded = self._degraded(truth, self.global_step, self.global_rank * len(truth))
        losses = self._losses(degraded.starts, self(degraded.photos, degraded.conditions), truth)
        total = self._total(losses)
        self.log("train/loss", total, prog_bar=True)
        self._log_parts("train", losses)
        return total

    def _log_parts(self, stage: str, losses: RestorationLosses) -> None:
        means = {"pixel_loss": losses.pixel, "perceptual_loss": losses.perceptual}
        self.log_dict({f"{stage}/{name}": value.mean() for name, value in means.items()}, batch_size=len(losses.pixel))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log losses and measures on photos that are not trained on, degraded alike each time, over all test levels.

        ``val/psnr_gain`` is how much the network's PSNR is above the degraded photos', in dB.
        """
        assert self.backbone is not None
        truth = batch["image"]
        size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        for number, level in enumerate(self.transform.test_levels()):
            degraded = self._degraded(truth, number, batch_idx * size, level)
            answer = self(degraded.photos, degraded.conditions)
            losses = self._losses(degraded.starts, answer, truth)
            picture = finished(self.transform.task, degraded.starts, answer.to(truth))
            found = quality(picture, truth, self.backbone, self.layers)
            before = quality(degraded.photos, truth, self.backbone, self.layers)
            values = {
                "loss": self._total(losses),
                "psnr": found.psnr.mean(),
                "psnr_gain": (found.psnr - before.psnr).mean(),
                "ssim": found.ssim.mean(),
                "perceptual_distance": found.perceptual_distance.mean(),
            }
            self.log_dict({f"val/{name}": value for name, value in values.items()}, batch_size=len(truth))
            self._log_parts("val", losses)

    def configure_optimizers(self) -> Any:
        """Adam whose learning rate rises over the first 2 % of the steps and falls to zero along a cosine.

        The last layer has a tenth of it. [ours]
        """
        rate = self.hparams["learning_rate"]
        last = list(self.network.to_rgb.parameters())
        others = [p for name, p in self.network.named_parameters() if not name.startswith("to_rgb.")]
        optimizer = torch.optim.Adam([{"params": others, "lr": rate}, {"params": last, "lr": _LAST_LAYER_SHARE * rate}])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the frozen loss network out of the checkpoint, and name what the network undoes."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("backbone.")}
        checkpoint["network"] = describe_inverse(self.network, self.transform)

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and draw held-out photos, each degraded at the middle level, restored and true."""
        meta = recipe(self.hparams, self.global_step)
        published = save_inverse(run_dir / NETWORK_FILE, self.network, self.transform, meta)
        restorer = Restorer.load(published)
        levels = self.transform.test_levels()
        level = levels[len(levels) // 2]
        rows = []
        photos = self.trainer.datamodule.validation_photos()[:_SHEET_PHOTOS]  # type: ignore[attr-defined]
        # Enlarged, they would be smoother than any that were trained on.
        side = max(_SMALLEST_SHEET_SIDE, min([_LARGEST_SHEET_SIDE, *(min(photo.shape[-2:]) for photo in photos)]))
        for number, photo in enumerate(photos):
            truth = square(photo, side)
            degraded = self.transform(truth, level, sample_rng(self.hparams["seed"], 0, number))
            rows.append([degraded, restorer.undo(degraded, level), truth])
        sheet = run_dir / "contact_sheet.png"
        draw_sheet(rows, [self.transform.describe(level), "restored", "photo"]).save(sheet, optimize=True)
        return {"network": published, "contact sheet": sheet}
