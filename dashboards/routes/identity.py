"""Signing in and out, and asking who one is."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from dashboards.deps import Services, ServicesDep, SignedIn
from dashboards.problems import documented, unauthorized
from dashboards.schemas import SignIn, Standing
from dashboards.security import Principal

router = APIRouter(tags=["identity"])


@router.get("/me")
async def who_am_i(request: Request, given: ServicesDep) -> Standing:
    """Who is asking and in which role, and whether reading needs that."""
    return _standing(given, given.security.principal(request))


@router.post("/sign-in", responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY))
async def sign_in(request: Request, body: SignIn, given: ServicesDep, response: Response) -> Standing:
    """Exchange a token for a cookie of its role."""
    found = given.security.holder(body.token)
    if found is None:
        raise unauthorized(
            "The token is not right. Use one of `dashboards token add`, or what `dashboards serve` printed last."
        )
    request.state.signed_in_as = found
    given.security.sign_in(response, body.token)
    return _standing(given, found)


@router.post(
    "/sign-out", dependencies=[SignedIn], response_model=Standing, responses=documented(HTTPStatus.UNAUTHORIZED)
)
async def sign_out(request: Request, given: ServicesDep) -> Response:
    """Make the cookie worthless."""
    response = JSONResponse(_standing(given, None).model_dump(mode="json"))
    given.security.sign_out(request, response)
    return response


def _standing(given: Services, found: Principal | None) -> Standing:
    return Standing(
        signed_in=found is not None,
        open_to_read=given.config.open_to_read,
        name=None if found is None else found.name,
        role=None if found is None else found.role,
    )
