"""Routes of jobs: how far they are, what they made, and how to stop them."""

from __future__ import annotations

import mimetypes
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import FileResponse

from tezawari.studio.jobs import Job
from tezawari.studio.state import Studio, studio_of

router = APIRouter(prefix="/api/jobs")

TheStudio = Annotated[Studio, Depends(studio_of)]
JobId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


@router.get("")
def list_jobs(studio: TheStudio) -> list[dict[str, Any]]:
    """List the last jobs, the newest first."""
    return [job_view(job) for job in studio.jobs.recent()]


@router.get("/{job}")
def show_job(job: JobId, studio: TheStudio) -> dict[str, Any]:
    """Show how far a job is."""
    return job_view(_job(studio, job))


@router.post("/{job}/cancel")
def cancel_job(job: JobId, studio: TheStudio) -> dict[str, Any]:
    """Stop a job; one that is over stays as it is."""
    _job(studio, job)
    studio.jobs.cancel(job)
    return job_view(_job(studio, job))


@router.get("/{job}/files/{name}", response_class=FileResponse)
def show_file(job: JobId, name: str, studio: TheStudio, download: Annotated[bool, Query()] = False) -> FileResponse:
    """Show a file that a job made, or hand it out under a name to keep."""
    found = _job(studio, job)
    # Not a path: one of the names that the job itself gave.
    if found.result is None or name not in found.result["files"]:
        raise HTTPException(404, "the job made no such file")
    path = studio.jobs.results(found.id) / name
    if not path.is_file():
        raise HTTPException(404, "the file is gone: do it again")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    if download:
        return FileResponse(path, media_type=kind, filename=found.result.get("name", name))
    return FileResponse(path, media_type=kind, headers={"cache-control": "private, max-age=3600, immutable"})


def job_view(job: Job) -> dict[str, Any]:
    """Return a job as pages see it."""
    return {
        "id": job.id,
        "kind": job.kind,
        "word": job.request.get("word"),
        "state": job.state,
        "phase": job.phase,
        "done": job.done,
        "total": job.total,
        "result": job.result,
        "error": job.error,
    }


def _job(studio: Studio, identity: str) -> Job:
    found = studio.jobs.find(identity)
    if found is None:
        raise HTTPException(404, "there is no such job, or no longer")
    return found
