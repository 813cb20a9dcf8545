"""Behind the gateway (SGi, TS 29.061 §9): forwarding, masquerading, anti-spoofing, in network namespaces.

::

    UEs ── epdg0 ── gateway ── near 192.0.2.0/24, 2001:db8:a::/64 ──── server
                          └─── far 198.51.100.0/24, 2001:db8:b::/64 ── other server

What comes of a UE's packet is seen by a UDP server's socket: whether it came, and from where.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_address, ip_network
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from aaa.subscribers import SubscriberDatabase
from aaa.subscribers.laboratory import provision
from epdg.config import ApnSection, DataPlaneKind, DataPlaneSection
from epdg.core import Core
from epdg.pdn.egress import Egress
from epdg.pki import make_pki
from lab.namespaces import ACCESS_A, CORE, CORE_INTERFACE, GATEWAY, AccessTopology, Namespace
from protocols.dataplane.userspace.tun import TunDevice
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError
from protocols.io.nftables import AddressSet, Chain, Hook, NfTables, Verdict, goes_to, verdict
from protocols.io.routing import FIRST_TABLE, free_tables
from protocols.io.sysctl import FORWARDING, read_sysctl
from protocols.ip import UDP, IpPacket, UdpDatagram
from tests.nodes.test_outer_ipv6 import has_peer
from tests.peers.aaa_node import HOST, REALM
from tests.peers.epdg_node import FQDN
from tests.peers.namespaces import ping, require_namespaces
from tests.peers.node_process import NodeProcess
from tests.peers.processes import wait_until

pytestmark = pytest.mark.root

SILENCE = 0.15  # seconds after which a packet between namespaces of one machine does not come any more
LIMIT = 20.0
PORT = 7000
INTERNET = {"pool": "10.45.0.0/24", "pool6": "2001:db8:45::/48"}
IMS = {"pool": ["10.46.0.0/24", "10.46.1.0/24"], "pool6": "2001:db8:46::/48"}
NEAR, NEAR_6, FAR, FAR_6 = "192.0.2.2", "2001:db8:a::2", "198.51.100.2", "2001:db8:b::2"
GATEWAY_NEAR, GATEWAY_NEAR_6, GATEWAY_FAR = "192.0.2.1", "2001:db8:a::1", "198.51.100.1"
UE, UE_6, OTHER_UE, IMS_UE, IMS_UE_6 = (
    "10.45.0.2",
    "2001:db8:45:1::1",
    "10.45.0.3",
    "10.46.1.9",
    "2001:db8:46:1::1",
)


@dataclass(frozen=True, kw_only=True)
class Network:
    """The gateway's namespace, and those of the two servers."""

    gateway: Namespace
    near: Namespace
    far: Namespace


@pytest.fixture
def network() -> Iterator[Network]:
    require_namespaces()
    with contextlib.ExitStack() as stack:
        gateway, near, far = (stack.enter_context(Namespace(name, ipv6=True)) for name in ("gateway", "near", "far"))
        for namespace in (gateway, near, far):  # the guard is ours to prove, not the kernel's
            namespace.set_sysctl("net/ipv4/conf/all/rp_filter", 0)
            namespace.set_sysctl("net/ipv4/conf/default/rp_filter", 0)
        for interface, other, here, there in (
            ("near0", near, (GATEWAY_NEAR, GATEWAY_NEAR_6), (NEAR, NEAR_6)),
            ("far0", far, (GATEWAY_FAR, "2001:db8:b::1"), (FAR, FAR_6)),
        ):
            gateway.connect(interface, other, "eth0")
            for namespace, name, addresses in ((gateway, interface, here), (other, "eth0", there)):
                namespace.add_address(name, IPv4Interface(f"{addresses[0]}/24"))
                namespace.add_address(name, IPv6Interface(f"{addresses[1]}/64"))
            for pool in ("10.45.0.0/24", "10.46.0.0/23", "172.20.0.0/16"):
                other.add_route(pool, via=ip_address(here[0]))
            for pool in ("2001:db8:45::/48", "2001:db8:46::/48"):
                other.add_route(pool, via=ip_address(here[1]))
        yield Network(gateway=gateway, near=near, far=far)


