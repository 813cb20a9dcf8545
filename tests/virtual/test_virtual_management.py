"""Automatic connection management on virtual time: refusals, back-offs, silence, a gateway without MOBIKE."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.virtual.world import CORE_HOST, VirtualWorld, run
from protocols.trace.records import JsonValue

AUTOMATIC: dict[str, JsonValue] = {"management": {"automatic": True, "prefer": ["wifi-a", "wifi-b"], "hold": 1}}

Story = Callable[[VirtualWorld], Awaitable[None]]


def tell(story: Story, *, ue: dict[str, JsonValue] | None = None, epdg: dict[str, JsonValue] | None = None) -> None:
    """A UE that is to stay attached by itself."""

    async def whole(world: VirtualWorld) -> None:
        staying = asyncio.create_task(world.ue_node.stay_attached())
        try:
            await story(world)
        finally:
            staying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await staying

    run(whole, changes={"ue": {**AUTOMATIC, **(ue or {})}, "epdg": epdg or {}})


def moments(world: VirtualWorld, name: str) -> list[float]:
    """When the UE said something, seconds from the first record on."""
    return [record.monotonic for record in world.ue.trace if record.body.get("name") == name]


def attempts(world: VirtualWorld) -> list[tuple[float, str]]:
    """The attaches begun by connection management: when, and where; seconds after the first."""
    found = [
        (record.monotonic, str(record.body["data"]["decision"]))
        for record in world.ue.trace
        if record.body.get("name") == "access-decision" and "attach on" in str(record.body["data"]["decision"])
    ]
    return [(round(moment - found[0][0]), words.removeprefix("attach on ")) for moment, words in found]


def avoided(world: VirtualWorld) -> list[float]:
    view = world.ue_node.steering.view()["accesses"]
    assert isinstance(view, dict)
    return [each["avoided_for"] for each in view.values()]


def test_a_refusal_for_good_ends_it_until_a_person_attaches() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(7200)
        assert attempts(world) == [(0, "wifi-a")]
        assert len(moments(world, "no-retry")) == 1
        assert avoided(world) == [0, 0]
        await world.ue.call("ue.access.gained", name="wifi-b", address="10.2.0.3")
        await world.ue.call("ue.access.hint", name="wifi-a", hint="weak")
        await world.advance(60)
        assert attempts(world) == [(0, "wifi-a")]

    tell(story, ue={"apn": "nowhere"})


def test_a_back_off_is_obeyed_on_every_access(tmp_path: Path) -> None:
    policy = tmp_path / "refusals.yaml"
    shipped = Path("epdg/refusals.yaml").read_text(encoding="utf-8")
    policy.write_text(
        shipped.replace("{notify: NO_APN_SUBSCRIPTION}", "{notify: NO_APN_SUBSCRIPTION, back_off: 600}"),
        encoding="utf-8",
    )

    async def story(world: VirtualWorld) -> None:
        await world.advance(1500)
        assert attempts(world) == [(0, "wifi-a"), (600, "wifi-a"), (1200, "wifi-a")]
        assert avoided(world) == [0, 0]

    tell(story, ue={"apn": "nowhere"}, epdg={"refusals": str(policy)})


def test_other_refusals_are_repeated_at_the_pace_configured() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(100)
        assert attempts(world) == [(0, "wifi-a"), (10, "wifi-a"), (40, "wifi-a")]
        assert avoided(world) == [0, 0]

    retry: JsonValue = {
        "intervals": [10, 30, 300],
        "rules": [{"causes": ["NO_APN_SUBSCRIPTION"], "bars": "none"}],
    }
    tell(story, ue={"apn": "nowhere", "retry": retry})


def test_silence_makes_the_access_avoided_and_the_other_is_tried_at_once() -> None:
    async def story(world: VirtualWorld) -> None:
        world.accesses["wifi-a"].captive = True
        await world.advance(20)
        assert world.ue_node.status()["state"] == "established"
        assert [access for _, access in attempts(world)] == ["wifi-a", "wifi-b"]
        assert avoided(world)[0] > 0
        assert moments(world, "retry") == []

    tell(story, ue={"retransmission": {"limit": 2}})


def test_a_captive_access_keeps_nobody_from_another_one_for_half_a_minute() -> None:
    """With retransmissions as phones have them; the last access is asked as long as they go on."""

    async def story(world: VirtualWorld) -> None:
        world.accesses["wifi-a"].captive = True
        await world.advance(4.5)
        assert world.ue_node.status()["state"] == "established"
        assert attempts(world) == [(0, "wifi-a"), (4, "wifi-b")]
        assert avoided(world)[0] > 0
        assert moments(world, "retry") == []

    tell(story)


def test_the_only_access_is_asked_for_as_long_as_requests_are_repeated() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.access.lost", name="wifi-b")
        world.accesses["wifi-a"].captive = True
        await world.advance(10)
        world.accesses["wifi-a"].captive = False
        await world.advance(10)
        assert world.ue_node.status()["state"] == "established"
        assert attempts(world) == [(0, "wifi-a")]

    tell(story)


@pytest.mark.parametrize("begun", [0.02, 0.05], ids=["before the gateway is heard", "in EAP"])
@pytest.mark.parametrize("word", ["lost", "down", "captive"])
def test_an_attach_whose_access_goes_begins_anew_elsewhere_at_once(word: str, begun: float) -> None:
    """There is no MOBIKE before IKE_AUTH is over; half a minute of retransmissions would reach nobody."""

    async def story(world: VirtualWorld) -> None:
        await world.advance(begun)
        world.accesses["wifi-a"].up = False
        if word == "lost":
            await world.ue.call("ue.access.lost", name="wifi-a")
        else:
            await world.ue.call("ue.access.hint", name="wifi-a", hint=word)
        await world.advance(1)
        connection = world.ue_node.pdn().device.connection
        assert connection is not None
        assert (world.ue_node.status()["state"], connection.access) == ("established", "wifi-b")
        assert attempts(world) == [(0, "wifi-a"), (0, "wifi-b")]
        assert avoided(world) == [0, 0]
        assert world.ue_node.pdn().device.open_accesses == ("wifi-b",)
        await world.advance(60)
        assert len(world.epdg_node.sessions.live) == 1

    tell(story)


def test_an_attach_whose_address_is_replaced_begins_anew_from_the_other_one() -> None:
    async def story(world: VirtualWorld) -> None:
        world.network.place(ip_address("10.1.0.9"), "wifi-a")
        await world.advance(0.05)
        await world.ue.call("ue.access.gained", name="wifi-a", address="10.1.0.9")
        await world.advance(1)
        connection = world.ue_node.pdn().device.connection
        assert connection is not None
        assert connection.path is not None
        assert str(connection.path.local.address) == "10.1.0.9"
        assert avoided(world) == [0, 0]

    tell(story)


def test_an_attach_waits_for_the_only_access_to_come_back() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.ue.call("ue.access.lost", name="wifi-b")
        await world.advance(0.05)
        await world.ue.call("ue.access.lost", name="wifi-a")
        await world.advance(100)
        assert attempts(world) == [(0, "wifi-a")]
        assert world.ue_node.status()["state"] == "closed"
        await world.ue.call("ue.access.gained", name="wifi-a")
        await world.advance(1)
        assert attempts(world) == [(0, "wifi-a"), (100, "wifi-a")]
        assert world.ue_node.status()["state"] == "established"

    tell(story)


def test_a_connection_that_the_network_ends_comes_back_at_the_pace_configured() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        (live,) = world.epdg_node.sessions.live.values()
        await world.epdg.call("sessions.detach", id=live.session.identifier)
        await world.advance(4)
        assert world.ue_node.status()["state"] == "closed"
        await world.advance(2)
        assert world.ue_node.status()["state"] == "established"

    tell(story)


@pytest.mark.parametrize("lost", [True, False], ids=["the access is lost", "another one is better"])
def test_without_mobike_the_ue_attaches_anew_with_its_addresses(lost: bool) -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        pdn = world.ue_node.pdn()
        assert pdn.device.connection is not None
        before = pdn.device.connection.addresses
        await world.ue.call("ue.traffic.start", kind="icmp", destination=str(CORE_HOST), rate=10)
        if lost:
            world.accesses["wifi-a"].up = False
            await world.ue.call("ue.access.lost", name="wifi-a")
        else:
            await world.ue.call("ue.access.hint", name="wifi-a", hint="weak")
        await world.advance(3)
        connection = pdn.device.connection
        assert (connection.access, connection.addresses) == ("wifi-b", before)
        assert connection.handed_over is True
        assert pdn.device.open_accesses == ("wifi-b",)
        assert len(world.epdg_node.sessions.live) == 1  # nothing of the former is left
        view = world.ue_node.steering.view()
        assert (view["phase"], view["access"]) == ("attached", "wifi-b")
        assert len(attempts(world)) == 1
        assert len(moments(world, "attaching-anew")) == 1

    tell(story, epdg={"ike": {"mobike": False}})


def test_without_mobike_and_without_any_access_the_ue_comes_back_later() -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        pdn = world.ue_node.pdn()
        for name in ("wifi-b", "wifi-a"):
            world.accesses[name].up = False
            await world.ue.call("ue.access.lost", name=name)
        await world.advance(10)
        world.accesses["wifi-b"].up = True
        await world.ue.call("ue.access.gained", name="wifi-b")
        await world.advance(3)
        assert pdn.device.connection is not None
        assert (pdn.device.state.value, pdn.device.connection.access) == ("established", "wifi-b")
        assert len(world.epdg_node.sessions.live) == 1

    tell(story, epdg={"ike": {"mobike": False}})


# --- an access goes while something else is outstanding

BOTH: dict[str, JsonValue] = {"additional_pdns": {"ims": {"apn": "ims", "attach": True}}}


async def lose(world: VirtualWorld, name: str) -> None:
    world.accesses[name].up = False
    await world.ue.call("ue.access.lost", name=name)


async def regain(world: VirtualWorld, name: str) -> None:
    world.accesses[name].up = True
    await world.ue.call("ue.access.gained", name=name)


def everywhere(world: VirtualWorld, access: str) -> bool:
    """All connections are up there, and nothing else is open."""
    view = world.ue_node.steering.view()
    return (view["phase"], view["access"]) == ("attached", access) and all(
        (session["state"], session["access"], session["open_accesses"]) == ("established", access, [access])
        for session in world.ue_node.sessions()
    )


@pytest.mark.parametrize("pause", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("method", ["ue.rekey-ike", "ue.rekey-child", "ue.liveness"])
def test_the_access_goes_while_a_request_is_outstanding(method: str, pause: float) -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        before = [session["inner_addresses"] for session in world.ue_node.sessions()]
        for apn in world.ue_node.pdns:
            await world.ue.call(method, pdn=apn)
        await world.advance(pause)
        await lose(world, "wifi-a")
        await world.advance(1)
        assert everywhere(world, "wifi-b")
        assert [session["inner_addresses"] for session in world.ue_node.sessions()] == before
        assert len(world.epdg_node.sessions.live) == 2

    tell(story, ue=BOTH)


def test_the_address_is_another_one_while_a_rekey_is_outstanding() -> None:
    async def story(world: VirtualWorld) -> None:
        world.network.place(ip_address("10.1.0.9"), "wifi-a")
        await world.advance(5)
        await world.ue.call("ue.rekey-ike")
        await world.advance(0.01)
        await world.ue.call("ue.access.gained", name="wifi-a", address="10.1.0.9")
        await world.advance(1)
        assert everywhere(world, "wifi-a")
        (session, *_) = world.ue_node.sessions()
        assert "10.1.0.9:4500" in str(session["paths"])

    tell(story)


def test_the_network_ends_the_connection_while_it_moves() -> None:
    """It is attached anew at the pace configured; the move that was still answered is no arrival."""

    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        (live,) = world.epdg_node.sessions.live.values()
        ended = asyncio.create_task(world.epdg.call("sessions.detach", id=live.session.identifier))
        await world.advance(0.005)
        await lose(world, "wifi-a")
        await world.advance(1)
        view = world.ue_node.steering.view()
        assert (view["phase"], world.ue_node.status()["state"]) == ("detached", "closed")
        await world.advance(6)
        assert everywhere(world, "wifi-b")
        await ended

    tell(story)


@pytest.mark.parametrize("mobike", [True, False])
def test_accesses_that_come_and_go_faster_than_the_ue_can_follow(mobike: bool) -> None:
    async def story(world: VirtualWorld) -> None:
        await world.advance(5)
        before = [session["inner_addresses"] for session in world.ue_node.sessions()]
        for _ in range(5):
            for name in ("wifi-a", "wifi-b"):
                await lose(world, name)
                await world.advance(0.03)
                await regain(world, name)
        await lose(world, "wifi-a")
        await world.advance(100)  # what was begun and not ended the gateway forgets
        assert everywhere(world, "wifi-b")
        assert [session["inner_addresses"] for session in world.ue_node.sessions()] == before
        assert len(world.epdg_node.sessions.live) == 2

    tell(story, ue=BOTH, epdg={"ike": {"mobike": mobike}})
