"""``epdg serve`` as a process beside the real ``aaa serve``: attach, traffic, moves, refusals, bad input, ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from epdg.command_line import app
from epdg.config import EpdgConfiguration
from epdg.runtime import EpdgNode
from protocols.dataplane.userspace.host import EchoClient, FlowKind
from protocols.ikev2.endpoint import IkeEndpoint
from protocols.ikev2.events import (
    AddressesUpdated,
    ChildSaInstalled,
    ChildSaRemoved,
    Closed,
    EapRequestReceived,
    Established,
    Refused,
)
from protocols.ikev2.proposals import IkePolicy
from protocols.ikev2.registry import NotifyType
from protocols.ikev2.suites import IkeSuite
from protocols.ikev2.tasks.informational import DeleteIkeSa, Liveness
from protocols.ikev2.tasks.rekey_child import RekeyChild
from protocols.io.configuration import load
from protocols.io.control import call_sync
from protocols.io.entropy import SystemEntropy
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.secret import Secret
from protocols.threegpp.causes import PrivateNotify
from tests.harness.aka_user import AkaUser, aka_user
from tests.harness.pair import initiator_config
from tests.peers.aaa_node import AaaProcess, free_port
from tests.peers.epdg_node import CORE_HOST, EpdgProcess, Phone
from tests.peers.processes import wait_until, without_process

USER, OTHER, BARRED = (laboratory_subscriber(number) for number in (1, 2, 3))
UNKNOWN = laboratory_subscriber(99)
MANY = [laboratory_subscriber(200 + number) for number in range(40)]
REFUSED = initiator_config(ike_policy=IkePolicy((IkeSuite.of("aes256gcm16-prfsha256-modp2048"),)))
ATTACHED = "attached"
T = TypeVar("T")
A, B, C = "127.0.31.21", "127.0.31.31", "127.0.31.41"


@pytest.fixture(scope="module")
def aaa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AaaProcess]:
    node = AaaProcess(tmp_path_factory.mktemp("aaa"))
    node.provision(USER, OTHER, *MANY, replace(BARRED, non_3gpp_allowed=False))
    with node:
        yield node


@pytest.fixture(scope="module")
def epdg(aaa: AaaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpdgProcess]:
    with EpdgProcess(tmp_path_factory.mktemp("epdg"), aaa.port) as node:
        yield node


def with_phone(
    gateway: EpdgProcess, user: AkaUser, story: Callable[[Phone], Awaitable[None]], *, apn: str = "internet"
) -> None:
    async def run() -> None:
        phone = Phone(gateway, user, apn=apn)
        try:
            phone.attach(A)
            await story(phone)
        finally:
            phone.close()

    asyncio.run(run())


async def eventually(what: str, probe: Callable[[], T | None]) -> T:
    """What ``probe`` finds, asked beside the event loop."""
    return await asyncio.to_thread(wait_until, probe, timeout=10, what=what)


async def ping(phone: Phone, installed: ChildSaInstalled, kind: FlowKind = FlowKind.ICMP) -> None:
    """One echo to the host in the core and back through the tunnel."""
    source = IPv4Address(str(installed.spec.local_selectors[0].start))
    client = EchoClient(source=source, destination=IPv4Address(CORE_HOST), kind=kind, interval=1.0)
    client.start(0.0)
    client.handle_timeout(0.0)
    packet = client.poll_packet()
    assert packet is not None
    assert phone.plane.send_inner(packet)
    async with asyncio.timeout(3):
        assert client.receive(await phone.packets.get(), 0.1)


def test_attach_traffic_move_rekey_and_detach(epdg: EpdgProcess, aaa: AaaProcess) -> None:
    async def story(phone: Phone) -> None:
        up = await phone.wait(Established)
        assert up.mobike
        assert up.requests == 4  # IKE_SA_INIT, identities, EAP-AKA challenge, AUTH
        child = await phone.wait(ChildSaInstalled)
        await ping(phone, child)
        await ping(phone, child, FlowKind.UDP)
        (session,) = epdg.sessions(state="established")
        assert session["imsi"] == str(USER.imsi)
        assert session["apn"] == "internet"
        assert _aaa_sessions(aaa) == 1
        assert session["inner_addresses"] == [str(child.spec.local_selectors[0])]

        phone.leave(A)
        phone.open(B)
        phone.move(B)
        await phone.wait(AddressesUpdated)
        moved = await eventually("the move", lambda: next((s for s in epdg.sessions() if len(s["paths"]) == 2), None))
        assert [p["remote"] for p in moved["paths"]] == [f"{A}:14500", f"{B}:14500"]
        assert moved["paths"][1]["validated"] is True
        assert moved["child_sas"][0]["inbound_spi"] == session["child_sas"][0]["inbound_spi"]
        await ping(phone, child)

        phone.initiate(RekeyChild(child.spec.inbound_spi))
        rekeyed = await phone.wait(ChildSaInstalled)
        await phone.wait(ChildSaRemoved)
        await ping(phone, rekeyed)
        counters = epdg.sessions(state="established")[0]["child_sas"][0]["counters"]
        assert counters["inbound_packets"] == counters["outbound_packets"] == 1

        phone.initiate(DeleteIkeSa("done"))
        await phone.wait(Closed)

    with_phone(epdg, aka_user(USER), story)
    ended = wait_until(lambda: next(iter(epdg.sessions(state="closed")), None), timeout=10, what="the session's end")
    assert ended["inner_addresses"]
    assert epdg.call("node.status")["addresses_in_use"] == {"internet": 0}
    wait_until(lambda: _aaa_sessions(aaa) == 0 or None, timeout=10, what="STR at the AAA server")


def _aaa_sessions(aaa: AaaProcess) -> int:
    with ThreadPoolExecutor(1) as thread:  # the caller may be on an event loop
        answer = thread.submit(call_sync, aaa.control, "sessions.list").result()
    assert isinstance(answer, dict)
    sessions = answer["sessions"]
    assert isinstance(sessions, list)
    return sum(isinstance(session, dict) and session["state"] == "authenticated" for session in sessions)


@pytest.mark.parametrize(
    ("user", "apn", "notify", "words"),
    [
        (aka_user(UNKNOWN), "internet", PrivateNotify.USER_UNKNOWN, "does not know this IMSI"),
        (aka_user(USER), "nowhere", PrivateNotify.NO_APN_SUBSCRIPTION, "does not include this APN"),
        (aka_user(BARRED), "internet", PrivateNotify.NON_3GPP_ACCESS_TO_EPC_NOT_ALLOWED, "non-3GPP"),
        (aka_user(USER, k=Secret(bytes(16))), "internet", 24, "authentication rejected"),
        (aka_user(USER), "ims", PrivateNotify.PDN_CONNECTION_REJECTION, "refuses this PDN"),
    ],
)
def test_refusals_reach_the_ue_by_their_own_notify(
    epdg: EpdgProcess, user: AkaUser, apn: str, notify: int, words: str
) -> None:
    """TS 24.302 §8.1.2: the phone's user learns why, and so does the dashboard."""

    async def story(phone: Phone) -> None:
        refused = await phone.wait(Refused)
        assert refused.by_peer
        assert refused.notify is not None
        assert int(refused.notify.type) == notify
        assert words in refused.text

    with_phone(epdg, user, story, apn=apn)
    newest = wait_until(lambda: next(iter(epdg.sessions(state="closed")), None), timeout=10, what="the refused session")
    assert newest["last_error"] is not None


