"""What a fleet counts: percentiles within the error that is stated, sums over processes, metrics of bounded number."""

from __future__ import annotations

import json
import random
import urllib.request

import pytest

from lab.fleet.figures import (
    BUCKETS,
    CAUSES_MAXIMUM,
    ERROR_SHARE,
    OTHER,
    SUCCESS,
    FleetFigures,
    Latency,
    LatencyHistogram,
)
from lab.fleet.metrics import MetricsServer
from lab.fleet.show import Pace
from protocols.errors import DecodeError


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_a_percentile_is_within_the_error_that_is_stated(percent: float) -> None:
    generator = random.Random(1)
    values = sorted(generator.lognormvariate(-3, 1.5) for _ in range(20_000))
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    exact = values[max(0, -(-len(values) * percent // 100).__int__() - 1)]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=ERROR_SHARE + 1e-9)
    assert len(histogram.buckets) <= BUCKETS
    assert (histogram.minimum, histogram.maximum) == (values[0], values[-1])


def test_extremes_do_not_leave_the_histogram() -> None:
    histogram = LatencyHistogram()
    for value in (0.0, 1e-9, 1e6):
        histogram.add(value)
    assert histogram.count == 3
    assert set(histogram.buckets) == {0, BUCKETS - 1}
    assert histogram.percentile(100) == pytest.approx(1000, rel=0.02)
    assert LatencyHistogram().percentile(50) is None


def figures(seed: int) -> FleetFigures:
    generator, made = random.Random(seed), FleetFigures(begun=10 * seed, done=seed, attached=2, packets_sent=100)
    for _ in range(50 * seed):
        made.latencies[Latency.ATTACH].add(generator.random())
        made.outcome("attach", generator.choice([SUCCESS, "AUTHENTICATION_FAILED"]), generator.choice(["a", "b"]))
    made.connection_lost("no response")
    return made


def test_figures_of_processes_add_up_to_those_of_one() -> None:
    one, other = figures(1), figures(2)
    whole = FleetFigures()
    for each in (one, other):
        whole.merge(FleetFigures.from_json(json.loads(json.dumps(each.to_json()))))
    assert whole.outcomes["attach"] == one.outcomes["attach"] + other.outcomes["attach"]
    assert (whole.begun, whole.done, whole.attached, whole.packets_sent) == (30, 3, 4, 200)
    assert whole.lost == {"no response": 2}
    histogram = whole.latencies[Latency.ATTACH]
    assert histogram.count == 150
    assert histogram.sum == pytest.approx(one.latencies[Latency.ATTACH].sum + other.latencies[Latency.ATTACH].sum)
    assert sum(counter.total() for counter in whole.personas.values()) == 150
    assert FleetFigures.from_json(whole.to_json()).to_json() == whole.to_json()


@pytest.mark.parametrize("value", [None, [], {}, {"begun": "x"}])
def test_what_is_no_figures_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        FleetFigures.from_json(value)  # type: ignore[arg-type]


def test_however_many_causes_gateways_invent_there_are_so_many_labels() -> None:
    made = FleetFigures()
    for number in range(1000):
        made.outcome("attach", f"cause {number}")
    assert len(made.outcomes["attach"]) == CAUSES_MAXIMUM + 1
    assert made.outcomes["attach"][OTHER] == 1000 - CAUSES_MAXIMUM


def test_causes_of_many_processes_are_so_many_labels_too() -> None:
    whole = FleetFigures()
    for process in range(64):
        part = FleetFigures()
        part.outcome("attach", "success")
        for number in range(30):
            part.outcome("attach", f"cause {process}/{number}", "p")
            part.connection_lost(f"cause {process}/{number}")
        whole.merge(part)
    for counter, total in ((whole.outcomes["attach"], 64 * 31), (whole.personas["p"], 64 * 30), (whole.lost, 64 * 30)):
        assert len(counter) <= CAUSES_MAXIMUM + 1
        assert counter.total() == total
    assert whole.succeeded("attach") == 64


def test_prometheus_reads_the_latest_figures() -> None:
    latest = FleetFigures(begun=5, attached=3, packets_sent=9, packets_lost=1)
    latest.outcome("attach", SUCCESS)
    latest.outcome("attach", "USER_UNKNOWN", 'a "persona"')
    for seconds in (0.02, 0.3, 70.0):
        latest.latencies[Latency.ATTACH].add(seconds)
    server = MetricsServer(0, lambda: latest)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5).read().decode()
    finally:
        server.close()
    lines = text.splitlines()
    assert 'epdg_fleet_procedures_total{cause="USER_UNKNOWN",procedure="attach"} 1.0' in lines
    assert 'epdg_fleet_ues{state="attached"} 3.0' in lines
    assert 'epdg_fleet_packets_total{kind="lost"} 1.0' in lines
    assert 'epdg_fleet_attach_duration_seconds_bucket{le="0.025"} 1.0' in lines
    assert 'epdg_fleet_attach_duration_seconds_bucket{le="0.5"} 2.0' in lines
    assert 'epdg_fleet_attach_duration_seconds_bucket{le="30"} 2.0' in lines
    assert 'epdg_fleet_attach_duration_seconds_bucket{le="+Inf"} 3.0' in lines
    assert "epdg_fleet_attach_duration_seconds_count 3.0" in lines


def test_a_pace_is_over_a_window_and_its_peak_is_kept() -> None:
    pace = Pace()
    for second, count in enumerate([0, 10, 40, 40, 40, 40, 40, 40]):
        pace.add(float(second), count)
    assert pace.peak == 30
    assert pace.current == 0
