"""What an operator asks of the gateway's sessions and addresses: liveness, the path, an end, other addresses.

Between real nodes on virtual time: each access takes 10 ms each way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from lab.virtual.world import GATEWAY, VirtualWorld, run
from protocols.io.control import ControlError
from protocols.trace.records import JsonValue, TraceRecord

OTHER = ip_address("203.0.113.2")
ROUND_TRIP = pytest.approx(0.02)
PATIENT: dict[str, dict[str, JsonValue]] = {"epdg": {"ike": {"liveness_interval": None}}}


def section(value: JsonValue, *names: str) -> dict[str, JsonValue]:
    """What lies under names in an answer."""
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    assert isinstance(value, dict)
    return value


def told(world: VirtualWorld, name: str, node: str = "epdg") -> list[TraceRecord]:
    control = {"ue": world.ue, "epdg": world.epdg}[node]
    return [record for record in control.trace if record.body.get("name") == name]


async def attached(world: VirtualWorld) -> str:
    """The gateway's id of the session."""
    await world.ue.call("ue.attach", access="wifi-a")
    (live,) = world.epdg_node.sessions.live.values()
    return live.session.identifier


async def refused(call: Awaitable[JsonValue], code: str, words: str) -> None:
    with pytest.raises(ControlError) as error:
        await call
    assert error.value.code == code
    assert words in str(error.value)


def story_of(story: Callable[[VirtualWorld], Awaitable[None]], **world: object) -> None:
    run(story, **{"changes": PATIENT, **world})


# --- liveness and the path


@pytest.mark.parametrize("method", ["sessions.liveness", "sessions.check-path"])
def test_the_ue_answers_and_the_seconds_are_told(method: str) -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        answer = section(await world.epdg.call(method, id=identifier))
        assert (answer["answered"], answer["seconds"]) == (True, ROUND_TRIP)
        assert section(answer, "path")["remote"] == "10.1.0.2:4500"
        name = "liveness" if method == "sessions.liveness" else "path-check"
        (record,) = told(world, f"{name}-answered")
        assert record.session == identifier
        assert section(record.body, "data")["seconds"] == ROUND_TRIP

    story_of(story)


@pytest.mark.parametrize("method", ["sessions.liveness", "sessions.check-path"])
def test_a_ue_that_is_not_there_has_not_answered_and_keeps_its_session(method: str) -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        world.accesses["wifi-a"].captive = True
        answer = section(await world.epdg.call(method, id=identifier, interval=3))
        assert (answer["answered"], answer["seconds"]) == (False, 3.0)
        name = "liveness" if method == "sessions.liveness" else "path-check"
        assert len(told(world, f"{name}-unanswered")) == 1
        world.accesses["wifi-a"].captive = False
        await world.advance(30)
        answer = section(await world.epdg.call(method, id=identifier))
        assert (answer["answered"], answer["seconds"]) == (True, ROUND_TRIP)

    story_of(story)


def test_the_end_of_a_session_ends_the_wait() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        world.accesses["wifi-a"].captive = True
        answer = section(await world.epdg.call("sessions.liveness", id=identifier, interval=50))
        assert answer["answered"] is False
        assert isinstance(answer["seconds"], float)
        assert answer["seconds"] < 50
        assert len(told(world, "detached")) == 1

    mortal: JsonValue = {"liveness_interval": None, "hold_lifetime": None, "retransmission": {"limit": 2}}
    story_of(story, changes={"epdg": {"ike": mortal}})


def test_a_check_of_the_path_moves_nothing_and_has_cookie2() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        await world.epdg.call("sessions.check-path", id=identifier)
        session = section(await world.epdg.call("sessions.get", id=identifier))
        paths = session["paths"]
        assert isinstance(paths, list)
        assert len(paths) == 1
        sent = [str(record.body.get("summary")) for record in world.epdg.trace]
        assert len([summary for summary in sent if "COOKIE2" in summary]) == 2

    story_of(story)


def test_one_check_at_a_time_and_a_move_goes_before_it() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        world.accesses["wifi-a"].captive = True
        first = world.loop.create_task(world.epdg.call("sessions.check-path", id=identifier))
        await world.advance(1)
        await refused(world.epdg.call("sessions.check-path", id=identifier), "not-now", "under way")
        await world.ue.call("ue.move", to="wifi-b")
        assert section(await first)["answered"] is False  # what was proved is another path
        answer = section(await world.epdg.call("sessions.check-path", id=identifier))
        assert section(answer, "path")["remote"] == "10.2.0.2:4500"
        assert answer["answered"] is True

    story_of(story)


def test_a_ue_without_mobike_cannot_be_asked_to_prove_its_path() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        await refused(world.epdg.call("sessions.check-path", id=identifier), "not-possible", "MOBIKE")
        assert section(await world.epdg.call("sessions.liveness", id=identifier))["answered"] is True

    story_of(story, changes={"epdg": {"ike": {"mobike": False}}})


