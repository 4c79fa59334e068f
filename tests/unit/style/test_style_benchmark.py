"""The style benchmark from the words of ``evaluate.py`` to its tables and its figure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image
from torch import nn

from tezawari.cli import evaluate
from tezawari.core.seeding import epoch_order
from tezawari.core.tables import markdown_table
from tezawari.data.images import ImagesData
from tezawari.style import style_benchmark
from tezawari.style.benchmark_report import Measurement, summarise
from tezawari.style.network import ConditionalNetwork, build_network
from tezawari.style.package import save_network

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
STYLES = {"bricks": "brick", "cells": "immunohistochemistry", "eye": "retina"}
PHOTOS = ("astronaut", "coffee", "cat", "rocket")
SIZE = 64


@torch.no_grad()
def _network(order: tuple[int, ...] = (0, 1, 2)) -> ConditionalNetwork:
    """An untrained network of three styles, far from neutral, its styles in the order asked."""
    torch.manual_seed(0)
    network = build_network("deepstylecam", 3)
    nn.init.normal_(network.to_rgb.weight, std=0.05)
    rows = [row.clone() for row in network.style_fusion.style_rows]  # type: ignore[union-attr]
    for place, number in enumerate(order):
        network.style_parameters(place)[0].copy_(4 * rows[number])
    return network


def _save(path: Path, order: tuple[int, ...] = (0, 1, 2), trained_with: str | None = "vgg16") -> Path:
    names = [list(STYLES)[number] for number in order]
    return save_network(path, _network(order), names, {"backbone_name": trained_with})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "photos").mkdir()
    (folder / "styles").mkdir()
    (folder / "empty").mkdir()
    for name in PHOTOS:
        Image.fromarray(getattr(skimage.data, name)()).resize((100, 80)).save(folder / "photos" / f"{name}.png")
    for name, source in STYLES.items():
        picture = Image.fromarray(getattr(skimage.data, source)()).convert("RGB")
        picture.resize((160, 140)).save(folder / "styles" / f"{name}.png")
    _save(folder / "network.safetensors")
    return folder


def _words(folder: Path, out: Path, *more: str) -> list[str]:
    given = {word.partition("=")[0] for word in more}
    usual = {
        "benchmark.checkpoint": folder / "network.safetensors",
        "benchmark.photos": folder / "photos",
        "benchmark.styles": folder / "styles",
        "benchmark.image_size": SIZE,
        "benchmark.gatys_pairs": 0,
        "output_dir": out,
    }
    return ["benchmark=style", *(f"{name}={value}" for name, value in usual.items() if name not in given), *more]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    """The folder that a whole benchmark left."""
    painting = ["benchmark.gatys_pairs=4", "benchmark.gatys_steps=2", "benchmark.gatys_weights=random"]
    assert evaluate(_words(folder, folder / "out", *painting), ROOT) == 0
    return folder / "out" / "style"


def _of(done: Path, method: str) -> list[dict[str, str]]:
    return [row for row in _read(done / "results.csv") if row["method"] == method]


def test_every_method_is_measured_on_every_photo_and_style(done: Path) -> None:
    for method in ("identity", "style image", "network", "network, keep color"):
        asked = {(row["photo"], row["style"]) for row in _of(done, method)}
        assert asked == {(f"{photo}.png", style) for photo in PHOTOS for style in STYLES}
        assert len(_of(done, method)) == len(asked)
    painted = [row["style"] for row in _of(done, "Gatys")]
    assert len(painted) == 4
    assert set(painted) == set(STYLES)


def test_the_controls_stand_where_they_must(done: Path) -> None:
    identity = _of(done, "identity")
    for photo in PHOTOS:
        assert sum(int(row["correct"]) for row in identity if row["photo"] == f"{photo}.png") == 1
    assert all(float(row["content_distance"]) == 0 and float(row["color_drift"]) == 0 for row in identity)
    assert all(row["correct"] == "1" for row in _of(done, "style image"))
    accuracy = {row["method"]: float(row["style_accuracy"]) for row in _read(done / "summary.csv")}
    assert accuracy["identity"] == pytest.approx(1 / 3, rel=1e-5)
    assert accuracy["style image"] == 1


def test_kept_colours_drift_hardly(done: Path) -> None:
    """These pictures are of middling lightness, where sRGB has nearly all colours and little is clamped."""
    for plain, kept in zip(_of(done, "network"), _of(done, "network, keep color")):
        assert float(kept["color_drift"]) < 0.1 < 10 < float(plain["color_drift"])
        assert float(kept["color_and_lightness_drift"]) > float(kept["color_drift"])


def test_the_summary_is_the_mean_of_the_results(done: Path) -> None:
    for row in _read(done / "summary.csv"):
        of_method = _of(done, row["method"])
        assert int(row["n"]) == len(of_method)
        for summary, result in {"style_accuracy": "correct"}.items() | {
            (name, name) for name in ("gram_distance", "content_distance", "color_drift")
        }:
            mean = sum(float(r[result]) for r in of_method) / len(of_method)
            assert float(row[summary]) == pytest.approx(mean, rel=1e-4, abs=1e-6)
        assert row["judge"] == "efficientnet_lite0"
        assert row["trained_with"] == "vgg16"


def test_distances_are_the_mean_over_the_layers(done: Path) -> None:
    for row in _read(done / "results.csv"):
        layers = [float(value) for name, value in row.items() if name.startswith("gram_distance/")]
        assert len(layers) == 5
        assert float(row["gram_distance"]) == pytest.approx(sum(layers) / 5, rel=1e-4)


def test_each_two_styles_are_mixed(done: Path) -> None:
    mixes = _read(done / "mixing.csv")
    assert {(row["first"], row["second"]) for row in mixes} == {
        ("bricks", "cells"),
        ("bricks", "eye"),
        ("cells", "eye"),
    }
    assert {row["photo"] for row in mixes} == {f"{photo}.png" for photo in PHOTOS}
    assert all(float(row[name]) > 0 for row in mixes for name in ("network", "cross_fade", "pixels"))


def test_the_figure_is_small_and_the_table_names_every_method(done: Path) -> None:
    assert (done / "figure.jpg").stat().st_size <= 300_000
    with Image.open(done / "figure.jpg") as figure:
        assert figure.format == "JPEG"
        # Three styles and four photos with a row and a column for themselves, the matrix beside them.
        assert figure.width > 4 * 112
        assert figure.height > 5 * 112
    table = (done / "summary.md").read_text()
    for name in ("identity", "style image", "network, keep color", "Gatys", "cross-fade", *STYLES):
        assert f"| {name} " in table
    painted = {(row["photo"], row["style"]) for row in _of(done, "Gatys")}
    same = [float(row["gram_distance"]) for row in _of(done, "network") if (row["photo"], row["style"]) in painted]
    assert "On the 4 pairs that Gatys painted the network has style accuracy" in table
    assert f"Gram distance {sum(same) / 4:.3f}, content" in table


def test_the_order_of_the_styles_changes_nothing(folder: Path, done: Path) -> None:
    turned = folder / "turned"
    turned.mkdir()
    _save(turned / "network.safetensors", (2, 0, 1))
    words = _words(folder, turned, f"benchmark.checkpoint={turned}")
    assert evaluate(words, ROOT) == 0

    def by_picture(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
        rows = [row for row in _read(path / "results.csv") if row["method"] != "Gatys"]
        return {(row["method"], row["photo"], row["style"]): row for row in rows}

    before, after = by_picture(done), by_picture(turned / "style")
    assert before.keys() == after.keys()
    for key, row in before.items():
        assert row["nearest"] == after[key]["nearest"]
        assert float(row["gram_distance"]) == pytest.approx(float(after[key]["gram_distance"]), abs=1e-4)


# --- which photos and styles ------------------------------------------------------------------------------------------


def _find(config: dict[str, object], names: list[str], photos: Path | None = None, styles: Path | None = None, n=20):  # type: ignore[no-untyped-def]
    words = [None if path is None else str(path) for path in (photos, styles)]
    return style_benchmark.find_pictures(config, names, *words, n, SIZE, 0)  # type: ignore[arg-type]


def test_the_photos_of_a_run_are_those_that_it_held_out(folder: Path, tmp_path: Path) -> None:
    photos = tmp_path / "many"
    photos.mkdir()
    for number in range(10):
        Image.effect_noise((70, 90), 40 + number).convert("RGB").save(photos / f"{number}.png")
    settings = {"content_dir": str(photos), "style_dir": str(folder / "styles"), "val_fraction": 0.3, "seed": 3}
    split = ImagesData(image_size=32, **settings).find()  # type: ignore[arg-type]
    # A run's folder as training leaves it: the configuration beside the network.
    section = {"_target_": "tezawari.data.images.ImagesData", "image_size": 32, **settings}
    (tmp_path / "config.yaml").write_text(f"model: {{net: johnson}}\ndata: {section}\n")
    config = style_benchmark.run_config(tmp_path / "checkpoints" / "last.ckpt")
    assert config == style_benchmark.run_config(tmp_path / "network.safetensors")
    for named in (None, photos):  # naming the training folder must not let the trained photos in
        found = _find(config, list(STYLES), named)
        assert set(found.photos) == {photo.name for photo in split.held_out}
        assert not set(found.photos) & {photo.name for photo in split.train}
        assert all(photo.shape == (3, SIZE, SIZE) for photo in found.photos.values())
    assert len(_find(config, list(STYLES), folder / "photos").photos) == len(PHOTOS)


def test_styles_are_measured_at_the_size_of_the_run_and_in_the_order_of_the_network(folder: Path) -> None:
    config = {"data": {"_target_": "tezawari.data.sample.SampleData", "style_size": 96}}
    found = _find(config, ["eye", "unseen", "bricks"], folder / "photos", folder / "styles")
    assert list(found.styles) == ["eye", "bricks"]
    assert all(min(image.shape[1:]) == 96 for image in found.styles.values())


def test_without_a_run_the_sample_is_taken(folder: Path) -> None:
    found = _find({}, ["hubble", "brick"])
    assert list(found.photos) == ["chelsea", "china", "scene0", "scene1"]
    assert list(found.styles) == ["hubble", "brick"]


def test_the_seed_draws_the_photos(folder: Path) -> None:
    drawn = _find({}, list(STYLES), folder / "photos", folder / "styles", n=2)
    names = sorted(f"{photo}.png" for photo in PHOTOS)
    assert list(drawn.photos) == [names[place] for place in sorted(epoch_order(0, 0, 4)[:2])]


def test_pairs_come_once_and_each_style_first() -> None:
    for photos, styles in ((1, 3), (3, 1), (4, 6), (5, 5)):
        pairs = list(style_benchmark._diagonals(photos, styles))
        assert len(set(pairs)) == len(pairs) == photos * styles
        assert [style for _, style in pairs[:styles]] == list(range(styles))


# --- summaries --------------------------------------------------------------------------------------------------------


def _row(photo: str, style: str, nearest: str) -> Measurement:
    return Measurement("network", photo, style, nearest, {"a": 0.2, "b": 0.4}, 0.5, 1.0, 2.0)


def test_the_interval_is_over_photos_not_over_pictures() -> None:
    alike = [_row(photo, style, "x") for photo in "pq" for style in "xy"]
    (summary,) = summarise(alike)
    assert summary.style_accuracy == 0.5
    assert summary.style_accuracy_margin == 0
    (apart,) = summarise([_row("p", style, style) for style in "xy"] + [_row("q", style, "z") for style in "xy"])
    assert apart.style_accuracy == 0.5
    assert apart.style_accuracy_margin == pytest.approx(1.96 * 0.5**0.5 / 2**0.5)
    assert apart.gram_distance == pytest.approx(0.3)


def test_a_table_lines_up() -> None:
    lines = markdown_table(["method", "n"], [["a", "1"], ["a longer one", "1000"]]).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("|    1 |")


# --- what the user can mend -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["benchmark.checkpoint=null"], "benchmark.checkpoint=FILE"),
        (["benchmark.checkpoint={folder}/none.safetensors"], "none.safetensors: train one"),
        (["benchmark.checkpoint={folder}/unsaid.safetensors"], "does not say which backbone"),
        (["benchmark.photos={folder}/nowhere"], "there is no such folder; type benchmark.photos=FOLDER"),
        (["benchmark.photos={folder}/empty"], "holds no picture"),
        (["benchmark.styles={folder}/nowhere"], "type benchmark.styles=FOLDER"),
        (["benchmark.styles={folder}/photos"], "holds 0 of the network's styles bricks, cells, eye"),
        (["benchmark.styles=null"], "benchmark.styles=FOLDER"),
        (["benchmark.judge=vgg16"], "was trained to please vgg16"),
        (["benchmark.judge=efficientnet"], "did you mean efficientnet"),
        (["benchmark.judge_weights={folder}/none.pth"], "benchmark.judge_weights="),
        (["benchmark.image_size=32"], "at least 64"),
        (["benchmark.max_photos=0"], "benchmark.max_photos=0"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _save(folder / "unsaid.safetensors", trained_with=None)
    out = tmp_path / "out"
    assert evaluate(_words(folder, out, *(word.format(folder=folder) for word in words)), ROOT) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not out.exists()


def test_a_judge_whose_weights_cannot_be_had_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    network = _save(tmp_path / "network.safetensors", trained_with="efficientnet_lite0")
    assert evaluate(_words(folder, tmp_path / "out", f"benchmark.checkpoint={network}"), ROOT) == 2
    error = capsys.readouterr().err
    assert "the judge vgg16 has no weights here" in error
    assert "benchmark.judge_weights=FILE" in error
    assert "backbone.weights" not in error
    assert error.count("\n") == 1
