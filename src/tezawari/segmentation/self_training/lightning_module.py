"""The self-training loop: image labels → saliency masks → a segmenter that teaches itself, easy images first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from tezawari.core.callbacks import leave_if_asked
from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.progress import progress_lines
from tezawari.core.schedule import recipe
from tezawari.core.seeding import epoch_order
from tezawari.core.training import say
from tezawari.data.labelled_image import LabelledImage
from tezawari.segmentation.crf import CrfParameters, require_library
from tezawari.segmentation.lightning_module import (
    batch_confusion,
    labelled_data,
    log_average_precision,
    log_segmentation,
    logistic_loss,
    mask_loss,
    parameter_groups,
    scheduled,
)
from tezawari.segmentation.metrics import confusion_matrix, mean_iou
from tezawari.segmentation.network import Pooling, SaliencyNetwork
from tezawari.segmentation.package import SALIENCY_FILE, SEGMENTER_FILE, describe, load_trained, save_trained
from tezawari.segmentation.pictures import save_rounds_sheet
from tezawari.segmentation.pseudo_masks import (
    PseudoMask,
    by_id,
    calibrate_background,
    from_saliency,
    from_segmenter,
    pseudo_masks,
    view_side,
)
from tezawari.segmentation.saliency import Method
from tezawari.segmentation.segmenter import Segmenter
from tezawari.segmentation.self_training.curriculum import Curriculum, Order, PhaseSamples
from tezawari.segmentation.self_training.stages import (
    ROUNDS_FOLDER,
    Stage,
    adopt_stage,
    mask_path,
    read_stage,
    run_stage,
    stage_key,
)

_HELD_BACK_STREAM = 2**19


class SelfTraining(pl.LightningModule):
    """Train a segmenter from image labels alone, in rounds (METHODS §4).

    The steps of a run are divided equally: one part trains the saliency network (none where a trained one is named),
    every other part is a round. Round r trains on the masks of stage r - 1: stage 0 is saliency + CRF, every later
    stage the segmenter's own prediction under the image's labels + CRF. Masks, ease and figures of every stage stay in
    the run's folder ``rounds``; a stopped run goes on in the middle of a stage.

    The loop ends before its last round when the agreement falls: the mean intersection over union of the segmenter's
    prediction and the pseudo masks of training images that it was not shown. The best round's network is published.

    Args:
        rounds: how many at most.
        saliency: a trained saliency network (a file or a run); None trains one first.
        first_masks: a run that has made stage 0 from the same saliency network and settings: it is copied.
        saliency_pooling: of the one that is trained.
        method: the saliency method of stage 0.
        background: the background's score beside the maps; None chooses it on training images and their labels.
        crf: the parameters of the CRF; None takes masks as they are.
        confidence: pixels whose most probable class is below this are not trained on.
        order: ``easy`` shows easy images first, ``random`` is the control.
        augment: show easy images once more in every pass, at scales that vary more.
        first_share: the share of the images that a round begins with.
        restart: begin every round anew rather than from the round before.
        from_saliency: begin rounds from the saliency network's backbone, which knows the classes already, rather than
            from the pretrained one, which takes many more steps to learn them from masks. [ours]
        held_back: share of the training images that only measure agreement.
        learning_rate: peak of AdamW's learning rate for the pretrained layers.
        head_factor: times that for the layers that start at random.
        weight_decay: of AdamW.
        backbone_name: the network to start from.
        backbone_weights: a file of its weights, or None for those it comes with.
    """

    def __init__(
        self,
        rounds: int = 3,
        saliency: str | None = None,
        first_masks: str | None = None,
        saliency_pooling: Pooling = "average",
        method: Method = "dcsm",
        background: float | None = None,
        crf: dict[str, float] | None = None,
        confidence: float = 0.0,
        order: Order = "easy",
        augment: bool = True,
        first_share: float = 0.5,
        restart: bool = True,
        from_saliency: bool = True,
        held_back: float = 0.1,
        learning_rate: float = 3e-4,
        head_factor: float = 10.0,
        weight_decay: float = 1e-4,
        backbone_name: str = "efficientnet_lite0",
        backbone_weights: str | None = None,
    ) -> None:
        super().__init__()
        if rounds < 1:
            raise UserError(f"model.rounds={rounds}: must be at least 1")
        if not 0 < held_back < 1:
            raise UserError(f"model.held_back={held_back}: must lie between 0 and 1")
        self.save_hyperparameters()
        self.crf = None if crf is None else CrfParameters(**crf)  # type: ignore[arg-type]
        if self.crf is not None:
            require_library()
        self.class_names: list[str] = []
        self.saliency: SaliencyNetwork | None = None
        self.segmenter: Segmenter | None = None
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.confusion: Tensor | None = None
        self._images: list[LabelledImage] = []
        self._held_back: list[LabelledImage] = []

    # --- set-up -------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build both networks and hand the data its curriculum."""
        if self.segmenter is not None:
            return
        data, hparams = labelled_data(self), self.hparams
        if self.trainer.world_size > 1:
            raise UserError("model=stc writes its masks from one process: take trainer.strategy=auto trainer.devices=1")
        self.class_names = list(data.class_names)
        classes = len(self.class_names)
        self.segmenter = self._fresh_segmenter()
        self._saliency_size = data.image_size
        if hparams["saliency"] is None:
            self.saliency = SaliencyNetwork(
                hparams["backbone_name"], classes, hparams["saliency_pooling"], hparams["backbone_weights"]
            )
        else:
            trained = load_trained(Path(hparams["saliency"]), "saliency")
            if trained.class_names != self.class_names:
                raise UserError(
                    f"{hparams['saliency']} knows {', '.join(trained.class_names)}, the data is of "
                    f"{', '.join(self.class_names)}: they must be the same"
                )
            assert isinstance(trained.network, SaliencyNetwork)
            self.saliency, self._saliency_size = trained.network, trained.image_size
            if hparams["from_saliency"] and self.saliency.backbone != hparams["backbone_name"]:
                raise UserError(
                    f"{hparams['saliency']} is a {self.saliency.backbone}: take backbone={self.saliency.backbone}, or "
                    "model.from_saliency=false"
                )
        examples = data.examples("train")
        count = max(1, round(hparams["held_back"] * len(examples)))
        held_back = {int(i) for i in epoch_order(data.seed, _HELD_BACK_STREAM, len(examples))[:count]}
        self._held_back = [image for i, image in enumerate(examples) if i in held_back]
        self._images = [image for i, image in enumerate(examples) if i not in held_back]
        if not self._images:
            raise UserError(f"{len(examples)} training images are too few to hold any back: add some")
        curriculum = Curriculum(hparams["order"], hparams["augment"], hparams["first_share"])
        samples = PhaseSamples(
            self._images, classes, data.image_size, self.phase_steps * data.batch_size, self._supervision, curriculum,
            data.seed,
        )  # fmt: skip
        data.train_on(samples)

    def _fresh_segmenter(self) -> Segmenter:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(labelled_data(self).seed)
            name, weights = self.hparams["backbone_name"], self.hparams["backbone_weights"]
            return Segmenter(name, len(self.class_names), weights)

    @property
    def _first_round_phase(self) -> int:
        return 1 if self.hparams["saliency"] is None else 0

    @property
    def phase_steps(self) -> int:
        """Steps of a phase; raises UserError where the run's steps cannot be divided equally."""
        phases, steps = self.hparams["rounds"] + self._first_round_phase, self.trainer.max_steps
        if steps % phases:
            fitting = max(1, steps // phases) * phases
            raise UserError(f"trainer.max_steps={steps} cannot be divided into {phases} equal parts: take {fitting}")
        return steps // phases

    @property
    def _rounds(self) -> Path:
        return Path(self.trainer.default_root_dir) / ROUNDS_FOLDER

    def _round_of(self, phase: int) -> int:
        return phase - self._first_round_phase + 1

    def _stage_folder(self, number: int) -> Path:
        return self._rounds / f"masks-{number}"

    def _supervision(self, phase: int) -> tuple[list[str], Callable[[str], np.ndarray]] | None:
        number = self._round_of(phase) - 1
        if number < 0:
            return None
        stage = read_stage(self._stage_folder(number))
        if stage is None:
            raise UserError(
                f"{self._stage_folder(number)} is missing: resume the run that made it (resume=RUN), or start a new one"
            )
        held_back = {image.id for image in self._held_back}
        return [image_id for image_id in stage.ranked() if image_id not in held_back], stage.mask

    # --- training -----------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Do what is due before this step: a checkpoint is saved before the stage that follows its step."""
        if self.global_step % self.phase_steps == 0 and self.global_step < self.trainer.max_steps:
            self._begin_phase(self.global_step // self.phase_steps)

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Close a round after its last step, and prepare the next one's masks."""
        if self.global_step % self.phase_steps == 0:
            self._begin_phase(self.global_step // self.phase_steps)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Put the segmenter back to where rounds begin: only now, for validation may have come between."""
        phase, step = divmod(self.global_step, self.phase_steps)
        if step == 0 and (self._round_of(phase) == 1 or (self.hparams["restart"] and self._round_of(phase) > 1)):
            self._restart()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch: logistic ``{image, labels}`` before the rounds, of ``{image, mask}`` in them."""
        assert self.saliency is not None
        assert self.segmenter is not None
        if "mask" in batch:
            loss = mask_loss(self.segmenter(batch["image"]), batch["mask"])
            self.log("train/mask_loss", loss, prog_bar=True)
        else:
            loss = logistic_loss(self.saliency(batch["image"]), batch["labels"])
            self.log("train/label_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over both networks; the learning rates rise and fall once a phase."""
        assert self.saliency is not None
        assert self.segmenter is not None
        networks: list[SaliencyNetwork | Segmenter] = (
            [self.segmenter] if self.hparams["saliency"] else [self.saliency, self.segmenter]
        )
        groups = [g for network in networks for g in parameter_groups(network, self.hparams)]
        return scheduled(self, groups, self.hparams["rounds"] + self._first_round_phase)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the networks are, so that the checkpoint can be used by itself."""
        assert self.saliency is not None
        assert self.segmenter is not None
        checkpoint["networks"] = {
            "saliency": describe(self.saliency, self.class_names, self._saliency_size),
            "segmenter": describe(self.segmenter, self.class_names, labelled_data(self).image_size),
        }

    # --- phases -------------------------------------------------------------------------------------------------------

    def _begin_phase(self, phase: int) -> None:
        """Close the round that has ended, if one has, and make the masks that the next one trains on."""
        round_index = self._round_of(phase)
        if round_index > 1 and self._close_round(round_index - 1):
            self.trainer.should_stop = True
            return
        if round_index < 1 or phase * self.phase_steps >= self.trainer.max_steps:
            return
        with _evaluating(self):
            self._make_masks(round_index - 1)

    def _restart(self) -> None:
        """Put the segmenter back to where every round begins, and forget the optimiser's moments of it."""
        assert self.segmenter is not None
        self.segmenter.load_state_dict(self._fresh_segmenter().state_dict())
        if self.hparams["from_saliency"]:
            assert self.saliency is not None
            self.segmenter.start_from(self.saliency)
        optimizer = self.trainer.optimizers[0]
        for parameter in self.segmenter.parameters():
            optimizer.state.pop(parameter, None)

    def _close_round(self, number: int) -> bool:
        """Keep the round's network and its agreement; return whether the agreement fell."""
        assert self.segmenter is not None
        record = self._rounds / f"round-{number}.json"
        stage = read_stage(self._stage_folder(number - 1))
        assert stage is not None
        if not record.is_file():
            with _evaluating(self):
                agreement = self._agreement(stage)
            save_trained(
                self._rounds / f"round-{number}.safetensors",
                self.segmenter,
                self.class_names,
                labelled_data(self).image_size,
                recipe(self.hparams, self.global_step),
            )
            write_atomically(record, (json.dumps({"round": number, "agreement": agreement}) + "\n").encode())
            say(f"round {number}: agreement on held-back training images {agreement:.3f}")
        # A resumed run may find the records of rounds that it is yet to train again.
        agreements = [figures["agreement"] for figures in self.round_records()[:number]]
        return len(agreements) > 1 and agreements[-1] < agreements[-2]

    def round_records(self) -> list[dict[str, float]]:
        """Return what was measured at the end of every round so far."""
        files = (self._rounds / f"round-{number}.json" for number in range(1, self.hparams["rounds"] + 1))
        return [json.loads(file.read_text()) for file in files if file.is_file()]

    def _agreement(self, stage: Stage) -> float:
        """Return the mean intersection over union of predictions and pseudo masks of held-back training images."""
        assert self.segmenter is not None
        classes = 1 + len(self.class_names)
        counts = torch.zeros(classes, classes, dtype=torch.int64)
        predicted = from_segmenter(self.segmenter, self._held_back, labelled_data(self).image_size)
        for pseudo in pseudo_masks(predicted, None):
            counts += confusion_matrix(torch.from_numpy(pseudo.mask), torch.from_numpy(stage.mask(pseudo.id)), classes)
        return float(mean_iou(counts))

    def _make_masks(self, number: int) -> Stage:
        """Make stage ``number``: masks of all training images, those held back included."""
        assert self.saliency is not None
        assert self.segmenter is not None
        images = self._images + self._held_back
        hparams = self.hparams
        seen_at = view_side(self._saliency_size) if number == 0 else labelled_data(self).image_size
        values = {
            "stage": number,
            "seen_at": seen_at,
            "method": hparams["method"],
            "background": hparams["background"],
            "crf": None if self.crf is None else asdict(self.crf),
            "confidence": hparams["confidence"],
            "images": sorted(image.id for image in images),
        }
        folder = self._stage_folder(number)
        key = stage_key(values, [self.saliency if number == 0 else self.segmenter])
        if number == 0 and hparams["first_masks"] and read_stage(folder) is None:
            adopt_stage(Path(hparams["first_masks"]) / ROUNDS_FOLDER / folder.name, folder, key)
        if read_stage(folder) is None:
            say(f"masks {number}: {'saliency' if number == 0 else 'the segmenter'} on {len(images)} training images")
        figures: dict[str, float] = {}
        if number > 0:
            segmenter = self.segmenter
            make = self._masked(lambda chosen: from_segmenter(segmenter, chosen, seen_at))
        else:
            saliency, method = self.saliency, hparams["method"]
            background = hparams["background"]
            if background is None and read_stage(folder) is None:
                background, figures = calibrate_background(
                    saliency, self._images, seen_at, method, labelled_data(self).seed
                )
                say(f"background score {background:g}, chosen on training images and their labels")
            chosen_background = float(background or 0.0)
            make = self._masked(lambda chosen: from_saliency(saliency, chosen, seen_at, method, chosen_background))
            figures = {"background": chosen_background, **figures}

        def measured(ease: Mapping[str, float]) -> dict[str, float]:
            return {**figures, "mean_ease": float(np.mean(list(ease.values())))}

        lines = progress_lines(f"masks {number}", "images", seconds=10.0)

        def progress(done: int, count: int) -> None:
            lines(done, count)
            leave_if_asked(self.trainer)

        return run_stage(folder, key, [image.id for image in images], by_id(make, images), measured, progress)

    def _masked(self, candidates: Callable[..., Any]) -> Callable[..., Iterator[PseudoMask]]:
        return lambda chosen: pseudo_masks(candidates(chosen), self.crf, self.hparams["confidence"])

    # --- validation ---------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to gather."""
        self.confusion, self.seen = None, []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure what is being trained on held-out images: labels before the rounds, pixels in them."""
        assert self.saliency is not None
        assert self.segmenter is not None
        if self._round_of((self.global_step - 1) // self.phase_steps) < 1:
            self.seen.append((self.saliency(batch["image"]).sigmoid(), batch["labels"]))
        elif "mask" in batch:
            counts = batch_confusion(self.segmenter, batch, len(self.class_names))
            self.confusion = counts if self.confusion is None else self.confusion + counts

    def on_validation_epoch_end(self) -> None:
        """Log average precision, or intersection over union where there are masks to measure it by."""
        if self.confusion is not None:
            log_segmentation(self, self.confusion, self.class_names)
        if self.seen:
            log_average_precision(self, self.seen, self.class_names)

    # --- results ------------------------------------------------------------------------------------------------------

    def summarise_run(self, run_dir: Path) -> dict[str, Path]:
        """Publish the saliency network and the best round's segmenter, and draw the masks of every stage."""
        assert self.saliency is not None
        records = self.round_records()
        best = int(max(records, key=lambda record: record["agreement"])["round"])
        published = run_dir / SEGMENTER_FILE
        shutil.copyfile(self._rounds / f"round-{best}.safetensors", published)
        network = self.saliency.eval()
        meta = recipe(self.hparams, self.global_step)
        saliency = save_trained(run_dir / SALIENCY_FILE, network, self.class_names, self._saliency_size, meta)
        say(f"round {best} of {len(records)} agrees best with images it was not shown: published")
        stages = [stage for n in range(len(records)) if (stage := read_stage(self._stage_folder(n))) is not None]
        shown = [image for image in self._images[:6] if mask_path(stages[0].folder, image.id).is_file()]
        sheet = save_rounds_sheet(run_dir / "rounds.png", shown, stages, self.class_names)
        return {"network": published, "saliency": saliency, "rounds": self._rounds, "masks": sheet}


class _evaluating:
    """Within the block the module is in evaluation mode and nothing is differentiated but what asks for it."""

    def __init__(self, module: pl.LightningModule) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.was_training = self.module.training
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        self.module.train(self.was_training)
