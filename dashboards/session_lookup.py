"""Which session a request means: the gateway that has it, and what the nodes recorded of it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Path, Query

from dashboards import session_pages
from dashboards.calls import ask
from dashboards.deps import Services
from dashboards.links import NodeLink
from dashboards.problems import Problem
from dashboards.ring import Selection
from protocols.trace.records import JsonValue

PAGE = 50
PAGE_LIMIT = 500

Identifier = Annotated[
    str, Path(min_length=1, max_length=256, description="session identifier", examples=["18f7e6d5c4b3a291"])
]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="entries on a page")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next` of the page before")]


async def selection(given: Services, identifier: str) -> Selection:
    """What the nodes recorded of a session; one the gateway has forgotten, or never had, lives on in the trace."""
    try:
        _, session = await find_session(given, identifier)
    except Problem as problem:
        found = given.fleet.select(identifier, None)
        if not found.parts:
            raise problem
        return found
    return given.fleet.select(identifier, session)


async def find_session(given: Services, identifier: str) -> tuple[NodeLink, dict[str, JsonValue]]:
    """The gateway that has the session, and the session; ``Problem`` 404, 503 when not all could be asked."""
    problem: Problem | None = None
    for link in given.fleet.gateways:
        try:
            session = await ask(link, "sessions.get", id=identifier)
        except Problem as refused:
            if refused.status is HTTPStatus.SERVICE_UNAVAILABLE or problem is None:
                problem = refused
            continue
        if isinstance(session, dict):
            return link, session
        raise session_pages.unexpected(link)
    raise problem or Problem(HTTPStatus.NOT_FOUND, "not-found", f"There is no session {identifier}.")
