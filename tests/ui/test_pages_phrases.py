"""What the studio's pages say: every phrase in both languages, and every phrase that is asked for."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from tezawari.studio.job_work import KINDS

_STUDIO = files("tezawari.studio")
_SCRIPTS = {each.name: each.read_text("utf-8") for each in (_STUDIO / "static").iterdir() if each.name.endswith(".js")}
_LINES = re.findall(
    r'^  "?([\w.]+)"?: (\["[^\n]*"\]),$', _SCRIPTS["i18n.js"].partition("const STYLES")[0], re.MULTILINE
)
PHRASES = {key: json.loads(pair) for key, pair in _LINES}


def test_every_phrase_is_there_once_in_both_languages_with_the_same_values() -> None:
    assert len(PHRASES) == len(_LINES) > 200
    for key, (english, japanese) in PHRASES.items():
        assert min(len(english.strip()), len(japanese.strip())) > 0, key
        assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", japanese)), key


@pytest.mark.parametrize("script", sorted(_SCRIPTS))
def test_every_phrase_that_a_page_asks_for_is_there(script: str) -> None:
    asked = set(re.findall(r'\bt\("([\w.]+)"', _SCRIPTS[script]))
    for choice in re.findall(r"\bt\([^()`]*\?([^()`,]*)[,)]", _SCRIPTS[script]):
        asked |= set(re.findall(r'"([\w.]+)"', choice))
    assert asked <= set(PHRASES)


def test_every_kind_and_phase_of_a_job_has_a_name() -> None:
    sources = [each.read_text("utf-8") for each in _STUDIO.iterdir() if each.name.endswith(".py")]
    phases = {phase for source in sources for phase in re.findall(r'\breport\(\s*"(\w+)"', source)}
    assert len(phases) >= 10
    assert {f"phase.{name}" for name in phases} | {f"kind.{name}" for name in KINDS} <= set(PHRASES)
