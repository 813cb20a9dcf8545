"""Sockets at both ends of an access of the stage of namespaces, with nobody else there."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager

from lab.mobility.loader import parse_schedule
from lab.mobility.namespaces import NUMBERING, Topology, topology_of
from lab.mobility.stage_name import NatName

PATIENCE = 5.0
SILENCE = 0.2  # what has not come by then is not expected; something that is behind it has come already


UE, OUTSIDE = "10.77.1.2", "10.77.101.2"
GATEWAYS = ("10.77.0.1", "10.77.0.2")
SCHEDULE = """
title: One access
duration: 10
accesses: {wifi: {nat: {kind: KIND, lifetime: LIFETIME}}}
gateway: {addresses: {one: ipv4, two: ipv4}}
events: [{at: 0, do: attach}]
"""


class Ends:
    """Sockets in the namespaces of the UE and the gateway."""

    def __init__(self, topology: Topology, stack: ExitStack) -> None:
        self.topology = topology
        self._stack = stack

    def ue(self, port: int = 4500, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """On the access."""
        address = str(self.topology.places.accesses["wifi"])
        return self.topology.ue.call(lambda: self._open(address, port, kind, protocol))

    def gateway(
        self, address: str, port: int = 4500, kind: int = socket.SOCK_DGRAM, protocol: int = 0
    ) -> socket.socket:
        """On one of the gateway's addresses."""
        return self.topology.epdg.call(lambda: self._open(address, port, kind, protocol))

    def _open(self, address: str, port: int, kind: int, protocol: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = self._stack.enter_context(socket.socket(family, kind, protocol))
        opened.setblocking(False)
        opened.bind((address, port))
        return opened


@contextmanager
def ends(text: str, nat: NatName = NatName.LAB) -> Iterator[Ends]:
    """The network of a schedule with one access, ``wifi``, and nobody there."""
    schedule = parse_schedule(text)
    with topology_of(schedule, NUMBERING.places(schedule), 1, nat=nat) as topology, ExitStack() as stack:
        yield Ends(topology, stack)


def on_network(text: str, story: Callable[[Ends], Awaitable[None]], nat: NatName = NatName.LAB) -> None:
    """Let a story happen there."""

    async def main() -> None:
        with ends(text, nat) as made:
            await story(made)

    asyncio.run(main())


def on(kind: str, story: Callable[[Ends], Awaitable[None]], nat: NatName = NatName.LAB, lifetime: str = "1d") -> None:
    """The same behind a NAT of a kind."""
    on_network(SCHEDULE.replace("KIND", kind).replace("LIFETIME", lifetime), story, nat)


async def send(source: socket.socket, octets: bytes, to: tuple[str, int]) -> None:
    """A datagram."""
    await asyncio.get_running_loop().sock_sendto(source, octets, to)


async def received(target: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """The next datagram and whom it is from."""
    async with asyncio.timeout(PATIENCE):
        octets, source = await asyncio.get_running_loop().sock_recvfrom(target, 2000)
        return octets, source[:2]  # IPv6 has more


async def nothing(target: socket.socket) -> bool:
    """Whether none comes."""
    try:
        async with asyncio.timeout(SILENCE):
            await asyncio.get_running_loop().sock_recvfrom(target, 2000)
    except TimeoutError:
        return True
    return False
