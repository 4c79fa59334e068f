"""``tezawari style-pack`` from its words to its files, and its benchmark."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.collect.store_material import collect, rank_by_content

from tezawari.collect.store import open_store
from tezawari.core.errors import UserError, run_guarded
from tezawari.features.backbone import load_backbone
from tezawari.style import paint_command, style_pack_command
from tezawari.style.style_clusters import make_style_packs
from tezawari.style.style_pack import load_style_pack, save_style_pack
from tezawari.style.style_pack_command import folder_images
from tezawari.style.words_to_style_benchmark import benchmark_words_to_style

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(command: object, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)  # type: ignore[attr-defined]
    args = parser.parse_args(words)
    return run_guarded(lambda: command.run(args))  # type: ignore[attr-defined]


def _pack(*words: str) -> int:
    return _run(style_pack_command, *words, "--size", "64")


def _kinds(folder: Path, stripes: int, blobs: int) -> None:
    """Upright stripes, and coarse colours: two kinds of textures."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(stripes):
        wave = 128 + 100 * np.sin(np.arange(80) / 1.5 + 6 * rng.random())
        picture = np.broadcast_to(wave[None, :, None], (70, 80, 3)) + rng.normal(0, 8, (70, 80, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"stripes{number}.png")
    for number in range(blobs):
        coarse = Image.fromarray(np.uint8([[[200, 30, 20], [160, 20, 20]], [[90, 10, 40], [220, 60, 20]]]))
        noise = rng.normal(0, 8, (70, 80, 3))
        picture = np.asarray(coarse.resize((80, 70), Image.Resampling.BICUBIC)) + noise
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"blobs{number}.png")


