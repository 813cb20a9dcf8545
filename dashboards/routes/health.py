"""Probes of the process for supervisors and load balancers; they need no token and tell no more than names."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from dashboards.deps import ServicesDep
from dashboards.problems import Problem, documented
from dashboards.schemas import Health

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> Health:
    """The process answers."""
    return Health(status="alive")


@router.get("/readyz", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
async def ready(given: ServicesDep) -> Health:
    """Every gateway (node of kind epdg) was reachable when asked last; else 503 that names those that were not."""
    away = [link.name for link in given.fleet.gateways if not link.reachable]
    if away:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "gateways-unreachable",
            f"These gateways cannot be reached: {', '.join(away)}.",
            headers={"Retry-After": "2"},
            nodes=away,
        )
    return Health(status="ready")
