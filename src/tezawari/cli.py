"""The command line: ``train.py``, ``evaluate.py`` and ``tezawari <command>``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tezawari.core.errors import UserError, did_you_mean, run_guarded
from tezawari.core.machine import keep_freed_memory

# Each command: the module that offers add_arguments(parser) and run(args) -> exit code, and what it does.
COMMANDS: dict[str, tuple[str, str]] = {
    "stylize": ("tezawari.style.stylize_command", "restyle photos with a trained network"),
    "paint": ("tezawari.style.paint_command", "restyle a photo by optimising its pixels (Gatys)"),
    "collect": ("tezawari.collect.collect_command", "collect images for a word, check and rank them"),
    "export": (
        "tezawari.style.export_command",
        "write a network for other runtimes or the best images of a word as a ZIP",
    ),
    "words": ("tezawari.words.words_command", "list words of touch and look, and choose those that go with a noun"),
    "measure": (
        "tezawari.words.measure_command",
        "measure how visual collected words are, or tell a noun's words apart",
    ),
    "segment": ("tezawari.segmentation.segment_command", "find classes in photos with a trained network"),
    "swap": ("tezawari.style.swap_command", "change one material in a photo into another, and check that it changed"),
    "style-pack": ("tezawari.style.style_pack_command", "make styles of a word's images, or of a folder"),
    "restore": ("tezawari.style.inverse.restore_command", "colour, enlarge or denoise photos with a trained network"),
    "studio": ("tezawari.studio.studio_command", "open the studio in a browser: restyle, collect, judge, segment"),
    "bot": ("tezawari.studio.bot_command", "answer the photos that people send to an account on Mastodon"),
    "runs": ("tezawari.core.runs_command", "list training runs and compare their metrics"),
    "experiments": ("tezawari.core.experiments_command", "gather the results of all experiments on one page"),
}

_EntryPoint = Callable[[DictConfig, Sequence[str]], int]

# Hydra's own questions about a configuration: answered by Hydra, nothing runs.
_HYDRA_FLAGS = {"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc", "--version"}
_MULTIRUN_FLAGS = {"-m", "--multirun"}


def main(argv: list[str] | None = None) -> int:
    """Run ``tezawari <command>`` and return its exit code; a module of a command is imported only when it is run."""
    words = sys.argv[1:] if argv is None else argv
    return run_guarded(lambda: _run_command(words))


def train(argv: list[str], root: Path) -> int:
    """Train as ``train.py`` was asked to, and return the exit code.

    0 for a finished run, 2 for what the user can mend, 143 after SIGTERM (130 after Ctrl-C), with a checkpoint saved.
    """
    return run_guarded(lambda: _run_entry_point("train", argv, root, train_once))


def evaluate(argv: list[str], root: Path) -> int:
    """Run the benchmark that ``evaluate.py`` was asked for, and return the exit code."""
    return run_guarded(lambda: _run_entry_point("evaluate", argv, root, evaluate_once))


def train_once(cfg: DictConfig, overrides: Sequence[str] = ()) -> int:
    """Train one checked configuration, or run the study of its section ``sweep``; return the exit code."""
    from tezawari.core.resume import TrainingStopped
    from tezawari.core.training import run_training, say

    try:
        if cfg.sweep is not None:
            from tezawari.core.sweep import run_sweep

            return run_sweep(cfg, run_training, overrides)
        run_training(cfg)
    except TrainingStopped as stopped:
        words = [word for word in sys.argv if not word.startswith("resume=")]
        say(f"{stopped} and saved; to go on: {shlex.join(['python', *words, 'resume=auto'])}")
        return stopped.exit_code
    return 0


def evaluate_once(cfg: DictConfig, overrides: Sequence[str] = ()) -> int:
    """Run one checked benchmark and print which files it left."""
    from tezawari.core.config import build

    keep_freed_memory()
    files: dict[str, Path] = build(cfg.benchmark, output_dir=cfg.output_dir)
    width = max((len(name) for name in files), default=0)
    for name, path in files.items():
        sys.stdout.write(f"{name:<{width}}  {path}\n")
    return 0


def _run_command(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tezawari", description="the material appearance of images")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    name = next((word for word in words if not word.startswith("-")), None)
    if name is not None and name not in COMMANDS:
        raise UserError(f"tezawari has no command {name}{did_you_mean(name, COMMANDS)}")
    for command, (module, purpose) in COMMANDS.items():
        subparser = commands.add_parser(command, help=purpose, description=purpose)
        if command == name:
            import_module(module).add_arguments(subparser)
    args = parser.parse_args(words)
    keep_freed_memory()
    return import_module(COMMANDS[args.command][0]).run(args)


def _run_entry_point(name: str, argv: list[str], root: Path, run: _EntryPoint) -> int:
    flags = [word for word in argv if word.startswith("-")]
    if any(flag.partition("=")[0] in _HYDRA_FLAGS for flag in flags):
        return _ask_hydra(name, argv, root)
    unknown = [flag for flag in flags if flag not in _MULTIRUN_FLAGS]
    if unknown:
        raise UserError(
            f"{name}.py has no option {unknown[0]}{did_you_mean(unknown[0], _HYDRA_FLAGS | _MULTIRUN_FLAGS)}"
        )
    from tezawari.core.config import compose_config

    overrides = [word for word in argv if word not in flags]
    if flags:
        return _run_many(name, overrides, root, run)
    return run(compose_config(root, name, overrides), overrides)


def _run_many(name: str, overrides: list[str], root: Path, run: _EntryPoint) -> int:
    """Run every combination of the swept values with Hydra's launcher, after all of them have been checked."""
    from hydra.core.global_hydra import GlobalHydra

    from tezawari.core.config import compose_config, composing, expand_sweep

    for row in expand_sweep(root, name, overrides):
        compose_config(root, name, [word for word in row if not word.startswith("hydra")])
    with composing(root, name, overrides) as (_, words):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        batches = hydra.multirun(name, _Job(run), words, with_log_configuration=False)
    return max((job.return_value for batch in batches for job in batch), default=0)


class _Job:
    """One job of a multirun: an error the user can mend ends this job alone, a signal ends them all."""

    def __init__(self, run: _EntryPoint) -> None:
        self._run = run

    def __call__(self, cfg: DictConfig) -> int:
        from tezawari.core.config import plain

        code = run_guarded(lambda: self._run(OmegaConf.create(plain(cfg)), ()))
        if code > 128:
            raise SystemExit(code)
        return code


def _ask_hydra(name: str, argv: list[str], root: Path) -> int:
    import hydra

    from tezawari.core.config import composing

    settings = [word for word in argv if "=" in word and not word.startswith("-")]
    with composing(root, name, settings) as (_, overrides):  # for it makes the experiments known
        sys.argv = [sys.argv[0], *[word for word in argv if word not in settings], *overrides]
    hydra.main(version_base="1.3", config_path=str((root / "conf").resolve()), config_name=name)(lambda cfg: None)()
    return 0
