"""``tezawari export``: a trained network for other runtimes and for browsers, or the best images of a word as a ZIP."""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tezawari.collect import export_command as word_export
from tezawari.core.errors import UserError, describe_os_error
from tezawari.core.files import write_atomically
from tezawari.core.package_photos import package_photo
from tezawari.data.photo import load_rgb
from tezawari.export.browser_models import browser_models
from tezawari.export.onnx import load_onnxruntime, load_openvino, save_openvino
from tezawari.export.precision import PRECISIONS, Precision, reduce_precision
from tezawari.export.serve import open_server
from tezawari.export.web_app import LiveNetwork, built_runtime, check_folder, compress_model, write_web_app
from tezawari.style.inference import export_style_network
from tezawari.style.mixing import equal_mix
from tezawari.style.network import ConditionalNetwork
from tezawari.style.stylize import Stylizer

EMBEDDED = "embedded"
"""Names the network that comes with the package; a file or folder of that name goes first."""

_RUN_FILE = "network.safetensors"
_DEFAULT_OUTPUT = {"onnx": "network.onnx", "openvino": "network.xml", "web": "live"}
_DEFAULT_PRECISION: dict[str, Precision] = {"onnx": "fp32", "openvino": "fp32", "web": "int8"}
_SAMPLE_PHOTO = "chelsea"
_CHECKED_SIDE = 128
_THUMBNAIL = (240, 152)


