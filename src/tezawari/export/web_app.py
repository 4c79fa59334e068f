"""The live page: a folder of static files that restyles photos and the camera in a browser, without a server's help."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tezawari.core.errors import UserError

RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
"""What the page needs of onnxruntime-web: first without, then with WebGPU."""

MODEL_FILE = "network.onnx.gz"
GPU_MODEL_FILE = "network-gpu.onnx.gz"
_DESCRIPTION = "app.json"
_HEADERS = (
    "/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n"
    "  X-Content-Type-Options: nosniff\n"
)


@dataclass(frozen=True)
class LiveNetwork:
    """What the page is made for.

    ``model`` is an ONNX file of ``content_image`` ``(1, 3, H, W)`` in [0, 1], H and W multiples of ``stride``, and
    ``style_weights`` ``(1, S)``; ``thumbnails`` are S JPEG files, ``sample`` is a JPEG photo to try. ``gpu_model`` is
    the same network as WebGPU is to run it; None: as ``model``.
    """

    model: bytes
    stride: int
    style_names: Sequence[str]
    thumbnails: Sequence[bytes]
    sample: bytes
    gpu_model: bytes | None = None


@dataclass(frozen=True)
class WrittenApp:
    """The folder, the size in bytes of the network as browsers fetch it, and of all files together."""

    folder: Path
    model_bytes: int
    bytes: int


def built_runtime() -> Path:
    """Return the folder of onnxruntime-web's files that ``make web`` built.

    Raises:
        UserError: when it was not built, or not completely.
    """
    runtime = _web() / "runtime"
    missing = [name for name in RUNTIME_FILES if not (runtime / name).is_file()]
    if missing:
        raise UserError(f"onnxruntime-web is not built, {missing[0]} is missing: type `make web` (needs Node.js)")
    return runtime


def check_folder(folder: Path) -> None:
    """Raise ``UserError`` where :func:`write_web_app` would replace something else than a live page."""
    if (folder / _DESCRIPTION).is_file() or not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder} holds something else than a live page: name another folder with -o")


def compress_model(model: bytes) -> bytes:
    """Return a model as browsers fetch it: gzip, the same bytes for the same model."""
    return gzip.compress(model, 9, mtime=0)


def write_web_app(network: LiveNetwork, folder: Path, runtime: Path) -> WrittenApp:
    """Write the live page; the folder is whole or as it was before.

    Args:
        network: what to run.
        folder: new, empty, or one that this function wrote.
        runtime: where the files of :data:`RUNTIME_FILES` are, see :func:`built_runtime`.

    Raises:
        UserError: when the folder holds something else.
    """
    check_folder(folder)
    content = _content(network, runtime)
    folder = folder.absolute()  # even the current folder has a name
    aside, old = (folder.with_name(f".{folder.name}.{what}-{os.getpid()}") for what in ("writing", "old"))
    try:
        for name, data in content.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (aside / "runtime").mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(runtime / name, aside / "runtime" / name)
        size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
        if folder.exists():
            folder.rename(old)
        try:
            aside.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return WrittenApp(folder, len(content[MODEL_FILE]), size)


def _content(network: LiveNetwork, runtime: Path) -> dict[str, bytes]:
    """Return every file but the runtime, by its path in the folder."""
    content = {path.name: path.read_bytes() for path in sorted((_web() / "static").iterdir())}
    content[MODEL_FILE] = compress_model(network.model)
    content["sample.jpg"] = network.sample
    pictures = [f"styles/{place}.jpg" for place in range(len(network.style_names))]
    content.update(zip(pictures, network.thumbnails))
    styles = [{"name": name, "picture": picture} for name, picture in zip(network.style_names, pictures)]
    models = {"wasm": MODEL_FILE, "webgpu": MODEL_FILE if network.gpu_model is None else GPU_MODEL_FILE}
    content[_DESCRIPTION] = _json({"models": models, "stride": network.stride, "styles": styles})
    # What only some browsers need is kept when they use it, as the runtime is.
    shell = ["./", *(name for name in content if name != "sw.js")]
    if network.gpu_model is not None:
        content[GPU_MODEL_FILE] = compress_model(network.gpu_model)
    # Browsers look for a new version in the service worker's scripts, byte by byte.
    content["shell.js"] = (
        f'const VERSION = "{_version(content, runtime)}";\nconst SHELL = {json.dumps(shell)};\n'.encode()
    )
    content["_headers"] = _HEADERS.encode()  # read by some static hosts; the service worker sets them on the others
    return content


def _version(content: Mapping[str, bytes], runtime: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{name}\0{len(content[name])}\0".encode() + content[name])
    for name in RUNTIME_FILES:
        digest.update((runtime / name).read_bytes())
    return digest.hexdigest()[:12]


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _web() -> Path:
    return Path(str(files("tezawari.export").joinpath("web")))
