"""Segmentation of the fast path, octet by octet; scapy computes the checksums that are expected.

What it puts together itself is in ``test_coalescing``.
"""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from tests.dataplane.segments import (
    CHOSEN,
    NEEDS_CHECKSUM,
    NONE,
    TCP4,
    TCP6,
    TIMESTAMPS,
    UDP_L4,
    VNET,
    checked,
    ip_header,
    octets_of,
    parsed,
    pieces,
    super_packet,
    tcp_flow,
)

native = pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [[], TIMESTAMPS], ids=["plain", "timestamps"])
@pytest.mark.parametrize(("size", "length"), [(1310, 20000), (1310, 1311), (536, 536 * 3), (1, 5), (3, 100)])
def test_a_tcp_super_packet_becomes_segments(
    version: int, options: list[tuple[str, object]], size: int, length: int
) -> None:
    payload = CHOSEN.randbytes(length)
    first = 0xFFFFFF00  # the sequence numbers wrap
    transport = TCP(sport=2152, dport=443, seq=first, ack=9, flags="FPA", window=501, options=options)
    whole = (
        ip_header(version, **({"id": 65530} if version == 4 else {"tc": 2, "fl": 0x12345})) / transport / Raw(payload)
    )
    segments = [checked(one) for one in native.segment(super_packet(whole, TCP4 if version == 4 else TCP6, size))]
    assert b"".join(bytes(one[TCP].payload) for one in segments) == payload
    assert [len(one[TCP].payload) for one in segments[:-1]] == [size] * (len(segments) - 1)
    assert [one[TCP].seq for one in segments] == [(first + at) % 2**32 for at in range(0, length, size)]
    assert {str(one[TCP].flags) for one in segments[:-1]} <= {"A"}
    assert str(segments[-1][TCP].flags) == "FPA"
    for one in segments:
        assert one[TCP].options == whole[TCP].options
        assert (one[TCP].ack, one[TCP].window, one[TCP].sport, one[TCP].dport) == (9, 501, 2152, 443)
        if version == 6:
            assert (one[IPv6].tc, one[IPv6].fl, one[IPv6].hlim) == (2, 0x12345, 61)
    if version == 4:
        assert [one[IP].id for one in segments] == [(65530 + at) % 2**16 for at in range(len(segments))]


def test_congestion_window_reduced_is_said_once() -> None:
    whole = ip_header(4) / TCP(flags="CA", seq=1) / Raw(bytes(3000))
    segments = native.segment(super_packet(whole, TCP4, 1000))
    assert [str(checked(one)[TCP].flags) for one in segments] == ["AC", "A", "A"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_udp_super_packet_becomes_datagrams(version: int) -> None:
    payload = CHOSEN.randbytes(4321)
    whole = ip_header(version) / UDP(sport=5004, dport=5006) / Raw(payload)
    datagrams = [checked(one) for one in native.segment(super_packet(whole, UDP_L4, 1000))]
    assert [bytes(one[UDP].payload) for one in datagrams] == [payload[at : at + 1000] for at in range(0, 4321, 1000)]
    assert [one[UDP].len for one in datagrams] == [1008] * 4 + [329]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 31, 32, 33, 1234])
def test_a_checksum_that_is_left_to_us_is_completed(version: int, length: int) -> None:
    for transport, offset in ((TCP(flags="S"), 16), (UDP(sport=1, dport=2), 6)):
        whole = ip_header(version) / transport / Raw(CHOSEN.randbytes(length))
        given = super_packet(whole, TCP4 if offset == 16 else UDP_L4, 0)
        header = VNET.pack(NEEDS_CHECKSUM, NONE, 0, 0, 20 if version == 4 else 40, offset)
        assert native.segment(header + given[VNET.size :]) == [octets_of(whole)]


def test_a_udp_checksum_of_zero_is_sent_as_ones() -> None:
    """RFC 768: zero stands for no checksum."""
    datagram = ip_header(6) / UDP(sport=1, dport=2) / Raw(bytes(2))
    rest = parsed(octets_of(datagram))[UDP].chksum
    datagram = ip_header(6) / UDP(sport=1, dport=2) / Raw(struct.pack(">H", rest))
    given = super_packet(datagram, UDP_L4, 0)
    header = VNET.pack(NEEDS_CHECKSUM, NONE, 0, 0, 40, 6)
    (out,) = native.segment(header + given[VNET.size :])
    assert out[46:48] == b"\xff\xff"


