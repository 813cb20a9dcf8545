"""The kernel as a node's carrier, under a kernel that has ESP: devices, forwarding, what must not leak or come in."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from pyroute2 import IPRoute

from epdg.config import ApnSection
from epdg.pdn.egress import Egress
from lab.namespaces import Namespace
from protocols.dataplane.port import Backend, Carried, DataPlane, LifetimeReached, PeerEndpointObserved
from protocols.dataplane.userspace.engine import UserspaceDataPlane
from protocols.dataplane.xfrm.carrier import ASKED_AT_ONCE, KernelCarrier, why_not
from protocols.dataplane.xfrm.device import has_xfrm_interfaces
from protocols.dataplane.xfrm.socket import XfrmSocket
from protocols.entropy import SeededEntropy
from protocols.errors import BackendError, LocalError
from protocols.esp.packet import EspSealer, inner_mtu, sealer_of
from protocols.esp.sa import ChildSaSpec, DropReason, UsageLimits
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.ikev2.suites import EspSuite
from protocols.io.esp_tap import EspTap
from protocols.io.link import UdpLink
from protocols.io.netlink_requests import NetlinkRefusal
from protocols.io.nftables import NfTables
from protocols.ip import IPIP, NO_NEXT_HEADER
from protocols.path import Endpoint, Path
from protocols.trace.recorder import Recorder
from tests.dataplane.pairs import SUITES, mirrored
from tests.dataplane.test_contract import TestDataPlaneContract as DataPlaneContract
from tests.peers.namespaces import ping
from tests.peers.xfrm_carriers import (
    GATEWAY_INNER,
    GATEWAY_OUTER,
    LIMIT,
    MTU,
    PORT,
    SERVER,
    UE_ELSEWHERE,
    UE_INNER,
    UE_OUTER,
    End,
    Stage,
    carriers,
    datagram,
    selectors,
    spec_of,
)

pytestmark = [pytest.mark.peer, pytest.mark.guest("uml", "debian")]

IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE = 10, 0, 2, 3  # <linux/in.h>
NON_ESP_MARKER = bytes(4)
OUTER_MTU = 1450
UDP_HEADERS = 28


@pytest.fixture(scope="module")
def shared() -> Iterator[Stage]:
    with carriers() as made:
        yield made


@pytest.fixture
def stage(shared: Stage) -> Iterator[Stage]:
    shared.captured()
    yield shared
    shared.outer_mtu(1500)
    for end in (shared.ue, shared.gateway):
        end.call(end.plane.end)
        end.ike.clear()
        end.told = 0


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    with Namespace("plane") as namespace:
        end = End(namespace)
        yield end.plane
        end.close()


class TestViewContract(DataPlaneContract):
    """The contract of every data plane, by one view of the kernel's."""


def has_nftables() -> bool:
    try:
        NfTables().comment("none")
    except NetlinkRefusal:
        return False
    return True


def device_names(namespace: Namespace) -> set[str]:
    def names() -> set[str]:
        with IPRoute() as route:
            return {str(link.get_attr("IFLA_IFNAME")) for link in route.get_links()}

    return namespace.call(names)


def test_the_kernel_will_do_here() -> None:
    assert why_not(DEFAULT_POLICY, [EspSuite.of(name) for name in SUITES], ["eth0"]) is None