class Gateway:
    """A core with its device in the gateway's namespace, and the sockets of the servers."""

    def __init__(self, network: Network, apns: dict[str, dict[str, object]]) -> None:
        self.network = network
        self.packets: asyncio.Queue[bytes] = asyncio.Queue()
        section = DataPlaneSection(kind=DataPlaneKind.TUN)
        sections = {name: ApnSection.model_validate(values) for name, values in apns.items()}
        self.core = Core(section, sections, self.packets.put_nowait, SeededEntropy(1))
        self.lost: list[BackendError] = []
        self.back = asyncio.Event()
        self._servers: dict[str, socket.socket] = {}

    async def open(self) -> None:
        await self.core.open(TunDevice.open, self.lost.append, self.back.set)

    def close(self) -> None:
        self.core.close()
        for server in self._servers.values():
            server.close()

    def server(self, address: str) -> socket.socket:
        """A UDP socket of a server, or of the gateway's own."""
        namespaces = {NEAR: self.network.near, NEAR_6: self.network.near, FAR: self.network.far}

        def opened() -> socket.socket:
            found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            found.setblocking(False)
            found.bind((address, PORT))
            return found

        if address not in self._servers:
            self._servers[address] = namespaces[address].call(opened)
        return self._servers[address]

    async def seen(self, ue: str, server: str) -> str | None:
        """Send a datagram of a UE's; from which address the server sees it come, if it comes and can answer."""
        opened = self.server(server)
        self.core.deliver(datagram(ue, server))
        try:
            async with asyncio.timeout(SILENCE):
                octets, source = await asyncio.get_running_loop().sock_recvfrom(opened, 2000)
        except TimeoutError:
            return None
        await asyncio.get_running_loop().sock_sendto(opened, octets, source)
        answer = await self.arrived(ue)
        assert answer is not None, "the answer did not come back"
        assert str(answer.source) == server
        return str(source[0])

    async def arrived(self, ue: str) -> IpPacket | None:
        """The next packet for a UE."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                while True:
                    packet = await self.packets.get()
                    found = IpPacket.decode(packet)
                    if str(found.destination) == ue and found.protocol == UDP:
                        return found
        return None

    async def reached(self, ue: str, server: str) -> bool:
        """Whether a datagram that a server sends first comes to a UE."""
        await asyncio.get_running_loop().sock_sendto(self.server(server), b"first", (ue, PORT))
        return await self.arrived(ue) is not None


def datagram(source: str, destination: str) -> bytes:
    here, there = ip_address(source), ip_address(destination)
    inner = UdpDatagram(source_port=PORT, destination_port=PORT, payload=b"of a UE")
    packet = IpPacket(source=here, destination=there, protocol=UDP, payload=inner.encode(here, there))
    return packet.encode()


def inside(network: Network, body: Callable[[Gateway], Awaitable[None]], **apns: dict[str, object]) -> None:
    """Run a test in the gateway's namespace with a core that is open."""

    async def whole() -> None:
        gateway = Gateway(network, apns)
        try:
            await gateway.open()
            await body(gateway)
        finally:
            gateway.close()

    network.gateway.call(lambda: asyncio.run(asyncio.wait_for(whole(), LIMIT)))


def test_routed_addresses_arrive_as_they_are_and_can_be_reached(network: Network) -> None:
    async def body(gateway: Gateway) -> None:
        for ue, server in ((UE, NEAR), (UE_6, NEAR_6), (UE, FAR), (IMS_UE, NEAR), (IMS_UE_6, NEAR_6)):
            assert await gateway.seen(ue, server) == ue
        assert await gateway.reached(UE, NEAR)
        assert await gateway.reached(UE_6, NEAR_6)

    inside(network, body, internet=INTERNET, ims=IMS)


