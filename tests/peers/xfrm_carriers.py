"""A UE and a gateway whose ESP the kernel carries, each a thread in a namespace of its own, and a network behind.

::

    10.45.0.2, 2001:db8:45:1::1                10.45.0.1, 2001:db8:45::1
                  (pdn0) ue ── ue0 ──────── gw0 ── gateway (epdg0) ── net0 ──────── eth0 ── network
                         198.51.100.7      198.51.100.1           192.0.2.1       192.0.2.80
                         203.0.113.9                                              2001:db8:80::80

Reverse-path filters are strict everywhere, the gateway forwards.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface, ip_network
from typing import TypeVar

from pyroute2 import IPRoute

from lab.namespaces import Namespace
from protocols.dataplane.xfrm.carrier import KernelCarrier, KernelPlane
from protocols.dataplane.xfrm.device import KernelDevice
from protocols.errors import BackendError
from protocols.esp.sa import ChildSaSpec
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.io.link import Link
from protocols.ip import ICMPV6, UDP, IpPacket, UdpDatagram
from protocols.path import Address, Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import mirrored, ue_spec
from tests.peers.xfrm_scene import ETH_P_ALL, FAMILIES, Seen, esp_of

T = TypeVar("T")

LIMIT = 10.0
SILENCE = 0.2  # seconds after which a packet between namespaces of one machine does not come any more
PORT = 5000
ECHO = 129  # the last type of ICMPv6 that is not the link's own business (RFC 4443)
MTU = 1400
UE_OUTER = Endpoint.of("198.51.100.7", 4500)
UE_ELSEWHERE = Endpoint.of("203.0.113.9", 4500)
GATEWAY_OUTER = Endpoint.of("198.51.100.1", 4500)
UE_INNER = {4: "10.45.0.2", 6: "2001:db8:45:1::1"}
GATEWAY_INNER = {4: "10.45.0.1", 6: "2001:db8:45::1"}
SERVER = {4: "192.0.2.80", 6: "2001:db8:80::80"}
POOLS = ("10.45.0.1/16", "2001:db8:45::1/48")
NETWORKS = ("192.0.2.0/24", "10.45.0.1/32", "2001:db8:80::/64", "2001:db8:45::1/128")


def selectors(*texts: str) -> tuple[TrafficSelector, ...]:
    return tuple(TrafficSelector.network(text) for text in texts)


def spec_of(suite: str = "aes128gcm16", *, number: int = 1, encapsulation: bool = True) -> ChildSaSpec:
    """A child SA of the UE's for both its inner addresses."""
    return replace(
        ue_spec(suite, number=number),
        local_selectors=selectors(*(f"{each}/{32 if version == 4 else 128}" for version, each in UE_INNER.items())),
        remote_selectors=selectors("0.0.0.0/0", "::/0"),
        path=Path(UE_OUTER, GATEWAY_OUTER),
        encapsulation=encapsulation,
    )


def datagram(source: str | Address, destination: str | Address, payload: bytes = b"of the node's own") -> bytes:
    """An IP packet with a UDP datagram."""
    here, there = Endpoint.of(str(source), 0).address, Endpoint.of(str(destination), 0).address
    inner = UdpDatagram(source_port=PORT, destination_port=PORT, payload=payload)
    return IpPacket(source=here, destination=there, protocol=UDP, payload=inner.encode(here, there)).encode()


