"""DSCP, ECN, MSS and packets too long for the path: the fast data plane beside the userspace one."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from typing import Literal

import pytest

from protocols.dataplane.fast.plane import available, why_not
from protocols.dataplane.userspace.engine import ICMP_BURST
from protocols.esp.sa import MAXIMUM_EXTENDED_SEQUENCE, ChildSaSpec, DropReason
from protocols.esp.tunnel import TunnelPolicy
from protocols.ip import (
    IPIP,
    IPV6,
    TCP,
    UDP,
    IpPacket,
    checksum,
    pseudo_header,
)
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.packets import (
    DOWN,
    HOST_V6,
    UE_V6,
    UP,
    long_packet,
    udp,
    wild_syn,
    with_traffic_class,
)
from tests.dataplane.pairs import (
    HOST_ADDRESS,
    UE_ADDRESS,
    UE_PATH,
    ue_spec,
)

pytestmark = pytest.mark.skipif(not available(), reason=f"the fast data plane was not built (make fast): {why_not()}")
if available():
    from tests.dataplane.both import Both, from_peer, numbered


def dual_stack(suite: str = "aes128gcm16") -> ChildSaSpec:
    local = (TrafficSelector.host(UE_ADDRESS), TrafficSelector.host(UE_V6))
    anything = (TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0"))
    return replace(ue_spec(suite), local_selectors=local, remote_selectors=anything)


@pytest.mark.parametrize("dscp", [None, 0, 34, 63])
def test_dscp_and_ecn_outside(dscp: int | None) -> None:
    """RFC 4301 §5.1.2, RFC 6040 §4.1: every traffic class of both families."""
    both = Both(policy=TunnelPolicy(dscp=dscp))
    both.install(dual_stack())
    for inner in range(256):
        for packet in (UP, udp(UE_V6, HOST_V6)):
            ((*_, outer),) = both.send(with_traffic_class(packet, inner))
            assert outer == (inner if dscp is None else dscp << 2 | inner & 3)


def test_ecn_of_every_kind_on_the_way() -> None:
    """RFC 6040 §4.2: all of figure 4, the inner DSCP left alone, IPv4's checksum right afterwards."""
    both = Both()
    spec = dual_stack()
    both.install(spec)
    sequence, dropped = 0, 0
    for inner in (*range(4), *(46 << 2 | ecn for ecn in range(4))):
        for outer in (*range(4), *(63 << 2 | ecn for ecn in range(4))):
            for packet, next_header in ((DOWN, IPIP), (udp(HOST_V6, UE_V6), IPV6)):
                sequence += 1
                octets = from_peer(spec, sequence, with_traffic_class(packet, inner), next_header)
                delivered = both.receive(octets, UE_PATH, outer)
                dropped += not delivered
                for found, _ in delivered:
                    ecn = (found[1] >> 4 if next_header == IPV6 else found[1]) & 3
                    assert found == with_traffic_class(packet, inner & ~3 | ecn)
    counters = both.fast.counters(spec.inbound_spi)
    assert counters.congestion == dropped == sequence / 16
    assert counters.congestion_marked == 2 * dropped
    assert counters.ecn_unused == 5 * dropped
    assert counters.inbound_packets == sequence  # RFC 6040 drops what ESP has accepted


@pytest.mark.parametrize("reason", [DropReason.CONGESTION, DropReason.FRAGMENT])
def test_what_is_verified_and_dropped_lets_a_successor_send(reason: DropReason) -> None:
    """RFC 7296 §2.8: the peer has the new SA, whatever becomes of its packet."""
    both = Both()
    ports = replace(TrafficSelector.network("0.0.0.0/0"), protocol=UDP, start_port=7, end_port=7)
    old = replace(ue_spec("aes128gcm16"), remote_selectors=(ports,))
    new = numbered(old, 1)
    both.install(old)
    both.replace(old.inbound_spi, new, send_at_once=False)
    assert both.send(UP)[0][0][:4] == old.outbound_spi
    packet = udp(HOST_ADDRESS, UE_ADDRESS, ports=(7, 5000))
    if reason is DropReason.FRAGMENT:
        packet = packet[:6] + b"\x00\x10" + packet[8:]
    assert not both.receive(from_peer(new, 1, packet, IPIP), UE_PATH, 3)
    assert both.fast.drops == {reason: 1}
    assert both.send(UP)[0][0][:4] == new.outbound_spi


