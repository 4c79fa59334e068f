"""The arrows between the rooms of the house: who may import whom.

The checker reads sources and imports nothing, so it also sees imports inside functions. Its own tests plant one
violation of each rule, because a checker that finds nothing looks the same as one that cannot find anything.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCES = Path(__file__).resolve().parents[2] / "src" / "tezawari"

# A room may import itself, core and the rooms named here. Arrows follow the data and point one way. The command line
# reaches rooms through names in a table ("module:function"), so `cli` needs no arrow, and no room has one to `studio`.
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "features": set(),
    "export": {"features"},
    "collect": {"features"},
    "data": {"collect"},
    "words": {"features", "collect", "data"},
    "recognition": {"features", "data", "words"},
    "segmentation": {"features", "data", "recognition"},
    "style": {"features", "export", "collect", "data", "words", "segmentation"},
    "studio": {"features", "export", "collect", "data", "words", "recognition", "segmentation", "style"},
    "cli": set(),
}
METHOD_ROOMS = ("features", "words", "recognition", "segmentation", "style")
FRAMEWORKS = {"pytorch_lightning", "hydra", "omegaconf"}
TORCH = {"torch", "torchvision", "torchmetrics", "timm", "pytorch_lightning"}


@dataclass(frozen=True)
class Import:
    """One import: the dotted name asked for, its line, and whether it runs when the module is loaded."""

    name: str
    line: int
    at_load: bool
    typing_only: bool


def _is_typing_guard(node: ast.If) -> bool:
    return "TYPE_CHECKING" in ast.unparse(node.test)


def _imports_of(module: str, is_package: bool, node: ast.AST, lazy: bool, typing_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, not (lazy or typing_only), typing_only)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                here = module.split(".") + ([""] if is_package else [])
                base = ".".join(part for part in [*here[: -child.level], base] if part)
            for alias in child.names:
                yield Import(f"{base}.{alias.name}", child.lineno, not (lazy or typing_only), typing_only)
        elif isinstance(child, ast.If) and _is_typing_guard(child):
            for part in child.body:
                holder = ast.Module([part], [])
                yield from _imports_of(module, is_package, holder, lazy, True)
            for part in child.orelse:
                holder = ast.Module([part], [])
                yield from _imports_of(module, is_package, holder, lazy, typing_only)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _imports_of(module, is_package, child, lazy or inside, typing_only)


def imports_of(sources: Mapping[str, str]) -> dict[str, list[Import]]:
    """Return every import of every module; a module that ends in ``.__init__`` is a package."""
    found = {}
    for name, source in sources.items():
        module = name.removesuffix(".__init__")
        found[module] = list(_imports_of(module, name != module, ast.parse(source), False, False))
    return found


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def _own_module(name: str, modules: Mapping[str, object]) -> str | None:
    """Return the module of this package that ``name`` (perhaps an attribute of it) loads."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else None


def _may_use_frameworks(module: str) -> bool:
    leaf = module.rpartition(".")[2]
    return leaf == "lightning_module" or leaf.endswith(("_command", "benchmark"))


def _loaded_by(module: str, imports: Mapping[str, list[Import]]) -> dict[str, str]:
    """Return the outside packages that loading ``module`` loads, each with the module that asks for it."""
    outside: dict[str, str] = {}
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        parent = current.rpartition(".")[0]
        if parent in imports:
            waiting.append(parent)
        for item in imports[current]:
            if not item.at_load:
                continue
            own = _own_module(item.name, imports)
            if own is None:
                outside.setdefault(item.name.partition(".")[0], current)
            else:
                waiting.append(own)
    return outside


