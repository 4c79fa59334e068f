"""Routes of the pages Restyle and Segment: photos in, jobs that make pictures of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from tezawari.core.errors import UserError, did_you_mean
from tezawari.core.package_photos import package_photo
from tezawari.studio.job_routes import job_view
from tezawari.studio.state import Studio, studio_of
from tezawari.studio.uploads import MOST_MAP_PIXELS, StoredPhoto

UPLOADS = ("/api/photos", "/api/maps", "/api/bot")
"""The paths whose bodies are photos and maps."""

router = APIRouter(prefix="/api")

Id = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
TheStudio = Annotated[Studio, Depends(studio_of)]

_SAMPLE = "coffee"
_STRONGEST = 2.0


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class RestyleForm(_Form):
    """A photo to restyle: weights of styles by name, a painted map of it, softness as a share of its longer side."""

    photo: Id
    weights: dict[str, Annotated[float, Field(ge=0, le=_STRONGEST, allow_inf_nan=False)]] = Field(max_length=256)
    map: Id | None = None
    feather: float = Field(default=0.01, ge=0, le=0.1)
    keep_color: bool = False
    full: bool = False


class StylesForm(_Form):
    """A photo to show in every style."""

    photo: Id


class SegmentForm(_Form):
    """A photo to segment: labels (none: what the network finds), methods, and whether the CRF refines the masks."""

    photo: Id
    labels: list[str] = Field(default=[], max_length=64)
    methods: list[str] = Field(min_length=1, max_length=8)
    crf: bool = True


class SwapForm(_Form):
    """A photo one material of which is to be swapped.

    ``source``: the class to change, none for the one that covers most; ``target``: the style that it is to have;
    ``feather``: softness of the border as a share of the photo's longer side.
    """

    photo: Id
    source: str | None = Field(default=None, max_length=256)
    target: str = Field(max_length=256)
    feather: float = Field(default=0.003, ge=0, le=0.1)
    keep_color: bool = False
    full: bool = False


@router.post("/photos", status_code=201, openapi_extra={"requestBody": {"content": {"image/*": {}}}})
async def add_photo(request: Request, studio: TheStudio) -> dict[str, Any]:
    """Take a photo, which is the whole body of the request."""
    content = await request.body()
    return _photo_view(await run_in_threadpool(studio.uploads.add_photo, content))


@router.post("/photos/sample", status_code=201)
def add_sample(studio: TheStudio) -> dict[str, Any]:
    """Take a photograph that comes with an installed package."""
    return _photo_view(studio.uploads.add_photo(package_photo(_SAMPLE).read_bytes()))


@router.get("/photos/{photo}", response_class=FileResponse)
def show_photo(photo: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], studio: TheStudio) -> FileResponse:
    """Show a photo, at most 1,280 pixels each way."""
    return FileResponse(_photo(studio, photo).preview, media_type="image/jpeg")


@router.post("/maps", status_code=201, openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}}})
async def add_map(
    request: Request,
    studio: TheStudio,
    photo: Annotated[str, Query(pattern="^[0-9a-f]{32}$")],
    width: Annotated[int, Query(ge=1, le=MOST_MAP_PIXELS)],
    height: Annotated[int, Query(ge=1, le=MOST_MAP_PIXELS)],
) -> dict[str, str]:
    """Take a painted map, a byte a pixel: 0 the mix of the sliders, k the k-th style, 255 the photo as it is."""
    labels = await request.body()
    stored = await run_in_threadpool(_photo, studio, photo)
    return {"id": await run_in_threadpool(studio.uploads.add_map, stored, width, height, labels)}


@router.post("/restyle", status_code=202)
def restyle(form: RestyleForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a photo to be restyled."""
    _photo(studio, form.photo)
    _check_styles(studio, form.weights)
    return job_view(studio.jobs.submit("restyle", form.model_dump()))


@router.post("/styles", status_code=202)
def styles(form: StylesForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a small square of a photo in every style."""
    _photo(studio, form.photo)
    return job_view(studio.jobs.submit("styles", form.model_dump()))


@router.post("/segment", status_code=202)
def segment(form: SegmentForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a photo to be segmented."""
    _photo(studio, form.photo)
    _check_segmenter(studio, form.labels, form.methods)
    request = {**form.model_dump(), "methods": list(dict.fromkeys(form.methods))}
    return job_view(studio.jobs.submit("segment", request))


@router.post("/swap", status_code=202)
def swap(form: SwapForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for one material of a photo to be swapped for a style."""
    _photo(studio, form.photo)
    _check_segmenter(studio, [] if form.source is None else [form.source])
    _check_styles(studio, [form.target])
    return job_view(studio.jobs.submit("swap", form.model_dump()))


def _check_styles(studio: Studio, asked: Iterable[str]) -> None:
    for name in asked:
        if name not in studio.style_names:
            raise UserError(f"no style is named {name!r}{did_you_mean(name, studio.style_names)}")


def _check_segmenter(studio: Studio, labels: Iterable[str], methods: Iterable[str] = ()) -> None:
    if not studio.class_names:
        raise UserError("the studio was started without a segmenter: tezawari studio --segmenter RUN")
    for asked, known in ((labels, studio.class_names), (methods, studio.methods)):
        for name in asked:
            if name not in known:
                raise UserError(f"the network knows no {name!r}{did_you_mean(name, known)}")


def _photo(studio: Studio, identity: str) -> StoredPhoto:
    stored = studio.uploads.photo(identity)
    if stored is None:
        raise HTTPException(404, "there is no such photo, or no longer")
    return stored


def _photo_view(stored: StoredPhoto) -> dict[str, Any]:
    return {"id": stored.id, "width": stored.width, "height": stored.height}
