"""``ue`` moves behind a NAT and out again: the gateway sees the hop's address, inner address and SPIs stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from aaa.subscribers.laboratory import laboratory_subscriber
from protocols.io.control import ControlClient
from protocols.io.nat import UdpNat
from tests.nodes.test_ue_node import GATEWAY, IKE_PORT, NATT_PORT, TIMEOUT, Ue, gateway_remote, section
from tests.peers.aaa_node import AaaProcess
from tests.peers.epdg_node import CORE_HOST, EpdgProcess

USER = laboratory_subscriber(1)
HOP, OUTSIDE = "127.0.41.254", "127.0.41.61"
INSIDE, OPEN = "127.0.41.51", "127.0.41.21"


@pytest.fixture
def epdg(tmp_path: Path) -> Iterator[EpdgProcess]:
    place = tmp_path / "core"
    place.mkdir()
    aaa = AaaProcess(place)
    aaa.provision(USER)
    with aaa, EpdgProcess(place, aaa.port, address=GATEWAY) as node:
        yield node


def _with_a_nat(values: dict[str, object]) -> None:
    ports = {"ike_port": IKE_PORT, "nat_traversal_port": NATT_PORT}
    values["accesses"] = {
        "open": {"address": OPEN, **ports},
        "inside": {"address": INSIDE, "next_hop": HOP, **ports},
    }
    values["force_encapsulation"] = False  # NAT detection is to tell the truth


def test_into_a_nat_and_out_again(epdg: EpdgProcess, tmp_path: Path) -> None:
    ue = Ue(tmp_path, epdg.authority, change=_with_a_nat)
    client = ControlClient(ue.control)

    async def story() -> None:
        nat = UdpNat(
            inside=ip_address(HOP),
            outside=ip_address(OUTSIDE),
            server=ip_address(GATEWAY),
            ports=(IKE_PORT, NATT_PORT),
        )
        try:
            up = await _call(client, "ue.attach", access="open")
            assert section(section(up, "ike"), "nat")["local"] is False
            moved = section(await _call(client, "ue.move", to="inside"), "move")
            assert section(moved, "nat")["local"] is True
            assert moved["inner_address_unchanged"] is True
            assert moved["spis_unchanged"] is True
            remote = await asyncio.to_thread(gateway_remote, epdg)
            address, _, port = remote.rpartition(":")
            assert address == OUTSIDE
            assert int(port) != NATT_PORT
            await _call(client, "ue.traffic.start", kind="icmp", destination=CORE_HOST, rate=50)
            async with asyncio.timeout(TIMEOUT):
                while (await _call(client, "ue.traffic.statistics"))["received"] == 0:
                    pass
            back = section(await _call(client, "ue.move", to="open"), "move")
            assert section(back, "nat")["local"] is False
            assert await asyncio.to_thread(gateway_remote, epdg) == f"{OPEN}:{NATT_PORT}"
        finally:
            nat.close()

    with ue.node("run"):
        asyncio.run(story())


async def _call(client: ControlClient, method: str, **params: str | int) -> dict[str, object]:
    answer = await client.call(method, **params)
    assert isinstance(answer, dict)
    return dict(answer)
