"""What the userspace data plane does with DSCP, ECN, path MTU, MSS, fragments and the replay window."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, defragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Packet, Raw

from protocols.dataplane.userspace.engine import ICMP_BURST, PATH_MTU_INTERVAL, UserspaceDataPlane
from protocols.entropy import SeededEntropy
from protocols.esp.sa import ChildSaSpec, DropReason
from protocols.esp.tunnel import DEFAULT_POLICY, TunnelPolicy
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.pairs import GATEWAY_PATH, UE_PATH, mirrored, ue_spec

UE, HOST = "10.45.0.2", "192.0.2.80"
UE6, HOST6 = "2001:db8:45::2", "2001:db8:99::1"
OUTER_OVERHEAD = 20 + 8  # IPv4 and UDP
UDP_PROTOCOL = 17
ANY4, ANY6 = TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0")


def dual_stack(spec: ChildSaSpec) -> ChildSaSpec:
    return replace(
        spec,
        local_selectors=(TrafficSelector.host(UE), TrafficSelector.host(UE6)),
        remote_selectors=(ANY4, ANY6),
    )


class Tunnel:
    """A UE and a gateway; ``marks`` are the traffic classes that the UE's ESP left with."""

    def __init__(
        self,
        policy: TunnelPolicy = DEFAULT_POLICY,
        *,
        spec: ChildSaSpec | None = None,
        path_mtu: int | None = None,
        gateway_policy: TunnelPolicy = DEFAULT_POLICY,
    ) -> None:
        self.now = 1000.0
        self.path_mtu = path_mtu
        self.asked: list[Path] = []
        self.spec = spec or dual_stack(ue_spec())
        self.sent: list[tuple[bytes, int]] = []
        self.at_ue: list[bytes] = []
        self.at_gateway: list[bytes] = []
        self.on_the_way: int | None = None  # the traffic class that the network makes of every other
        self.ue = UserspaceDataPlane(
            entropy=SeededEntropy("ue"),
            deliver=lambda packet, spi: self.at_ue.append(packet),
            transmit=self._up,
            policy=policy,
            path_mtu=self._path_mtu,
            now=lambda: self.now,
        )
        self.gateway = UserspaceDataPlane(
            entropy=SeededEntropy("gateway"),
            deliver=lambda packet, spi: self.at_gateway.append(packet),
            transmit=lambda octets, path, encapsulation, mark: self.ue.receive_esp(octets, UE_PATH, mark),
            policy=gateway_policy,
        )
        self.ue.install(self.spec)
        self.gateway.install(mirrored(self.spec))

    def _path_mtu(self, path: Path) -> int | None:
        self.asked.append(path)
        return self.path_mtu

    def _up(self, octets: bytes, path: Path, encapsulation: bool, mark: int) -> None:
        self.sent.append((octets, mark))
        self.gateway.receive_esp(octets, GATEWAY_PATH, mark if self.on_the_way is None else self.on_the_way)

    def ue_counts(self) -> dict[str, int]:
        return _counts(self.ue, self.spec.inbound_spi)

    def gateway_counts(self) -> dict[str, int]:
        return _counts(self.gateway, self.spec.outbound_spi)


def _counts(plane: UserspaceDataPlane, spi: bytes) -> dict[str, int]:
    counters = vars(plane.counters(spi))
    carried = ("inbound_packets", "inbound_octets", "outbound_packets", "outbound_octets")
    return {name: count for name, count in counters.items() if count and name not in carried}


def v4(length: int, *, tos: int = 0, flags: str = "", identification: int = 1) -> bytes:
    header = IP(src=UE, dst=HOST, tos=tos, flags=flags, id=identification) / UDP(sport=5000, dport=7)
    return bytes(header / Raw(bytes(length - 28)))


def v6(length: int, *, tc: int = 0) -> bytes:
    return bytes(IPv6(src=UE6, dst=HOST6, tc=tc) / UDP(sport=5000, dport=7) / Raw(bytes(length - 48)))


def syn(mss: int, *, version: int = 4, down: bool = False) -> bytes:
    source, destination = (UE, HOST) if version == 4 else (UE6, HOST6)
    if down:
        source, destination = destination, source
    header: Packet = IP(src=source, dst=destination) if version == 4 else IPv6(src=source, dst=destination)
    return bytes(header / TCP(flags="S", options=[("MSS", mss)]))


# --- DSCP and ECN


