"""All nodes at a glance."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.overview import overview
from dashboards.overview_schemas import Overview
from dashboards.problems import documented

router = APIRouter(prefix="/overview", tags=["overview"], route_class=ConditionalRoute)


@router.get("", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
async def show_overview(given: ServicesDep) -> Overview:
    """Sessions, rates of the last two minutes, outcomes, percentiles, drops, peers and health of all nodes."""
    return overview(given.fleet.links, given.fleet.rates)
