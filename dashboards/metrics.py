"""Figures of the nodes for Prometheus, from what each said of itself last; no series is labelled by UE.

Names by Prometheus' conventions, explained in docs/metrics.md. A node that cannot be reached is only down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dashboards.histograms import Histogram, together
from dashboards.links import NodeLink
from dashboards.overview import SUCCESS, outcomes
from dashboards.ring import WITHOUT_REFUSAL
from dashboards.stream import EventHub
from dashboards.told import counts, table
from protocols.trace.records import JsonValue

Status = Mapping[str, JsonValue]
Rows = Iterable[tuple[tuple[str, ...], float]]

MOVES = {"moved": "adopted", "address-update-failed": "failed", "address-update-unchecked": "unchecked"}
DIRECTIONS = {"inbound": "uplink", "outbound": "downlink"}
OPEN = "Open"  # RFC 6733 §5.6, I-Open or R-Open


class NodesCollector(Collector):
    """Makes metrics of what the nodes said last."""

    def __init__(self, links: tuple[NodeLink, ...], hub: EventHub) -> None:
        self._links = links
        self._hub = hub

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        here = [link for link in self._links if link.reachable]
        yield _gauge(
            "epdg_node_up",
            "Whether the node answers.",
            ("node", "kind"),
            (((link.name, link.kind), float(link.reachable)) for link in self._links),
        )
        yield from _of_nodes(here)
        yield from _of_gateways([link for link in here if link.kind == "epdg"])
        yield from _of_servers([link for link in here if link.kind in ("aaa", "hss")])
        yield from _of_diameter(here)
        yield _gauge(
            "epdg_ue_connections",
            "PDN connections of a UE that are up.",
            ("node",),
            (((link.name,), _number(link.status, "sessions")) for link in here if link.kind == "ue"),
        )
        readers = float(self._hub.readers)
        yield _gauge("epdg_dashboard_event_readers", "Who follows the dashboard's events.", (), [((), readers)])
        slow = float(self._hub.dropped)
        yield _counter("epdg_dashboard_event_readers_dropped", "Readers let go: they took nothing.", (), [((), slow)])


def _of_nodes(links: list[NodeLink]) -> Iterator[Metric]:
    yield _gauge(
        "epdg_node_info",
        "Version of a node, and what carries its ESP.",
        ("node", "version", "data_plane"),
        (
            ((link.name, _text(link.status, "version"), _text(table(link.status, "data_plane"), "backend")), 1.0)
            for link in links
        ),
    )
    yield _gauge(
        "epdg_node_start_time_seconds",
        "When the node was started, since 1970-01-01 UTC.",
        ("node",),
        (((link.name,), _number(link.status, "started")) for link in links),
    )
    yield _gauge(
        "epdg_node_resident_memory_bytes",
        "Memory of the node's process.",
        ("node",),
        (
            ((link.name,), number)
            for link in links
            for name, number in counts(link.status.get("process"))
            if name == "resident_octets"
        ),
    )
    yield _counter(
        "epdg_node_cpu_seconds",
        "Processor time of the node's process.",
        ("node",),
        (
            ((link.name,), number)
            for link in links
            for name, number in counts(link.status.get("process"))
            if name == "cpu_seconds"
        ),
    )
    yield _counter(
        "epdg_dropped",
        "Messages and packets that went no further, by layer (ike, swu, esp, tun, diameter) and reason.",
        ("node", "layer", "reason"),
        (
            ((link.name, layer, reason), number)
            for link in links
            for layer, reasons in table(link.status, "dropped").items()
            for reason, number in counts(reasons)
        ),
    )
    yield _counter(
        "epdg_trace_messages",
        "Messages in the node's trace since the dashboard follows it.",
        ("node", "retransmission"),
        (
            ((link.name, retransmission), number)
            for link in links
            for retransmission, number in (
                ("no", link.tally["messages"] - link.tally["retransmissions"]),
                ("yes", link.tally["retransmissions"]),
            )
        ),
    )


def _of_gateways(links: list[NodeLink]) -> Iterator[Metric]:
    yield _gauge(
        "epdg_sessions",
        "Sessions of a gateway by state.",
        ("node", "state"),
        (((link.name, state), float(count)) for link in links for state, count in link.sessions.items()),
    )
    yield _gauge(
        "epdg_half_open_sas",
        "IKE SAs that nobody has proved yet.",
        ("node",),
        (((link.name,), _number(link.status, "half_open")) for link in links),
    )
    yield _gauge(
        "epdg_addresses_in_use",
        "Inner addresses that are given out.",
        ("node", "apn"),
        (((link.name, apn), number) for link in links for apn, number in counts(link.status.get("addresses_in_use"))),
    )
    yield _counter(
        "epdg_events",
        "What happened at a gateway, by name.",
        ("node", "event"),
        (((link.name, name), number) for link in links for name, number in counts(link.status.get("totals"))),
    )
    yield _counter(
        "epdg_attaches",
        "Attaches that are over: success, the Notify of the refusal, or ended without one.",
        ("node", "outcome"),
        (
            ((link.name, outcome), float(number))
            for link in links
            for outcome, number in (dict.fromkeys((SUCCESS, WITHOUT_REFUSAL), 0) | outcomes(link.status)).items()
        ),
    )
    yield _counter(
        "epdg_moves",
        "Moves that are over: adopted, failed, or unchecked.",
        ("node", "outcome"),
        (
            ((link.name, outcome), _number(table(link.status, "totals"), event))
            for link in links
            for event, outcome in MOVES.items()
        ),
    )
    for unit, member in (("packets", "packets"), ("bytes", "octets")):
        yield _counter(
            f"epdg_data_plane_{unit}",
            f"Inner IP {unit} of all child SAs, from UEs (uplink) and to UEs (downlink).",
            ("node", "direction"),
            (
                ((link.name, direction), _number(table(link.status, "figures", "carried"), f"{way}_{member}"))
                for link in links
                for way, direction in DIRECTIONS.items()
            ),
        )
    for name, member, text in (
        ("epdg_attach_duration_seconds", "attach", "From IKE_SA_INIT to the child SA."),
        ("epdg_move_duration_seconds", "move", "From the first UPDATE_SA_ADDRESSES of a move to the adopted path."),
    ):
        told = (((link.name,), table(link.status, "figures").get(member)) for link in links)
        yield _histogram(name, text, ("node",), told)


def _of_servers(links: list[NodeLink]) -> Iterator[Metric]:
    yield _gauge(
        "epdg_aaa_sessions",
        "SWm sessions of an AAA server.",
        ("node",),
        (((link.name,), _number(link.status, "sessions")) for link in links if link.kind == "aaa"),
    )
    with_subscribers = [link for link in links if link.status.get("subscribers") is not None]
    yield _gauge(
        "epdg_hss_subscribers",
        "Subscribers in the database of an HSS.",
        ("node",),
        (((link.name,), _number(link.status, "subscribers")) for link in with_subscribers),
    )
    yield _gauge(
        "epdg_hss_registrations",
        "Subscribers whom an AAA server serves.",
        ("node",),
        (((link.name,), _number(table(link.status, "hss"), "registrations")) for link in with_subscribers),
    )


def _of_diameter(links: list[NodeLink]) -> Iterator[Metric]:
    figures = [(link.name, each) for link in links for each in _diameter_figures(link.status)]
    yield _histogram(
        "epdg_diameter_round_trip_seconds",
        "From a Diameter request of the node's to its answer.",
        ("node", "command"),
        (((name, command), told) for name, each in figures for command, told in table(each, "round_trips").items()),
    )
    unanswered: Counter[tuple[str, ...]] = Counter()
    for name, each in figures:
        unanswered.update({(name, command): 0 for command in table(each, "round_trips")})
        unanswered.update({(name, command): int(number) for command, number in counts(each.get("unanswered"))})
    yield _counter(
        "epdg_diameter_unanswered",
        "Diameter requests of the node's that nobody has answered in time.",
        ("node", "command"),
        unanswered.items(),
    )
    peers = [(link.name, table(peer)) for link in links for peer in link.peers]
    usable: dict[tuple[str, ...], float] = {}
    pending: Counter[tuple[str, ...]] = Counter()
    failovers: Counter[tuple[str, ...]] = Counter()
    messages: Counter[tuple[str, ...]] = Counter()
    for name, peer in peers:
        key = (name, _text(peer, "host"))
        usable[key] = max(usable.get(key, 0.0), float(_text(peer, "state").endswith(OPEN)))
        pending[key] += int(_number(peer, "pending_requests"))
        failovers[key] += int(_number(peer, "failovers"))
        for direction in ("sent", "received"):
            for command, number in counts(peer.get(direction)):
                messages[(*key, direction, command)] += int(number)
    labels = ("node", "peer")
    yield _gauge("epdg_diameter_peer_open", "Whether the connection to a peer is open.", labels, usable.items())
    yield _gauge("epdg_diameter_pending_requests", "Requests that wait for answers.", labels, pending.items())
    yield _counter(
        "epdg_diameter_failovers", "Requests that went to another peer than this one.", labels, failovers.items()
    )
    yield _counter(
        "epdg_diameter_messages",
        "Diameter messages by peer, direction and command.",
        (*labels, "direction", "command"),
        messages.items(),
    )


def _diameter_figures(status: Status) -> Iterator[Status]:
    """A gateway has one set; an AAA server and an HSS of one process have one each."""
    for part in ("diameter", "aaa", "hss"):
        found = table(status, "figures", part)
        if found:
            yield found


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), rows)


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    for values, number in rows:
        family.add_metric(values, number)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], JsonValue]]
) -> Metric:
    """Those of one label set are added up."""
    family = HistogramMetricFamily(name, text, labels=labels)
    found: dict[tuple[str, ...], list[Histogram]] = {}
    for values, told in rows:
        histogram = Histogram.of(told)
        if histogram is not None:
            found.setdefault(values, []).append(histogram)
    for values, each in found.items():
        histogram = together(each)
        buckets = [(f"{bound:g}", float(number)) for bound, number in histogram.buckets]
        family.add_metric(values, [*buckets, ("+Inf", float(histogram.count))], histogram.sum)
    return family


def _number(told: Status, name: str) -> float:
    value = told.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _text(told: Status, name: str) -> str:
    value = told.get(name)
    return value if isinstance(value, str) else ""
