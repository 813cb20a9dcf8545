"""Figures of the nodes for Prometheus, from what each said of itself last; no series is labelled by UE."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dashboards.deps import Reader, ServicesDep
from dashboards.links import NodeLink
from protocols.trace.records import JsonValue

router = APIRouter(include_in_schema=False)


@router.get("/metrics", dependencies=[Reader])
async def metrics(given: ServicesDep) -> Response:
    """The text format of Prometheus."""
    registry = CollectorRegistry()
    registry.register(NodesCollector(given.fleet.links))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class NodesCollector(Collector):
    """Makes metrics of what the nodes said last; of one that cannot be reached only that."""

    def __init__(self, links: tuple[NodeLink, ...]) -> None:
        self._links = links

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        up = GaugeMetricFamily("epdg_node_up", "Whether the node answers.", labels=("node", "kind"))
        sessions = GaugeMetricFamily("epdg_sessions", "Sessions of a gateway by state.", labels=("node", "state"))
        half_open = GaugeMetricFamily("epdg_half_open_sas", "IKE SAs that nobody has proved yet.", labels=("node",))
        events = CounterMetricFamily("epdg_events", "What happened at a node, by name.", labels=("node", "event"))
        dropped = CounterMetricFamily(
            "epdg_dropped",
            "Messages and packets that went no further: where (ike, swu, esp, tun, diameter) and why.",
            labels=("node", "where", "reason"),
        )
        for link in self._links:
            up.add_metric((link.name, link.kind), float(link.reachable))
            if not link.reachable:
                continue
            for state, count in link.sessions.items():
                sessions.add_metric((link.name, state), count)
            if isinstance(waiting := link.status.get("half_open"), int):
                half_open.add_metric((link.name,), waiting)
            for name, number in _counts(link.status.get("totals")):
                events.add_metric((link.name, name), number)
            where = link.status.get("dropped")
            for place, reasons in where.items() if isinstance(where, dict) else ():
                for reason, number in _counts(reasons):
                    dropped.add_metric((link.name, place, reason), number)
        yield from (up, sessions, half_open, events, dropped)


def _counts(found: JsonValue) -> Iterator[tuple[str, float]]:
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
