"""The benchmark of inverses from the words of ``evaluate.py`` to its tables and its figure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import skimage.metrics
import torch
from PIL import Image

from tezawari.cli import evaluate
from tezawari.core.seeding import sample_rng
from tezawari.data.content_style import central_crop, decode
from tezawari.style.inverse.inverse_benchmark import choose_photos, non_local_means
from tezawari.style.inverse.report import Measurement, summarise
from tezawari.style.inverse.transforms import add_noise

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[4]
METHODS = ("as it is", "network", "local Wiener filter", "non-local means")
TASKS = ("denoise", "superres", "colorize")


def words(material: Path, out: Path, *more: str) -> list[str]:
    networks = ",".join(str(material / f"{task}.safetensors") for task in TASKS)
    usual = {
        "benchmark.checkpoint": f"[{networks}]",
        "benchmark.photos": material / "photos",
        "benchmark.image_size": 64,
        "benchmark.judge_weights": "random",
        "output_dir": out,
    }
    given = {word.partition("=")[0] for word in more}
    return ["benchmark=inverse", *(f"{name}={value}" for name, value in usual.items() if name not in given), *more]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def done(material: Path) -> Path:
    """The folder that a whole benchmark left."""
    assert evaluate(words(material, material / "out"), ROOT) == 0
    return material / "out" / "inverse"


def test_every_task_is_measured_at_each_of_its_levels_beside_its_baseline(done: Path) -> None:
    rows = read(done / "summary.csv")
    noisy = [f"noise {level}, {m}" for level in (15, 25, 50) for m in METHODS]
    lower = [f"bicubic {scale}x, {method}" for scale in (2, 4) for method in ("as it is", "network")]
    assert [row["method"] for row in rows] == [*noisy, *lower, "grey, as it is", "grey, network"]
    assert all(row["n"] == "3" for row in rows)
    assert all(float(row["psnr_gain"]) == 0 for row in rows if row["method"].endswith("as it is"))
    psnr = [float(row["psnr"]) for row in rows if row["method"].endswith("as it is")]
    assert psnr[0] > psnr[1] > psnr[2]
    assert psnr[3] > psnr[4]
    assert all(float(row["psnr_gain"]) > 1 for row in rows if "Wiener" in row["method"])


def test_the_summary_is_the_mean_of_the_results(done: Path, material: Path) -> None:
    results = read(done / "results.csv")
    for row in read(done / "summary.csv"):
        same = [r for r in results if f"{r['degradation']}, {r['method']}" == row["method"]]
        for name in ("psnr", "ssim", "perceptual_distance", "color_drift"):
            assert float(row[name]) == pytest.approx(sum(float(r[name]) for r in same) / 3, rel=1e-4)
        assert row["trained_with"] == "denoise vgg16; superres vgg16; colorize vgg16"
    noisy = next(r for r in results if r["degradation"] == "noise 15" and r["photo"] == "astronaut.png")
    truth = central_crop(decode(material / "photos" / "astronaut.png", 128), 64)
    expected = skimage.metrics.peak_signal_noise_ratio(
        truth.numpy(), add_noise(truth, 15.0, sample_rng(0, 0, 0)).numpy(), data_range=1
    )
    assert float(noisy["psnr"]) == pytest.approx(expected, abs=1e-3)


def test_the_figure_is_small_and_the_table_names_every_method(done: Path) -> None:
    assert (done / "figure.jpg").stat().st_size <= 300_000
    with Image.open(done / "figure.jpg") as figure:
        assert figure.width > 7 * 160
        assert figure.height > 3 * 160
    table = (done / "summary.md").read_text()
    for name in ("noise 50, network", "bicubic 4x, as it is", "grey, network", "noise 15, non-local means"):
        assert f"| {name} " in table


def test_non_local_means_take_noise_away() -> None:
    clean = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)).repeat_interleave(12, 1)
    clean = clean.repeat_interleave(12, 2)
    noisy = add_noise(clean, 25.0, sample_rng(0, 0, 0))
    assert (non_local_means(noisy, 25.0) - clean).square().mean() < 0.3 * (noisy - clean).square().mean()


def test_gains_are_paired_photo_by_photo() -> None:
    def row(method: str, photo: str, psnr: float) -> Measurement:
        return Measurement("c", "denoise", "noise 9", method, photo, psnr, 0.5, 0.1, 1.0)

    rows = [row("as it is", "p", 20), row("as it is", "q", 30), row("network", "q", 32), row("network", "p", 22)]
    _, network = summarise(rows)
    assert (network.psnr_gain, network.psnr_gain_margin) == (2, 0)


def test_the_photos_of_a_run_are_those_it_held_out(material: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "network.safetensors").write_bytes((material / "denoise.safetensors").read_bytes())
        (folder / "config.yaml").write_text(
            "model: {}\ndata: {_target_: tezawari.data.images.ImagesData, val_fraction: 0.3, image_size: 24, "
            f"content_dir: {photos}, style_dir: {material / 'photos'}, style_size: 16, seed: {seed}}}\n"
        )
        return str(folder)

    photos = tmp_path / "four"
    photos.mkdir()
    for number in range(4):
        Image.effect_noise((80, 70), 40 + number).convert("RGB").save(photos / f"{number}.png")
    runs = [run(f"run{seed}", seed) for seed in range(8)]
    held_out = [next(iter(choose_photos([one], None, 20, 64, 0).photos)) for one in runs]
    assert len(set(held_out)) > 1
    other = next(number for number, name in enumerate(held_out) if name != held_out[0])
    assert choose_photos([runs[0], runs[0]], None, 20, 64, 0).photos.keys() == {held_out[0]}
    with pytest.raises(Exception, match="held out different photos"):
        choose_photos([runs[0], runs[other]], None, 20, 64, 0)
    assert [image.shape for image in choose_photos([runs[0]], None, 20, 64, 0).photos.values()] == [(3, 64, 64)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("benchmark.checkpoint=null", "benchmark.checkpoint=RUN"),
        ("benchmark.checkpoint={folder}/none.safetensors", "no checkpoint at"),
        ("benchmark.checkpoint={folder}/style.safetensors", "is not a network of model=inverse"),
        ("benchmark.photos={folder}/nowhere", "type benchmark.photos=FOLDER"),
        ("benchmark.image_size=32", "at least 64"),
        ("benchmark.judge=efficientnet", "did you mean efficientnet"),
    ],
)
def test_a_mistake_is_one_line(
    more: str, said: str, material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(words(material, tmp_path / "out", more.format(folder=material)), ROOT) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out").exists()
