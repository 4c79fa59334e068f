"""The order in which a round shows its images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tezawari.data.labelled_image import LabelledImage
from tezawari.data.loader import SampleKey
from tezawari.segmentation.self_training.curriculum import Curriculum, PhaseSamples

RANKED = [f"image{number:02}" for number in range(20)]


def test_a_round_begins_with_easy_images_and_ends_with_all() -> None:
    plan = Curriculum(augment=False).plan(RANKED, samples=400, seed=0, round_index=1)
    first = {image_id for image_id, _ in plan[:10]}
    assert first == set(RANKED[:10])
    assert {image_id for image_id, _ in plan[-39:]} == set(RANKED)  # one whole pass, wherever it began
    place = [np.mean([RANKED.index(image_id) for image_id, _ in part]) for part in (plan[:50], plan[-50:])]
    assert place[0] < place[1]


def test_a_pass_shows_every_included_image_once_and_easy_ones_again() -> None:
    curriculum = Curriculum(augment=True, first_share=0.25)
    shown = curriculum.pass_of(RANKED, progress=1.0)
    assert Counter(shown) == Counter([(i, False) for i in RANKED] + [(i, True) for i in RANKED[:5]])


def test_the_random_control_has_the_same_schedule_and_no_preference() -> None:
    easy = Curriculum("easy", augment=True).plan(RANKED, 2000, seed=3, round_index=2)
    control = Curriculum("random", augment=True).plan(RANKED, 2000, seed=3, round_index=2)
    assert [again for _, again in easy].count(True) == [again for _, again in control].count(True)
    assert sorted(Counter(i for i, _ in easy).values()) == sorted(Counter(i for i, _ in control).values())
    assert {i for i, _ in control[:10]} != set(RANKED[:10])


def test_plans_are_functions_of_seed_and_round() -> None:
    curriculum = Curriculum()
    plan = curriculum.plan(RANKED, 100, seed=0, round_index=1)
    assert plan == curriculum.plan(RANKED, 100, seed=0, round_index=1)
    assert plan != curriculum.plan(RANKED, 100, seed=1, round_index=1)
    assert plan != curriculum.plan(RANKED, 100, seed=0, round_index=2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_images_are_all_shown(count: int) -> None:
    plan = Curriculum().plan(RANKED[:count], 12, seed=0, round_index=1)
    assert len(plan) == 12
    assert {i for i, _ in plan} == set(RANKED[:count])


def _samples(masks: bool) -> PhaseSamples:
    rng = np.random.default_rng(0)
    images = [LabelledImage(name, (1,), rng.integers(0, 255, (24, 30, 3), np.uint8)) for name in RANKED[:4]]

    def masks_of(phase: int) -> object:
        return (RANKED[:4], lambda image_id: np.full((24, 30), 2, np.uint8)) if masks and phase > 0 else None

    return PhaseSamples(images, 3, 16, 8, masks_of, Curriculum(), seed=0)  # type: ignore[arg-type]


def test_masks_come_with_the_phases_that_have_them_and_samples_do_not_hang_on_what_was_asked_before() -> None:
    samples = _samples(masks=True)
    before = samples[SampleKey(0, 5)]
    assert "mask" not in before
    inside = samples[SampleKey(1, 5)]
    assert set(inside["mask"].unique().tolist()) <= {2, 255}
    again = _samples(masks=True)[SampleKey(1, 5)]
    assert inside["id"] == again["id"]
    assert bool((inside["image"] == again["image"]).all())
    assert bool((before["image"] == samples[SampleKey(0, 5)]["image"]).all())
    assert before["labels"].tolist() == [0, 1, 0]


def test_a_phase_without_masks_shows_every_image_equally_often() -> None:
    samples = _samples(masks=False)
    shown = Counter(samples[SampleKey(0, place)]["id"] for place in range(8))
    assert set(shown.values()) == {2}
