"""Sessions: list, detail."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from dashboards import session_pages
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.problems import documented
from dashboards.schemas import Moment, SessionDetail, SessionOrder, SessionPage, SessionState
from dashboards.session_lookup import PAGE, Cursor, Identifier, Limit, find_session
from protocols.trace.explanation.cause import main_finding
from protocols.trace.records import JsonValue

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=ConditionalRoute)


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
    gateway: Annotated[str | None, Query(max_length=64, description="only this one's, by its name under nodes")] = None,
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
    gateways = session_pages.gateways(given, gateway)
    if sort is not None:
        return await session_pages.merged(gateways, filters, sort, limit=limit, cursor=cursor)
    return await session_pages.one_after_the_other(gateways, filters, limit=limit, cursor=cursor)


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
async def get_session(given: ServicesDep, identifier: Identifier) -> SessionDetail:
    """One session: identity, addresses, SAs with counters, every path it has been on, and why it failed if it did."""
    link, session = await find_session(given, identifier)
    main = main_finding(await given.explanations.of(given.fleet.select(identifier, session)))
    shown = session_pages.view(link, session)
    return SessionDetail(**shown.model_dump(), failure=None if main is None else main.sentence)
