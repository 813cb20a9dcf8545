"""The first packet by a child SA: the gateway can open it from the moment that its answer leaves (RFC 7296 §2.8)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from protocols.ikev2.registry import ExchangeType
from protocols.io.link import Link, Receiver, UdpLink
from protocols.io.platform import Platform
from protocols.io.tap import NON_ESP_MARKER
from protocols.path import Endpoint
from tests.nodes.scripted_aaa_world import World

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
