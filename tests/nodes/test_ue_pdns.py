"""A UE with two PDN connections, its gateway, the AAA server and the HSS: attached, moved, ended together and alone.

::

    UE    IKE SA 1 (internet), INITIAL_CONTACT   IKE SA 2 (ims)          one USIM, the same access
    AAA   SWm session 1                          SWm session 2           one registration at the HSS
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.dataplane.userspace.host import FlowKind
from protocols.io.control import ControlClient, ControlError
from protocols.trace.records import Kind, TraceRecord
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.nodes.test_swx import Home
from tests.peers import aaa_node

USER = laboratory_subscriber(1)
CORE = "10.45.0.1"
APNS = {"internet": {"pool": "10.45.0.0/24"}, "ims": {"pool": "10.46.0.0/24"}}
TWO: dict[str, Any] = {"additional_pdns": {"voice": {"apn": "ims"}}}
Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """An HSS that looks for changes all the time, and its AAA server."""
    home = Home.started(tmp_path_factory.mktemp("home"))
    with contextlib.ExitStack() as stack:
        stack.push(home.hss.__exit__)
        stack.push(home.aaa.__exit__)
        yield home
    assert "Traceback" not in home.aaa.log() + home.hss.log()


def tell(home: Home, story: Story, **ue: Any) -> None:
    """A UE with two PDN connections, not attached yet."""

    async def run() -> None:
        peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": home.aaa.port}
        diameter = {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]}
        home.hss.provision(USER)
        core = {"kind": "in-process", "hosts": [CORE]}
        gateway = {"diameter": diameter, "apns": APNS, "data_plane": core}
        world = World(home.hss.directory, gateway=gateway, ue={**TWO, **ue})
        world.servers = ()
        async with world:
            await world.event("peer-up", "epdg")
            await story(world)

    asyncio.run(run())


def attached(story: Story) -> Story:
    """The story of a UE that is attached to both."""

    async def both(world: World) -> None:
        await world.ue.attach()
        await world.ue.attach_others()
        await story(world)

    return both


def apns(world: World) -> list[str]:
    return sorted(str(world.gateway.view(live)["apn"]) for live in world.gateway.live.values())


async def call(world: World, method: str, **params: Any) -> Any:
    return await ControlClient(world.ue.configuration.control).call(method, **params)


async def ping(world: World, apn: str) -> bool:
    flow = world.ue.pdn(apn).start_traffic(FlowKind.ICMP, ip_address(CORE), 50.0, 2)
    await flow.finished(2.0)
    return flow.statistics(None, None).received == 2


def told(world: World) -> list[TraceRecord]:
    """Plaintext messages of the UE from now on."""
    records: list[TraceRecord] = []
    world.ue.recorder.subscribe(lambda record: records.append(record) if record.kind is Kind.MESSAGE else None)
    return records


def names(record: TraceRecord) -> str:
    return str(record.body)


def test_two_connections_live_side_by_side_and_end_one_by_one(home: Home) -> None:
    async def story(world: World) -> None:
        records = told(world)
        await world.ue.attach()
        await world.ue.attach_others()
        first_contact = [
            "INITIAL_CONTACT" in names(each) for each in records if "'IDi'" in names(each) or "IDi," in names(each)
        ]
        assert first_contact == [True, False]
        assert apns(world) == ["ims", "internet"]
        status = await call(world, "ue.status")
        by_apn = {session["apn"]: session for session in status["sessions"]}
        assert sorted(by_apn) == ["ims", "internet"]
        assert by_apn["ims"]["inner_addresses"] != by_apn["internet"]["inner_addresses"]
        assert by_apn["ims"]["open_accesses"] == by_apn["internet"]["open_accesses"] == ["a"]
        assert await ping(world, "internet")
        assert await ping(world, "voice")
        numbers = [flow["id"] for flow in (await call(world, "ue.status"))["traffic"]]
        assert numbers == [1, 2]
        assert (await call(world, "ue.traffic.statistics", id=2))["source"] in by_apn["ims"]["inner_addresses"]

        ended = await call(world, "ue.detach", pdn="ims")
        assert ended["state"] == "closed"
        assert apns(world) == ["internet"]
        assert await asyncio.to_thread(home.registration, USER) is not None  # the other session goes on
        assert await ping(world, "internet")
        with pytest.raises(ControlError, match="not attached"):
            await call(world, "ue.detach", pdn="ims")
        await call(world, "ue.attach", pdn="ims")  # without INITIAL_CONTACT
        assert apns(world) == ["ims", "internet"]
        await call(world, "ue.detach")
        assert apns(world) == []
        with pytest.raises(ControlError, match="known are internet, ims"):
            await call(world, "ue.attach", pdn="mms")

    tell(home, story)


def test_both_move_by_one_command_and_their_updates_leave_together(home: Home) -> None:
    async def story(world: World) -> None:
        records = told(world)
        answer = await call(world, "ue.move", to="b")
        assert {name: move["outcome"] for name, move in answer["pdns"].items()} == {
            "internet": "completed",
            "ims": "completed",
        }
        updates = [("UPDATE_SA_ADDRESSES" in names(each), each.body["direction"]) for each in records]
        assert updates[:2] == [(True, "out"), (True, "out")]  # no answer stands between them
        assert await ping(world, "internet")
        assert await ping(world, "ims")

        answer = await call(world, "ue.move", to="a", pdn="ims")
        assert list(answer["pdns"]) == ["ims"]
        status = await call(world, "ue.status")
        assert {session["apn"]: session["access"] for session in status["sessions"]} == {"internet": "b", "ims": "a"}
        assert await ping(world, "internet")
        assert await ping(world, "ims")
        answer = await call(world, "ue.move", to="b")  # one is there already
        assert answer["move"]["outcome"] == answer["pdns"]["ims"]["outcome"] == "completed"
        assert answer["pdns"]["internet"] == {"error": "the UE is on b already"}
        await call(world, "ue.suspend")
        await call(world, "ue.move", to="a")
        assert await ping(world, "internet")
        assert await ping(world, "ims")

    tell(home, attached(story))


def test_connection_management_moves_both_together(home: Home) -> None:
    """One decision, two updates; and a person's choice, which is kept."""

    def decided(told: list[TraceRecord], words: str) -> bool:
        return any(words in str(record.body) for record in told)

    async def story(world: World) -> None:
        decisions: list[TraceRecord] = []
        world.ue.recorder.subscribe(lambda record: decisions.append(record) if record.kind is Kind.EVENT else None)
        await call(world, "ue.access.lost", name="a")
        for _ in range(2):
            assert (await world.event("moved", "ue"))["to"] == "b"
        assert decided(decisions, "move to b, break before make")
        status = await call(world, "ue.status")
        assert {session["apn"]: session["access"] for session in status["sessions"]} == {"internet": "b", "ims": "b"}
        assert await ping(world, "internet")
        assert await ping(world, "ims")

        await call(world, "ue.access.gained", name="a")
        await call(world, "ue.move", to="a")  # the hold is a minute
        await call(world, "ue.move", to="b")
        assert (await call(world, "ue.access.hint", name="a", hint="good"))["access"] == "b"
        assert decided(decisions, "a person has chosen it")
        await call(world, "ue.suspend")
        view = await call(world, "ue.access.lost", name="b")
        assert (view["phase"], view["best"]) == ("suspended", "a")
        assert decided(decisions, "a person has suspended the UE")
        await call(world, "ue.move", to="a")
        assert await ping(world, "ims")

    tell(home, attached(story), management={"automatic": True, "prefer": ["a", "b"], "hold": 60})


