"""What ``benchmark=studio`` makes, counts and writes down; the measuring itself needs a browser and minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tezawari.cli import evaluate
from tezawari.collect.store import open_store
from tezawari.studio.database import Database
from tezawari.studio.judgements import Judgements
from tezawari.studio.studio_benchmark import WORD, Measured, count_lost, fill_store, rows_of

ROOT = Path(__file__).resolve().parents[3]
IMAGES = 12


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("store")
    return folder, fill_store(folder, IMAGES, seed=3)


def test_the_set_is_whole_and_ranked_twice(filled: tuple[Path, list[str]]) -> None:
    folder, names = filled
    with open_store(folder) as store:
        images = store.images_of(WORD)
        passes = store.rankings(WORD)
    assert [image.sha256 for image in images] == names
    assert not any(image.duplicates for image in images), "near duplicates would be shown as one"
    assert all(image.path.stat().st_size > 20_000 for image in images)
    assert [set(ranked.scores) for ranked in passes] == [set(names)] * 2
    assert list(passes[0].scores) != list(passes[1].scores)


def test_a_verdict_counts_as_lost_where_it_is_missing_or_another(filled: tuple[Path, list[str]]) -> None:
    folder, names = filled
    judgements = Judgements(Database(folder))
    judgements.change(WORD, "Aiko", {names[0]: True, names[1]: False})
    assert count_lost(folder, {"Aiko": {names[0]: True, names[1]: False}}) == 0
    assert count_lost(folder, {"Aiko": {names[0]: False, names[1]: False}}) == 1
    assert count_lost(folder, {"Aiko": {names[2]: False}, "Ben": {names[0]: True}}) == 2


def test_figures_stand_beside_what_was_asked() -> None:
    measured = Measured(
        first_ever=9.0,
        cold=[0.5, 2.0, 0.9],
        warm=[0.4, 1.5, 1.2],
        long_tasks=[61.0, 90.0],
        acknowledged=[10.0, 20.0, 900.0],
        kills=2,
        before_kills=7,
    )
    rows = {row["what"]: row for row in rows_of(measured)}
    assert (
        rows["first screen, fresh browser, median"]["value"],
        rows["first screen, fresh browser, median"]["met"],
    ) == (
        0.9,
        True,
    )
    assert rows["first screen, seen before, median"]["met"] is False
    assert (rows["tasks over 50 ms while scrolling"]["value"], rows["longest of them"]["value"]) == (2, 90.0)
    assert rows["tasks over 50 ms while scrolling"]["met"] is False
    assert (rows["acknowledgement, median"]["value"], rows["acknowledgement, median"]["met"]) == (20.0, True)
    assert rows["acknowledged and lost"]["met"] is True
    assert "acknowledged and lost" not in {row["what"] for row in rows_of(Measured(warm=[1.0], acknowledged=[1.0]))}


def test_a_set_too_small_to_scroll_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(["benchmark=studio", f"output_dir={tmp_path}", "benchmark.images=5"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "benchmark.images" in error
    assert list(tmp_path.iterdir()) == []