def test_what_needs_nothing_is_left_alone() -> None:
    packet = octets_of(ip_header(4) / ICMP() / Raw(b"abc"))
    assert native.segment(bytes(VNET.size) + packet) == [packet]


@pytest.mark.parametrize(
    ("header", "packet"),
    [
        (VNET.pack(0, NONE, 0, 0, 0, 0), b""),
        (VNET.pack(NEEDS_CHECKSUM, NONE, 0, 0, 20, 16), bytes(37)),
        (VNET.pack(NEEDS_CHECKSUM, NONE, 0, 0, 65535, 65535), bytes(100)),
        (VNET.pack(NEEDS_CHECKSUM, TCP4, 40, 0, 20, 16), octets_of(ip_header(4) / TCP() / Raw(bytes(100)))),
        (VNET.pack(NEEDS_CHECKSUM, TCP4, 40, 50, 24, 16), octets_of(ip_header(4) / TCP() / Raw(bytes(100)))),
        (VNET.pack(NEEDS_CHECKSUM, TCP6, 40, 50, 20, 16), octets_of(ip_header(4) / TCP() / Raw(bytes(100)))),
        (VNET.pack(NEEDS_CHECKSUM, TCP4, 40, 50, 20, 16), octets_of(ip_header(6) / TCP() / Raw(bytes(100)))),
        (VNET.pack(NEEDS_CHECKSUM, TCP4, 40, 50, 20, 16), octets_of(ip_header(4) / TCP())),
        (VNET.pack(NEEDS_CHECKSUM, TCP4, 40, 50, 20, 16), octets_of(ip_header(4) / TCP(dataofs=2) / Raw(bytes(100)))),
        (VNET.pack(NEEDS_CHECKSUM, UDP_L4, 40, 50, 250, 6), octets_of(ip_header(6) / UDP() / Raw(bytes(1000)))),
        (VNET.pack(NEEDS_CHECKSUM, 3, 40, 50, 20, 6), octets_of(ip_header(4) / UDP() / Raw(bytes(100)))),
        (VNET.pack(0, 99, 0, 50, 0, 0), bytes(100)),
    ],
)
def test_a_header_that_does_not_fit_is_refused(header: bytes, packet: bytes) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        native.segment(header + packet)


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_become_a_super_packet_where_the_kernel_takes_it(version: int) -> None:
    packets = [
        octets_of(ip_header(version, **({"id": 7 + at} if version == 4 else {})) / UDP(sport=1, dport=2) / Raw(payload))
        for at, payload in enumerate(pieces(10050, 1000))
    ]
    (together,) = native.coalesce(packets, True)
    assert VNET.unpack_from(together)[:2] == (NEEDS_CHECKSUM, UDP_L4)
    assert [one for packet in native.coalesce(packets, True) for one in native.segment(packet)] == packets
    assert [one[VNET.size :] for one in native.coalesce(packets, False)] == packets


def test_any_header_before_any_packet() -> None:
    """Invariant: refused, or the payload comes out whole in segments no longer than the header says."""
    refused = 0
    pool = [one for version in (4, 6) for length in range(1, 300, 23) for one in tcp_flow(version, [bytes(length)])]
    for _ in range(3000):
        packet = bytearray(CHOSEN.choice(pool))
        for _ in range(CHOSEN.choice((0, 0, 1, 5))):
            packet[CHOSEN.randrange(len(packet))] = CHOSEN.randrange(256)
        size, start = CHOSEN.choice((0, 1, 50, 65535)), CHOSEN.choice((20, 40, 0, 7, 60, 65535))
        kind, offset = CHOSEN.choice((NONE, TCP4, TCP6, UDP_L4, 3, 77, 0x81)), CHOSEN.choice((16, 6, 0, 65535))
        header = VNET.pack(CHOSEN.choice((0, NEEDS_CHECKSUM, 2)), kind, CHOSEN.randrange(65536), size, start, offset)
        try:
            out = native.segment(header + packet)
        except ValueError:
            refused += 1
            continue
        if kind == NONE:
            assert len(out) == 1
            continue
        headers = start + ((packet[start + 12] >> 4) * 4 if kind != UDP_L4 else 8)
        assert b"".join(one[headers:] for one in out) == packet[headers:]
        assert all(headers < len(one) <= headers + size for one in out)
    assert 0 < refused < 3000
