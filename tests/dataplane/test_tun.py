"""The TUN device against a real kernel, in a network namespace of the test's own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from ipaddress import ip_interface, ip_network

import pytest
from pyroute2 import AsyncIPRoute

from lab.namespaces import Namespace
from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.userspace.host import EchoClient, InProcessHost
from protocols.dataplane.userspace.tun import TUN_PATH, TunDevice
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, LocalError
from protocols.io.namespace import NetworkNamespace
from protocols.path import Address
from tests.dataplane.pairs import GATEWAY_PATH, HOST_ADDRESS, UE_ADDRESS, mirrored, ue_spec
from tests.peers.processes import require_program

CLONE_NEWNET = 0x40000000
LIMIT = 10.0  # seconds until a packet that does not come fails the test

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace and a TUN device need root"),
    pytest.mark.skipif(not os.path.exists(TUN_PATH), reason=f"there is no {TUN_PATH}"),
]

UE_INTERFACE = ip_interface(f"{UE_ADDRESS}/32")
HOSTS = ip_network("192.0.2.0/24")


def in_namespace(body: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine in a thread that has a network namespace of its own, gone with the thread."""
    failures: list[BaseException] = []

    def thread() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            failures.append(BackendError(os.strerror(ctypes.get_errno())))
            return
        try:
            asyncio.run(asyncio.wait_for(body(), LIMIT))
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            failures.append(error)

    runner = threading.Thread(target=thread)
    runner.start()
    runner.join()
    if failures and isinstance(failures[0], BackendError) and "not permitted" in str(failures[0]):
        pytest.skip(f"network namespaces are not allowed here: {failures[0]}")
    if failures:
        raise failures[0]


