"""The threads of the fast path between kernels in network namespaces: what goes in comes out, octet by octet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from protocols.errors import BackendError, LocalError
from protocols.esp.sa import EspMode
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.both import numbered
from tests.dataplane.fast_ends import GATEWAY_SECOND, TUN, WIRE, End, ends, inner_address, octets, transfer, until
from tests.dataplane.pairs import mirrored
from tests.peers.namespaces import ping, require_namespaces

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

UDP_SEGMENT = 103  # <linux/udp.h>
ROOT_QUEUE = 0x10000  # the handle 1: of the queueing discipline

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


def big(_: int) -> int:
    return 1 << 18


def small(done: int) -> int:
    """One octet to three hundred, and now and then more than a segment."""
    return 1 + done % 300 if done % 7 else 5000


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_ping(outer: int, inner: int) -> None:
    async def body() -> None:
        async with ends(version=outer) as pair:
            for sender, to in ((pair.ue, "host"), (pair.gateway, "ue")):
                done = await asyncio.to_thread(
                    lambda sender=sender, to=to: ping(sender.namespace, inner_address(to, inner), count=3)
                )
                assert done.received == 3, done.output
            pair.check_sums()

    asyncio.run(body())


@pytest.mark.parametrize(
    ("suite", "version", "upwards"),
    [
        ("aes128gcm16", 4, True),
        ("aes128gcm16", 6, False),
        ("aes256-sha256", 4, False),
        ("chacha20poly1305-esn", 6, True),
    ],
)
def test_tcp(suite: str, version: int, upwards: bool) -> None:
    async def body() -> None:
        async with ends(suite, version=version) as pair:
            sender, receiver = (pair.ue, pair.gateway) if upwards else (pair.gateway, pair.ue)
            address = inner_address("host" if upwards else "ue", version)
            assert await asyncio.to_thread(transfer, sender, receiver, address, 8_000_000, write=big)
            assert await asyncio.to_thread(transfer, sender, receiver, address, 200_000, write=small)
            pair.check_sums()
            assert sender.counters.tun_super_packets > 20
            assert receiver.counters.written_super_packets > 20

    asyncio.run(body())


@pytest.mark.parametrize(("inner", "outer"), [(4, 4), (6, 4), (4, 6), (6, 6)])
def test_tcp_in_beet_mode(inner: int, outer: int) -> None:
    """RFC 7402 appendix B: packets grow on receipt, where datagrams lie end to end in one buffer (UDP_GRO)."""

    async def body() -> None:
        async with ends("aes128gcm16", version=outer) as pair:
            spec = replace(
                numbered(pair.spec, 2),
                mode=EspMode.BEET,
                local_selectors=(TrafficSelector.host(inner_address("ue", inner)),),
                remote_selectors=(TrafficSelector.host(inner_address("host", inner)),),
            )
            pair.ue.plane.install(spec)
            pair.gateway.plane.install(mirrored(spec))
            for sender, receiver, to in ((pair.ue, pair.gateway, "host"), (pair.gateway, pair.ue, "ue")):
                address = inner_address(to, inner)
                assert await asyncio.to_thread(transfer, sender, receiver, address, 4_000_000, write=big)
                assert await asyncio.to_thread(transfer, sender, receiver, address, 100_000, write=small)
            pair.check_sums()
            for end, spi in ((pair.ue, spec.inbound_spi), (pair.gateway, spec.outbound_spi)):
                counters = end.plane.counters(spi)
                packets = counters.inbound_packets + counters.outbound_packets
                assert counters.overhead_saved_octets == packets * (20 if inner == 4 else 40)
                assert end.counters.written_super_packets > 20

    asyncio.run(body())


def exchange(sender: End, receiver: End, version: int, lengths: list[int]) -> None:
    """Datagrams of these lengths, one after the other, arrive as they were sent."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = str(inner_address("host", version))
    with sender.socket(family, socket.SOCK_DGRAM) as client, receiver.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        client.connect((address, server.getsockname()[1]))
        for seed, length in enumerate(lengths):
            client.send(octets(length, seed))
            assert server.recv(65535) == octets(length, seed)


@pytest.mark.parametrize("version", [4, 6])
def test_udp_of_odd_lengths(version: int) -> None:
    """From nothing to datagrams that the kernels fragment inside the tunnel."""

    async def body() -> None:
        async with ends(version=version) as pair:
            lengths = [0, 1, 2, 3, 63, 64, 65, 999, 1351, 1352, 1353, 1372, 1373, 5001, 65000]
            await asyncio.to_thread(exchange, pair.ue, pair.gateway, version, lengths)
            pair.check_sums()

    asyncio.run(body())