class TestTraffic:
    @pytest.mark.parametrize("encapsulation", [True, False])
    @pytest.mark.parametrize("version", [4, 6])
    def test_forwarded_there_and_back(self, stage: Stage, version: int, encapsulation: bool) -> None:
        spec = stage.install(spec_of(encapsulation=encapsulation))
        assert stage.there_and_back(version) == UE_INNER[version]
        seen = stage.esp()
        assert [each.encapsulated for each in seen] == [encapsulation] * 2
        counters = stage.gateway.call(lambda: stage.gateway.plane.counters(spec.outbound_spi))
        assert (counters.inbound_packets, counters.outbound_packets) == (1, 1)

    def test_what_all_sas_have_carried_is_one_sum(self, stage: Stage) -> None:
        """Of more SAs than are asked at once, it is known after as many questions as it takes."""

        def carried() -> Carried:
            return stage.gateway.call(lambda: stage.gateway.plane.carried)

        before = carried()
        spec = stage.install(spec_of())
        for version in (4, 6):
            stage.there_and_back(version)
        counters = stage.gateway.call(lambda: stage.gateway.plane.counters(spec.outbound_spi))
        assert (counters.inbound_packets, counters.outbound_packets) == (2, 2)
        whole = Carried.sum((before, counters))
        assert carried() == whole

        for number in range(2, ASKED_AT_ONCE + 2):
            other = replace(spec_of(number=number), local_selectors=selectors(f"10.46.0.{number}/32"))
            stage.gateway.call(lambda made=other: stage.gateway.plane.install(mirrored(made)))  # type: ignore[misc]
        stage.there_and_back(4)
        counters = stage.gateway.call(lambda: stage.gateway.plane.counters(spec.outbound_spi))
        assert carried() in (whole, Carried.sum((before, counters)))
        whole = Carried.sum((before, counters))
        assert carried() == whole
        stage.remove(spec)
        assert carried() == whole

    @pytest.mark.parametrize("version", [4, 6])
    def test_the_gateways_own_address(self, stage: Stage, version: int) -> None:
        stage.install(spec_of())
        result = ping(stage.ue.namespace, GATEWAY_INNER[version], source=UE_INNER[version], count=3)
        assert result.received == 3, result.output
        assert stage.in_the_clear() == []

    @pytest.mark.parametrize("version", [4, 6])
    def test_nothing_leaks_without_an_sa(self, stage: Stage, version: int) -> None:
        """Before there is one, and after: it ends in the device, at both ends, and is counted."""
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[version]), stage.socket(stage.network, SERVER[version])
        for _ in range(2):
            ours, theirs = (
                end.call(lambda device=device: device.counters.refused)  # type: ignore[misc]
                for end, device in ((stage.ue, stage.ue_device), (stage.gateway, stage.gateway_device))
            )
            mine.sendto(b"in the clear?", (SERVER[version], PORT))
            server.sendto(b"in the clear?", (UE_INNER[version], PORT))
            assert stage.silent(server)
            assert stage.silent(mine)
            assert stage.in_the_clear() == []
            assert stage.ue.call(lambda: stage.ue_device.counters.refused) == ours + 1
            assert stage.gateway.call(lambda: stage.gateway_device.counters.refused) == theirs + 1
            spec = stage.install(spec_of())
            stage.there_and_back(version)
            stage.remove(spec)
            stage.captured()

    @pytest.mark.parametrize("version", [4, 6])
    def test_packets_of_the_nodes_own(self, stage: Stage, version: int) -> None:
        stage.install(spec_of())
        server = stage.socket(stage.network, SERVER[version])
        packet = datagram(UE_INNER[version], SERVER[version])
        assert stage.ue.call(lambda: stage.ue.plane.send_inner(packet))
        octets, source = server.recvfrom(2000)
        assert (octets, source[0]) == (b"of the node's own", UE_INNER[version])
        mine = stage.socket(stage.ue.namespace, UE_INNER[version])
        back = datagram(SERVER[version], UE_INNER[version], b"in the server's name")
        assert stage.gateway.call(lambda: stage.gateway.plane.send_inner(back))
        assert mine.recv(2000) == b"in the server's name"
        assert len(stage.esp()) == 2
        before = stage.ue.plane.drops
        for unfit in (datagram(SERVER[version], UE_INNER[version]), b"no packet"):
            assert not stage.ue.call(lambda octets=unfit: stage.ue.plane.send_inner(octets))  # type: ignore[misc]
        drops = stage.ue.call(lambda: stage.ue.plane.drops)
        assert drops[DropReason.NO_SA] == before.get(DropReason.NO_SA, 0) + 1
        assert drops[DropReason.NOT_IP] == before.get(DropReason.NOT_IP, 0) + 1

    def test_packets_out_of_the_nodes_own_hands(self, stage: Stage) -> None:
        """``write`` gives a packet to the kernel's stack, to addresses here and behind."""
        server, own = stage.socket(stage.network, SERVER[4]), stage.socket(stage.gateway.namespace, GATEWAY_INNER[4])
        for receiver, address in ((server, SERVER[4]), (own, GATEWAY_INNER[4])):
            packet = datagram("10.45.0.77", address, b"written")
            assert stage.gateway.call(lambda octets=packet: stage.gateway_device.write(octets))  # type: ignore[misc]
            assert receiver.recv(2000) == b"written"
        before = stage.gateway.call(lambda: stage.gateway_device.counters)
        assert not stage.gateway.call(lambda: stage.gateway_device.write(b""))
        after = stage.gateway.call(lambda: stage.gateway_device.counters)
        assert (after.refused, after.written) == (before.refused + 1, before.written)

    def test_as_if_out_of_the_tunnel(self, stage: Stage) -> None:
        """Written at the UE for its own address: no policy is asked but, without an XFRM interface, by IPv6's lo."""
        stage.install(spec_of())
        mine, mine6 = (stage.socket(stage.ue.namespace, UE_INNER[version]) for version in (4, 6))
        for version in (6, 4):
            packet = datagram(SERVER[version], UE_INNER[version], b"written")
            assert stage.ue.call(lambda octets=packet: stage.ue_device.write(octets))  # type: ignore[misc]
        assert mine.recv(2000) == b"written"
        if stage.ue_device.comes_in_by_it:
            assert mine6.recv(2000) == b"written"
        else:
            assert stage.silent(mine6)

    def test_ike_passes_and_esp_does_not(self, stage: Stage) -> None:
        before = stage.gateway.carrier.dropped

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.bind((str(UE_OUTER.address), 4501))
                for octets in (b"\x12\x34\x56\x78" + bytes(60), NON_ESP_MARKER + b"IKE"):
                    peer.sendto(octets, (str(GATEWAY_OUTER.address), GATEWAY_OUTER.port))

        stage.ue.namespace.call(send)
        stage.gateway.until(lambda: bool(stage.gateway.ike))
        path = Path(GATEWAY_OUTER, Endpoint(UE_OUTER.address, 4501))
        assert stage.gateway.ike == [(NON_ESP_MARKER + b"IKE", path)]
        dropped = stage.gateway.carrier.dropped
        assert dropped["unknown_spi"] == before["unknown_spi"] + 1


