"""The threads of the fast path over loopback, socket pairs for TUN queues: what the kernel seldom does to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, defragment
from scapy.packet import Packet, Raw

from protocols.dataplane.fast.link import FastLink
from protocols.dataplane.fast.loop import FastLoop
from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.userspace.engine import ICMP_BURST
from protocols.dataplane.userspace.tun import TunCounters
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, LocalError
from protocols.esp.sa import ChildSa, DropReason
from protocols.esp.tunnel import TunnelPolicy
from protocols.io.sockets import RECEIVE_ERRORS
from protocols.ip import UDP as UDP_PROTOCOL
from protocols.ip import IpPacket
from protocols.path import Endpoint, Path
from tests.dataplane.fast_ends import assert_adds_up, until
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS, mirrored, ue_spec

native = pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

LOOPBACK = Endpoint.of("127.0.0.1", 0)
NO_OFFLOAD = bytes(10)  # a virtio_net_hdr


@dataclass(eq=False)
class Alone:
    """A gateway's loop, the other side of its TUN queue, and a UE of plain Python on a socket of its own."""

    plane: FastDataPlane
    loop: FastLoop
    link: FastLink
    queue: socket.socket
    device: FastTun
    peer: socket.socket
    sa: ChildSa
    failures: list[BackendError]
    delivered: list[bytes]

    def send(self, packet: bytes) -> None:
        """ESP from the UE."""
        self.peer.sendto(self.sa.seal(packet, 4), (str(self.link.local.address), self.link.local.port))


def packet_of(length: int) -> bytes:
    return IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=UDP_PROTOCOL, payload=bytes(length)).encode()


def paired(name: str, undo: contextlib.ExitStack) -> tuple[FastTun, socket.socket]:
    """A device of one queue that is a socket, and its other end."""
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    undo.enter_context(far)
    far.setblocking(False)
    near.setblocking(False)
    device = FastTun(name)
    device.queues = (near.detach(),)
    undo.callback(device.close)
    return device, far


@contextlib.asynccontextmanager
async def alone(outer_mtu: int | None = None) -> AsyncIterator[Alone]:
    failures: list[BackendError] = []
    delivered: list[bytes] = []
    plane = FastDataPlane(
        deliver=lambda packet, spi: delivered.append(packet),
        transmit=lambda octets, path, encapsulation, traffic_class: link.send(octets, path.remote, traffic_class),
        policy=TunnelPolicy(outer_mtu=outer_mtu),
    )
    with contextlib.ExitStack() as undo:
        loop = FastLoop(plane.core, too_long=lambda packet, device: plane.send_inner(packet), failed=failures.append)
        undo.callback(loop.close)
        link = loop.open_link(LOOPBACK, lambda octets, path: None)
        undo.callback(link.close)
        device, far = paired("pair", undo)
        loop.add_device(device)
        peer = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        peer.bind(("127.0.0.1", 0))
        path = Path(Endpoint.of("127.0.0.1", peer.getsockname()[1]), link.local)
        spec = replace(ue_spec("aes128gcm16"), path=path)
        plane.install(mirrored(spec))
        loop.start()
        yield Alone(
            plane=plane,
            loop=loop,
            link=link,
            queue=far,
            device=device,
            peer=peer,
            sa=ChildSa(spec, SeededEntropy("alone")),
            failures=failures,
            delivered=delivered,
        )


def test_reads_that_make_no_sense_are_counted() -> None:
    async def body() -> None:
        async with alone() as it:
            for octets in (b"abc", NO_OFFLOAD, b"\x01\x63" + bytes(100), b"\x01\x01" + bytes(100)):
                it.queue.send(octets)
            it.queue.send(NO_OFFLOAD + b"neither IPv4 nor IPv6")
            await until(lambda: it.loop.counters.tun_malformed == 4, "reads")
            await until(lambda: it.loop.counters.sealing_drops == {"not_ip": 1}, "a packet")
            it.loop.stop()
            assert_adds_up(it.loop.counters)

    asyncio.run(body())