def test_the_outer_header_has_the_inner_dscp_and_ecn() -> None:
    tunnel = Tunnel()
    for packet in (v4(100, tos=46 << 2 | 2), v6(100, tc=10 << 2 | 1), v4(100)):
        assert tunnel.ue.send_inner(packet)
    assert [mark for _, mark in tunnel.sent] == [46 << 2 | 2, 10 << 2 | 1, 0]


def test_a_fixed_dscp_hides_the_inner_one_but_not_ecn() -> None:
    """RFC 4301 §5.1.2: the DSCP of inner packets is a covert channel that an operator may close."""
    tunnel = Tunnel(TunnelPolicy(dscp=34))
    for packet in (v4(100, tos=46 << 2 | 2), v6(100, tc=10 << 2), v4(100)):
        assert tunnel.ue.send_inner(packet)
    assert [mark for _, mark in tunnel.sent] == [34 << 2 | 2, 34 << 2, 34 << 2]
    assert [IP(each).tos for each in tunnel.at_gateway[::2]] == [46 << 2 | 2, 0]  # inside it is as it was


def test_congestion_on_the_way_is_told_inside_or_costs_the_packet() -> None:
    """RFC 6040 §4.2; the outer DSCP is nobody's business inside (RFC 2983)."""
    tunnel = Tunnel()
    tunnel.on_the_way = 8 << 2 | 3  # CE, and another DSCP
    assert tunnel.ue.send_inner(v4(100, tos=46 << 2 | 2))
    assert tunnel.ue.send_inner(v6(100, tc=46 << 2 | 1))
    assert tunnel.ue.send_inner(v4(100, tos=46 << 2))  # its transport knows no ECN
    first, second = tunnel.at_gateway
    assert (IP(first).tos, IPv6(second).tc) == (46 << 2 | 3, 46 << 2 | 3)
    assert tunnel.gateway_counts() == {"congestion": 1, "congestion_marked": 2, "ecn_unused": 1}
    assert tunnel.gateway.drops == {DropReason.CONGESTION: 1}


def test_outer_ecn_that_means_nothing_inside_is_counted_and_goes_no_further() -> None:
    tunnel = Tunnel()
    tunnel.on_the_way = 2  # ECT(0), from an ingress that does not copy
    assert tunnel.ue.send_inner(v4(100))
    assert IP(tunnel.at_gateway[0]).tos == 0
    assert tunnel.gateway_counts() == {"ecn_unused": 1}


# --- path MTU


@pytest.mark.parametrize("suite", ["aes128gcm16", "aes256-sha512", "3des-sha1"])
def test_packets_without_df_go_in_pieces_that_fit(suite: str) -> None:
    """RFC 4301 §8.2.1, case 2; none of the pieces makes the outer packet longer than the path's MTU."""
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1000), spec=dual_stack(ue_spec(suite)))
    whole = v4(2800, tos=0x28)
    assert tunnel.ue.send_inner(whole)
    assert max(len(octets) for octets, _ in tunnel.sent) + OUTER_OVERHEAD <= 1000
    assert {mark for _, mark in tunnel.sent} == {0x28}
    (again,) = defragment([IP(packet) for packet in tunnel.at_gateway])
    del again.chksum
    assert bytes(IP(bytes(again))) == whole
    assert tunnel.ue_counts() == {"fragmented": 1}


def test_packets_with_df_are_answered_with_what_fits() -> None:
    """RFC 4301 §8.2.1, case 1; what is then sent at that length goes through."""
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1400))
    assert not tunnel.ue.send_inner(v4(1399, flags="DF"))
    (answer,) = (IP(packet) for packet in tunnel.at_ue)
    assert (answer.src, answer.dst, answer[ICMP].code) == (HOST, UE, 4)
    mtu = answer[ICMP].nexthopmtu
    assert tunnel.ue.send_inner(v4(mtu, flags="DF"))
    assert not tunnel.ue.send_inner(v4(mtu + 1, flags="DF"))
    assert len(tunnel.sent[0][0]) + OUTER_OVERHEAD <= 1400
    assert tunnel.ue_counts() == {"too_big": 2}
    assert tunnel.ue.drops == {DropReason.TOO_BIG: 2}


