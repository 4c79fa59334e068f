"""What is timed: ways to train and to restyle, ours and the textbook's, each a function that does it once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tezawari.core.machine import keep_freed_memory, return_large_blocks
from tezawari.export.onnx import load_onnxruntime, load_openvino
from tezawari.features.backbone import default_content_layers, default_style_layers, load_backbone
from tezawari.features.weights import RANDOM, log
from tezawari.style.inference import DeployedNetwork
from tezawari.style.loss import PerceptualLoss, style_targets
from tezawari.style.network import ConditionalNetwork, Net, Norm, build_network
from tezawari.style.package import load_network
from tezawari.style.textbook import TextbookLoss, TextbookNetwork, Upsampling

LOSS_NETWORK = "vgg16"
_STYLES = 8
# The weights of content, style and total variation in training, which are those of conf/model/multistyle.yaml.
_LOSS_WEIGHTS = (2.0, 5.0, 1.0)
_STYLE_SIDE = 64
_EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

# How each network is trained in conf/ and experiments/.
TRAINED_NORM: dict[Net, Norm] = {"deepstylecam": "batch", "swift": "settled"}

Step = Callable[[], Tensor]
"""Does the work once; returns what it made, or a training step's loss."""


@dataclass(frozen=True)
class TrainingCandidate:
    """A way to train: the textbook's network with this ``upsampling``, or ours of this ``net``, under which loss.

    ``keep_memory`` is ours: the textbook runs as PyTorch does by itself, which gives large blocks back. Of
    ``styles_per_photo`` pictures that a photo gives, the loss network looks at the photo once.
    """

    name: str
    net: Net = "deepstylecam"
    upsampling: Upsampling | None = None
    fast_loss: bool = True
    styles_per_photo: int = 1
    bf16: bool = False
    compiled: bool = False
    keep_memory: bool = True


TRAINING = (
    TrainingCandidate("textbook, transposed", upsampling="transposed", fast_loss=False, keep_memory=False),
    TrainingCandidate("textbook, resize", upsampling="resize", fast_loss=False, keep_memory=False),
    TrainingCandidate("textbook, transposed, memory kept", upsampling="transposed", fast_loss=False),
    TrainingCandidate("deepstylecam, plain loss", fast_loss=False),
    TrainingCandidate("deepstylecam"),
    TrainingCandidate("deepstylecam, compiled", compiled=True),
    TrainingCandidate("deepstylecam, bf16", bf16=True),
    TrainingCandidate("deepstylecam, bf16, compiled", bf16=True, compiled=True),
    TrainingCandidate("swift", "swift"),
    TrainingCandidate("swift, two styles a photo", "swift", styles_per_photo=2),
    TrainingCandidate("swift, two styles a photo, bf16", "swift", styles_per_photo=2, bf16=True),
)


def as_run(step: Step, keep_memory: bool) -> Step:
    """Return ``step`` with memory treated as its candidate's users have it."""
    if keep_memory:
        return step

    def run() -> Tensor:
        return_large_blocks()
        try:
            return step()
        finally:
            keep_freed_memory()

    return run


