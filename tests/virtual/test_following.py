"""The live ladder of the real nodes on virtual time: each line once, in order, with what was lost and why it failed."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

from epdg.terminal import NOT_ARRIVED, RETRANSMISSION, drawn, heading
from lab.network.access import AccessNetwork
from lab.virtual.world import VirtualWorld, access, run
from protocols.errors import StackError
from protocols.trace.following import Following, Line
from protocols.trace.records import TraceRecord
from tests.harness.explanations import IKE_SA_INIT, is_message, losing, records

TICK = 0.05  # seconds between looks
OTHER_OPC = "00112233445566778899aabbccddeeff"


def lines(told: list[TraceRecord], following: Following | None = None) -> list[Line]:
    """What following them as they come would have shown."""
    following = following or Following()
    found: list[Line] = []
    waiting = sorted(told, key=lambda record: record.wall)
    now = waiting[0].wall
    end = waiting[-1].wall + 10
    while now < end:
        now += TICK
        while waiting and waiting[0].wall <= now:
            record = waiting.pop(0)
            following.take(record, record.node, now)
        found += following.lines(now)
    return found


def text(found: list[Line]) -> list[str]:
    return [drawn(line).plain for line in found]


async def two_accesses(world: VirtualWorld) -> VirtualWorld:
    """Attach, move, detach."""
    await world.ue.call("ue.attach", access="wifi-a")
    await world.advance(2)
    await world.ue.call("ue.move", to="wifi-b")
    await world.advance(2)
    await world.ue.call("ue.detach")
    await world.advance(2)
    return world


def test_attach_move_and_detach_are_one_ladder() -> None:
    found = lines(records(run(two_accesses)))
    shown = text(found)
    assert heading().plain.split() == ["UE", "ePDG", "AAA", "HSS"]
    assert {line.number for line in found} == {0, 1}
    assert not any(NOT_ARRIVED in each or RETRANSMISSION in each for each in shown)
    assert not any(line.finding for line in found)
    entries = [line.entry for line in found if line.entry is not None and line.number]
    assert len({place for entry in entries for place in entry.made_of}) == sum(len(entry.made_of) for entry in entries)
    arrows = [(e.source, e.name, e.target) for e in entries if e.kind == "message" and e.protocol != "eap"]
    assert arrows[:5] == [
        ("UE", "IKE_SA_INIT request", "ePDG"),
        ("ePDG", "IKE_SA_INIT response", "UE"),
        ("UE", "IKE_AUTH request", "ePDG"),
        ("ePDG", "DER", "AAA"),
        ("AAA", "MAR", "HSS"),
    ]
    assert all(e.arrived for e in entries if e.interface in ("SWu", "SWm") and e.protocol != "eap")
    assert sum("N(UPDATE_SA_ADDRESSES)" in each for each in shown) == 1
    assert sum(e.name == "moved" for e in entries) == 1  # both ends tell of it
    sent = next(each for each in shown if "N(UPDATE_SA_ADDRESSES)" in each)
    assert "|--------->|" in sent


def test_of_several_sessions_one_is_followed() -> None:
    async def twice(world: VirtualWorld) -> VirtualWorld:
        await two_accesses(world)
        return await two_accesses(world)

    world = run(twice)
    told = records(world)
    everything = lines(told)
    named = {line.name[1]: line.number for line in everything if line.name is not None}
    assert len(named) == 2
    for session, number in named.items():
        expected = [line.entry for line in everything if line.number == number and line.entry]
        of_one = [line.entry for line in lines(told, Following(session=session)) if line.entry]
        assert [(e.name, e.made_of) for e in of_one] == [(e.name, e.made_of) for e in expected]
    of_user = lines(told, Following(imsi=str(world.subscriber.imsi)))
    assert len(of_user) == sum(1 for line in everything if line.number)
    assert lines(told, Following(imsi="999990000000001")) == []
    assert lines(told, Following(session="0000000000000001")) == []


def test_a_payload_that_is_alike_in_all_sessions_does_not_make_them_one() -> None:
    """N(AUTH_LIFETIME) has eight octets, as many as an SPI of IKE."""

    async def twice(world: VirtualWorld) -> VirtualWorld:
        await two_accesses(world)
        return await two_accesses(world)

    world = run(twice, changes={"epdg": {"ike": {"authentication_lifetime": 3600}}})
    named = {line.name[1]: line.number for line in lines(records(world)) if line.name is not None}
    assert sorted(named.values()) == [1, 2]


def test_lost_messages_and_retransmissions_are_marked() -> None:
    lost = 0

    def first_two(octets: bytes) -> bool:
        nonlocal lost
        if lost < 2 and is_message(octets, IKE_SA_INIT, response=False):
            lost += 1
            return True
        return False

    async def deed(world: VirtualWorld) -> VirtualWorld:
        world.network.losses.append(lambda octets, access: first_two(octets))
        await world.ue.call("ue.attach", access="wifi-a")
        await world.advance(2)
        return world

    found = [line for line in lines(records(run(deed))) if line.entry and line.entry.name == "IKE_SA_INIT request"]
    marks = [(line.entry.arrived, line.entry.retransmission) for line in found if line.entry]
    assert marks == [(False, False), (False, True), (True, True)]
    shown = text(found)
    assert [NOT_ARRIVED in each for each in shown] == [True, True, False]
    assert [RETRANSMISSION in each for each in shown] == [False, True, True]
    assert "x|" in shown[0]


def test_a_refused_attach_ends_with_the_reason() -> None:
    async def deed(world: VirtualWorld) -> VirtualWorld:
        with contextlib.suppress(StackError):
            await world.ue.call("ue.attach", access="wifi-a")
        await world.advance(3)
        return world

    found = lines(records(run(deed, changes={"ue": {"usim": {"opc": OTHER_OPC}}})))
    (why,) = [line for line in found if line.finding is not None]
    assert why.number == 1
    words = drawn(why).plain
    assert "WHY: " in words
    assert "K or OPc" in words
    assert found.index(why) > max(i for i, line in enumerate(found) if line.entry and line.entry.name == "refused")


def test_a_gateway_alone_has_a_ladder_without_reproach() -> None:
    """What the other ends do not trace is not missing."""
    rough = AccessNetwork("wifi-b", ip_address("10.2.0.2"))
    world = run(two_accesses, accesses=[access("wifi-a", "10.1.0.2"), rough])
    found = lines(records(world, "epdg"))
    assert any("DER" in each for each in text(found))
    assert not any(NOT_ARRIVED in each for each in text(found))


def test_what_peers_write_commands_no_terminal() -> None:
    record = records(run(two_accesses), "epdg")[0]
    hostile = TraceRecord(
        sequence=1,
        monotonic=0.0,
        wall=record.wall,
        node="epdg",
        kind=record.kind.EVENT,
        session="a",
        body={"name": "refused", "text": "no\x1b[2J\nWHY: [red]never[/red]"},
    )
    _, line, *_ = text(lines([hostile]))
    assert "\x1b" not in line
    assert "\n" not in line
    assert "[red]never[/red]" in line


def test_silence_is_told_once() -> None:
    async def deed(world: VirtualWorld) -> VirtualWorld:
        await losing(lambda octets: is_message(octets, IKE_SA_INIT, response=True))(world)
        await world.advance(3)
        return world

    found = lines(records(run(deed)))
    reasons = [line.finding.cause.name for line in found if line.finding]
    assert sorted(reasons) == ["gateway-silent", "ue-stopped-answering"]  # as each end sees it