def burst(sender: End, receiver: End, version: int, size: int, total: int) -> tuple[bytes, bytes, bool]:
    """What UDP_SEGMENT sends in one call, and what arrives, in order."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = str(inner_address("host", version))
    sent = octets(total, size)
    with sender.socket(family, socket.SOCK_DGRAM) as client, receiver.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))
        client.connect((address, server.getsockname()[1]))
        client.sendmsg([sent], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))])
        pieces = [server.recv(65535) for _ in range(-(-total // size))]
    return sent, b"".join(pieces), all(len(piece) == size for piece in pieces[:-1])


@pytest.mark.parametrize("version", [4, 6])
def test_udp_that_its_sender_leaves_to_be_segmented(version: int) -> None:
    async def body() -> None:
        async with ends(version=version) as pair:
            for size, total in ((1000, 20_500), (7, 300), (1, 3)):
                sent, arrived, cut = await asyncio.to_thread(burst, pair.ue, pair.gateway, version, size, total)
                assert arrived == sent
                assert cut
            pair.check_sums()
            if pair.ue.device.udp_offload:
                assert pair.ue.counters.tun_super_packets == 3
                assert pair.gateway.counters.written_super_packets >= 3

    asyncio.run(body())


def test_esp_without_udp() -> None:
    async def body() -> None:
        async with ends("aes128-sha256", encapsulation=False) as pair:
            address = inner_address("host", 4)
            assert await asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 2_000_000, write=big)
            pair.check_sums()
            assert pair.ue.counters.sent == pair.ue.counters.sent_trains

    asyncio.run(body())


def test_several_workers_carry_several_flows() -> None:
    async def body() -> None:
        async with ends(workers=2) as pair:
            address = inner_address("host", 4)
            done = await asyncio.gather(
                *(
                    asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 2_000_000 + seed, write=big, seed=seed)
                    for seed in range(4)
                )
            )
            assert all(done)
            pair.check_sums()

    asyncio.run(body())


def test_a_path_changes_under_load_and_nothing_is_lost() -> None:
    """The gateway's other address and back, as MOBIKE has it, while TCP runs: ends move one after the other."""

    async def body() -> None:
        async with ends() as pair:
            pair.gateway.open_link(GATEWAY_SECOND.ip)
            address = inner_address("host", 4)
            running = asyncio.create_task(
                asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 60_000_000, write=big)
            )
            spi, path = pair.spec.inbound_spi, pair.spec.path
            moved = Path(path.local, Endpoint(GATEWAY_SECOND.ip, path.remote.port))
            moves = 0
            while not running.done():
                before = pair.gateway.counters.opened
                await until(lambda before=before: running.done() or pair.gateway.counters.opened > before, "traffic")
                moves += 1
                now = moved if moves % 2 else path
                pair.ue.plane.update_path(spi, now, True)
                pair.gateway.plane.update_path(pair.spec.outbound_spi, now.reversed(), True)
            assert await running
            assert moves > 10
            pair.check_sums()
            for end, other in ((pair.ue, pair.gateway), (pair.gateway, pair.ue)):
                assert end.counters.sent == other.counters.received == other.counters.opened

    asyncio.run(body())


def test_what_is_no_esp_comes_to_asyncio_as_it_was() -> None:
    async def body() -> None:
        async with ends() as pair:
            link, to = pair.ue.links[0], pair.gateway.links[0].local
            wanted = [bytes(4) + octets(length, length) for length in (5, 28, 300, 1400, 9000)]
            for sent in (b"\xff", b"\xff", b"", b"abc", bytes(8), b"12345678", *wanted, octets(9, 1)):
                link.send(sent, to)
            await until(lambda: pair.gateway.counters.received >= 12, "datagrams")
            await until(lambda: len(pair.gateway.others) == len(wanted), "IKE")
            assert pair.gateway.others == [(one, Path(to, link.local)) for one in wanted]
            pair.gateway.links[0].send(wanted[0], link.local)
            await until(lambda: bool(pair.ue.others), "the answer")
            assert pair.ue.others == [(wanted[0], Path(link.local, to))]
            pair.check_sums()
            counters = pair.gateway.counters
            assert (counters.keepalives, counters.short, counters.other) == (2, 4, 5)
            assert counters.opening_drops == {"unknown_spi": 1}

    asyncio.run(body())


