"""Jobs in real processes: progress, cancelling, a full queue, death, and going on after a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tezawari.core.errors import UserError
from tezawari.studio.database import Database, alone
from tezawari.studio.jobs import BusyError, Job, Jobs, Lane, Report, Work

LANES = {"quick": Lane(("add", "fail", "break", "vanish")), "slow": Lane(("count", "deaf"), niceness=1)}
PATIENCE = 120.0


def open_small_work(log: str) -> Work:
    """Work without torch: it adds, counts, and dies in several ways; ``log`` is a file it notes its starts in."""

    def work(kind: str, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
        with Path(log).open("a") as file:
            file.write(f"{kind}\n")
        if kind == "fail":
            raise UserError("this cannot be\ndone")
        if kind == "break":
            raise ZeroDivisionError("a secret of the inside")
        if kind == "vanish":
            import os

            os._exit(7)
        if kind == "deaf":
            time.sleep(600)
        if kind == "count":
            for number in range(request["to"]):
                report("counting", number, request["to"])
                time.sleep(0.02)
        return {"files": [], "sum": sum(request.get("numbers", []))}

    return work


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


@pytest.fixture
def begin(database: Database, tmp_path: Path) -> Iterator[Callable[..., Jobs]]:
    """Start a queue; all of them are closed at the end."""
    begun: list[Jobs] = []

    def start(most: int = 5, work: bool = True) -> Jobs:
        jobs = Jobs(database, open_small_work, str(tmp_path / "log"), LANES, most)
        if work:
            jobs.start()
        begun.append(jobs)
        return jobs

    yield start
    for jobs in begun:
        jobs.close()


def wait_for(jobs: Jobs, identity: str, until: Callable[[Job], bool]) -> Job:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        job = jobs.find(identity)
        assert job is not None
        if until(job):
            return job
        time.sleep(0.02)
    raise AssertionError(f"still {job}")


def test_a_lane_outlives_whatever_its_jobs_do(begin: Callable[..., Jobs]) -> None:
    jobs = begin(most=10)
    asked = [jobs.submit(kind, {"numbers": [1, 2, 4]}).id for kind in ("add", "fail", "break", "vanish", "add")]
    over = [wait_for(jobs, identity, lambda job: job.is_over) for identity in asked]
    assert [job.state for job in over] == ["done", "failed", "failed", "failed", "done"]
    assert over[0].result == {"files": [], "sum": 7}
    assert over[1].error == "this cannot be done"
    assert "ZeroDivisionError" in (over[2].error or "")
    assert "secret" not in (over[2].error or "")
    assert "process ended" in (over[3].error or "")
    assert [job.id for job in jobs.recent(5)] == asked[::-1]


def test_progress_is_seen_and_a_running_job_is_cancelled(begin: Callable[..., Jobs]) -> None:
    jobs = begin()
    identity = jobs.submit("count", {"to": 100_000}).id
    running = wait_for(jobs, identity, lambda job: job.done > 0)
    assert (running.state, running.phase, running.total) == ("running", "counting", 100_000)
    jobs.cancel(identity)
    assert wait_for(jobs, identity, lambda job: job.is_over).state == "cancelled"
    after = jobs.submit("count", {"to": 1}).id
    assert wait_for(jobs, after, lambda job: job.is_over).state == "done"


def test_work_that_does_not_listen_is_ended(begin: Callable[..., Jobs]) -> None:
    jobs = begin()
    identity = jobs.submit("deaf", {}).id
    wait_for(jobs, identity, lambda job: job.state == "running")
    jobs.cancel(identity)
    assert wait_for(jobs, identity, lambda job: job.is_over).state == "cancelled"


def test_a_full_lane_says_so_and_the_other_one_still_takes_jobs(begin: Callable[..., Jobs]) -> None:
    jobs = begin(most=2, work=False)
    waiting = [jobs.submit("count", {"to": 1}).id for _ in range(2)]
    with pytest.raises(BusyError):
        jobs.submit("count", {"to": 1})
    jobs.submit("add", {})
    jobs.cancel(waiting[0])
    assert jobs.find(waiting[0]).state == "cancelled"
    jobs.submit("count", {"to": 1})


def test_what_a_server_left_is_done_by_the_next_but_not_for_ever(
    begin: Callable[..., Jobs], database: Database, tmp_path: Path
) -> None:
    first = begin()
    identity = first.submit("count", {"to": 100_000}).id
    queued = first.submit("count", {"to": 1}).id
    for started in range(1, 4):
        wait_for(first, identity, lambda job: job.done > 0 and job.state == "running")
        first.close()
        assert (tmp_path / "log").read_text().count("count") == started
        assert first.find(identity).state == "running"
        first = begin()
    assert first.find(identity).state == "failed"
    assert wait_for(first, queued, lambda job: job.is_over).state == "done"


def test_two_studios_do_not_share_a_store(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UserError, match="another studio"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass
