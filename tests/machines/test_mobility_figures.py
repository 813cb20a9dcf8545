"""Figures of moves from packets that are made up: what was lost, silent or bad must not look better than it was."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lab.mobility.evaluation import evaluate
from lab.mobility.loader import parse_schedule
from lab.mobility.packets import outage
from lab.mobility.recording import Played, Recording, Stream
from lab.mobility.result import RunResult
from lab.mobility.stage_name import StageName
from protocols.media.log import PacketFate
from protocols.trace.records import JsonValue

INTERVAL, TRANSIT = 0.02, 0.05


def stream(begin: float, end: float, lost: Callable[[float], bool] = lambda sent: False) -> list[PacketFate]:
    """A packet every 20 ms, 50 ms under way."""
    count = round((end - begin) / INTERVAL)
    moments = [begin + number * INTERVAL for number in range(count)]
    return [
        PacketFate(
            sequence=number,
            sent=sent,
            received=None if lost(sent) else sent + TRANSIT,
            copies=0 if lost(sent) else 1,
        )
        for number, sent in enumerate(moments)
    ]


def result(events: str, *streams: list[PacketFate], moves: tuple[dict[str, JsonValue], ...] = ()) -> RunResult:
    """What is made of a run of 20 s with these streams, the same both ways; every event took no time."""
    schedule = parse_schedule(f"title: T\nduration: 20\naccesses: {{a: {{}}, b: {{}}}}\nevents:\n{events}")
    recording = Recording(schedule=schedule, name="t", stage=StageName.VIRTUAL, seed=1, began=0.0)
    recording.played = [Played(event=each, began=each.at, ended=each.at, error=None) for each in schedule.events]
    recording.streams = [Stream(uplink=each, downlink=each) for each in streams]
    recording.moves = list(moves)
    recording.duration = 20.0
    return evaluate(recording, real_time=False)


ATTACH = "  - {at: 0, do: attach}\n"
MOVE: dict[str, JsonValue] = {
    "from": "a",
    "to": "b",
    "outcome": "completed",
    "why": None,
    "started": 10.0,
    "update_seconds": 0.1,
    "requests": 1,
    "retransmissions": 0,
    "old": {"local": "10.1.0.2:4500", "remote": "192.0.2.1:4500"},
    "new": {"local": "10.2.0.2:4500", "remote": "192.0.2.1:4500"},
}


def test_a_stream_whose_first_packets_are_lost_was_silent_from_its_beginning() -> None:
    found = outage(stream(0, 4, lambda sent: sent < 1.99), 0.0, math.inf)
    assert found is not None
    assert found.last == 0.0
    assert found.interval == pytest.approx(2.0 + TRANSIT)


def test_what_was_under_way_when_the_way_was_taken_is_lost_by_the_move() -> None:
    # the way goes at 10 s with what is on it: 50 ms of packets sent before, 100 ms sent after
    fates = stream(0, 20, lambda sent: 10 - TRANSIT - 0.001 < sent < 10.099)
    (move,) = result(ATTACH + "  - {at: 10, do: move, to: b}\n", fates, moves=(MOVE,)).moves
    assert move.uplink is not None
    assert move.uplink.lost == sum(fate.received is None for fate in fates) == 7
    # what chance had taken long before is not the move's
    fates = stream(0, 20, lambda sent: 9.5 < sent < 9.6 or 10 - TRANSIT - 0.001 < sent < 10.099)
    (move,) = result(ATTACH + "  - {at: 10, do: move, to: b}\n", fates, moves=(MOVE,)).moves
    assert move.downlink is not None
    assert move.downlink.lost == 7


def test_silence_between_two_connections_is_an_outage() -> None:
    found = result(ATTACH, stream(0, 8, lambda sent: sent > 4), stream(15, 20))
    assert found.uplink.outage_ms == pytest.approx(11_000, abs=30)
    assert found.downlink.outage_ms == pytest.approx(11_000, abs=30)


def test_silence_after_a_connection_that_does_not_come_back_counts_to_the_end() -> None:
    assert result(ATTACH, stream(0, 8)).uplink.outage_ms == pytest.approx(12_000, abs=60)
    assert result(ATTACH, stream(0, 20)).uplink.outage_ms == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("do", ["traffic-stop", "detach"])
def test_silence_that_the_schedule_asks_for_is_none(do: str) -> None:
    found = result(ATTACH + f"  - {{at: 8, do: {do}}}\n  - {{at: 15, do: attach}}\n", stream(0, 8), stream(15, 20))
    assert found.uplink.outage_ms == pytest.approx(20, abs=0.1)


def test_what_a_listener_thinks_is_of_all_that_was_said() -> None:
    deaf, good = stream(8, 10, lambda sent: True), stream(10, 12)
    (move,) = result(ATTACH + "  - {at: 8, do: move, to: b}\n", deaf, good, moves=({**MOVE, "started": 8.0},)).moves
    assert move.mos_during.uplink is not None
    assert move.mos_during.uplink < 3


def test_an_order_to_lose_messages_that_took_none_fails_the_run() -> None:
    found = result(ATTACH + "  - {at: 5, do: lose, message: update-request}\n", stream(0, 20))
    failed = {check.subject: check.found for check in found.checks if not check.passed}
    assert failed["update-request lost on purpose"] == "0"
