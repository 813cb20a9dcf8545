"""Sessions: list, detail, detach, ladder, messages."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dashboards import ladder, session_pages
from dashboards.calls import ask
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Operator, Reader, Services, ServicesDep
from dashboards.links import NodeLink
from dashboards.problems import Problem, documented
from dashboards.schemas import (
    Detached,
    Ladder,
    LadderEntry,
    MessagePage,
    MessageView,
    Moment,
    SessionOrder,
    SessionPage,
    SessionState,
    SessionView,
    TraceName,
)
from protocols.trace.records import JsonValue, Kind

PAGE = 50
PAGE_LIMIT = 500

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=ConditionalRoute)

Identifier = Annotated[str, Path(min_length=1, max_length=256, description="session identifier")]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="entries on a page")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next` of the page before")]


@router.get(
    "",
    dependencies=[Reader],
    responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def list_sessions(
    given: ServicesDep,
    imsi: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$", examples=["001010000000001"])] = None,
    apn: Annotated[str | None, Query(min_length=1, max_length=100, examples=["internet"])] = None,
    state: SessionState | None = None,
    address: Annotated[
        str | None, Query(min_length=2, max_length=64, description="inner or outer address", examples=["10.45.0.3"])
    ] = None,
    q: Annotated[
        str | None,
        Query(min_length=1, max_length=100, description="in IMSI, NAI, APN or an address", examples=["00101"]),
    ] = None,
    since: Annotated[Moment | None, Query(description="created then or later")] = None,
    until: Annotated[Moment | None, Query(description="created then or before")] = None,
    sort: Annotated[
        SessionOrder | None,
        Query(description="over all gateways; without it gateway by gateway, live ones first"),
    ] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> SessionPage:
    """The sessions of all gateways, filtered, sorted and paged."""
    filters: dict[str, JsonValue] = {
        "imsi": imsi,
        "apn": apn,
        "state": state,
        "address": address,
        "q": q,
        "since": since,
        "until": until,
    }
    filters = {key: value for key, value in filters.items() if value is not None}
    if sort is not None:
        return await session_pages.merged(given, filters, sort, limit=limit, cursor=cursor)
    return await session_pages.one_after_the_other(given, filters, limit=limit, cursor=cursor)


@router.get(
    "/{identifier}",
    dependencies=[Reader],
    responses=documented(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def get_session(given: ServicesDep, identifier: Identifier) -> SessionView:
    """One session: identity, addresses, SAs with counters, and every path it has been on."""
    link, session = await _find(given, identifier)
    return session_pages.view(link, session)


@router.delete(
    "/{identifier}",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[Operator],
    responses=documented(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def detach_session(given: ServicesDep, identifier: Identifier) -> Detached:
    """Detach: the gateway deletes the SAs towards the UE and ends the Diameter session."""
    link, _ = await _find(given, identifier)
    await ask(link, "sessions.detach", id=identifier)
    return Detached(id=identifier, gateway=link.name)


@router.get(
    "/{identifier}/ladder",
    dependencies=[Reader],
    responses=documented(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def get_ladder(given: ServicesDep, identifier: Identifier) -> Ladder:
    """The messages and events of one session, merged from what all nodes recorded."""
    sources = _sources(given)
    identifiers = await _identifiers(given, identifier, sources)
    entries, names, left_out = ladder.build(sources, identifiers, now=time.time())
    columns = ["UE", "ePDG", "AAA"]
    if any("HSS" in (entry.source, entry.target) for entry in entries):
        columns.append("HSS")
    return Ladder(
        session=identifier,
        columns=columns,
        entries=[LadderEntry.model_validate(entry.to_json()) for entry in entries],
        names=[TraceName(node=node, session=name) for node, name in names],
        left_out=left_out,
        silent=[link.name for link in given.fleet.links if not link.reachable],
    )


@router.get(
    "/{identifier}/messages",
    dependencies=[Reader],
    responses=documented(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def get_messages(
    given: ServicesDep,
    identifier: Identifier,
    node: Annotated[str | None, Query(max_length=64, description="only as this node saw them")] = None,
    protocol: Annotated[str | None, Query(max_length=32, description="ikev2, diameter or eap")] = None,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> MessagePage:
    """The trace records of a session's messages, decoded, oldest first, each as its node saw it."""
    sources = _sources(given)
    identifiers = await _identifiers(given, identifier, sources)
    found = [
        (record.wall, source.name, record)
        for source, record in ladder.select(sources, identifiers)
        if record.kind is Kind.MESSAGE
        and (node is None or source.name == node)
        and (protocol is None or record.body.get("protocol") == protocol)
    ]
    found.sort(key=lambda item: (item[0], item[1], item[2].sequence))
    after = _decode_place(cursor)
    rest = [item for item in found if after is None or (item[0], item[1], item[2].sequence) > after]
    shown = rest[:limit]
    return MessagePage(
        messages=[
            MessageView(
                id=f"{name}:{record.sequence}",
                node=name,
                sequence=record.sequence,
                wall=wall,
                session=record.session,
                body=record.body,
            )
            for wall, name, record in shown
        ],
        next=session_pages.encode([shown[-1][0], shown[-1][1], shown[-1][2].sequence]) if len(rest) > limit else None,
        total=len(found),
    )


def _sources(given: Services) -> list[ladder.Source]:
    return [ladder.Source(link.name, link.kind, link.trace) for link in given.fleet.links]


async def _identifiers(given: Services, identifier: str, sources: list[ladder.Source]) -> ladder.Identifiers:
    """What the session is called; a session the gateway has forgotten lives on in the trace."""
    try:
        _, session = await _find(given, identifier)
    except Problem as problem:
        identifiers = ladder.Identifiers.of(identifier, None)
        if not any(source.trace.records(identifier) for source in sources):
            raise problem
        return identifiers
    return ladder.Identifiers.of(identifier, session)


async def _find(given: Services, identifier: str) -> tuple[NodeLink, dict[str, JsonValue]]:
    """The gateway that has the session, and the session."""
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


def _decode_place(cursor: str | None) -> tuple[float, str, int] | None:
    if cursor is None:
        return None
    match session_pages.decode(cursor):
        case [float() | int() as wall, str(name), int(sequence)]:
            return float(wall), name, sequence
    raise session_pages.bad_cursor()
