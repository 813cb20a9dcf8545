"""A gateway with two addresses as a process, a UE beside it: one is lost with and without a word, or preferred."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from protocols.dataplane.userspace.host import EchoClient, FlowKind
from protocols.ikev2.events import ChildSaInstalled
from protocols.io.control import ControlError, call_sync
from protocols.path import Endpoint
from protocols.path import Path as NetworkPath
from protocols.trace.records import JsonValue
from tests.harness.aka_user import aka_user
from tests.nodes.test_ue_node import ADDRESSES, GATEWAY, IKE_PORT, NATT_PORT, USER, Ue, section, session
from tests.nodes.test_ue_node import aaa as aaa
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess, Phone
from tests.peers.processes import wait_until

FIRST, SECOND = GATEWAY, "127.0.41.2"


def two_addresses(values: dict[str, object]) -> None:
    values["listen"] = {"addresses": [FIRST, SECOND], "ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}


@pytest.fixture
def epdg(aaa: AaaProcess, tmp_path: Path) -> Iterator[EpdgProcess]:
    directory = tmp_path / "epdg"
    directory.mkdir()
    with EpdgProcess(directory, aaa.port, address=GATEWAY, changes=two_addresses) as node:
        yield node


@pytest.fixture
def ue(epdg: EpdgProcess, tmp_path: Path) -> Iterator[Ue]:
    def patient(values: dict[str, object]) -> None:
        values["retransmission"] = {"base_interval": 0.5, "limit": 5}

    with Ue(tmp_path, epdg.authority, change=patient).node("attach", state="established") as node:
        node.call("ue.traffic.start", destination=CORE_HOST, rate=20)
        yield node


def at(ue: Ue) -> tuple[str, str]:
    path = section(section(session(ue), "ike"), "path")
    return str(path["local"]), str(path["remote"])


def until_at(ue: Ue, local: str, remote: str) -> None:
    wanted = (f"{local}:{NATT_PORT}", f"{remote}:{NATT_PORT}")
    wait_until(lambda: at(ue) == wanted, timeout=10, what=f"the UE between {wanted}, it is between {at(ue)}")


def answered(ue: Ue) -> int:
    flows = ue.call("ue.status")["traffic"]
    assert isinstance(flows, list)
    assert isinstance(flows[0], dict)
    received = flows[0]["received"]
    assert isinstance(received, int)
    return received


def flows_on(ue: Ue) -> None:
    before = answered(ue)
    wait_until(lambda: answered(ue) > before + 5, timeout=10, what="traffic")


def test_announced_loss_return_and_preference(epdg: EpdgProcess, ue: Ue) -> None:
    a = ADDRESSES["wifi-a"]
    flows_on(ue)
    call_sync(epdg.control, "addresses.withdraw", address=FIRST)
    until_at(ue, a, SECOND)
    flows_on(ue)
    listed: JsonValue = call_sync(epdg.control, "addresses.restore", address=FIRST)
    assert listed == {
        "addresses": [
            {"address": FIRST, "present": True, "configured": True},
            {"address": SECOND, "present": True, "configured": True},
        ]
    }
    (one,) = epdg.sessions(state="established")
    call_sync(epdg.control, "addresses.prefer", address=FIRST, id=one["id"])
    until_at(ue, a, FIRST)
    flows_on(ue)
    assert one["child_sas"][0]["inbound_spi"] == epdg.sessions(state="established")[0]["child_sas"][0]["inbound_spi"]


def test_silent_loss_is_recovered_within_three_seconds(epdg: EpdgProcess, ue: Ue) -> None:
    flows_on(ue)
    call_sync(epdg.control, "addresses.withdraw", address=FIRST, silently=True)
    start = time.monotonic()
    until_at(ue, ADDRESSES["wifi-a"], SECOND)
    flows_on(ue)
    assert time.monotonic() - start < 6.0  # three seconds of virtual time in tests/machines; the machine here is busy
    names = [record.body.get("name") for record in ue.records()]
    assert "path-suspected" in names


def test_esp_of_a_ue_behind_a_nat_is_followed(epdg: EpdgProcess) -> None:
    """RFC 4555 §3.8: a mapping changes and ESP alone shows it; the answers go where it came from, IKE stays."""
    other = "127.0.41.77"

    async def story() -> None:
        phone = Phone(epdg, aka_user(USER))
        phone.config = replace(phone.config, force_encapsulation=True)  # to the gateway it is behind a NAT
        try:
            phone.attach(ADDRESSES["wifi-b"])
            child = await phone.wait(ChildSaInstalled)
            await echo(phone, child)
            phone.open(other)
            phone.leave(ADDRESSES["wifi-b"])
            moved = NetworkPath(Endpoint.of(other, NATT_PORT), child.spec.path.remote)
            phone.plane.update_path(child.spec.inbound_spi, moved, True)
            with contextlib.suppress(TimeoutError):
                await echo(phone, child)  # its answer was on the way before the gateway had noticed
            await echo(phone, child)
        finally:
            phone.close()

    asyncio.run(story())
    (one,) = epdg.sessions(state="established")
    assert section(section(one, "ike"), "path")["remote"] == f"{ADDRESSES['wifi-b']}:{NATT_PORT}"


async def echo(phone: Phone, installed: ChildSaInstalled) -> None:
    """One echo to the host in the core and back through the tunnel."""
    source = IPv4Address(str(installed.spec.local_selectors[0].start))
    client = EchoClient(source=source, destination=IPv4Address(CORE_HOST), kind=FlowKind.ICMP, interval=1.0)
    client.start(0.0)
    client.handle_timeout(0.0)
    packet = client.poll_packet()
    assert packet is not None
    assert phone.plane.send_inner(packet)
    async with asyncio.timeout(3):
        assert client.receive(await phone.packets.get(), 0.1)


def test_the_last_address_stays(epdg: EpdgProcess) -> None:
    call_sync(epdg.control, "addresses.withdraw", address=FIRST)
    for method, params, words in (
        ("addresses.withdraw", {"address": SECOND}, "last address"),
        ("addresses.prefer", {"address": FIRST}, "has lost"),
        ("addresses.withdraw", {"address": "192.0.2.9"}, "none of"),
        ("addresses.withdraw", {"address": 7}, "IP address"),
        ("addresses.prefer", {"address": SECOND, "id": "nobody"}, "no session"),
    ):
        with contextlib.ExitStack() as stack:
            refused = stack.enter_context(pytest.raises(ControlError))
            call_sync(epdg.control, method, **params)
        assert words in str(refused.value)


def commanded(epdg: EpdgProcess, *words: str) -> str:
    """What a command of the operator's prints."""
    command = [sys.executable, "-m", "epdg", *words, "-c", str(epdg.configuration)]
    return subprocess.run(command, check=True, timeout=30, capture_output=True, text=True).stdout


def test_the_operators_commands(epdg: EpdgProcess, ue: Ue) -> None:
    third = "127.0.41.3"
    (one,) = epdg.sessions(state="established")
    for command in ("liveness", "check-path"):
        assert f"{ADDRESSES['wifi-a']}:{NATT_PORT} answered after 0." in commanded(epdg, command, str(one["id"]))
    assert commanded(epdg, "addresses", "--add", third) == f"{FIRST}\n{SECOND}\n{third}  (added)\n"
    with pytest.raises(ControlError, match=r"192\.0\.2\.9"):
        call_sync(epdg.control, "addresses.add", address="192.0.2.9")
    assert commanded(epdg, "addresses", "--remove", third) == f"{FIRST}\n{SECOND}\n"
    commanded(epdg, "detach", str(one["id"]), "--cause", "reactivate")

    def back() -> bool:
        return [each["id"] for each in epdg.sessions(state="established")] not in ([], [one["id"]])

    wait_until(back, timeout=10, what="another session of the UE")