def test_a_queue_that_nobody_empties_is_bounded_and_goes_on() -> None:
    async def body() -> None:
        async with alone() as it:
            sent = 0
            while it.loop.counters.tun_full < 100:
                it.send(packet_of(1000))
                sent += 1
                if sent % 16 == 0:
                    await asyncio.sleep(0)
            written = it.loop.counters.written
            assert written > 50
            for _ in range(written):
                assert it.queue.recv(2000) == NO_OFFLOAD + packet_of(1000)
            it.send(packet_of(7))
            await until(lambda: it.loop.counters.written > written, "the next one")
            it.loop.stop()
            assert_adds_up(it.loop.counters)
            assert it.loop.counters.received == sent + 1

    asyncio.run(body())


def test_a_queue_whose_other_end_goes_is_told_once() -> None:
    async def body() -> None:
        async with alone() as it:
            it.queue.close()
            await until(lambda: bool(it.failures), "the failure")
            it.send(packet_of(7))
            await until(lambda: it.loop.counters.no_tun == 1, "a packet without a device")
            assert [str(one) for one in it.failures] == ["TUN device pair: Broken pipe"]
            it.loop.remove_device(it.device)
            with pytest.raises(LocalError, match="not in the fast path"):
                it.loop.remove_device(it.device)

    asyncio.run(body())


def test_drops_are_counted_by_their_reasons() -> None:
    async def body() -> None:
        async with alone() as it:
            to = (str(it.link.local.address), it.link.local.port)
            good = it.sa.seal(packet_of(10), 4)
            for octets in (good, good, b"\x01" + good[1:], good[:-1] + bytes([good[-1] ^ 1])):
                it.peer.sendto(octets, to)
            it.peer.sendto(it.sa.seal(packet_of(10), 4)[:-4] + bytes(4), to)
            it.queue.send(NO_OFFLOAD + packet_of(10))  # from the UE's address: not what the gateway's SA takes
            await until(lambda: it.loop.counters.received == 5 and it.loop.counters.tun_packets == 1, "packets")
            it.loop.stop()
            counters = it.loop.counters
            assert counters.opening_drops == {"replayed": 2, "unknown_spi": 1, "bad_icv": 1}
            assert counters.sealing_drops == {"no_sa": 1}
            assert counters.written == 1
            assert_adds_up(counters)

    asyncio.run(body())


def test_each_sa_has_its_device_and_devices_come_and_go() -> None:
    """Selectors are the same, the planes are not: each device's packets go by the SA of its own."""

    async def body() -> None:
        async with alone() as it:
            with contextlib.ExitStack() as undo:
                spec = replace(it.sa.spec, inbound_spi=b"\x55" * 4, outbound_spi=b"\x66" * 4)
                plane = FastDataPlane(deliver=lambda *_: None, transmit=lambda *_: None, core=it.plane.core, device=3)
                plane.install(mirrored(spec))
                second = ChildSa(spec, SeededEntropy("second"))
                to = (str(it.link.local.address), it.link.local.port)
                it.peer.sendto(second.seal(packet_of(1), 4), to)
                await until(lambda: it.loop.counters.no_tun == 1, "a packet without a device")
                device, queue = paired("second", undo)
                for round_ in (1, 2):
                    it.loop.add_device(device, 3)
                    with pytest.raises(LocalError, match="a TUN device 3 already"):
                        it.loop.add_device(device, 3)
                    it.peer.sendto(second.seal(packet_of(20), 4), to)
                    it.send(packet_of(10))
                    await until(lambda round_=round_: it.loop.counters.written == 2 * round_, "packets")
                    assert queue.recv(2000) == NO_OFFLOAD + packet_of(20)
                    assert it.queue.recv(2000) == NO_OFFLOAD + packet_of(10)
                    reply = IpPacket(
                        source=HOST_ADDRESS, destination=UE_ADDRESS, protocol=UDP_PROTOCOL, payload=b"back"
                    ).encode()
                    for one in (queue, it.queue):
                        one.send(NO_OFFLOAD + reply)
                    await until(lambda round_=round_: it.loop.counters.sent == 2 * round_, "packets back")
                    it.loop.remove_device(device)
                it.peer.sendto(second.seal(packet_of(30), 4), to)
                await until(lambda: it.loop.counters.no_tun == 2, "a packet whose device has gone")
                it.loop.stop()
                assert_adds_up(it.loop.counters)
                assert it.loop.device_counters(3) == it.loop.device_counters(0) == TunCounters(read=2, written=2)
                assert plane.counters(mirrored(spec).inbound_spi).outbound_packets == 2
                assert it.plane.counters(mirrored(it.sa.spec).inbound_spi).outbound_packets == 2
                with pytest.raises(LocalError, match="64 is no number of a TUN device"):
                    it.loop.add_device(device, native.DEVICES)
                assert it.failures == []

    asyncio.run(body())


