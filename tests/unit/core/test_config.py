from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel, Field, ValidationError

from tezawari.cli import evaluate, train
from tezawari.core.config import compose_config, config_hash, expand_sweep, signature_schema
from tezawari.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("modle=multistyle", "did you mean model?"),
        ("model=multistile", "did you mean multistyle?"),
        ("trainer=gppu", "did you mean gpu"),
        ("model.learning_rat=1", "did you mean learning_rate"),
        ("+model.learning_rat=1", "did you mean learning_rate"),
        ("trainer.max_step=1", "did you mean max_steps"),
        ("backbone.nam=vgg16", "did you mean name"),
        ("model.learning_rate=abc", "model.learning_rate=abc"),
        ("model.learning_rate='0.1'", "model.learning_rate=0.1: input should be a valid number"),
        ("model.net=vgg", "'deepstylecam', 'johnson' or 'swift'"),
        ("trainer.max_steps=-3", "trainer.max_steps=-3"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5"),
        ("trainer.compile=1", "trainer.compile=1"),
        ("seed=-1", "seed=-1"),
        ("resume=3", "resume=3"),
        ("+extra=1", "extra"),
        (
            "model._target_=tezawari.style.nowhere.Model",
            "model._target_=tezawari.style.nowhere.Model cannot be imported",
        ),
        ("experiment=nosuch", "experiment"),
        ("nonsense", "name=value"),
        ("--verbos", "no option --verbos"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_was_meant(
    word: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([word, f"output_dir={tmp_path / 'out'}"], ROOT) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
    assert not (tmp_path / "out").exists()


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(UserError, match=r"max_steps.*net|net.*max_steps"):
        compose_config(ROOT, "train", ["trainer.max_steps=0", "model.net=x"])


def test_train_without_words_means_multistyle_on_the_sample_data() -> None:
    cfg = compose_config(ROOT, "train", [])
    assert cfg.model._target_.endswith("MultiStyle")
    assert cfg.data._target_.endswith("SampleData")


def test_the_hash_names_the_recipe_and_nothing_else() -> None:
    def hashed(*words: str) -> str:
        return config_hash(compose_config(ROOT, "train", list(words)))

    plain = hashed()
    assert plain == hashed(
        "output_dir=elsewhere",
        "resume=auto",
        "logger=wandb",
        "callbacks=none",
        "data.num_workers=2",
        "model=multistyle",
    )
    changed = [hashed("seed=1"), hashed("model.net=johnson"), hashed("trainer.max_steps=7"), hashed("backbone=vgg16")]
    assert len({plain, *changed}) == 5


def test_a_sweep_offers_every_value() -> None:
    rows = list(expand_sweep(ROOT, "train", ["seed=1,2,3", "model.net=deepstylecam,johnson", "trainer=cpu"]))
    assert {word for row in rows for word in row} == {
        *("seed=1", "seed=2", "seed=3"),
        *("model.net=deepstylecam", "model.net=johnson"),
        "trainer=cpu",
    }
    assert all(len(row) == 3 for row in rows)


def test_a_sweep_with_one_wrong_value_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["-m", "seed=0,x", f"output_dir={tmp_path / 'out'}"], ROOT) == 2
    assert "seed=x" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def _function(
    count: int,
    rate: float = 0.1,
    size: tuple[int, int] = (1, 2),
    where: Path | None = None,
    kind: Literal["a", "b"] = "a",
    share: Annotated[float, Field(gt=0, le=1)] = 0.5,
    schema: str = "",
) -> None: ...


@pytest.mark.parametrize(
    ("values", "valid"),
    [
        ('{"count": 1}', True),
        ('{"count": 1, "rate": 2, "size": [3, 4], "where": "x", "kind": "b", "share": 1, "schema": "s"}', True),
        ("{}", False),
        ('{"count": 1.5}', False),
        ('{"count": "1"}', False),
        ('{"count": true}', False),
        ('{"count": 1, "rate": "0.1"}', False),
        ('{"count": 1, "size": [1]}', False),
        ('{"count": 1, "kind": "c"}', False),
        ('{"count": 1, "share": 0}', False),
        ('{"count": 1, "coutn": 1}', False),
    ],
)
def test_a_signature_checks_like_its_annotations(values: str, valid: bool) -> None:
    schema: type[BaseModel] = signature_schema(_function)
    if valid:
        schema.model_validate_json(values)
    else:
        with pytest.raises(ValidationError):
            schema.model_validate_json(values)


def _project(folder: Path, benchmark: str) -> Path:
    (folder / "conf" / "benchmark").mkdir(parents=True)
    (folder / "conf" / "evaluate.yaml").write_text((ROOT / "conf" / "evaluate.yaml").read_text())
    for name in ("style", "fake"):
        (folder / "conf" / "benchmark" / f"{name}.yaml").write_text(benchmark)
    return folder


def _fake_benchmark(size: int, output_dir: str) -> dict[str, Path]:
    if size < 0:
        raise UserError(f"benchmark.size={size}: must be at least 0")
    Path(output_dir).mkdir(parents=True)
    table = Path(output_dir) / "table.csv"
    table.write_text(f"size\n{size}\n")
    return {"table": table}


def test_evaluate_runs_the_function_of_a_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _project(tmp_path, OmegaConf.to_yaml({"_target_": f"{__name__}._fake_benchmark", "size": 3}))
    words = ["benchmark=fake", f"output_dir={tmp_path / 'out'}"]
    assert evaluate([*words, "benchmark.size=4"], root) == 0
    assert capsys.readouterr().out == f"table  {tmp_path / 'out' / 'table.csv'}\n"
    assert (tmp_path / "out" / "table.csv").read_text() == "size\n4\n"
    assert evaluate([*words, "benchmark.size=big"], root) == 2
    assert evaluate([*words, "benchmark=fast"], root) == 2
    capsys.readouterr()
    assert evaluate([*words, "benchmark.size=-1"], root) == 2
    assert capsys.readouterr().err == "error: benchmark.size=-1: must be at least 0\n"


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("words=[ふわふわ,ごつごつ]", ["ふわふわ", "ごつごつ"]),
        ("data.words=[ふわふわ, metal]", ["ふわふわ", "metal"]),
        ("words=['ふわ,ふわ',\"ごつごつ\"]", ["ふわ,ふわ", "ごつごつ"]),
    ],
)
def test_words_are_typed_as_they_are_written(typed: str, expected: list[str]) -> None:
    assert list(compose_config(ROOT, "train", ["model=saliency", "data=words", typed]).data.words) == expected


def test_a_path_may_be_of_any_letters() -> None:
    words = ["data=images", "data.content_dir=写真/a-b", "data.style_dir=絵"]
    assert compose_config(ROOT, "train", words).data.content_dir == "写真/a-b"
