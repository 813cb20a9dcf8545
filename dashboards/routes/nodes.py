"""Nodes: which are there, and how they do."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from dashboards.conditional import ConditionalRoute
from dashboards.deps import Reader, ServicesDep
from dashboards.problems import documented
from dashboards.schemas import NodeList

router = APIRouter(prefix="/nodes", tags=["nodes"], route_class=ConditionalRoute)


@router.get("", dependencies=[Reader], responses=documented(HTTPStatus.UNAUTHORIZED))
async def list_nodes(given: ServicesDep) -> NodeList:
    """Every configured node and its health, as last seen."""
    return NodeList(nodes=[link.view() for link in given.fleet.links])
