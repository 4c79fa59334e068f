"""``tezawari restore`` from its words to its files."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import skimage.data
import torch
from PIL import Image

from tezawari.core.errors import UserError, run_guarded
from tezawari.data.photo import read_photo
from tezawari.style.inverse import restore_command
from tezawari.style.inverse.package import load_inverse
from tezawari.style.inverse.restore import Restorer
from tezawari.style.tiling import TILE

pytestmark = pytest.mark.usefixtures("one_thread")


def restore(*words: object) -> int:
    """What ``tezawari restore`` does with these words."""
    parser = argparse.ArgumentParser()
    restore_command.add_arguments(parser)
    return run_guarded(lambda: restore_command.run(parser.parse_args([str(word) for word in words])))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_grey_photo_gets_colours_of_its_lightness(material: Path, tmp_path: Path) -> None:
    grey = tmp_path / "old.png"
    Image.fromarray(skimage.data.camera()[100:181, 150:247]).save(grey)
    assert restore(grey, "--checkpoint", material / "colorize.safetensors", "-o", tmp_path / "out") == 0
    before, after = (skimage.color.rgb2lab(pixels(p)) for p in (grey, tmp_path / "out" / "old-colorized.png"))
    assert np.abs(before[..., 0] - after[..., 0]).max() < 1.0, "as exact as eight bits are"
    assert np.abs(after[..., 1:]).max() > 3 > 0.1 > np.abs(before[..., 1:]).max()


@pytest.mark.parametrize(("words", "scale"), [((), 2), (("--scale", 4), 4)])
def test_a_photo_is_enlarged(material: Path, tmp_path: Path, words: tuple[object, ...], scale: int) -> None:
    photo = tmp_path / "small.jpg"
    Image.fromarray(skimage.data.astronaut()).resize((31, 22)).save(photo)
    assert restore(photo, *words, "--checkpoint", material / "superres.safetensors", "-o", tmp_path) == 0
    with Image.open(tmp_path / "small-enlarged.jpg") as picture:
        assert picture.size == (31 * scale, 22 * scale)


def test_noise_is_estimated_or_said(material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = [material / "photos" / "coffee.png", material / "photos" / "chelsea.png"]
    network = material / "denoise.safetensors"
    for name, words in (("guessed", []), ("zero", ["--noise", 0]), ("most", ["--noise", 50])):
        assert restore(*photos, *words, "--checkpoint", network, "-o", tmp_path / name) == 0
        made = [tmp_path / name / f"{photo.stem}-denoised.png" for photo in photos]
        assert capsys.readouterr().out.split() == [str(path) for path in made]
    first = "coffee-denoised.png"
    assert not np.array_equal(pixels(tmp_path / "zero" / first), pixels(tmp_path / "most" / first))
    restorer, photo = Restorer.load(network), read_photo(photos[0]).image
    assert 0 < restorer.level_of(photo, None) < 50
    assert restorer.level_of(torch.rand(3, 64, 64), None) == 50, "more than was trained on counts as the most"


@torch.no_grad()
def test_tiles_of_a_large_photo_make_the_whole_one(material: Path) -> None:
    trained = load_inverse(material / "denoise.safetensors")
    photo = torch.rand(3, 40, TILE + 300, generator=torch.Generator().manual_seed(0))
    counts: list[tuple[int, int]] = []
    tiled = Restorer(trained).undo(photo, 25.0, lambda *count: counts.append(count))
    whole = trained.transform.start(photo, 25.0) + 2 * trained.network(photo[None], torch.tensor([[0.5]]))[0] - 1
    assert counts == [(1, 2), (2, 2)]
    assert (tiled - whole.clamp(0, 1)).abs().max() < 1e-4


def test_one_bad_photo_does_not_lose_the_others(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 9)).save(tmp_path / "flat.png")
    photos = [tmp_path / "bad.png", tmp_path / "flat.png", tmp_path / "none.jpg", material / "photos" / "coffee.png"]
    assert restore(*photos, "--checkpoint", material / "denoise.safetensors", "-o", tmp_path / "out") == 2
    errors = capsys.readouterr().err.splitlines()
    assert [name in line for name, line in zip(("bad.png", "40x9", "none.jpg"), errors)] == [True] * 3
    assert len(errors) == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["coffee-denoised.png"]


@pytest.mark.parametrize(
    ("network", "words", "said"),
    [
        ("none.safetensors", [], "no checkpoint at"),
        ("style.safetensors", [], "is not a network of model=inverse"),
        ("photos", [], "is no run with a network"),
        ("cut.safetensors", [], "cannot be read"),
        ("superres.safetensors", ["--scale", 3], "enlarges 2 or 4 times, not 3"),
        ("superres.safetensors", ["--noise", 3], "leave --noise away"),
        ("colorize.safetensors", ["--scale", 2], "leave --scale away"),
        ("denoise.safetensors", ["--noise", 60], "from 0 to 50"),
        ("denoise.safetensors", ["--noise", "nan"], "from 0 to 50"),
    ],
)
def test_a_mistake_is_one_line(
    network: str,
    words: list[object],
    said: str,
    material: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (material / "cut.safetensors").write_bytes((material / "denoise.safetensors").read_bytes()[:-1000])
    photo = material / "photos" / "coffee.png"
    assert restore(photo, "--checkpoint", material / network, *words, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not list(tmp_path.glob("out/*"))


def test_what_would_be_too_large_is_refused_before_it_is_made(material: Path) -> None:
    restorer = Restorer.load(material / "superres.safetensors")
    with pytest.raises(UserError, match="40000x8000 pixels"):
        restorer.restore(torch.zeros(1).expand(3, 2000, 10000), 4)
