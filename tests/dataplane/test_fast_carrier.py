"""``CompiledCarrier`` between kernels in namespaces: a UE with two PDN connections, a gateway with one network.

::

    ue: ims  10.46.0.2 ─┐                                           ┌─ sgi 10.99.0.1
        net  10.45.0.2 ─┴─ 198.51.100.7:4500 ──── 198.51.100.1:4500 ┘
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from pyroute2 import IPRoute

from lab.namespaces import Namespace
from protocols.dataplane.fast import plane as fast
from protocols.dataplane.port import Backend, LifetimeReached, PeerEndpointObserved
from protocols.errors import BackendError, LocalError
from protocols.esp.sa import ChildSaSpec, DropReason, UsageLimits
from protocols.esp.tunnel import TunnelPolicy
from protocols.io.link import Link
from protocols.path import Address, Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.fast_ends import GATEWAY_OUTER, UE_OUTER, inner_address, spec_between, until, wired
from tests.dataplane.pairs import mirrored
from tests.peers.namespaces import ping, require_namespaces

pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

from protocols.dataplane.fast import _native  # noqa: E402
from protocols.dataplane.fast.carrier import PLANES_MAXIMUM, CompiledCarrier, FastDevice  # noqa: E402

pytestmark = pytest.mark.root

HOST = inner_address("host", 4)
NET, IMS = ip_address("10.45.0.2"), ip_address("10.46.0.2")
SGI_NETWORKS = (ip_network("10.45.0.0/16"), ip_network("10.46.0.0/16"))
PORT = 4500
MTU = 1400


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    require_namespaces()


@dataclass(eq=False)
class Side:
    """A node: its carrier and what it has made."""

    namespace: Namespace
    carrier: CompiledCarrier
    address: Address
    links: list[Link] = field(default_factory=list)
    devices: list[FastDevice] = field(default_factory=list)
    devices_of: dict[str, FastDevice] = field(default_factory=dict)
    delivered: list[tuple[str, bytes]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    failures: list[BackendError] = field(default_factory=list)
    outer_mtu: int | None = None

    def open_link(self) -> Link:
        local = Endpoint(self.address, PORT)
        link = self.namespace.call(lambda: self.carrier.open_link(local, lambda octets, path: None))
        self.links.append(link)
        return link

    def plane(self, name: str) -> fast.FastDataPlane:
        def deliver(packet: bytes, inbound_spi: bytes) -> None:
            del inbound_spi
            self.delivered.append((name, packet))
            if name in self.devices_of:
                self.devices_of[name].write(packet)

        def transmit(octets: bytes, path: Path, encapsulation: bool, traffic_class: int) -> None:
            assert encapsulation
            self.links[0].send(octets, path.remote, traffic_class)

        return self.carrier.plane(
            deliver=deliver,
            transmit=transmit,
            told=lambda: self.told.append(name),
            path_mtu=lambda path: self.outer_mtu,
        )

    async def open_device(self, plane: fast.FastDataPlane, name: str, address: str, *routes: str) -> FastDevice:
        def inside() -> FastDevice:
            networks = [ip_network(route) for route in routes]
            return asyncio.run(self.carrier.open_device(plane, name, [ip_interface(address)], MTU, networks))

        device = await asyncio.to_thread(self.namespace.call, inside)
        self.devices.append(device)
        self.devices_of[name] = device
        device.start(lambda packet: None, self.failures.append)
        return device

    def close(self) -> None:
        self.carrier.close()
        self.carrier.close()
        for each in (*self.links, *self.devices):
            each.close()
            each.close()


@contextlib.asynccontextmanager
async def sides(
    *, workers: int | None = 2, path_mtu_interval: float = 10.0, policy: TunnelPolicy | None = None
) -> AsyncIterator[tuple[Side, Side]]:
    """Both carriers, started, a link open at each."""
    with wired() as (ue_namespace, gateway_namespace), contextlib.ExitStack() as undo:
        made = []
        for namespace, interfaces in ((ue_namespace, UE_OUTER), (gateway_namespace, GATEWAY_OUTER)):
            namespace.set_sysctl("net/ipv6/conf/default/disable_ipv6", 1)  # a TUN device's own packets, else
            carrier = CompiledCarrier(
                workers=workers, path_mtu_interval=path_mtu_interval, policy=policy or TunnelPolicy()
            )
            side = Side(namespace, carrier, interfaces[0].ip)
            undo.callback(side.close)
            carrier.start()
            side.open_link()
            made.append(side)
        yield made[0], made[1]


def spec_of(address: Address, number: int) -> ChildSaSpec:
    """The UE's SA of a PDN connection."""
    return replace(
        spec_between(UE_OUTER[0].ip, GATEWAY_OUTER[0].ip, "aes128gcm16", number=number),
        local_selectors=(TrafficSelector.host(address),),
    )


