"""All nodes at a glance, from what each said of itself last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from dashboards.histograms import Histogram, together
from dashboards.links import NodeLink
from dashboards.overview_schemas import (
    Drop,
    GatewaySessions,
    Outcome,
    Overview,
    Percentiles,
    Series,
    SessionCounts,
)
from dashboards.peers import peers_of
from dashboards.rates import INTERVAL, Rates
from dashboards.ring import WITHOUT_REFUSAL
from dashboards.told import counts, table
from protocols.trace.records import JsonValue

SUCCESS = "success"


def overview(links: Iterable[NodeLink], rates: Rates) -> Overview:
    """Nodes that do not answer are in ``nodes`` alone."""
    links = tuple(links)
    here = [link for link in links if link.reachable]
    gateways = [link for link in here if link.kind == "epdg"]
    figures = [table(link.status, "figures") for link in gateways]
    wall, series = rates.view()
    by_gateway = [
        GatewaySessions(
            gateway=link.name,
            established=link.sessions.get("established", 0),
            half_open=int(dict(counts(link.status)).get("half_open", 0)),
        )
        for link in gateways
    ]
    return Overview(
        wall=round(wall, 3),
        interval=INTERVAL,
        sessions=SessionCounts(
            established=sum(each.established for each in by_gateway),
            half_open=sum(each.half_open for each in by_gateway),
            by_gateway=by_gateway,
        ),
        series=Series.model_validate(series),
        outcomes=_outcomes(link.status for link in gateways),
        outage=_percentiles(Histogram.of(each.get("move")) for each in figures),
        attach=_percentiles(Histogram.of(each.get("attach")) for each in figures),
        aaa=_percentiles(
            Histogram.of(told) for each in figures for told in table(each, "diameter", "round_trips").values()
        ),
        drops=sorted(_drops(here), key=lambda drop: (-drop.count, drop.node, drop.layer, drop.reason)),
        peers=peers_of(here),
        nodes=[link.view() for link in links],
    )


def outcomes(status: Mapping[str, JsonValue]) -> Counter[str]:
    """How the attaches of a gateway ended; ``reasons`` of attaches without a refusal are texts, and told as one."""
    totals = Counter({name: int(number) for name, number in counts(status.get("totals"))})
    refused = refusals(status)
    found = refused + Counter({SUCCESS: totals["attached"]})
    return found + Counter({WITHOUT_REFUSAL: totals["attach-ended"] - refused.total()})


def refusals(status: Mapping[str, JsonValue]) -> Counter[str]:
    """How often a gateway has refused, by cause."""
    return Counter({name: int(number) for name, number in counts(table(status, "reasons").get("refused"))})


def _outcomes(statuses: Iterable[Mapping[str, JsonValue]]) -> list[Outcome]:
    found: Counter[str] = sum(map(outcomes, statuses), Counter())
    return [Outcome(reason=reason, count=number) for reason, number in found.most_common()]


def _percentiles(found: Iterable[Histogram | None]) -> Percentiles:
    histogram = together(found)
    p50, p95, p99 = map(histogram.percentile, (50.0, 95.0, 99.0))
    return Percentiles(count=histogram.count, p50=p50, p95=p95, p99=p99)


def _drops(links: Iterable[NodeLink]) -> Iterator[Drop]:
    for link in links:
        for layer, reasons in table(link.status, "dropped").items():
            for reason, number in counts(reasons):
                yield Drop(node=link.name, layer=layer, reason=reason, count=int(number))