def test_ipv6_is_told_of_no_less_than_1280() -> None:
    """RFC 8200 §5: then it is the outer packet that is fragmented, by whoever sends it."""
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1400))
    assert not tunnel.ue.send_inner(v6(1400))
    (answer,) = (IPv6(packet) for packet in tunnel.at_ue)
    mtu = answer[ICMPv6PacketTooBig].mtu
    assert 1280 < mtu < 1400
    assert tunnel.ue.send_inner(v6(mtu))

    narrow = Tunnel(TunnelPolicy(outer_mtu=1280))
    assert not narrow.ue.send_inner(v6(1281))
    assert IPv6(narrow.at_ue[0])[ICMPv6PacketTooBig].mtu == 1280
    assert narrow.ue.send_inner(v6(1280))
    assert len(narrow.sent[0][0]) + OUTER_OVERHEAD > 1280
    assert narrow.at_gateway == [v6(1280)]


def test_icmp_errors_are_rate_limited() -> None:
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1400))
    for _ in range(300):
        tunnel.ue.send_inner(v4(1399, flags="DF"))
    assert len(tunnel.at_ue) == ICMP_BURST
    tunnel.now += 0.1
    for _ in range(300):
        tunnel.ue.send_inner(v4(1399, flags="DF"))
    assert len(tunnel.at_ue) == ICMP_BURST + 10
    assert tunnel.ue_counts() == {"too_big": 600}


def test_the_path_mtu_is_that_of_the_path_and_asked_for_anew() -> None:
    """It is asked for when long packets go, after a while again, and for another path at once."""
    tunnel = Tunnel(path_mtu=1400)
    assert tunnel.ue.send_inner(v4(300, flags="DF"))
    assert tunnel.asked == []
    assert not tunnel.ue.send_inner(v4(1399, flags="DF"))
    assert not tunnel.ue.send_inner(v4(1399, flags="DF"))
    assert tunnel.asked == [UE_PATH]
    tunnel.path_mtu = 1500
    tunnel.now += PATH_MTU_INTERVAL
    assert tunnel.ue.send_inner(v4(1399, flags="DF"))
    elsewhere = Path(UE_PATH.local, Endpoint.of("2001:db8::1", 4500))
    tunnel.path_mtu = 1480
    tunnel.ue.update_path(tunnel.spec.inbound_spi, elsewhere, True)
    assert not tunnel.ue.send_inner(v4(1399, flags="DF"))  # an IPv6 header is longer
    assert tunnel.asked == [UE_PATH, UE_PATH, elsewhere]
    tunnel.path_mtu = None  # nobody knows: nothing is too long
    tunnel.now += PATH_MTU_INTERVAL
    assert tunnel.ue.send_inner(v4(9000, flags="DF"))


def test_a_configured_mtu_is_not_the_networks_to_change() -> None:
    """RFC 4301 §8.2.1: "configured to process (vs. ignore) such messages"."""
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1400), path_mtu=600)
    assert tunnel.ue.send_inner(v4(1300, flags="DF"))
    assert tunnel.asked == []


# --- MSS


@pytest.mark.parametrize("version", [4, 6])
def test_mss_is_clamped_both_ways(version: int) -> None:
    """At one end only: what the other one says is lowered on the way in."""
    tunnel = Tunnel(TunnelPolicy(mss="auto", outer_mtu=1400))
    assert tunnel.ue.send_inner(syn(1460, version=version))
    assert tunnel.gateway.send_inner(syn(1460, version=version, down=True))
    header = 20 if version == 4 else 40
    (up,), (down,) = tunnel.at_gateway, tunnel.at_ue
    for octets in (up, down):
        packet = IP(octets) if version == 4 else IPv6(octets)
        ((_, mss),) = packet[TCP].options
        full = v4(mss + header + 20, flags="DF") if version == 4 else v6(mss + header + 20)
        longer = v4(mss + header + 21, flags="DF") if version == 4 else v6(mss + header + 21)
        assert tunnel.ue.send_inner(full)
        assert not tunnel.ue.send_inner(longer)
    assert tunnel.ue_counts()["mss_clamped"] == 2


def test_mss_is_clamped_to_a_number_and_only_when_that_is_less() -> None:
    tunnel = Tunnel(TunnelPolicy(mss=1200))
    for mss in (1460, 1200, 536):
        assert tunnel.ue.send_inner(syn(mss))
    assert [IP(each)[TCP].options for each in tunnel.at_gateway] == [[("MSS", mss)] for mss in (1200, 1200, 536)]
    assert tunnel.ue_counts() == {"mss_clamped": 1}


def test_mss_is_left_alone_by_default() -> None:
    tunnel = Tunnel(path_mtu=1400)
    assert tunnel.ue.send_inner(syn(9000))
    assert tunnel.at_gateway == [syn(9000)]