@dataclass(frozen=True, kw_only=True)
class Connected:
    """Both PDN connections."""

    ue: Side
    gateway: Side
    net: fast.FastDataPlane
    ims: fast.FastDataPlane
    sgi: fast.FastDataPlane


@contextlib.asynccontextmanager
async def connected(*, path_mtu_interval: float = 10.0, limits: UsageLimits | None = None) -> AsyncIterator[Connected]:
    async with sides(path_mtu_interval=path_mtu_interval) as (ue, gateway):
        net, ims, sgi = ue.plane("net"), ue.plane("ims"), gateway.plane("sgi")
        for plane, address, number in ((net, NET, 1), (ims, IMS, 2)):
            spec = spec_of(address, number)
            plane.install(spec if limits is None or plane is net else replace(spec, limits=limits))
            sgi.install(mirrored(spec))
        await ue.open_device(net, "net", f"{NET}/32", "10.99.0.0/16")
        await ue.open_device(ims, "ims", f"{IMS}/32")
        await gateway.open_device(sgi, "sgi", f"{HOST}/32", *map(str, SGI_NETWORKS))
        yield Connected(ue=ue, gateway=gateway, net=net, ims=ims, sgi=sgi)


async def pings(side: Side, to: Address, *, source: Address | None = None, count: int = 3, wait: float = 1.0) -> int:
    done = await asyncio.to_thread(ping, side.namespace, to, count=count, source=source, wait=wait)
    return done.received


def test_two_views_of_one_core() -> None:
    async def body() -> None:
        async with connected() as it:
            assert it.ue.carrier.backend is Backend.COMPILED
            assert not it.ue.carrier.sees_packets
            assert it.net.installed == (spec_of(NET, 1).inbound_spi,)
            assert it.ims.installed == (spec_of(IMS, 2).inbound_spi,)
            assert await pings(it.gateway, NET, count=3) == 3
            assert await pings(it.gateway, IMS, count=5) == 5
            net, ims = it.ue.devices
            assert net.counters.written == 3
            assert ims.counters.written == 5
            assert it.gateway.devices[0].counters.read == 8
            assert it.gateway.devices[0].counters.written == 8
            assert it.ims.counters(it.ims.installed[0]).inbound_packets == 5
            with pytest.raises(LocalError, match="is not installed"):
                it.net.counters(it.ims.installed[0])
            assert it.ue.delivered == it.gateway.delivered == []
            assert it.ue.carrier.dropped == it.gateway.carrier.dropped == {}

    asyncio.run(body())


def test_a_device_comes_again_with_counters_of_its_own() -> None:
    async def body() -> None:
        async with connected() as it:
            assert await pings(it.gateway, IMS) == 3
            old = it.ue.devices[1]
            old.close()
            assert (old.counters.written, old.counters.refused) == (3, 0)
            with pytest.raises(LocalError, match="TUN device ims is closed"):
                old.write(b"")
            assert await pings(it.gateway, IMS, count=1, wait=0.1) == 0
            assert it.ue.carrier.dropped == {"no_tun": 1}
            new = await it.ue.open_device(it.ims, "ims", f"{IMS}/32")
            assert new.counters.written == 0
            with pytest.raises(LocalError, match="is closed or started already"):
                new.start(lambda packet: None, it.ue.failures.append)
            assert await pings(it.gateway, IMS, count=2) == 2
            assert new.counters.written == 2
            assert old.counters.written == 3
            assert await pings(it.gateway, NET, count=1) == 1

    asyncio.run(body())


