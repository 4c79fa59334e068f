"""``tezawari stylize`` from its words to its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image, ImageCms

from tezawari import cli
from tezawari.style.network import build_network
from tezawari.style.package import save_network

pytestmark = pytest.mark.usefixtures("one_thread")

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = build_network("johnson", 2)
    for index in range(2):
        for row in network.style_parameters(index):
            torch.nn.init.normal_(row, mean=1.0 - 2 * index)
    with torch.no_grad():
        network(torch.rand(2, 3, 48, 48), torch.eye(2))
    save_network(tmp_path / "n.safetensors", network.eval(), ["wood", "ふわふわ"], {})
    Image.fromarray(skimage.data.chelsea()).resize((80, 64)).save("cat.jpg", icc_profile=PROFILE, quality=95)
    Image.fromarray(skimage.data.astronaut()).resize((64, 48)).save("a.png")
    return tmp_path


def _stylize(*words: str) -> int:
    return cli.main(["stylize", *words, "--checkpoint", "n.safetensors", "-o", "out"])


def _pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_each_style_by_default_in_the_photos_format(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _stylize("cat.jpg", "a.png") == 0
    written = ["cat-wood.jpg", "cat-ふわふわ.jpg", "a-wood.png", "a-ふわふわ.png"]
    assert capsys.readouterr().out.split() == [str(Path("out") / name) for name in written]
    with Image.open("out/cat-wood.jpg") as picture:
        assert picture.size == (80, 64)
        assert picture.info["icc_profile"] == PROFILE
    assert np.abs(_pixels("out/a-wood.png") - _pixels("out/a-ふわふわ.png")).mean() > 2, "styles must differ"


def test_a_mix_lies_apart_from_both_its_styles(files: Path) -> None:
    assert _stylize("a.png") == 0
    assert _stylize("a.png", "--style", "wood=1", "--style", "ふわふわ=3", "--normalize") == 0
    mixed = _pixels("out/a-wood=1+ふわふわ=3.png")
    to_wood, to_soft = (np.abs(mixed - _pixels(f"out/a-{name}.png")).mean() for name in ("wood", "ふわふわ"))
    assert 0 < to_soft < to_wood


def test_a_map_gives_each_region_its_style(files: Path) -> None:
    labels = np.zeros((48, 64), dtype=np.uint8)
    labels[:, 32:] = 1
    Image.fromarray(labels).save("map.png")
    assert _stylize("a.png") == 0
    assert _stylize("a.png", "--style", "wood", "--style", "ふわふわ", "--style-map", "map.png") == 0
    (path,) = Path("out").glob("a-map-*.png")
    mapped, wood, soft = _pixels(path), _pixels("out/a-wood.png"), _pixels("out/a-ふわふわ.png")
    left, right = np.s_[:, :8], np.s_[:, -8:]
    assert np.abs(mapped - wood)[left].mean() < 0.7 * np.abs(mapped - soft)[left].mean()
    assert np.abs(mapped - soft)[right].mean() < 0.7 * np.abs(mapped - wood)[right].mean()


def test_kept_colours_are_the_photos(files: Path) -> None:
    assert _stylize("a.png", "--style", "wood") == 0
    free = np.abs(_pixels("out/a-wood.png").mean((0, 1)) - _pixels("a.png").mean((0, 1)))
    assert _stylize("a.png", "--style", "wood", "--keep-color") == 0
    kept, photo = _pixels("out/a-wood.png"), _pixels("a.png")
    chroma = [pixels - pixels.mean(-1, keepdims=True) for pixels in (kept, photo)]
    assert np.corrcoef(chroma[0].ravel(), chroma[1].ravel())[0, 1] > 0.7
    assert free.max() > 1


def test_the_styles_are_listed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _stylize("--list") == 0
    assert capsys.readouterr().out.split() == ["wood", "ふわふわ"]


def test_a_sheet_shows_photos_by_styles_and_a_mix(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _stylize("cat.jpg", "a.png", "--sheet", "new/sheet.jpg") == 0
    with Image.open("new/sheet.jpg") as sheet:
        assert sheet.width > 4 * 256
        assert sheet.height > 2 * 256
    assert not Path("out").exists()
    capsys.readouterr()
    assert _stylize("a.png", "--sheet", "sheet.txt") == 2
    assert "contact sheet" in capsys.readouterr().err


def test_one_bad_photo_does_not_lose_the_others(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.png").write_bytes(b"no picture")
    assert _stylize("bad.png", "missing.jpg", "a.png", "--style", "wood") == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "error"]
    assert "bad.png" in said.err
    assert "missing.jpg" in said.err
    assert [path.name for path in Path("out").iterdir()] == ["a-wood.png"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no photo was named"),
        (["a.png", "--style", "woof"], "wood"),
        (["a.png", "--style", "wood=much"], "much"),
        (["a.png", "--style", "wood", "--style-map", "cat.jpg"], "resize the map"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    files: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert _stylize(*words) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error
    assert not list(Path().glob("out/*"))
