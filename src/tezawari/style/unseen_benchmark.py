"""``evaluate.py benchmark=unseen_styles``: one pass beside training on the style, and beside Gatys."""

from __future__ import annotations

import copy
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from tezawari.core.config import build
from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines
from tezawari.core.schedule import warm_cosine
from tezawari.core.seeding import epoch_order
from tezawari.data.content_style import ContentStyleData
from tezawari.data.sheet import square
from tezawari.data.style_pool import split_styles
from tezawari.features.backbone import Backbone, default_content_layers
from tezawari.style.gatys import paint, recipe
from tezawari.style.loss import PerceptualLoss, PerceptualLosses, StyleTarget, image_target
from tezawari.style.network import ConditionalNetwork
from tezawari.style.style_benchmark import run_config
from tezawari.style.style_pack import StylePack, load_style_pack
from tezawari.style.unseen.package import LoadedUnseen, find_unseen, load_unseen
from tezawari.style.unseen.report import (
    GATYS,
    IDENTITY,
    ONE_PASS,
    TUNED_ALL,
    TUNED_STYLE,
    Measurement,
    Report,
    write_report,
)

_SMALLEST_SIDE = 64
_FIGURED = 6


def benchmark_unseen_styles(
    checkpoint: str | None,
    output_dir: str,
    max_photos: PositiveInt = 4,
    max_styles: PositiveInt = 6,
    image_size: PositiveInt = 192,
    tune_steps: PositiveInt = 60,
    tune_rate: PositiveFloat = 1e-3,
    gatys_pairs: NonNegativeInt = 6,
    gatys_steps: PositiveInt = 100,
    weights: str | None = None,
    seed: NonNegativeInt = 0,
) -> dict[str, Path]:
    """Measure a network of ``model=unseen_style`` on photos and styles that it never saw.

    Every held-out photo's central square is restyled in every held-out style in one pass; by the same network trained
    on that style alone, once only the style's own parameters and once all of them, both starting from the one pass; and
    some by Gatys. The unchanged photo is the control. All are measured by the losses that the network was trained with,
    those of the styles' whole images. Tables and a figure are left in ``output_dir/unseen_styles``.

    Args:
        checkpoint: the folder of a run, or a file in it: the run's data say what was held out.
        output_dir: where ``unseen_styles/`` is made.
        max_photos, max_styles: more are drawn from by ``seed``.
        image_size: side, in pixels, of the photos' central squares, at least 64.
        tune_steps: optimiser steps of training on one style, on the run's training photos.
        tune_rate: peak of their learning rate.
        gatys_pairs: of a photo and a style, to paint by optimisation; 0: none.
        gatys_steps: of each painting.
        weights: a file of the backbone's weights; None for those that it comes with.
        seed: draws photos and styles where there are more.

    Returns:
        name → file: ``results`` (a row a picture), ``summary`` (a row a method), ``table``, ``figure``.

    Raises:
        UserError: no network is named, it is none of this kind, or lies in no run whose data can be found.
    """
    began = time.monotonic()
    if checkpoint is None:
        raise UserError(
            "no network is named: type benchmark.checkpoint=RUN (train one with python train.py model=unseen_style)"
        )
    if image_size < _SMALLEST_SIDE:
        raise UserError(f"benchmark.image_size={image_size}: must be at least {_SMALLEST_SIDE}")
    unseen = load_unseen(Path(checkpoint))
    data, kind = run_data(Path(checkpoint))
    content_layers = tuple(unseen.meta.get("content_layers") or default_content_layers(unseen.backbone_name))
    backbone = unseen.backbone(weights, {*content_layers, *recipe(unseen.backbone_name).layers})
    styles = held_out_styles(unseen, data, backbone, max_styles, image_size, seed)
    photos = held_out_photos(data, max_photos, image_size, seed)
    bench = _Bench(unseen, backbone, content_layers, photos, styles)

    rows = [*bench.identity(), *bench.one_pass(), *bench.tuned(data, tune_steps, tune_rate)]
    report = Report(
        measurements=rows,
        figured=bench.figure(),
        columns=["photo", "style", ONE_PASS, TUNED_STYLE, TUNED_ALL],
        backbone=unseen.backbone_name,
        checkpoint=checkpoint,
        source=f"held out of {kind}",
        tune_steps=tune_steps,
        gatys_steps=gatys_steps,
        image_size=image_size,
        seed=seed,
        wall_seconds=time.monotonic() - began,
    )
    folder = Path(output_dir) / "unseen_styles"
    files = write_report(report, folder)
    if gatys_pairs:  # takes longer than all the rest, which is safe by now
        rows += bench.gatys(gatys_pairs, gatys_steps)
        painted = replace(
            report,
            figured=bench.figure(with_gatys=True),
            columns=[*report.columns, GATYS],
            wall_seconds=time.monotonic() - began,
        )
        files = write_report(painted, folder)
    sys.stdout.write(files["table"].read_text() + "\n")
    return files


