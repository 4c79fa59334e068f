"""Style maps: what is painted is what is asked for, borders soften without gaps, and mistakes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from tezawari.core.errors import UserError
from tezawari.style.maps import feather, map_from_greys, map_from_labels, read_style_map

SIZE = (12, 17)
HALVES = np.zeros(SIZE, dtype=np.uint8)
HALVES[:, 8:] = 255


def _save(folder: Path, values: np.ndarray, name: str = "map.png") -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


@example(num_styles=1, sigma=2.4e-209, seed=0)
@given(st.integers(1, 5), st.floats(0, 6), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_constant_map_is_the_vector_everywhere(num_styles: int, sigma: float, seed: int) -> None:
    vector = torch.rand(num_styles, generator=torch.Generator().manual_seed(seed))
    labels = torch.zeros(9, 14, dtype=torch.long)
    soft = feather(map_from_labels(labels, vector[None]), sigma)
    torch.testing.assert_close(soft, vector[:, None, None].expand(-1, 9, 14), atol=1e-6, rtol=1e-5)


@given(st.integers(2, 6), st.floats(0.3, 8), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_feathering_keeps_a_partition_of_unity(num_styles: int, sigma: float, seed: int) -> None:
    labels = torch.randint(num_styles, (20, 15), generator=torch.Generator().manual_seed(seed))
    soft = feather(map_from_labels(labels, torch.eye(num_styles)), sigma)
    assert (soft >= 0).all()
    torch.testing.assert_close(soft.sum(0), torch.ones(20, 15), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.7, 2.0, 5.0])
def test_feathering_agrees_with_scipy(sigma: float) -> None:
    greys = torch.rand(2, 30, 40, generator=torch.Generator().manual_seed(0))
    expected = [gaussian_filter(g.double().numpy(), sigma, mode="nearest", truncate=3.0) for g in greys]
    # SciPy rounds its reach where this one rounds up: the weight between is under half a percent.
    np.testing.assert_allclose(feather(greys, sigma).numpy(), np.stack(expected), atol=5e-3)


def test_feathering_softens_only_near_the_border() -> None:
    labels = torch.zeros(8, 60, dtype=torch.long)
    labels[:, 30:] = 1
    soft = feather(map_from_labels(labels, torch.eye(2)), 3.0)
    assert torch.equal(soft[0, :, :20], torch.ones(8, 20))
    assert torch.equal(soft[1, :, 40:], torch.ones(8, 20))
    assert 0.3 < soft[0, 4, 29] < 0.7
    assert (soft[0].diff(dim=1) <= 1e-6).all()


def test_greys_weigh_and_add_up_the_vectors() -> None:
    greys = torch.stack([torch.full((2, 3), 0.25), torch.full((2, 3), 0.5)])
    style_map = map_from_greys(greys, torch.tensor([[1.0, 0, 0], [0, 2, 1]]))
    torch.testing.assert_close(style_map[:, 1, 2], torch.tensor([0.25, 1.0, 0.5]))


def test_value_k_of_a_label_image_is_the_kth_asked_style(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)
    vectors = torch.tensor([[0, 1.0, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 1.0]])
    style_map = read_style_map([_save(tmp_path, labels)], vectors, SIZE)
    assert style_map.shape == (4, *SIZE)
    for row, column in [(0, 0), (5, 3), (11, 16)]:
        assert torch.equal(style_map[:, row, column], vectors[labels[row, column]])


def test_a_palette_counts_by_index_not_by_colour(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 3, SIZE).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([255, 0, 0, 0, 255, 0, 9, 9, 9])
    image.save(tmp_path / "palette.png")
    style_map = read_style_map([tmp_path / "palette.png"], torch.eye(3), SIZE)
    assert torch.equal(style_map.argmax(0), torch.from_numpy(labels).long())


@pytest.mark.parametrize("grey", [HALVES, np.repeat(HALVES[..., None], 3, axis=2), HALVES.astype(bool)])
def test_black_and_white_are_the_first_and_the_second_style(tmp_path: Path, grey: np.ndarray) -> None:
    style_map = read_style_map([_save(tmp_path, grey)], torch.eye(2), SIZE)
    assert torch.equal(style_map[0], torch.from_numpy(HALVES == 0).float())
    assert torch.equal(style_map[1], torch.from_numpy(HALVES == 255).float())


def test_one_grey_map_for_each_style(tmp_path: Path) -> None:
    eight = np.full(SIZE, 51, dtype=np.uint8)
    sixteen = np.full(SIZE, 32768, dtype=np.uint16)
    paths = [_save(tmp_path, eight, "a.png"), _save(tmp_path, sixteen, "b.png")]
    style_map = read_style_map(paths, torch.tensor([[1.0, 0, 0], [0, 0, 2.0]]), SIZE)
    expected = torch.tensor([0.2, 0, 2 * 32768 / 65535])
    torch.testing.assert_close(style_map, expected[:, None, None].expand(-1, *SIZE))


def test_one_file_for_one_style_is_its_weight(tmp_path: Path) -> None:
    style_map = read_style_map([_save(tmp_path, HALVES)], torch.tensor([[0.0, 1.0]]), SIZE)
    assert torch.equal(style_map[1], torch.from_numpy(HALVES == 255).float())


def test_feather_and_stride_while_reading(tmp_path: Path) -> None:
    values = np.zeros((37, 50), dtype=np.uint8)
    values[:, 20:] = 255
    path = _save(tmp_path, values)
    full = read_style_map([path], torch.eye(2), (37, 50), feather_px=4.0)
    assert 0.2 < full[0, 10, 20] < 0.8
    small = read_style_map([path], torch.eye(2), (37, 50), stride=8)
    assert small.shape == (2, 5, 7)
    torch.testing.assert_close(small.sum(0), torch.ones(5, 7))
    # Column 2 covers pixels 16 … 23, half of them in each region.
    torch.testing.assert_close(small[1], torch.tensor([0, 0, 0.5, 1, 1, 1, 1]).expand(5, 7))


def test_the_map_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(HALVES.T)).save(tmp_path / "turned.png", exif=exif)
    style_map = read_style_map([tmp_path / "turned.png"], torch.eye(2), SIZE)
    assert style_map.shape == (2, *SIZE)


def _mistake(folder: Path, kind: str) -> tuple[list[Path], int]:
    if kind == "size":
        return [_save(folder, np.zeros((5, 6), dtype=np.uint8))], 2
    if kind == "coloured":
        return [_save(folder, np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(np.uint8))], 2
    if kind == "values":
        return [_save(folder, np.arange(12 * 17, dtype=np.uint8).reshape(SIZE))], 2
    if kind == "absent":
        return [folder / "nowhere.png"], 2
    if kind == "number":
        return [_save(folder, HALVES)] * 2, 3
    (folder / "text.png").write_text("not an image")
    return [folder / "text.png"], 2


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("size", r"6×5 pixels and the photo is 17×12"),
        ("coloured", "coloured"),
        ("values", "204 different values for 2 styles"),
        ("absent", "no such style map"),
        ("number", "2 style maps for 3 styles"),
        ("text", "cannot be read"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, kind: str, message: str) -> None:
    paths, asked = _mistake(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        read_style_map(paths, torch.eye(asked), SIZE)


def test_a_negative_feather_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="soft borders"):
        read_style_map([_save(tmp_path, HALVES)], torch.eye(2), SIZE, feather_px=-1)
