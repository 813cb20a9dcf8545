"""Flows of a UE beside its compiled loop: what the threads carry comes out of a packet socket (root, a TUN device)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from protocols.dataplane.userspace.clients import StreamKind, TcpClient
from protocols.dataplane.userspace.host import ECHO_PORT, FlowKind
from protocols.dataplane.userspace.tcp import TcpState
from protocols.entropy import SeededEntropy
from protocols.io.aside import PacketPort
from tests.dataplane.fast_ends import TUN, Pair, ends, inner_address, until
from tests.peers.namespaces import answers_of_the_kernel, require_namespaces
from ue.traffic import Flows

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

pytestmark = pytest.mark.root

RATE = 1000.0


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def with_flows(body: Callable[[Pair, Flows, list[int]], Awaitable[None]]) -> None:
    """Run a body in the UE's namespace, with its flows, and the lengths of the packets that they got."""

    def inside(pair: Pair) -> None:
        async def story() -> None:
            lengths: list[int] = []
            strangers: list[bytes] = []

            def take(packet: bytes) -> None:
                lengths.append(len(packet))
                if not flows.receive(packet):
                    strangers.append(packet)

            port = PacketPort(take, TUN)
            flows = Flows(port.send, SeededEntropy("flows"), reservations=port)
            await body(pair, flows, lengths)
            flows.stop_all()
            assert not port.dropped
            assert strangers == []

        asyncio.run(story())
        assert answers_of_the_kernel() == 0

    async def outside() -> None:
        async with ends() as pair:
            await asyncio.to_thread(lambda: pair.ue.namespace.call(lambda: inside(pair)))
            pair.check_sums()

    asyncio.run(outside())


def gateways_socket(pair: Pair, kind: socket.SocketKind, version: int) -> socket.socket:
    """At the echo port of the host behind the gateway, whose kernel answers."""
    opened = pair.gateway.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    opened.setblocking(False)
    opened.bind((str(inner_address("host", version)), ECHO_PORT))
    return opened


@pytest.mark.parametrize("version", [4, 6])
def test_echo_requests(version: int) -> None:
    async def body(pair: Pair, flows: Flows, lengths: list[int]) -> None:
        loop = asyncio.get_running_loop()
        with gateways_socket(pair, socket.SOCK_DGRAM, version) as far:

            def answer() -> None:
                octets, source = far.recvfrom(2000)
                far.sendto(octets, source)

            loop.add_reader(far, answer)
            for kind in FlowKind:
                flow = flows.start(kind, inner_address("ue", version), inner_address("host", version), RATE, limit=50)
                await flow.finished(5.0)
                score = flow.statistics()
                assert (score.sent, score.received) == (50, 50)
            loop.remove_reader(far)

    with_flows(body)


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_with_segments_that_were_joined(version: int) -> None:
    """The loop joins what comes at once; the flow takes it, and the far kernel sees a FIN and no RST."""

    async def body(pair: Pair, flows: Flows, lengths: list[int]) -> None:
        ended = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            kept = b""
            while octets := await reader.read(1 << 17):
                kept += octets
                if len(kept) >= 20_000:  # at once, so that there is something to join
                    writer.write(kept)
                    kept = b""
            writer.write(kept)
            writer.close()
            ended.set()

        far = gateways_socket(pair, socket.SOCK_STREAM, version)
        server = await asyncio.start_server(echo, sock=far)
        flow = flows.start(StreamKind.TCP, inner_address("ue", version), inner_address("host", version), RATE)
        client = flow.client
        assert isinstance(client, TcpClient)
        await until(lambda: client.connection.counters.received >= 300_000, "echoes")
        flow.stop()
        await ended.wait()
        await until(lambda: client.connection.state is TcpState.TIME_WAIT, "the FIN of the other side")
        assert (client.corrupted, client.malformed, client.connection.failure) == (0, 0, None)
        assert client.connection.counters.received == client.connection.counters.sent
        assert max(lengths) > 2000
        server.close()
        await server.wait_closed()

    with_flows(body)


def test_a_flow_beside_one_of_the_kernels() -> None:
    """The kernel's own connection from the same address goes on; its packets are not the flow's."""

    async def body(pair: Pair, flows: Flows, lengths: list[int]) -> None:
        flow = flows.start(FlowKind.ICMP, inner_address("ue", 4), inner_address("host", 4), RATE, limit=100)
        with pair.gateway.socket(socket.AF_INET, socket.SOCK_STREAM) as far:
            far.setblocking(False)
            far.bind((str(inner_address("host", 4)), 0))
            server = await asyncio.start_server(_echo, sock=far)
            reader, writer = await asyncio.open_connection(*far.getsockname())
            sent = bytes(range(256)) * 1000
            writer.write(sent)
            assert await reader.readexactly(len(sent)) == sent
            writer.close()
            await flow.finished(5.0)
            server.close()
            await server.wait_closed()
        assert flow.statistics().received == 100
        assert len(lengths) == 100

    with_flows(body)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while octets := await reader.read(65536):
        writer.write(octets)
        await writer.drain()
    writer.close()