def test_what_the_device_does_not_take_is_counted(network: Network) -> None:
    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(UE, NEAR) == UE
        assert gateway.core.dropped == {}
        network.gateway.set_link("epdg0", up=False)
        gateway.core.deliver(datagram(UE, NEAR))
        assert gateway.core.dropped == {"refused": 1}

    inside(network, body, internet=INTERNET)


def test_a_device_that_is_taken_away_comes_back_with_all_that_goes_with_it(network: Network) -> None:
    """Masquerading, and the static address of a UE outside the pools."""
    static = "10.145.0.7"
    network.near.add_route(f"{static}/32", via=ip_address(GATEWAY_NEAR))

    def delete() -> None:
        with IPRoute() as route:
            route.link("del", index=socket.if_nametoindex("epdg0"))

    async def body(gateway: Gateway) -> None:
        gateway.core.admit("ims", ip_address(static))
        assert await gateway.seen(static, NEAR) == static
        network.gateway.call(delete)
        async with asyncio.timeout(LIMIT):
            await gateway.back.wait()
        (error,) = gateway.lost
        assert "epdg0" in str(error)
        assert await gateway.seen(UE, NEAR) == GATEWAY_NEAR
        assert await gateway.seen(static, NEAR) == static
        assert gateway.core.dropped == {}

    inside(network, body, internet={**INTERNET, "egress": "masqueraded"}, ims=IMS)


def test_masqueraded_addresses_are_the_gateways_outside(network: Network) -> None:
    """IPv4 and IPv6; nobody outside begins, whatever routes it has; the other APN stays as it is."""

    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(UE, NEAR) == GATEWAY_NEAR
        assert await gateway.seen(UE_6, NEAR_6) == GATEWAY_NEAR_6
        assert await gateway.seen(UE, FAR) == GATEWAY_FAR
        assert not await gateway.reached(OTHER_UE, NEAR)
        assert await gateway.seen(IMS_UE, NEAR) == IMS_UE

    inside(network, body, internet={**INTERNET, "egress": "masqueraded"}, ims=IMS)


def test_without_egress_nothing_leaves_and_nothing_comes(network: Network) -> None:
    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(UE, NEAR) is None
        assert await gateway.seen(UE_6, NEAR_6) is None
        assert not await gateway.reached(UE, NEAR)
        assert await gateway.seen(IMS_UE, NEAR) == IMS_UE

    inside(network, body, internet={**INTERNET, "egress": "none"}, ims=IMS)


def test_an_apn_leaves_by_its_interface_or_not_at_all(network: Network) -> None:
    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(UE, FAR) == UE
        assert await gateway.seen(UE, NEAR) is None
        assert not await gateway.reached(UE, NEAR)
        assert await gateway.seen(IMS_UE, NEAR) == IMS_UE

    inside(network, body, internet={**INTERNET, "egress_interface": "far0"}, ims=IMS)


def test_a_next_hop_of_its_own_beside_the_default_route(network: Network) -> None:
    """One APN's default route leads by ``far0``, that of the system by ``near0``."""
    beyond = "203.0.113.5"
    network.gateway.add_route("0.0.0.0/0", via=ip_address(NEAR))
    for namespace in (network.near, network.far):
        namespace.add_address("lo", IPv4Interface(f"{beyond}/32"))

    async def body(gateway: Gateway) -> None:
        def opened() -> socket.socket:
            found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            found.setblocking(False)
            found.bind((beyond, PORT))
            return found

        loop = asyncio.get_running_loop()
        gateway.core.admit("internet", ip_address("172.20.0.9"))
        for ue, where in ((UE, network.far), (IMS_UE, network.near), ("172.20.0.9", network.far)):
            with where.call(opened) as server:
                gateway.core.deliver(datagram(ue, beyond))
                octets, source = await asyncio.wait_for(loop.sock_recvfrom(server, 2000), 2)
                assert source[0] == ue
                await loop.sock_sendto(server, octets, source)
                assert await gateway.arrived(ue) is not None
        assert free_tables(1) == (FIRST_TABLE + 2,)

    own = {**INTERNET, "egress_interface": "far0", "egress_next_hop": [FAR, FAR_6]}
    inside(network, body, internet=own, ims=IMS)
    assert network.gateway.call(lambda: free_tables(1)) == (FIRST_TABLE,)


