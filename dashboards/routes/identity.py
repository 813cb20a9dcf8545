"""Signing in and out, and asking who one is."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from dashboards.deps import Operator, ServicesDep
from dashboards.problems import documented, unauthorized
from dashboards.schemas import SignIn, Standing

router = APIRouter(tags=["identity"])


@router.get("/me")
async def who_am_i(request: Request, given: ServicesDep) -> Standing:
    """Whether the browser is signed in, and whether reading needs it to be."""
    return Standing(signed_in=given.security.is_signed_in(request), open_to_read=given.config.open_to_read)


@router.post(
    "/sign-in",
    responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def sign_in(body: SignIn, given: ServicesDep, response: Response) -> Standing:
    """Exchange the token for a cookie."""
    if not given.security.token_is_right(body.token):
        raise unauthorized("The token is not right. Use the one that `dashboards serve` printed last.")
    given.security.sign_in(response)
    return Standing(signed_in=True, open_to_read=given.config.open_to_read)


@router.post("/sign-out", dependencies=[Operator], responses=documented(HTTPStatus.UNAUTHORIZED))
async def sign_out(request: Request, given: ServicesDep) -> Response:
    """Make the cookie worthless."""
    response = JSONResponse({"signed_in": False, "open_to_read": given.config.open_to_read})
    given.security.sign_out(request, response)
    return response
