"""Recorder, records and JSON lines."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import DecodeError, LocalError
from protocols.trace import jsonl
from protocols.trace.recorder import Recorder
from protocols.trace.records import JsonValue, Kind, TraceRecord

KEYS: dict[str, JsonValue] = {"table": "ikev2", "sk_ei": "00" * 16}


def recorder(*, export_keys: bool = False, ring: int = 10) -> Recorder:
    ticks = count(100)
    return Recorder("ue", monotonic=lambda: float(next(ticks)), wall=lambda: 1.7e9, export_keys=export_keys, ring=ring)


def test_records_are_numbered_without_gaps_and_stamped() -> None:
    trace = recorder()
    first = trace.record("state", {"machine": "ike", "old": "a", "new": "b", "why": "test"}, "s1")
    trace.event("attached", "ue is attached.", {"apn": "internet"})
    assert first is not None
    assert (first.sequence, first.monotonic, first.wall, first.kind) == (1, 100.0, 1.7e9, Kind.STATE)
    assert [record.sequence for record in trace.since(0)] == [1, 2]
    assert trace.since(1)[0].body == {
        "name": "attached",
        "text": "ue is attached.",
        "data": {"apn": "internet"},
    }


def test_keys_leave_only_when_they_are_exported() -> None:
    closed, exporting = recorder(), recorder(export_keys=True)
    heard: list[TraceRecord] = []
    closed.subscribe(heard.append)
    assert closed.record(Kind.KEYS, KEYS) is None
    assert (closed.since(0), heard, closed.sequence) == ((), [], 0)
    record = exporting.record(Kind.KEYS, KEYS)
    assert record is not None
    assert exporting.since(0) == (record,)


def test_a_body_is_copied_and_unknown_kinds_are_our_own_mistake() -> None:
    trace = recorder()
    body: dict[str, JsonValue] = {"name": "x"}
    trace.record(Kind.COMMAND, body)
    body["name"] = "changed later"
    assert trace.since(0)[0].body == {"name": "x"}
    with pytest.raises(ValueError, match="sounds"):
        trace.record("sounds", {})
    with pytest.raises(LocalError):
        recorder(ring=0)


def test_it_says_how_much_is_kept_and_how_far_back_that_goes() -> None:
    walls = iter(range(100, 200))
    kept = Recorder("ue", monotonic=lambda: 0.0, wall=lambda: float(next(walls)), ring=3)
    assert kept.view() == {"enabled": True, "records": 0, "ring": 3, "oldest": None}
    for number in range(2):
        kept.record(Kind.EVENT, {"name": str(number)})
    assert kept.view() == {"enabled": True, "records": 2, "ring": 3, "oldest": 101.0}
    for _ in range(3):
        kept.record_later(Kind.EVENT, lambda: {"name": "later"})
    assert kept.view() == {"enabled": True, "records": 3, "ring": 3, "oldest": 103.0}


def test_the_ring_keeps_the_latest_and_answers_any_resume() -> None:
    trace = recorder(ring=4)
    assert (trace.oldest, trace.since(0)) == (1, ())
    for number in range(10):
        trace.record(Kind.COMMAND, {"number": number})
    assert trace.oldest == 7
    for since in range(12):
        expected = [number for number in (7, 8, 9, 10) if number > since]
        assert [record.sequence for record in trace.since(since)] == expected
        assert [record.sequence for record in trace.since(since, 2)] == expected[:2]


def test_subscribers_come_and_go_even_while_they_are_called() -> None:
    trace = recorder()
    heard: list[str] = []

    def once(record: TraceRecord) -> None:
        heard.append("once")
        end_once()

    end_once = trace.subscribe(once)
    end_always = trace.subscribe(lambda _: heard.append("always"))
    trace.event("a", "a.")
    trace.event("b", "b.")
    end_always()
    end_always()
    trace.event("c", "c.")
    assert heard == ["once", "always", "always"]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_RECORDS = st.builds(
    TraceRecord,
    sequence=st.integers(min_value=1),
    monotonic=st.floats(allow_nan=False, allow_infinity=False),
    wall=st.floats(allow_nan=False, allow_infinity=False),
    node=st.text(),
    kind=st.sampled_from(Kind),
    session=st.none() | st.text(),
    body=st.dictionaries(st.text(), _JSON, max_size=4),
)


@given(_RECORDS)
def test_a_record_survives_its_line(record: TraceRecord) -> None:
    line = jsonl.encode_line(record)
    assert line.count("\n") == 1
    assert jsonl.decode_line(line) == record


@given(_JSON)
def test_other_json_is_refused_or_a_record(value: JsonValue) -> None:
    with pytest.raises(DecodeError):
        jsonl.decode_line(json.dumps(value))


@pytest.mark.parametrize(
    "change",
    [
        {"sequence": "1"},
        {"sequence": True},
        {"monotonic": None},
        {"wall": "now"},
        {"node": 5},
        {"session": 5},
        {"kind": "sounds"},
        {"kind": []},
        {"body": []},
    ],
)
def test_a_record_with_a_wrong_part_is_refused(change: dict[str, JsonValue]) -> None:
    record = TraceRecord(sequence=1, monotonic=1.0, wall=1.0, node="ue", kind=Kind.EVENT)
    with pytest.raises(DecodeError):
        TraceRecord.from_json({**record.to_json(), **change})


def test_a_line_cut_off_at_the_end_is_left_out_and_any_other_is_named() -> None:
    record = TraceRecord(sequence=1, monotonic=1.0, wall=1.0, node="ue", kind=Kind.EVENT)
    line = jsonl.encode_line(record)
    assert list(jsonl.decode_lines([line, "\n", line[:-10]])) == [record]
    with pytest.raises(DecodeError, match="line 2: not a line of JSON"):
        list(jsonl.decode_lines([line, line[:-10] + "\n", line]))


def test_a_body_is_made_when_somebody_looks() -> None:
    made: list[int] = []

    def body(number: int) -> dict[str, JsonValue]:
        made.append(number)
        return {"number": number}

    trace = recorder(ring=3)
    for number in range(5):
        trace.record_later(Kind.DATAGRAM, body, number, session="s1")
    trace.event("a", "a.")
    assert (made, trace.sequence, trace.oldest) == ([], 6, 4)
    assert trace.since(0, kinds={Kind.EVENT}) == trace.since(5)
    assert made == []
    assert [record.body for record in trace.since(0, 2)] == [{"number": 3}, {"number": 4}]
    (record,) = trace.since(4, 1)
    assert (record.sequence, record.monotonic, record.kind, record.session) == (5, 104.0, Kind.DATAGRAM, "s1")
    assert made == [3, 4]


def test_who_subscribes_or_waits_hears_of_what_is_made_later_at_once() -> None:
    trace = recorder()
    heard: list[JsonValue] = []
    woken: list[int] = []
    end_waiting = trace.wake(lambda: woken.append(trace.sequence))
    end = trace.subscribe(lambda record: heard.append(record.body["number"]))
    trace.record_later(Kind.DATAGRAM, lambda: {"number": 1})
    end()
    trace.record_later(Kind.DATAGRAM, lambda: {"number": 2})
    trace.event("a", "a.")
    end_waiting()
    end_waiting()
    trace.event("b", "b.")
    assert (heard, woken) == ([1], [1, 2, 3])


def test_keys_and_what_is_not_recorded_are_not_kept_for_later_either() -> None:
    closed = recorder()
    closed.record_later(Kind.KEYS, lambda: KEYS)
    off = Recorder("ue", monotonic=lambda: 0.0, wall=lambda: 0.0, enabled=False)
    off.record_later(Kind.DATAGRAM, dict)
    assert (closed.sequence, off.sequence) == (0, 0)
