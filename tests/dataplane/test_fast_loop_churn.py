"""The threads of the fast path carry packets by the very SAs that come, go, move and take over meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

import pytest

from protocols.dataplane.fast.loop import FastLink, FastLoop
from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.fast.tun import FastTun
from protocols.esp.sa import ChildSaSpec, DropReason
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.fast_ends import assert_adds_up, until
from tests.dataplane.packets import udp
from tests.dataplane.pairs import mirrored, ue_spec

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

WORKERS = 2
CHURNS = 400
CROWD = 600  # more SAs than keep contexts of libcrypto of their own
LIMIT = 20.0
NO_OFFLOAD = bytes(10)  # a virtio_net_hdr
HOST = ip_address("192.0.2.80")
STEADY, CHANGING = "10.45.0.2", "10.45.0.3"  # the UEs of an SA that stays, and of those that follow one another


@dataclass(eq=False)
class Busy:
    """A gateway's plane and loop; queues and UEs' sockets at whose other ends threads write and read all the time."""

    plane: FastDataPlane
    loop: FastLoop
    link: FastLink
    queues: list[socket.socket]
    peers: list[socket.socket]
    delivered: list[bytes]
    stop: threading.Event = field(default_factory=threading.Event)
    wire: list[bytes] = field(default_factory=list)
    """SPI and sequence number of what came to the UEs."""
    inside: list[bytes] = field(default_factory=list)
    """Inner packets that came out of the queues."""

    def paths(self) -> list[Path]:
        """From the UEs' sockets."""
        return [Path(Endpoint.of("127.0.0.1", peer.getsockname()[1]), self.link.local) for peer in self.peers]

    def sends_into(self, queue: socket.socket) -> None:
        """Packets to both UEs, in turn."""
        packets = [NO_OFFLOAD + udp(HOST, ue, bytes(size)) for ue in (STEADY, CHANGING) for size in (10, 600)]
        while not self.stop.is_set():
            for packet in packets:
                with contextlib.suppress(TimeoutError):
                    queue.send(packet)

    def reads(self, opened: socket.socket, keep: Callable[[bytes], object]) -> None:
        """Until it is told to stop, and then all that waits."""
        while True:
            stopped = self.stop.is_set()
            try:
                while True:
                    keep(opened.recv(2048))
            except TimeoutError:
                if stopped:
                    return


def specification(ue: str, number: int, path: Path) -> ChildSaSpec:
    """The UE's end."""
    return replace(
        ue_spec("aes128gcm16", number=number, ue_address=ue, replay_window=4096),
        path=path,
        remote_selectors=(TrafficSelector.network("192.0.2.0/24"),),
    )


def sealed_by_ue(spec: ChildSaSpec, first: int, count: int) -> list[bytes]:
    """ESP packets of a UE, each with another inner packet."""
    sealed: list[bytes] = []
    ue = FastDataPlane(deliver=lambda *_: None, transmit=lambda octets, *_: sealed.append(octets))
    ue.install(spec)
    source = spec.local_selectors[0].start
    for number in range(first, first + count):
        assert ue.send_inner(udp(source, HOST, b"number %d" % number))
    return sealed


