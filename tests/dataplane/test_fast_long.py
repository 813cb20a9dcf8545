"""Inner packets that the path does not carry in one piece (RFC 4301 §8.2.1), on the fast path between kernels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from protocols.esp.packet import inner_mtu
from tests.dataplane.fast_ends import Pair, ends, inner_address, octets, transfer, until
from tests.peers.namespaces import require_namespaces

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

pytestmark = pytest.mark.root
OUTER_MTU = 1360
UDP_SEGMENT = 103  # <linux/udp.h>
DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # IP_MTU_DISCOVER, IPV6_MTU_DISCOVER
DONT, DO = 0, 2
PATH_MTU = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}  # IP_MTU, IPV6_MTU
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def narrow(pair: Pair) -> int:
    """Both ends hear of a path MTU; the longest inner packet that goes in one piece."""
    for end in (pair.ue, pair.gateway):
        end.outer_mtu = OUTER_MTU
        end.plane.ask_path_mtus()
    return inner_mtu(pair.spec.suite, OUTER_MTU, outer_version=4, encapsulation=True)


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_hears_of_the_path_mtu(version: int) -> None:
    """Its super-packets are too long, at first; from the answer on nothing is."""

    async def body() -> None:
        async with ends() as pair:
            address = inner_address("host", version)
            mtu = narrow(pair)
            assert await asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 2_000_000, write=lambda _: 1 << 18)
            answers, spi = len(pair.ue.delivered), pair.spec.inbound_spi
            assert 0 < answers < 20
            too_big = pair.ue.plane.counters(spi).too_big
            assert too_big >= answers
            assert await asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 200_000, write=lambda _: 1 << 16)
            assert pair.ue.plane.counters(spi).too_big == too_big
            with pair.ue.socket(FAMILIES[version], socket.SOCK_DGRAM) as client:
                client.connect((str(address), 7))
                assert client.getsockopt(*PATH_MTU[version]) == mtu
            pair.check_sums()

    asyncio.run(body())


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_that_may_not_be_fragmented_is_answered(version: int) -> None:
    async def body() -> None:
        async with ends() as pair:
            mtu = narrow(pair)
            with pair.ue.socket(FAMILIES[version], socket.SOCK_DGRAM) as client:
                client.setsockopt(*DISCOVER[version], DO)
                client.connect((str(inner_address("host", version)), 7))
                client.send(bytes(1340))
                await until(lambda: client.getsockopt(*PATH_MTU[version]) == mtu, "the answer")
                with pytest.raises(OSError, match="Message too long"):
                    client.send(bytes(1340))
            assert pair.ue.counters.long == 1
            assert pair.ue.plane.counters(pair.spec.inbound_spi).too_big == 1
            pair.check_sums()

    asyncio.run(body())


def test_datagrams_that_may_be_fragmented_arrive_whole() -> None:
    """One by one, and in a super-packet of the sender's."""

    async def body() -> None:
        async with ends() as pair:
            mtu = narrow(pair)
            address = (str(inner_address("host", 4)), 4999)
            with (
                pair.gateway.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
                pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            ):
                server.bind(address)
                client.setsockopt(*DISCOVER[4], DONT)
                lengths = [mtu - 28, mtu - 27, 1340, 1372]
                for seed, length in enumerate(lengths):
                    client.sendto(octets(length, seed), address)
                    assert await asyncio.to_thread(server.recv, 65535) == octets(length, seed)
                assert pair.ue.plane.counters(pair.spec.inbound_spi).fragmented == 3
                assert pair.ue.counters.long == 3

                sent = octets(1340 * 12 + 100, 9)
                segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1340))]
                client.sendmsg([sent], segments, 0, address)
                with contextlib.closing(server):
                    came = [await asyncio.to_thread(server.recv, 65535) for _ in range(13)]
                assert sorted(came) == sorted(sent[at : at + 1340] for at in range(0, len(sent), 1340))
            assert pair.ue.plane.counters(pair.spec.inbound_spi).fragmented == 15
            assert pair.ue.delivered == []
            pair.check_sums()

    asyncio.run(body())