def _cycles(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    """Yield one line for each import that closes a circle; what only type checkers read does not count."""
    edges = {
        module: sorted(
            {own for item in items if not item.typing_only and (own := _own_module(item.name, imports))} - {module}
        )
        for module, items in imports.items()
    }
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> Iterator[str]:
        if module in path:
            yield "circle: " + " -> ".join([*path[path.index(module) :], module])
            return
        if module in done:
            return
        for target in edges[module]:
            yield from visit(target, [*path, module])
        done.add(module)

    for module in sorted(edges):
        yield from visit(module, [])


def violations(sources: Mapping[str, str]) -> list[str]:
    """Return one line for each broken rule among ``sources`` (dotted module name → Python source)."""
    imports = imports_of(sources)
    broken: list[str] = []
    for module, items in imports.items():
        room = _room(module)
        if room and room not in ALLOWED and not module.endswith("__main__"):
            broken.append(f"{module}: the room {room} is not in the table of arrows")
            continue
        for item in items:
            where = f"{module}:{item.line}"
            top = item.name.partition(".")[0]
            target = _room(_own_module(item.name, imports) or "")
            if target == "studio" and room != "studio":
                broken.append(f"{where}: nothing imports studio")
            elif room and target and target not in {room, "core"} | ALLOWED.get(room, set()):
                broken.append(f"{where}: no arrow from {room} to {target}")
            if top in {"lightning", "lightning_fabric"}:
                broken.append(f"{where}: use pytorch_lightning, never {top}")
            if room in METHOD_ROOMS and top in FRAMEWORKS and not _may_use_frameworks(module):
                broken.append(f"{where}: a pure module imports {top}")
            if room == "collect" and top in TORCH and not module.startswith("tezawari.collect.rerank"):
                broken.append(f"{where}: only re-ranking imports {top}")
        loaded = _loaded_by(module, imports)
        if room in METHOD_ROOMS and not _may_use_frameworks(module):
            for name in sorted(FRAMEWORKS & loaded.keys()):
                if loaded[name] != module:
                    broken.append(f"{module}: loads {name} through {loaded[name]}")
        if room == "collect" and not module.startswith("tezawari.collect.rerank"):
            for name in sorted(TORCH & loaded.keys()):
                if loaded[name] != module:
                    broken.append(f"{module}: loads {name} through {loaded[name]}")
    return broken + list(_cycles(imports))


def _package_sources() -> dict[str, str]:
    return {
        ".".join(["tezawari", *path.relative_to(_SOURCES).with_suffix("").parts]): path.read_text(encoding="utf-8")
        for path in sorted(_SOURCES.rglob("*.py"))
    }


def test_the_package_keeps_the_arrows() -> None:
    sources = _package_sources()
    assert {"tezawari.__init__", "tezawari.core.errors", "tezawari.features.__init__"} <= sources.keys()
    assert violations(sources) == []


def test_the_table_of_arrows_has_no_circle() -> None:
    left = {room: set(targets) for room, targets in ALLOWED.items()}
    while left:
        free = {room for room, targets in left.items() if not targets & left.keys()}
        assert free, f"circle among {sorted(left)}"
        left = {room: targets for room, targets in left.items() if room not in free}


_CLEAN = {
    "tezawari.__init__": "",
    "tezawari.core.__init__": "",
    "tezawari.core.training": "import hydra\nimport pytorch_lightning",
    "tezawari.core.errors": "",
    "tezawari.features.__init__": "",
    "tezawari.features.gram": "import torch\nfrom tezawari.core.errors import UserError",
    "tezawari.style.__init__": "",
    "tezawari.style.loss": "from tezawari.features.gram import gram_matrix",
    "tezawari.style.lightning_module": "import pytorch_lightning\nfrom tezawari.style.loss import total",
    "tezawari.collect.__init__": "",
    "tezawari.collect.rerank": "import torch\nfrom tezawari.features import gram",
    "tezawari.collect.store": "import sqlite3",
    "tezawari.studio.__init__": "",
    "tezawari.studio.app": "from tezawari.style import loss",
}


def test_a_clean_house_passes() -> None:
    assert violations(_CLEAN) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        ("features.gram", "from tezawari.style import loss", "no arrow from features to style"),
        ("features.gram", "def f():\n    from tezawari.style.loss import x", "no arrow from features to style"),
        ("features.gram", "from ..style.loss import x", "no arrow from features to style"),
        ("features.__init__", "from ..style.loss import x", "no arrow from features to style"),
        ("core.errors", "import tezawari.features.gram", "no arrow from core to features"),
        ("style.loss", "import pytorch_lightning as pl", "a pure module imports pytorch_lightning"),
        ("style.network", "from omegaconf import DictConfig", "a pure module imports omegaconf"),
        ("features.vgg", "def f():\n    import hydra.utils", "a pure module imports hydra"),
        ("features.vgg", "from tezawari.core import training", "loads hydra through tezawari.core.training"),
        ("style.mixing", "from tezawari.studio.app import serve", "nothing imports studio"),
        ("cli", "import tezawari.studio.app", "nothing imports studio"),
        ("__init__", "from tezawari.studio import app", "nothing imports studio"),
        ("core.trainer", "import lightning.pytorch as pl", "never lightning"),
        ("core.trainer", "from lightning import Trainer", "never lightning"),
        ("collect.store", "import torch.nn", "only re-ranking imports torch"),
        ("collect.sources", "from .rerank import rank", "loads torch through tezawari.collect.rerank"),
        ("style.loss", "from tezawari.style import lightning_module", "circle: "),
        ("attic.things", "", "the room attic is not in the table"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, message: str) -> None:
    found = violations({**_CLEAN, f"tezawari.{module}": source})
    assert any(message in line for line in found), found


def test_type_checking_imports_do_not_close_a_circle() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tezawari.style import lightning_module"
    assert violations({**_CLEAN, "tezawari.style.loss": source}) == []


def test_pure_modules_load_where_the_frameworks_are_missing() -> None:
    """A reader of sources cannot see all that an import does, so each pure module is loaded, the frameworks hidden."""
    pure = [
        module.removesuffix(".__init__")
        for module in _package_sources()
        if _room(module) in METHOD_ROOMS and not _may_use_frameworks(module)
    ]
    script = (
        "import importlib, sys\n"
        f"for name in {sorted(FRAMEWORKS)!r}: sys.modules[name] = None\n"
        f"for name in {pure!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
