"""The first packets by a child SA: each end may send as soon as the answer that grants it has left or come (RFC 7296).

§2.8: the gateway MUST be able to open them before it answers; its own may come while the UE's device is being made.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from lab.namespaces import Namespace
from lab.processes import poll_until
from protocols.ikev2.registry import ExchangeType
from protocols.io.link import Link, Receiver, UdpLink
from protocols.io.platform import Platform
from protocols.io.tap import NON_ESP_MARKER
from protocols.ip import ICMP, IcmpEcho, IpPacket
from protocols.path import Endpoint
from protocols.trace.records import Kind, TraceRecord
from tests.nodes.scripted_aaa_world import World
from tests.peers.namespaces import require_namespaces
from ue.tunnel import EARLY_MAXIMUM

CORE, INNER = ip_address("10.45.0.1"), ip_address("10.45.0.2")
IN_PYTHON = {"kind": "tun", "device": "ue0", "routes": [f"{CORE}/32"], "backend": "python"}
EXCHANGE_TYPE = len(NON_ESP_MARKER) + 18  # its octet, RFC 7296 §3.1


def test_the_gateway_has_the_child_sa_when_its_answer_leaves(tmp_path: Path) -> None:
    """At an attach the last answer of IKE_AUTH, at a rekey by the UE that of CREATE_CHILD_SA."""
    installed: list[int] = []  # at the gateway when each answer left
    rekeyed = asyncio.Event()

    class Watched(UdpLink):
        def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
            exchange = octets[EXCHANGE_TYPE] if octets.startswith(NON_ESP_MARKER) else None
            if exchange in (ExchangeType.IKE_AUTH, ExchangeType.CREATE_CHILD_SA):
                installed.append(len(world.gateway.child_sas.data_plane.installed))
            if exchange == ExchangeType.CREATE_CHILD_SA:
                rekeyed.set()
            super().send(octets, remote, traffic_class)

    def open_link(local: Endpoint, receive: Receiver) -> Link:
        return Watched(local, receive)

    world = World(tmp_path, platform=Platform(open_link=open_link))

    async def body() -> None:
        async with world:
            await world.ue.attach()
            *before, last = installed
            assert (set(before), last) == ({0}, 1)
            world.ue.pdn().rekey_child()
            async with asyncio.timeout(5.0):
                await rekeyed.wait()
            assert installed[-1] == 2

    asyncio.run(body())


def echo(number: int) -> bytes:
    """A request from behind the gateway to the UE's inner address."""
    payload = IcmpEcho(request=True, identifier=7, sequence=number, data=b"early").encode(CORE, INNER)
    return IpPacket(source=CORE, destination=INNER, protocol=ICMP, payload=payload).encode()


@pytest.mark.root
@pytest.mark.parametrize(("sent", "refused"), [(10, 0), (EARLY_MAXIMUM + 5, 5)])
def test_what_comes_before_the_device_is_there_is_kept_for_it(tmp_path: Path, sent: int, refused: int) -> None:
    """The first ones, all others are counted."""

    async def body() -> None:
        core = {"kind": "in-process", "hosts": [str(CORE)]}
        world = World(tmp_path, gateway={"data_plane": core}, ue={"data_plane": IN_PYTHON})
        async with world:

            def send(record: TraceRecord) -> None:
                if record.kind is Kind.STATE and record.body["new"] == "established":
                    plane = world.gateway.child_sas.data_plane
                    assert all(plane.send_inner(echo(number)) for number in range(sent))

            world.ue.recorder.subscribe(send)
            await world.ue.attach()
            (spi,) = world.gateway.child_sas.data_plane.installed

            async def answered() -> bool | None:
                """Each one that the UE's kernel has had came back."""
                counters = world.gateway.child_sas.counters(spi)
                return (counters is not None and counters.inbound_packets == sent - refused) or None

            await poll_until(answered, what="the answers of the UE's kernel", interval=5.0)
            assert world.ue.pdn().tunnel.refused == refused

    require_namespaces()
    with Namespace("early") as namespace:
        namespace.call(lambda: asyncio.run(body()))
