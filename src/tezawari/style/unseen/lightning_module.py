"""Training of the network for unseen styles, from statistics to picture, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from tezawari.core.errors import UserError
from tezawari.core.schedule import recipe, warm_cosine
from tezawari.core.seeding import sample_rng
from tezawari.data.content_style import ContentStyleData
from tezawari.data.style_pool import random_style, split_styles
from tezawari.features.backbone import Backbone, default_content_layers, default_style_layers, load_backbone
from tezawari.style.contact_sheet import save_contact_sheet
from tezawari.style.loss import PerceptualLoss, PerceptualLosses, StyleTarget, image_target, style_targets
from tezawari.style.network import Fusion, Net
from tezawari.style.package import LoadedNetwork
from tezawari.style.style_pack import load_style_pack, weights_digest
from tezawari.style.unseen.model import UnseenStyleNetwork, mean_grams
from tezawari.style.unseen.package import NETWORK_FILE, describe_unseen, load_unseen, save_unseen

_SHEET_PHOTOS, _SHEET_STYLES = 4, 8
# Adam's first steps all go one way: over the thousands of statistics that a hidden unit sums they would saturate it.
_FIRST_LAYER_SHARE = 0.03


class UnseenStyle(pl.LightningModule):
    """Train a network on many styles so that it restyles in others, one random style a sample.

    Each sample's style is a random crop of a picture of the pool, perhaps in other colours; its Gram matrices are both
    what the network is told and what the loss compares with. Crops are a function of the seed and of the sample's place
    in the run alone, so that a resumed run draws what the undisturbed one would have. Style packs of the data are held
    out, since they hold nothing to crop.

    Args:
        net: ``deepstylecam`` or ``johnson``.
        fusion: how the condition enters, ``cin`` or ``concat``.
        embedding: numbers that a style becomes.
        hidden: units between a style's statistics and its embedding.
        projected: directions that each style layer's channels are projected onto.
        content_weight: weight of the content loss, relative to the photo's own features.
        style_weight: weight of the style loss, relative to the style's own Gram matrices.
        tv_weight: weight of the total variation.
        recolor: share of the samples whose style gets other colours.
        held_out_share: of the styles, where the data do not say which are held out.
        reconstruction_steps: first steps, in which the network only learns to give the photo back. [ours]
        learning_rate: peak of Adam's learning rate; it falls to zero along a cosine.
        seed: of the styles and their crops.
        backbone_name: the loss network, which also describes styles.
        backbone_weights: a file of its weights, or None for those it comes with.
        style_layers: layers of the style loss; None for the backbone's usual ones.
        content_layers: layers of the content loss; None for the backbone's usual ones.
    """

    def __init__(
        self,
        net: Net = "deepstylecam",
        fusion: Fusion = "cin",
        embedding: int = 32,
        hidden: int = 128,
        projected: int = 16,
        content_weight: float = 2.0,
        style_weight: float = 5.0,
        tv_weight: float = 1.0,
        recolor: float = 0.5,
        held_out_share: float = 0.1,
        reconstruction_steps: int = 100,
        learning_rate: float = 3e-3,
        seed: int = 0,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
        style_layers: list[str] | None = None,
        content_layers: list[str] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("embedding", embedding), ("hidden", hidden), ("projected", projected)):
            if value < 1:
                raise UserError(f"model.{name}={value}: must be at least 1")
        if not 0 <= recolor <= 1:
            raise UserError(f"model.recolor={recolor:g}: must lie between 0 and 1")
        self.save_hyperparameters()
        self.strict_loading = False  # the loss network's weights are not in the checkpoint: see on_save_checkpoint
        self.network: UnseenStyleNetwork | None = None
        self.backbone: Backbone | None = None
        self.content_layers: tuple[str, ...] = ()
        self.pool: list[Tensor] = []
        self.held_out: dict[int, Tensor | Path] = {}
        self.description: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Load the loss network, build the network and standardise styles over the pool."""
        if self.network is not None:
            return
        data, hparams = self.trainer.datamodule, self.hparams  # type: ignore[attr-defined]
        if not isinstance(data, ContentStyleData):
            raise UserError(
                f"model=unseen_style learns from photos and styles, which {type(data).__name__} does not give: "
                "take data=style_pool or data=images"
            )
        layers = tuple(hparams["style_layers"] or default_style_layers(hparams["backbone_name"]))
        self.content_layers = tuple(hparams["content_layers"] or default_content_layers(hparams["backbone_name"]))
        asked = tuple(dict.fromkeys(layers + self.content_layers))
        self.backbone = load_backbone(hparams["backbone_name"], asked, hparams["backbone_weights"])
        self._choose_styles(data)
        channels = {layer: self.backbone.channels[layer] for layer in layers}
        self.network = UnseenStyleNetwork(
            channels,
            hparams["net"],
            hparams["fusion"],
            hparams["embedding"],
            hparams["hidden"],
            hparams["projected"],
        )
        self.description = describe_unseen(
            self.network, self.backbone.name, weights_digest(self.backbone), data.style_size
        )
        crops = [
            random_style(image, sample_rng(hparams["seed"], 0, place), data.image_size, hparams["recolor"])
            for place, image in enumerate(self.pool)
        ]
        # One at a time: the Gram matrices of hundreds would take gigabytes.
        measured = [self.network.statistics.measure(self._grams([crop])) for crop in crops]
        self.network.statistics.fit(torch.cat(measured))

    def _choose_styles(self, data: ContentStyleData) -> None:
        """Keep the styles to train on, and those held out by their places; whole packs are held out."""
        _, held_out = split_styles(data, self.hparams["held_out_share"])
        sources: list[Tensor | Path] = [*data.style_images(), *data.style_packs()]
        for place, (name, source) in enumerate(zip(data.style_names, sources)):
            if name in held_out or isinstance(source, Path):
                self.held_out[place] = source
            else:
                self.pool.append(source.mul(255).round_().to(torch.uint8))
        if not self.pool:
            raise UserError("the data hold no style image to train on: add pictures to data.style_dir")

    def _grams(self, styles: list[Tensor]) -> dict[str, Tensor]:
        assert self.backbone is not None
        return style_targets(self.backbone, styles, self._layers)

    @property
    def _layers(self) -> tuple[str, ...]:
        return tuple(self.hparams["style_layers"] or default_style_layers(self.hparams["backbone_name"]))

    def compile_network(self) -> None:
        """Compile the network's forward and backward; the first step then takes a minute or so."""
        assert self.network is not None
        self.network.network.compile()

    def forward(self, content_image: Tensor, grams: dict[str, Tensor]) -> Tensor:
        """Restyle ``(B, 3, H, W)`` photos in [0, 1], each as its Gram matrices ask; same shape and range."""
        assert self.network is not None
        return self.network(content_image, grams)

    def _losses(self, image: Tensor, grams: dict[str, Tensor]) -> PerceptualLosses:
        assert self.backbone is not None
        loss = PerceptualLoss(self.backbone, grams, self.content_layers).to(image.device)
        return loss(self(image, grams), image, torch.arange(len(image), device=image.device))

    def _total(self, losses: PerceptualLosses) -> Tensor:
        hparams = self.hparams
        total = hparams["content_weight"] * losses.content + hparams["style_weight"] * losses.style
        return (total + hparams["tv_weight"] * losses.total_variation).mean()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the weighted loss of a batch ``{image, …}``, each photo with a style drawn anew, and log its parts."""
        image = batch["image"]
        # A step sees each place of its batch once in a run, over all processes, so both name the sample.
        first = self.global_rank * len(image)
        rngs = [sample_rng(self.hparams["seed"], self.global_step, first + place) for place in range(len(image))]
        styles = [self.pool[int(rng.integers(len(self.pool)))] for rng in rngs]
        side, recolor = image.shape[-1], self.hparams["recolor"]
        grams = self._grams([random_style(style, rng, side, recolor).to(image) for style, rng in zip(styles, rngs)])
        if self.global_step < self.hparams["reconstruction_steps"]:
            error = mse_loss(self(image, grams), image)
            self.log("train/reconstruction_loss", error, prog_bar=True)
            return error
        losses = self._losses(image, grams)
        total = self._total(losses)
        self.log("train/loss", total, prog_bar=True)
        self._log_parts("train", losses)
        return total

    def _log_parts(self, stage: str, losses: PerceptualLosses) -> None:
        means = {"content_loss": losses.content, "style_loss": losses.style, "tv_loss": losses.total_variation}
        self.log_dict({f"{stage}/{name}": value.mean() for name, value in means.items()}, batch_size=len(losses.style))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses on held-out photos in the styles, whole, that are not trained on."""
        for image, style in zip(batch["image"], batch["style"].tolist()):
            if style in self.held_out:
                grams = mean_grams(self._held_out_target(style))
                losses = self._losses(image[None], {layer: gram.to(image) for layer, gram in grams.items()})
                self.log("val/loss", self._total(losses), batch_size=1, prog_bar=True)
                self._log_parts("val", losses)

    def _held_out_target(self, style: int) -> StyleTarget:
        assert self.backbone is not None
        source = self.held_out[style]
        if isinstance(source, Path):
            return load_style_pack(source).target(self.backbone, self._layers, self.description["style_size"])
        return image_target(self.backbone, source.to(self.device), self._layers)

    def configure_optimizers(self) -> Any:
        """Adam whose learning rate rises over the first 2 % of the steps and falls to zero along a cosine.

        The layer that reads the statistics has three hundredths of it. [ours]
        """
        assert self.network is not None
        rate, first = self.hparams["learning_rate"], list(self.network.embed[0].parameters())
        others = [p for name, p in self.network.named_parameters() if not name.startswith("embed.0.")]
        groups = [{"params": others, "lr": rate}, {"params": first, "lr": _FIRST_LAYER_SHARE * rate}]
        optimizer = torch.optim.Adam(groups)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the frozen loss network out of the checkpoint, and say how the network sees styles."""
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("backbone.")}
        checkpoint["network"] = self.description

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and draw held-out photos in held-out styles, which are the sheet's first row."""
        assert self.network is not None
        meta = recipe(self.hparams, self.global_step)
        published = save_unseen(run_dir / NETWORK_FILE, self.network, self.description, meta)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        places = list(self.held_out)[:_SHEET_STYLES]
        styled = load_unseen(published).network.with_styles([self._held_out_target(place) for place in places])
        pictures = [source for source in (self.held_out[place] for place in places) if isinstance(source, Tensor)]
        sheet = save_contact_sheet(
            run_dir / "contact_sheet.png",
            LoadedNetwork(styled, [data.style_names[place] for place in places], meta),
            data.validation_photos()[:_SHEET_PHOTOS],
            pictures,
            side=160,
        )
        return {"network": published, "contact sheet": sheet}
