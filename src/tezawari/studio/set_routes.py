"""Routes of the pages Collect and Annotate: sets of images, what is said of them, and packing them."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from fastapi.responses import FileResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from tezawari.collect.sources.source import check_search
from tezawari.collect.store import StoredImage
from tezawari.core.errors import UserError, did_you_mean
from tezawari.studio.job_routes import job_view
from tezawari.studio.job_work import BACKBONES
from tezawari.studio.judgements import Change, agreements
from tezawari.studio.state import Studio, studio_of, word_id
from tezawari.studio.thumbnails import make_thumbnail

router = APIRouter(prefix="/api/sets")

MOST_IMAGES = 1000
"""The most results of a search, and the most images of one change."""

_TYPES = {
    "jpg": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "webp": "image/webp",
    "avif": "image/avif",
}
_FOR_EVER = {"cache-control": "private, max-age=31536000, immutable"}  # an image is named by its content


def _printable(text: str) -> str:
    text = unicodedata.normalize("NFC", text).strip()
    if not text or any(unicodedata.category(character)[0] == "C" for character in text):
        raise ValueError("a name is at least one printable character")
    return text


TheStudio = Annotated[Studio, Depends(studio_of)]
SetId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
ImageId = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=40), AfterValidator(_printable)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CollectForm(_Form):
    """A word to collect, where, how many results of each search, and by which layer to rank (None: the usual one).

    Each source is also searched for the word with each of the nouns.
    """

    word: str = Field(min_length=1, max_length=200)
    sources: list[str] = Field(min_length=1, max_length=8)
    limit: int = Field(default=200, ge=1, le=MOST_IMAGES)
    language: str = Field(default="ja", max_length=8)
    nouns: list[Annotated[str, Field(max_length=60)]] = Field(default=[], max_length=8)
    backbone: str = Field(default=BACKBONES[0], max_length=40)
    layer: str | None = Field(default=None, max_length=40)


class HideForm(_Form):
    """Whether a set is put away."""

    hidden: bool


class JudgeForm(_Form):
    """What an annotator says of images: true, they show the word; false, they do not; null takes it back."""

    annotator: Name
    verdicts: dict[ImageId, bool | None] = Field(min_length=1, max_length=MOST_IMAGES)


class UndoForm(_Form):
    """Whose last change is taken back."""

    annotator: Name


class RankForm(_Form):
    """By which network and layer to rank again (both null: as it was ranked last; one of them: the usual one)."""

    backbone: str | None = Field(default=None, max_length=40)
    layer: str | None = Field(default=None, max_length=40)


class PackForm(_Form):
    """How many of the best images to pack (null: all)."""

    count: Literal[50, 100] | None = 50


@router.get("")
def list_sets(studio: TheStudio) -> list[dict[str, Any]]:
    """List all sets, those that were put away too."""
    hidden, words = studio.hidden(), studio.words()
    for word in {job.request["word"] for job in studio.jobs.recent() if "word" in job.request}:
        if word_id(word) in words:
            studio.view(word)
    return [_summary(studio, identity, word, word in hidden) for identity, word in words.items()]


@router.post("", status_code=202)
def collect(form: CollectForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a word to be collected, or for what is missing of it."""
    word = check_search(form.word, form.language, form.limit)
    for name in form.sources:
        if name not in studio.sources:
            raise UserError(f"there is no source {name!r}{did_you_mean(name, studio.sources)}")
        unready = studio.sources[name]
        if unready is not None:
            raise UserError(unready)
    nouns = [check_search(noun, form.language, form.limit) for noun in form.nouns]
    for noun in nouns:
        check_search(f"{word} {noun}", form.language, form.limit)
    _check_features(form.backbone, form.layer)
    studio.hide(word, False)
    unique = {"sources": list(dict.fromkeys(form.sources)), "nouns": list(dict.fromkeys(nouns))}
    request = {**form.model_dump(), "word": word, **unique}
    return {**job_view(studio.jobs.submit("collect", request)), "set": word_id(word)}


@router.get("/layers")
def show_layers(backbone: Annotated[str, Query(max_length=40)] = BACKBONES[0]) -> dict[str, Any]:
    """Show the networks that images can be ranked by, the layers of one of them, and its usual one."""
    _check_features(backbone, None)
    # Here: they load for seconds, and most people never ask.
    from tezawari.collect.rerank_store import default_layer

    return {"backbones": BACKBONES, "layers": _layers(backbone), "usual": default_layer(backbone)}


@router.get("/{set_id}")
def show_set(set_id: SetId, studio: TheStudio) -> dict[str, Any]:
    """Show a set: images in search order, the order and the scores of each pass, and what everybody said."""
    word = studio.word(set_id)
    # First the number, then what was said: a change between the two is told once more, not lost.
    changes = studio.judgements.since(word, 0)
    seq = max((change.seq for change in changes), default=0)
    view = studio.view(word)
    places = {sha256: place for place, sha256 in enumerate(view.images)}
    return {
        "id": set_id,
        "word": word,
        "images": [_image_view(image) for image in view.images.values()],
        "passes": [
            {
                "number": ranked.number,
                "features": ranked.features,
                "order": [places[sha256] for sha256 in ranked.scores if sha256 in places],
                "scores": [round(score, 4) for sha256, score in ranked.scores.items() if sha256 in places],
            }
            for ranked in view.passes
        ],
        "verdicts": studio.judgements.of_word(word),
        "seq": seq,
    }


