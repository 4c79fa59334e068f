"""Compose a configuration with Hydra and check every value of it before anything runs.

A ``_target_`` section is checked against the signature of what it names, the other sections against the schemas
below. Whatever is wrong is one :class:`~tezawari.core.errors.UserError` that names the nearest known names.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails

from tezawari.core.errors import UserError, did_you_mean

# What changes where a run is kept or mirrored, and not one number of it.
_SHORT_NAMES = {"experiment": "+experiment", "words": "data.words"}
# Of an override's value: what is quoted, or what stands between the grammar's own signs.
_VALUE_PART = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s\[\]{}(),:='"]+""")
_RECIPES = {"train": "run.yaml", "evaluate": "evaluate.yaml"}
_NOT_HASHED = ("resume", "output_dir", "logger", "callbacks", "sweep")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=(), arbitrary_types_allowed=True)


class BackboneSection(_Section):
    """Which pretrained network measures losses and features, and at which of its layers."""

    name: str
    weights: str | None
    style_layers: list[str] | None
    content_layers: list[str] | None


class TrainerSection(_Section):
    """Where and for how long to train: counts are optimiser steps."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt
    strategy: Literal["auto", "ddp"]
    precision: Literal["32-true", "bf16-mixed"]
    compile: bool
    max_steps: PositiveInt
    log_every: PositiveInt
    val_every: NonNegativeInt
    gradient_clip: PositiveFloat | None


class LoggerSection(_Section):
    """Where the metrics are mirrored; ``metrics.csv`` is written whatever this says."""

    mirror: Literal["wandb", "tensorboard"] | None
    project: str


class CallbacksSection(_Section):
    """How often to save a checkpoint (0: only at the end), how many to keep, and whether to print progress."""

    checkpoint_every: NonNegativeInt
    keep_checkpoints: PositiveInt
    progress: bool


class TrainConfig(_Section):
    """The whole configuration of ``train.py``; ``model`` and ``data`` are checked by their own signatures."""

    model: dict[str, Any]
    data: dict[str, Any]
    backbone: BackboneSection
    trainer: TrainerSection
    logger: LoggerSection
    callbacks: CallbacksSection
    sweep: dict[str, Any] | None
    seed: int = Field(ge=0, lt=2**32)
    output_dir: str = Field(min_length=1)
    resume: str | None


class EvaluateConfig(_Section):
    """The whole configuration of ``evaluate.py``; ``benchmark`` is checked by the signature of its function."""

    benchmark: dict[str, Any]
    output_dir: str = Field(min_length=1)


_SCHEMAS: dict[str, tuple[type[_Section], dict[str, tuple[str, ...]]]] = {
    # entry point: schema, and its `_target_` sections with the arguments that the entry point adds itself
    "train": (TrainConfig, {"model": (), "data": ()}),
    "evaluate": (EvaluateConfig, {"benchmark": ("output_dir",)}),
}


def compose_config(root: Path, name: str, overrides: Iterable[str]) -> DictConfig:
    """Return the checked configuration of entry point ``name`` (``train``, ``evaluate``) under ``root``.

    Args:
        root: folder of the project: holds ``conf/`` and ``experiments/``.
        name: the entry point, a file of ``conf/``.
        overrides: Hydra overrides as typed, ``model.lr=0.1``; ``experiment=NAME`` may be written without its plus.

    Raises:
        UserError: an unknown group, option, key or experiment, or a value of the wrong type or range.
    """
    with composing(root, name, overrides) as (loader, words):
        try:
            cfg = _compose(name, words)
        except UserError:
            # Hydra says what, seldom what was meant.
            parsed = parse_overrides(loader, words)
            _refuse_unknown_options(loader, parsed)
            _refuse_unknown_keys(name, loader, parsed)
            raise
    check_config(name, cfg)
    return cfg


@contextmanager
def composing(root: Path, name: str, overrides: Iterable[str]) -> Iterator[tuple[ConfigLoader, list[str]]]:
    """Point Hydra at ``root`` and yield its loader and the overrides in the form that Hydra takes."""
    if not (root / "conf" / f"{name}.yaml").is_file():
        raise UserError(f"{root / 'conf'} has no {name}.yaml: run {name}.py from a copy of the project")
    words = [_as_hydra_takes_it(word) for word in overrides]
    if any(word.startswith("+experiment=") for word in words):
        _store_experiments(root / "experiments", _RECIPES[name])
    with initialize_config_dir(config_dir=str((root / "conf").resolve()), version_base="1.3", job_name=name):
        yield GlobalHydra.instance().config_loader(), words


def _as_hydra_takes_it(word: str) -> str:
    """Return an override with the short names written out, and what its grammar lacks letters for in quotes.

    ``experiment=`` stands for ``+experiment=``, ``words=`` for ``data.words=``, and ``[ふわふわ,ごつごつ]`` for
    ``['ふわふわ','ごつごつ']``.
    """
    name, equals, value = word.partition("=")
    value = _VALUE_PART.sub(lambda part: part[0] if part[0].isascii() or part[0][0] in "'\"" else f"'{part[0]}'", value)
    return _SHORT_NAMES.get(name, name) + equals + value


def parse_overrides(loader: ConfigLoader, words: list[str]) -> list[Override]:
    """Parse overrides, ``sweep`` values included; raises UserError on what is not of the form ``name=value``."""
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(words)
    except HydraException as error:
        raise UserError(f"{_first_line(error)}: settings are written name=value") from None


def expand_sweep(root: Path, name: str, overrides: list[str]) -> Iterator[list[str]]:
    """Yield, for ``-m``, override lists that together hold every value of every swept key at least once."""
    with composing(root, name, overrides) as (loader, words):
        parsed = parse_overrides(loader, words)
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()] if o.is_discrete_sweep() else [word]
        for o, word in zip(parsed, words)
    ]
    # One by one rather than their product: what is wrong with a value does not hang on the others.
    for row in range(max((len(c) for c in choices), default=1)):
        yield [c[min(row, len(c) - 1)] for c in choices]


def config_hash(cfg: DictConfig) -> str:
    """Return eight hexadecimal digits that name the recipe: equal for configurations that train equal weights.

    Left out: ``resume``, ``output_dir``, ``logger``, ``callbacks``, ``sweep`` and the number of loader workers.
    """
    values = plain(cfg)
    recipe = {key: value for key, value in values.items() if key not in _NOT_HASHED}
    recipe["data"] = {key: value for key, value in recipe.get("data", {}).items() if key != "num_workers"}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]


def build(section: DictConfig, **more: Any) -> Any:
    """Call what the section's ``_target_`` names with its values and ``more``; what that raises comes through as it is.

    Hydra would wrap it, and a :class:`UserError` would reach the user as a traceback.
    """
    try:
        return instantiate(section, **more, _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain dictionaries, lists and values, its interpolations resolved."""
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from None
    return typing.cast("dict[str, Any]", values)


