"""``evaluate.py benchmark=collect_speed`` and ``collect_kills``: honest servers, few images, real processes."""

from __future__ import annotations

import csv
import http.client
import io
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tests.unit.collect.store_material import encoded, fetched, find, picture, rank_by_content

from tezawari.cli import evaluate
from tezawari.collect.duplicates import near_duplicates, perceptual_hash
from tezawari.collect.kills_benchmark import kill_many
from tezawari.collect.local_web import Served, make_pictures, serving
from tezawari.collect.speed_benchmark import OURS, Download, medians, targets, whole_seconds
from tezawari.collect.speed_worker import START, Measured, Stage
from tezawari.collect.store import open_store
from tezawari.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
WORD = "ごつごつ"


def run(output_dir: Path, benchmark: str, *words: str) -> int:
    told = [f"benchmark={benchmark}", f"output_dir={output_dir}", *(f"benchmark.{word}" for word in words)]
    return evaluate(told, ROOT)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_made_pictures_are_alike_in_size_and_in_nothing_else(tmp_path: Path) -> None:
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        names = make_pictures(tmp_path / name, 20, 60, seed=3)
    contents = [(tmp_path / "once" / name).read_bytes() for name in names]
    assert contents == [(tmp_path / "again" / name).read_bytes() for name in names]
    assert all(50_000 < len(content) < 70_000 for content in contents)
    assert {Image.open(io.BytesIO(content)).size for content in contents} == {(800, 600)}
    assert near_duplicates([perceptual_hash(content) for content in contents]) == list(range(20))


def test_the_server_serves_its_folder_alone_and_counts_what_it_serves(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    web = tmp_path / "web"
    web.mkdir()
    (web / "a.jpg").write_bytes(b"picture")
    with serving(web) as server:
        server.served()
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        for path, status, body in (
            ("/a.jpg", 200, b"picture"),
            ("/../secret.jpg", 404, b""),
            ("/robots.txt", 404, b""),
            ("/a.jpg", 200, b"picture"),
        ):
            connection.request("GET", path)
            answered = connection.getresponse()
            assert (answered.status, answered.read()) == (status, body)
            time.sleep(0.05)
        connection.close()
        served = server.served()
        assert (served.pictures, served.connections) == (2, 2)  # this one, and the one that asks for the count
        assert served.seconds > 0.14
        assert server.served().pictures == 0
        assert server.urls(["a.jpg"]) == [f"http://127.0.0.1:{server.port}/a.jpg"]
    with pytest.raises(OSError, match="refused"):
        server.served()


def test_a_collection_is_measured_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("images=8", "kilobytes=20", "rounds=1", "threads=1", "weights=random", "layer=block0")
    assert run(tmp_path, "collect_speed", *small) == 0
    output = capsys.readouterr()
    assert "a whole collection of 8 images" in output.out
    assert "img2dataset is left out" in output.err
    (download,) = rows(tmp_path / "collect_speed" / "downloads.csv")
    assert download["note"] == ""
    assert float(download["images_per_s"]) > 0
    assert float(download["server_cpu_s"]) > 0
    stages = {row["stage"]: float(row["seconds"]) for row in rows(tmp_path / "collect_speed" / "stages.csv")}
    assert list(stages) == [START, "search", "fetch, check, store", "describe, rank twice"]
    assert "| describe, rank twice |" in (tmp_path / "collect_speed" / "summary.md").read_text(encoding="utf-8")


def test_targets_stand_beside_medians_and_the_first_start_does_not_count() -> None:
    def took(name: str, *seconds: float) -> list[Download]:
        return [Download(name, Served(each, 0.1, 9, 3), each + 5) for each in seconds]

    downloads = took(OURS, 2, 9, 1) + took("other", 3, 3, 8)
    assert medians(downloads) == {OURS: 2, "other": 3}
    whole = Measured([Stage(START, 50, 7), Stage("search", 1, 0.5), Stage("rank", 29, 40)], 800.4, 9)
    assert whole_seconds(whole) == 30
    first, second, third = targets(downloads, whole)
    assert "beside other: 1.50× as fast" in first
    assert "9 images: 30.0 s (40.5 s of processors); asked for: 60 s" in second
    assert "800 MB; asked for: 1500 MB" in third


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["folder=no/such"], "benchmark.folder=no/such"),
        (["img2dataset=no/such/python"], "pip install img2dataset"),
        ([f"img2dataset={sys.executable}"], "pip install img2dataset"),
        (["images=0"], "images"),
        (["kilobytes=1"], "kilobytes"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert run(tmp_path, "collect_speed", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error


# --- kills ------------------------------------------------------------------------------------------------------------


def collecting(each_seconds: float) -> Callable[[Path], None]:
    """Return a collection of 15 pictures that takes its time."""

    def work(folder: Path) -> None:
        with open_store(folder) as store:
            query = store.begin_query(WORD, "openverse", "ja", 15)
            if not store.is_exhausted(query):
                store.add_found(query, [find(place, f"{place}") for place in range(1, 16)])
                store.mark_exhausted(query)
            for find_id, found in store.waiting(WORD):
                content = encoded(picture(found.position))
                store.keep(find_id, fetched(content), perceptual_hash(content))
                time.sleep(each_seconds)
            rank_by_content(store, WORD)

    return work


def test_kills_are_dealt_as_many_as_asked_for_and_change_nothing(tmp_path: Path) -> None:
    dealt = kill_many(collecting(0.02), 6, tmp_path, random.Random())
    assert len(dealt) == 6
    assert all(0 <= kill.images <= 15 for kill in dealt)
    assert [kill.collection for kill in dealt] == sorted(kill.collection for kill in dealt)


def test_what_kills_change_is_found(tmp_path: Path) -> None:
    def litter(folder: Path) -> None:
        collecting(0.02)(folder)
        if folder.name != "undisturbed":
            (folder / "images" / "litter").touch()

    with pytest.raises(UserError, match=r"after [12] kills the files of collection \d differ"):
        kill_many(litter, 2, tmp_path, random.Random(1))


def test_a_collection_that_fails_is_no_kill(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(folder: Path) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(UserError, match="failed"):
        kill_many(fail, 1, tmp_path, random.Random(0))
    assert "a bug" in capfd.readouterr().err
    assert threading.active_count() < 20


def test_a_kill_by_someone_else_ends_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="someone else"):
        kill_many(lambda folder: os.kill(os.getpid(), signal.SIGKILL), 1, tmp_path, random.Random(0))
