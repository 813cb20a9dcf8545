"""The wire of the stage of namespaces, between real sockets: ESP without UDP, checksums, bundles, IPv6."""

from __future__ import annotations

import socket

import pytest
from pyroute2 import IPRoute

from protocols.path import Endpoint
from tests.machines.test_mobility_frames import frame_of
from tests.peers.access_ends import GATEWAYS, OUTSIDE, UE, Ends, nothing, on, on_network, received, send

pytestmark = pytest.mark.root

UE6, GATEWAY6 = "fd77:1::2", "fd77::1"
IPV6 = """
title: One access of IPv6
duration: 10
accesses: {wifi: {family: ipv6, up: {mtu: 1300}}}
gateway: {addresses: {one: ipv6, two: ipv6}}
events: [{at: 0, do: attach}]
"""


@pytest.mark.parametrize("kind", ["none", "symmetric"])
def test_esp_without_udp_passes_where_nothing_translates_it(kind: str) -> None:
    async def story(made: Ends) -> None:
        ue = made.ue(0, socket.SOCK_RAW, socket.IPPROTO_ESP)
        gateway = made.gateway(GATEWAYS[0], 0, socket.SOCK_RAW, socket.IPPROTO_ESP)
        beside = made.ue(), made.gateway(GATEWAYS[0])
        await send(ue, b"spi and more octets", (GATEWAYS[0], 0))
        await send(beside[0], b"behind it", (GATEWAYS[0], 4500))
        _, seen = await received(beside[1])
        wire = made.topology.accesses["wifi"].wire
        if kind == "none":
            octets, source = await received(gateway)
            assert octets[20:] == b"spi and more octets"
            assert source[0] == UE
            await send(gateway, b"and back", (UE, 0))
            assert (await received(ue))[0][20:] == b"and back"
            assert not wire.dropped
        else:
            assert await nothing(gateway)
            assert wire.dropped == {"untranslatable": 1}

    on(kind, story)


def test_a_checksum_that_is_whole_is_right_behind_a_nat() -> None:
    """From a raw socket, so that the kernel neither makes it nor trusts it."""

    async def story(made: Ends) -> None:
        gateway = made.gateway(GATEWAYS[0])
        raw = made.ue(0, socket.SOCK_RAW, socket.IPPROTO_RAW)
        packet = frame_of(Endpoint.of(UE, 4500), Endpoint.of(GATEWAYS[0], 4500), b"its sum is right")[24:]
        wrong = bytearray(frame_of(Endpoint.of(UE, 4500), Endpoint.of(GATEWAYS[0], 4500), b"its sum is wrong")[24:])
        wrong[26] ^= 1
        await send(raw, bytes(wrong), (GATEWAYS[0], 0))
        await send(raw, packet, (GATEWAYS[0], 0))
        octets, source = await received(gateway)
        assert octets == b"its sum is right"
        assert source[0] == OUTSIDE

    on("full-cone", story)


def test_bundles_of_datagrams_come_one_by_one() -> None:
    """UDP_SEGMENT leaves it to the device to cut them, and a wire is none that can."""

    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAYS[0])
        ue.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
        await send(ue, b"a" * 100 + b"b" * 100 + b"c" * 50, (GATEWAYS[0], 4500))
        found = [(await received(gateway))[0] for _ in range(3)]
        assert found == [b"a" * 100, b"b" * 100, b"c" * 50]

    on("port-restricted", story)


def test_an_address_of_the_gateway_that_is_down_is_not_reached() -> None:
    async def story(made: Ends) -> None:
        ue, gateways = made.ue(), [made.gateway(address) for address in GATEWAYS]
        await made.topology.gateway("one", False)
        await send(ue, b"to the one", (GATEWAYS[0], 4500))
        await send(ue, b"to the other", (GATEWAYS[1], 4500))
        assert (await received(gateways[1]))[0] == b"to the other"
        assert made.topology.accesses["wifi"].wire.dropped == {"gateway-down": 1}  # it went before
        await made.topology.gateway("one", True)
        await send(ue, b"again", (GATEWAYS[0], 4500))
        assert (await received(gateways[0]))[0] == b"again"

    on("none", story)


def test_ipv6_passes_in_udp_and_as_esp_and_the_gateways_address_can_be_down() -> None:
    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAY6)
        other = made.gateway("fd77::2")
        wire = made.topology.accesses["wifi"].wire
        await send(ue, b"hello", (GATEWAY6, 4500))
        assert await received(gateway) == (b"hello", (UE6, 4500))
        await send(gateway, b"back", (UE6, 4500))
        assert await received(ue) == (b"back", (GATEWAY6, 4500))
        raw = made.ue(0, socket.SOCK_RAW, socket.IPPROTO_ESP), made.gateway(GATEWAY6, 0, socket.SOCK_RAW, 50)
        await send(raw[0], b"spi and more octets", (GATEWAY6, 0))
        assert await received(raw[1]) == (b"spi and more octets", (UE6, 0))
        assert not wire.dropped
        await made.topology.gateway("one", False)
        await send(raw[0], b"into the void", (GATEWAY6, 0))
        await send(ue, b"into the void", (GATEWAY6, 4500))
        await send(ue, b"to the other", ("fd77::2", 4500))
        assert (await received(other))[0] == b"to the other"
        assert wire.dropped == {"gateway-down": 2}

    on_network(IPV6, story)


def test_bundles_and_long_datagrams_over_ipv6() -> None:
    """Of 1300 octets, 40 are of IPv6 and 8 of UDP."""

    async def story(made: Ends) -> None:
        ue, gateway = made.ue(), made.gateway(GATEWAY6)
        await send(ue, bytes(1253), (GATEWAY6, 4500))
        await send(ue, bytes(1252), (GATEWAY6, 4500))
        assert len((await received(gateway))[0]) == 1252
        assert made.topology.accesses["wifi"].wire.access.dropped == {"outbound-too-long": 1}
        ue.setsockopt(socket.IPPROTO_UDP, 103, 100)  # UDP_SEGMENT
        await send(ue, b"a" * 100 + b"b" * 50, (GATEWAY6, 4500))
        assert [(await received(gateway))[0] for _ in range(2)] == [b"a" * 100, b"b" * 50]

    on_network(IPV6, story)


def test_an_address_of_ipv6_that_comes_again_is_reached_at_once() -> None:
    """No duplicate address detection, and no route is left over (RFC 4862 §5.4)."""

    async def story(made: Ends) -> None:
        gateway = made.gateway(GATEWAY6)
        for turn in range(2):
            with made.ue() as ue:
                await send(ue, b"%d" % turn, (GATEWAY6, 4500))
                assert await received(gateway) == (b"%d" % turn, (UE6, 4500))
            await made.topology.present("wifi", False)
            assert made.topology.ue.call(default_routes) == 0
            await made.topology.present("wifi", True)
            assert made.topology.ue.call(default_routes) == 1

    on_network(IPV6, story)


def default_routes() -> int:
    """In the main table."""
    with IPRoute() as route:
        found = route.get_routes(family=socket.AF_INET6)
        return sum(not each["dst_len"] and each.get_attr("RTA_TABLE") == 254 for each in found)
