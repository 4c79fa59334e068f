"""The search for the CRF's parameters: without a CRF it is calibration, and it prefers what the classifier sees."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tezawari.cli import evaluate, train
from tezawari.core.errors import UserError
from tezawari.segmentation.calibration import occlusion
from tezawari.segmentation.crf import CrfParameters
from tezawari.segmentation.crf_search import crf_grid, score_crf

pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")

ROOT = Path(__file__).resolve().parents[3]
SIDE = 32


def _scene() -> tuple[np.ndarray, Tensor]:
    """A red square on grey, and a map that is high in its middle and a little beyond one of its sides."""
    photo = np.full((SIDE, SIDE, 3), 90, np.uint8)
    photo[8:24, 8:24] = (250, 10, 10)
    found = torch.full((1, SIDE, SIDE), 0.05)
    found[0, 10:22, 10:28] = 0.95
    return photo, found


def _view(photo: np.ndarray) -> Tensor:
    return torch.from_numpy(photo.transpose(2, 0, 1).copy()).float() / 255


def _red(shown: Tensor) -> Tensor:
    """One class, as probable as the share of the red square that is shown."""
    return ((shown[:, 0] > 0.9).sum((1, 2)) / 256)[:, None]


def test_without_a_crf_the_score_is_that_of_calibration() -> None:
    photo, found = _scene()
    thresholds = [0.02, 0.3, 0.9]
    scores = score_crf(_red, [photo], [_view(photo)], [found], [[0]], thresholds, [None])
    torch.testing.assert_close(scores[0], occlusion(_red, [_view(photo)], [found], [[0]], thresholds))


def test_a_crf_that_finds_the_edge_scores_above_none_and_above_one_that_sees_no_colour() -> None:
    photo, found = _scene()
    sharp = CrfParameters(bilateral_sxy=20.0, bilateral_srgb=13.0, bilateral_weight=4.0, gaussian_weight=1.0)
    blind = CrfParameters(bilateral_sxy=20.0, bilateral_srgb=1000.0, bilateral_weight=4.0, gaussian_weight=1.0)
    seen: list[tuple[int, int]] = []
    scores = score_crf(
        _red,
        [photo],
        [_view(photo)],
        [found],
        [[0]],
        [0.4],
        [None, sharp, blind],
        workers=1,
        progress=lambda done, count: seen.append((done, count)),
    )
    assert scores[1, 0] > max(scores[0, 0], scores[2, 0]) + 0.05
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_image_without_labels_and_a_value_out_of_range_are_refused() -> None:
    photo, found = _scene()
    with pytest.raises(ValueError, match="a label in each"):
        score_crf(_red, [photo], [_view(photo)], [found], [[]], [0.4], [None])
    with pytest.raises(UserError, match="bilateral_srgb=0"):
        crf_grid([50.0], [0.0], [5.0])


def test_the_benchmark_ranks_settings_and_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["backbone.weights=random", "data.train_scenes=3", "data.val_scenes=1", "data.image_size=48"]
    tiny += ["data.batch_size=2", "trainer.max_steps=1", "trainer.val_every=0", "callbacks.checkpoint_every=0"]
    assert train(["model=saliency", *tiny, f"output_dir={tmp_path}"], ROOT) == 0
    (run,) = tmp_path.glob("saliency/*/")
    words = ["benchmark=crf_search", f"benchmark.saliency={run}", f"output_dir={tmp_path}/out", "benchmark.images=2"]
    words += ["benchmark.bilateral_sxy=[10,20]", "benchmark.bilateral_weight=[4]", "benchmark.crf_workers=1"]
    capsys.readouterr()
    assert evaluate(words, ROOT) == 0
    rows = list(csv.DictReader((tmp_path / "out/crf_search/summary.csv").open()))
    assert {row["bilateral_sxy"] for row in rows} == {"no CRF", "10", "20"}
    assert len(rows) in (6, 9)
    best = max((row for row in rows if row["bilateral_sxy"] != "no CRF"), key=lambda row: float(row["score"]))
    printed = capsys.readouterr().out
    assert f"benchmark.crf.bilateral_sxy={best['bilateral_sxy']} " in printed
    assert evaluate(["benchmark=crf_search", f"output_dir={tmp_path}/out"], ROOT) == 2
    assert "type benchmark.saliency=RUN" in capsys.readouterr().err