class TestTrace:
    @pytest.mark.parametrize("encapsulation", [True, False])
    def test_each_end_records_what_crossed_its_wire(self, stage: Stage, encapsulation: bool) -> None:
        """Once, and not what comes out of it."""
        heard = []
        for end, local in ((stage.ue, UE_OUTER), (stage.gateway, GATEWAY_OUTER)):
            recorder = Recorder("node", monotonic=lambda: 0.0, wall=lambda: 0.0)
            tap = EspTap(recorder)
            end.call(lambda tap=tap, local=local: tap.open(local, bare=not encapsulation))  # type: ignore[misc]
            heard.append((end, tap, recorder, local))
        stage.install(spec_of(encapsulation=encapsulation))
        for version in (4, 6):
            stage.there_and_back(version)
        sent = stage.esp()
        assert len(sent) == 4
        for end, tap, recorder, local in heard:
            end.call(lambda tap=tap, local=local: tap.close(local))  # type: ignore[misc]
            bodies = [record.body for record in recorder.since(0)]
            found = [(body["direction"], bytes.fromhex(str(body["payload"]))) for body in bodies]
            skipped = 28 if encapsulation else 20
            expected = [
                ("out" if each.source == str(local.address) else "in", each.octets[skipped:])
                for each in sorted(sent, key=lambda each: (each.sequence, each.source != str(UE_OUTER.address)))
            ]
            assert found == expected
            assert {str(body["transport"]) for body in bodies} == {"udp" if encapsulation else "ip"}
            assert end.call(lambda tap=tap: tap.view) == {"recorded": 4, "pauses": 0, "left_out": {}}  # type: ignore[misc]


class TestSpoofing:
    def test_a_ue_with_anothers_inner_address(self, stage: Stage) -> None:
        """The victim has an SA, and another address has not: neither comes out of this UE's SA."""
        spec, victim = spec_of(), replace(spec_of(number=2), local_selectors=selectors("10.45.0.3/32"))
        for each in (spec, victim):
            stage.gateway.call(lambda made=each: stage.gateway.plane.install(mirrored(made)))  # type: ignore[misc]
        server = stage.socket(stage.network, SERVER[4])
        before = stage.gateway.carrier.dropped

        def rogue() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outer:
                outer.bind((str(UE_OUTER.address), 4501))
                plane = UserspaceDataPlane(
                    entropy=SeededEntropy("rogue"),
                    deliver=lambda packet, spi: None,
                    transmit=lambda octets, path, encapsulation, traffic_class: (
                        outer.sendto(octets, (str(GATEWAY_OUTER.address), GATEWAY_OUTER.port)),
                        None,
                    )[1],
                )
                plane.install(replace(spec, local_selectors=selectors("0.0.0.0/0")))
                for source in ("10.45.0.3", "10.45.0.4", "192.0.2.80"):
                    assert plane.send_inner(datagram(source, SERVER[4], b"spoofed"))
                assert plane.send_inner(datagram(UE_INNER[4], SERVER[4], b"its own"))

        stage.ue.namespace.call(rogue)
        octets, source = server.recvfrom(2000)
        assert (octets, source[0]) == (b"its own", UE_INNER[4])
        assert stage.silent(server)
        assert stage.gateway.carrier.dropped["bad_selector"] == before["bad_selector"] + 3

    def test_a_ues_address_in_the_clear(self, stage: Stage) -> None:
        """From outside without ESP: the policy of its SA wants it; with an XFRM interface, the filter does."""
        if stage.gateway.plane.if_id:
            pytest.skip("policies of an XFRM interface are not asked for packets that pass another")
        stage.gateway.call(lambda: stage.gateway.plane.install(mirrored(spec_of())))
        server = stage.socket(stage.network, SERVER[4])
        before = stage.gateway.carrier.dropped
        stage.gateway.namespace.set_sysctl("net/ipv4/conf/gw0/rp_filter", 0)
        stage.gateway.namespace.set_sysctl("net/ipv4/conf/all/rp_filter", 0)
        stage.ue.namespace.add_route("192.0.2.0/25", via=str(GATEWAY_OUTER.address))
        try:
            mine = stage.socket(stage.ue.namespace, UE_INNER[4])
            mine.sendto(b"in the clear", (SERVER[4], PORT))
            assert stage.silent(server)
        finally:
            stage.ue.namespace.delete_route("192.0.2.0/25", via=str(GATEWAY_OUTER.address))
            stage.gateway.namespace.set_sysctl("net/ipv4/conf/all/rp_filter", 1)
            stage.gateway.namespace.set_sysctl("net/ipv4/conf/gw0/rp_filter", 1)
        assert len(stage.in_the_clear()) == 1
        assert stage.gateway.carrier.dropped["bad_selector"] == before["bad_selector"] + 1