def test_a_folder_becomes_clusters_a_picture_and_packs_that_paint(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    _kinds(here / "images", 5, 4)
    (here / "images" / "notes.txt").write_text("no picture")
    (here / "images" / "again.png").write_bytes((here / "images" / "blobs0.png").read_bytes())
    words = ["ぶつぶつ", "--images", "images", "--cluster", "all", "--members", "3"]
    assert _pack(*words, "--merge", "minimise", "--merge", "max", "-o", "out") == 0
    said = capsys.readouterr().out
    assert "9 images, 2 clusters (silhouette 2: 0." in said, "a copy does not count"
    assert "notes.txt" in caplog.text
    with Image.open("out/ぶつぶつ-clusters.jpg") as sheet:
        assert sheet.height == 2 * 132 + 4
    packs = {path.name: load_style_pack(path) for path in Path("out").glob("*.safetensors")}
    assert sorted(packs) == [
        f"ぶつぶつ-{number}-{merge}.safetensors" for number in (1, 2) for merge in ("max", "minimise")
    ]
    assert {image.name[:4] for image in packs["ぶつぶつ-1-max.safetensors"].images} == {"stri"}
    assert packs["ぶつぶつ-2-minimise.safetensors"].targets[64].grams["block9"].shape[0] == 3
    painted = ["images/stripes0.png", "--size", "64", "--steps", "3", "--keep-color", "-o", "painted.png"]
    assert (
        _run(paint_command, *painted, "--style", "out/ぶつぶつ-2-max.safetensors=2", "--style", "images/blobs1.png")
        == 0
    )
    with Image.open("painted.png") as picture:
        assert picture.size == (64, 56)


def test_collected_images_are_the_best_and_keep_author_and_licence(here: Path) -> None:
    with open_store(Path("collected")) as store:
        collect(store, "ざらざら", 7)
        rank_by_content(store, "ざらざら")
        best = store.best_images("ざらざら")
    assert _pack("ざらざら", "--keep", "5", "--clusters", "1", "-o", "out") == 0
    pack = load_style_pack(Path("out/ざらざら-1-mean.safetensors"))
    assert {image.author for image in pack.images} == {image.found.author for image in best[:5]}
    assert {image.licence for image in pack.images} == {"by-sa 4.0"}
    assert (pack.cluster, pack.clusters, len(pack.images)) == (1, 1, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ふわふわ"], "there is no store collected"),
        (["few", "--images", "few"], "few: 3 images in the folder few, at least 4 are needed"),
        (["w", "--images", "nowhere"], "--images nowhere: there is no such folder"),
        (["w", "--images", "images", "--cluster", "9", "--clusters", "2"], "--cluster 9: there are 2 clusters"),
        (["w", "--images", "images", "--clusters", "40"], "40 clusters of 5 different images"),
        (["w", "--images", "images", "--keep", "2"], "--keep 2"),
        (["w", "--images", "images", "--layer", "blok9"], "did you mean block9"),
        (["w", "--images", "images", "--layers", "blok2"], "blok2"),
        (["w", "--images", "images", "--backbone", "vgg61"], "vgg61"),
        (["w", "--images", "images", "-o", "images/stripes0.png"], "a file is in the way"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _kinds(here / "few", 3, 0)
    _kinds(here / "images", 3, 2)
    assert _pack(*words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert not list(here.rglob("*.safetensors"))


def test_a_word_of_the_store_with_too_few_images_says_how_to_get_more(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(Path("collected")) as store:
        collect(store, "ざらざら", 2)
    assert _pack("ざらざら") == 2
    assert (
        "2 images in the store collected, at least 4 are needed: tezawari collect ざらざら" in capsys.readouterr().err
    )


def test_painting_with_a_pack_of_another_backbone_names_both(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _kinds(here / "images", 1, 0)
    network = load_backbone("vgg16", ["relu1_1"], "random")
    images = folder_images(Path("images"), 64)
    packs = make_style_packs("w", images, ["mean"], backbone=network, layers=["relu1_1"], side=64)
    save_style_pack(Path("w.safetensors"), packs["mean"])
    words = ["images/stripes0.png", "--size", "64", "--steps", "2", "-o", "painted.png"]
    assert _run(paint_command, *words, "--style", "w.safetensors") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "vgg16, which is not efficientnet_lite0" in error
    assert not Path("painted.png").exists()


def test_the_benchmark_measures_every_merge_of_every_word(here: Path) -> None:
    for word in ("stripes", "mixed"):
        _kinds(here / "words" / word, 5, 0 if word == "stripes" else 4)
    files = benchmark_words_to_style(
        "words",
        "out",
        photos="words/mixed",
        max_photos=1,
        members=3,
        merges=["mean", "minimise"],
        image_size=64,
        steps=3,
        judge_weights="random",
    )
    with files["members"].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    methods = ["photo", "centre image", "mean", "minimise"]
    assert [row["method"] for row in rows if row["word"] == "mixed"][::3] == methods
    assert len(rows) == 2 * 4 * 3
    with files["pairwise"].open(encoding="utf-8") as file:
        nearer = {(row["method"], row["other"]): float(row["nearer"]) for row in csv.DictReader(file)}
    own = {(row["method"], row["word"], row["member"]): float(row["distance"]) for row in rows}
    expected = np.mean([own["mean", *place] < d for (name, *place), d in own.items() if name == "photo"])
    assert nearer["mean", "photo"] == pytest.approx(expected)
    assert len(nearer) == 4 * 3
    with files["summary"].open(encoding="utf-8") as file:
        summary = {row["method"]: row for row in csv.DictReader(file)}
    assert float(summary["photo"]["content"]) == 0 < float(summary["mean"]["content"])
    by_word = [
        np.mean([d for (m, w, _), d in own.items() if (m, w) == ("mean", word)]) for word in ("mixed", "stripes")
    ]
    assert float(summary["mean"]["mean"]) == pytest.approx(np.mean(by_word), rel=1e-4)
    for row in summary.values():
        assert float(row["nearest"]) <= float(row["mean"]) <= float(row["farthest"])
    assert "| minimise" in files["table"].read_text()
    with Image.open(files["figure"]) as figure:
        assert figure.width > 8 * 144


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"images": None}, "no images are named"),
        ({"images": "nowhere"}, "no such folder"),
        ({"words": ["strips", "mixed"]}, "did you mean stripes"),
        ({"words": ["mixed"]}, "1 words"),
        ({"photos": "nowhere"}, "benchmark.photos=nowhere"),
        ({"judge": "efficientnet_lite0"}, "no judge of it"),
        ({"image_size": 8}, "image_size=8"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused_at_once(here: Path, values: dict[str, object], message: str) -> None:
    for word in ("stripes", "mixed"):
        _kinds(here / "words" / word, 5, 0)
    with pytest.raises(UserError, match=message):
        benchmark_words_to_style(**{"images": "words", "output_dir": "out", "image_size": 64, **values})  # type: ignore[arg-type]
    assert not Path("out").exists()


def test_real_textures_cluster_by_their_look(shared_dir: Path, here: Path) -> None:
    """Eight banded and eight crystalline textures, unlabelled, mostly part when two clusters are asked for."""
    folders = sorted((shared_dir / "data" / "dtd10").iterdir())
    words = [folder.name for folder in (folders[0], folders[-1])]
    for folder in (folders[0], folders[-1]):
        for number, path in enumerate(sorted(folder.iterdir())[:8]):
            (here / "both").mkdir(exist_ok=True)
            (here / "both" / f"{folder.name}{number}{path.suffix}").write_bytes(path.read_bytes())
    assert (
        _run(style_pack_command, "both", "--images", "both", "--size", "64", "--clusters", "2", "--cluster", "all") == 0
    )
    packs = [load_style_pack(path) for path in sorted(Path("style-packs").glob("*.safetensors"))]
    purity = sum(max(sum(i.name.startswith(w) for i in pack.images) for w in words) for pack in packs)
    assert purity >= 12
    assert all(torch.isfinite(gram).all() for pack in packs for gram in pack.targets[64].grams.values())