def test_nobody_has_an_address_that_is_not_its_own(network: Network) -> None:
    """Neither a UE with an address outside the pools, nor somebody outside with a UE's."""

    async def body(gateway: Gateway) -> None:
        assert await gateway.seen("10.99.9.9", NEAR) is None
        assert await gateway.seen(NEAR, FAR) is None
        assert await gateway.seen("2001:db8:99::9", NEAR_6) is None
        network.near.add_address("lo", IPv4Interface(f"{OTHER_UE}/32"))
        network.near.add_route("198.51.100.0/24", via=ip_address(GATEWAY_NEAR))

        def spoof() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.bind((OTHER_UE, PORT))
                opened.sendto(b"spoofed", (FAR, PORT))

        server = gateway.server(FAR)
        network.near.call(spoof)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recvfrom(server, 100), SILENCE)
        assert await gateway.seen(UE, FAR) == UE

    inside(network, body, internet=INTERNET, ims=IMS)


@pytest.mark.parametrize("mode", ["routed", "masqueraded"])
def test_where_the_kernel_carries_esp_the_guard_asks_for_ipsec_and_not_for_the_device(
    network: Network, mode: str
) -> None:
    """What has a UE's address and has not come out of IPsec goes nowhere; what is none of ours goes on."""
    apns = {"internet": ApnSection.model_validate({**INTERNET, "egress": mode}), "ims": ApnSection.model_validate(IMS)}

    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(UE, NEAR) is not None
        egress = Egress("epdg0", apns, by_ipsec=True)
        egress.open()
        for ue, server in ((UE, NEAR), (UE_6, NEAR_6), (IMS_UE, FAR), (UE, IMS_UE)):
            gateway.core.deliver(datagram(ue, server))
        gateway.core.deliver(datagram("172.20.0.9", NEAR))
        _, source = await asyncio.get_running_loop().sock_recvfrom(gateway.server(NEAR), 2000)
        assert source[0] == "172.20.0.9"
        assert await gateway.seen(UE_6, NEAR_6) is None
        assert await gateway.reached(IMS_UE, NEAR)
        egress.close()

    inside(network, body, internet={**INTERNET, "egress": mode}, ims=IMS)


@pytest.mark.parametrize("allowed", [False, True])
def test_ues_of_one_gateway_reach_one_another_where_it_is_allowed(network: Network, allowed: bool) -> None:
    """Within an APN only: from one APN to the other never."""

    async def body(gateway: Gateway) -> None:
        for source, destination, wanted in ((UE, OTHER_UE, allowed), (UE_6, "2001:db8:45:2::1", allowed)):
            gateway.core.deliver(datagram(source, destination))
            assert (await gateway.arrived(destination) is not None) is wanted
        gateway.core.deliver(datagram(UE, IMS_UE))
        assert await gateway.arrived(IMS_UE) is None

    inside(network, body, internet={**INTERNET, "ue_to_ue": allowed}, ims={**IMS, "ue_to_ue": allowed})