class End:
    """A carrier in a namespace, on the loop of a thread of its own."""

    def __init__(self, namespace: Namespace, *outer: Endpoint, policy: TunnelPolicy = DEFAULT_POLICY) -> None:
        self.namespace = namespace
        self.carrier = KernelCarrier(policy=policy)
        self.ike: list[tuple[bytes, Path]] = []
        self.told = 0
        self.failures: list[BackendError] = []
        self._stirred = asyncio.Event()
        self._links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=namespace.name)
        self._thread.start()
        self.plane = self.new_plane()
        self.call(self.carrier.start)
        for each in outer:
            self.open(each)

    def open(self, local: Endpoint) -> None:
        """An encapsulating port, whose IKE goes to ``ike``."""

        def received(octets: bytes, path: Path) -> None:
            self.ike.append((octets, path))
            self._stirred.set()

        self._links.append(self.call(lambda: self.carrier.open_link(local, received)))

    def new_plane(self) -> KernelPlane:
        """A plane whose events count as ``told``."""

        def told() -> None:
            self.told += 1
            self._stirred.set()

        made = self.carrier.plane(
            deliver=lambda packet, spi: None,
            transmit=lambda octets, path, encapsulation, traffic_class: None,
            told=told,
            path_mtu=lambda path: None,
        )
        assert isinstance(made, KernelPlane)
        return made

    def device(
        self,
        name: str,
        addresses: Sequence[str],
        routes: Sequence[str] = (),
        mtu: int = MTU,
        plane: KernelPlane | None = None,
        metric: int = 0,
    ) -> KernelDevice:
        """Open the device of a plane, the first one, and start it."""
        interfaces, networks = [ip_interface(each) for each in addresses], [ip_network(each) for each in routes]
        device = self.run(self.carrier.open_device(plane or self.plane, name, interfaces, mtu, networks, metric=metric))

        def failed(error: BackendError) -> None:
            self.failures.append(error)
            self._stirred.set()

        self.call(lambda: device.start(lambda packet: None, failed))
        return device

    def delete_device(self, name: str) -> None:
        """As somebody else does."""

        def delete() -> None:
            with IPRoute() as route:
                route.link("del", ifname=name)

        self.namespace.call(delete)

    def run(self, coroutine: Coroutine[None, None, T]) -> T:
        """What a coroutine comes to on this end's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LIMIT)

    def call(self, function: Callable[[], T]) -> T:
        """What a function returns there."""

        async def called() -> T:
            return function()

        return self.run(called())

    def until(self, condition: Callable[[], bool]) -> None:
        """Return when what this end was told of makes something so."""

        async def turn() -> None:
            while not condition():
                self._stirred.clear()
                await self._stirred.wait()

        self.run(turn())

    def close(self) -> None:
        """The carrier, then the thread."""
        if self._thread.is_alive():
            for link in self._links:
                self.call(link.close)
            self.call(self.carrier.close)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self) -> None:
        self.namespace.enter()
        self._loop.run_forever()


@dataclass(kw_only=True)
class Stage:
    """``ue`` and ``gateway`` are ends, ``server`` are sockets behind the gateway by version of IP."""

    ue: End
    gateway: End
    network: Namespace
    ue_device: KernelDevice
    gateway_device: KernelDevice
    wires: Sequence[socket.socket]
    sockets: dict[tuple[str, str], socket.socket] = field(default_factory=dict)

    def install(self, spec: ChildSaSpec) -> ChildSaSpec:
        """Both ends of a child SA."""
        self.ue.call(lambda: self.ue.plane.install(spec))
        self.gateway.call(lambda: self.gateway.plane.install(mirrored(spec)))
        return spec

    def remove(self, spec: ChildSaSpec) -> None:
        """Both."""
        self.ue.call(lambda: self.ue.plane.remove(spec.inbound_spi))
        self.gateway.call(lambda: self.gateway.plane.remove(spec.outbound_spi))

    def socket(self, where: Namespace, address: str) -> socket.socket:
        """A UDP socket of an address, kept."""
        key = where.name, address

        def opened() -> socket.socket:
            made = socket.socket(FAMILIES[6 if ":" in address else 4], socket.SOCK_DGRAM)
            made.bind((address, PORT))
            made.settimeout(LIMIT)
            return made

        if key not in self.sockets:
            self.sockets[key] = where.call(opened)
        return self.sockets[key]

    def outer_mtu(self, mtu: int) -> None:
        """Of the link between UE and gateway."""
        for namespace, interface in ((self.ue.namespace, "ue0"), (self.gateway.namespace, "gw0")):

            def change(interface: str = interface) -> None:
                with IPRoute() as route:
                    route.link("set", index=route.link_lookup(ifname=interface)[0], mtu=mtu)

            namespace.call(change)

    def there_and_back(self, version: int = 4, payload: bytes = b"there and back") -> str:
        """A datagram of the UE's to the server and its answer; from where the server saw it come."""
        mine = self.socket(self.ue.namespace, UE_INNER[version])
        server = self.socket(self.network, SERVER[version])
        mine.sendto(payload, (SERVER[version], PORT))
        octets, source = server.recvfrom(65535)
        assert octets == payload
        server.sendto(payload, source)
        assert mine.recv(65535) == payload
        return str(source[0])

    def silent(self, receiver: socket.socket) -> bool:
        """Whether nothing comes."""
        receiver.settimeout(SILENCE)
        try:
            receiver.recv(65535)
        except TimeoutError:
            return True
        finally:
            receiver.settimeout(LIMIT)
        return False

    def captured(self) -> list[bytes]:
        """The IP packets that UE and gateway have sent one another since the last time, the UE's first."""
        found = []
        for wire in self.wires:
            while True:
                try:
                    octets, where = wire.recvfrom(65535, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    break
                if where[2] == socket.PACKET_OUTGOING:  # what comes in is seen again when it is decapsulated
                    found.append(octets)
        return found

    def in_the_clear(self) -> list[bytes]:
        """Those of them that are no ESP, and no housekeeping of IPv6's."""
        return [
            each
            for each in self.captured()
            if esp_of(each) is None
            and (each[0] >> 4 == 4 or each[6] == UDP or (each[6] == ICMPV6 and each[40] <= ECHO))
        ]

    def forward(self) -> None:
        """Let the gateway forward, whatever it did before."""
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            self.gateway.namespace.set_sysctl(key, 1)

    def esp(self) -> list[Seen]:
        """The ESP packets."""
        return [each for each in map(esp_of, self.captured()) if each is not None]


@contextmanager
def carriers(policy: TunnelPolicy = DEFAULT_POLICY) -> Iterator[Stage]:
    """Everything, and gone at the end."""
    with ExitStack() as stack:
        ue, gateway, network = (
            stack.enter_context(Namespace(name, ipv6=True)) for name in ("ue", "gateway", "network")
        )
        ue.connect("ue0", gateway, "gw0")
        gateway.connect("net0", network, "eth0")
        for namespace in (ue, gateway, network):
            for scope in ("all", "default"):
                namespace.set_sysctl(f"net/ipv4/conf/{scope}/rp_filter", 1)
        for address in (f"{UE_OUTER.address}/24", f"{UE_ELSEWHERE.address}/24"):
            ue.add_address("ue0", address)
        for address in (f"{GATEWAY_OUTER.address}/24", "203.0.113.1/24"):
            gateway.add_address("gw0", address)
        for address in ("192.0.2.1/24", "2001:db8:80::1/64"):
            gateway.add_address("net0", address)
        for address in (f"{SERVER[4]}/24", f"{SERVER[6]}/64"):
            network.add_address("eth0", address)
        network.add_route("10.45.0.0/16", via="192.0.2.1")
        network.add_route("2001:db8:45::/48", via="2001:db8:80::1")
        ends = []
        for namespace, outer in ((ue, (UE_OUTER, UE_ELSEWHERE)), (gateway, (GATEWAY_OUTER,))):
            ends.append(End(namespace, *outer, policy=policy))
            stack.callback(ends[-1].close)

        def packets(interface: str) -> socket.socket:
            made = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            made.bind((interface, ETH_P_ALL))
            return made

        made = Stage(
            ue=ends[0],
            gateway=ends[1],
            network=network,
            ue_device=ends[0].device("pdn0", [f"{UE_INNER[4]}/32", f"{UE_INNER[6]}/128"], NETWORKS),
            gateway_device=ends[1].device("epdg0", POOLS),
            wires=(ue.call(lambda: packets("ue0")), gateway.call(lambda: packets("gw0"))),
        )
        made.forward()
        yield made
        for each in made.sockets.values():
            each.close()
