"""The folder of the live page: complete, whole or as before, and new when anything in it is."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
from pathlib import Path

import pytest

from tezawari.core.errors import UserError
from tezawari.export import web_app
from tezawari.export.web_app import RUNTIME_FILES, LiveNetwork, built_runtime, write_web_app

NETWORK = LiveNetwork(b"model" * 100, 32, ["wood", "<water>"], [b"jpeg 0", b"jpeg 1"], b"sample")


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in RUNTIME_FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def kept_files(folder: Path) -> tuple[str, list[str]]:
    """The version and the list of files that the service worker reads."""
    found = re.fullmatch(r'const VERSION = "(\w{12})";\nconst SHELL = (.*);\n', (folder / "shell.js").read_text())
    assert found is not None
    return found[1], json.loads(found[2])


def test_the_folder_holds_all_that_its_page_asks_for(tmp_path: Path, runtime: Path) -> None:
    folder = tmp_path / "live"
    written = write_web_app(NETWORK, folder, runtime)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert written == web_app.WrittenApp(folder, files["network.onnx.gz"], sum(files.values()))
    assert gzip.decompress((folder / "network.onnx.gz").read_bytes()) == NETWORK.model
    assert {f"runtime/{name}" for name in RUNTIME_FILES} <= files.keys()
    description = json.loads((folder / "app.json").read_text())
    assert description["stride"] == 32
    assert description["models"] == {"wasm": "network.onnx.gz", "webgpu": "network.onnx.gz"}
    assert [(style["name"], (folder / style["picture"]).read_bytes()) for style in description["styles"]] == [
        ("wood", b"jpeg 0"),
        ("<water>", b"jpeg 1"),
    ]
    icons = json.loads((folder / "manifest.webmanifest").read_text())["icons"]
    linked = re.findall(r'(?:href|src)="([^"]+)"', (folder / "index.html").read_text())
    imported = [name for path in folder.glob("*.js") for name in re.findall(r'from "\./([^"]+)"', path.read_text())]
    assert len(linked) >= 5
    assert len(imported) >= 2
    assert {*linked, *imported, *(icon["src"] for icon in icons)} <= files.keys()


def test_the_page_works_without_a_network_from_what_is_kept(tmp_path: Path, runtime: Path) -> None:
    folder = tmp_path / "live"
    write_web_app(NETWORK, folder, runtime)
    _, shell = kept_files(folder)
    assert shell[0] == "./"
    assert all((folder / name).is_file() for name in shell[1:])
    # The runtime is kept when it is used: half of it is for other browsers. The worker itself is the browser's to keep.
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - set(shell)
    assert left == {"sw.js", "shell.js", "_headers", *(f"runtime/{name}" for name in RUNTIME_FILES)}


def test_the_network_for_webgpu_is_kept_by_browsers_that_use_it(tmp_path: Path, runtime: Path) -> None:
    folder = tmp_path / "live"
    write_web_app(dataclasses.replace(NETWORK, gpu_model=b"floats"), folder, runtime)
    models = json.loads((folder / "app.json").read_text())["models"]
    contents = {provider: gzip.decompress((folder / file).read_bytes()) for provider, file in models.items()}
    assert contents == {"wasm": NETWORK.model, "webgpu": b"floats"}
    shell = kept_files(folder)[1]
    assert models["wasm"] in shell
    assert models["webgpu"] not in shell


def test_the_version_is_a_function_of_everything(tmp_path: Path, runtime: Path) -> None:
    def version(network: LiveNetwork) -> str:
        write_web_app(network, tmp_path / "live", runtime)
        return kept_files(tmp_path / "live")[0]

    first = version(NETWORK)
    assert version(NETWORK) == first
    others = {
        version(dataclasses.replace(NETWORK, **change))
        for change in ({"model": b"m"}, {"gpu_model": b"g"}, {"style_names": ["a", "b"]})
    }
    (runtime / RUNTIME_FILES[-1]).write_bytes(b"newer")
    assert len({first, *others, version(NETWORK)}) == 5


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("text")
    for path in (tmp_path / "thesis", tmp_path / "thesis" / "chapter.txt"):
        with pytest.raises(UserError, match="holds something else"):
            write_web_app(NETWORK, path, runtime)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_a_failure_leaves_the_page_as_it_was(tmp_path: Path, runtime: Path) -> None:
    folder = tmp_path / "live"
    write_web_app(NETWORK, folder, runtime)
    before = (folder / "shell.js").read_bytes()
    broken = dataclasses.replace(NETWORK, sample=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        write_web_app(broken, folder, runtime)
    assert (folder / "shell.js").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "runtime"]


def test_a_runtime_that_was_not_built_says_how(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_app, "_web", lambda: tmp_path)
    assert built_runtime() == runtime
    (runtime / RUNTIME_FILES[2]).unlink()
    with pytest.raises(UserError, match=re.escape(f"{RUNTIME_FILES[2]} is missing: type `make web`")):
        built_runtime()