def test_a_static_address_outside_the_pools_is_led_to_the_device_while_it_is_held(network: Network) -> None:
    static = "172.20.0.9"

    async def body(gateway: Gateway) -> None:
        assert await gateway.seen(static, NEAR) is None
        for _ in range(2):
            gateway.core.admit("internet", ip_address(static))
            gateway.core.admit("internet", ip_address(static))
            assert await gateway.seen(static, NEAR) == GATEWAY_NEAR
            gateway.core.dismiss(ip_address(static))
            gateway.core.dismiss(ip_address(static))
            assert await gateway.seen(static, NEAR) is None
        network.gateway.add_route("172.20.0.10/32", via=ip_address(NEAR))
        with pytest.raises(BackendError, match="172.20.0.10/32 by epdg0: File exists"):
            gateway.core.admit("ims", ip_address("172.20.0.10"))
        gateway.core.admit("ims", ip_address("2001:db8:77::1"))
        assert await gateway.seen(UE, NEAR) == GATEWAY_NEAR

    inside(network, body, internet={**INTERNET, "egress": "masqueraded"}, ims=IMS)


def tables(names: tuple[str, ...]) -> list[str | None]:
    return [NfTables().comment(name) for name in names]


def forwarding() -> list[str]:
    return [read_sysctl(key) for key in FORWARDING.values()]


def test_everything_is_as_before_afterwards(network: Network) -> None:
    """Forwarding of the version that was off, routing tables, our table; a table of somebody else's stays."""
    network.gateway.set_sysctl(FORWARDING[6], 1)

    def foreign() -> None:
        rule = [*goes_to("elsewhere"), *verdict(Verdict.DROP)]
        chain = Chain(name="forward", hook=Hook.FORWARD, priority=0, rules=[rule])
        NfTables().replace("epdg-epdg1", "another's", chains=[chain])

    network.gateway.call(foreign)
    assert network.gateway.call(forwarding) == ["0", "1"]

    async def body(gateway: Gateway) -> None:
        assert forwarding() == ["1", "1"]
        assert tables(("epdg-epdg0", "epdg-epdg1"))[1] == "another's"

    inside(network, body, internet={**INTERNET, "egress_interface": "far0", "egress_next_hop": [FAR]})
    assert network.gateway.call(forwarding) == ["0", "1"]
    assert network.gateway.call(lambda: tables(("epdg-epdg0", "epdg-epdg1"))) == [None, "another's"]
    assert network.gateway.call(lambda: free_tables(1)) == (FIRST_TABLE,)


def test_what_the_kernel_refuses_leaves_nothing(network: Network) -> None:
    own = {**INTERNET, "egress_interface": "nowhere0", "egress_next_hop": ["192.0.2.2"]}

    async def body(gateway: Gateway) -> None:
        raise AssertionError("it has opened")

    with pytest.raises(BackendError, match="there is no interface nowhere0"):
        inside(network, body, internet=own)
    assert network.gateway.call(forwarding) == ["0", "0"]
    assert network.gateway.call(lambda: tables(("epdg-epdg0",))) == [None]


def test_sets_are_replaced_as_a_whole_and_take_neighbouring_ranges(network: Network) -> None:
    def body() -> None:
        nftables = NfTables()
        networks = [ip_network(text) for text in ("10.0.0.0/24", "10.0.1.0/24", "255.255.255.0/24")]
        ranges = [(each[0], each[-1]) for each in networks]
        for comment in ("first", "x" * 300):
            nftables.replace("epdg-test", comment, [AddressSet(name="ues", version=4, ranges=ranges)])
        assert nftables.comment("epdg-test") == "x" * 253
        with pytest.raises(BackendError, match="nftables: File exists"):
            nftables.add("epdg-test", "ues", (ip_address("10.0.0.0"), ip_address("10.0.0.9")))
        nftables.add("epdg-test", "ues", (ip_address("10.0.2.0"), ip_address("10.0.2.0")))
        nftables.discard("epdg-test", "ues", (ip_address("10.0.2.0"), ip_address("10.0.2.0")))
        with pytest.raises(BackendError, match="nftables: No such file"):
            nftables.discard("epdg-test", "ues", (ip_address("10.9.2.0"), ip_address("10.9.2.0")))
        nftables.remove("epdg-test")
        nftables.remove("epdg-test")
        assert nftables.comment("epdg-test") is None

    network.gateway.call(body)