def check_config(name: str, cfg: DictConfig) -> None:
    """Check a composed configuration of entry point ``name``; raises UserError with all that is wrong in one line."""
    schema, targets = _SCHEMAS[name]
    values = plain(cfg)
    problems = _problems(schema, values)
    for section, provided in targets.items():
        if isinstance(values.get(section), dict):
            problems += _target_problems(section, values[section], provided)
    if problems:
        raise UserError("; ".join(problems))


# --- experiments ------------------------------------------------------------------------------------------------------


def _store_experiments(folder: Path, recipe_name: str) -> None:
    """Offer every ``experiments/NAME/<recipe_name>`` to Hydra as option NAME of the group ``experiment``."""
    for recipe in sorted(folder.glob(f"*/{recipe_name}")):
        try:
            node = OmegaConf.load(recipe)
        except Exception as error:  # YAML's and OmegaConf's errors share no base class
            raise UserError(f"{recipe.relative_to(folder.parent)}: {_first_line(error)}") from None
        ConfigStore.instance().store(group="experiment", name=recipe.parent.name, node=node, package="_global_")


# --- names ------------------------------------------------------------------------------------------------------------


def _refuse_unknown_options(loader: ConfigLoader, overrides: list[Override]) -> None:
    for override in overrides:
        group, value = override.key_or_group, override.value()
        known = _options(loader, group)
        if not known or not isinstance(value, str):
            if group == "experiment":
                raise UserError(
                    "experiments/ holds none yet: write experiments/NAME/run.yaml (evaluate.yaml for evaluate.py)"
                )
            continue
        # for_model/NAME and the like: an option in a sub-folder of its group
        if value not in known and value not in [f"{p}/{o}" for p, o in _nested_options(loader, group)]:
            raise UserError(f"{group}={value}: there is no such {group}{did_you_mean(value, known)}")