def udp_socket(address: Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind((str(address), 0))
    return opened


def test_the_kernels_packets_come_out_and_ours_go_in() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        device = await TunDevice.open("epdg-test0", [UE_INTERFACE], 1350, [HOSTS])
        host = InProcessHost(HOST_ADDRESS)

        def answer(packet: bytes) -> None:
            if (reply := host.receive(packet)) is not None:
                assert device.write(reply)

        device.start(answer)
        with udp_socket(UE_ADDRESS) as client:
            for length in (0, 1, 1322):
                await loop.sock_sendto(client, bytes(length), (str(HOST_ADDRESS), 7))
                assert await loop.sock_recv(client, 2000) == bytes(length)
            client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            with pytest.raises(OSError, match="too long"):
                client.sendto(bytes(1323), (str(HOST_ADDRESS), 7))  # the MTU is in force
        assert host.counters.udp_echoes == 3
        assert device.counters.written == 3
        assert device.counters.read >= 3
        device.close()

    in_namespace(body)


TAKEN_IN = """
import asyncio
from pathlib import Path
from protocols.dataplane.userspace.tun import TunDevice

async def main() -> None:
    device = await TunDevice.open("epdg-test0", [], 1350)
    print(Path("/sys/class/net/epdg-test0/threaded").read_text().strip())
    device.close()

asyncio.run(main())
"""


def test_a_thread_of_the_kernels_takes_in_what_we_write() -> None:
    """Where ``/sys`` shows the devices of our network namespace; the other tests go without."""
    with Namespace("tun") as namespace:
        process = namespace.popen([sys.executable, "-c", TAKEN_IN], stdout=subprocess.PIPE, own_sysfs=True)
        assert process.communicate(timeout=LIMIT)[0] == b"1\n"


def test_ipv6_addresses_and_routes() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        local, remote = ip_interface("2001:db8:1::77/64"), ip_interface("2001:db8:ff::1/128").ip
        device = await TunDevice.open("epdg-test0", [local], 1350, [ip_network("2001:db8:ff::/48")])
        host = InProcessHost(remote)

        def answer(packet: bytes) -> None:
            if (reply := host.receive(packet)) is not None:
                device.write(reply)

        device.start(answer)
        with udp_socket(local.ip) as client:
            await loop.sock_sendto(client, b"hello", (str(remote), 7))
            assert await loop.sock_recv(client, 2000) == b"hello"
        device.close()

    in_namespace(body)


def test_the_kernel_answers_an_echo_client_through_a_tunnel() -> None:
    """Client → UE's data plane → gateway's data plane → TUN → the kernel's own ICMP, and back."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        gateway_side = ip_interface("192.0.2.80/24")
        device = await TunDevice.open("epdg-test0", [gateway_side], 1350, [UE_INTERFACE.network])
        client = EchoClient(source=UE_ADDRESS, destination=HOST_ADDRESS, interval=0.01)
        answered = asyncio.Event()
        spec = ue_spec("aes128gcm16")

        def back(packet: bytes, inbound_spi: bytes) -> None:
            assert client.receive(packet, loop.time())
            answered.set()

        ue = UserspaceDataPlane(
            entropy=SeededEntropy("ue"),
            deliver=back,
            transmit=lambda octets, path, encapsulation, traffic_class: epdg.receive_esp(octets, GATEWAY_PATH),
        )
        epdg = UserspaceDataPlane(
            entropy=SeededEntropy("epdg"),
            deliver=lambda packet, inbound_spi: device.write(packet),
            transmit=lambda octets, path, encapsulation, traffic_class: ue.receive_esp(octets, spec.path),
        )
        ue.install(spec)
        epdg.install(mirrored(spec))
        device.start(epdg.send_inner)
        client.start(loop.time())
        for _ in range(5):
            answered.clear()
            client.handle_timeout(client.next_deadline() or 0.0)
            request = client.poll_packet()
            assert request is not None
            assert ue.send_inner(request)
            await answered.wait()
        assert (client.sent, client.received) == (5, 5)
        device.close()

    in_namespace(body)


def test_close_removes_the_device_with_all_it_had() -> None:
    async def body() -> None:
        async with AsyncIPRoute() as netlink:
            device = await TunDevice.open("epdg-test0", [UE_INTERFACE], 1350, [HOSTS])
            device.start(lambda packet: None)
            assert await netlink.link_lookup(ifname="epdg-test0")
            device.close()
            device.close()
            assert not await netlink.link_lookup(ifname="epdg-test0")
        with pytest.raises(LocalError):
            device.write(b"")
        with pytest.raises(LocalError):
            device.start(lambda packet: None)
        again = await TunDevice.open("epdg-test0", [UE_INTERFACE], 1350, [HOSTS])
        again.close()

    in_namespace(body)


def test_what_the_kernel_refuses_is_a_backend_error_and_leaves_nothing() -> None:
    async def body() -> None:
        async with AsyncIPRoute() as netlink:
            for addresses, mtu, routes in (
                ([UE_INTERFACE], 10, []),
                ([UE_INTERFACE, UE_INTERFACE], 1350, []),
                ([UE_INTERFACE], 1350, [HOSTS, HOSTS]),
            ):
                with pytest.raises(BackendError, match="TUN device epdg-test0"):
                    await TunDevice.open("epdg-test0", addresses, mtu, routes)
                assert not await netlink.link_lookup(ifname="epdg-test0")
        first = await TunDevice.open("epdg-test0", [], 1350)
        with pytest.raises(BackendError):
            await TunDevice.open("epdg-test0", [], 1350)  # busy
        assert not first.write(b"\x00")  # not an IP packet
        assert first.counters.refused == 1
        first.close()
        for name in ("", "sixteen-letters-"):
            with pytest.raises(LocalError):
                await TunDevice.open(name, [], 1350)

    in_namespace(body)


def test_a_device_deleted_under_us_is_noticed() -> None:
    async def body() -> None:
        device = await TunDevice.open("epdg-test0", [UE_INTERFACE], 1350, [HOSTS])
        failure: asyncio.Future[BackendError] = asyncio.get_running_loop().create_future()
        device.start(lambda packet: None, failure.set_result)
        async with AsyncIPRoute() as netlink:
            index = (await netlink.link_lookup(ifname="epdg-test0"))[0]
            await netlink.link("del", index=index)
        assert "epdg-test0" in str(await failure)
        assert not device.write(b"\x45" + bytes(19))
        device.close()

    in_namespace(body)


@pytest.mark.parametrize("kind", [TunDevice, FastTun])
def test_in_another_namespace(kind: type[TunDevice | FastTun]) -> None:
    """Device, addresses and default routes of both IP versions are there, and we are where we were."""
    require_program("ip")
    name = f"epdg-test-{os.getpid()}-tun"
    subprocess.run(["ip", "netns", "add", name], check=True)

    def shown(*words: str) -> str:
        return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout

    def seen() -> str:
        return shown("-n", name, "address") + shown("-n", name, "route") + shown("-n", name, "-6", "route")

    async def body() -> None:
        own, around = os.stat("/proc/thread-self/ns/net"), shown("address")
        namespace = NetworkNamespace(name)
        before = seen()
        addresses = [UE_INTERFACE, ip_interface("2001:db8:5::2/64")]
        everything = [ip_network("0.0.0.0/0"), ip_network("::/0")]
        device = await kind.open("epdg-test0", addresses, 1350, everything, namespace=namespace)
        found = seen()
        assert {f"inet {UE_INTERFACE}", "inet6 2001:db8:5::2/64", "mtu 1350"} <= set(_pairs(found))
        assert found.count("default dev epdg-test0") == 2
        for refused in ([HOSTS, HOSTS], everything):
            with pytest.raises(BackendError, match=f"TUN device epdg-test1 in network namespace {name}: File exists"):
                await kind.open("epdg-test1", [], 1350, refused, namespace=namespace)
        assert seen() == found
        assert os.path.samestat(own, os.stat("/proc/thread-self/ns/net"))
        assert shown("address") == around
        device.close()
        assert seen() == before
        namespace.close()

    try:
        in_namespace(body)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def _pairs(text: str) -> list[str]:
    words = text.split()
    return [f"{first} {second}" for first, second in zip(words, words[1:], strict=False)]
