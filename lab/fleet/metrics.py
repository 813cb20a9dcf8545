"""A fleet's figures for Prometheus, on 127.0.0.1; nothing is labelled by UE, so that there are as many series ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lab.fleet.figures import DIRECTIONS, FleetFigures, Histogram, Latency, Quality
from protocols.errors import BackendError
from protocols.histogram import BOUNDS

ADDRESS = "127.0.0.1"
VOICE = {
    Quality.LOSS: (
        "epdg_fleet_voice_loss_ratio",
        "Voice packets that did not arrive, of every ten seconds of a call.",
        (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    ),
    Quality.JITTER: (
        "epdg_fleet_voice_jitter_seconds",
        "Interarrival jitter (RFC 3550) at the end of every ten seconds of a call.",
        (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08),
    ),
    Quality.MOS: (
        "epdg_fleet_voice_mos",
        "Mean opinion score (ITU-T G.107) of every ten seconds of a call.",
        (2.58, 3.1, 3.6, 4.03, 4.34),  # G.109's categories
    ),
}


class FleetCollector(Collector):
    """Makes metrics of the latest figures whenever somebody asks."""

    def __init__(self, latest: Callable[[], FleetFigures]) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        figures = self._latest()
        ues = GaugeMetricFamily("epdg_fleet_ues", "UEs by what they are at.", labels=("state",))
        for state, number in (
            ("waiting", figures.waiting),
            ("attaching", figures.attaching),
            ("attached", figures.attached),
            (
                "away",
                max(0, figures.begun - figures.done - figures.waiting - figures.attaching - figures.attached),
            ),
            ("done", figures.done),
        ):
            ues.add_metric((state,), number)
        yield ues
        procedures = CounterMetricFamily(
            "epdg_fleet_procedures", "Procedures that are over, by cause.", labels=("procedure", "cause")
        )
        for procedure, counter in figures.outcomes.items():
            for cause, number in counter.items():
                procedures.add_metric((procedure, cause), number)
        yield procedures
        personas = CounterMetricFamily(
            "epdg_fleet_persona_attaches", "Attaches that are over, by persona.", labels=("persona", "cause")
        )
        for persona, counter in figures.personas.items():
            for cause, number in counter.items():
                personas.add_metric((persona, cause), number)
        yield personas
        lost = CounterMetricFamily("epdg_fleet_lost_connections", "Connections that broke.", labels=("cause",))
        for cause, number in figures.lost.items():
            lost.add_metric((cause,), number)
        yield lost
        packets = CounterMetricFamily("epdg_fleet_packets", "Echo requests and their answers.", labels=("kind",))
        packets.add_metric(("sent",), figures.packets_sent)
        packets.add_metric(("received",), figures.packets_received)
        packets.add_metric(("lost",), figures.packets_lost)
        yield packets
        yield from _voice(figures)
        for latency, text in (
            (Latency.ATTACH, "From the command to the tunnel."),
            (Latency.MOVE, "From the command to the gateway's agreement."),
            (Latency.DETACH, "From the command to the gateway's answer."),
            (Latency.LATENESS, "From its moment to the beginning of an attach: the fleet's own delay."),
        ):
            yield _histogram(f"epdg_fleet_{latency.value}_duration_seconds", text, figures.latencies[latency])


class MetricsServer:
    """Answers Prometheus on a thread of its own."""

    def __init__(self, port: int, latest: Callable[[], FleetFigures]) -> None:
        """``BackendError`` when the port is taken."""
        registry = CollectorRegistry()
        registry.register(FleetCollector(latest))
        self._server: WSGIServer
        try:
            self._server, self._thread = start_http_server(port, ADDRESS, registry)
        except OSError as error:
            raise BackendError(f"metrics on {ADDRESS}:{port}: {error.strerror}") from error

    @property
    def port(self) -> int:
        """Where it answers."""
        return self._server.server_port

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _voice(figures: FleetFigures) -> Iterator[Metric]:
    yield GaugeMetricFamily("epdg_fleet_calls", "Voice calls that go on.", value=figures.calling)
    packets = CounterMetricFamily(
        "epdg_fleet_voice_packets", "Voice packets whose fate is known.", labels=("direction", "kind")
    )
    for direction in DIRECTIONS:
        packets.add_metric((direction, "sent"), figures.voice[direction].sent)
        packets.add_metric((direction, "lost"), figures.voice[direction].lost)
    yield packets
    for quality, (name, text, bounds) in VOICE.items():
        family = HistogramMetricFamily(name, text, labels=("direction",))
        for direction in DIRECTIONS:
            found = figures.quality[direction, quality]
            family.add_metric((direction,), _buckets(found, bounds), found.sum)
        yield family


def _histogram(name: str, text: str, histogram: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=_buckets(histogram, BOUNDS), sum_value=histogram.sum)


def _buckets(histogram: Histogram, bounds: Sequence[float]) -> list[tuple[str, float]]:
    """Prometheus's coarser ones; a value within 1 % of a bound may count above it."""
    buckets = [(f"{bound:g}", float(histogram.below(bound))) for bound in bounds]
    return [*buckets, ("+Inf", float(histogram.count))]
