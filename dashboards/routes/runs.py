"""Runs of the mobility laboratory: figures and timelines, out of the directory that ``lab run --output`` writes to."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from dashboards.deps import Reader, ServicesDep
from dashboards.problems import Problem, documented
from dashboards.run_schemas import RunList, RunView
from dashboards.runs import Run

router = APIRouter(prefix="/runs", tags=["laboratory"])
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # a picture, should it be opened by itself


@router.get("", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
def list_runs(given: ServicesDep) -> RunList:
    """The latest runs, newest first."""
    found, unreadable = given.runs.latest()
    views = [view for view in map(_view, found) if view is not None]
    return RunList(runs=views, unreadable=unreadable + len(found) - len(views))


@router.get(
    "/{name}",
    dependencies=[Reader],
    responses=documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
)
def one_run(name: str, given: ServicesDep) -> RunView:
    """A run with its moves and what was expected of it."""
    run = given.runs.find(name)
    view = None if run is None else _view(run)
    if view is None:
        raise _no_such(name)
    return view


@router.get(
    "/{name}/timeline.svg",
    dependencies=[Reader],
    response_class=Response,
    responses={
        HTTPStatus.OK: {"content": {"image/svg+xml": {}}, "description": "The picture"},
        **documented(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY),
    },
)
def timeline(name: str, given: ServicesDep) -> Response:
    """Both directions of the traffic over time, moves and outages marked."""
    run = given.runs.find(name)
    if run is None or run.picture is None:
        raise _no_such(name)
    return FileResponse(run.picture, media_type="image/svg+xml", headers={"Content-Security-Policy": _POLICY})


def _view(run: Run) -> RunView | None:
    try:
        return RunView.of(run.name, run.written, run.result, timeline=run.picture is not None)
    except ValueError:  # pydantic's ValidationError is one
        return None


def _no_such(name: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "no-such-run", f"There is no run {name} in the directory of results.")
