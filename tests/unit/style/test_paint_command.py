"""``tezawari paint`` from its words to its files."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import skimage.data
from PIL import Image, ImageCms

from tezawari import cli
from tezawari.style import paint_command

pytestmark = pytest.mark.usefixtures("one_thread")

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.data.chelsea()).resize((80, 64)).save("photo.jpg", icc_profile=PROFILE)
    Image.fromarray(skimage.data.coffee()).resize((64, 64)).save("style.png")
    Image.fromarray(skimage.data.astronaut()).resize((64, 64)).save("a=b.png")
    halves = Image.new("L", (80, 64))
    halves.paste(255, (40, 0, 80, 64))
    halves.save("halves.png")
    return tmp_path


def _paint(*words: str) -> int:
    return cli.main(["paint", "photo.jpg", "--size", "64", "--steps", "4", *words])


def test_a_painting_keeps_format_and_profile_and_previews_appear(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _paint("--style", "style.png=2", "--style", "a=b.png", "--preview-every", "2", "-o", "out/painted") == 0
    with Image.open("out/painted.jpg") as painted:
        assert painted.size == (64, 51)
        assert painted.info["icc_profile"] == PROFILE
    assert {path.name for path in Path("out").iterdir()} == {
        "painted.jpg",
        "painted-preview-0002.jpg",
        "painted-preview-0004.jpg",
    }
    said = capsys.readouterr()
    assert said.out.strip() == str(Path("out/painted.jpg"))
    assert "step 4/4  64 px  loss" in said.err


def test_guides_send_styles_to_their_places(files: Path) -> None:
    words = ["--style", "style.png", "--style", "a=b.png", "--guide", "halves.png"]
    assert _paint(*words, "--feather", "2", "-o", "guided.png") == 0
    assert Path("guided.png").is_file()


def test_ctrl_c_keeps_the_best_so_far(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = paint_command._Watch.__call__

    def interrupted_at_two(watch: paint_command._Watch, now: paint_command.Progress) -> bool:
        assert now.step <= 2, "it went on after Ctrl-C"
        if now.step == 2:
            signal.raise_signal(signal.SIGINT)
        return tell(watch, now)

    monkeypatch.setattr(paint_command._Watch, "__call__", interrupted_at_two)
    before = signal.getsignal(signal.SIGINT)
    assert _paint("--style", "style.png", "-o", "out.png") == 130
    assert signal.getsignal(signal.SIGINT) is before
    with Image.open("out.png") as painted:
        assert painted.size == (64, 51)
    assert "stopped early" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no style was asked for"),
        (["--style", "nowhere.png"], "nowhere.png"),
        (["--style", "style.png=x"], "not a number"),
        (["--style", "style.png=-1"], "0 or more"),
        (["--style", "style.png", "--guide", "style.png"], "64×64 pixels and the photo is 80×64"),
        (["--style", "style.png", "--size", "8"], "--size 8"),
        (["--style", "style.png", "--steps", "0"], "paint nothing"),
        (["--style", "style.png", "--preview-every", "0"], "--preview-every 0"),
        (["--style", "style.png", "--tv-weight", "nan"], "--tv-weight"),
        (["--style", "style.png", "--backbone", "vgg61"], "did you mean"),
        (["--style", "style.png", "--backbone", "vgg16", "--weights", "style.png"], "style.png"),
        (["--style", "style.png", "-o", "photo.jpg"], "the photo itself"),
        (["--style", "style.png", "-o", "style.png/out.png"], "nothing can be written"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    files: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(files.rglob("*"))
    assert _paint(*words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert sorted(files.rglob("*")) == before
