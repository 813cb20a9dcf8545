"""The laboratory: schedules, and runs of them; their figures are under ``/runs``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dashboards.calls import ask, shown
from dashboards.conditional import ConditionalRoute
from dashboards.deps import Operator, Reader, Services, ServicesDep
from dashboards.lab_schemas import LabRunDetail, LabRunList, LabRunView, LabRunWanted, ScheduleList
from dashboards.links import NodeLink
from dashboards.problems import Problem, documented

router = APIRouter(prefix="/lab", tags=["laboratory"], route_class=ConditionalRoute)

RunId = Annotated[str, Path(pattern=r"^[0-9a-f]{1,32}$", description="`id` of a run", examples=["0da721100ec3"])]
LabName = Annotated[
    str | None, Query(max_length=64, description="a laboratory, by its name under nodes; the first one without it")
]
_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


@router.get("/schedules", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def list_schedules(given: ServicesDep, node: LabName = None) -> ScheduleList:
    """What can be played: those that ship and the laboratory's own; which stages it has here."""
    link = _laboratory(given, node)
    return shown(link, ScheduleList, await ask(link, "lab.schedules"))


@router.get("/runs", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def list_lab_runs(given: ServicesDep, node: LabName = None) -> LabRunList:
    """The runs that wait, the one that is played, and the last that are over."""
    link = _laboratory(given, node)
    return shown(link, LabRunList, await ask(link, "lab.runs"))


@router.post(
    "/runs",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[Operator],
    responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT),
)
async def start_lab_run(given: ServicesDep, wanted: LabRunWanted, node: LabName = None) -> LabRunView:
    """Play a schedule as soon as it is its turn; the events `lab-run` tell how it goes."""
    link = _laboratory(given, node)
    return shown(link, LabRunView, await ask(link, "lab.run", **wanted.model_dump(exclude_none=True)))


@router.get("/runs/{identifier}", dependencies=[Reader], responses=documented(*_PROBLEMS))
async def get_lab_run(given: ServicesDep, identifier: RunId, node: LabName = None) -> LabRunDetail:
    """A run with what has happened in it so far."""
    link = _laboratory(given, node)
    return shown(link, LabRunDetail, await ask(link, "lab.get", id=identifier))


@router.delete(
    "/runs/{identifier}",
    status_code=HTTPStatus.ACCEPTED,
    dependencies=[Operator],
    responses=documented(*_PROBLEMS, HTTPStatus.CONFLICT),
)
async def stop_lab_run(given: ServicesDep, identifier: RunId, node: LabName = None) -> LabRunView:
    """Stop it: at once when it waits, else when its nodes have ended."""
    link = _laboratory(given, node)
    return shown(link, LabRunView, await ask(link, "lab.stop", id=identifier))


def _laboratory(given: Services, name: str | None) -> NodeLink:
    for link in given.fleet.laboratories:
        if name in (None, link.name):
            return link
    known = ", ".join(link.name for link in given.fleet.laboratories) or "none"
    wanted = "There is no laboratory" if name is None else f"There is no laboratory {name}"
    raise Problem(HTTPStatus.NOT_FOUND, "not-found", f"{wanted}; configured under nodes: {known}.")