def _refuse_unknown_keys(name: str, loader: ConfigLoader, overrides: list[Override]) -> None:
    groups = [o for o in overrides if _options(loader, o.key_or_group)]
    keys = [o for o in overrides if o not in groups and not (o.is_add() or o.is_force_add())]
    base = _compose(name, [o.input_line or "" for o in groups])
    for override in keys:
        path = override.key_or_group.split(".")
        if path[0] == "hydra":
            continue
        node: Any = base
        for depth, part in enumerate(path):
            known = [str(key) for key in node if key != "_target_"] if isinstance(node, DictConfig) else []
            if part not in known and part != "_target_":
                where = ".".join(path[:depth])
                names = known if where else known + loader.list_groups("")
                place = f"{where} has no setting" if where else "there is no group or setting"
                raise UserError(f"{override.input_line}: {place} {part}{did_you_mean(part, names)}")
            node = node._get_node(part)
            if OmegaConf.is_interpolation(node) or OmegaConf.is_missing(base, path[0]):
                break


def _options(loader: ConfigLoader, group: str) -> list[str]:
    return [] if group.startswith("hydra.") else loader.get_group_options(group)


def _nested_options(loader: ConfigLoader, group: str) -> Iterator[tuple[str, str]]:
    for sub in loader.list_groups(group):
        for option in loader.get_group_options(f"{group}/{sub}"):
            yield sub, option


def _compose(name: str, words: list[str]) -> DictConfig:
    try:
        return compose(config_name=name, overrides=words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# --- values -----------------------------------------------------------------------------------------------------------


def _target_problems(section: str, values: dict[str, Any], provided: tuple[str, ...]) -> list[str]:
    target = values.get("_target_")
    if not isinstance(target, str):
        return [f"{section} names no _target_: choose one with {section}=NAME"]
    try:
        named = get_object(target)
    except Exception as error:  # whatever the import of somebody's module raises
        reason = error.__cause__ or error
        raise UserError(f"{section}._target_={target} cannot be imported: {_first_line(reason)}") from error  # type: ignore[arg-type]
    arguments = {key: value for key, value in values.items() if not (key.startswith("_") and key.endswith("_"))}
    return _problems(signature_schema(named, provided), arguments, section)


def signature_schema(target: Callable[..., Any], provided: tuple[str, ...] = ()) -> type[BaseModel]:
    """Return a pydantic model of a function's, or a class's constructor's, arguments; ``provided`` ones left out.

    Unannotated arguments take any value; further ones are refused unless the signature has ``**kwargs``.
    """
    function = target.__init__ if inspect.isclass(target) else target
    hints = _type_hints(function)
    fields: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "forbid"
    for parameter in inspect.signature(target).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        if parameter.name in provided or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        # An alias, for an argument may be called `copy` or `schema`, which pydantic keeps for itself.
        field = Field(default, alias=parameter.name)
        fields[f"argument_{len(fields)}"] = (hints.get(parameter.name, Any), field)
    config = ConfigDict(extra=extra, strict=True, arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(getattr(target, "__name__", "target"), __config__=config, **fields)


def _type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # a name that is imported for type checkers alone
        return {}


def _problems(schema: type[BaseModel], values: dict[str, Any], section: str = "") -> list[str]:
    try:
        # As JSON, for there strict means what a configuration file means by it: 1 is a float, "1" is none, [] a tuple.
        schema.model_validate_json(json.dumps(values))
    except ValidationError as error:
        return list(dict.fromkeys(_describe(schema, section, detail) for detail in error.errors()))
    return []


def _describe(schema: type[BaseModel], section: str, detail: ErrorDetails) -> str:
    keys = [str(part) for part in detail["loc"]]
    names = _field_names(schema, keys[:-1])
    # A union's branches add their own names to the place; the user knows the setting only.
    place = ".".join(([section] if section else []) + (keys if names else keys[:1]))
    if detail["type"] == "extra_forbidden":
        owner = ".".join(([section] if section else []) + keys[:-1])
        what = f"{owner} has no setting" if owner else "there is no group or setting"
        return f"{what} {keys[-1]}{did_you_mean(keys[-1], names)}"
    if detail["type"] == "missing":
        return f"{place} has no value: add {place}=…"
    return f"{place}={detail['input']}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _field_names(schema: Any, path: list[str]) -> list[str]:
    for key in path:
        field = getattr(schema, "model_fields", {}).get(key)
        schema = field.annotation if field else None
    return [field.alias or name for name, field in getattr(schema, "model_fields", {}).items()]