@pytest.mark.parametrize("mss", [None, "auto", 536, 1200, 0])
def test_the_mss_of_syns(mss: int | Literal["auto"] | None) -> None:
    """RFC 9293 §3.7.1: both ways, both families, options in any order; what was right stays right."""
    both, chance = Both(policy=TunnelPolicy(mss=mss)), random.Random(f"mss {mss}")
    spec = dual_stack()
    both.install(spec)
    for sequence in range(1, 801):
        if sequence % 50 == 0:
            both.change_path_mtu(chance.choice([1500, 1400, 1280, 700, 90, None]))
        ends = chance.choice([(UE_ADDRESS, HOST_ADDRESS), (UE_V6, HOST_V6)])
        both.send(wild_syn(chance, *ends))
        down = wild_syn(chance, *reversed(ends))
        ecn = chance.randrange(4)
        both.receive(
            from_peer(spec, sequence, with_traffic_class(down, 2), IPIP if ends[0] is UE_ADDRESS else IPV6),
            UE_PATH,
            ecn,
        )
    assert bool(both.fast.counters(spec.inbound_spi).mss_clamped) == (mss is not None)


def test_a_lowered_mss_as_the_host_reads_it() -> None:
    both = Both(policy=TunnelPolicy(mss="auto"))
    both.change_path_mtu(1400)
    spec = dual_stack()
    both.install(spec)
    for sequence, (source, destination, header) in enumerate(((HOST_ADDRESS, UE_ADDRESS, 20), (HOST_V6, UE_V6, 40)), 1):
        for before in (b"", b"\x01", b"\x03\x03\x07"):
            options = (before + b"\x02\x04\x05\xb4").ljust(8, b"\x00")
            segment = struct.pack(">HHIIBBHHH", 80, 5000, 7, 0, 7 << 4, 0x12, 65535, 0, 0) + options
            covered = pseudo_header(source, destination, TCP, len(segment)) + segment
            segment = segment[:16] + checksum(covered).to_bytes(2, "big") + segment[18:]
            packet = IpPacket(source=source, destination=destination, protocol=TCP, payload=segment).encode()
            number = 10 * sequence + len(before)
            ((found, _),) = both.receive(from_peer(spec, number, packet, IPIP if header == 20 else IPV6), UE_PATH)
            lowered = found[header:]
            fits = int.from_bytes(lowered[20 + len(before) + 2 :][:2], "big") + header + 20
            assert checksum(pseudo_header(source, destination, TCP, len(lowered)) + lowered) == 0
            assert 1300 < fits < 1400


@pytest.mark.parametrize("policy", [TunnelPolicy(), TunnelPolicy(outer_mtu=1300, mss="auto"), TunnelPolicy(mss=900)])
def test_packets_too_long_for_the_path(policy: TunnelPolicy) -> None:
    """RFC 4301 §8.2.1: in pieces, answered, or as they are where pieces would show no ports; by any path's MTU."""
    both, chance = Both(policy=policy), random.Random(str(policy))
    spec = dual_stack("aes128-sha256-esn")
    ports = replace(TrafficSelector.network("0.0.0.0/0"), protocol=UDP, start_port=7, end_port=7)
    specs = [spec, numbered(replace(spec, remote_selectors=(ports,)), 1)]
    both.install(spec)
    pieces, answers = set(), 0
    for turn in range(600):
        if turn % 20 == 0:
            both.change_path_mtu(chance.choice([None, 1500, 1500, 1400, 1280, 1000, 576, 100, 20]))
        if turn % 100 == 40:
            path = chance.choice([UE_PATH, Path(Endpoint.of("2001:db8::7", 4500), Endpoint.of("2001:db8::1", 4500))])
            both.update_path(spec.inbound_spi, path, chance.random() < 0.5)
        if turn == 300:
            both.install(specs[1])
        if turn == 500:
            both.skip_sequence(spec.inbound_spi, MAXIMUM_EXTENDED_SEQUENCE - 40)
        length = chance.choice([499, 500, 501, 1279, 1280, 1281, 1500, 4000, chance.randrange(100, 1600)])
        packet = long_packet(chance, length)
        pieces.add(len(both.send(packet + bytes(chance.choice([0, 0, 3])))))
        answers += len(both.delivered[1])
    assert {0, 1, 2} < pieces
    assert answers
    counters = [both.fast.counters(each.inbound_spi) for each in specs]
    assert counters[0].too_big
    assert counters[0].fragmented
    assert both.fast.drops[DropReason.TOO_BIG] == sum(each.too_big for each in counters)
    assert bool(counters[0].mss_clamped) == (policy.mss is not None)


def test_answers_to_packets_too_long_are_rate_limited() -> None:
    both = Both(policy=TunnelPolicy(outer_mtu=1000))
    both.install(dual_stack())
    packet = udp(UE_V6, HOST_V6, bytes(1400))
    answers = 0
    for _ in range(80):
        both.send(packet)
        answers += len(both.delivered[1])
        both.now += 0.001
    assert ICMP_BURST <= answers < 80