class TestEgress:
    """The gateway's packet filter around it, as far as the kernel has nftables."""

    @pytest.mark.parametrize("mode", ["routed", "masqueraded"])
    @pytest.mark.parametrize("ue_to_ue", [False, True])
    def test_forwarding_and_what_it_keeps_apart(self, stage: Stage, mode: str, ue_to_ue: bool) -> None:
        values = {"pool": "10.45.0.0/16", "pool6": "2001:db8:45::/48", "egress": mode, "ue_to_ue": ue_to_ue}
        apns = {"internet": ApnSection.model_validate(values)}
        egress = Egress("epdg0", apns, by_ipsec=not stage.gateway_device.comes_in_by_it)
        if not stage.gateway.call(has_nftables) and (mode == "masqueraded" or ue_to_ue):
            with pytest.raises(
                BackendError, match="the kernel has no nftables, which the egress of APN internet needs"
            ):
                stage.gateway.call(egress.open)
            return
        stage.gateway.call(egress.open)
        try:
            stage.install(spec_of())
            masqueraded = {4: "192.0.2.1", 6: "2001:db8:80::1"}
            for version in (4, 6):
                seen = stage.there_and_back(version)
                assert seen == (masqueraded if mode == "masqueraded" else UE_INNER)[version]
            if stage.gateway.call(has_nftables):
                self.check_apart(stage, ue_to_ue)
        finally:
            stage.gateway.call(egress.close)
        for key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            stage.gateway.namespace.set_sysctl(key, 1)

    def check_apart(self, stage: Stage, ue_to_ue: bool) -> None:
        """UEs from one another, and their addresses from who is none."""
        other = replace(
            spec_of(number=2), local_selectors=selectors("10.45.0.3/32"), path=Path(UE_ELSEWHERE, GATEWAY_OUTER)
        )
        stage.gateway.call(lambda: stage.gateway.plane.install(mirrored(other)))
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[4]), stage.socket(stage.network, SERVER[4])
        stage.ue.namespace.add_route("10.45.0.0/16", interface="pdn0")
        stage.captured()
        mine.sendto(b"from UE to UE", ("10.45.0.3", PORT))
        stage.there_and_back()  # it is behind
        sent = [each.spi for each in stage.esp()]
        assert sent.count(int.from_bytes(other.inbound_spi, "big")) == ue_to_ue
        stage.ue.namespace.delete_route("10.45.0.0/16", interface="pdn0")

        def spoof() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
                opened.bind(("10.45.0.4", PORT))
                opened.sendto(b"spoofed", (SERVER[4], PORT))

        stage.ue.namespace.add_address("lo", "10.45.0.4/32")
        stage.ue.namespace.add_route("192.0.2.0/25", via=str(GATEWAY_OUTER.address))
        for scope in ("all", "gw0"):
            stage.gateway.namespace.set_sysctl(f"net/ipv4/conf/{scope}/rp_filter", 0)
        stage.ue.namespace.call(spoof)
        assert stage.silent(server)
        for scope in ("all", "gw0"):
            stage.gateway.namespace.set_sysctl(f"net/ipv4/conf/{scope}/rp_filter", 1)
        stage.ue.namespace.delete_route("192.0.2.0/25", via=str(GATEWAY_OUTER.address))
        stage.ue.namespace.delete_address("lo", "10.45.0.4/32")


class TestLongPackets:
    @pytest.mark.parametrize("mtu", [1500, 1300])
    @pytest.mark.parametrize("end", ["ue", "server"])
    def test_fragments_and_refusals(self, stage: Stage, end: str, mtu: int) -> None:
        """Longer than the device allows, or the outer path: in pieces where that may be, else the sender hears it."""
        stage.outer_mtu(mtu)
        stage.install(spec_of())
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[4]), stage.socket(stage.network, SERVER[4])
        sender, receiver, there = (mine, server, SERVER[4]) if end == "ue" else (server, mine, UE_INNER[4])
        length = mtu - 40  # with its headers 12 octets short of the path's, without those of ESP
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sender.sendto(bytes(length), (there, PORT))
        assert receiver.recv(2000) == bytes(length)
        with pytest.raises(OSError, match="too long"):  # noqa: PT012 - ICMP tells of the first packet by the next call
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sender.sendto(bytes(length), (there, PORT))
            assert stage.silent(receiver)
            sender.sendto(bytes(length), (there, PORT))
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)

    def test_ipv6_from_behind_the_gateway(self, stage: Stage) -> None:
        """The gateway says "packet too big" (RFC 8200 §4.5: it does not fragment), the server sends in pieces then."""
        stage.outer_mtu(1500)
        stage.install(spec_of())
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[6]), stage.socket(stage.network, SERVER[6])
        server.sendto(bytes(1440), (UE_INNER[6], PORT))
        assert stage.silent(mine)
        server.sendto(bytes(1440), (UE_INNER[6], PORT))
        assert mine.recv(2000) == bytes(1440)


