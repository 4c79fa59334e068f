"""The route of the photo bot: a photo in, its classes and a randomly restyled picture out."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from tezawari.studio.bot import RateLimit
from tezawari.studio.job_routes import job_view
from tezawari.studio.jobs import Job
from tezawari.studio.state import Studio, studio_of

TheStudio = Annotated[Studio, Depends(studio_of)]
Wait = Annotated[int, Query(ge=0, le=60)]

_PHOTOS, _SECONDS = 12, 60.0
_POLL_SECONDS = 0.1


def make_router() -> APIRouter:
    """Return the routes of one studio's bot, with the counts of its clients."""
    router = APIRouter(prefix="/api")
    limit = RateLimit(_PHOTOS, _SECONDS)

    @router.post("/bot", openapi_extra={"requestBody": {"content": {"image/*": {}}}})
    async def answer(request: Request, response: Response, studio: TheStudio, wait: Wait = 30) -> dict[str, Any]:
        """Take a photo, which is the whole body, and answer its job once that is over, or after ``wait`` seconds (202).

        A done job has its classes in ``result`` and the address of the restyled picture in ``picture``. A client may
        send twelve photos a minute; the next is answered 429.
        """
        client, now = request.client.host if request.client else "", time.monotonic()
        seconds = limit.wait(client, now)
        if seconds > 0:
            headers = {"retry-after": str(math.ceil(seconds))}
            raise HTTPException(429, f"at most {_PHOTOS} photos a minute: wait a little", headers)
        limit.note(client, now)
        stored = await run_in_threadpool(studio.uploads.add_photo, await request.body())
        wish = {"photo": stored.id, "seed": secrets.randbelow(2**31)}
        job = await _watched(studio, await run_in_threadpool(studio.jobs.submit, "bot", wish), wait)
        response.status_code = 200 if job.is_over else 202
        picture = f"/api/jobs/{job.id}/files/{job.result['files'][0]}" if job.result else None
        return {**job_view(job), "picture": picture}

    return router


async def _watched(studio: Studio, job: Job, seconds: float) -> Job:
    """Return a job as it stands when it is over, or after ``seconds``."""
    end = time.monotonic() + seconds
    while not job.is_over and time.monotonic() < end:
        await asyncio.sleep(_POLL_SECONDS)
        found = await run_in_threadpool(studio.jobs.find, job.id)
        if found is None:
            raise HTTPException(404, "the job is gone: too many came after it")
        job = found
    return job
