"""``tezawari swap`` from its words to its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from tezawari import cli
from tezawari.segmentation.masks import read_mask
from tezawari.segmentation.package import save_trained
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.segmentation.segmenter import Segmenter
from tezawari.style.network import build_network
from tezawari.style.package import save_network

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["fabric", "stone", "wood"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained styliser and an untrained segmenter."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    network = build_network("johnson", 2)
    with torch.no_grad():
        network(torch.rand(2, 3, 48, 48), torch.eye(2))
    save_network(folder / "style.safetensors", network.eval(), ["wood", "ふわふわ"], {})
    segmenter = Segmenter("efficientnet_lite0", len(NAMES), "random")
    with torch.no_grad():
        segmenter.classifier.weight *= 20  # so that several classes win somewhere
    save_trained(folder / "segmenter.safetensors", segmenter, NAMES, 64, {})
    return folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.chelsea()).resize((90, 64)).save("cat.jpg", quality=90)
    Image.fromarray(skimage.data.astronaut()).resize((70, 48)).save("a.png")
    mask = np.zeros((48, 70), np.uint8)
    mask[10:40, 20:50] = 255
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(np.zeros_like(mask)).save("empty.png")
    Image.fromarray(np.ones_like(mask)).save("full.png")
    return tmp_path


@pytest.fixture
def swap(networks: Path, files: Path) -> Callable[..., int]:
    def run(*words: str, segmenter: bool = False) -> int:
        seeing = ["--segmenter", str(networks / "segmenter.safetensors"), "--crf", "none"] if segmenter else []
        return cli.main(["swap", *words, *seeing, "--checkpoint", str(networks / "style.safetensors"), "-o", "out"])

    return run


def _pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _written() -> set[str]:
    return {path.name for path in Path("out").iterdir()}


def test_a_given_mask_is_restyled_and_nothing_else_changes(
    swap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap("a.png", "--mask", "mask.png", "--to", "wood", "--feather", "0") == 0
    assert _written() == {"a-to-wood.png", "a-mask.png", "a-chain.png"}
    inside = _pixels("mask.png")[..., 0] > 0
    old, new = _pixels("a.png"), _pixels("out/a-to-wood.png")
    assert np.array_equal(new[~inside], old[~inside])
    assert (new != old)[inside].any(-1).mean() > 0.9
    assert np.array_equal(read_mask(Path("out/a-mask.png")) > 0, inside)
    said = capsys.readouterr().out
    assert "name a segmenter with --judge" in said
    assert "outside the mask 0 pixels changed" in said


def test_a_soft_border_changes_a_little_outside(swap: Callable[..., int]) -> None:
    assert swap("a.png", "--mask", "mask.png", "--to", "wood", "--feather", "1.5") == 0
    changed = (_pixels("out/a-to-wood.png") != _pixels("a.png")).any(-1)
    inside = _pixels("mask.png")[..., 0] > 0
    assert 0 < (changed & ~inside).sum() < inside.sum()
    assert not changed[:5].any()


def test_a_source_is_found_restyled_and_looked_at_again(
    swap: Callable[..., int], networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segmenter = PhotoSegmenter.load(networks / "segmenter.safetensors")
    mask = segmenter(_pixels("cat.jpg")).mask
    counts = np.bincount(mask.ravel(), minlength=4)[1:]
    source = NAMES[int(counts.argmax())]
    assert 0 < counts.max() < mask.size, "this untrained segmenter must see something and not everything"
    assert swap("cat.jpg", "--from", source, "--to", "wood", "--feather", "0", segmenter=True) == 0
    assert _written() == {f"cat-{name}.png" for name in ("to-wood", "mask", "before", "after", "chain")}
    inside = mask == 1 + NAMES.index(source)
    assert np.array_equal(read_mask(Path("out/cat-mask.png")) > 0, inside)
    old, new = _pixels("cat.jpg"), _pixels("out/cat-to-wood.png")
    assert np.array_equal(new[~inside], old[~inside]), "a JPEG's pixels too are kept where nothing was to change"
    after = segmenter(new).mask
    wood = after == 1 + NAMES.index("wood")
    said = capsys.readouterr().out
    assert f"before: {source} 100%" in said
    assert f"pixel accuracy {wood[inside].mean():.3f}" in said
    assert f"IoU {(wood & inside).sum() / (wood | inside).sum():.3f} (before" in said


def test_a_style_that_the_judge_does_not_know_has_no_score(
    swap: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert swap("a.png", "--mask", "mask.png", "--to", "ふわふわ", segmenter=True) == 0
    said = capsys.readouterr().out
    assert "the judge knows no ふわふわ" in said
    assert "pixel accuracy" not in said


def test_gatys_takes_a_generated_texture_or_a_picture(swap: Callable[..., int]) -> None:
    quick = ["--method", "gatys", "--weights", "random", "--steps", "2", "--feather", "0"]
    assert swap("a.png", "--mask", "mask.png", "--to", "stone", *quick) == 0
    assert swap("a.png", "--mask", "mask.png", "--to", "fur", "--style-image", "cat.jpg", *quick) == 0
    inside = _pixels("mask.png")[..., 0] > 0
    stone, fur, old = (_pixels(path) for path in ("out/a-to-stone.png", "out/a-to-fur.png", "a.png"))
    for new in (stone, fur):
        assert np.array_equal(new[~inside], old[~inside])
        assert (new != old)[inside].any()
    assert (stone != fur).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.png", "--mask", "empty.png", "--to", "wood"], "empty.png is empty"),
        (["a.png", "--mask", "full.png", "--to", "wood"], "tezawari stylize"),
        (["cat.jpg", "--mask", "mask.png", "--to", "wood"], "70 × 48 pixels, its image 90 × 64"),
        (["a.png", "--mask", "missing.png", "--to", "wood"], "there is no mask missing.png"),
        (["a.png", "--mask", "mask.png", "--to", "woof"], "did you mean wood"),
        (["a.png", "--mask", "mask.png", "--to", "wood", "--scale", "99"], "scale=99"),
        (["a.png", "--mask", "mask.png", "--to", "wood", "--feather", "-1"], "not -1"),
        (["a.png", "--mask", "mask.png", "--to", "woood", "--method", "gatys"], "--style-image FILE"),
        (["a.png", "--mask", "mask.png", "--to", "wood", "--style-image", "cat.jpg"], "model=unseen_style"),
        (["none.png", "--mask", "mask.png", "--to", "wood"], "none.png: no such photo"),
        (["a.png", "--from", "wood", "--to", "wood"], "--segmenter RUN"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    swap: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert swap(*words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error
    assert not Path("out").exists()


def test_a_source_that_is_not_there_is_answered_with_what_is(
    swap: Callable[..., int], networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = np.full((48, 48, 3), 128, np.uint8)
    Image.fromarray(flat).save("flat.png")
    mask = PhotoSegmenter.load(networks / "segmenter.safetensors")(flat).mask
    seen = {NAMES[value - 1] for value in np.unique(mask) if value}
    missing = next(name for name in NAMES if name not in seen)
    assert swap("flat.png", "--from", missing, "--to", "wood", segmenter=True) == 2
    error = capsys.readouterr().err
    assert f"there is no {missing} in the photo; found there: " in error
    assert all(name in error.partition("found there")[2] for name in seen)
    assert swap("flat.png", "--from", "woood", "--to", "wood", segmenter=True) == 2
    assert "did you mean wood" in capsys.readouterr().err
