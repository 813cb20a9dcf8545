"""Errors as problem details (RFC 9457): one exception, and handlers that leave no other shape of error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

PROBLEM_JSON = "application/problem+json"
_TYPE = "urn:epdg-emulator:problem:"

logger = logging.getLogger("dashboards")


class Problem(Exception):
    """A refusal: an HTTP status, a problem type, one plain sentence, and members of its own."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    def response(self, instance: str) -> JSONResponse:
        """The answer to the request for ``instance``."""
        return problem_response(
            self.status, self.code, self.detail, instance=instance, headers=self.headers, members=dict(self.members)
        )


def problem_response(
    status: int,
    code: str | None,
    detail: str,
    *,
    instance: str,
    headers: dict[str, str] | None = None,
    members: dict[str, object] | None = None,
) -> JSONResponse:
    """Build the answer (RFC 9457 §3); without a code the type is ``about:blank`` (§4.2.1)."""
    phrase = HTTPStatus(status).phrase
    body: dict[str, object] = {
        "type": _TYPE + code if code else "about:blank",
        "title": code.replace("-", " ").capitalize() if code else phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        **(members or {}),
    }
    return JSONResponse(body, status_code=status, media_type=PROBLEM_JSON, headers=headers)


def unauthorized(detail: str) -> Problem:
    """401 with the challenge that RFC 9110 §11.6.1 requires."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "not-signed-in",
        detail,
        headers={"WWW-Authenticate": 'Bearer realm="epdg-dashboard"'},
    )


def unfit(name: str, detail: str) -> Problem:
    """422 for a parameter of the query, in the words that FastAPI's own refusals are put in."""
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        f"{name}: {detail}",
        errors=[{"in": "query", "name": name, "detail": detail}],
    )


def _invalid(found: Sequence[Any], path: str) -> JSONResponse:
    """What FastAPI found wrong with a request."""
    errors = [
        {"in": str(item["loc"][0]), "name": ".".join(map(str, item["loc"][1:])), "detail": item["msg"]}
        for item in found
    ]
    return problem_response(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid-request",
        "; ".join(f"{item['name'] or item['in']}: {item['detail']}" for item in errors),
        instance=path,
        members={"errors": errors},
    )


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> JSONResponse:
        return error.response(request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return _invalid(error.errors(), request.url.path)

    @app.exception_handler(WebSocketRequestValidationError)
    async def _socket_validation(socket: WebSocket, error: WebSocketRequestValidationError) -> None:
        await socket.send_denial_response(_invalid(error.errors(), socket.url.path))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = f"There is nothing at {request.url.path}."
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            detail = f"{request.method} is not possible at {request.url.path}."
        else:
            detail = str(error.detail)
        headers = dict(error.headers) if error.headers else None
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _allowed(request)):
            headers = {"Allow": ", ".join(sorted(methods))}
        return problem_response(error.status_code, None, detail, instance=request.url.path, headers=headers)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected error at %s %s", request.method, request.url.path, exc_info=error)
        return problem_response(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            None,
            "The dashboard made a mistake; its log says more.",
            instance=request.url.path,
        )


def _allowed(request: Request) -> set[str]:
    """The methods of all routes of a path (RFC 9110 §10.2.1); Starlette tells those of the first one only."""
    methods: set[str] = set()
    for prefix, router in request.app.state.routers:
        for route in router.routes if request.url.path.startswith(prefix) else ():
            if isinstance(route, APIRoute) and route.path_regex.match(request.url.path.removeprefix(prefix)):
                methods |= route.methods or set()
    return methods


PROBLEM_SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "description": "Problem details (RFC 9457)",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
    },
}


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for OpenAPI: which problems it answers."""
    return {
        int(status): {
            "description": status.phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
