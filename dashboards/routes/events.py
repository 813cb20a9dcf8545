"""The live feed of nodes, sessions and trace records: server-sent events, or a WebSocket."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response, WebSocket
from pydantic import Field

from dashboards.deps import Reader, Services, ServicesDep, services
from dashboards.event import Wanted
from dashboards.problems import Problem, documented, unfit
from dashboards.stream import EventStream, follow_socket

router = APIRouter(prefix="/events", tags=["events"])

NAMES = ("node", "restarted", "session", "session-gone", "record", "lab-run")  # of who asks for nothing special
ALL_NAMES = (*NAMES, "changes")
SESSIONS_MAXIMUM = 200

After = Annotated[str | None, Query(max_length=64, description="as Last-Event-ID, for a page that was loaded anew")]
Names = Annotated[
    str | None, Query(max_length=128, description="names, separated by commas", examples=["session,session-gone"])
]
OfSession = Annotated[
    list[Annotated[str, Field(max_length=256)]] | None,
    Query(
        max_length=SESSIONS_MAXIMUM,
        description="of session events and records: only this one's, or these ones' when given several times",
    ),
]


@router.get(
    "",
    dependencies=[Reader],
    response_class=Response,
    responses={
        200: {
            "description": "Events `node`, `restarted`, `session`, `session-gone`, `record` and `lab-run`, each with "
            "an id and JSON data, and `changes` where asked for; `hello` first, or `reset` when what came after "
            "Last-Event-ID is lost; `dropped` last, when the reader was too slow.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
    },
)
async def follow_events(
    given: ServicesDep,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    after: After = None,
    events: Names = None,
    session: OfSession = None,
) -> Response:
    """Follow what happens, from now on or from after the last event seen."""
    wanted = _filter(events, session)
    _check_room(given)
    return EventStream(
        given.hub,
        last_event_id=last_event_id or after,
        wanted=wanted,
        heartbeat_interval=given.config.heartbeat_interval,
        send_timeout=given.config.reader_timeout,
    )


@router.websocket("/ws")
async def follow_events_by_socket(
    socket: WebSocket,
    after: After = None,
    events: Names = None,
    session: OfSession = None,
) -> None:
    """The same as JSON texts ``{"id": …, "event": …, "data": …}``; refusals are problems before the handshake."""
    given = services(socket)
    try:
        if not given.security.accepts_origin(socket):
            raise Problem(HTTPStatus.FORBIDDEN, "foreign-origin", "Pages of other sites may not follow the events.")
        given.security.check_reader(socket)
        wanted = _filter(events, session)
        _check_room(given)
    except Problem as problem:
        await socket.send_denial_response(problem.response(socket.url.path))
        return
    await socket.accept()
    await follow_socket(
        given.hub,
        socket,
        last_event_id=after,
        wanted=wanted,
        heartbeat_interval=given.config.heartbeat_interval,
        send_timeout=given.config.reader_timeout,
    )


def _check_room(given: Services) -> None:
    if given.hub.readers >= given.config.event_readers:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too-many-readers",
            f"{given.hub.readers} event streams are open, which is the limit.",
            headers={"Retry-After": "5"},
        )


def _filter(events: str | None, sessions: list[str] | None) -> Wanted:
    names = frozenset(events.split(",") if events else NAMES)
    if not names <= frozenset(ALL_NAMES):
        raise unfit("events", f"names are {', '.join(ALL_NAMES)}")
    return Wanted(names, frozenset(sessions) if sessions else None)
