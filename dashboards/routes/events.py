"""The live feed: server-sent events of nodes, sessions and trace records."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from dashboards.deps import Reader, ServicesDep
from dashboards.problems import Problem, documented
from dashboards.stream import Event, EventStream

router = APIRouter(prefix="/events", tags=["events"])

NAMES = ("node", "restarted", "session", "session-gone", "record")


@router.get(
    "",
    dependencies=[Reader],
    response_class=Response,
    responses={
        200: {
            "description": "Events `node`, `restarted`, `session`, `session-gone` and `record`, each with an "
            "id and JSON data; `hello` first, or `reset` when what came after Last-Event-ID is lost.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def follow_events(
    given: ServicesDep,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    after: Annotated[
        str | None, Query(max_length=64, description="as Last-Event-ID, for a page that was loaded anew")
    ] = None,
    events: Annotated[str | None, Query(max_length=128, description="names, separated by commas")] = None,
    session: Annotated[
        str | None, Query(max_length=256, description="of session events and records: only this one's")
    ] = None,
) -> Response:
    """Follow what happens, from now on or from after the last event seen."""
    if given.hub.readers >= given.config.event_readers:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too-many-readers",
            f"{given.hub.readers} event streams are open, which is the limit.",
            headers={"Retry-After": "5"},
        )
    names = frozenset(events.split(",") if events else NAMES)
    if not names <= frozenset(NAMES):
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid-request",
            f"events: names are {', '.join(NAMES)}",
            errors=[{"in": "query", "name": "events", "detail": f"names are {', '.join(NAMES)}"}],
        )

    def wanted(event: Event) -> bool:
        return event.name in names and (session is None or event.session in (None, session))

    return EventStream(
        given.hub,
        last_event_id=last_event_id or after,
        wanted=wanted,
        heartbeat_interval=given.config.heartbeat_interval,
    )
