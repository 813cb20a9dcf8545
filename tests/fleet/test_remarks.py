"""What is said of a fleet at its end, and what is taken of the machine."""

from __future__ import annotations

from lab.fleet.figures import SUCCESS, FleetFigures, Latency
from lab.fleet.load import BEGAN, GATHERED, Moment
from lab.fleet.plan import FleetPlan
from lab.fleet.remarks import remarks
from lab.fleet.schedule import find
from protocols.trace.records import JsonValue

PLAN = FleetPlan(count=100, rate=50.0, duration=60.0, schedule=find("stay").schedule)


def status(seconds: float, octets: int | None) -> JsonValue:
    return {"process": {"cpu_seconds": seconds, "resident_octets": octets}}


def test_a_fleet_that_went_as_asked_has_nothing_said_of_it() -> None:
    figures = FleetFigures(begun=100, gathered=100)
    figures.latencies[Latency.LATENESS].add(0.5)
    assert not list(remarks(figures, PLAN, {}))


def test_more_than_gateway_and_machine_take_is_said() -> None:
    figures = FleetFigures(begun=90, gathered=80, unserved=10)
    for seconds in (1.0, 2.0, 30.0):
        figures.latencies[Latency.LATENESS].add(seconds)
    late, unserved, missing = remarks(figures, PLAN, {})
    assert late.startswith("Attaches began up to 30.0 s late, half of them more than 2.0 s: 50 UEs a second are more")
    assert unserved == "10 attaches had not begun when the time was over."
    assert missing == "10 of 100 UEs had not come when the time was over."


def test_what_an_attach_takes_of_each_process() -> None:
    figures = FleetFigures(begun=100, gathered=100)
    before = Moment.of(0.0, {"fleet-1": status(1.0, 50 << 20), "gateway": status(3.0, None), "aaa": {}}, figures)
    for _ in range(99):
        figures.outcome("attach", SUCCESS)
    after = Moment.of(9.0, {"fleet-1": status(1.8, 55 << 20), "gateway": status(3.4, None), "aaa": None}, figures)
    spent, held = remarks(figures, PLAN, {BEGAN: before, GATHERED: after})
    assert spent == "Until all had attached a UE took 12.0 ms of processor time (fleet-1 8.0, gateway 4.0)."
    assert held == "A UE holds 51 KiB in fleet-1."
    assert after.to_json() == {
        "at": 9.0,
        "succeeded": {"attach": 99, "move": 0, "detach": 0},
        "processor_seconds": {"fleet-1": 1.8, "gateway": 3.4},
        "resident_octets": {"fleet-1": 55 << 20},
    }