def change_link(end: End, interface: str, change: Callable[[IPRoute, int], object]) -> None:
    """What ``Namespace`` has no words for."""

    def inside() -> None:
        with IPRoute() as route:
            (index,) = route.link_lookup(ifname=interface)
            change(route, index)

    end.namespace.call(inside)


def resident() -> int:
    """Octets of this process in memory."""
    return int(FilePath("/proc/self/statm").read_text().split()[1]) * 4096


def test_ike_gets_through_a_flood_of_esp_and_memory_stays() -> None:
    """A peer sends ESP that nobody wants as fast as it can: IKE arrives whole, the drops are counted."""

    async def body() -> None:
        async with ends() as pair:
            to = pair.gateway.links[0].local
            stop = threading.Event()
            flood = pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM)
            train = b"\x12\x34\x56\x78" * 16 * 1000

            def send() -> None:
                while not stop.is_set():
                    with contextlib.suppress(OSError):
                        flood.sendmsg(
                            [train],
                            [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1024))],
                            0,
                            (str(to.address), to.port),
                        )

            sender = threading.Thread(target=send)
            sender.start()
            try:
                await until(lambda: pair.gateway.counters.opening_drops.get("unknown_spi", 0) > 20_000, "the flood")
                before = resident()
                wanted = [bytes(4) + octets(600, seed) for seed in range(200)]
                for number, one in enumerate(wanted):
                    pair.ue.links[0].send(one, to)
                    await until(lambda number=number: len(pair.gateway.others) > number, "IKE under load")
                assert [one for one, _ in pair.gateway.others] == wanted
                assert resident() - before < 8 * 1024 * 1024
            finally:
                stop.set()
                sender.join()
                flood.close()
            pair.check_sums()

    asyncio.run(body())


def test_a_channel_that_nobody_empties_is_bounded() -> None:
    """IKE that finds no room is dropped and counted; ESP goes on."""

    async def body() -> None:
        async with ends() as pair:
            to = pair.gateway.links[0].local
            count = 3000
            for seed in range(count):  # the event loop does not run meanwhile
                pair.ue.links[0].send(bytes(4) + octets(1000, seed % 7), to)
            while (counters := pair.gateway.counters).other + counters.other_dropped < count:
                pass
            assert counters.other_dropped > 0
            assert counters.other > 100
            done = await asyncio.to_thread(ping, pair.ue.namespace, inner_address("host", 4), count=1)
            assert done.received == 1
            await until(lambda: len(pair.gateway.others) == counters.other, "what was taken")
            pair.check_sums()

    asyncio.run(body())


def test_a_device_that_is_deleted_is_told_and_the_rest_goes_on() -> None:
    async def body() -> None:
        async with ends() as pair:
            await asyncio.to_thread(change_link, pair.gateway, TUN, lambda route, index: route.link("del", index=index))
            await until(lambda: bool(pair.gateway.failures), "the failure")
            assert [str(one) for one in pair.gateway.failures] == ["TUN device inner: File descriptor in bad state"]
            link = pair.ue.links[0]
            link.send(bytes(4) + b"still there", pair.gateway.links[0].local)
            await until(lambda: bool(pair.gateway.others), "IKE")
            with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"into nothing", (str(inner_address("host", 4)), 7))
            await until(lambda: pair.gateway.counters.no_tun == 1, "a packet without a device")

            pair.gateway.loop.remove_device(pair.gateway.device)
            pair.gateway.device.close()
            pair.gateway.device = await asyncio.to_thread(pair.gateway.open_device)
            pair.gateway.loop.add_device(pair.gateway.device)
            done = await asyncio.to_thread(ping, pair.ue.namespace, inner_address("host", 4), count=1)
            assert done.received == 1
            assert len(pair.gateway.failures) == 1
            pair.check_sums()

    asyncio.run(body())


def test_a_device_that_is_down_refuses_and_comes_back() -> None:
    async def body() -> None:
        async with ends() as pair:
            host, gateway = inner_address("host", 4), pair.gateway.namespace
            await asyncio.to_thread(gateway.set_link, TUN, up=False)
            with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"into nothing", (str(host), 7))
            await until(lambda: pair.gateway.counters.tun_refused == 1, "a refusal")
            await asyncio.to_thread(gateway.set_link, TUN, up=True)
            await asyncio.to_thread(gateway.add_route, "10.45.0.0/16", interface=TUN)
            done = await asyncio.to_thread(ping, pair.ue.namespace, host, count=1)
            assert done.received == 1
            assert pair.gateway.failures == []
            pair.check_sums()

    asyncio.run(body())


