"""Flows of a UE beside a kernel that carries its ESP: sent by routes and policies, heard where ESP comes in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from protocols.dataplane.userspace.clients import StreamKind, TcpClient
from protocols.dataplane.userspace.host import ECHO_PORT, FlowKind
from protocols.dataplane.userspace.tcp import TcpState
from protocols.entropy import SeededEntropy
from protocols.io.aside import PacketPort
from protocols.path import Address
from tests.dataplane.fast_ends import until
from tests.dataplane.pairs import ue_spec
from tests.peers.namespaces import answers_of_the_kernel
from tests.peers.xfrm_scene import INNER, PATHS, Scene, dual_stack, scene
from ue.traffic import Flows

pytestmark = [pytest.mark.peer, pytest.mark.guest]

RATE = 200.0


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene() as made:
        yield made


def with_flows(stage: Scene, body: Callable[[Flows, PacketPort], Awaitable[None]]) -> None:
    """Run a body in the UE's namespace, with its flows."""

    def inside() -> None:
        async def story() -> None:
            port = PacketPort(lambda packet: flows.receive(packet))
            flows = Flows(port.send, SeededEntropy("flows"), reservations=port)
            await asyncio.wait_for(body(flows, port), 30.0)
            flows.stop_all()
            assert not port.dropped

        before = answers_of_the_kernel()
        asyncio.run(story())
        assert answers_of_the_kernel() == before

    stage.ue.call(inside)


def ends_of(version: int) -> tuple[Address, Address]:
    ue, host = INNER[version]
    return ip_address(ue), ip_address(host)


def gateways_socket(stage: Scene, kind: socket.SocketKind, version: int) -> socket.socket:
    opened = stage.gateway.call(lambda: socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind))
    opened.setblocking(False)
    opened.bind((INNER[version][1], ECHO_PORT))
    return opened


@pytest.fixture(params=[(4, True), (6, False)], ids=["udp", "bare"])
def installed(stage: Scene, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A child SA for both families, in UDP or straight on IPv6."""
    outer, encapsulation = request.param
    stage.seen()
    spec = stage.install(replace(dual_stack(ue_spec()), path=PATHS[outer], encapsulation=encapsulation))
    yield stage
    stage.ue_plane.remove(spec.inbound_spi)
    stage.gateway_plane.remove(spec.outbound_spi)


@pytest.mark.parametrize("version", [4, 6])
def test_echo_requests(installed: Scene, version: int) -> None:
    """Every request and every answer is ESP on the wire."""

    async def body(flows: Flows, port: PacketPort) -> None:
        loop = asyncio.get_running_loop()
        with gateways_socket(installed, socket.SOCK_DGRAM, version) as far:

            def answer() -> None:
                octets, source = far.recvfrom(2000)
                far.sendto(octets, source)

            loop.add_reader(far, answer)
            for kind in FlowKind:
                flow = flows.start(kind, *ends_of(version), RATE, limit=10)
                await flow.finished(10.0)
                score = flow.statistics()
                assert (score.sent, score.received) == (10, 10)
            loop.remove_reader(far)

    with_flows(installed, body)
    assert len(installed.seen()) == 40


@pytest.mark.parametrize("version", [4, 6])
def test_tcp(installed: Scene, version: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while octets := await reader.read(65536):
            writer.write(octets)
        writer.close()

    async def body(flows: Flows, port: PacketPort) -> None:
        server = await asyncio.start_server(echo, sock=gateways_socket(installed, socket.SOCK_STREAM, version))
        flow = flows.start(StreamKind.TCP, *ends_of(version), RATE)
        client = flow.client
        assert isinstance(client, TcpClient)
        await until(lambda: client.connection.counters.received >= 50_000, "echoes")
        flow.stop()
        await until(lambda: client.connection.state is TcpState.TIME_WAIT, "the FIN of the other side")
        assert (client.corrupted, client.malformed, client.connection.failure) == (0, 0, None)
        server.close()
        await server.wait_closed()

    with_flows(installed, body)
