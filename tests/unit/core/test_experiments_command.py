"""``tezawari experiments``: from a run and a summary to results and the page."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tezawari.cli import main
from tezawari.core.config import compose_config, config_hash
from tezawari.core.runs import METRICS_FILE, RunRecord

ROOT = Path(__file__).parents[3]
SUMMARY = {
    "method": "network",
    "n": 32,
    "style_accuracy": 0.75,
    "style_accuracy_margin": 0.1,
    "judge": "vgg16",
    "photos": 4,
    "styles": 8,
    "image_size": 256,
    "seed": 0,
    "commit": "abc",
    "cores": 2,
    "processor": "Zen",
    "wall_seconds": 9,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name in ("multistyle_sample", "multistyle_paintings", "rerank"):  # composing all of them takes long
        shutil.copytree(ROOT / "experiments" / name, tmp_path / "experiments" / name)
    for made in [*tmp_path.glob("experiments/*/results.csv"), *tmp_path.glob("experiments/*/figures/*")]:
        made.unlink()
    with (tmp_path / "summary.csv").open("w") as file:
        writer = csv.DictWriter(file, SUMMARY)
        writer.writeheader()
        writer.writerow(SUMMARY)
    return tmp_path


def _run(project: Path, status: str) -> Path:
    run = project / "run"
    run.mkdir()
    RunRecord("multistyle", "0123abcd", 0, status=status, wall_seconds=61.4).write(run)  # type: ignore[arg-type]
    (run / METRICS_FILE).write_text("step,epoch,metric,value\n10,0,val/style_loss,0.25\n10,0,train/loss,3.0\n")
    return run


def _experiments(project: Path, *words: str) -> int:
    return main(["experiments", "--root", str(project), *words])


def test_a_run_and_its_benchmark_become_results_and_a_page(project: Path) -> None:
    words = ["--run", str(_run(project, "finished")), "--summary", str(project / "summary.csv")]
    assert _experiments(project, "--record", "multistyle_sample", *words) == 0
    with (project / "experiments/multistyle_sample/results.csv").open() as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"val/style_loss", "style_accuracy"}
    assert rows["style_accuracy"]["interval"] == "0.1"
    assert rows["style_accuracy"]["config_hash"] == rows["val/style_loss"]["config_hash"] == "0123abcd"
    assert rows["val/style_loss"]["wall_seconds"] == "61"
    assert (project / "experiments/multistyle_sample/figures/curves.png").read_bytes().startswith(b"\x89PNG")
    page = (project / "experiments/README.md").read_text()
    assert "| style_accuracy | network | none | 0.75 ± 0.1 |" in page
    assert "No results yet." in page, "of the other experiment"


def test_a_segmentation_summary_says_its_own_data_and_what_was_published(project: Path) -> None:
    summary = project / "segmentation.csv"
    kept = {name: SUMMARY[name] for name in ("commit", "cores", "processor", "wall_seconds", "seed")}
    row = {**kept, "method": "dcsm + CRF", "n": "150", "data": "150 held-out images", "miou": "0.45"}
    row |= {"miou_margin": "0.02", "published_miou": "0.441", "iou/cat": "0.6"}
    with summary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    words = ["--run", str(_run(project, "finished")), "--summary", str(summary)]
    assert _experiments(project, "--record", "multistyle_sample", *words) == 0
    page = (project / "experiments/README.md").read_text()
    assert "| miou | dcsm + CRF | 0.441 | 0.45 ± 0.02 | 150 held-out images |" in page
    assert "iou/cat" not in page
    assert "iou/cat,dcsm + CRF,0.6,,none" in (project / "experiments/multistyle_sample/results.csv").read_text()


def _rerank_summary(project: Path) -> Path:
    folder = project / "rerank"
    folder.mkdir()
    kept = {name: SUMMARY[name] for name in ("commit", "cores", "processor", "wall_seconds", "seed")}
    rows = [
        {**kept, "method": "search order", "n": 16, "data": "16 words", "ap": 0.61, "ap_margin": 0.01, "rho": ""},
        {**kept, "method": "late, pass 2", "n": 16, "data": "16 words", "ap": 0.99, "ap_margin": 0.004, "rho": "-0.2"},
    ]
    published = ["", "0.896"]
    with (folder / "summary.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "published_ap", "backbone", "ap/banded"])
        writer.writeheader()
        writer.writerows(
            {**row, "published_ap": known, "backbone": "efficientnet_lite0", "ap/banded": 0.5}
            for row, known in zip(rows, published)
        )
    return folder


@pytest.mark.parametrize("named", ["", "summary.csv"])
def test_a_benchmark_without_a_run_becomes_results_and_stands_on_the_page(project: Path, named: str) -> None:
    assert _experiments(project, "--record", "rerank", "--summary", str(_rerank_summary(project) / named)) == 0
    with (project / "experiments/rerank/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["metric"], row["method"]) for row in rows] == [
        ("ap", "search order"),
        ("ap/banded", "search order"),
        ("ap", "late, pass 2"),
        ("rho", "late, pass 2"),
        ("ap/banded", "late, pass 2"),
    ]
    cfg = compose_config(project, "evaluate", ["+experiment=rerank"])
    assert {row["config_hash"] for row in rows} == {config_hash(cfg)}
    assert {(row["size"], row["data"], row["commit"], row["cores"]) for row in rows} == {("16", "16 words", "abc", "2")}
    page = (project / "experiments/README.md").read_text()
    assert "`python evaluate.py +experiment=rerank`" in page
    assert "| ap | late, pass 2 | 0.896 | 0.99 ± 0.004 | 16 words |" in page
    assert "`python train.py +experiment=multistyle_sample`" in page


def test_a_benchmarks_recipe_that_no_longer_composes_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = project / "experiments/rerank/evaluate.yaml"
    recipe.write_text(recipe.read_text() + "  wrosening: 3\n")
    assert _experiments(project) == 2
    assert "worsening" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--record", "rerank"], "needs --summary FOLDER"),
        (["--record", "rerank", "--run", "run", "--summary", "s"], "trains nothing: leave out --run"),
        (["--record", "rerank", "--summary", "{project}/conf"], "cannot read"),
        (["--record", "rerank", "--summary", "{project}/other.csv"], "it lacks method, n"),
        (["--record", "multistyle_sampel", "--run", "run", "--summary", "s"], "multistyle_sample"),
        (["--record", "multistyle_sample"], "needs --run"),
        (["--record", "multistyle_sample", "--run", "nowhere", "--summary", "s"], "not the folder of a run"),
    ],
)
def test_what_is_missing_is_one_line(
    project: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "other.csv").write_text("what,milliseconds,seed\nx,3,0\n")
    assert _experiments(project, *(word.format(project=project) for word in words)) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert said in error


def test_an_unfinished_run_is_no_result(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run", str(_run(project, "stopped")), "--summary", str(project / "summary.csv")]
    assert _experiments(project, "--record", "multistyle_sample", *words) == 2
    assert "has not finished" in capsys.readouterr().err


def test_a_recipe_that_no_longer_composes_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = project / "experiments/multistyle_sample/run.yaml"
    recipe.write_text(recipe.read_text() + "model:\n  style_wieght: 3\n")
    assert _experiments(project) == 2
    assert "style_weight" in capsys.readouterr().err