def test_links_come_and_go_while_it_runs() -> None:
    async def body() -> None:
        async with ends() as pair:
            link = pair.gateway.open_link(GATEWAY_SECOND.ip)
            with pytest.raises(BackendError, match=r"cannot use UDP 198\.51\.100\.2:4500: the port is in use"):
                pair.gateway.open_link(GATEWAY_SECOND.ip)
            pair.ue.links[0].send(bytes(4) + b"to the second", link.local)
            await until(lambda: bool(pair.gateway.others), "IKE")
            link.close()
            pair.gateway.plane.update_path(
                pair.spec.outbound_spi, Path(link.local, pair.spec.path.local), True
            )  # where no socket is now
            with pair.gateway.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"into nothing", (str(inner_address("ue", 4)), 7))
            await until(lambda: pair.gateway.counters.no_socket == 1, "a packet without a socket")
            pair.gateway.open_link(GATEWAY_SECOND.ip)
            done = await asyncio.to_thread(ping, pair.gateway.namespace, inner_address("ue", 4), count=1)
            assert done.received == 1
            pair.check_sums()

    asyncio.run(body())


def test_it_starts_again_where_it_stopped() -> None:
    async def body() -> None:
        async with ends() as pair:
            with pytest.raises(LocalError, match="runs already"):
                pair.gateway.loop.start()
            for _ in range(3):
                pair.gateway.loop.stop()
                pair.gateway.loop.stop()
                pair.gateway.loop.start()
            done = await asyncio.to_thread(ping, pair.ue.namespace, inner_address("host", 4), count=1)
            assert done.received == 1
            with pytest.raises(LocalError, match="a TUN device 0 already"):
                pair.gateway.loop.add_device(pair.gateway.device)
            pair.check_sums()

    asyncio.run(body())


@pytest.mark.parametrize("version", [4, 6])
def test_esp_that_is_longer_than_the_way_is_fragmented(version: int) -> None:
    """The kernel segments nothing then: each packet is sent by itself, as one without offload would be."""

    async def body() -> None:
        async with ends(version=version) as pair:
            for end in (pair.ue, pair.gateway):
                await asyncio.to_thread(
                    change_link, end, WIRE, lambda route, index: route.link("set", index=index, mtu=1300)
                )
            address = inner_address("host", version)
            assert await asyncio.to_thread(transfer, pair.ue, pair.gateway, address, 1_000_000, write=big)
            pair.check_sums()
            assert pair.ue.counters.send_errors == 0
            assert pair.gateway.counters.opened == pair.ue.counters.sent

    asyncio.run(body())


def test_a_network_that_is_gone_is_counted() -> None:
    async def body() -> None:
        async with ends() as pair:
            await asyncio.to_thread(pair.ue.namespace.set_link, WIRE, up=False)
            with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"into nothing", (str(inner_address("host", 4)), 7))
            await until(lambda: pair.ue.counters.send_errors == 1, "an error")
            await asyncio.to_thread(pair.ue.namespace.set_link, WIRE, up=True)
            done = await asyncio.to_thread(ping, pair.ue.namespace, inner_address("host", 4), count=1)
            assert done.received == 1
            pair.check_sums()

    asyncio.run(body())


def slow_down(route: IPRoute, index: int) -> None:
    """40 Mbit/s, and a queue that holds more than a socket does."""
    route.tc("add", "tbf", index, ROOT_QUEUE, rate="40mbit", burst=70_000, limit=64 * 1024 * 1024)


def test_a_slow_network_fills_the_socket_and_no_more() -> None:
    """More than an access carries is dropped and counted; what it carries arrives."""

    async def body() -> None:
        async with ends() as pair:
            try:
                await asyncio.to_thread(change_link, pair.ue, WIRE, slow_down)
            except NetlinkError as error:
                pytest.skip(f"the kernel has no token bucket filter: {error}")
            before = resident()
            with pair.ue.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((str(inner_address("host", 4)), 7))
                while pair.ue.counters.socket_full < 300:
                    with contextlib.suppress(OSError):
                        client.send(bytes(1300))
            assert resident() - before < 8 * 1024 * 1024
            came = pair.gateway.counters.opened
            await until(lambda: pair.gateway.counters.opened > came, "what was carried")
            pair.check_sums()

    asyncio.run(body())
