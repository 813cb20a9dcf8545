"""A UE with two PDN connections, its gateway, the AAA server and the HSS: attached, moved, ended together and alone.

::

    UE    IKE SA 1 (internet), INITIAL_CONTACT   IKE SA 2 (ims)          one USIM, the same access
    AAA   SWm session 1                          SWm session 2           one registration at the HSS
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from typer.testing import CliRunner

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.dataplane.userspace.host import FlowKind
from protocols.io.control import ControlClient, ControlError
from protocols.io.platform import Platform
from protocols.path import Address
from protocols.trace.records import Kind, TraceRecord
from tests.nodes.scripted_aaa_world import EPDG_HOST, GATEWAY, IKE_PORT, NATT_PORT, World
from tests.nodes.test_swx import Home
from tests.peers import aaa_node
from tests.peers.epdg_node import FQDN
from ue.command_line import application
from ue.pdn import Pdn
from ue.profile import software_usim
from ue.temporary import MemoryTemporaryIdentityStore

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
    return sorted(str(world.gateway.sessions.view(live)["apn"]) for live in world.gateway.sessions.live.values())


async def call(world: World, method: str, **params: Any) -> Any:
    return await ControlClient(world.ue.configuration.control).call(method, **params)


def inner(pdn: Pdn) -> tuple[Address, ...]:
    assert pdn.device.connection is not None
    return pdn.device.connection.addresses


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


def test_connection_management_goes_on_where_one_connection_is_refused(home: Home) -> None:
    async def story(world: World) -> None:
        serving = asyncio.create_task(world.ue.stay_attached())
        await world.event("attached", "ue")
        assert (await world.event("refused", "ue"))["by_peer"] is True
        await call(world, "ue.access.lost", name="a")
        assert (await world.event("moved", "ue"))["to"] == "b"
        view = (await call(world, "node.status"))["management"]
        assert (view["phase"], view["access"]) == ("attached", "b")
        assert await ping(world, "internet")
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    tell(home, story, management={"automatic": True}, additional_pdns={"voice": {"apn": "nowhere"}})


def test_connection_management_does_not_ask_again_who_has_refused_for_good(home: Home) -> None:
    """TS 24.302 §7.2.2.2: until the UE is switched off and on, on whichever access."""

    async def story(world: World) -> None:
        records = told(world)
        serving = asyncio.create_task(world.ue.stay_attached())
        assert (await world.event("refused", "ue"))["by_peer"] is True
        await world.event("no-retry", "ue")
        view = await call(world, "ue.access.hint", name="a", hint="good")
        assert view["phase"] == "detached"
        assert len([each for each in records if "IKE_SA_INIT" in names(each)]) == 2  # and its response
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    tell(home, story, apn="nowhere", management={"automatic": True}, additional_pdns={})


def test_the_next_gateway_hears_of_the_initial_contact_as_well(home: Home) -> None:
    """The SA with the gateway that does not serve is gone when the next one is asked (RFC 7296 §2.4)."""

    async def story(world: World) -> None:
        records = told(world)
        await world.ue.attach()
        identities = [names(each) for each in records if "'IDi'" in names(each) or "IDi," in names(each)]
        assert ["INITIAL_CONTACT" in each for each in identities] == [True]
        assert (await world.event("gateway-rejected", "ue"))["gateway"] == "127.0.61.99"

    ports = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
    choice = {"configured": ["127.0.61.99", GATEWAY], "configured_use": "only", "patience": 0.3}
    gateway = {**ports, "ca": "pki/ca.pem", "names": [FQDN], "selection": choice}
    tell(home, story, additional_pdns={}, gateway=gateway)


def test_one_that_the_network_ends_leaves_the_other_alone(home: Home) -> None:
    async def story(world: World) -> None:
        aaa = ControlClient(home.aaa.control)
        views = {
            str(world.gateway.sessions.view(live)["apn"]): world.gateway.sessions.view(live)
            for live in world.gateway.sessions.live.values()
        }
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
        for live in world.gateway.sessions.live.values():
            authorisation = world.gateway.sessions.view(live)["authorisation"]
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


def test_the_same_apn_twice_is_two_sessions_that_share_no_address_but_a_static_one(home: Home) -> None:
    """Our UE refuses that in its configuration; others do it (TS 24.302 does not forbid it)."""

    async def story(world: World) -> None:
        ue = world.ue
        twin = Pdn(
            ue.configuration,
            swu=ue._swu,
            platform=Platform(),
            recorder=ue.recorder,
            usim=software_usim(ue.configuration),
            temporary=MemoryTemporaryIdentityStore(),
            beside=ue.pdn(),
        )
        await ue.attach()
        await twin.attach()
        assert apns(world) == ["internet", "internet"]
        assert inner(ue.pdn()) != inner(twin)
        await twin.detach()
        assert apns(world) == ["internet"]
        assert await ping(world, "internet")
        await ue.detach()

        static = tuple(
            replace(apn, static_ipv4=IPv4Address("10.45.0.99")) for apn in USER.apns if str(apn.apn) == "internet"
        )
        home.hss.provision(replace(USER, apns=static))
        await ue.attach()
        await twin.attach()  # indistinguishable from a UE that authenticates anew: the address is the newer one's
        assert [str(each) for pdn in (ue.pdn(), twin) for each in inner(pdn)] == ["10.45.0.99"] * 2
        await twin.detach()
        assert apns(world) == ["internet"]
        assert await ping(world, "internet")  # and comes back to the older one

    tell(home, story)


def test_a_ue_that_attaches_by_itself_attaches_all_but_those_that_are_to_wait(home: Home) -> None:
    async def story(world: World) -> None:
        serving = asyncio.create_task(world.ue.stay_attached())
        for _ in range(2):
            await world.event("attached", "ue")
        assert apns(world) == ["ims", "internet"]
        assert world.ue.pdn("mms").session() is None
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving

    tell(home, story, additional_pdns={"voice": {"apn": "ims"}, "mms": {"attach": False}})


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


def test_commands_name_a_connection_and_tell_of_each(home: Home) -> None:
    async def story(world: World) -> None:
        async def ue(*words: str) -> tuple[int, str]:
            file = str(home.hss.directory / "ue.yaml")
            found = await asyncio.to_thread(CliRunner().invoke, application, [words[0], "-c", file, *words[1:]])
            return found.exit_code, found.output

        status, text = await ue("move", "--to", "b")
        assert status == 0
        assert [line.partition(" in ")[0] for line in text.splitlines()] == [
            "internet: moved from a to b",
            "ims: moved from a to b",
        ]
        assert (await ue("move", "--to", "a", "--pdn", "voice"))[1].startswith("moved from b to a")
        assert (await ue("status"))[1].count("inner address:") == 2
        status, text = await ue("move", "--to", "b")
        assert (status, text.splitlines()[0]) == (1, "internet: the UE is on b already")
        spis = {apn: world.ue.pdn(apn).child_counters()[0]["inbound_spi"] for apn in ("internet", "ims")}  # type: ignore[index, call-overload]
        assert await ue("rekey-child", "--pdn", "voice") == (0, f"rekey of {spis['ims']} begun\n")
        assert await ue("rekey-ike", "--pdn", "ims") == (0, "rekey of the IKE SA begun\n")
        assert await ue("liveness", "--pdn", "ims") == (0, "asked\n")
        assert await ue("suspend", "--pdn", "ims") == (0, "suspended\n")
        assert [bool(each["open_accesses"]) for each in world.ue.sessions()] == [True, False]
        assert (await ue("move", "--to", "b", "--pdn", "ims"))[0] == 0
        assert await ue("detach", "--pdn", "ims") == (0, "detached\n")
        assert apns(world) == ["internet"]
        status, text = await ue("connect", "--pdn", "ims", "--access", "b", "--handover", "10.46.0.99")
        assert (status, text) == (0, "ims: attached on b with 10.46.0.99\n")
        assert apns(world) == ["ims", "internet"]
        assert (await ue("connect", "--pdn", "ims"))[0] == 1
        for words, line in (
            (
                ("connect", "--access", "c"),
                "--access: got 'c', expected an access or its address; known are a, b",
            ),
            (
                ("detach", "--pdn", "mms"),
                "--pdn: got 'mms', expected a PDN connection by its APN; known are internet, ims",
            ),
            (
                ("rekey-ike", "--pdn", "mms"),
                "--pdn: got 'mms', expected a PDN connection by its APN; known are internet, ims",
            ),
            (("attach", "--handover", "ten"), "--handover: got 'ten', expected an IP address such as 10.45.0.1"),
            (
                ("attach", "--handover", "2001:db8::1"),
                "--handover: got '2001:db8::1', expected at most one address of each IP version of pdn_type",
            ),
        ):
            assert await ue(*words) == (2, f"command line: {line}\n")

    tell(home, attached(story))


def _in_a_process(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ue", *words], capture_output=True, text=True, timeout=60, check=False)


def test_the_command_attaches_all_and_asks_for_the_address_of_one(home: Home) -> None:
    async def story(world: World) -> None:
        world.ue.stop()
        words = ["attach", "-c", str(home.hss.directory / "ue.yaml"), "--ping", CORE, "--count", "1"]
        for more, said in (([], ["internet", "ims"]), (["--pdn", "ims", "--handover", "10.46.0.77"], ["ims"])):
            found = await asyncio.to_thread(_in_a_process, [*words, *more])
            assert found.returncode == 0, found.stderr
            assert re.findall(r"Attached to (\w+)", found.stdout) == said
        assert "10.46.0.77" in found.stdout

    tell(home, story)