def test_initial_contact_ends_what_the_ue_had_before(epdg: EpdgProcess, aaa: AaaProcess) -> None:
    """RFC 7296 §2.4, G26: a phone that was switched off without a word comes back."""

    async def story(phone: Phone) -> None:
        await phone.wait(Established)
        phone.close()
        again = Phone(epdg, aka_user(USER, seq_ms=0))
        try:
            again.attach(B)
            await again.wait(Established)
            (session,) = epdg.sessions(state="established")
            assert session["paths"][0]["remote"] == f"{B}:14500"
            await eventually("STR for the former session", lambda: _aaa_sessions(aaa) == 1 or None)
            again.initiate(DeleteIkeSa("done"))
            await again.wait(Closed)
        finally:
            again.close()

    with_phone(epdg, aka_user(USER), story)


def test_forty_phones_at_once(epdg: EpdgProcess) -> None:
    """No session disturbs another: half have the wrong K."""

    async def run() -> list[str]:
        async def one(number: int) -> str:
            user = aka_user(MANY[number], k=None if number % 2 else Secret(bytes(16)))
            phone = Phone(epdg, user)
            try:
                phone.attach(f"127.0.32.{number + 1}")
                done, pending = await asyncio.wait(
                    [asyncio.create_task(phone.wait(Established)), asyncio.create_task(phone.wait(Refused))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in pending:
                    task.cancel()
                outcome = done.pop().result()
                if isinstance(outcome, Refused):
                    return outcome.text
                phone.initiate(DeleteIkeSa("done"))
                await phone.wait(Closed)
                return ATTACHED
            finally:
                phone.close()

        return await asyncio.gather(*(one(number) for number in range(40)))

    outcomes = asyncio.run(run())
    assert [outcome == ATTACHED for outcome in outcomes] == [bool(number % 2) for number in range(40)], outcomes
    assert "established" not in {session["state"] for session in epdg.sessions()}


def test_a_slow_aaa_server_is_asked_once_whatever_the_ue_repeats(epdg: EpdgProcess, aaa: AaaProcess) -> None:
    """Retransmissions of the UE (0.5 s) are absorbed while the DEA is awaited (RFC 7296 §2.1), and bridge the wait."""

    async def story(phone: Phone) -> None:
        await phone.wait(Established)
        phone.initiate(DeleteIkeSa("done"))
        await phone.wait(Closed)

    aaa.call("faults.add", rule={"name": "slow", "match": {"step": "final"}, "action": {"delay": 0.8}})
    try:
        with_phone(epdg, aka_user(USER), story)
    finally:
        rule = aaa.call("faults.remove", name="slow")
    assert (rule["matched"], rule["applied"]) == (1, 1)


def test_random_and_truncated_datagrams_are_dropped_and_counted(epdg: EpdgProcess) -> None:
    """Established sessions go on; nothing is logged as a traceback."""
    generator = random.Random(4)

    async def story(phone: Phone) -> None:
        await phone.wait(Established)
        child = await phone.wait(ChildSaInstalled)
        assert phone.sa is not None
        before = epdg.call("node.status")["dropped"]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            for number in range(400):
                octets = generator.randbytes(generator.randrange(0, 200))
                if number % 4 == 1:
                    octets = bytes(4) + octets
                if number % 4 == 2:  # a header that could be the session's
                    octets = bytes(4) + phone.sa.spi_i + phone.sa.spi_r + octets
                if number % 4 == 3:
                    octets = child.spec.outbound_spi + octets
                noise.sendto(octets, ("127.0.31.1", 15000 if number % 2 else 14500))
        phone.initiate(Liveness())
        await ping(phone, child)
        dropped = epdg.call("node.status")["dropped"]
        assert dropped["ike"]["malformed"] > before["ike"].get("malformed", 0) + 100
        assert sum(dropped["esp"].values()) > sum(before["esp"].values())
        assert len(epdg.sessions(state="established")) == 1
        phone.initiate(DeleteIkeSa("done"))
        await phone.wait(Closed)

    with_phone(epdg, aka_user(USER), story)
    assert "Traceback" not in epdg.log()


def test_forged_inner_source_is_dropped(epdg: EpdgProcess) -> None:
    """RFC 4301 §5.2: a UE sends from its own inner address only."""

    async def story(phone: Phone) -> None:
        await phone.wait(Established)
        child = await phone.wait(ChildSaInstalled)
        forger = EchoClient(
            source=IPv4Address("10.45.0.200"), destination=IPv4Address(CORE_HOST), kind=FlowKind.ICMP, interval=1.0
        )
        forger.start(0.0)
        forger.handle_timeout(0.0)
        packet = forger.poll_packet()
        assert packet is not None
        inner = phone.plane.child_sa(child.spec.inbound_spi)
        phone.plane._transmit(inner.seal(packet, 4), child.spec.path, True, 0)  # past our own selectors
        await ping(phone, child)
        counters = epdg.sessions(state="established")[0]["child_sas"][0]["counters"]
        assert counters["bad_selector"] == 1
        phone.initiate(DeleteIkeSa("done"))
        await phone.wait(Closed)

    with_phone(epdg, aka_user(USER), story)


def test_aaa_down_is_a_network_failure_and_sessions_go_on(tmp_path: Path) -> None:
    aaa_directory, epdg_directory = tmp_path / "aaa", tmp_path / "epdg"
    aaa_directory.mkdir()
    epdg_directory.mkdir()
    with AaaProcess(aaa_directory) as server:
        server.provision(USER)
        with EpdgProcess(epdg_directory, server.port, address="127.0.31.2") as gateway:

            async def story(phone: Phone) -> None:
                await phone.wait(Established)
                child = await phone.wait(ChildSaInstalled)
                server.stop(signal.SIGKILL)
                second = Phone(gateway, aka_user(OTHER))
                second.attach(C)
                refused = await second.wait(Refused)
                second.close()
                assert refused.notify is not None
                assert int(refused.notify.type) == PrivateNotify.NETWORK_FAILURE
                await ping(phone, child)

            with_phone(gateway, aka_user(USER), story)


def test_session_timeout_of_the_aaa_server(tmp_path: Path) -> None:
    """RFC 6733 §8.13: the granted time over, the UE gets DELETE and the AAA server STR."""
    aaa_directory, epdg_directory = tmp_path / "aaa", tmp_path / "epdg"
    aaa_directory.mkdir()
    epdg_directory.mkdir()
    with AaaProcess(aaa_directory, extra="sessions: {timeout: 1}\n") as server:
        server.provision(USER)
        with EpdgProcess(epdg_directory, server.port, address="127.0.31.5") as gateway:

            async def story(phone: Phone) -> None:
                await phone.wait(Established)
                assert (await phone.wait(Closed)).by_peer
                await eventually("STR", lambda: _aaa_sessions(server) == 0 or None)

            with_phone(gateway, aka_user(USER), story)
            (ended,) = gateway.sessions(state="closed")
            assert ended["session_timeout"] == 1


def test_sigterm_says_goodbye_to_everybody(tmp_path: Path, aaa: AaaProcess) -> None:
    """DELETE to UEs, STR to the AAA server, DPR to peers, exit 0."""
    with EpdgProcess(tmp_path, aaa.port, address="127.0.31.3") as gateway:

        async def story(phone: Phone) -> None:
            await phone.wait(Established)
            assert _aaa_sessions(aaa) == 1
            stopping = asyncio.create_task(asyncio.to_thread(gateway.stop))
            assert (await phone.wait(Closed)).by_peer
            assert await stopping == 0

        with_phone(gateway, aka_user(USER), story)
    assert _aaa_sessions(aaa) == 0
    assert "Traceback" not in gateway.log()
    assert not gateway.control.exists()


def test_operator_detaches_a_session(epdg: EpdgProcess) -> None:
    async def story(phone: Phone) -> None:
        await phone.wait(Established)
        (session,) = epdg.sessions(state="established")
        epdg.call("sessions.detach", id=session["id"])
        assert (await phone.wait(Closed)).by_peer

    with_phone(epdg, aka_user(USER), story)


def run_epdg(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "epdg", *map(str, words)], capture_output=True, text=True, timeout=30, check=False
    )


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    node = EpdgProcess(tmp_path, free_port(), address="127.0.31.4")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.31.4", 14500))
        result = run_epdg("serve", "-c", node.write_configuration())
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].endswith("cannot use UDP 127.0.31.4:14500: the port is in use")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind ports below 1024")
def test_low_port_without_root_is_one_line(tmp_path: Path) -> None:
    node = EpdgProcess(tmp_path, free_port(), address="127.0.31.4", ike_port=500)
    result = run_epdg("serve", "-c", node.write_configuration())
    assert result.returncode == 1
    assert "need root" in result.stderr


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        (lambda v: v["listen"].update(ike_port="x"), "listen.ike_port", "a whole number"),
        (lambda v: v["listen"].update(addresses=["nowhere"]), "listen.addresses", "address"),
        (lambda v: v["apns"]["internet"].update(pool="10.0.0.0/31"), "apns.internet", "room for at least two"),
        (lambda v: v.update(ike={"suites": ["des-md5"], "esp_suites": ["aes128gcm16"]}), "ike.suites", "aes128-sha256"),
        (lambda v: v.update(colour="blue"), "colour", "known keys are"),
        (lambda v: v.pop("diameter"), "diameter", ""),
        (lambda v: v.update(plnm=v.pop("plmn")), "plnm", "no such key (did you mean plmn?)"),
        (lambda v: v.update(default_apn="x"), "", "default_apn"),
    ],
)
def test_bad_configuration_is_one_line(
    tmp_path: Path, change: Callable[[dict[str, object]], None], key: str, expected: str
) -> None:
    node = EpdgProcess(tmp_path, free_port(), changes=change)
    result = without_process(app, "serve", "-c", node.write_configuration())
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "epdg.yaml" in line
    assert key in line
    assert expected in line