def busy(undo: contextlib.ExitStack) -> Busy:
    delivered: list[bytes] = []
    plane = FastDataPlane(deliver=lambda packet, spi: delivered.append(packet), transmit=lambda *_: None)
    loop = FastLoop(plane.core, too_long=plane.send_inner, workers=WORKERS)
    undo.callback(loop.close)
    link = loop.open_link(Endpoint.of("127.0.0.1", 0), lambda octets, path: None)
    undo.callback(link.close)
    device, queues, peers = FastTun("pair"), [], []
    undo.callback(device.close)
    for _ in range(WORKERS):
        far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        device.queues += (near.detach(),)
        queues.append(undo.enter_context(far))
        peers.append(undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        peers[-1].bind(("127.0.0.1", 0))
    for opened in (*queues, *peers):
        opened.settimeout(0.05)
    loop.add_device(device)
    return Busy(plane=plane, loop=loop, link=link, queues=queues, peers=peers, delivered=delivered)


def crowd(plane: FastDataPlane, path: Path) -> None:
    """SAs that have sent, and so keep what later ones have to borrow."""
    for number in range(100_000, 100_000 + CROWD):
        ue = f"10.46.{number >> 8 & 255}.{number & 255}"
        plane.install(mirrored(specification(ue, number, path)))
        assert plane.send_inner(udp(HOST, ue))


def churn(it: Busy, number: int, old: bytes) -> bytes:
    """A successor at once, or by its first packet or the old one's end; it moves; the old one goes."""
    plane, (here, there) = it.plane, it.paths()
    following = mirrored(specification(CHANGING, number, here))
    plane.replace(old, following, send_at_once=number % 3 == 0)
    plane.update_path(old, there.reversed(), True)
    to = (str(it.link.local.address), it.link.local.port)
    for packet in sealed_by_ue(mirrored(following), number * 1000, 2) if number % 3 == 1 else []:
        it.peers[0].sendto(packet, to)
    assert plane.counters(old).outbound_packets >= 0
    plane.update_path(following.inbound_spi, (there if number % 2 else here).reversed(), True)
    if number % 5 == 0:
        plane.retire(old)
    while plane.poll_event() is not None:
        pass
    plane.remove(old)
    with pytest.raises(Exception, match="is not installed"):
        plane.counters(old)
    return following.inbound_spi


@pytest.mark.parametrize("crowded", [False, True], ids=["few", "among very many"])
def test_sas_come_go_and_move_under_the_workers(crowded: bool) -> None:
    """No sequence number leaves twice, no ESP packet enters twice, and every packet is accounted for."""

    async def body() -> None:
        with contextlib.ExitStack() as undo:
            it = busy(undo)
            steady = specification(STEADY, 1, it.paths()[0])
            changing = mirrored(specification(CHANGING, 2, it.paths()[0]))
            if crowded:
                crowd(it.plane, it.paths()[0])
            it.plane.install(mirrored(steady))
            it.plane.install(changing)
            twice = sealed_by_ue(steady, 0, CHURNS)
            threads = [threading.Thread(target=it.sends_into, args=(queue,)) for queue in it.queues]
            threads += [
                threading.Thread(target=it.reads, args=(queue, lambda octets: it.inside.append(octets[10:])))
                for queue in it.queues
            ]
            threads += [
                threading.Thread(target=it.reads, args=(peer, lambda octets: it.wire.append(octets[:8])))
                for peer in it.peers
            ]
            it.loop.start()
            for thread in threads:
                thread.start()
            try:
                spi = changing.inbound_spi
                to, path = (str(it.link.local.address), it.link.local.port), steady.path.reversed()
                for number, packet in enumerate(twice, 3):
                    it.peers[0].sendto(packet, to)
                    it.plane.receive_esp(packet, path)  # a worker opens it at the same time
                    spi = churn(it, number, spi)
                    if number % 8 == 0:
                        sealed = it.loop.counters.sealed + 16  # packets to both UEs
                        await until(lambda sealed=sealed: it.loop.counters.sealed > sealed, "packets", LIMIT)
            finally:
                it.stop.set()
                for thread in threads:
                    thread.join(LIMIT)
                it.loop.stop()
            counters = it.loop.counters
            assert_adds_up(counters)
            assert it.plane.failures == 0
            assert len(it.wire) > CHURNS
            assert len(set(it.wire)) == len(it.wire) <= counters.sent
            assert len({octets[:4] for octets in it.wire}) > CHURNS // 20
            arrived = it.inside + it.delivered
            assert len(set(arrived)) == len(arrived) == counters.written + len(it.delivered)
            of_steady = [packet for packet in arrived if packet[12:16] == ip_address(STEADY).packed]
            assert CHURNS - counters.tun_full <= len(of_steady) <= CHURNS
            assert it.plane.drops[DropReason.REPLAYED] == CHURNS
            found = it.plane.counters(mirrored(steady).inbound_spi)
            assert (found.inbound_packets, found.replayed) == (CHURNS, CHURNS)
            assert it.plane.installed[-2:] == (mirrored(steady).inbound_spi, spi)

    asyncio.run(body())