def test_a_link_has_room_for_a_burst() -> None:
    """More than an unprivileged socket gets by Linux's defaults (net.core.rmem_max 212992, which counts twice)."""
    burst, payload = 600, bytes(1400)

    async def run() -> int:
        came = asyncio.Event()
        octets: list[bytes] = []

        def receive(datagram: bytes, path: Path) -> None:
            octets.append(datagram)
            if len(octets) == burst:
                came.set()

        link = UdpLink(Endpoint.of("127.0.0.1", 0), receive)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, suppress(TimeoutError):
            for _ in range(burst):
                sender.sendto(payload, ("127.0.0.1", link.local.port))
            await asyncio.wait_for(came.wait(), LIMIT)
        link.close()
        return len(octets)

    with Namespace("burst") as namespace:
        assert namespace.call(lambda: asyncio.run(run())) == burst


@pytest.fixture(scope="module")
def shared_narrow() -> Iterator[Stage]:
    with carriers(TunnelPolicy(outer_mtu=OUTER_MTU)) as made:
        yield made


@pytest.fixture
def narrow(shared_narrow: Stage) -> Iterator[Stage]:
    yield shared_narrow
    for end in (shared_narrow.ue, shared_narrow.gateway):
        end.call(end.plane.end)


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (TunnelPolicy(outer_mtu=OUTER_MTU), "outer_mtu: 1450"),
        (TunnelPolicy(mss="auto"), "clamp_mss: auto"),
        (TunnelPolicy(mss=1200), "clamp_mss: 1200"),
    ],
)
def test_what_needs_xfrm_interfaces(policy: TunnelPolicy, key: str) -> None:
    with Namespace("alone") as namespace:
        reason = namespace.call(lambda: why_not(policy))
        if namespace.call(has_xfrm_interfaces):
            assert reason is None
            return
        assert reason == f"data_plane.{key}: the kernel has no XFRM interfaces (module xfrm_interface)"
        with pytest.raises(BackendError, match="no XFRM interfaces"):
            namespace.call(KernelCarrier(policy=policy).start)


@pytest.mark.guest("debian")
class TestOuterMtu:
    """``data_plane.outer_mtu`` (RFC 4301 §8.2.1): the links carry more, the device lets through what fits."""

    def mtus(self, stage: Stage) -> list[int]:
        """Of both devices."""

        def mtu(name: str) -> int:
            with IPRoute() as route:
                return int(route.get_links(ifname=name)[0].get_attr("IFLA_MTU"))

        return [stage.ue.namespace.call(lambda: mtu("pdn0")), stage.gateway.namespace.call(lambda: mtu("epdg0"))]

    @pytest.mark.parametrize("encapsulation", [True, False])
    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha512"])
    def test_what_fits_goes_and_no_more(self, narrow: Stage, suite: str, encapsulation: bool) -> None:
        stage = narrow
        spec = stage.install(spec_of(suite, encapsulation=encapsulation))
        longest = inner_mtu(spec.suite, OUTER_MTU, outer_version=4, encapsulation=encapsulation)
        assert self.mtus(stage) == [longest] * 2
        stage.network.set_sysctl("net/ipv4/route/flush", 1)  # what ICMP has told before
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[4]), stage.socket(stage.network, SERVER[4])
        for sender, receiver, there in ((mine, server, SERVER[4]), (server, mine, UE_INNER[4])):
            fits, room = bytes(longest - UDP_HEADERS), MTU - UDP_HEADERS
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sender.sendto(fits, (there, PORT))
            assert receiver.recv(2000) == fits
            with pytest.raises(OSError, match="too long"):  # noqa: PT012 - ICMP tells the server by the next call
                sender.sendto(fits + b"1", (there, PORT))
                assert stage.silent(receiver)
                sender.sendto(fits + b"1", (there, PORT))
            sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
            sender.sendto(bytes(room), (there, PORT))
            assert receiver.recv(2000) == bytes(room)
        lengths = [len(each.octets) for each in stage.esp()]
        assert len(lengths) > 4  # the server may have made the pieces of the last one itself
        assert OUTER_MTU - max(lengths) < 16  # padding
        assert max(lengths) <= OUTER_MTU
        stage.remove(spec)
        assert self.mtus(stage) == [MTU] * 2

    def test_of_all_sas_the_least(self, narrow: Stage) -> None:
        """At an install, a rekey, a move, the end of one, and by a device made anew."""
        stage, plane = narrow, narrow.ue.plane
        wide, tight = spec_of(encapsulation=False), spec_of("aes128-sha1", number=2)
        lengths = {
            (spec.inbound_spi, encapsulation): inner_mtu(
                spec.suite, OUTER_MTU, outer_version=4, encapsulation=encapsulation
            )
            for spec in (wide, tight)
            for encapsulation in (False, True)
        }
        assert len(set(lengths.values())) == len(lengths)
        stage.ue.call(lambda: plane.install(wide))
        assert self.mtus(stage)[0] == lengths[wide.inbound_spi, False]
        stage.ue.call(lambda: plane.replace(wide.inbound_spi, tight))
        assert self.mtus(stage)[0] == lengths[tight.inbound_spi, True]
        stage.ue.call(lambda: plane.update_path(tight.inbound_spi, tight.path, False))
        assert self.mtus(stage)[0] == lengths[tight.inbound_spi, False]
        stage.ue.delete_device("pdn0")
        stage.ue.until(lambda: bool(stage.ue.failures))
        stage.ue.call(lambda: plane.update_path(tight.inbound_spi, tight.path, True))
        stage.ue.device("pdn0", [f"{UE_INNER[4]}/32"], ["192.0.2.0/24"])
        assert self.mtus(stage)[0] == lengths[tight.inbound_spi, True]
        stage.ue.call(lambda: plane.remove(tight.inbound_spi))
        assert self.mtus(stage)[0] == lengths[wide.inbound_spi, False]
        stage.ue.call(plane.end)
        assert self.mtus(stage)[0] == MTU


