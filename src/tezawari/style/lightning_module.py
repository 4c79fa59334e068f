"""Training of the conditional multi-style network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.schedule import recipe, warm_cosine
from tezawari.features.backbone import default_content_layers, default_style_layers, load_backbone
from tezawari.style.contact_sheet import save_contact_sheet
from tezawari.style.inference import DeployedNetwork
from tezawari.style.loss import PerceptualLoss, PerceptualLosses, grid_pattern, image_target
from tezawari.style.network import ConditionalNetwork, Fusion, Net, Norm, build_network, settle
from tezawari.style.package import NETWORK_FILE, describe_network, load_network, save_network
from tezawari.style.style_pack import load_style_pack


class MultiStyle(pl.LightningModule):
    """Train one network for all the styles of the data, one random style a sample.

    Args:
        net: ``swift``, ``deepstylecam`` (METHODS §6) or ``johnson``, see
            :class:`tezawari.style.network.ConditionalNetwork`.
        fusion: how the style conditions the network, ``concat`` or ``cin``.
        norm: ``settled``, ``instance`` or ``batch``: see :class:`tezawari.style.network.Normalization`.
        content_weight: weight of the content loss, relative to the photo's own features.
        style_weight: weight of the style loss, relative to the style's own Gram matrices.
        tv_weight: weight of the total variation.
        grid_weight: weight of :func:`tezawari.style.loss.grid_pattern` at the network's stride; 0 leaves it out.
        border_weight: weight of :meth:`_seen_within`, which keeps a network from serving a style by a strip along the
            edges of the picture; 0 leaves it out.
        per_style_weights: style name → factor on that style's loss; 1 where not named.
        reconstruction_steps: first steps, in which the network only learns to give the photo back, whatever style is
            asked. They need no loss network, so they cost next to nothing, and spare it the steps in which a fresh
            decoder draws checkerboards. They are a quarter of all steps at most, so that a short run is given styles
            too; a trained network that goes on has none. [ours]
        imitate: a trained network of the same styles, whose pictures those first steps, here as many as asked, copy
            instead of the photo: how a faster network learns in minutes most of what a larger one took hours for
            (Hinton et al., 2015). [ours]
        style_ramp: share of all steps over which the style weight rises from 0 to its value; 0 is all of it at once. A
            deep loss network pulls so hard towards style that a young network gives the photo up.
        learning_rate: peak of Adam's learning rate; it falls to zero along a cosine.
        style_rate: times the learning rate, for what belongs to one style alone: a sample trains one style of many, and
            Adam moves a parameter by its learning rate whatever its gradient, so that styles part slowly. [ours]
        styles_per_photo: in how many styles each photo of a batch is asked in a training step: what the loss network
            sees in the photo is then computed once for all of them. [ours]
        frozen_moments: share of the steps, at the end, that train under the running moments that are used after
            training (``batch`` and ``settled``); the network then is trained as it is used.
        backbone_name: the loss network.
        backbone_weights: a file of its weights, or None for those it comes with.
        style_layers: layers of the style loss; None for the backbone's usual ones.
        content_layers: layers of the content loss; None for the backbone's usual ones.
        start_from: a trained network of the same styles to go on from, of the same ``net`` and ``fusion``, and ``norm``
            but for a change from ``batch`` to ``settled``.
        add_styles_to: a trained network to start from; the data's styles, all new, are added and only they train.
    """

    style_factors: Tensor
    style_average: Tensor

    def __init__(
        self,
        net: Net = "swift",
        fusion: Fusion = "concat",
        norm: Norm = "settled",
        content_weight: float = 1.5,
        style_weight: float = 5.0,
        tv_weight: float = 1.0,
        grid_weight: float = 100.0,
        border_weight: float = 0.0,
        per_style_weights: dict[str, float] | None = None,
        reconstruction_steps: int = 250,
        imitate: str | None = None,
        style_ramp: float = 0.0,
        learning_rate: float = 3e-3,
        style_rate: float = 5.0,
        styles_per_photo: int = 1,
        frozen_moments: float = 0.25,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
        style_layers: list[str] | None = None,
        content_layers: list[str] | None = None,
        start_from: str | None = None,
        add_styles_to: str | None = None,
    ) -> None:
        super().__init__()
        if fusion == "cin" and norm == "batch":
            raise UserError("model.fusion=cin conditions instance moments: add model.norm=settled (or instance)")
        self.save_hyperparameters()
        self.strict_loading = False  # the loss network's weights are not in the checkpoint: see on_save_checkpoint
        self.style_names: list[str] = []
        self.first_row = 0
        self.network: ConditionalNetwork | None = None
        self.teacher: DeployedNetwork | None = None
        self.loss: PerceptualLoss | None = None

    def setup(self, stage: str) -> None:
        """Build the network and the style targets; how many styles there are is the data's to say."""
        if self.network is not None:
            return
        data, hparams = self.trainer.datamodule, self.hparams  # type: ignore[attr-defined]
        names = list(data.style_names)
        self.network = self._build_network(names)
        self.teacher = self._load_teacher(names)
        factors = hparams["per_style_weights"] or {}
        unknown = set(factors) - set(names)
        if unknown:
            raise UserError(f"model.per_style_weights names {sorted(unknown)[0]}{did_you_mean(min(unknown), names)}")
        needed = 2 * self._margin() + 16
        if hparams["border_weight"] and data.image_size < needed:
            raise UserError(f"data.image_size={data.image_size}: model.border_weight needs {needed} or more")
        self.register_buffer("style_factors", torch.tensor([float(factors.get(name, 1)) for name in names]))
        self.register_buffer("style_average", torch.full((len(names),), torch.nan))
        layers = tuple(hparams["style_layers"] or default_style_layers(hparams["backbone_name"]))
        content = tuple(hparams["content_layers"] or default_content_layers(hparams["backbone_name"]))
        backbone = load_backbone(
            hparams["backbone_name"], tuple(dict.fromkeys(layers + content)), hparams["backbone_weights"]
        )
        targets = [image_target(backbone, image, layers) for image in data.style_images()]
        for pack in map(load_style_pack, data.style_packs()):
            pack.warn_of_other_side(data.style_size)
            targets.append(pack.target(backbone, layers, data.style_size))
        self.loss = PerceptualLoss(backbone, targets, content)

    def _build_network(self, names: list[str]) -> ConditionalNetwork:
        hparams = self.hparams
        self.style_names = names
        if hparams["start_from"] is not None:
            return self._start(names)
        if hparams["add_styles_to"] is None:
            return build_network(hparams["net"], len(names), hparams["fusion"], hparams["norm"])
        trained = load_network(Path(hparams["add_styles_to"]))
        known = [name for name in names if name in trained.style_names]
        if known:
            raise UserError(
                f"{hparams['add_styles_to']} already knows {', '.join(known)}: leave only new styles in the data"
            )
        self.first_row = len(trained.style_names)
        self.style_names = [*trained.style_names, *names]
        trained.network.add_styles(len(names))
        trained.network.train_only_styles(range(self.first_row, len(self.style_names)))
        return trained.network

    def _load_same_styles(self, name: str, names: list[str]) -> ConditionalNetwork:
        trained = load_network(Path(self.hparams[name]))
        if trained.style_names != names:
            raise UserError(
                f"model.{name}={self.hparams[name]} knows {', '.join(trained.style_names)}, but the data have "
                f"{', '.join(names)}: name the same styles, or add some by model.add_styles_to"
            )
        return trained.network

    def _load_teacher(self, names: list[str]) -> DeployedNetwork | None:
        if self.hparams["imitate"] is None:
            return None
        for other in ("start_from", "add_styles_to"):
            if self.hparams[other] is not None:
                raise UserError(f"model.imitate is for a fresh network: leave it or model.{other} out")
        network = self._load_same_styles("imitate", names)
        if network.norm == "instance":
            raise UserError(f"model.imitate={self.hparams['imitate']}: a network with norm=instance cannot be imitated")
        return DeployedNetwork(network)

    def _start(self, names: list[str]) -> ConditionalNetwork:
        hparams, network = self.hparams, self._load_same_styles("start_from", names)
        if network.norm == "batch" and hparams["norm"] == "settled":
            network = settle(network)
        for kind in ("net", "fusion", "norm"):
            if getattr(network, kind) != hparams[kind]:
                raise UserError(
                    f"model.start_from={hparams['start_from']} has {kind}={getattr(network, kind)}, "
                    f"but model.{kind}={hparams[kind]}: add model.{kind}={getattr(network, kind)}"
                )
        return network

    def compile_network(self) -> None:
        """Compile the network's forward and backward; the first step then takes a minute or so."""
        assert self.network is not None
        self.network.compile()

    def forward(self, content_image: Tensor, style: Tensor) -> Tensor:
        """Restyle ``(B, 3, H, W)`` photos in [0, 1] in the data's styles ``(B,)``; returns the same shape and range."""
        assert self.network is not None
        weights = one_hot(style + self.first_row, len(self.style_names))
        return self.network(content_image.contiguous(memory_format=torch.channels_last), weights.to(content_image))

    def _losses(self, content_image: Tensor, style: Tensor) -> tuple[PerceptualLosses, dict[str, Tensor]]:
        """Return the losses of photos ``(B / k, 3, H, W)``, each in k styles in turn, and ours by name, ``(B,)``."""
        assert self.loss is not None
        assert self.network is not None
        photos = content_image.repeat_interleave(len(style) // len(content_image), 0)
        stylized, more = self(photos, style), {}
        if self.training and self.hparams["border_weight"]:
            stylized, more["border"] = self._seen_within(photos, stylized, style)
            content_image = _within(content_image, self._margin())
        if self.hparams["grid_weight"]:
            more["grid"] = grid_pattern(stylized, self.network.bottleneck_stride)
        return self.loss(stylized, content_image, style), more

    def _margin(self) -> int:
        assert self.network is not None
        return 2 * self.network.bottleneck_stride

    def _seen_within(self, photos: Tensor, stylized: Tensor, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pictures without a margin, and how far the picture of a crop is from the crop of the picture.

        A network knows from the padding where a picture ends, and a style that asks for some yellow is served most
        cheaply by a strip of it there. The loss network does not see the margin, so nothing is gained there; what the
        network draws at the edges of the crop is to be what it drew when the photo went on: mean squares ``(B,)``.
        """
        seen = _within(stylized, self._margin())
        of_crop = self(_within(photos, self._margin()), style)
        return seen, (of_crop - seen.detach()).square().mean((1, 2, 3))

    def _several(self, style: Tensor) -> Tensor:
        """Return each photo's styles in turn, ``(B · styles_per_photo,)``: the drawn one and some further on.

        How far changes from step to step, so that no two styles are always seen together.
        """
        styles, further = len(self.style_average), torch.arange(self.hparams["styles_per_photo"], device=style.device)
        distance = 1 + self.global_step % max(1, styles - 1)
        return ((style[:, None] + distance * further) % styles).flatten()

    def _total(
        self, losses: PerceptualLosses, more: dict[str, Tensor], style: Tensor, style_share: float = 1.0
    ) -> Tensor:
        hparams = self.hparams
        styled = losses.style * self.style_factors[style] * style_share
        total = hparams["content_weight"] * losses.content + hparams["style_weight"] * styled
        total = total + hparams["tv_weight"] * losses.total_variation
        return (total + sum(hparams[f"{name}_weight"] * loss for name, loss in more.items())).mean()

    def _style_share(self) -> float:
        """Return the share of the style weight that counts at this step."""
        rise = self.hparams["style_ramp"] * self.trainer.estimated_stepping_batches
        return min(1.0, self.global_step / rise) if rise else 1.0

    def _first_steps(self) -> int:
        """Return how many steps give back the photo or another network's picture."""
        if self.hparams["start_from"] is not None or self.hparams["add_styles_to"] is not None:
            return 0
        asked = int(self.hparams["reconstruction_steps"])
        return asked if self.teacher is not None else min(asked, int(self.trainer.estimated_stepping_batches) // 4)

    def _copied_steps(self) -> int:
        """Return how many steps copy another network."""
        return 0 if self.teacher is None else self._first_steps()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Train the last steps under the moments that the network is used with afterwards.

        After copying another network, Adam starts anew: gradients of the perceptual loss are many times as large, and
        divided by the size of those before they would throw the network back.
        """
        assert self.network is not None
        if self.global_step == self._copied_steps():
            self.trainer.optimizers[0].state.clear()
        steps = self.trainer.estimated_stepping_batches
        late = self.global_step >= (1 - self.hparams["frozen_moments"]) * steps
        if late or self.hparams["add_styles_to"] is not None:
            self.network.freeze_moments()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the weighted loss of a batch ``{image, style}`` and log its parts, and each style's running loss."""
        style = self._several(batch["style"])
        if self.global_step < self._first_steps():
            photos = batch["image"].repeat_interleave(self.hparams["styles_per_photo"], 0)
            error = mse_loss(self(photos, style), self._example(photos, style))
            self.log("train/reconstruction_loss", error, prog_bar=True)
            return error
        losses, more = self._losses(batch["image"], style)
        total = self._total(losses, more, style, self._style_share())
        self.log("train/loss", total, prog_bar=True)
        self._log_parts("train", losses, more)
        self._update_style_average(losses.style.detach(), style)
        self.log_dict(
            {f"train/style/{name}": self.style_average[i] for i, name in enumerate(self.style_names[self.first_row :])}
        )
        return total

    @torch.no_grad()
    def _example(self, content_image: Tensor, style: Tensor) -> Tensor:
        """Return what the first steps are to give: the photo, or what the imitated network makes of it."""
        if self.teacher is None:
            return content_image
        return self.teacher(content_image, one_hot(style, self.teacher.num_styles).to(content_image))

    def _update_style_average(self, style_losses: Tensor, style: Tensor) -> None:
        for index, loss in zip(style.tolist(), style_losses.unbind()):
            before = self.style_average[index]
            self.style_average[index] = loss if before.isnan() else 0.9 * before + 0.1 * loss

    def _log_parts(self, stage: str, losses: PerceptualLosses, more: dict[str, Tensor]) -> None:
        means = {"content_loss": losses.content, "style_loss": losses.style, "tv_loss": losses.total_variation}
        means |= {f"{name}_loss": loss for name, loss in more.items()}
        self.log_dict({f"{stage}/{name}": value.mean() for name, value in means.items()}, batch_size=len(losses.style))

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses on photos that are not trained on."""
        losses, more = self._losses(batch["image"], batch["style"])
        total = self._total(losses, more, batch["style"])
        self.log("val/loss", total, batch_size=len(batch["style"]), prog_bar=True)
        self._log_parts("val", losses, more)

    def configure_optimizers(self) -> Any:
        """Adam whose learning rate rises over the first 2 % of the steps and falls to zero along a cosine.

        Steps that copy another network, and those after them, have such a course each.
        """
        assert self.network is not None
        styles = [p for index in range(self.network.num_styles) for p in self.network.style_parameters(index)]
        own, rate = set(styles), self.hparams["learning_rate"]
        shared = [p for p in self.network.parameters() if p.requires_grad and p not in own]
        groups = [
            {"params": shared, "lr": rate},
            {"params": [p for p in styles if p.requires_grad], "lr": rate * self.hparams["style_rate"]},
        ]
        optimizer = torch.optim.Adam([group for group in groups if group["params"]])
        copied, steps = self._copied_steps(), int(self.trainer.estimated_stepping_batches)

        def course(step: int) -> float:
            return warm_cosine(step, copied) if step < copied else warm_cosine(step - copied, max(1, steps - copied))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, course)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is frozen out of the checkpoint, and name what the network's styles are."""
        frozen = ("loss.", "teacher.")
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith(frozen)}
        assert self.network is not None
        checkpoint["network"] = describe_network(self.network, self.style_names)

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the network and draw the contact sheet: rows are held-out photos, columns styles and one mix."""
        assert self.network is not None
        published = save_network(
            run_dir / NETWORK_FILE, self.network, self.style_names, recipe(self.hparams, self.global_step)
        )
        trained = load_network(published)
        photos = self.trainer.datamodule.validation_photos()  # type: ignore[attr-defined]
        sheet = save_contact_sheet(run_dir / "contact_sheet.png", trained, photos[:6])
        return {"network": published, "contact sheet": sheet}


def _within(image: Tensor, margin: int) -> Tensor:
    """Return ``(…, H, W)`` without a margin on each side."""
    return image[..., margin:-margin, margin:-margin]