@dataclass(frozen=True)
class Difference:
    """How far pictures are from PyTorch's, in levels of 255."""

    mean: float
    largest: float

    def __str__(self) -> str:
        return f"difference from PyTorch: mean {self.mean:.3g}, largest {self.largest:.3g} of 255"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``tezawari export``."""
    word_export.add_arguments(parser)
    parser.conflict_handler = "resolve"  # a network needs no --zip
    word = parser.add_argument_group("words")
    word.add_argument("--zip", metavar="FILE", type=Path, help="the file to write")
    parser.usage = (
        "tezawari export WORD --zip FILE [options]\n       tezawari export CHECKPOINT --to onnx|openvino|web [options]"
    )
    parser.description = (
        "With --to: write a trained multi-style network, checked against PyTorch, as an ONNX or OpenVINO file, or as a "
        "folder of static files that restyles photos and the camera in a browser. CHECKPOINT is its file, the folder "
        f"of a run, or the word {EMBEDDED}. Without: write the best images of a collected word as a ZIP, with "
        "manifest.csv: scores, sources, authors, licences."
    )
    parser.epilog = (
        f"tezawari export {EMBEDDED} --to web -o live --serve 8000   |   "
        "tezawari export outputs/multistyle/RUN --to onnx --precision int8 -o style.onnx.gz   |   "
        "tezawari export ふわふわ --zip ふわふわ.zip --count 100"
    )
    network = parser.add_argument_group("networks")
    network.add_argument("--to", choices=sorted(_DEFAULT_OUTPUT))
    network.add_argument(
        "--precision", choices=PRECISIONS, help="of the stored weights (default: fp32; int8 for web, to load quickly)"
    )
    network.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        help="default: network.onnx, network.xml or the folder live; a name that ends in .onnx.gz is compressed",
    )
    network.add_argument(
        "--serve", metavar="PORT", type=int, help="web: then serve the folder to this machine's browsers (0: any port)"
    )


def run(args: argparse.Namespace) -> int:
    """Export a network where ``--to`` is given, else a word; print what was written and how exact it is."""
    if args.to is None:
        return _export_word(args)
    if args.zip is not None:
        raise UserError("--zip is for words and --to for networks: leave one of them out")
    if args.serve is not None and args.to != "web":
        raise UserError(f"--serve {args.serve}: only --to web writes what can be served")
    precision = args.precision or _DEFAULT_PRECISION[args.to]
    if args.to == "openvino" and precision == "int8":
        raise UserError("--to openvino --precision int8: fp32 or fp16 here; OpenVINO also reads --to onnx in int8")
    output = args.output or Path(_DEFAULT_OUTPUT[args.to])
    export = {"onnx": export_onnx_file, "openvino": export_openvino_files, "web": export_live_page}[args.to]
    try:
        print("\n".join(export(load_stylizer(args.word), output, precision)))
    except OSError as error:
        raise UserError(f"cannot write {output}: {describe_os_error(error)}") from error
    if args.serve is not None:
        with open_server(output, args.serve) as server:
            print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)", flush=True)
            server.serve_forever()
    elif args.to == "web":
        print("any HTTPS host of static files will do, or for this machine: add --serve 8000")
    return 0


def load_stylizer(checkpoint: str) -> Stylizer:
    """Load what CHECKPOINT names.

    Raises:
        UserError: for no such file, or a network whose moments are each photo's own, which cannot be folded.
    """
    path = Path(checkpoint).expanduser()
    if checkpoint == EMBEDDED and not path.exists():
        stylizer = Stylizer.load()
    else:
        stylizer = Stylizer.load(path / _RUN_FILE if path.is_dir() else path)
    network = stylizer.trained.network
    if network.norm == "instance":
        raise UserError(
            f"{checkpoint}: a network with model.norm=instance cannot be exported: train norm=settled or batch"
        )
    return stylizer


def export_onnx_file(stylizer: Stylizer, path: Path, precision: Precision) -> list[str]:
    """Write an ONNX model of one photo of any size in multiples of the network's stride; return what to tell.

    Inputs and output are those of :func:`tezawari.style.inference.export_style_network`.
    """
    if not path.name.endswith((".onnx", ".onnx.gz")):
        raise UserError(f"-o {path}: a file whose name ends in .onnx or .onnx.gz")
    model = reduce_precision(fp32_model(stylizer.trained.network), precision)
    difference = check_onnx(stylizer, model)
    content = compress_model(model) if path.suffix == ".gz" else model
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return [f"{path}: {precision}, {_megabytes(len(content))}, {len(stylizer.style_names)} styles", str(difference)]


def export_openvino_files(stylizer: Stylizer, path: Path, precision: Precision) -> list[str]:
    """Write OpenVINO's pair of ``.xml`` and ``.bin``; return what to tell."""
    if path.suffix != ".xml":
        raise UserError(f"-o {path}: a file whose name ends in .xml; its .bin goes beside it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        file = Path(scratch) / "network.onnx"
        file.write_bytes(reduce_precision(fp32_model(stylizer.trained.network), "fp32"))
        save_openvino(file, path, half=precision == "fp16")
    photo, styles = _checked(stylizer)
    difference = _difference(stylizer, load_openvino(path, [photo.shape, styles[:1].shape], threads=1))
    size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return [f"{path}: {precision}, {_megabytes(size)} with its .bin", str(difference)]


def export_live_page(stylizer: Stylizer, folder: Path, precision: Precision) -> list[str]:
    """Write the folder of the live page; return what to tell."""
    runtime = built_runtime()  # before the minutes that follow
    check_folder(folder)
    models = browser_models(fp32_model(stylizer.trained.network), precision)
    difference = check_onnx(stylizer, models.wasm)
    written = write_web_app(
        LiveNetwork(
            model=models.wasm,
            gpu_model=models.webgpu,
            stride=models.multiple * stylizer.trained.network.bottleneck_stride,
            style_names=stylizer.style_names,
            thumbnails=_thumbnails(stylizer),
            sample=_jpeg(load_rgb(package_photo(_SAMPLE_PHOTO)).float() / 255, 90),
        ),
        folder,
        runtime,
    )
    return [
        f"{folder}: {_megabytes(written.bytes)}, the network {_megabytes(written.model_bytes)} of it ({precision})",
        str(difference),
    ]


def check_onnx(stylizer: Stylizer, model: bytes) -> Difference:
    """Compare ONNX Runtime with PyTorch on a sample photo of 128 × 128 in every style and in their equal mix."""
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        file = Path(scratch) / "network.onnx"
        file.write_bytes(model)
        return _difference(stylizer, load_onnxruntime(file, threads=1))


@torch.no_grad()
def _difference(stylizer: Stylizer, run_model: Callable[..., Tensor]) -> Difference:
    photo, styles = _checked(stylizer)
    wanted = stylizer.trained.network(photo.expand(len(styles), -1, -1, -1), styles)
    found = torch.cat([run_model(photo, style[None]) for style in styles])
    gap = (found - wanted).abs() * 255
    return Difference(float(gap.mean()), float(gap.max()))


def _checked(stylizer: Stylizer) -> tuple[Tensor, Tensor]:
    """Return the photo ``(1, 3, H, W)`` and the weights ``(S + 1, S)`` that runtimes are compared on."""
    count = len(stylizer.style_names)
    return _sample(_CHECKED_SIDE, _CHECKED_SIDE)[None], torch.cat([torch.eye(count), equal_mix(count)[None]])


def fp32_model(network: ConditionalNetwork) -> bytes:
    """Return a network as an ONNX model in float32, see :func:`tezawari.style.inference.export_style_network`."""
    with tempfile.TemporaryDirectory(prefix="tezawari-") as scratch:
        return export_style_network(network, Path(scratch) / "network.onnx", side=64).path.read_bytes()


def _thumbnails(stylizer: Stylizer) -> Sequence[bytes]:
    width, height = _THUMBNAIL
    small = _sample(height, width)
    return [_jpeg(stylizer(small, style), 82) for style in torch.eye(len(stylizer.style_names))]


def _sample(height: int, width: int) -> Tensor:
    """Return the middle of the sample photo, scaled to cover ``height`` × ``width``: ``(3, H, W)`` in [0, 1]."""
    photo = load_rgb(package_photo(_SAMPLE_PHOTO)).float() / 255
    scale = max(height / photo.shape[1], width / photo.shape[2])
    size = (max(height, round(photo.shape[1] * scale)), max(width, round(photo.shape[2] * scale)))
    photo = F.interpolate(photo[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return photo[:, top : top + height, left : left + width]


def _jpeg(image: Tensor, quality: int) -> bytes:
    pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def _export_word(args: argparse.Namespace) -> int:
    given = [f"--{name}" for name in ("precision", "output", "serve") if getattr(args, name) is not None]
    if given:
        raise UserError(f"{given[0]} is for networks: add --to onnx, openvino or web")
    if args.zip is None:
        raise UserError(
            f"say what to write: tezawari export {args.word} --zip FILE for a collected word, "
            f"tezawari export {args.word} --to onnx|openvino|web for a network"
        )
    return word_export.run(args)