# --- photos and styles ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOutStyle:
    """A style that was not trained on: what it asks for, and what painting takes and the figure shows."""

    target: StyleTarget
    source: Tensor | StylePack
    picture: Tensor


def run_data(checkpoint: Path) -> tuple[ContentStyleData, str]:
    """Return the data of the run that a network lies in, not yet read, and what they are called."""
    config = run_config(find_unseen(checkpoint.expanduser()))
    if "data" not in config:
        raise UserError(
            f"{checkpoint} lies in no run, whose config.yaml says what it did not train on: name the folder of the run"
        )
    try:
        data = build(OmegaConf.create(config["data"]))
    except TypeError as error:
        raise UserError(f"the config.yaml of {checkpoint} is of another version ({error}): train again") from error
    return data, type(data).__name__


def held_out_photos(data: ContentStyleData, most: int, image_size: int, seed: int) -> dict[str, Tensor]:
    """Return the central squares ``(3, s, s)`` of the photos that the run held out, by their numbers."""
    found = data.validation_photos()
    chosen = sorted(int(place) for place in epoch_order(seed, 0, len(found))[:most])
    return {f"photo{place}": square(found[place], image_size) for place in chosen}


def held_out_styles(
    unseen: LoadedUnseen, data: ContentStyleData, backbone: Backbone, most: int, image_size: int, seed: int
) -> dict[str, HeldOutStyle]:
    """Return the styles that the run held out, by name."""
    _, names = split_styles(data, float(unseen.meta["held_out_share"]))
    packs = [load_style_pack(path) for path in data.style_packs()]
    sources: dict[str, Tensor | StylePack] = dict(zip(data.style_names, [*data.style_images(), *packs]))
    names += [name for name, source in sources.items() if isinstance(source, StylePack) and name not in names]
    chosen = sorted(int(place) for place in epoch_order(seed, 1, len(names))[:most])
    found = {}
    for name in (names[place] for place in chosen):
        source = sources[name]
        if isinstance(source, StylePack):
            target = source.target(backbone, unseen.network.layers, unseen.style_size)
            found[name] = HeldOutStyle(target, source, source.preview.float() / 255)
            continue
        # The scale of the strokes is part of a style: painting takes a piece of the photos' size, not shrunk.
        height, width = source.shape[-2:]
        side = min(image_size, height, width)
        top, left = (height - side) // 2, (width - side) // 2
        piece = source[:, top : top + side, left : left + side]
        found[name] = HeldOutStyle(image_target(backbone, source, unseen.network.layers), piece, source)
    return found


# --- training on one style --------------------------------------------------------------------------------------------


def tune(
    network: ConditionalNetwork,
    loss: PerceptualLoss,
    batches: Iterator[dict[str, Any]],
    steps: int,
    learning_rate: float,
    weights: tuple[float, float, float],
    all_parameters: bool,
) -> ConditionalNetwork:
    """Train a network of one style on photos for ``steps`` steps and return it, in evaluation mode.

    Args:
        network: of one style; it is changed. Moments that are used after training are not.
        loss: whose only target is the style's.
        batches: of ``image`` (B, 3, s, s), at least ``steps``.
        steps: of Adam, whose rate falls to zero along a cosine.
        learning_rate: its peak.
        weights: of the content loss, of the style loss and of the total variation.
        all_parameters: train all of it, not only what belongs to the style.
    """
    network.requires_grad_(True)
    if not all_parameters:
        network.train_only_styles([0])
    network.eval()
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step, steps))
    for batch in itertools.islice(batches, steps):
        image = batch["image"].contiguous(memory_format=torch.channels_last)
        stylized = network(image, torch.ones(len(image), 1))
        losses = loss(stylized, image, torch.zeros(len(image), dtype=torch.int64))
        optimizer.zero_grad()
        _weighted(losses, weights).mean().backward()
        optimizer.step()
        schedule.step()
    return network.requires_grad_(False)


def _weighted(losses: PerceptualLosses, weights: tuple[float, float, float]) -> Tensor:
    return weights[0] * losses.content + weights[1] * losses.style + weights[2] * losses.total_variation


