"""The catalogue of causes, and attaches that failed, whether or not a gateway has them as sessions."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query

from dashboards.attempts import failed
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.explanation_schemas import Attempt, AttemptList, CauseList, CauseView
from dashboards.problems import documented
from dashboards.trace_schemas import TraceName
from protocols.trace.explanation.catalogue import CATALOGUE
from protocols.trace.explanation.cause import main_finding

ATTEMPTS = 20
ATTEMPTS_LIMIT = 100

router = APIRouter(tags=["explanations"], route_class=ConditionalRoute)


@router.get("/causes", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
async def list_causes() -> CauseList:
    """All causes that a failure can be explained by, the more telling ones first."""
    return CauseList(
        causes=[
            CauseView(
                cause=cause.name, title=cause.title, remark=cause.remark, clause=cause.clause, advice=cause.advice
            )
            for cause in CATALOGUE
        ]
    )


@router.get(
    "/attempts",
    dependencies=[Reader],
    responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY),
)
async def list_attempts(
    given: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=ATTEMPTS_LIMIT, description="how many, the last ones")] = ATTEMPTS,
) -> AttemptList:
    """Attaches that failed, as the traces tell: also those that made no session, or whose session is forgotten."""
    found, total = failed(given.fleet.sources, limit=limit)
    attempts = []
    for each in found:
        main = main_finding(await given.explanations.of(each.selection))
        attempts.append(
            Attempt(
                id=each.identifier,
                wall=each.wall,
                sentence=None if main is None else main.sentence,
                text=each.text,
                names=[TraceName(node=source.name, session=name) for source, name, _, _ in each.selection.parts],
            )
        )
    return AttemptList(attempts=attempts, total=total)