@router.post("/{set_id}/hide")
def hide_set(set_id: SetId, form: HideForm, studio: TheStudio) -> dict[str, Any]:
    """Put a set away, or take it back out; its images stay in the store."""
    word = studio.word(set_id)
    studio.hide(word, form.hidden)
    return _summary(studio, set_id, word, form.hidden)


@router.post("/{set_id}/rank", status_code=202)
def rank_set(set_id: SetId, form: RankForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a set to be ranked again, by what was said of its images."""
    word = studio.word(set_id)
    _check_features(form.backbone or BACKBONES[0], form.layer)
    return job_view(studio.jobs.submit("rank", {"word": word, **form.model_dump()}))


@router.post("/{set_id}/pack", status_code=202)
def pack_set(set_id: SetId, form: PackForm, studio: TheStudio) -> dict[str, Any]:
    """Ask for a ZIP of a set's best images with their manifest."""
    word = studio.word(set_id)
    if not studio.view(word).images:
        raise UserError(f"{word} has no images yet: collect it first")
    return job_view(studio.jobs.submit("pack", {"word": word, "count": form.count}))


@router.get("/{set_id}/images/{image}", response_class=FileResponse)
def show_image(set_id: SetId, image: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], studio: TheStudio) -> FileResponse:
    """Show an image as it was collected."""
    path = _image(studio, set_id, image).path
    if not path.is_file():
        raise HTTPException(404, "the image file is gone: collect the word again")
    return FileResponse(path, media_type=_TYPES.get(path.suffix[1:], "application/octet-stream"), headers=_FOR_EVER)


@router.get("/{set_id}/thumbnails/{image}", response_class=Response)
def show_thumbnail(set_id: SetId, image: Annotated[str, Path(pattern="^[0-9a-f]{64}$")], studio: TheStudio) -> Response:
    """Show an image small."""
    # The bytes at once: a screen asks for dozens, and a file that is handed on in parts takes a thread for every part.
    path = make_thumbnail(studio.database.folder, _image(studio, set_id, image))
    return Response(path.read_bytes(), media_type="image/jpeg", headers=_FOR_EVER)


@router.post("/{set_id}/judgements")
def judge(set_id: SetId, form: JudgeForm, studio: TheStudio) -> dict[str, Any]:
    """Note what an annotator says; it is on disk when this is answered."""
    word = studio.word(set_id)
    unknown = form.verdicts.keys() - studio.view_with(word, form.verdicts).images.keys()
    if unknown:
        raise UserError(f"{len(unknown)} of the images are none of this set: load the page again")
    return _changed(studio, word, studio.judgements.change(word, form.annotator, form.verdicts))


@router.post("/{set_id}/judgements/undo")
def undo(set_id: SetId, form: UndoForm, studio: TheStudio) -> dict[str, Any]:
    """Take back an annotator's last change."""
    word = studio.word(set_id)
    return _changed(studio, word, studio.judgements.undo(word, form.annotator))


@router.get("/{set_id}/judgements")
def show_changes(set_id: SetId, studio: TheStudio, since: Annotated[int, Query(ge=0, le=2**62)] = 0) -> dict[str, Any]:
    """Show what was said since a change, by everybody."""
    changes = studio.judgements.since(studio.word(set_id), since)
    return {"seq": max((change.seq for change in changes), default=since), "changes": [asdict(c) for c in changes]}


@router.get("/{set_id}/agreement")
def show_agreement(set_id: SetId, studio: TheStudio) -> list[dict[str, Any]]:
    """Show how far every two annotators agree."""
    return [asdict(pair) for pair in agreements(studio.judgements.of_word(studio.word(set_id)))]


def _changed(studio: Studio, word: str, changes: list[Change]) -> dict[str, Any]:
    if changes:
        studio.mirror.add(word)
    return {"changes": [asdict(change) for change in changes]}


def _check_features(backbone: str, layer: str | None) -> None:
    if backbone not in BACKBONES:
        raise UserError(f"images are ranked by no network {backbone!r}{did_you_mean(backbone, BACKBONES)}")
    if layer is not None and layer not in _layers(backbone):
        raise UserError(f"{backbone} has no layer {layer!r}{did_you_mean(layer, _layers(backbone))}")


def _layers(backbone: str) -> tuple[str, ...]:
    from tezawari.features.backbone import available_layers

    return available_layers(backbone)


def _image(studio: Studio, set_id: str, image: str) -> StoredImage:
    stored = studio.view_with(studio.word(set_id), [image]).images.get(image)
    if stored is None:
        raise HTTPException(404, "there is no such image in this set")
    return stored


def _summary(studio: Studio, identity: str, word: str, hidden: bool) -> dict[str, Any]:
    view = studio.glance(word)
    covers = list(view.passes[-1].scores if view.passes else view.images)
    return {
        "id": identity,
        "word": word,
        "images": len(view.images),
        "ranked": bool(view.passes),
        "covers": [sha256 for sha256 in covers if sha256 in view.images][:4],
        "hidden": hidden,
    }


def _image_view(image: StoredImage) -> dict[str, Any]:
    found = image.found
    return {
        "id": image.sha256,
        "width": image.width,
        "height": image.height,
        "source": found.source,
        "title": found.title,
        "author": found.author,
        "licence": found.licence,
        "licence_url": _link(found.licence_url),
        "page_url": _link(found.page_url),
    }


def _link(url: str) -> str:
    """Return a URL that a page may link to: a source could say ``javascript:``."""
    return url if url.startswith(("https://", "http://")) else ""