def test_one_that_the_network_ends_leaves_the_other_alone(home: Home) -> None:
    async def story(world: World) -> None:
        aaa = ControlClient(home.aaa.control)
        views = {str(world.gateway.view(live)["apn"]): world.gateway.view(live) for live in world.gateway.live.values()}
        answer = await aaa.call("sessions.abort", id=views["ims"]["diameter_session_id"], reason="a test")
        assert isinstance(answer, dict)
        assert answer["succeeded"]
        assert (await world.event("detached", "ue"))["by_peer"] is True
        await world.event("detached", "epdg")
        assert apns(world) == ["internet"]
        assert world.ue.pdn("internet").device.state.value == "established"
        assert world.ue.pdn("ims").device.state.value == "closed"
        assert await asyncio.to_thread(home.registration, USER) is not None
        assert await ping(world, "internet")

    tell(home, attached(story))


def test_what_the_hss_changes_reaches_both(home: Home) -> None:
    async def story(world: World) -> None:
        changed = tuple(replace(apn, ambr_uplink_bits=7000, ambr_downlink_bits=8000) for apn in USER.apns)
        home.hss.provision(replace(USER, apns=changed))
        for _ in range(2):
            await world.event("authorisation-renewed", "epdg")
        for live in world.gateway.live.values():
            authorisation = world.gateway.view(live)["authorisation"]
            assert isinstance(authorisation, dict)
            assert authorisation["ambr"] == {"uplink_bits": 7000, "downlink_bits": 8000}
        home.hss.provision(replace(USER, apns=tuple(apn for apn in changed if str(apn.apn) != "ims")))
        await world.event("detached", "epdg")  # its APN was taken away
        assert apns(world) == ["internet"]
        answer = await ControlClient(home.hss.control).call(
            "registrations.terminate", imsi=str(USER.imsi), reason="end"
        )
        assert isinstance(answer, dict)
        await world.event("detached", "epdg")
        assert apns(world) == []
        assert await asyncio.to_thread(home.registration, USER) is None

    tell(home, attached(story))


