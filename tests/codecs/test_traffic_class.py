"""DSCP and ECN between inner and outer headers (RFC 4301 §5.1.2, RFC 6040 §4), judged by Scapy."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Raw

from protocols.esp.traffic_class import (
    CE,
    ECT_0,
    ECT_1,
    NOT_ECT,
    decapsulated,
    is_unused,
    outer_traffic_class,
    traffic_class_of,
)

# RFC 6040 §4.2, figure 4: rows are the inner, columns the outer field (Not-ECT, ECT(0), ECT(1), CE)
OUTER = (NOT_ECT, ECT_0, ECT_1, CE)
FIGURE_4 = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, None),
    ECT_0: (ECT_0, ECT_0, ECT_1, CE),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    CE: (CE, CE, CE, CE),
}
MARKED_UNUSED = {(NOT_ECT, ECT_0), (NOT_ECT, ECT_1), (NOT_ECT, CE), (ECT_1, ECT_0), (CE, ECT_1)}


def packet(version: int, traffic_class: int, number: int = 0) -> bytes:
    payload = UDP(sport=5000, dport=7) / Raw(bytes(range(number % 251)))
    if version == 4:
        return bytes(IP(src="10.45.0.2", dst="192.0.2.80", tos=traffic_class, id=number) / payload)
    return bytes(IPv6(src="2001:db8::2", dst="2001:db8::80", tc=traffic_class) / IPv6ExtHdrDestOpt() / payload)


def scapys(octets: bytes) -> tuple[int, bytes]:
    """Traffic class as Scapy reads it, and the packet as Scapy builds it with a checksum of its own."""
    if octets[0] >> 4 == 4:
        found = IP(octets)
        tos = found.tos
        del found.chksum
        return tos, bytes(found)
    return IPv6(octets).tc, bytes(IPv6(octets))


@pytest.mark.parametrize("version", [4, 6])
def test_every_traffic_class_is_read_and_copied(version: int) -> None:
    for traffic_class in range(256):
        octets = packet(version, traffic_class)
        assert traffic_class_of(octets) == traffic_class == scapys(octets)[0]
        assert outer_traffic_class(octets, None) == traffic_class
        assert outer_traffic_class(octets, 46) == 46 << 2 | traffic_class & 3  # ECN is copied in any case


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("inner", FIGURE_4)
def test_decapsulation_by_figure_4(version: int, inner: int) -> None:
    """The inner DSCP stays whatever the outer one is (RFC 2983 §4.1: the pipe model), the checksum is right."""
    for outer, expected in zip(OUTER, FIGURE_4[inner], strict=True):
        for dscp in (0, 10, 46, 63):
            octets = packet(version, dscp << 2 | inner, number=dscp)
            result = decapsulated(octets, 8 << 2 | outer)
            assert is_unused(octets, 8 << 2 | outer) == ((inner, outer) in MARKED_UNUSED)
            if expected is None:
                assert result is None
                continue
            assert result is not None
            tos, again = scapys(result)
            assert tos == dscp << 2 | expected
            assert again == result
            assert (result is octets) == (expected == inner)


def test_checksums_of_many_packets_after_a_mark() -> None:
    """RFC 1624: also where a sum is all ones or zero on the way."""
    for number in range(0, 65536, 257):
        marked = decapsulated(packet(4, ECT_0, number), CE)
        assert marked is not None
        assert scapys(marked)[1] == marked