def training_batches(data: ContentStyleData) -> Iterator[dict[str, Any]]:
    """Yield the run's training batches from their beginning, without end."""
    loader = data.make_train_loader()
    while True:
        yield from loader


# --- the measuring ----------------------------------------------------------------------------------------------------


class _Bench:
    """Makes every method's pictures of the same photos and styles and measures them."""

    def __init__(
        self,
        unseen: LoadedUnseen,
        backbone: Backbone,
        content_layers: Sequence[str],
        photos: dict[str, Tensor],
        styles: dict[str, HeldOutStyle],
    ) -> None:
        self._unseen = unseen
        self._backbone = backbone
        self._photos = photos
        self._styles = styles
        self._losses = {
            name: PerceptualLoss(backbone, [style.target], content_layers) for name, style in styles.items()
        }
        meta = unseen.meta
        self._weights = (float(meta["content_weight"]), float(meta["style_weight"]), float(meta["tv_weight"]))
        self._pictures: dict[tuple[str, str, str], Tensor] = {}
        names = list(photos)
        # All the styles before any of them again, each time with the next photo.
        self._diagonal = [
            (style, names[(place + shift) % len(names)])
            for shift in range(len(names))
            for place, style in enumerate(styles)
        ]

    @torch.no_grad()
    def _measure(
        self, method: str, style: str, photo: str, picture: Tensor, picture_seconds: float, training_seconds: float = 0
    ) -> Measurement:
        losses = self._losses[style](picture[None], self._photos[photo][None], torch.zeros(1, dtype=torch.int64))
        self._pictures[method, style, photo] = picture
        return Measurement(
            method=method,
            style=style,
            photo=photo,
            style_loss=float(losses.style),
            content_loss=float(losses.content),
            total_loss=float(_weighted(losses, self._weights)),
            training_seconds=training_seconds,
            picture_seconds=picture_seconds,
        )

    def identity(self) -> Iterator[Measurement]:
        for style, (name, photo) in itertools.product(self._styles, self._photos.items()):
            yield self._measure(IDENTITY, style, name, photo, 0.0)

    def _network(self, method: str, style: str, network: ConditionalNetwork, trained: float) -> Iterator[Measurement]:
        for name, photo in self._photos.items():
            start = time.perf_counter()
            with torch.inference_mode():
                picture = network(photo[None].contiguous(memory_format=torch.channels_last), torch.ones(1, 1))[0]
            yield self._measure(method, style, name, picture, time.perf_counter() - start, trained)

    def one_pass(self) -> Iterator[Measurement]:
        for name, style in self._styles.items():
            yield from self._network(ONE_PASS, name, self._unseen.network.with_styles([style.target]), 0.0)

    def tuned(self, data: ContentStyleData, steps: int, rate: float) -> Iterator[Measurement]:
        """Train on each style by itself, its own parameters and then all of them, and measure both."""
        progress = progress_lines("training on single styles", "networks")
        for done, (name, style) in enumerate(self._styles.items()):
            start = self._unseen.network.with_styles([style.target])
            for number, method in enumerate((TUNED_STYLE, TUNED_ALL), start=1):
                began = time.perf_counter()
                network = tune(
                    copy.deepcopy(start),
                    self._losses[name],
                    training_batches(data),
                    steps,
                    rate,
                    self._weights,
                    all_parameters=method == TUNED_ALL,
                )
                yield from self._network(method, name, network, time.perf_counter() - began)
                progress(2 * done + number, 2 * len(self._styles))

    def gatys(self, pairs: int, steps: int) -> Iterator[Measurement]:
        """Paint some pairs, each style as often as the others."""
        progress = progress_lines(GATYS, "paintings")
        chosen = self._diagonal[:pairs]
        for done, (style, photo) in enumerate(chosen, start=1):
            image = self._photos[photo]
            began = time.perf_counter()
            painting = paint(
                image, [self._styles[style].source], backbone=self._backbone, steps=steps, max_side=max(image.shape)
            )
            yield self._measure(GATYS, style, photo, painting, time.perf_counter() - began)
            progress(done, len(chosen))

    def figure(self, with_gatys: bool = False) -> list[list[Tensor]]:
        """Return a row a pair: the photo, the style, and what each method made of them, white where it made none."""
        methods = [ONE_PASS, TUNED_STYLE, TUNED_ALL, *([GATYS] if with_gatys else [])]
        rows = []
        for style, photo in self._diagonal[:_FIGURED]:
            made = [self._pictures.get((method, style, photo), torch.ones(3, 8, 8)) for method in methods]
            rows.append([self._photos[photo], self._styles[style].picture, *made])
        return rows