def test_certificate_that_does_not_fit_its_key_is_one_line(tmp_path: Path) -> None:
    node = EpdgProcess(tmp_path, free_port())
    path = node.write_configuration()
    other = EpdgProcess(tmp_path / "other", free_port())
    other.directory.mkdir()
    other.write_configuration()
    (tmp_path / "pki" / "gateway.key").write_bytes((other.directory / "pki" / "gateway.key").read_bytes())
    result = run_epdg("serve", "-c", path)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "expected a certificate for the key in" in result.stderr


def test_pki_init(tmp_path: Path) -> None:
    result = without_process(app, "pki", "init", tmp_path / "pki", "--mcc", "262", "--mnc", "02", "--apn", "ims")
    assert result.returncode == 0
    assert "epdg.epc.mnc002.mcc262.pub.3gppnetwork.org, ims" in result.stdout
    assert oct((tmp_path / "pki" / "gateway.key").stat().st_mode)[-3:] == "600"
    again = without_process(app, "pki", "init", tmp_path / "pki")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    for words in (("--mcc", "26"), ("--apn", "a b"), ("--name", "")):
        bad = without_process(app, "pki", "init", tmp_path / "x", *words)
        assert bad.returncode == 2
        assert len(bad.stderr.strip().splitlines()) == 1


