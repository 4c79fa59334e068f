"""``tezawari segment`` from its words to its files."""

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
from tezawari.segmentation.network import SaliencyNetwork
from tezawari.segmentation.package import save_trained
from tezawari.segmentation.segment import PhotoSegmenter
from tezawari.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["cat", "dog", "ふわふわ"]
METHODS = ["gradient", "cam", "gradcam", "dcsm"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained network of each kind."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    saliency = SaliencyNetwork("efficientnet_lite0", len(NAMES), "average", "random")
    segmenter = Segmenter("efficientnet_lite0", len(NAMES), "random")
    with torch.no_grad():
        segmenter.classifier.weight *= 20  # so that several classes win somewhere
    save_trained(folder / "saliency.safetensors", saliency, NAMES, 64, {})
    save_trained(folder / "segmenter.safetensors", segmenter, NAMES, 64, {})
    return folder


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.chelsea()).resize((90, 64)).save("cat.jpg", quality=95)
    Image.fromarray(skimage.data.astronaut()).resize((48, 70)).save("a.png")
    return tmp_path


@pytest.fixture
def segment(networks: Path, files: Path) -> Callable[..., int]:
    def run(*words: str, kind: str = "saliency", crf: str = "none") -> int:
        given = ["--checkpoint", str(networks / f"{kind}.safetensors"), "-o", "out"]
        return cli.main(["segment", *words, *given, *(["--crf", crf] if crf else [])])

    return run


def _pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def _written() -> set[str]:
    return {path.name for path in Path("out").iterdir()}


