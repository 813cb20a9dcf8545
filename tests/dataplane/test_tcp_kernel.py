"""Our TCP against the kernel's, through a TUN device in a network namespace (root)."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_network
from random import Random

import pytest

from protocols.dataplane.userspace.clients import TcpClient
from protocols.dataplane.userspace.host import ECHO_PORT
from protocols.dataplane.userspace.services import DISCARD_PORT, GENERATOR_PORT, ServiceHost
from protocols.dataplane.userspace.tcp import TcpState
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.io.driver import Driver
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS
from tests.dataplane.test_tun import UE_INTERFACE, in_namespace
from tests.dataplane.test_tun import pytestmark as pytestmark  # root, a TUN device

HOSTS = ip_network("192.0.2.0/24")


class Lossy:
    """A TUN device between the kernel and a machine; a share of the packets each way is lost, by a seed."""

    def __init__(self, loss: float) -> None:
        self._loss = loss
        self._random = Random(7)
        self.device: TunDevice | None = None

    def carries(self) -> bool:
        return self._random.random() >= self._loss

    async def open(self, receive: object) -> None:
        assert callable(receive)
        self.device = await TunDevice.open("epdg-test0", [UE_INTERFACE], 1350, [HOSTS])
        self.device.start(lambda packet: receive(packet) if self.carries() else None)

    def write(self, packet: bytes) -> None:
        assert self.device is not None
        if self.carries():
            self.device.write(packet)

    def close(self) -> None:
        assert self.device is not None
        self.device.close()


async def host_behind(line: Lossy) -> tuple[ServiceHost, Driver[None, bytes]]:
    host = ServiceHost(HOST_ADDRESS, SeededEntropy(1))
    driver: Driver[None, bytes] = Driver(host, on_event=lambda event: None, transmit=line.write)

    def receive(packet: bytes) -> None:
        host.receive(packet, driver.now())
        driver.pump()

    await line.open(receive)
    return host, driver


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_the_kernel_connects_to_our_services(loss: float) -> None:
    """connect(), send(), recv() and close() of Linux: echo of 300,000 octets comes back whole, with FIN."""

    async def body() -> None:
        line = Lossy(loss)
        host, driver = await host_behind(line)
        reader, writer = await asyncio.open_connection(str(HOST_ADDRESS), ECHO_PORT)
        octets = Random(1).randbytes(300_000 if not loss else 60_000)
        writer.write(octets)
        writer.write_eof()
        assert await reader.read(-1) == octets
        writer.close()
        assert host.counters.connections == 1
        assert host.counters.malformed == 0
        driver.close()
        line.close()

    in_namespace(body)


def test_discard_generator_and_a_port_without_a_service() -> None:
    async def body() -> None:
        line = Lossy(0.0)
        host, driver = await host_behind(line)
        _, writer = await asyncio.open_connection(str(HOST_ADDRESS), DISCARD_PORT)
        writer.write(bytes(200_000))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection(str(HOST_ADDRESS), GENERATOR_PORT)
        assert set(await reader.readexactly(200_000)) <= set(range(0x20, 0x7F))
        writer.transport.abort()  # RST
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(str(HOST_ADDRESS), 80)
        assert host.counters.resets == 1
        driver.close()
        line.close()

    in_namespace(body)


def test_our_client_connects_to_the_kernel() -> None:
    """A server of Linux echoes our records and closes after our FIN."""

    async def body() -> None:
        line = Lossy(0.02)
        client = TcpClient(
            source=HOST_ADDRESS, destination=UE_ADDRESS, interval=0.002, port=50000, entropy=SeededEntropy(3)
        )
        driver: Driver[None, bytes] = Driver(_Packets(client), on_event=lambda event: None, transmit=line.write)
        enough = asyncio.Event()

        def receive(packet: bytes) -> None:
            client.receive(packet, driver.now())
            driver.pump()
            if client.connection.counters.received >= 200_000:
                enough.set()

        await line.open(receive)
        ended = asyncio.Event()

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while octets := await reader.read(65536):
                writer.write(octets)
                await writer.drain()
            writer.close()
            ended.set()

        server = await asyncio.start_server(echo, str(UE_ADDRESS), ECHO_PORT, family=socket.AF_INET)
        client.start(driver.now())
        driver.pump()
        await enough.wait()
        client.stop(driver.now())
        driver.pump()
        await ended.wait()
        seen = client.statistics(driver.now(), None, None)
        assert (seen.corrupted, seen.failure) == (0, None)
        assert client.malformed == 0
        assert client.connection.state is not TcpState.CLOSED
        server.close()
        driver.close()
        line.close()

    in_namespace(body)


class _Packets:
    """A client in the shape that a driver drives."""

    def __init__(self, client: TcpClient) -> None:
        self._client = client

    def poll_event(self) -> None:
        """A client has no events."""

    def poll_transmit(self) -> bytes | None:
        return self._client.poll_packet()

    def next_deadline(self) -> float | None:
        return self._client.next_deadline()

    def handle_timeout(self, now: float) -> None:
        self._client.handle_timeout(now)
