"""The address-translating hop: mappings, filtering, expiry, over loopback sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from lab.processes import poll_until
from protocols.errors import BackendError
from protocols.io.link import NextHopLink, UdpLink
from protocols.io.nat import UdpNat
from protocols.path import Endpoint, Path

INSIDE = IPv4Address("127.0.55.1")
HOP = IPv4Address("127.0.55.254")
OUTSIDE = IPv4Address("127.0.56.1")
SERVER = IPv4Address("127.0.57.1")
STRANGER = IPv4Address("127.0.58.1")
MAPPINGS = 3
PATIENCE = 10.0


class Host:
    """A socket that keeps what arrives."""

    def __init__(self, address: IPv4Address, port: int = 0, *, hop: IPv4Address | None = None) -> None:
        self.received: asyncio.Queue[tuple[bytes, Path]] = asyncio.Queue()
        local = Endpoint(address, port)
        self.link: UdpLink | NextHopLink
        if hop is None:
            self.link = UdpLink(local, self._take)
        else:
            self.link = NextHopLink(lambda receive: UdpLink(local, receive), hop, self._take)

    def _take(self, octets: bytes, path: Path) -> None:
        self.received.put_nowait((octets, path))

    @property
    def local(self) -> Endpoint:
        return self.link.local

    async def get(self) -> tuple[bytes, Endpoint]:
        """What arrives next, and from whom."""
        octets, path = await asyncio.wait_for(self.received.get(), PATIENCE)
        return octets, path.remote


class Network:
    """A server with two ports, a hop before it, a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.servers = (Host(SERVER), Host(SERVER))
        self.hop = UdpNat(
            inside=HOP,
            outside=OUTSIDE,
            server=SERVER,
            ports=[server.local.port for server in self.servers],
            idle_interval=60.0,
            mappings_maximum=MAPPINGS,
            monotonic=lambda: self.now,
        )
        self.hosts: list[Host] = []

    def host(self) -> Host:
        host = Host(INSIDE, hop=HOP)
        self.hosts.append(host)
        return host

    def close(self) -> None:
        self.hop.close()
        for host in (*self.servers, *self.hosts):
            host.link.close()


def run(scenario: Callable[[Network], Awaitable[None]]) -> None:
    async def whole() -> None:
        network = Network()
        try:
            await scenario(network)
        finally:
            network.close()

    asyncio.run(whole())


def test_the_server_sees_the_outside_and_the_host_the_server() -> None:
    async def scenario(network: Network) -> None:
        host, server = network.host(), network.servers[0]
        host.link.send(b"question", server.local)
        octets, seen = await server.get()
        assert octets == b"question"
        assert seen.address == OUTSIDE
        assert seen.port != host.local.port
        assert network.hop.mappings == ((host.local, seen),)
        server.link.send(b"answer", seen)
        assert await host.get() == (b"answer", server.local)
        assert network.hop.forwarded == {"outbound": 1, "inbound": 1}

    run(scenario)


def test_an_inside_end_point_has_one_outside_for_all_ports_of_the_server() -> None:
    """RFC 4787 §4.1, REQ-1."""

    async def scenario(network: Network) -> None:
        host = network.host()
        seen = []
        for server in network.servers:
            host.link.send(b"?", server.local)
            seen.append((await server.get())[1])
        assert seen[0] == seen[1]
        assert network.hop.mappings_made == 1
        network.servers[1].link.send(b"!", seen[0])
        assert await host.get() == (b"!", network.servers[1].local)

    run(scenario)


def test_every_inside_end_point_has_an_outside_of_its_own() -> None:
    async def scenario(network: Network) -> None:
        hosts, server = (network.host(), network.host()), network.servers[0]
        seen = []
        for host in hosts:
            host.link.send(b"?", server.local)
            seen.append((await server.get())[1])
        assert seen[0] != seen[1]
        for number, host in enumerate(hosts):
            server.link.send(bytes([number]), seen[number])
            assert (await host.get())[0] == bytes([number])

    run(scenario)


def test_nobody_but_the_server_is_let_in() -> None:
    async def scenario(network: Network) -> None:
        host, server = network.host(), network.servers[0]
        host.link.send(b"?", server.local)
        seen = (await server.get())[1]
        stranger, other_port = Host(STRANGER), Host(SERVER)
        try:
            stranger.link.send(b"knock", seen)
            other_port.link.send(b"knock", seen)
            server.link.send(b"answer", seen)
            assert (await host.get())[0] == b"answer"
        finally:
            stranger.link.close()
            other_port.link.close()
        assert network.hop.dropped["filtered"] == 2
        assert host.received.empty()

    run(scenario)


def test_an_idle_mapping_expires_and_the_next_datagram_makes_another() -> None:
    async def scenario(network: Network) -> None:
        host, server = network.host(), network.servers[0]
        host.link.send(b"1", server.local)
        first = (await server.get())[1]
        network.now += 59.0
        network.hop.expire()
        host.link.send(b"2", server.local)  # §4.3, REQ-6: outbound keeps it
        assert (await server.get())[1] == first
        network.now += 59.0
        server.link.send(b"late", first)  # inbound does not
        await host.get()
        network.hop.expire()
        assert network.hop.mappings_expired == 0
        network.now += 1.0
        network.hop.expire()
        assert network.hop.mappings == ()
        assert network.hop.mappings_expired == 1
        host.link.send(b"3", server.local)
        await server.get()
        assert network.hop.mappings_made == 2

    run(scenario)


def test_the_timer_expires_mappings_by_itself() -> None:
    async def scenario(network: Network) -> None:
        server = network.servers[0]
        hop = UdpNat(inside=STRANGER, outside=OUTSIDE, server=SERVER, ports=[server.local.port], idle_interval=0.01)
        host = Host(INSIDE, hop=STRANGER)
        try:
            host.link.send(b"?", server.local)
            await server.get()

            async def expired() -> bool | None:
                return not hop.mappings or None

            await poll_until(expired, what="the mapping's end", interval=PATIENCE)
            assert hop.mappings_expired == 1
        finally:
            hop.close()
            host.link.close()

    run(scenario)


def test_an_inside_end_point_too_many_is_refused_and_counted() -> None:
    async def scenario(network: Network) -> None:
        hosts, server = [network.host() for _ in range(MAPPINGS + 1)], network.servers[0]
        for host in hosts[:MAPPINGS]:
            host.link.send(b"?", server.local)
            await server.get()
        hosts[-1].link.send(b"one too many", server.local)
        hosts[0].link.send(b"one that is known", server.local)
        assert (await server.get())[0] == b"one that is known"
        assert network.hop.dropped == {"no-room": 1}
        assert len(network.hop.mappings) == MAPPINGS

    run(scenario)


def test_a_port_in_use_is_one_clear_line() -> None:
    async def scenario(network: Network) -> None:
        port = network.servers[0].local.port
        with pytest.raises(BackendError, match=rf"cannot use UDP {HOP}:{port}: the port is in use"):
            UdpNat(inside=HOP, outside=OUTSIDE, server=SERVER, ports=[port])

    run(scenario)
