"""What a sweep may try: the ranges and choices of a configuration's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tezawari.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_KEYS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}
# The study itself decides over these.
_NOT_SWEPT = ("sweep", "output_dir", "resume", "logger", "callbacks")
_EXAMPLE = "sweep.space={model.learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}}"


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``whole``: integers; ``log``: even in the logarithm."""

    low: float
    high: float
    whole: bool
    log: bool
    step: float | None


@dataclass(frozen=True)
class Choices:
    """A list of values: numbers, words, true, false, null, or lists of these."""

    values: tuple[Any, ...]

    def labels(self) -> list[Any]:
        """Return what the study stores for each value: lists as JSON, for a study holds plain values only."""
        return [json.dumps(value) if isinstance(value, list) else value for value in self.values]


@dataclass(frozen=True)
class Space:
    """The settings of a search, by their dotted names in the configuration."""

    settings: Mapping[str, Range | Choices]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's form of the space."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for name, setting in self.settings.items():
            if isinstance(setting, Choices):
                found[name] = CategoricalDistribution(setting.labels())
            elif setting.whole:
                step = int(setting.step or 1)
                found[name] = IntDistribution(int(setting.low), int(setting.high), log=setting.log, step=step)
            else:
                found[name] = FloatDistribution(setting.low, setting.high, log=setting.log, step=setting.step)
        return found

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration's values for what a study stored of a trial."""
        found = {}
        for name, label in params.items():
            setting = self.settings[name]
            found[name] = setting.values[setting.labels().index(label)] if isinstance(setting, Choices) else label
        return found

    def extremes(self) -> Iterator[dict[str, Any]]:
        """Yield settings that together hold both ends of every range and every choice."""
        choices = [len(s.values) for s in self.settings.values() if isinstance(s, Choices)]
        for row in range(max([2, *choices])):
            yield {
                name: setting.values[min(row, len(setting.values) - 1)]
                if isinstance(setting, Choices)
                else _as_number(setting, setting.high if row else setting.low)
                for name, setting in self.settings.items()
            }

    def as_dict(self) -> dict[str, Any]:
        """Return the space as plain values, equal for equal spaces."""
        return {name: {"type": type(s).__name__, **s.__dict__} for name, s in sorted(self.settings.items())}

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the words of a command line that set these values."""
        return [f"{name}={_hydra_word(value)}" for name, value in values.items()]


def read_space(space: Any, config: Mapping[str, Any]) -> Space:
    """Check the ``space`` of a sweep against the configuration whose settings it names.

    Args:
        space: dotted name → ``{type: float|int, low, high, log, step}`` or ``{type: categorical, choices}``.
        config: the configuration as plain dictionaries.

    Raises:
        UserError: an empty space, a name that the configuration lacks, an unknown type or key, an impossible range.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError(f"sweep.space names nothing to try: add for example '{_EXAMPLE}'")
    settings = {}
    for name, spec in space.items():
        _refuse_unknown_name(str(name), config)
        settings[str(name)] = _read_setting(str(name), spec)
    return Space(settings)


def _refuse_unknown_name(name: str, config: Mapping[str, Any]) -> None:
    leaves = [leaf for leaf in _leaves(config) if not leaf.endswith("_target_")]
    if name in leaves:
        return
    if name.endswith("_target_"):
        raise UserError(f"sweep.space: {name} cannot be swept: it says which settings there are")
    below = [leaf for leaf in leaves if leaf.startswith(name + ".")]
    if below:
        raise UserError(f"sweep.space: {name} is a section: name one of its settings, such as {below[0]}")
    same_word = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    section = [leaf for leaf in leaves if leaf.partition(".")[0] == name.partition(".")[0]]
    near = f" (did you mean {', '.join(same_word)}?)" if same_word else did_you_mean(name, section or leaves)
    raise UserError(f"sweep.space: the configuration has no setting {name}{near}")


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if not prefix and key in _NOT_SWEPT:
            continue
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _read_setting(name: str, spec: Any) -> Range | Choices:
    where = f"sweep.space: {name}"
    if not isinstance(spec, Mapping) or "type" not in spec:
        raise UserError(
            f"{where} needs a type: use {{type: float, low: …, high: …}} or {{type: categorical, choices: […]}}"
        )
    kind = spec["type"]
    if kind not in _KEYS:
        raise UserError(f"{where} has the unknown type {kind}{did_you_mean(str(kind), _KEYS)}")
    for key in spec:
        if key != "type" and key not in _KEYS[kind]:
            raise UserError(f"{where}: type {kind} takes no {key}{did_you_mean(str(key), _KEYS[kind])}")
    return _read_choices(where, spec) if kind == "categorical" else _read_range(where, spec, kind == "int")


def _read_choices(where: str, spec: Mapping[str, Any]) -> Choices:
    choices = spec.get("choices")
    if not isinstance(choices, list) or not choices:
        raise UserError(f"{where} needs choices: a list of at least one value")
    if any(isinstance(choice, Mapping) for choice in choices):
        raise UserError(f"{where}: a choice is a number, a word, true, false, null or a list, not a section")
    return Choices(tuple(choices))


def _read_range(where: str, spec: Mapping[str, Any], whole: bool) -> Range:
    for key in ("low", "high"):
        if key not in spec:
            raise UserError(f"{where} has no {key}: add {key}: …")
    low: Any = spec["low"]
    high: Any = spec["high"]
    step: Any = spec.get("step")
    for key, value in (("low", low), ("high", high), ("step", step)):
        if value is None and key == "step":
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
        if not number or (whole and value != int(value)):
            raise UserError(f"{where}: {key}={value} is not a {'whole ' if whole else ''}number")
    log = spec.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"{where}: log={log} is neither true nor false")
    if low > high:
        raise UserError(f"{where}: low {low} is above high {high}")
    if log and low <= 0:
        raise UserError(f"{where}: a logarithmic range needs low above 0, not {low}")
    if log and step is not None:
        raise UserError(f"{where}: a logarithmic range has no step: leave one of the two out")
    if step is not None and step <= 0:
        raise UserError(f"{where}: step {step} is not above 0")
    return Range(low, high, whole, log, step)


def _as_number(setting: Range, value: float) -> float:
    return int(value) if setting.whole else float(value)


def _hydra_word(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_hydra_word(part) for part in value) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value) and value.lower() not in (
            "true",
            "false",
            "null",
            "nan",
            "inf",
        )
        return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value)
