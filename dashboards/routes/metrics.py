"""Figures of the nodes, and of the dashboard's own process, in the text format of Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from dashboards.deps import Reader, ServicesDep
from dashboards.metrics import NodesCollector

router = APIRouter(include_in_schema=False)


@router.get("/metrics", dependencies=[Reader])
async def metrics(given: ServicesDep) -> Response:
    """docs/metrics.md explains them."""
    registry = CollectorRegistry()
    registry.register(NodesCollector(given.fleet.links, given.hub))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