def test_commands_of_a_gateway_that_does_not_run(tmp_path: Path) -> None:
    node = EpdgProcess(tmp_path, free_port())
    result = without_process(app, "sessions", "-c", node.write_configuration())
    assert result.returncode == 1
    assert "no node is running there" in result.stderr
    assert without_process(app, "--help").returncode == 0


def test_initial_contact_frees_the_address_and_spares_a_second_tunnel(tmp_path: Path, aaa: AaaProcess) -> None:
    """RFC 7296 §2.4: the static address is the newcomer's; a set-up of the same UE that goes on is not touched."""
    plain = laboratory_subscriber(5)
    fixed = replace(plain, apns=(replace(plain.apns[0], static_ipv4=IPv4Address("10.45.0.77")),))
    aaa.provision(fixed)
    with EpdgProcess(tmp_path, aaa.port, address="127.0.31.6") as gateway:

        async def story(phone: Phone) -> None:
            await phone.wait(Established)
            phone.close()
            second, again = Phone(gateway, aka_user(fixed, seq_ms=1)), Phone(gateway, aka_user(fixed, seq_ms=2))
            try:
                second.attach(B)
                await second.wait(EapRequestReceived)
                second.close()
                again.attach(C)
                child = await again.wait(ChildSaInstalled)
                assert str(child.spec.local_selectors[0]) == "10.45.0.77"
                assert len(gateway.sessions(state="established")) == 1
                assert len(gateway.sessions(state="attaching")) == 1
            finally:
                again.close()

        with_phone(gateway, aka_user(fixed), story)


