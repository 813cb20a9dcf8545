"""The catalogue of causes, and attaches that failed, whether or not a gateway has them as sessions."""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query

from dashboards.attempts import failed
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.explanation_schemas import Attempt, AttemptList, CauseCount, CauseList, CauseView
from dashboards.overview import refusals
from dashboards.problems import documented, unfit
from dashboards.trace_schemas import TraceName
from protocols.trace.explanation.catalogue import CATALOGUE
from protocols.trace.explanation.cause import main_finding

ATTEMPTS = 20
ATTEMPTS_LIMIT = 100
LOOKED_THROUGH = 200  # the last attempts, each of which is explained
TITLES = {cause.name: cause.title for cause in CATALOGUE}

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
    cause: Annotated[str | None, Query(max_length=64, description="a cause of the catalogue, by its slug")] = None,
    outcome: Annotated[
        str | None, Query(max_length=256, description="what its gateway counts it as, as in /overview")
    ] = None,
) -> AttemptList:
    """Attaches that failed, as the traces tell: also those that made no session, or whose session is forgotten."""
    if cause is not None and cause not in TITLES:
        raise unfit("cause", f"there is no cause {cause}; /causes lists them")
    told_apart = {link.name: refusals(link.status) for link in given.fleet.gateways}
    matching = (each for each in failed(given.fleet.sources) if outcome in (None, each.counted_as(told_apart)))
    found = list(islice(matching, LOOKED_THROUGH))
    explained = [(each, main_finding(await given.explanations.of(each.selection))) for each in found]
    causes = Counter(main.cause.name for _, main in explained if main is not None)
    wanted = [
        Attempt(
            id=each.identifier,
            wall=each.wall,
            outcome=each.outcome,
            cause=None if main is None else main.cause.name,
            title=None if main is None else main.cause.title,
            sentence=None if main is None else main.sentence,
            text=each.text,
            names=[TraceName(node=source.name, session=name) for source, name, _, _ in each.selection.parts],
        )
        for each, main in explained
        if cause is None or (main is not None and main.cause.name == cause)
    ]
    return AttemptList(
        attempts=wanted[:limit],
        total=len(wanted),
        looked_through=len(found),
        causes=[CauseCount(cause=name, title=TITLES[name], count=count) for name, count in causes.most_common()],
    )
