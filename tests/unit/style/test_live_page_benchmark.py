"""What ``benchmark=live_page`` makes of its measurements; the measuring itself needs a browser and minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tezawari.cli import evaluate
from tezawari.style.export_command import Difference
from tezawari.style.live_page_benchmark import (
    PYTORCH,
    Variant,
    Watched,
    rows_of,
    style_accuracy,
    targets,
    with_styles,
)
from tezawari.style.network import build_network
from tezawari.style.style_benchmark import load_judge

ROOT = Path(__file__).resolve().parents[3]


def variant(intervals: list[list[float]], compressed: int) -> Variant:
    visits = [Watched(times, [40.0, 60.0, 50.0]) for times in intervals]
    return Variant(b"x" * 2000, compressed, compressed + 3000, Difference(0.5, 3.0), visits)


def test_frames_and_accuracy_stand_beside_what_was_asked() -> None:
    # In pairs, as two lanes in step would show them: half of the intervals are short, and the camera is no faster.
    variants = {"fp16": variant([[5, 195, 5, 195], [50, 50]], 900_000), "int8": variant([[80, 80, 80]], 800_000)}
    right = {name: np.ones((2, 4), bool) for name in (PYTORCH, "fp16", "int8")}
    right["int8"][0, 0] = right[PYTORCH][1, 1] = right["fp16"][1, 1] = False
    rows = {row["network"]: row for row in rows_of(variants, right)}
    assert list(rows) == [PYTORCH, "fp16", "int8"]
    assert (rows["fp16"]["fps"], rows["fp16"]["fps_slowest_visit"], rows["fp16"]["frames"]) == (12, 10, 6)
    assert rows["fp16"]["interval_95_ms"] == pytest.approx(195)
    assert (rows["int8"]["fps"], rows["int8"]["made_ms"]) == (12.5, 50)
    assert [rows[name]["style_accuracy"] for name in rows] == [87.5] * 3
    assert (rows["fp16"]["changed"], rows["int8"]["changed"]) == (0, 25)
    lines = "\n".join(targets(list(rows.values())))
    assert "12.5 frames/s (int8); asked for: 10" in lines
    assert "0.80 MB compressed, 0.803 MB with 13 styles (int8)" in lines
    assert "int8: +0.0 points" in lines
    unjudged = rows_of(variants, {})
    assert [row["network"] for row in unjudged] == ["fp16", "int8"]
    assert len({tuple(row) for row in unjudged}) == 1
    assert "style accuracy" not in "\n".join(targets(unjudged))


def test_a_network_is_weighed_with_more_styles_than_it_has() -> None:
    network = build_network("deepstylecam", 2)
    filled = with_styles(network, 4)
    assert filled is not None
    rows = torch.stack([filled.style_parameters(place)[0] for place in range(4)])
    assert torch.equal(rows[:2], torch.stack([network.style_parameters(place)[0] for place in range(2)]))
    assert len(torch.unique(rows[2:])) == rows[2:].numel()  # copies would compress to nothing
    assert network.num_styles == 2
    assert with_styles(filled, 3) is None


def test_a_picture_is_right_where_the_style_it_was_asked_in_is_the_nearest(one_thread: None) -> None:
    generator = torch.Generator().manual_seed(0)
    stripes = (torch.arange(64) % 8 < 4).float().expand(3, 64, 64).contiguous()
    noise = torch.rand(3, 64, 64, generator=generator)
    styles = {"stripes": stripes, "noise": noise}
    judge = load_judge("efficientnet_lite0", None, styles)
    photos = [torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    conditions = list(torch.eye(2))
    pictures = list(styles.values())
    right, kept = style_accuracy(judge, "perfect", photos, conditions, lambda _, style: pictures[int(style.argmax())])
    assert right.all()
    assert right.shape == (2, 2)
    assert torch.equal(kept[1][0], stripes)
    right, _ = style_accuracy(judge, "one style", photos, conditions, lambda photo, style: stripes)
    assert right.tolist() == [[True, False]] * 2


def test_a_precision_named_twice_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark=live_page", f"output_dir={tmp_path}", "benchmark.precisions=[int8,int8]"]
    assert evaluate(words, ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "precisions" in error
    assert list(tmp_path.iterdir()) == []