class TestEvents:
    def test_planes_are_told_of_what_is_theirs(self, stage: Stage) -> None:
        other = stage.gateway.call(stage.gateway.new_plane)
        spec, another = spec_of(), replace(spec_of(number=2), local_selectors=selectors("10.45.0.3/32"))
        stage.install(replace(spec, limits=UsageLimits(soft_packets=3)))
        stage.gateway.call(lambda: other.install(mirrored(another)))
        assert stage.gateway.plane.installed == (spec.outbound_spi,)
        assert other.installed == (another.outbound_spi,)
        with pytest.raises(LocalError):
            stage.gateway.call(lambda: other.remove(spec.outbound_spi))
        for _ in range(4):
            stage.there_and_back()
        stage.gateway.until(lambda: stage.gateway.told > 0)
        assert stage.gateway.call(other.poll_event) is None
        expected = LifetimeReached(inbound_spi=spec.outbound_spi, hard=False)
        assert stage.gateway.call(stage.gateway.plane.poll_event) == expected
        stage.gateway.call(other.end)
        assert stage.gateway.plane.installed == (spec.outbound_spi,)

    def test_an_event_that_a_call_has_read_is_told_of_too(self, stage: Stage) -> None:
        spec = stage.install(spec_of())
        stage.there_and_back()
        stage.ue.call(lambda: stage.ue.plane.update_path(spec.inbound_spi, Path(UE_ELSEWHERE, GATEWAY_OUTER), True))
        mine, server = stage.socket(stage.ue.namespace, UE_INNER[4]), stage.socket(stage.network, SERVER[4])

        async def counted() -> int:
            """The datagram arrives while this end's loop is busy; the counters read the event."""
            mine.sendto(b"from elsewhere", (SERVER[4], PORT))
            server.recv(2000)
            return stage.gateway.plane.counters(spec.outbound_spi).strayed_packets

        assert stage.gateway.run(counted()) == 1
        stage.gateway.until(lambda: stage.gateway.told > 0)
        path = Path(GATEWAY_OUTER, UE_ELSEWHERE)
        expected = PeerEndpointObserved(inbound_spi=spec.outbound_spi, path=path)
        assert stage.gateway.call(stage.gateway.plane.poll_event) == expected
        stage.gateway.call(lambda: stage.gateway.plane.update_path(spec.outbound_spi, path, True))
        stage.there_and_back()

    def test_drops_outlive_their_sa(self, stage: Stage) -> None:
        spec = stage.install(spec_of(encapsulation=False))
        before = stage.gateway.call(lambda: stage.gateway.plane.drops)
        stage.there_and_back()
        packet = stage.esp()[0].octets

        def again() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP) as raw:
                raw.sendto(packet[20:], (str(GATEWAY_OUTER.address), 0))

        stage.ue.namespace.call(again)
        stage.there_and_back()
        expected = before.get(DropReason.REPLAYED, 0) + 1
        assert stage.gateway.call(lambda: stage.gateway.plane.drops)[DropReason.REPLAYED] == expected
        stage.remove(spec)
        assert stage.gateway.call(lambda: stage.gateway.plane.drops)[DropReason.REPLAYED] == expected