STATIC = "172.20.0.9"


def state(stage: AccessTopology) -> tuple[str | None, list[str], frozenset[str]]:
    """Our table's comment, forwarding and addresses in the gateway's namespace."""
    comment = stage.gateway.call(lambda: NfTables().comment("epdg-epdg0"))
    return comment, stage.gateway.call(forwarding), stage.gateway.addresses()


@pytest.mark.timeout(90)
def test_a_subscribers_static_address_masqueraded_and_a_gateway_that_is_killed(
    stage: AccessTopology, tmp_path: Path
) -> None:
    """From the subscriber database over SWx, SWm and IKE to the packet; the restart finds what kill -9 has left."""
    database = SubscriberDatabase(f"sqlite:///{tmp_path / 'aaa.db'}")
    database.migrate()
    (user,) = provision(database, [1])
    apns = tuple(replace(apn, static_ipv4=IPv4Address(STATIC)) for apn in user.apns)
    database.replace(replace(user, apns=apns))
    database.close()
    assert user.opc is not None
    make_pki(tmp_path / "pki", (FQDN, "internet"))
    for namespace in (stage.gateway, stage.ue):
        namespace.set_sysctl("net/ipv4/ip_forward", 0)
    diameter = {"host": f"epdg.{REALM}", "realm": REALM, "peers": [{"host": HOST, "address": "127.0.0.1"}]}
    own = {"pool": "10.46.0.0/24", "egress": "masqueraded", "egress_interface": CORE_INTERFACE}
    epdg = {
        "plmn": {"mcc": "001", "mnc": "01"},
        "listen": {"addresses": [str(GATEWAY.ip)]},
        "certificate": {"chain": "pki/gateway.pem", "key": "pki/gateway.key"},
        "diameter": diameter,
        "apns": {"internet": {**own, "egress_next_hop": [str(CORE.ip)]}},
        "data_plane": {"kind": "tun"},
    }
    ue = {
        "imsi": str(user.imsi),
        "plmn": {"mcc": "001", "mnc": "01"},
        "usim": {"k": user.k.reveal().hex(), "opc": user.opc.reveal().hex()},
        "apn": "internet",
        "gateway": {"address": str(GATEWAY.ip), "ca": "pki/ca.pem"},
        "accesses": {"a": {"address": str(ACCESS_A.address.ip)}},
        "data_plane": {"kind": "tun", "device": "ue0", "routes": [f"{CORE.ip}/32"]},
    }
    aaa = {"identity": {"host": HOST, "realm": REALM}, "database": "sqlite:///aaa.db"}
    before = state(stage)
    with contextlib.ExitStack() as nodes:
        nodes.enter_context(NodeProcess(stage.gateway, "aaa", tmp_path, aaa))
        gateway = nodes.enter_context(NodeProcess(stage.gateway, "epdg", tmp_path, epdg))
        device = nodes.enter_context(NodeProcess(stage.ue, "ue", tmp_path, ue, verb="run"))

        def attached() -> None:
            wait_until(lambda: has_peer(gateway), what="the gateway's AAA server", timeout=20.0, log=gateway.log)
            assert device.call("ue.attach")["inner_addresses"] == [STATIC]
            # the core has no route to the address: without masquerading there is no answer
            assert ping(stage.ue, CORE.ip, count=2).received == 2

        attached()
        gateway.kill()
        comment, kept, addresses = state(stage)
        assert comment == f"net/ipv4/ip_forward=0 tables={FIRST_TABLE}"
        assert kept == ["1", before[1][1]]
        assert addresses == before[2]
        device.kill()
        gateway.start()
        device.start()
        assert "of a run that did not end is replaced" in gateway.log()
        attached()
        device.call("ue.detach")
        assert gateway.stop() == 0
    assert state(stage) == before
    assert stage.gateway.call(lambda: free_tables(1)) == (FIRST_TABLE,)