def test_a_device_that_ends_is_told_to_whoever_has_it() -> None:
    async def body() -> None:
        async with alone() as it:
            with contextlib.ExitStack() as undo:
                device, queue = paired("second", undo)
                told: list[BackendError] = []
                it.loop.add_device(device, 1, failed=told.append)
                queue.close()
                await until(lambda: bool(told), "the failure")
                assert [str(one) for one in told] == ["TUN device second: Broken pipe"]
                assert it.failures == []
                it.loop.remove_device(device)

    asyncio.run(body())


def back(protocol: Packet, length: int, **fields: object) -> Packet:
    """A packet to the UE."""
    return (
        IP(src=str(HOST_ADDRESS), dst=str(UE_ADDRESS), **fields) / protocol / Raw(bytes(range(250)) * (length // 250))
    )


def super_packet(packet: Packet, kind: int, headers: int, offset: int, size: int) -> bytes:
    """Behind a virtio_net_hdr that leaves checksum and segmentation to its reader."""
    return struct.pack("=BBHHHH", 1, kind, headers, size, 20, offset) + bytes(packet)


def test_a_super_packet_whose_packets_are_too_long_is_answered_once() -> None:
    async def body() -> None:
        async with alone(outer_mtu=1000) as it:
            segments = back(TCP(sport=1, dport=2, flags="PA", seq=7), 12250, flags="DF")
            it.queue.send(super_packet(segments, 1, 40, 16, 1200))
            await until(lambda: bool(it.delivered), "the answer")
            await until(lambda: it.loop.counters.sent == 1, "the last segment, which is short")
            answer = IP(it.delivered[0])
            assert (answer.dst, answer[ICMP].type, answer[ICMP].code) == (str(HOST_ADDRESS), 3, 4)
            assert 900 < answer[ICMP].nexthopmtu < 1000
            assert (answer[ICMP].payload[1].sport, answer[ICMP].payload[1].seq) == (1, 7)
            opened = IP(it.sa.open(it.peer.recv(2000)))
            assert (opened[TCP].seq, len(opened[TCP].payload)) == (7 + 12000, 250)
            it.queue.send(NO_OFFLOAD + bytes(back(TCP(sport=3, dport=2), 1000, flags="DF")))
            await until(lambda: len(it.delivered) == 2, "the next packet's answer")
            it.loop.stop()
            counters = it.loop.counters
            assert (counters.long, counters.sealing_drops) == (2, {"too_big": 9})
            assert it.plane.counters(it.sa.spec.outbound_spi).too_big == 11
            assert it.plane.drops == {DropReason.TOO_BIG: 11}
            assert_adds_up(counters)

    asyncio.run(body())


def test_packets_of_a_super_packet_that_may_be_fragmented_are() -> None:
    async def body() -> None:
        async with alone(outer_mtu=1000) as it:
            datagrams = back(UDP(sport=1, dport=2), 4000)
            it.queue.send(super_packet(datagrams, 5, 28, 6, 1200))
            await until(lambda: it.plane.counters(it.sa.spec.outbound_spi).outbound_packets == 7, "fragments")
            it.loop.stop()
            packets = [IP(it.sa.open(it.peer.recv(2000))) for _ in range(7)]
            assert all(len(packet) < 1000 for packet in packets)
            whole = [packet for packet in defragment(packets) if UDP in packet]
            sent = bytes(datagrams[UDP].payload)
            wanted = {sent[at : at + 1200] for at in range(0, len(sent), 1200)}
            assert {bytes(packet[UDP].payload) for packet in whole} == wanted
            counters = it.loop.counters
            assert (counters.long, counters.sealed) == (3, 1)
            assert it.plane.counters(it.sa.spec.outbound_spi).fragmented == 3
            assert it.delivered == []
            assert_adds_up(counters)

    asyncio.run(body())


def test_long_packets_that_nobody_takes_are_bounded_and_keep_nothing_up() -> None:
    """What is no ESP has another channel; answers are as many as the bucket has."""

    async def body() -> None:
        async with alone(outer_mtu=1000) as it:
            packet, sent = NO_OFFLOAD + bytes(back(UDP(sport=1, dport=2), 1250, flags="DF")), 0
            while sent < 3000:  # the event loop does not run meanwhile
                with contextlib.suppress(BlockingIOError):
                    sent += it.queue.send(packet) == len(packet)
            it.peer.sendto(bytes(4) + b"what is no ESP", (str(it.link.local.address), it.link.local.port))
            it.send(packet_of(10))
            while it.loop.counters.tun_packets < sent or it.loop.counters.received < 2:
                pass
            counters = it.loop.counters
            assert (counters.other, counters.written) == (1, 1)
            assert counters.long_dropped > 0
            assert counters.long > 100
            await until(lambda: it.plane.drops == {DropReason.TOO_BIG: sent}, "what was taken")
            assert ICMP_BURST <= len(it.delivered) < counters.long
            assert counters.long + counters.long_dropped == sent
            it.loop.stop()
            assert_adds_up(counters)

    asyncio.run(body())


@pytest.mark.parametrize("workers", [0, 65])
def test_a_number_of_workers_that_cannot_be(workers: int) -> None:
    plane = FastDataPlane(deliver=lambda packet, spi: None, transmit=lambda octets, path, encapsulation: None)
    with pytest.raises(ValueError, match="1 to 64 were expected"):
        FastLoop(plane.core, too_long=lambda packet, device: plane.send_inner(packet), workers=workers)


def test_a_device_with_another_number_of_queues() -> None:
    plane = FastDataPlane(deliver=lambda packet, spi: None, transmit=lambda octets, path, encapsulation: None)
    loop = FastLoop(plane.core, too_long=lambda packet, device: plane.send_inner(packet), workers=2)
    with pytest.raises(LocalError, match="0 queues for 2 workers"):
        loop.add_device(FastTun("none"))
    loop.close()


def test_errors_of_a_socket_are_counted_and_taken_away() -> None:
    """ICMP errors that somebody wants queued (ip(7), IP_RECVERR) neither end the socket nor keep the thread busy."""

    async def body() -> None:
        plane = FastDataPlane(deliver=lambda packet, spi: None, transmit=lambda octets, path, encapsulation: None)
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with near, far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            loop = native.Loop(plane.core, 1, far.fileno(), far.fileno())
            opened.bind(("127.0.0.1", 0))
            opened.setsockopt(*RECEIVE_ERRORS[4], 1)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
                unused.bind(("127.0.0.1", 0))
                nobody = unused.getsockname()
            loop.add_socket(opened.fileno(), 0, True, bytes((127, 0, 0, 1)), opened.getsockname()[1], False)
            loop.start()
            opened.sendto(b"\xff", nobody)
            await until(lambda: loop.counters()[0]["receive_errors"] >= 1, "the error")
            opened.sendto(b"\xff", opened.getsockname())
            await until(lambda: loop.counters()[0]["keepalives"] == 1, "what comes afterwards")
            loop.stop()
            assert loop.failure() is None
            assert loop.counters()[0]["turns"] < 10

    asyncio.run(body())
