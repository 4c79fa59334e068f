"""Routes of the page Words: measuring how words look, and what was measured last."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from tezawari.core.errors import UserError
from tezawari.studio.job_routes import job_view
from tezawari.studio.job_work import MEASURED
from tezawari.studio.state import Studio, studio_of

router = APIRouter(prefix="/api/words")

FEWEST_IMAGES = 5
"""Of a word: each fold of the cross-validation holds out one at least."""

_MOST_IMAGES, _MOST_WORDS = 500, 300

TheStudio = Annotated[Studio, Depends(studio_of)]


class MeasureForm(BaseModel):
    """The sets whose words are measured, and how many of the best images of each."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sets: list[Annotated[str, Field(pattern="^[0-9a-f]{16}$")]] = Field(min_length=1, max_length=_MOST_WORDS)
    images: int = Field(default=50, ge=FEWEST_IMAGES, le=_MOST_IMAGES)


@router.get("")
def show_measured(studio: TheStudio) -> dict[str, Any]:
    """Show what was measured last, null where nothing was, and the bounds of what can be measured."""
    path = studio.database.folder / MEASURED
    measured = json.loads(path.read_bytes()) if path.is_file() else None
    return {"measured": measured, "fewest": FEWEST_IMAGES, "most": _MOST_IMAGES}


@router.post("/measure", status_code=202)
def measure(form: MeasureForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for the words of sets to be measured."""
    words = [studio.word(identity) for identity in dict.fromkeys(form.sets)]
    if not any(len(studio.view(word).images) >= form.images for word in words):
        raise UserError(f"no word has {form.images} images: collect more, or measure fewer images of a word")
    return job_view(studio.jobs.submit("measure", {"words": words, "images": form.images}))
