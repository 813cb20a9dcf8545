"""Two ends of the fast path in network namespaces of their own, a veth pair between them, static SAs.

::

    inner 10.45.0.2, 2001:db8:45::2          outer                    inner 10.99.0.1, 2001:db8:99::1
    ue: TUN ── FastLoop ── 198.51.100.7:4500 ──── 198.51.100.1:4500 ── FastLoop ── TUN :gateway
                           2001:db8:100::7        2001:db8:100::1
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_interface, ip_network

from lab.namespaces import Namespace
from protocols.dataplane.fast.link import FastLink, FastRawLink
from protocols.dataplane.fast.loop import FastLoop, LoopCounters
from protocols.dataplane.fast.plane import FastDataPlane
from protocols.dataplane.fast.tun import FastTun
from protocols.errors import BackendError
from protocols.esp.sa import ChildSaSpec
from protocols.path import Address, Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import mirrored, ue_spec

UE_INNER = (ip_interface("10.45.0.2/32"), ip_interface("2001:db8:45::2/128"))
HOST_INNER = (ip_interface("10.99.0.1/32"), ip_interface("2001:db8:99::1/128"))
UE_NETWORKS = (ip_network("10.45.0.0/16"), ip_network("2001:db8:45::/48"))
HOST_NETWORKS = (ip_network("10.99.0.0/16"), ip_network("2001:db8:99::/48"))
UE_OUTER = (ip_interface("198.51.100.7/24"), ip_interface("2001:db8:100::7/64"))
GATEWAY_OUTER = (ip_interface("198.51.100.1/24"), ip_interface("2001:db8:100::1/64"))
GATEWAY_SECOND = ip_interface("198.51.100.2/24")
WIRE = "wire"
TUN = "inner"
MTU = 1400
PORT = 4500
LIMIT = 20.0

Interface = IPv4Interface | IPv6Interface


def spec_between(ue: Address, gateway: Address, suite: str, *, number: int = 1) -> ChildSaSpec:
    """The UE's end of a child SA for both inner families."""
    return replace(
        ue_spec(suite, number=number, replay_window=1024),
        local_selectors=tuple(TrafficSelector.host(one.ip) for one in UE_INNER),
        remote_selectors=(TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0")),
        path=Path(Endpoint(ue, PORT), Endpoint(gateway, PORT)),
    )


@dataclass(eq=False)
class End:
    """One end: its namespace, plane, loop, device and links, and what came that is no ESP."""

    namespace: Namespace
    plane: FastDataPlane
    loop: FastLoop
    device: FastTun
    links: list[FastLink | FastRawLink]
    open_device: Callable[[], FastTun]
    others: list[tuple[bytes, Path]] = field(default_factory=list)
    failures: list[BackendError] = field(default_factory=list)
    delivered: list[bytes] = field(default_factory=list)
    outer_mtu: int | None = None

    def deliver(self, packet: bytes) -> None:
        """What Python makes for the end's own kernel."""
        self.delivered.append(packet)
        self.device.write(packet)

    @property
    def counters(self) -> LoopCounters:
        return self.loop.counters

    def open_link(self, address: Address) -> FastLink:
        link = self.namespace.call(lambda: self.loop.open_link(Endpoint(address, PORT), self._take))
        self.links.append(link)
        return link

    def open_raw(self, address: Address) -> FastRawLink:
        link = self.namespace.call(lambda: self.loop.open_raw(Endpoint(address, PORT)))
        self.links.append(link)
        return link

    def _take(self, octets: bytes, path: Path) -> None:
        self.others.append((octets, path))

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        opened = self.namespace.call(lambda: socket.socket(family, kind))
        opened.settimeout(LIMIT)
        return opened

    def close(self) -> None:
        self.loop.close()
        for link in self.links:
            link.close()
        self.device.close()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Both ends and the SA between them."""

    ue: End
    gateway: End
    spec: ChildSaSpec

    def check_sums(self) -> None:
        """Nothing is lost unseen (see ``LoopCounters``), once the threads have ended their last turn."""
        for end in (self.ue, self.gateway):
            end.loop.stop()
            assert_adds_up(end.counters)


def assert_adds_up(counters: LoopCounters) -> None:
    long = counters.long + counters.long_dropped
    assert counters.tun_packets == counters.sealed + long + sum(counters.sealing_drops.values())
    assert counters.sealed == counters.sent + counters.socket_full + counters.send_errors + counters.no_socket
    assert counters.received == (
        counters.keepalives
        + counters.short
        + counters.other
        + counters.other_dropped
        + counters.opened
        + sum(counters.opening_drops.values())
    )
    assert counters.opened == counters.written + counters.tun_full + counters.tun_refused + counters.no_tun


def end_in(
    namespace: Namespace, inner: tuple[Interface, ...], routes: tuple[IPv4Network | IPv6Network, ...], workers: int
) -> End:
    failures: list[BackendError] = []
    plane = FastDataPlane(
        deliver=lambda packet, spi: end.deliver(packet),
        transmit=lambda octets, path, encapsulation, traffic_class: end.links[0].send(
            octets, path.remote, traffic_class
        ),
        path_mtu=lambda path: end.outer_mtu,
    )
    loop = FastLoop(
        plane.core, too_long=lambda packet, device: plane.send_inner(packet), workers=workers, failed=failures.append
    )

    def open_device() -> FastTun:
        return namespace.call(lambda: asyncio.run(FastTun.open(TUN, inner, MTU, routes, queues=workers)))

    device = open_device()
    loop.add_device(device)
    end = End(
        namespace=namespace,
        plane=plane,
        loop=loop,
        device=device,
        links=[],
        open_device=open_device,
        failures=failures,
    )
    return end


@contextlib.contextmanager
def wired() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with a veth pair and outer addresses."""
    with Namespace("ue", ipv6=True) as ue, Namespace("gateway", ipv6=True) as gateway:
        ue.connect(WIRE, gateway, WIRE)
        for interface in UE_OUTER:
            ue.add_address(WIRE, interface)
        for interface in (*GATEWAY_OUTER, GATEWAY_SECOND):
            gateway.add_address(WIRE, interface)
        yield ue, gateway


@contextlib.asynccontextmanager
async def ends(
    suite: str = "aes128gcm16", *, version: int = 4, workers: int = 1, encapsulation: bool = True
) -> AsyncIterator[Pair]:
    """Two running ends with a child SA between their outer addresses of ``version``."""
    at = 0 if version == 4 else 1
    ue_outer, gateway_outer = UE_OUTER[at].ip, GATEWAY_OUTER[at].ip
    spec = replace(spec_between(ue_outer, gateway_outer, suite), encapsulation=encapsulation)
    with wired() as (ue_namespace, gateway_namespace), contextlib.ExitStack() as undo:
        ue = end_in(ue_namespace, UE_INNER, HOST_NETWORKS, workers)
        undo.callback(ue.close)
        gateway = end_in(gateway_namespace, HOST_INNER, UE_NETWORKS, workers)
        undo.callback(gateway.close)
        for end, outer in ((ue, ue_outer), (gateway, gateway_outer)):
            if encapsulation:
                end.open_link(outer)
            else:
                end.open_raw(outer)
        ue.plane.install(spec)
        gateway.plane.install(mirrored(spec))
        ue.loop.start()
        gateway.loop.start()
        yield Pair(ue=ue, gateway=gateway, spec=spec)


def octets(length: int, seed: int) -> bytes:
    """Octets that look like nothing else."""
    return random.Random(seed).randbytes(length)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def transfer(
    sender: End, receiver: End, address: Address, length: int, *, write: Callable[[int], int], seed: int = 1
) -> bool:
    """Send ``length`` octets by TCP from one end's kernel to the other's; whether just these arrived.

    ``write`` says how many octets the next write has, by the number already written.
    """
    sent = octets(length, seed)
    arrived = hashlib.sha256()
    received = 0

    with receiver.socket(_family(address), socket.SOCK_STREAM) as listener:
        listener.bind((str(address), 0))
        listener.listen(1)
        port = listener.getsockname()[1]

        def send() -> None:
            with sender.socket(_family(address), socket.SOCK_STREAM) as stream:
                stream.connect((str(address), port))
                done = 0
                while done < length:
                    done += stream.send(sent[done : done + write(done)])

        thread = threading.Thread(target=send)
        thread.start()
        try:
            stream, _ = listener.accept()
            with stream:
                stream.settimeout(LIMIT)
                while piece := stream.recv(1 << 18):
                    arrived.update(piece)
                    received += len(piece)
        finally:
            thread.join()
    return received == length and arrived.digest() == hashlib.sha256(sent).digest()


def inner_address(end: str, version: int) -> Address:
    """The inner address of ``ue`` or ``host``."""
    return ip_address((UE_INNER if end == "ue" else HOST_INNER)[0 if version == 4 else 1].ip)


async def until(ready: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    """Wait until something is so."""
    deadline = asyncio.get_running_loop().time() + limit
    while not ready():
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(what)
        await asyncio.sleep(0.002)
