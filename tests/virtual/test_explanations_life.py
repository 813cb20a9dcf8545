"""Why sessions that were up have ended, in one sentence each; and that a UE which detaches needs none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from lab.virtual.world import AAA, CORE_HOST, VirtualWorld, access
from protocols.errors import StackError
from protocols.trace.records import JsonValue
from tests.harness.explanations import Deed, attach
from tests.harness.session_story import Case, explained, of_gateway

IMSI = "001010000000001"


def silent(seconds: float) -> Deed:
    """The access swallows everything, for so long."""

    async def told(world: VirtualWorld) -> None:
        await attach(world)
        await world.advance(10)
        world.accesses["wifi-a"].captive = True
        await world.advance(seconds)

    return told


def asked(method: str, **params: JsonValue) -> Deed:
    """A control method of the gateway."""

    async def told(world: VirtualWorld) -> None:
        await attach(world)
        await world.advance(30)
        await of_gateway(world, method, **params)
        await world.advance(1)

    return told


def attached_for(seconds: float) -> Deed:
    async def told(world: VirtualWorld) -> None:
        await attach(world)
        await world.advance(seconds)

    return told


async def aborted(world: VirtualWorld) -> None:
    await attach(world)
    (live,) = world.epdg_node.sessions.live.values()
    await world.aaa.call("sessions.abort", id=live.diameter_session_id, reason="credit used up")


async def aborted_while_attaching(world: VirtualWorld) -> None:
    """The ASR comes when the AAA server has granted the session and the UE's AUTH is not there yet."""
    first = asyncio.create_task(attach(world))
    await world.advance(0.065)
    (live,) = world.epdg_node.sessions.live.values()
    await world.aaa.call("sessions.abort", id=live.diameter_session_id, reason="stolen")
    await first
    await world.advance(60)


async def terminated(world: VirtualWorld) -> None:
    await attach(world)
    await world.aaa.call("registrations.terminate", imsi=IMSI, reason="moved to another operator")
    await world.advance(1)


def changed(**apn: JsonValue) -> Deed:
    """The subscription to the APN in use is another one from now on."""

    async def told(world: VirtualWorld) -> None:
        await attach(world)
        await world.aaa.call("subscribers.update", imsi=IMSI, changes={"apns": [{"apn": "internet", **apn}]})
        await world.advance(1)

    return told


async def apn_taken_away(world: VirtualWorld) -> None:
    await attach(world)
    await world.aaa.call("subscribers.update", imsi=IMSI, changes={"apns": [{"apn": "ims"}]})
    await world.advance(1)


async def not_authenticated_anew(world: VirtualWorld) -> None:
    """The AAA server is silent when the UE tries to."""
    await attach(world)
    await world.advance(30)
    world.streams.silence(AAA.address)
    await world.advance(120)


async def again_after_a_power_cut(world: VirtualWorld) -> None:
    """The UE is gone without a word and attaches anew."""
    await attach(world)
    await world.advance(60)
    world.accesses["wifi-a"].captive = True
    await world.ue.call("ue.detach")
    await world.advance(20)
    world.accesses["wifi-a"].captive = False
    await attach(world)


async def stopped(world: VirtualWorld) -> None:
    await attach(world)
    await world.advance(60)
    world.epdg_node.stop()
    await asyncio.sleep(5)


async def talking(world: VirtualWorld) -> None:
    await attach(world)
    await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=50)
    await world.advance(10)


async def detached(world: VirtualWorld) -> None:
    await attach(world)
    await world.advance(60)
    await world.ue.call("ue.move", to="wifi-b", keep_old=True)
    await world.advance(60)
    await world.ue.call("ue.detach")
    await world.advance(60)


async def away_too_long(world: VirtualWorld) -> None:
    """The gateway gives up a UE that is suspended; the UE comes back and is told."""
    await attach(world)
    await world.ue.call("ue.suspend")
    await world.advance(5000)
    try:
        await world.ue.call("ue.move", to="wifi-b")
    except StackError:
        return