def test_sessions_that_come_to_nothing_are_forgotten(tmp_path: Path) -> None:
    """Anybody can send IKE_SA_INIT: what is kept for one attempt is gone when it has been refused."""
    settings = EpdgProcess(tmp_path, free_port(), address="127.0.31.7").write_configuration()

    async def story() -> None:
        node = EpdgNode(load(settings, EpdgConfiguration))
        serving = asyncio.create_task(node.run())
        try:
            await eventually("the node's ports", lambda: len(node.swu.ports.local_endpoints) == 2 or None)
            stranger = IkeEndpoint(entropy=SystemEntropy())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(20):
                    path = NetworkPath(Endpoint.of("127.0.0.1", 500), Endpoint.of("127.0.31.7", 15000))
                    stranger.connect(REFUSED, path, 0.0)
                    datagram = stranger.poll_transmit()
                    assert datagram is not None
                    sender.sendto(datagram.payload, ("127.0.31.7", 15000))
            await eventually("the attempts", lambda: node.tally.totals["sessions"] == 20 or None)
            assert node.sessions.live == {}
            assert node.swm._sessions == {}
        finally:
            node.stop()
            await serving

    asyncio.run(story())


def test_addresses_by_turn_until_none_is_left_and_the_same_one_on_return(tmp_path: Path, aaa: AaaProcess) -> None:
    """Two pools with room for two UEs; INTERNAL_ADDRESS_FAILURE for a third (RFC 7296 §3.15.4)."""

    def changes(values: dict[str, object]) -> None:
        pools, excluded = ["10.45.0.0/30", "10.48.0.0/29"], ["10.48.0.2-10.48.0.5"]
        values["apns"] = {"internet": {"pool": pools, "excluded": excluded, "stable_addresses": True}}

    users = {"one": MANY[30], "two": MANY[31], "three": MANY[32]}

    async def attach(gateway: EpdgProcess, name: str, address: str, seq_ms: int = 8) -> Phone:
        phone = Phone(gateway, aka_user(users[name], seq_ms=seq_ms))
        phone.attach(address)
        return phone

    async def inner(phone: Phone) -> str:
        child = await phone.wait(ChildSaInstalled)
        return str(child.spec.local_selectors[0])

    async def detach(phone: Phone) -> None:
        phone.initiate(DeleteIkeSa("done"))
        await phone.wait(Closed)
        phone.close()

    async def story(gateway: EpdgProcess) -> None:
        one, two = await attach(gateway, "one", A), await attach(gateway, "two", B)
        first, second = await inner(one), await inner(two)
        assert {first, second} == {"10.45.0.2", "10.48.0.6"}
        three = await attach(gateway, "three", C)
        refusal = await three.wait(Refused)
        assert refusal.notify is not None
        assert refusal.notify.type == NotifyType.INTERNAL_ADDRESS_FAILURE
        three.close()
        await detach(one)
        await detach(two)
        two = await attach(gateway, "two", A, 9)
        assert await inner(two) == second
        one = await attach(gateway, "one", B, 9)
        assert await inner(one) == first
        await detach(one)
        await detach(two)

    with EpdgProcess(tmp_path, aaa.port, address="127.0.31.8", changes=changes) as gateway:
        asyncio.run(story(gateway))
