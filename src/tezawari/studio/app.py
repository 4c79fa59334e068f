"""The studio as one web application: the page and its files, the routes, and what errors look like."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from tezawari.collect.limits import Refusal
from tezawari.core.errors import UserError
from tezawari.studio import bot_routes, job_routes, picture_routes, set_routes, word_routes
from tezawari.studio.jobs import BusyError
from tezawari.studio.restyling import KEEP_PAINT
from tezawari.studio.safety import COOKIE, SESSION_PATH, SafetyMiddleware
from tezawari.studio.state import Studio

log = logging.getLogger(__name__)

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_RETRY_SECONDS = 5
_CODES = {404: "missing", 405: "method"}


class TokenForm(BaseModel):
    """The token that the studio was started with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    token: Annotated[str, Field(max_length=256)]


def create_app(studio: Studio) -> FastAPI:
    """Return the application of a studio; it starts the studio's workers, and stops them when it ends."""

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        studio.start()
        yield
        studio.close()

    # The pages that FastAPI makes of the API load their scripts from elsewhere.
    app = FastAPI(title="tezawari studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    app.state.studio = studio
    app.add_middleware(SafetyMiddleware, safety=studio.safety)
    for router in (picture_routes.router, job_routes.router, set_routes.router, word_routes.router):
        app.include_router(router)
    app.include_router(bot_routes.make_router())
    _add_errors(app)
    _add_page(app)
    _add_session(app, studio)

    @app.get("/api/studio")
    def describe() -> dict[str, Any]:
        """Show what this studio can do."""
        return {
            "styles": studio.style_names,
            "keep_paint": KEEP_PAINT,
            "classes": studio.class_names,
            "methods": studio.methods,
            "sources": [{"name": name, "unready": why} for name, why in studio.sources.items()],
            "most_images": set_routes.MOST_IMAGES,
        }

    return app


def _add_page(app: FastAPI) -> None:
    # Read once, by names that are known: no request ever names a path.
    folder = files("tezawari.studio").joinpath("static")
    contents = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
    # All scripts at once; else a browser learns of each from the one that imports it, and waits at every step.
    scripts = sorted(name for name in contents if name.endswith(".js"))
    links = "".join(f'<link rel="modulepreload" href="/static/{name}">' for name in scripts)
    contents["index.html"] = contents["index.html"].replace(b"</head>", f"{links}</head>".encode())
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:20]}"' for name, content in contents.items()}

    def answer(name: str, request: Request) -> Response:
        if name not in contents:
            raise HTTPException(404, "there is no such page")
        headers = {"etag": tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=_TYPES[name.rpartition(".")[2]], headers=headers)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return answer("index.html", request)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        return answer(name, request)


def _add_session(app: FastAPI, studio: Studio) -> None:
    safety = studio.safety

    @app.get(SESSION_PATH)
    async def show_session(request: Request) -> dict[str, bool]:
        """Say whether this browser has to show the token first."""
        return {"admitted": safety.admits(request.headers)}

    @app.post(SESSION_PATH, status_code=204)
    async def open_session(form: TokenForm) -> Response:
        """Take the token and give a cookie for it, which no script can read and no other site can make be sent."""
        if not safety.may_try():
            return _error(429, "attempts", "too many wrong tokens: wait a minute", {"retry-after": "60"})
        if not safety.opens(form.token):
            return _error(401, "token", "that is not the token this studio was started with")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, safety.session, httponly=True, samesite="strict", path="/")
        return response


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> Response:
        return _error(422, "user", " ".join(str(error).split()))

    @app.exception_handler(Refusal)
    async def refusal(_: Request, error: Refusal) -> Response:
        return _error(415 if error.refused.reason == "type" else 422, error.refused.reason, error.refused.detail)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return _error(503, "busy", "as many jobs as fit are waiting already", {"retry-after": str(_RETRY_SECONDS)})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Without what was sent, which may be of any size and need not be text.
        lines = [f"{'.'.join(str(part)[:40] for part in each['loc'])}: {each['msg']}" for each in error.errors()[:5]]
        return _error(422, "invalid", "; ".join(lines))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return _error(error.status_code, _CODES.get(error.status_code, "refused"), str(error.detail), headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        return _error(500, "bug", "an error of the studio itself: its terminal has the details")


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
