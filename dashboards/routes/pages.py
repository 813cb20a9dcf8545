"""The page, its assets, the sign-in link and the API's documentation: all from the package, no internet."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from dashboards.conditional import conditional
from dashboards.deps import ServicesDep
from dashboards.problems import unauthorized

STATIC = Path(__file__).parent.parent / "static"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    """The dashboard; its views are fragments of this one address."""
    return FileResponse(STATIC / "index.html", media_type="text/html")


@router.get("/sign-in")
async def sign_in_link(
    request: Request, given: ServicesDep, token: Annotated[str, Query(max_length=512)] = ""
) -> Response:
    """The link that `dashboards serve` prints: the token becomes a cookie and leaves the address bar."""
    found = given.security.holder(token)
    if found is not None:
        request.state.signed_in_as = found
        response: Response = RedirectResponse("/", status_code=HTTPStatus.SEE_OTHER)
        given.security.sign_in(response, token)
        return response
    if "text/html" in request.headers.get("accept", ""):  # a person: the page says what is wrong
        return FileResponse(
            STATIC / "index.html",
            status_code=HTTPStatus.UNAUTHORIZED,
            media_type="text/html",
            headers={"WWW-Authenticate": 'Bearer realm="epdg-dashboard"'},
        )
    raise unauthorized("The sign-in link is not right. Use the one that `dashboards serve` printed last.")


@router.get("/openapi.json")
async def description(request: Request) -> Response:
    """The OpenAPI description."""
    response = JSONResponse(request.app.openapi(), headers={"Cache-Control": "no-cache"})
    return conditional(request, response)


@router.get("/docs")
async def documentation() -> Response:
    """Swagger UI on this server's OpenAPI description."""
    return FileResponse(STATIC / "swagger" / "docs.html", media_type="text/html")


@router.get("/favicon.ico")
async def icon() -> Response:
    """Browsers ask for it whatever the page says."""
    return FileResponse(STATIC / "icon.svg", media_type="image/svg+xml")


def install(app: FastAPI) -> None:
    """Add the pages and the assets."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
