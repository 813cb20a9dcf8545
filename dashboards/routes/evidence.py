"""The evidence of one session as an archive."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from dashboards.audit import asked
from dashboards.deps import Reader, ServicesDep
from dashboards.evidence import Witness
from dashboards.links import TRACED
from dashboards.problems import Problem, documented
from dashboards.session_lookup import Identifier, find_session, selection
from protocols.trace.records import JsonValue

router = APIRouter(prefix="/sessions", tags=["sessions"])

_ARCHIVE: dict[int | str, dict[str, Any]] = {
    int(HTTPStatus.OK): {
        "description": "a ZIP archive; its README.txt says what each file is",
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/{identifier}/evidence",
    dependencies=[Reader],
    response_class=Response,
    responses=_ARCHIVE
    | documented(
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.CONFLICT,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def get_evidence(
    request: Request,
    given: ServicesDep,
    identifier: Identifier,
    keys: Annotated[
        bool, Query(description="with keys and the decrypted view: operators only, where a node exports keys")
    ] = False,
) -> Response:
    """All that is known of one session: capture, ladder, trace, configurations, result; opens in Wireshark."""
    if keys:
        given.security.check_operator(request)
    gateway: str | None = None
    session: dict[str, JsonValue] = {"id": identifier}
    try:
        link, session = await find_session(given, identifier)
        gateway = link.name
    except Problem as problem:
        if problem.status is not HTTPStatus.NOT_FOUND:
            raise
        await selection(given, identifier)  # known to the traces, or 404
    witnesses = [
        Witness(link.name, link.control, link.name == gateway) for link in given.fleet.links if link.kind in TRACED
    ]
    if gateway is not None:
        asked(gateway)
    directory = f"evidence-{re.sub(r'[^A-Za-z0-9._-]', '_', identifier)[:64]}"
    octets = await given.evidence.archive(session, witnesses, directory=directory, with_keys=keys)
    return Response(
        octets,
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{directory}.zip"'},
    )
