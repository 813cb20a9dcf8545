"""Emergency sessions over all nodes: with a USIM and without one, as policies of AAA server and gateway say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.errors import StackError
from protocols.trace.records import JsonValue
from tests.nodes.scripted_aaa_world import EPDG_HOST, World
from tests.peers import aaa_node
from tests.peers.aaa_node import AaaProcess

IMEI = "490154203237518"
USER = replace(laboratory_subscriber(1), enabled=False)  # barred
WITHOUT_USIM = {"apn": "sos", "eap": {"emergency": True}, "usim": None, "imei": IMEI}
Story = Callable[[World], Awaitable[None]]


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    process = AaaProcess(tmp_path_factory.mktemp("aaa"), extra="emergency: {apn: sos, unauthenticated: allow}\n")
    process.provision(USER)
    with process:
        yield process


def sessions(aaa: AaaProcess) -> list[dict[str, JsonValue]]:
    """Those of the AAA server."""
    listed = aaa.call("sessions.list", state="authenticated")["sessions"]
    assert isinstance(listed, list)
    return [dict(session) for session in listed if isinstance(session, dict)]


def tell(aaa: AaaProcess, story: Story, *, ue: dict[str, object], policy: str = "allow") -> None:
    """A gateway whose AAA server is the process, and a UE."""

    async def run() -> None:
        peer = {"host": aaa_node.HOST, "address": "127.0.0.1", "port": aaa.port}
        gateway: dict[str, object] = {
            "diameter": {"host": EPDG_HOST, "realm": aaa_node.REALM, "peers": [peer]},
            "emergency": {"apn": "sos", "unauthenticated": policy},
        }
        world = World(aaa.directory, gateway=gateway, ue=ue)
        world.servers = ()
        async with world:
            await world.event("peer-up", "epdg")
            await story(world)

    asyncio.run(run())


def test_a_ue_without_a_usim_attaches(aaa: AaaProcess) -> None:
    """TS 33.402 §13.3: EAP-Success at once, AUTH by the MSK of the IMEI."""

    async def story(world: World) -> None:
        await world.ue.attach()
        attached = await world.event("attached", "ue")
        assert attached["eap"] == {"method": "none", "kind": "full", "identity": f"imei{IMEI}@sos.invalid"}
        assert str(world.at_ue["inner_addresses"]).startswith("['10.47.0.")
        session = world.session
        assert (session["emergency"], session["imsi"], session["device_identity"]) == (True, None, IMEI)
        (held,) = await asyncio.to_thread(sessions, aaa)
        assert (held["state"], held["imsi"], held["apn"], held["imei"]) == ("authenticated", None, "sos", IMEI)
        await world.ue.detach()

    tell(aaa, story, ue=WITHOUT_USIM)
    assert not sessions(aaa)


def test_a_barred_user_attaches_in_an_emergency_only(aaa: AaaProcess) -> None:
    async def story(world: World) -> None:
        await world.ue.attach()
        authorisation = world.session["authorisation"]
        assert isinstance(authorisation, dict)
        assert (authorisation["apn"], authorisation["qos"]["qci"]) == ("sos", 5)

    async def refused(world: World) -> None:
        with pytest.raises(StackError, match="AUTHORIZATION_REJECTED"):
            await world.ue.attach()

    tell(aaa, story, ue={"apn": "sos", "eap": {"emergency": True}})
    tell(aaa, refused, ue={})


@pytest.mark.parametrize("refusing", ["epdg", "aaa"])
def test_who_is_not_admitted_is_told_so(refusing: str, aaa: AaaProcess, tmp_path: Path) -> None:
    """UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED (TS 24.302 §8.1.2.2), whoever refuses."""

    async def story(world: World) -> None:
        with pytest.raises(StackError, match="UNAUTHENTICATED_EMERGENCY_NOT_SUPPORTED 11055"):
            await world.ue.attach()

    if refusing == "epdg":
        tell(aaa, story, ue=WITHOUT_USIM, policy="refuse")
        return
    with AaaProcess(tmp_path, extra="emergency: {apn: sos}\n") as strict:
        tell(strict, story, ue=WITHOUT_USIM)