def test_what_the_node_writes_and_sends_itself() -> None:
    """Echo requests of the node's own: into the tunnel, and into the device as if out of it."""

    async def body() -> None:
        async with connected() as it:
            request = bytes.fromhex("4500001c000040004001") + bytes(2) + IMS.packed + HOST.packed
            request = _with_checksum(request) + _with_checksum(bytes.fromhex("0800000000010001"), at=2)
            assert it.ims.send_inner(request)
            await until(lambda: it.ue.devices[1].counters.written == 1, "the answer")
            assert it.gateway.devices[0].counters.written == 1
            to_ue = _with_checksum(request[:10] + bytes(2) + HOST.packed + IMS.packed) + request[20:]
            assert it.ue.devices[1].write(to_ue)
            await until(lambda: it.gateway.devices[0].counters.written == 2, "the answer of the UE's kernel")
            assert not it.ue.devices[1].write(bytes(20))
            assert (it.ue.devices[1].counters.written, it.ue.devices[1].counters.refused) == (2, 1)

    asyncio.run(body())


def _with_checksum(header: bytes, at: int = 10) -> bytes:
    words = header[:at] + bytes(2) + header[at + 2 :]
    total = sum(int.from_bytes(words[i : i + 2], "big") for i in range(0, len(words), 2))
    total = (total & 0xFFFF) + (total >> 16)
    return words[:at] + (~total & 0xFFFF).to_bytes(2, "big") + words[at + 2 :]


def test_events_come_to_the_view_that_has_the_sa() -> None:
    async def body() -> None:
        async with connected(limits=UsageLimits(soft_packets=3)) as it:
            spi = it.ims.installed[0]
            assert await pings(it.ue, HOST, source=NET, count=4) == 4
            assert await pings(it.ue, HOST, source=IMS, count=4) == 4
            await until(lambda: bool(it.ue.told), "the event")
            assert it.ue.told == ["ims"]
            assert it.net.poll_event() is None
            assert it.ims.poll_event() == LifetimeReached(inbound_spi=spi, hard=False)
            assert it.ims.poll_event() is None

            # The gateway's packets come from another port: an event, which an update of the path takes back.
            path = spec_of(IMS, 2).path
            elsewhere = Path(path.local, Endpoint(path.remote.address, 4501))
            it.ims.update_path(spi, elsewhere, True)
            assert await pings(it.gateway, IMS, count=1, wait=0.1) == 0
            await until(lambda: it.ue.told == ["ims", "ims"], "the event")
            it.ims.update_path(spi, path, True)
            assert it.ims.poll_event() is None
            it.ims.update_path(spi, elsewhere, True)
            assert await pings(it.gateway, IMS, count=1, wait=0.1) == 0
            await until(lambda: len(it.ue.told) == 3, "the event")
            assert it.ims.poll_event() == PeerEndpointObserved(inbound_spi=spi, path=path)

    asyncio.run(body())


def test_drops_are_the_views_or_the_carriers() -> None:
    async def body() -> None:
        async with connected() as it:
            to = (str(it.ue.address), PORT)
            with it.gateway.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
                opened.sendto(it.ims.installed[0] + bytes([0, 0, 0, 9]) + bytes(60), to)
                opened.sendto(b"\x12\x34\x56\x78" + bytes(60), to)
                opened.sendto(b"\x12\x34\x56\x78", to)
            await until(lambda: sum(it.ue.carrier.dropped.values()) == 2, "drops")
            await until(lambda: bool(it.ims.drops), "a drop of the view's")
            assert it.ims.drops == {DropReason.BAD_ICV: 1}
            assert it.net.drops == {}
            assert it.ue.carrier.dropped == {"unknown_spi": 1, "short": 1}
            it.ims.remove(it.ims.installed[0])
            assert it.ims.drops == {DropReason.BAD_ICV: 1}
            assert it.ue.carrier.dropped == {"unknown_spi": 1, "short": 1}

    asyncio.run(body())