# --- inner fragments


def with_ports(spec: ChildSaSpec) -> ChildSaSpec:
    """UDP to port 7 only."""
    return replace(
        spec,
        remote_selectors=(replace(ANY4, protocol=UDP_PROTOCOL, start_port=7, end_port=7),),
    )


def later_fragment(source: str = UE) -> bytes:
    return bytes(IP(src=source, dst=HOST, id=1, frag=100, proto=UDP_PROTOCOL) / Raw(bytes(64)))


def test_fragments_go_where_no_ports_are_selected() -> None:
    """RFC 4301 §7.1."""
    tunnel = Tunnel()
    assert tunnel.ue.send_inner(later_fragment())
    assert tunnel.at_gateway == [later_fragment()]


def test_fragments_without_ports_do_not_go_where_ports_are_selected() -> None:
    """RFC 4301 §7.3: not sent and not taken without NON_FIRST_FRAGMENTS_ALSO; nothing waits for their first one."""
    tunnel = Tunnel(spec=with_ports(ue_spec()))
    assert tunnel.ue.send_inner(v4(100))
    assert not tunnel.ue.send_inner(later_fragment())
    assert not tunnel.ue.send_inner(later_fragment(source="10.45.0.99"))  # of nobody's: not for want of ports
    assert tunnel.ue_counts() == {"fragment": 1}
    assert tunnel.ue.drops == {DropReason.FRAGMENT: 1, DropReason.NO_SA: 1}

    lax = Tunnel(spec=ue_spec())
    tunnel.gateway.receive_esp(_from(lax, later_fragment(), after=5), GATEWAY_PATH)
    tunnel.gateway.receive_esp(_from(lax, v4(100).replace(b"\x00\x07", b"\x00\x08"), after=6), GATEWAY_PATH)
    assert tunnel.gateway_counts() == {"fragment": 1, "bad_selector": 1}
    assert len(tunnel.at_gateway) == 1


def _from(tunnel: Tunnel, packet: bytes, *, after: int) -> bytes:
    """The same SA with wider selectors, at another sequence number."""
    tunnel.ue.child_sa(tunnel.spec.inbound_spi).sequence = after
    assert tunnel.ue.send_inner(packet)
    return tunnel.sent[-1][0]


def test_what_may_not_go_in_pieces_inside_goes_in_pieces_outside() -> None:
    """RFC 4301 §7.3 and §8.2.1: fragmentation after encryption where the SA does not take fragments."""
    tunnel = Tunnel(TunnelPolicy(outer_mtu=1000), spec=with_ports(ue_spec()))
    assert tunnel.ue.send_inner(v4(1300))
    assert tunnel.at_gateway == [v4(1300)]
    assert len(tunnel.sent) == 1
    assert tunnel.ue_counts() == {}


# --- replay windows


@pytest.mark.parametrize("size", [32, 33, 64, 1000, 4096])
def test_the_edge_of_the_replay_window_beside_scapy(size: int) -> None:
    """RFC 4303 §3.4.3: Scapy's packets arrive late; the last one inside the window is taken, the next is not."""
    spec = ue_spec("aes128gcm16", replay_window=size)
    taken: list[bytes] = []
    gateway = UserspaceDataPlane(
        entropy=SeededEntropy("gateway"),
        deliver=lambda packet, spi: taken.append(packet),
        transmit=lambda octets, path, encapsulation, mark: None,
    )
    gateway.install(mirrored(spec))
    scapy = SecurityAssociation(
        ESP,
        spi=int.from_bytes(spec.outbound_spi, "big"),
        crypt_algo="AES-GCM",
        crypt_key=spec.outbound_encryption_key.reveal(),
        tunnel_header=IP(src="198.51.100.7", dst="192.0.2.1"),
    )

    def arrives(number: int) -> bool:
        before = len(taken)
        esp = scapy.encrypt(IP(v4(100, identification=number & 0xFFFF)), seq_num=number)[ESP]
        gateway.receive_esp(bytes(esp), GATEWAY_PATH)
        return len(taken) > before

    top = 2 * size
    assert arrives(top)
    assert arrives(top - size + 1)
    assert not arrives(top - size)
    assert not arrives(top - size + 1)
    assert not arrives(top)
    assert arrives(top + size)  # the window has moved by its size: of what was inside, nothing is
    assert not arrives(top)
    assert arrives(top + 1)
    assert gateway.counters(spec.outbound_spi).replayed == 4