def training_step(candidate: TrainingCandidate, size: int, batch_size: int, weights: str, device: str = "cpu") -> Step:
    """Return the whole training step of ``candidate``: forward, loss, backward and Adam; it returns the loss.

    The batch of ``batch_size`` pictures is the same at every step, and made up: its values change nothing about the
    time. ``weights`` are VGG16's, a file or ``random``. On the device ``meta`` nothing is computed, and the loss is the
    plain one: for counting.
    """
    torch.manual_seed(0)
    repeats = candidate.styles_per_photo
    images = torch.rand(batch_size // repeats, 3, size, size, device=device)
    style = torch.zeros(batch_size, dtype=torch.long, device=device)
    loss = _loss(candidate, weights, fast=candidate.fast_loss and device != "meta").to(device)
    network: nn.Module
    arguments: tuple[Tensor, ...]
    if candidate.upsampling is not None:
        network, arguments = TextbookNetwork(candidate.upsampling).to(device), (images,)
    else:
        images = images.contiguous(memory_format=torch.channels_last)
        condition = torch.eye(_STYLES, device=device)[style]
        network = build_network(candidate.net, _STYLES, norm=TRAINED_NORM[candidate.net]).to(device)
        arguments = images.repeat_interleave(repeats, 0), condition
    if candidate.compiled:
        network.compile(dynamic=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if candidate.bf16 else nullcontext():
            losses = loss(network(*arguments), images, style)
            total = torch.stack([weight * part for weight, part in zip(_LOSS_WEIGHTS, losses)]).sum(0).mean()
        total.backward()
        optimizer.step()
        return total.detach()

    return step


def _loss(candidate: TrainingCandidate, weights: str, fast: bool) -> PerceptualLoss:
    layers = default_style_layers(LOSS_NETWORK)
    log.disabled = weights == RANDOM  # it warns of random weights, which are on purpose here
    try:
        backbone = load_backbone(LOSS_NETWORK, layers, weights, fast_convolutions=fast)
    finally:
        log.disabled = False
    kind = PerceptualLoss if candidate.upsampling is None else TextbookLoss
    targets = style_targets(backbone, [torch.rand(3, _STYLE_SIDE, _STYLE_SIDE)], layers)
    return kind(backbone, targets, default_content_layers(LOSS_NETWORK))


@dataclass(frozen=True)
class Setup:
    """What restyling by one network needs: its file, its ONNX file (None: not exported), how many threads to use."""

    network: Path
    onnx: Path | None
    threads: int


@dataclass(frozen=True)
class StylizeCandidate:
    """A way to restyle one photo: ``build(setup, photo, condition)`` gives the function that does it.

    ``upsampling`` is the textbook's, None for our networks, of which ``net`` says which; ``packages`` are those that it
    needs beyond the required ones; ``keep_memory`` as in :class:`TrainingCandidate`.
    """

    name: str
    build: Callable[[Setup, Tensor, Tensor], Step]
    net: Net = "deepstylecam"
    upsampling: Upsampling | None = None
    bf16: bool = False
    compiled: bool = False
    packages: tuple[str, ...] = ()
    keep_memory: bool = True


def stylize_step(candidate: StylizeCandidate, setup: Setup, photo: Tensor) -> Step:
    """Return what restyles ``photo`` ``(1, 3, H, W)`` in [0, 1] in the network's first style, in inference mode."""
    styles = load_network(setup.network).network.num_styles
    run = candidate.build(setup, photo, torch.eye(styles)[:1])

    @torch.inference_mode()
    def step() -> Tensor:
        return run()

    return step


def random_network(net: Net, num_styles: int = _STYLES) -> ConditionalNetwork:
    """Return an untrained network whose moments fit its weights, as training would have left them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build_network(net, num_styles, norm=TRAINED_NORM[net]).train()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the plain mean of all batches, which a few are enough for
        photos = torch.rand(num_styles, 3, 64, 64)
        for _ in range(4 if network.norm == "batch" else 30):
            network(photos, torch.eye(num_styles))
    return network.eval()


def _textbook(upsampling: Upsampling, setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    return partial(TextbookNetwork(upsampling).eval(), photo)


def _eager(setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    network = load_network(setup.network).network.to(memory_format=torch.contiguous_format)
    return partial(network, photo.contiguous(), condition)


def _folded(setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    network = load_network(setup.network).network.fold_normalization()
    return partial(network, photo.contiguous(memory_format=torch.channels_last), condition)


def _deployed(dtype: torch.dtype, compiled: bool, setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    network = DeployedNetwork(load_network(setup.network).network).to(dtype)
    if compiled:
        network.compile(dynamic=False)
    photo = photo.contiguous(memory_format=torch.channels_last)
    # Converting the photo is part of the work, as it is of the user's.
    return lambda: network(photo.to(dtype), condition.to(dtype)).float()


def _onnxruntime(setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    assert setup.onnx is not None
    return partial(load_onnxruntime(setup.onnx, setup.threads), photo, condition)


def _openvino(precision: str, setup: Setup, photo: Tensor, condition: Tensor) -> Step:
    assert setup.onnx is not None
    shapes = [tuple(photo.shape), tuple(condition.shape)]
    return partial(load_openvino(setup.onnx, shapes, setup.threads, precision), photo, condition)


def _ways(net: Net) -> tuple[StylizeCandidate, ...]:
    openvino = (*_EXPORT_PACKAGES, "openvino")
    deployed, bf16 = partial(_deployed, torch.float32), partial(_deployed, torch.bfloat16)
    return (
        StylizeCandidate(eager_of(net), _eager, net),
        StylizeCandidate(f"{net}, folded, channels-last", _folded, net),
        StylizeCandidate(f"{net}, deployed", partial(deployed, False), net),
        StylizeCandidate(f"{net}, deployed, compiled", partial(deployed, True), net, compiled=True),
        StylizeCandidate(f"{net}, deployed, bf16", partial(bf16, False), net, bf16=True),
        StylizeCandidate(f"{net}, deployed, bf16, compiled", partial(bf16, True), net, bf16=True, compiled=True),
        StylizeCandidate(f"{net}, ONNX Runtime", _onnxruntime, net, packages=_EXPORT_PACKAGES),
        StylizeCandidate(f"{net}, OpenVINO", partial(_openvino, "f32"), net, packages=openvino),
        StylizeCandidate(f"{net}, OpenVINO, bf16", partial(_openvino, "bf16"), net, bf16=True, packages=openvino),
    )


def eager_of(net: Net) -> str:
    """Return the name of the candidate that runs ``net`` as it is defined, which all others are compared with."""
    return f"{net}, eager"


STYLIZING = (
    StylizeCandidate(
        "textbook, transposed", partial(_textbook, "transposed"), upsampling="transposed", keep_memory=False
    ),
    StylizeCandidate("textbook, resize", partial(_textbook, "resize"), upsampling="resize", keep_memory=False),
    StylizeCandidate("textbook, transposed, memory kept", partial(_textbook, "transposed"), upsampling="transposed"),
    *_ways("deepstylecam"),
    *_ways("swift"),
)


def stylize_on_meta(candidate: StylizeCandidate, setup: Setup, size: int) -> Step:
    """Return the work of ``candidate`` on the device ``meta``, for counting: that of its network as it is defined."""
    photo = torch.empty(1, 3, size, size, device="meta")
    if candidate.upsampling is not None:
        return partial(TextbookNetwork(candidate.upsampling).to("meta"), photo)
    network = load_network(setup.network).network.to("meta")
    return partial(network, photo, torch.empty(1, network.num_styles, device="meta"))