def test_a_ue_that_begins_anew_says_so_and_the_gateway_forgets_both(home: Home) -> None:
    """INITIAL_CONTACT: sessions that a UE has lost without a word are gone, the one it sets up second is not."""

    async def story(world: World) -> None:
        for pdn in world.ue.pdns.values():
            sa = pdn.sa
            assert sa is not None
            world.ue._swu.endpoint.close(sa, "the battery was taken out", world.ue._swu.now())
        world.ue._swu.pump()
        assert apns(world) == ["ims", "internet"]  # the gateway has heard nothing
        await world.ue.attach()
        assert apns(world) == ["internet"]
        await world.ue.attach_others()
        assert apns(world) == ["ims", "internet"]

    tell(home, attached(story))


def test_handover_asks_for_the_addresses_and_says_when_they_are_others(home: Home) -> None:
    async def story(world: World) -> None:
        session = await call(world, "ue.attach", handover=["10.45.0.77"])
        assert session["inner_addresses"] == ["10.45.0.77"]
        assert session["handover"] == {"previous": ["10.45.0.77"], "kept": True}
        session = await call(world, "ue.attach", pdn="ims", handover=["192.0.2.9"])
        assert session["inner_addresses"] != ["192.0.2.9"]
        assert session["handover"] == {"previous": ["192.0.2.9"], "kept": False}
        lost = await world.event("not-handed-over", "ue")
        assert (lost["apn"], lost["wanted"]) == ("ims", ["192.0.2.9"])
        assert await ping(world, "internet")
        assert await ping(world, "ims")
        await call(world, "ue.detach")
        session = await call(world, "ue.attach")  # none of that is remembered
        assert session["handover"] is None
        for wrong in (["10.45.0.7", "10.45.0.8"], ["2001:db8::1"], ["ten"], "10.45.0.7"):
            with pytest.raises(ControlError, match="handover"):
                await call(world, "ue.attach", pdn="ims", handover=wrong)

    tell(home, story)
