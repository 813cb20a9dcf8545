"""The OpenAPI description: what FastAPI makes of the routes, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from dashboards.deps import Operator, SignedIn
from dashboards.problems import PROBLEM_SCHEMA, documented

_ANYWHERE = (HTTPStatus.REQUEST_URI_TOO_LONG, HTTPStatus.MISDIRECTED_REQUEST)
_WITH_BODY = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
_GUARDED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def describe(app: FastAPI, routers: Iterable[tuple[str, APIRouter]]) -> dict[str, Any]:
    """The description; ``routers`` with the prefix of each."""
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    described = components.setdefault("schemas", {})
    described["Problem"] = PROBLEM_SCHEMA
    for unused in ("HTTPValidationError", "ValidationError"):
        described.pop(unused, None)
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for prefix, router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    _complete(schema["paths"][prefix + route.path_format][method.lower()], route)
    return schema


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Which operations need a token (those that ``Operator`` or ``SignedIn`` guards), and what any may answer."""
    statuses = list(_ANYWHERE)
    if Operator in route.dependencies or SignedIn in route.dependencies:
        operation["security"] = [{"bearer": []}]
        statuses += _GUARDED
    if "requestBody" in operation:
        statuses += _WITH_BODY
    for status, response in documented(*statuses).items():
        operation["responses"].setdefault(str(status), response)
