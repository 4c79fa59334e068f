"""Sheets of pictures with a name over each column."""

from __future__ import annotations

import numpy as np
import torch

from tezawari.data.sheet import draw_sheet


def test_a_long_name_stays_in_its_column() -> None:
    tile = torch.ones(3, 128, 128)
    sheet = np.asarray(draw_sheet([[tile, tile]], ["style's parameters trained", ""]).convert("L"))
    dark = np.flatnonzero((sheet < 128).any(axis=0))
    assert len(dark) > 0
    assert dark.max() < 4 + 128