CASES = {
    "UE silent": Case(
        told=silent(300),
        changes={"epdg": {"ike": {"hold_lifetime": None, "liveness_interval": 20}}, "ue": {"liveness_interval": None}},
        finding=(("ue-silent", "The UE fell silent: INFORMATIONAL was sent 6 times in 31.5 s without an answer."),),
    ),
    "gateway silent": Case(
        told=silent(250),
        changes={"epdg": {"ike": {"liveness_interval": None}}, "ue": {"liveness_interval": 20}},
        world={"accesses": [access("wifi-a", "10.1.0.2")]},
        finding=(
            (
                "gateway-silent-later",
                "The gateway fell silent: INFORMATIONAL was sent 30 times in 31.5 s without an answer.",
            ),
        ),
    ),
    "aborted": Case(
        told=aborted, finding=(("aborted-by-aaa", "The AAA server ended the session (ASR): credit used up."),)
    ),
    "aborted while attaching": Case(
        told=aborted_while_attaching,
        finding=(("aborted-while-attaching", "During the attach: the AAA server ended the session (ASR): stolen."),),
    ),
    "terminated": Case(
        told=terminated,
        finding=(
            (
                "registration-terminated",
                "The HSS ended the registration of subscriber 001010000000001: moved to another operator.",
            ),
        ),
    ),
    "IP version taken away": Case(
        told=changed(type="ipv6"),
        finding=(
            (
                "authorisation-withdrawn",
                "The gateway ended the session: the subscription allows only IPv6 in APN internet now.",
            ),
        ),
    ),
    "APN taken away": Case(
        told=apn_taken_away,
        finding=(
            (
                "aborted-by-aaa",
                "The AAA server ended the session (ASR): Subscriber 001010000000001 has no "
                "subscription to APN 'internet'.",
            ),
        ),
    ),
    "operator": Case(
        told=asked("sessions.detach"),
        finding=(("detached-by-operator", "The operator of the gateway ended the session, 30 s after the attach."),),
    ),
    "session timeout": Case(
        told=attached_for(700),
        changes={"aaa": {"sessions": {"timeout": 600}}},
        finding=(("session-timeout", "The session time of 600 s that the AAA server granted is over."),),
    ),
    "authentication lifetime": Case(
        told=not_authenticated_anew,
        changes={"epdg": {"ike": {"authentication_lifetime": 60}}},
        finding=(
            ("aaa-silent", "The AAA server aaa.epc.mnc001.mcc001.3gppnetwork.org did not answer DER within 10 s."),
            (
                "authentication-lifetime-over",
                "The authentication lifetime was over and the UE had not authenticated anew, 70 s after the attach.",
            ),
            (
                "end-not-told",
                "The AAA server does not know of the session's end (STR: no answer from "
                "aaa.epc.mnc001.mcc001.3gppnetwork.org in 10 s).",
            ),
        ),
    ),
    "superseded": Case(
        told=again_after_a_power_cut,
        finding=(
            (
                "superseded",
                "Subscriber 001010000000001 attached anew and said by INITIAL_CONTACT that this "
                "session is lost, 111.6 s after the attach.",
            ),
        ),
    ),
    "stopped": Case(told=stopped, finding=(("gateway-stopped", "The gateway was stopped, 60 s after the attach."),)),
    "hard lifetime": Case(
        told=attached_for(700),
        changes={
            "epdg": {"ike": {"child_lifetime": {"soft": None, "hard": 600}}},
            "ue": {"child_lifetime": None},
        },
        finding=(
            (
                "hard-lifetime-reached",
                "The hard lifetime of child SA 4b3165dc is over and no rekey replaced it, 600 s after the attach.",
            ),
        ),
    ),
    "used up": Case(
        told=talking,
        changes={"epdg": {"ike": {"child_lifetime": {"soft": None, "hard_packets": 100}}}},
        finding=(
            (
                "child-sa-exhausted",
                "Child SA 4b3165dc has carried all that it may, and no rekey came in time, 2 s after the attach.",
            ),
        ),
    ),
    "detached": Case(told=detached, finding=()),
}


PROVOKED = {name for case in CASES.values() for name, _ in case.finding} | {"gateway-lost-the-session"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_end_is_explained(case: Case) -> None:
    assert explained(case) == case.finding


def test_a_gateway_that_has_lost_the_session_is_believed(tmp_path: Path) -> None:
    secret = tmp_path / "qcd"
    secret.write_text("5a" * 32)
    secret.chmod(0o600)
    case = Case(
        told=away_too_long,
        changes={"epdg": {"ike": {"qcd_secret": str(secret), "hold_lifetime": 600}}},
        finding=(),
    )
    assert [name for name, _ in explained(case)] == ["ue-silent", "gateway-lost-the-session"]