@pytest.mark.parametrize("kind", ["saliency", "segmenter"])
def test_an_overlay_a_mask_and_a_heat_map_a_class(
    segment: Callable[..., int], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment("cat.jpg", "a.png", "--labels", "cat, ふわふわ", kind=kind) == 0
    names = {f"{photo}-{what}.png" for photo in ("cat", "a") for what in ("overlay", "mask", "cat", "ふわふわ")}
    assert _written() == names
    lines = capsys.readouterr().out.splitlines()
    assert {Path(line).name for line in lines if line.startswith("out")} == names
    for photo, size in (("cat", (64, 90)), ("a", (70, 48))):
        mask = read_mask(Path(f"out/{photo}-mask.png"), size)
        assert set(np.unique(mask)) <= {0, 1, 3}
        assert _pixels(f"out/{photo}-cat.png").shape == (*size, 3)
        overlay = _pixels(f"out/{photo}-overlay.png")
        assert overlay.shape[0] >= size[0]
        assert overlay.shape[1] >= size[1]
        # Where there is background the photo shows, and nowhere else.
        photo_pixels = _pixels({"cat": "cat.jpg", "a": "a.png"}[photo])
        changed = np.abs(overlay[: size[0], : size[1]] - photo_pixels).max(-1) > 0
        assert not changed[mask == 0].any()
        if (mask > 0).any():
            assert changed[mask > 0].mean() > 0.9


def test_what_is_printed_are_the_masks_shares(segment: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("cat.jpg", "--labels", "dog,cat") == 0
    mask = read_mask(Path("out/cat-mask.png"))
    shares = [f"{name} {(mask == value).mean():.0%}" for name, value in (("cat", 1), ("dog", 2), ("background", 0))]
    assert capsys.readouterr().out.splitlines()[-1] == f"cat.jpg: {', '.join(shares)}"


def test_without_labels_it_looks_for_what_the_network_finds(segment: Callable[..., int], networks: Path) -> None:
    assert segment("cat.jpg") == 0
    by_default = _written()
    assert segment("cat.jpg", "--auto") == 0
    assert _written() == by_default
    found = {name for name in NAMES if f"cat-{name}.png" in by_default}
    network = PhotoSegmenter.load(networks / "saliency.safetensors").trained.network
    probable = network(torch.from_numpy(_pixels("cat.jpg")).permute(2, 0, 1)[None].float() / 255)[0].sigmoid()
    assert NAMES[int(probable.argmax())] in found


def test_methods_and_backgrounds_matter(segment: Callable[..., int]) -> None:
    maps, shares = {}, []
    for method in METHODS:
        assert segment("cat.jpg", "--labels", "dog", "--method", method) == 0
        maps[method] = _pixels("out/cat-dog.png")
    for one, other in (("gradient", "cam"), ("gradcam", "dcsm"), ("dcsm", "gradient")):
        assert np.abs(maps[one] - maps[other]).max() > 8
    # Under average pooling and a linear head the two are one (Selvaraju et al., 2017, section 3.1).
    assert np.abs(maps["cam"] - maps["gradcam"]).max() <= 1
    for background in ("0.05", "0.3", "0.999"):
        assert segment("cat.jpg", "--labels", "dog", "--method", "dcsm", "--background", background) == 0
        shares.append(float((read_mask(Path("out/cat-mask.png")) == 0).mean()))
    assert shares == sorted(shares)
    assert shares[0] < shares[2] == 1, "no map of tanh(3) at most exceeds it"


def test_the_crf_smooths_and_takes_parameters(segment: Callable[..., int]) -> None:
    pytest.importorskip("pydensecrf", reason="the CRF needs pydensecrf2, which needs a C++ compiler")

    def edges() -> int:
        mask = read_mask(Path("out/cat-mask.png"))
        return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())

    words = ["cat.jpg", "--labels", "cat", "--method", "gradient", "--background", "0.2"]
    assert segment(*words) == 0
    rough = edges()
    assert segment(*words, crf="iterations=3,bilateral_sxy=20") == 0
    assert 0 <= edges() < rough
    assert segment(*words, crf="") == 0
    assert 0 <= edges() < rough


@pytest.mark.parametrize("kind", ["saliency", "segmenter"])
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (1200, 40), (3, 2)])
def test_tiny_and_elongated_photos(
    segment: Callable[..., int], kind: str, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise(size, 60).convert("RGB").save("odd.png")
    for method in METHODS if kind == "saliency" else METHODS[:1]:
        assert segment("odd.png", "--labels", "cat", "--method", method, kind=kind) == 0, capsys.readouterr().err
        assert read_mask(Path("out/odd-mask.png")).shape == size[::-1]
        assert _pixels("out/odd-cat.png").shape == (*size[::-1], 3)


def test_one_bad_photo_does_not_lose_the_others(
    segment: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.png").write_bytes(b"no picture")
    assert segment("bad.png", "missing.jpg", "a.png", "--labels", "dog") == 2
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.err.splitlines()] == ["error", "error"]
    assert "bad.png" in said.err
    assert "missing.jpg" in said.err
    assert _written() == {"a-overlay.png", "a-mask.png", "a-dog.png"}


def test_photos_of_one_name_do_not_overwrite_each_other(
    segment: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, source in (("x", "cat.jpg"), ("y", "a.png")):
        Path(folder).mkdir()
        with Image.open(source) as picture:
            picture.save(f"{folder}/photo.png")
    assert segment("x/photo.png", "y/photo.png", "--labels", "dog") == 0
    sizes = {read_mask(path).shape for path in Path("out").glob("*-mask.png")}
    assert sizes == {(64, 90), (70, 48)}
    assert len(_written()) == 6
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("out")]
    assert {Path(line).name for line in printed} == _written()


def test_a_numbered_photo_is_not_overwritten_either(segment: Callable[..., int]) -> None:
    """Two photos ``photo`` and one that is really called ``photo-2``."""
    for name, side in (("x/photo", 40), ("y/photo", 44), ("z/photo-2", 48)):
        Path(name).parent.mkdir()
        Image.effect_noise((side, side), 60).convert("RGB").save(f"{name}.png")
    assert segment("x/photo.png", "y/photo.png", "z/photo-2.png", "--labels", "dog") == 0
    sizes = sorted(read_mask(path).shape[0] for path in Path("out").glob("*-mask.png"))
    assert sizes == [40, 44, 48]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "dogg"], "the network knows no dogg (did you mean dog?)"),
        (["--labels", "zebra"], "known: cat, dog, ふわふわ"),
        (["--background", "0"], "--background 0"),
        (["--background", "1"], "--background 1"),
        (["--background", "nan"], "--background nan"),
        (["--crf", "bilateral_sxy=0"], "crf.bilateral_sxy=0.0: must be a number"),
        (["--crf", "bilateral_sxy=nan"], "crf.bilateral_sxy=nan"),
        (["--crf", "iterations=1.5"], "--crf iterations=1.5: write NAME=NUMBER, or none"),
        (["--crf", "sigma=3"], "there is no parameter sigma (known: iterations, gaussian_sxy"),
        (["--crf", "off"], "--crf off: write NAME=NUMBER, or none"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    segment: Callable[..., int], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment("cat.jpg", *words, crf="" if "--crf" in words else "none") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not list(Path().glob("out/*"))


def test_a_checkpoint_that_is_not_there_is_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["segment", "cat.jpg", "--checkpoint", "nowhere", "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere: train one with `python train.py model=" in error
