"""The relay of the loopback stage: once it is closed nothing that is still on its way opens a socket."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from random import Random

from lab.mobility.matching import MessageLosses
from lab.mobility.relay import Relay, RelayedLink
from lab.network.access import AccessNetwork
from lab.network.impairments import Impairments
from protocols.io.link import UdpLink
from protocols.path import Endpoint, Path

ACCESS, GATEWAY = ip_address("127.0.82.1"), ip_address("127.0.81.1")


def test_what_is_on_its_way_when_a_relay_closes_opens_no_socket_again() -> None:
    heard: list[bytes] = []

    def hear(octets: bytes, path: Path) -> None:
        heard.append(octets)

    async def main() -> None:
        late = Impairments(delay=0.05)
        access = AccessNetwork("wifi", ACCESS, uplink=late, downlink=late)
        relay = Relay(access, MessageLosses(), set(), Random(1))
        gateway = UdpLink(Endpoint(GATEWAY, 0), hear)
        ue = RelayedLink(Endpoint(ACCESS, 14500), relay.endpoint, hear)
        ue.send(b"first", gateway.local)
        await asyncio.sleep(0.3)
        assert heard == [b"first"]
        ue.send(b"second", gateway.local)
        await asyncio.sleep(0.02)  # at the relay, which holds it for 50 ms
        assert access.forwarded["outbound"] == 2
        relay.close()
        await asyncio.sleep(0.1)
        UdpLink(Endpoint(ACCESS, 14500), hear).close()  # free: nobody has opened it again
        assert heard == [b"first"]
        ue.close()
        gateway.close()

    asyncio.run(main())