@pytest.mark.parametrize("interval", [0, -1, 51, "x", True])
def test_the_interval_is_checked(interval: JsonValue) -> None:
    async def story(world: VirtualWorld) -> None:
        call = world.epdg.call("sessions.liveness", id="none", interval=interval)
        await refused(call, "bad-params", "interval is a number of seconds")
        await refused(world.epdg.call("sessions.check-path", id="none"), "not-found", "no session none")

    story_of(story)


# --- an end


@pytest.mark.parametrize(("cause", "comes_again"), [("operator", False), ("reactivate", True), (None, False)])
def test_a_ue_that_is_detached_comes_again_when_it_is_told_to(cause: str | None, comes_again: bool) -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        params: dict[str, JsonValue] = {} if cause is None else {"cause": cause}
        await world.epdg.call("sessions.detach", id=identifier, **params)
        await world.advance(20)
        now = [live.session.identifier for live in world.epdg_node.sessions.live.values()]
        assert len(now) == comes_again
        assert identifier not in now
        assert len(told(world, "reactivating", "ue")) == comes_again

    story_of(story)


def test_an_unknown_cause_is_refused() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        call = world.epdg.call("sessions.detach", id=identifier, cause="boredom")
        await refused(call, "bad-params", "cause is operator or reactivate")
        assert section(await world.epdg.call("sessions.get", id=identifier))["state"] == "established"

    story_of(story)


# --- addresses


def addresses(answer: JsonValue) -> list[tuple[object, object, object]]:
    listed = section(answer)["addresses"]
    assert isinstance(listed, list)
    return [(each["address"], each["present"], each["configured"]) for each in map(section, listed)]


def test_an_address_is_added_used_and_removed() -> None:
    async def story(world: VirtualWorld) -> None:
        identifier = await attached(world)
        answer = await world.epdg.call("addresses.add", address=str(OTHER))
        assert addresses(answer) == [(str(GATEWAY), True, True), (str(OTHER), True, False)]
        await world.advance(1)
        (known,) = told(world, "gateway-addresses", "ue")
        assert str(OTHER) in str(known.body["text"])
        await world.epdg.call("addresses.prefer", address=str(OTHER))
        await world.advance(5)
        session = section(await world.epdg.call("sessions.get", id=identifier))
        assert section(session, "ike", "path")["local"] == f"{OTHER}:4500"
        answer = await world.epdg.call("addresses.remove", address=str(OTHER))
        assert addresses(answer) == [(str(GATEWAY), True, True)]
        await world.advance(5)
        session = section(await world.epdg.call("sessions.get", id=identifier))
        assert session["state"] == "established"
        assert section(session, "ike", "path")["local"] == f"{GATEWAY}:4500"

    one: JsonValue = {"listen": {"addresses": [str(GATEWAY)]}}
    story_of(story, gateways=(GATEWAY, OTHER), changes={"epdg": one})


def test_a_ue_that_comes_later_is_told_of_the_address_too() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.epdg.call("addresses.add", address=str(OTHER))
        identifier = await attached(world)
        await world.epdg.call("addresses.withdraw", address=str(GATEWAY))
        await world.advance(5)
        session = section(await world.epdg.call("sessions.get", id=identifier))
        assert section(session, "ike", "path")["local"] == f"{OTHER}:4500"

    one: JsonValue = {"listen": {"addresses": [str(GATEWAY)]}}
    story_of(story, gateways=(GATEWAY, OTHER), changes={"epdg": one})


def test_addresses_that_cannot_be_had_are_refused_in_a_sentence() -> None:
    async def story(world: VirtualWorld) -> None:
        call = world.epdg.call
        await refused(call("addresses.add", address="198.51.100.9"), "backend", "does not have the address")
        await refused(call("addresses.add", address="224.0.0.1"), "refused", "no address that a UE can send to")
        await refused(call("addresses.add", address=str(GATEWAY)), "exists", "already")
        await refused(call("addresses.add", address=7), "bad-params", "IP address")
        await refused(call("addresses.remove", address=str(GATEWAY)), "refused", "stands in the configuration")
        await refused(call("addresses.remove", address="198.51.100.9"), "not-found", "none of")
        assert addresses(await call("addresses.list")) == [(str(GATEWAY), True, True)]
        await attached(world)

    story_of(story)


def test_there_are_no_more_addresses_than_can_be_told() -> None:
    many = [ip_address(f"203.0.113.{number}") for number in range(1, 34)]

    async def story(world: VirtualWorld) -> None:
        for address in many[1:32]:
            await world.epdg.call("addresses.add", address=str(address))
        await refused(world.epdg.call("addresses.add", address=str(many[32])), "refused", "32 addresses")
        await attached(world)

    one: JsonValue = {"listen": {"addresses": [str(GATEWAY)]}}
    story_of(story, gateways=tuple(many), changes={"epdg": one})
