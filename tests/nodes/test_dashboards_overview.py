"""``GET /overview``: sessions, rates, outcomes, percentiles, drops and peers of all nodes, from what these tell."""

from __future__ import annotations

from time import monotonic
from typing import Any

import httpx
import pytest

from dashboards.histograms import Histogram, together
from dashboards.rates import INTERVALS, Rates
from epdg.commands import Tell
from epdg.tally import REASONS_MAXIMUM, Tally
from protocols.trace.records import JsonValue
from tests.nodes.dashboards_world import Site
from tests.nodes.test_dashboards_api import API, wait_for


def tell(site: Site, node: str, **members: Any) -> None:
    """From now on the node says this of itself."""
    site.do(site.world.told[node].update, members)


def wait_until_told(client: httpx.Client, node: str, member: str, value: Any) -> None:
    """Until the dashboard has heard it."""
    wait_for(client, lambda name, data: name == "node" and data["name"] == node and data["status"].get(member) == value)


def shown(client: httpx.Client) -> dict[str, Any]:
    found = client.get(f"{API}/overview")
    assert found.status_code == 200, found.text
    value: dict[str, Any] = found.json()
    return value


def test_all_that_the_nodes_tell_at_a_glance(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    running.do(running.world.attach, 2)
    round_trips = {"DER": {"buckets": [[0.1, 3], [0.5, 4]], "sum": 0.5, "count": 4}, "odd": ["not", "one"]}
    tell(
        running,
        "epdg",
        half_open=3,
        totals={"attached": 90, "attach-ended": 10, "refused": 8},
        reasons={
            "refused": {"AUTHENTICATION_FAILED": 6, "NO_SUBSCRIPTION": 2},
            "attach-ended": {"001010000000003": 10},
        },
        dropped={"esp": {"replayed": 3, "bad_icv": 5}, "ike": {}},
        figures={
            "attach": {"buckets": [[0.1, 50], [0.5, 100]], "sum": 20.0, "count": 100},
            "diameter": {"round_trips": round_trips, "unanswered": {"DER": 1}},
        },
    )
    wait_until_told(client, "epdg", "half_open", 3)
    found = shown(client)
    assert found["sessions"] == {
        "established": 2,
        "half_open": 3,
        "by_gateway": [{"gateway": "epdg", "established": 2, "half_open": 3}],
    }
    assert found["outcomes"] == [
        {"reason": "success", "count": 90},
        {"reason": "AUTHENTICATION_FAILED", "count": 6},
        {"reason": "NO_SUBSCRIPTION", "count": 2},
        {"reason": "ended", "count": 2},
    ]
    assert found["attach"] == {"count": 100, "p50": pytest.approx(0.1), "p95": pytest.approx(0.46), "p99": 0.492}
    assert found["aaa"] == {"count": 4, "p50": pytest.approx(0.2 / 3), "p95": pytest.approx(0.42), "p99": 0.484}
    assert found["outage"] == {"count": 0, "p50": None, "p95": None, "p99": None}
    assert found["drops"][:2] == [
        {"node": "epdg", "layer": "esp", "reason": "bad_icv", "count": 5},
        {"node": "aaa", "layer": "esp", "reason": "replayed", "count": 3},
    ]
    assert [(peer["node"], peer["state"]) for peer in found["peers"]] == [("epdg", "I-Open")]
    assert [node["name"] for node in found["nodes"]] == ["epdg", "aaa", "ue"]
    assert {len(series) for series in found["series"].values()} == {INTERVALS}
    assert "must-not-be-seen" not in str(found)
    assert "001010000000003" not in str(found["outcomes"])


def test_causes_that_are_counted_together_lead_to_their_attaches(running: Site, client: httpx.Client) -> None:
    """The gateway tells a number of causes apart; what it counts as other can be listed as that."""
    tally = Tally()
    for number in range(REASONS_MAXIMUM + 2):
        data: dict[str, JsonValue] = {"cause": f"CAUSE_{number}"}
        tally.count(Tell(name="refused", text="refused", data=data))
        spi = f"cafe{number:012}"
        session = {"id": spi, "diameter_session_id": f"epdg;{number}", "imsi": "001010000000001", "ike": {"spi_i": spi}}
        running.do(running.world.event, "epdg", "refused", f"refused {number}", session, data)
    totals = {"attached": 0, "attach-ended": tally.totals["refused"]}
    reasons = {name: dict(counted) for name, counted in tally.reasons.items()}
    tell(running, "epdg", half_open=7, totals=totals, reasons=reasons)
    wait_until_told(client, "epdg", "half_open", 7)
    assert {"reason": "other", "count": 2} in shown(client)["outcomes"]

    def listed(outcome: str) -> list[str]:
        found = client.get(f"{API}/attempts", params={"outcome": outcome, "limit": 100}).json()
        assert found["total"] == found["looked_through"] == len(found["attempts"])
        return sorted(each["outcome"] for each in found["attempts"])

    assert listed("other") == [f"CAUSE_{number}" for number in (REASONS_MAXIMUM, REASONS_MAXIMUM + 1)]
    assert listed("CAUSE_7") == ["CAUSE_7"]


def test_metrics_of_what_the_nodes_tell(running: Site, client: httpx.Client) -> None:
    """Histograms as Prometheus has them, time-outs beside what was answered, one row for two connections of a peer."""
    histogram = {"buckets": [[0.1, 1], [0.5, 3]], "sum": 1.5, "count": 4}
    tell(
        running,
        "epdg",
        half_open=4,
        totals={"attached": 7, "attach-ended": 3, "refused": 1, "moved": 2},
        reasons={"refused": {"AUTHENTICATION_FAILED": 1}},
        figures={
            "attach": histogram,
            "diameter": {"round_trips": {"DER": histogram}, "unanswered": {"STR": 2}},
            "carried": {"inbound_octets": 1500, "outbound_octets": 9000, "inbound_packets": 1, "outbound_packets": 6},
        },
        process={"resident_octets": 1 << 20, "cpu_seconds": 1.25},
    )
    tell(
        running, "aaa", figures={"aaa": {"round_trips": {"MAR": histogram}}, "hss": {"round_trips": {}}}, subscribers=9
    )
    wait_until_told(client, "epdg", "half_open", 4)
    wait_until_told(client, "aaa", "subscribers", 9)
    assert {
        'epdg_attach_duration_seconds_bucket{le="0.1",node="epdg"} 1.0',
        'epdg_attach_duration_seconds_bucket{le="+Inf",node="epdg"} 4.0',
        'epdg_attach_duration_seconds_sum{node="epdg"} 1.5',
        'epdg_diameter_round_trip_seconds_count{command="DER",node="epdg"} 4.0',
        'epdg_diameter_round_trip_seconds_count{command="MAR",node="aaa"} 4.0',
        'epdg_diameter_unanswered_total{command="DER",node="epdg"} 0.0',
        'epdg_diameter_unanswered_total{command="STR",node="epdg"} 2.0',
        'epdg_diameter_peer_open{node="epdg",peer="aaa.epc.mnc001.mcc001.3gppnetwork.org"} 1.0',
        'epdg_attaches_total{node="epdg",outcome="success"} 7.0',
        'epdg_attaches_total{node="epdg",outcome="AUTHENTICATION_FAILED"} 1.0',
        'epdg_attaches_total{node="epdg",outcome="ended"} 2.0',
        'epdg_moves_total{node="epdg",outcome="adopted"} 2.0',
        'epdg_moves_total{node="epdg",outcome="failed"} 0.0',
        'epdg_data_plane_bytes_total{direction="uplink",node="epdg"} 1500.0',
        'epdg_data_plane_packets_total{direction="downlink",node="epdg"} 6.0',
        'epdg_node_resident_memory_bytes{node="epdg"} 1.048576e+06',
        'epdg_node_cpu_seconds_total{node="epdg"} 1.25',
        'epdg_hss_subscribers{node="aaa"} 9.0',
    } <= set(client.get("/metrics").text.splitlines())
    (described,) = (node for node in client.get(f"{API}/nodes").json()["nodes"] if node["name"] == "epdg")
    assert "process" not in described["status"]


def test_what_counters_have_grown_by_is_in_the_series(running: Site, client: httpx.Client) -> None:
    tell(running, "epdg", half_open=1)
    wait_until_told(client, "epdg", "half_open", 1)
    carried = {"inbound_octets": 1_000_000, "outbound_octets": 3_000_000}
    totals = {"attached": 17, "moved": 5, "attach-ended": 1, "address-update-failed": 2}
    tell(running, "epdg", half_open=2, totals=totals, figures={"carried": carried})
    deadline = monotonic() + 20
    while True:  # the interval in which it was told is over when the next one has begun
        sums = {name: sum(series) for name, series in shown(client)["series"].items()}
        if sums["attaches"] == pytest.approx(10, abs=0.01) or monotonic() > deadline:
            break
    assert sums == pytest.approx(
        {"attaches": 10, "moves": 5, "failures": 3, "uplink_octets": 1_000_000, "downlink_octets": 3_000_000}, abs=0.01
    )


def test_a_gateway_that_is_away_counts_no_more(running: Site, client: httpx.Client) -> None:
    running.do(running.world.attach, 1)
    wait_for(client, lambda name, data: name == "node" and (data["sessions"] or {}).get("established") == 1)
    running.do(running.world.stop, "epdg")
    wait_for(client, lambda name, data: name == "node" and data["name"] == "epdg" and not data["reachable"])
    found = shown(client)
    assert found["sessions"] == {"established": 0, "half_open": 0, "by_gateway": []}
    assert found["outcomes"] == []
    assert [node["reachable"] for node in found["nodes"] if node["name"] == "epdg"] == [False]
    assert len(found["series"]["attaches"]) == INTERVALS


class Clocks:
    """Monotonic and wall clock, at the test's will."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.rates = Rates(("attaches",), monotonic=lambda: self.now, wall=lambda: self.now + 1e9)

    def take(self, node: str, counted: float, *, after: float, started: float = 1.0) -> None:
        """A node has counted so much after some seconds."""
        self.now += after
        self.rates.take(node, started, {"attaches": counted})

    @property
    def last(self) -> list[float]:
        """The last five intervals."""
        return self.rates.view()[1]["attaches"][-5:]


def test_growth_is_spread_over_the_time_between_two_answers() -> None:
    clocks = Clocks()
    clocks.take("a", 100, after=0)
    clocks.take("a", 108, after=2)
    assert clocks.last == [0, 0, 0, 4, 4]
    clocks.take("a", 114, after=1.5)
    assert clocks.last == [0, 0, 4, 4, 4]
    clocks.take("a", 114, after=0.5)
    assert clocks.last == [0, 4, 4, 4, 2]
    assert clocks.rates.view()[0] == 1000.0 + 1e9 + 4


def test_series_end_where_every_node_that_answers_has_told() -> None:
    clocks = Clocks()
    clocks.take("a", 0, after=0)
    clocks.take("b", 0, after=0)
    clocks.take("a", 10, after=2)
    assert clocks.last == [0, 0, 0, 0, 0]
    clocks.take("b", 5, after=1)
    assert clocks.last[-2:] == [pytest.approx(20 / 3, abs=0.01)] * 2
    clocks.now += 3
    clocks.rates.lost("b")
    clocks.rates.lost("a")
    assert clocks.last[-3:] == [0, 0, 0]


def test_a_node_that_was_started_anew_counts_from_nothing() -> None:
    clocks = Clocks()
    clocks.take("a", 1000, after=0, started=1.0)
    clocks.take("a", 3, after=1, started=2.0)
    assert clocks.last == [0, 0, 0, 0, 3]


def test_rings_are_bounded_and_the_latest_stays() -> None:
    clocks = Clocks()
    clocks.take("a", 0, after=0)
    clocks.take("a", 1_000_000, after=1_000_000)
    series = clocks.rates.view()[1]["attaches"]
    assert series == [1.0] * INTERVALS


def test_percentiles_of_buckets() -> None:
    told: dict[str, Any] = {"buckets": [[0.1, 2], [0.2, 2], [0.5, 10]], "sum": 4.0, "count": 12}
    histogram = Histogram.of(told)
    assert histogram is not None
    assert histogram.percentile(10) == pytest.approx(0.06)
    assert histogram.percentile(50) == pytest.approx(0.35)
    assert histogram.percentile(99) == 0.5  # beyond the last bound
    both = together([histogram, None, histogram, Histogram(buckets=((1.0, 5),), sum=1.0, count=5)])
    assert (both.count, both.sum, both.buckets[-1]) == (24, 8.0, (0.5, 20))
    assert Histogram().percentile(50) is None
    for odd in (None, [], {}, {"buckets": [["a", 1]], "sum": 1, "count": 1}, {"buckets": {}, "sum": 1, "count": 1}):
        assert Histogram.of(odd) is None  # type: ignore[arg-type]
