"""What a fleet counts: percentiles within the error that is stated, sums over processes, metrics of bounded number."""

from __future__ import annotations

import io
import json
import random
import urllib.request

import pytest
from rich.console import Console

from lab.fleet.figures import (
    BUCKETS,
    CAUSES_MAXIMUM,
    ERROR_SHARE,
    OTHER,
    SUCCESS,
    FleetFigures,
    Histogram,
    Latency,
    Quality,
    VoicePackets,
)
from lab.fleet.metrics import MetricsServer
from lab.fleet.show import Pace, Show, voice_tables
from protocols.errors import DecodeError


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_a_percentile_is_within_the_error_that_is_stated(percent: float) -> None:
    generator = random.Random(1)
    values = sorted(generator.lognormvariate(-3, 1.5) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = values[max(0, -(-len(values) * percent // 100).__int__() - 1)]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=ERROR_SHARE + 1e-9)
    assert len(histogram.buckets) <= BUCKETS
    assert (histogram.minimum, histogram.maximum) == (values[0], values[-1])


def test_extremes_do_not_leave_the_histogram() -> None:
    histogram = Histogram()
    for value in (0.0, 1e-9, 1e6):
        histogram.add(value)
    assert histogram.count == 3
    assert set(histogram.buckets) == {0, BUCKETS - 1}
    assert histogram.percentile(100) == pytest.approx(1000, rel=0.02)
    assert Histogram().percentile(50) is None


def figures(seed: int) -> FleetFigures:
    generator, made = random.Random(seed), FleetFigures(begun=10 * seed, done=seed, attached=2, packets_sent=100)
    for _ in range(50 * seed):
        made.latencies[Latency.ATTACH].add(generator.random())
        made.outcome("attach", generator.choice([SUCCESS, "AUTHENTICATION_FAILED"]), generator.choice(["a", "b"]))
        made.heard("uplink", VoicePackets(sent=500, lost=seed), generator.random() / 10, 1 + 3 * generator.random())
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
    assert whole.voice["uplink"] == VoicePackets(sent=150 * 500, lost=50 * 1 + 100 * 2)
    assert whole.voice["downlink"] == VoicePackets()
    scores = whole.quality["uplink", Quality.MOS]
    assert scores.count == 150
    assert scores.minimum == min(each.quality["uplink", Quality.MOS].minimum for each in (one, other))
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


def test_the_summary_has_voice_in_percent_milliseconds_and_opinions() -> None:
    made = FleetFigures()
    for lost in range(100):
        made.heard("downlink", VoicePackets(sent=1000, lost=lost), 0.012, 4.3 - lost / 50)
    made.heard("downlink", VoicePackets(), None, None)  # some seconds in which nothing came
    voice = made.summary()["voice"]
    assert isinstance(voice, dict)
    assert voice["uplink"] == {"sent": 0, "lost": 0, "loss": {"count": 0}, "jitter": {"count": 0}, "mos": {"count": 0}}
    downlink = voice["downlink"]
    assert isinstance(downlink, dict)
    assert (downlink["sent"], downlink["lost"]) == (100_000, 4950)
    loss, jitter, mos = (downlink[name] for name in ("loss", "jitter", "mos"))
    assert isinstance(loss, dict)
    assert isinstance(jitter, dict)
    assert isinstance(mos, dict)
    assert (loss["count"], loss["minimum_percent"], loss["maximum_percent"]) == (100, 0.0, 9.9)
    assert loss["p90_percent"] == pytest.approx(8.9, rel=ERROR_SHARE)
    assert jitter["p50_ms"] == pytest.approx(12.0, rel=ERROR_SHARE)
    assert mos["maximum"] == 4.3
    assert mos["p10"] == pytest.approx(4.3 - 90 / 50, rel=2 * ERROR_SHARE)
    assert mos["p1"] < mos["p10"] < mos["p50"]


def test_a_terminal_shows_voice_only_where_somebody_calls() -> None:
    made = FleetFigures(calling=2)
    assert voice_tables(made) == []
    made.heard("uplink", VoicePackets(sent=500, lost=5), 0.01, 4.0)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*voice_tables(made))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert rows[1][:6] == ["uplink", "500", "5", "1.00", "1.00", "1.00"]
    assert rows[2][:3] == ["downlink", "0", "0"]
    shown = Console(width=200, record=True, file=io.StringIO())
    Show(shown).take(made)
    assert "calls 2 (MOS p10 4.00)" in shown.export_text()


def test_prometheus_reads_the_latest_figures() -> None:
    latest = FleetFigures(begun=5, attached=3, packets_sent=9, packets_lost=1)
    latest.calling = 4
    latest.heard("downlink", VoicePackets(sent=500, lost=30), 0.015, 3.7)
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
    assert "epdg_fleet_calls 4.0" in lines
    assert 'epdg_fleet_voice_packets_total{direction="downlink",kind="lost"} 30.0' in lines
    assert 'epdg_fleet_voice_loss_ratio_bucket{direction="downlink",le="0.05"} 0.0' in lines
    assert 'epdg_fleet_voice_loss_ratio_bucket{direction="downlink",le="0.1"} 1.0' in lines
    assert 'epdg_fleet_voice_jitter_seconds_bucket{direction="downlink",le="0.02"} 1.0' in lines
    assert 'epdg_fleet_voice_mos_bucket{direction="downlink",le="3.6"} 0.0' in lines
    assert 'epdg_fleet_voice_mos_bucket{direction="downlink",le="4.03"} 1.0' in lines
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
