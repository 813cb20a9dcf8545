"""Schedules from files: what is shipped loads, what is wrong is told in one line with file, line, key, expectation."""

from __future__ import annotations

import pytest

from lab.mobility.loader import load_schedule, parse_schedule, shipped
from lab.mobility.namespaces import NUMBERING
from lab.mobility.schedule import EVENTS, MoveTo
from lab.mobility.stage_name import StageName
from protocols.errors import ConfigurationError

HEAD = "title: T\nduration: 10\naccesses: {a: {}, b: {}}\n"
EVENT = HEAD + "events:\n  - {at: 0, do: attach}\n"


@pytest.mark.parametrize("name", shipped())
def test_shipped_schedule_loads_and_says_what_it_is(name: str) -> None:
    named = load_schedule(name)
    assert named.name == name
    assert named.schedule.about.strip()
    assert StageName.VIRTUAL in named.schedule.stages


def test_a_dozen_of_schedules_ships() -> None:
    assert len(shipped()) >= 16


def test_durations_are_numbers_or_text() -> None:
    schedule = parse_schedule(
        "title: T\nduration: 2d1h\naccesses: {a: {up: {delay: 20ms}}}\nevents:\n"
        "  - {at: 1m30s, do: attach}\n  - {at: 91.5, do: move, to: a}\n"
    )
    assert schedule.duration == 2 * 86400 + 3600
    assert schedule.accesses["a"].up.delay == 0.02
    assert [event.at for event in schedule.events] == [90.0, 91.5]
    assert isinstance(schedule.events[1], MoveTo)


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ("", None, "title", "a value"),
        ("title: [", 1, "(syntax)", "YAML"),
        (HEAD + "titel: x\nevents: []\n", 4, "titel", "did you mean title?"),
        (HEAD + "title: twice\n", 4, "title", "every key once"),
        (HEAD, None, "events", "a value"),
        (HEAD + "events: []\n", 4, "events", "a length of at least 1"),
        (HEAD + "events:\n  - attach\n", 5, "events.0", "an event such as"),
        (HEAD + "events:\n  - {at: 0}\n", 5, "events.0.do", "one of attach"),
        (HEAD + "events:\n  - {at: 0, do: atach}\n", 5, "events.0.do", "did you mean attach?"),
        (HEAD + "events:\n  - {at: 0, do: [attach]}\n", 5, "events.0.do", "one of attach"),
        (HEAD + "events:\n  - {do: attach}\n", 5, "events.0.at", "a value"),
        (HEAD + "events:\n  - {at: soon, do: attach}\n", 5, "events.0.at", "20ms, 1m30s, 2d"),
        (HEAD + "events:\n  - {at: -1, do: attach}\n", 5, "events.0.at", "at least 0"),
        (HEAD + "events:\n  - {at: 0, do: attach, acces: a}\n", 5, "events.0.acces", "did you mean access?"),
        (
            HEAD + "events:\n  - {at: 0, do: attach, access: c}\n",
            5,
            "events.0.access",
            "an access of this schedule: a, b",
        ),
        (EVENT + "  - {at: 1, do: move}\n", 6, "events.1.to", "a value"),
        (EVENT + "  - {at: 1, do: move, to: home}\n", 6, "events.1.to", "an access of this schedule: a, b"),
        (EVENT + "  - {at: 1, do: move, to: b, make: slowly}\n", 6, "events.1.make", "'break-before-make'"),
        (
            EVENT + "  - at: 1\n    do: move\n    to: b\n    expect: {outage: 3}\n",
            9,
            "events.1.expect.outage",
            "did you mean outage_ms?",
        ),
        (EVENT + "  - {at: 11, do: suspend}\n", 6, "events.1.at", "within the duration, 10 s"),
        (EVENT + "  - {at: 5, do: suspend}\n  - {at: 4, do: detach}\n", 7, "events.2.at", "not before the event above"),
        (EVENT + "  - {at: 1, do: gateway-down, address: spare}\n", 6, "events.1.address", "of the gateway in this"),
        (EVENT + "  - {at: 1, do: lose, message: update}\n", 6, "events.1.message", "'update-request'"),
        (EVENT + "  - {at: 1, do: lose, message: any, count: 0}\n", 6, "events.1.count", "at least 1"),
        (HEAD + "events:\n  - {at: 0, do: suspend}\n", 4, "events", "do: attach"),
        (EVENT + "stages: [virtuell]\n", 6, "stages.0", "'virtual'"),
        (EVENT + "stages: []\n", 6, "stages", "at least one stage"),
        (EVENT + "expect: {final_access: c}\n", 6, "expect.final_access", "one of a, b"),
        (EVENT + "traffic: {rate: 0}\n", 6, "traffic.rate", "at least 1"),
        (
            "title: T\nduration: 10\naccesses:\n  a:\n    nat: {kind: cone}\nevents: [{at: 0, do: attach}]\n",
            5,
            "accesses.a.nat.kind",
            "'full-cone'",
        ),
        (
            "title: T\nduration: 10\naccesses:\n  a:\n    up:\n      loss: 1.5\nevents: [{at: 0, do: attach}]\n",
            6,
            "accesses.a.up.loss",
            "at most 1",
        ),
        (
            "title: T\nduration: 10\naccesses:\n  A: {}\nevents: [{at: 0, do: attach}]\n",
            4,
            "accesses.A",
            "a name of small letters",
        ),
        (
            "title: T\nduration: 10\nstages: [virtual]\naccesses:\n  a: {family: ipv6, nat: {kind: symmetric}}\n"
            "events: [{at: 0, do: attach}]\n",
            5,
            "accesses.a.nat.kind",
            "no NAT of IPv6",
        ),
        (EVENT + f"  - {{at: {'9' * 400}, do: suspend}}\n", 6, "events.1.at", "20ms, 1m30s, 2d"),
        (EVENT + "  - {at: \u0663s, do: suspend}\n", 6, "events.1.at", "20ms, 1m30s, 2d"),
        (EVENT + "  - {at: 1.0e999, do: suspend}\n", 6, "events.1.at", "a finite number"),
        (EVENT + "expect: {outage_ms: 1.0e999}\n", 6, "expect.outage_ms", "a finite number"),
        (
            EVENT + "  - {at: 1, do: move, to: b, expect: {outage_ms: 1.0e999}}\n",
            6,
            "events.1.expect.outage_ms",
            "finite",
        ),
        (EVENT + "  - {at: 1, do: nat-rebind, access: a}\n", 6, "events.1.access", "behind a NAT"),
        (EVENT + "  - {at: 1, do: nat-gone, access: a}\n", 6, "events.1.access", "behind a NAT"),
        (EVENT + "  - {at: 1, do: nat-appears, access: a, nat: {}}\n", 6, "events.1.nat.kind", "nat-gone takes one"),
        (
            "title: T\nduration: 10\nstages: [virtual]\naccesses: {a: {family: ipv6}}\n"
            "events:\n  - {at: 0, do: attach}\n  - {at: 1, do: nat-appears, access: a, nat: {kind: symmetric}}\n",
            7,
            "events.1.nat.kind",
            "no NAT of IPv6",
        ),
        (
            "title: &a [x, x]\nduration: &b [*a, *a]\nevents: [[*b, *b]]\n",
            3,
            "events.0",
            "an event such as",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(text: str, line: int | None, key: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_schedule(text, "s.yaml")
    error = caught.value
    where = "s.yaml" if line is None else f"s.yaml:{line}"
    assert str(error).startswith(f"{where}: {key}: got ")
    assert expected in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


def test_a_name_that_is_not_shipped_is_told_with_one_that_is() -> None:
    with pytest.raises(ConfigurationError, match=r"walk-hom: .*did you mean walk-home\?"):
        load_schedule("walk-hom")


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigurationError, match="nowhere.yaml: .*no such file"):
        load_schedule("nowhere.yaml")


def test_every_word_of_an_event_has_one_form() -> None:
    assert len(EVENTS) == 23


def test_namespaces_have_an_address_for_every_access_of_a_schedule() -> None:
    """As many as there may be, all of them different; one more is refused."""
    text = "title: T\nduration: 3\naccesses: {{{}}}\nevents: [{{at: 0, do: attach}}]\n"
    accesses = [f"a{number}: {{}}" for number in range(51)]
    schedule = parse_schedule(text.format(", ".join(accesses[:50])))
    places = NUMBERING.places(schedule)
    assert len({*places.accesses.values(), *places.outsides.values(), *places.gateways.values()}) == 101
    with pytest.raises(ConfigurationError, match="3: accesses: got a mapping, expected a length of at most 50"):
        parse_schedule(text.format(", ".join(accesses)))