class TestDropsOfNoSa:
    """What the kernel counts for the network namespace alone, in the words of other data planes (``statistics``)."""

    def sent(self, stage: Stage, encapsulation: bool, *packets: bytes) -> Counter[str]:
        """What the gateway has dropped of ESP packets from the UE's address."""

        def send() -> None:
            made = (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                if encapsulation
                else socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ESP)
            )
            with made:
                made.bind((str(UE_OUTER.address), 4501 if encapsulation else 0))
                for packet in packets:
                    made.sendto(packet, (str(GATEWAY_OUTER.address), GATEWAY_OUTER.port if encapsulation else 0))

        before = self.dropped(stage.gateway)
        stage.ue.namespace.call(send)
        stage.there_and_back()  # it is behind
        return self.dropped(stage.gateway) - before

    def dropped(self, end: End) -> Counter[str]:
        return end.call(lambda: end.carrier.dropped)

    def sealer(self, spec: ChildSaSpec) -> EspSealer:
        """The UE's, by its keys."""
        keys = spec.outbound_encryption_key, spec.outbound_integrity_key
        return sealer_of(spec.suite, spec.outbound_spi, *keys, SeededEntropy("sealer"))

    def test_dummy_packets_beside_wrong_icvs(self, stage: Stage) -> None:
        """Both are "protocol errors" to the kernel; an SA counts its wrong ICVs, and has counted them when it goes."""
        spec = stage.install(spec_of())
        seal = self.sealer(spec).seal
        forged = seal(100, bytes(40), IPIP)
        forged = forged[:-1] + bytes([forged[-1] ^ 1])
        before = stage.gateway.call(lambda: stage.gateway.plane.drops)
        dummies = [seal(number, bytes(40), NO_NEXT_HEADER) for number in (101, 102)]
        assert self.sent(stage, True, forged, *dummies) == {"malformed_or_dummy": 2}
        assert self.sent(stage, True, forged) == {}
        for _ in range(2):
            drops = stage.gateway.call(lambda: stage.gateway.plane.drops)
            assert drops[DropReason.BAD_ICV] == before.get(DropReason.BAD_ICV, 0) + 2
            counted = self.dropped(stage.gateway)
            stage.remove(spec)
            assert self.dropped(stage.gateway) == counted
            spec = stage.install(spec_of(number=2))

    @pytest.mark.parametrize("suite", ["aes128gcm16", "aes128-sha256-esn"])
    def test_number_zero_beside_a_replay(self, stage: Stage, suite: str) -> None:
        stage.install(spec_of(suite))
        stage.there_and_back()
        packet = stage.esp()[0].octets[28:]
        before = stage.gateway.call(lambda: stage.gateway.plane.drops)
        assert self.sent(stage, True, packet[:4] + bytes(4) + packet[8:], packet) == {"replayed": 1}
        drops = stage.gateway.call(lambda: stage.gateway.plane.drops)
        assert drops[DropReason.REPLAYED] == before.get(DropReason.REPLAYED, 0) + 1

    def test_what_has_no_inner_header(self, stage: Stage) -> None:
        seal = self.sealer(stage.install(spec_of())).seal
        assert self.sent(stage, True, seal(100, b"none", IPIP)) == {"malformed": 1}

    @pytest.mark.parametrize("encapsulation", [True, False])
    def test_the_other_encapsulation(self, stage: Stage, encapsulation: bool) -> None:
        seal = self.sealer(stage.install(spec_of(encapsulation=encapsulation))).seal
        packet = seal(100, datagram(UE_INNER[4], SERVER[4]), IPIP)
        assert self.sent(stage, not encapsulation, packet) == {"encapsulation": 1}

    def test_too_big_for_the_path(self, stage: Stage) -> None:
        """A socket that goes by the MTU of the next device alone; an XFRM interface counts it, as refused."""
        spec = stage.install(spec_of())
        server = stage.socket(stage.network, SERVER[4])
        length = 1450  # fits the link, not with ESP
        if stage.ue.plane.if_id:
            stage.outer_mtu(1300)
            length = MTU - UDP_HEADERS
        before, refused = self.dropped(stage.ue), stage.ue.call(lambda: stage.ue_device.counters.refused)
        with stage.ue.namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probing:
            probing.bind((UE_INNER[4], 0))
            probing.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            with suppress(OSError):
                probing.sendto(bytes(length), (SERVER[4], PORT))
        assert stage.silent(server)
        by_device = stage.ue.call(lambda: stage.ue_device.counters.refused) - refused
        assert by_device == bool(stage.ue.plane.if_id)
        assert (self.dropped(stage.ue) - before)["too_big"] + by_device == 1
        assert stage.ue.call(lambda: stage.ue.plane.counters(spec.inbound_spi)).outbound_packets == 0


