"""Stages on disk: whole or unfinished, never overwritten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tezawari.core.errors import UserError
from tezawari.segmentation.pseudo_masks import PseudoMask
from tezawari.segmentation.self_training.stages import adopt_stage, read_stage, run_stage, stage_key

IDS = ["a", "b/c", "d"]
MASK = np.array([[0, 1], [255, 2]], np.uint8)


class Stopped(Exception):
    """What a kill looks like from inside."""


def make(asked: list[list[str]], stop_after: int | None = None):
    def masks(ids: Sequence[str]) -> Iterator[PseudoMask]:
        asked.append(list(ids))
        for number, image_id in enumerate(ids):
            if number == stop_after:
                raise Stopped
            yield PseudoMask(image_id, MASK, 1 / (1 + IDS.index(image_id)))

    return masks


def test_a_stage_keeps_masks_ease_and_figures(tmp_path: Path) -> None:
    stage = run_stage(tmp_path / "masks-0", "key", IDS, make([]), lambda ease: {"sum": sum(ease.values())})
    assert stage.ranked() == IDS
    assert stage.figures == {"sum": pytest.approx(1 + 1 / 2 + 1 / 3)}
    assert (stage.mask("b/c") == MASK).all()
    assert not list(tmp_path.glob("*.unfinished"))
    assert read_stage(tmp_path / "masks-0") == stage


def test_a_stopped_stage_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[list[str]] = []
    with pytest.raises(Stopped):
        run_stage(tmp_path / "s", "key", IDS, make(asked, stop_after=2))
    assert read_stage(tmp_path / "s") is None
    # A kill in the middle of a line of the log: that image is done again.
    log = tmp_path / "s.unfinished" / "done.jsonl"
    log.write_text(log.read_text() + '["d", 0.')
    stage = run_stage(tmp_path / "s", "key", IDS, make(asked))
    assert asked == [IDS, ["d"]]
    assert set(stage.ease) == set(IDS)


def test_a_finished_stage_is_not_made_again_and_not_overwritten(tmp_path: Path) -> None:
    run_stage(tmp_path / "s", "key", IDS, make([]))
    asked: list[list[str]] = []
    run_stage(tmp_path / "s", "key", IDS, make(asked))
    assert asked == []
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="another configuration"):
        run_stage(tmp_path / "s", "other", IDS, make(asked))
    assert asked == []
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before


def test_an_unfinished_stage_of_another_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run_stage(tmp_path / "s", "key", IDS, make([], stop_after=1))
    with pytest.raises(UserError, match="begun by another configuration"):
        run_stage(tmp_path / "s", "other", IDS, make([]))


def test_a_maker_that_leaves_an_image_out_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no mask was made of d"):
        run_stage(tmp_path / "s", "key", IDS, lambda ids: make([])([i for i in ids if i != "d"]))
    assert read_stage(tmp_path / "s") is None


def test_a_damaged_manifest_says_what_to_do(tmp_path: Path) -> None:
    run_stage(tmp_path / "s", "key", IDS, make([]))
    (tmp_path / "s" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="delete"):
        read_stage(tmp_path / "s")


def test_the_key_hangs_on_values_and_on_every_weight() -> None:
    network = nn.Linear(2, 2)
    key = stage_key({"a": 1}, [network])
    assert key == stage_key({"a": 1}, [network])
    assert key != stage_key({"a": 2}, [network])
    with torch.no_grad():
        network.bias[1] += 1e-3
    assert key != stage_key({"a": 1}, [network])


def test_another_runs_stage_is_adopted_only_where_it_is_what_would_be_made(tmp_path: Path) -> None:
    made = run_stage(tmp_path / "theirs", "key", IDS, make([]))
    with pytest.raises(UserError, match="another configuration"):
        adopt_stage(tmp_path / "theirs", tmp_path / "ours", "other")
    with pytest.raises(UserError, match="no finished masks"):
        adopt_stage(tmp_path / "nowhere", tmp_path / "ours", "key")
    assert read_stage(tmp_path / "ours") is None
    (tmp_path / "ours.adopting").mkdir()  # what a kill in the middle of copying leaves
    adopt_stage(tmp_path / "theirs", tmp_path / "ours", "key")
    adopted = read_stage(tmp_path / "ours")
    assert adopted is not None
    assert adopted.ease == made.ease
    assert (adopted.mask("b/c") == MASK).all()
