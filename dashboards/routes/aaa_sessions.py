"""SWm sessions as an AAA server has them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dashboards.aaa_schemas import AaaSessionPage, AaaSessionState, AaaSessionView, ProcedureView, Why
from dashboards.calls import NodeName, ask, server, shown
from dashboards.deps import Operator, Reader, ServicesDep
from dashboards.links import NodeLink
from dashboards.problems import documented

PAGE = 50
PAGE_LIMIT = 500

router = APIRouter(prefix="/aaa-sessions", tags=["aaa-sessions"])

Identifier = Annotated[str, Path(min_length=1, max_length=512, description="the Session-Id")]
_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get("", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def list_aaa_sessions(
    given: ServicesDep,
    imsi: Annotated[str | None, Query(pattern=r"^[0-9]{1,15}$")] = None,
    apn: Annotated[str | None, Query(min_length=1, max_length=100)] = None,
    state: AaaSessionState | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="entries on a page")] = PAGE,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    node: NodeName = None,
) -> AaaSessionPage:
    """The sessions, oldest first."""
    link = server(given, node)
    answer = await ask(link, "sessions.list", imsi=imsi, apn=apn, state=state, limit=limit, cursor=cursor)
    return shown(link, AaaSessionPage, answer)


@router.get("/{identifier}", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def get_aaa_session(given: ServicesDep, identifier: Identifier, node: NodeName = None) -> AaaSessionView:
    """One session."""
    link = server(given, node)
    return shown(link, AaaSessionView, await ask(link, "sessions.get", id=identifier))


@router.post("/{identifier}/abort", dependencies=[Operator], responses=documented(*_PROBLEMS, HTTPStatus.BAD_GATEWAY))
async def abort_aaa_session(
    given: ServicesDep, identifier: Identifier, wanted: Why | None = None, node: NodeName = None
) -> ProcedureView:
    """ASR to the gateway (or the PGW), which detaches the UE; answered when its STR is there or will not come."""
    return await _carried_out(server(given, node), "sessions.abort", identifier, wanted)


@router.post(
    "/{identifier}/reauthorise", dependencies=[Operator], responses=documented(*_PROBLEMS, HTTPStatus.BAD_GATEWAY)
)
async def reauthorise_aaa_session(
    given: ServicesDep, identifier: Identifier, wanted: Why | None = None, node: NodeName = None
) -> ProcedureView:
    """RAR to the gateway (or the PGW); answered when it has fetched the profile by its AAR, or will not."""
    return await _carried_out(server(given, node), "sessions.reauthorise", identifier, wanted)


async def _carried_out(link: NodeLink, method: str, identifier: str, wanted: Why | None) -> ProcedureView:
    reason = None if wanted is None else wanted.reason
    return shown(link, ProcedureView, await ask(link, method, id=identifier, reason=reason))