def delete_link(name: str) -> None:
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname=name)
        route.link("del", index=index)


def test_a_device_that_somebody_deletes_is_told_to_its_own() -> None:
    async def body() -> None:
        async with connected() as it:
            await asyncio.to_thread(it.ue.namespace.call, lambda: delete_link("ims"))
            await until(lambda: bool(it.ue.failures), "the failure")
            assert [str(error) for error in it.ue.failures] == ["TUN device ims: File descriptor in bad state"]
            it.ue.devices[1].close()
            assert await pings(it.gateway, NET) == 3
            assert len(it.ue.failures) == 1

    asyncio.run(body())


def test_path_mtus_are_asked_for_anew() -> None:
    async def body() -> None:
        async with connected(path_mtu_interval=0.02) as it:
            assert it.net.send_inner(_long(NET))
            it.ue.outer_mtu = 1000
            await until(lambda: not it.net.send_inner(_long(NET)), "the new MTU")
            assert len(it.ue.delivered) == 1  # an ICMP error
            assert it.net.drops == {DropReason.TOO_BIG: 1}

    asyncio.run(body())


def test_long_packets_are_answered_in_the_device_of_their_view() -> None:
    async def body() -> None:
        async with connected(path_mtu_interval=0.02) as it:
            it.ue.outer_mtu = 1300
            known = (socket.IPPROTO_IP, 14)  # IP_MTU
            with it.ue.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
                client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
                client.bind((str(IMS), 0))
                client.connect((str(HOST), 7))
                while client.getsockopt(*known) == MTU:
                    with contextlib.suppress(ConnectionRefusedError):  # it arrived, the first one
                        client.send(bytes(1340))
                    await asyncio.sleep(0.01)
                assert 1200 < client.getsockopt(*known) < 1300
            assert {name for name, _ in it.ue.delivered} == {"ims"}
            assert set(it.ims.drops) == {DropReason.TOO_BIG}
            assert it.net.drops == {}
            assert it.ue.devices[1].counters.written >= len(it.ue.delivered)
            assert it.ue.carrier.dropped == {}

    asyncio.run(body())


def _long(source: Address) -> bytes:
    """1200 octets with DF."""
    header = bytes.fromhex("450004b0000040004011") + bytes(2) + source.packed + HOST.packed
    return _with_checksum(header) + bytes(1180)


def test_what_cannot_be_is_said() -> None:
    async def body() -> None:
        async with sides(workers=1) as (ue, gateway):
            plane = ue.plane("one")
            with pytest.raises(LocalError, match="TUN device x: the plane is another carrier's"):
                await gateway.carrier.open_device(plane, "x", [], MTU)
            with pytest.raises(LocalError, match="has one policy for all planes"):
                ue.carrier.plane(
                    deliver=lambda *_: None,
                    transmit=lambda *_: None,
                    told=lambda: None,
                    path_mtu=lambda path: None,
                    policy=TunnelPolicy(dscp=3),
                )
            for _ in range(PLANES_MAXIMUM - 1):
                ue.plane("more")
            with pytest.raises(LocalError, match="64 planes at most"):
                ue.plane("too many")
            assert PLANES_MAXIMUM == _native.DEVICES
            with pytest.raises(BackendError, match=r"cannot use UDP 198\.51\.100\.7:4500: the port is in use"):
                ue.open_link()
            for call in (ue.carrier.start, gateway.carrier.start):
                with pytest.raises(LocalError, match="runs already"):
                    call()

    asyncio.run(body())
