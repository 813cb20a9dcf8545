"""Conditional requests (RFC 9110 §13): an entity tag on answers, and 304 for who has this one already."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

_KEPT = ("cache-control", "content-location", "date", "expires", "vary")  # of a 304 (§15.4.5), beside the tag


def conditional(request: Request, response: Response) -> Response:
    """The answer with a strong entity tag of its octets (§8.8.3), or 304; a stream is left as it is."""
    octets = getattr(response, "body", b"")
    if request.method not in ("GET", "HEAD") or response.status_code != HTTPStatus.OK or not octets:
        return response
    tag = f'"{hashlib.sha256(octets).hexdigest()[:32]}"'
    if _matches(request.headers.get("if-none-match"), tag):
        kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={**kept, "ETag": tag})
    response.headers["ETag"] = tag
    return response


class ConditionalRoute(APIRoute):
    """A route whose answers carry entity tags."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own, and the condition behind it."""
        answer = super().get_route_handler()

        async def conditionally(request: Request) -> Response:
            return conditional(request, await answer(request))

        return conditionally


def _matches(field: str | None, tag: str) -> bool:
    """If-None-Match compares weakly (§13.1.2)."""
    if field is None:
        return False
    tags = [each.strip().removeprefix("W/") for each in field.split(",")]
    return "*" in tags or tag in tags