class TestDevices:
    def test_close_leaves_nothing_and_again_is_harmless(self) -> None:
        with Namespace("alone") as namespace:
            end = End(namespace, Endpoint.of("127.0.0.1", 4500))
            device = end.device("pdn0", ["10.45.0.2/32"], ["192.0.2.0/24"])
            end.call(lambda: end.plane.install(spec_of()))
            assert device_names(namespace) == {"lo", "pdn0"}
            other = end.device("pdn1", ["10.45.0.9/32"], plane=end.call(end.new_plane))
            for _ in range(2):
                end.call(other.close)
            assert device_names(namespace) == {"lo", "pdn0"}
            for _ in range(2):
                end.call(end.carrier.close)
            assert device_names(namespace) == {"lo"}
            assert end.plane.installed == ()
            assert device.counters.written == 0
            with pytest.raises(LocalError):
                end.call(lambda: device.write(b""))

            def left() -> int:
                with XfrmSocket() as xfrm:
                    return len(xfrm.sa("dump")) + len(xfrm.policy("dump"))

            assert namespace.call(left) == 0
            end.close()

    def test_a_device_that_somebody_deletes(self) -> None:
        with Namespace("alone") as namespace:
            end = End(namespace)
            device = end.device("pdn0", ["10.45.0.2/32"])

            def delete() -> None:
                with IPRoute() as route:
                    route.link("add", ifname="other0", kind="dummy")
                    route.link("del", ifname="other0")
                    route.link("del", ifname="pdn0")

            namespace.call(delete)
            end.until(lambda: bool(end.failures))
            assert [str(error) for error in end.failures] == ["device pdn0: it is gone"]
            end.call(device.close)
            end.device("pdn0", ["10.45.0.2/32"])
            assert device_names(namespace) == {"lo", "pdn0"}
            assert len(end.failures) == 1
            end.close()
            assert device_names(namespace) == {"lo"}

    def test_refusals_leave_nothing(self) -> None:
        with Namespace("alone") as namespace:
            end = End(namespace)
            for addresses, mtu, routes in (
                (["10.45.0.2/32"] * 2, 1400, []),
                (["10.45.0.2/32"], 1400, ["192.0.2.0/24"] * 2),
            ):
                with pytest.raises(BackendError, match="device pdn0: File exists"):
                    end.device("pdn0", addresses, routes, mtu)
                assert device_names(namespace) == {"lo"}
            end.device("pdn0", [])
            with pytest.raises(BackendError, match="device pdn0: File exists"):
                end.device("pdn0", [])
            assert device_names(namespace) == {"lo", "pdn0"}
            for name in ("", "sixteen-letters-"):
                with pytest.raises(LocalError):
                    end.device(name, [])
            end.close()

    def test_a_crash_leaves_what_the_next_run_removes(self) -> None:
        """Devices of ours, by their mark; another's dummy of a similar name stays."""
        with Namespace("crash") as namespace:

            def crash() -> None:
                with IPRoute() as route:
                    route.link("add", ifname="epdg1", kind="dummy")
                child = os.fork()
                if child == 0:
                    end = End(namespace)
                    end.device("epdg0", ["10.45.0.1/16"])
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0

            namespace.call(crash)
            assert device_names(namespace) == {"lo", "epdg0", "epdg1"}
            end = End(namespace)
            assert device_names(namespace) == {"lo", "epdg1"}
            end.close()

    def test_one_process_in_a_namespace(self) -> None:
        with Namespace("alone") as namespace:
            end = End(namespace)
            with pytest.raises(LocalError):
                end.call(end.carrier.start)
            second = KernelCarrier()
            assert second.backend is Backend.KERNEL
            with pytest.raises(BackendError, match="another process carries child SAs"):
                end.call(second.start)
            reason = end.call(lambda: why_not(DEFAULT_POLICY))
            assert reason == "kernel XFRM: another process carries child SAs in this network namespace"
            second.close()
            with pytest.raises(LocalError, match="not started"):
                second.plane(
                    deliver=lambda packet, spi: None,
                    transmit=lambda octets, path, encapsulation, traffic_class: None,
                    told=lambda: None,
                    path_mtu=lambda path: None,
                ).install(spec_of())
            end.close()

    def test_bare_esp_is_left_to_the_kernel(self) -> None:
        with Namespace("alone") as namespace:
            end = End(namespace)
            assert end.carrier.open_raw is not None
            link = end.carrier.open_raw(UE_OUTER, lambda octets, path: None)
            link.send(b"ESP", GATEWAY_OUTER)
            assert link.dropped == {"not-by-the-kernel": 1}
            link.close()
            end.plane.receive_esp(b"ESP by a link of another kind", Path(UE_OUTER, GATEWAY_OUTER))
            assert end.carrier.dropped["not-by-the-kernel"] == 1
            end.close()
