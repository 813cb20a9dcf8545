"""Segmentation and coalescing of the fast path, octet by octet; scapy computes the checksums that are expected."""

from __future__ import annotations

import random
import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

native = pytest.importorskip("protocols.dataplane.fast._native", reason="the extension of the fast path is not built")

VNET = struct.Struct("=BBHHHH")  # virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
NEEDS_CHECKSUM = 1
NONE, TCP4, TCP6, UDP_L4 = 0, 1, 4, 5
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (77, 88))]
CHOSEN = random.Random(4500)


def ip_header(version: int, **fields: int) -> Packet:
    if version == 6:
        return IPv6(src="2001:db8::1", dst="2001:db8:ff::2", hlim=61, **fields)
    return IP(src="10.45.0.2", dst="192.0.2.80", ttl=61, **fields)


def octets_of(packet: Packet) -> bytes:
    """As it goes onto the wire: lengths and checksums by scapy."""
    return bytes(packet)


def parsed(octets: bytes) -> Packet:
    return IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)


def checked(octets: bytes) -> Packet:
    """Parse, and have scapy compute lengths and checksums anew: the octets must not change."""
    packet = parsed(octets)
    again = packet.copy()
    for layer in (IP, IPv6, TCP, UDP):
        if layer in again:
            for field in ("len", "plen", "chksum"):
                if field in again[layer].fields:
                    del again[layer].fields[field]
    assert bytes(again) == octets
    return packet


def super_packet(packet: Packet, kind: int, size: int) -> bytes:
    """What the kernel writes into a TUN device: the sum of the pseudo-header where the checksum will be."""
    version = 6 if IPv6 in packet else 4
    network = 40 if version == 6 else 20
    octets = bytearray(octets_of(packet))
    offset = 16 if kind in (TCP4, TCP6) else 6
    transport = (octets[network + 12] >> 4) * 4 if offset == 16 else 8
    struct.pack_into(">H", octets, network + offset, pseudo_sum(bytes(octets), network))
    return VNET.pack(NEEDS_CHECKSUM, kind, network + transport, size, network, offset) + octets


def pseudo_sum(octets: bytes, network: int) -> int:
    """The pseudo-header's sum, not complemented (RFC 9293 §3.1, RFC 8200 §8.1)."""
    version = octets[0] >> 4
    addresses = octets[8:40] if version == 6 else octets[12:20]
    protocol = octets[6] if version == 6 else octets[9]
    covered = addresses + struct.pack(">II", len(octets) - network, protocol)
    total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total


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


# ---------------------------------------------------------------------- coalescing


def tcp_flow(
    version: int, payloads: list[bytes], *, port: int = 5000, flags: str = "A", identification: int = 1
) -> list[bytes]:
    sequence = 0xFFFFFFF0
    packets = []
    for number, payload in enumerate(payloads):
        fields = {"id": (identification + number) % 2**16} if version == 4 else {}
        last = number == len(payloads) - 1
        transport = TCP(sport=port, dport=80, seq=sequence, ack=1, flags=flags if last else "A", options=TIMESTAMPS)
        packets.append(octets_of(ip_header(version, **fields) / transport / Raw(payload)))
        sequence = (sequence + len(payload)) % 2**32
    return packets


def pieces(length: int, size: int) -> list[bytes]:
    octets = CHOSEN.randbytes(length)
    return [octets[at : at + size] for at in range(0, length, size)]


def written(packets: list[bytes], *, udp: bool = True) -> list[tuple[tuple[int, ...], bytes]]:
    return [(VNET.unpack_from(one), bytes(one[VNET.size :])) for one in native.coalesce(packets, udp)]


def segmented(packets: list[bytes], *, udp: bool = True) -> list[bytes]:
    """What the kernel makes of what is written."""
    return [segment for one in native.coalesce(packets, udp) for segment in native.segment(one)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", ["A", "PA"])
@pytest.mark.parametrize("length", [3000, 20001])
def test_segments_become_a_super_packet_and_are_themselves_again(version: int, flags: str, length: int) -> None:
    packets = tcp_flow(version, pieces(length, 1310), flags=flags)
    ((header, octets),) = written(packets)
    network = 20 if version == 4 else 40
    assert header == (NEEDS_CHECKSUM, TCP4 if version == 4 else TCP6, network + 32, 1310, network, 16)
    assert octets[network + 16 : network + 18] == pseudo_sum(octets, network).to_bytes(2, "big")
    whole = parsed(octets)
    assert str(whole[TCP].flags) == flags
    assert whole[TCP].payload.load == b"".join(parsed(one)[TCP].payload.load for one in packets)
    if version == 4:
        assert whole[IP].len == len(octets)
    assert segmented(packets) == packets


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_become_a_super_packet_where_the_kernel_takes_it(version: int) -> None:
    packets = [
        octets_of(ip_header(version, **({"id": 7 + at} if version == 4 else {})) / UDP(sport=1, dport=2) / Raw(payload))
        for at, payload in enumerate(pieces(10050, 1000))
    ]
    ((header, _),) = written(packets)
    assert header[:2] == (NEEDS_CHECKSUM, UDP_L4)
    assert segmented(packets) == packets
    assert [octets for _, octets in written(packets, udp=False)] == packets


def altered(packet: bytes, **fields: object) -> bytes:
    """The packet with other fields, and checksums that fit."""
    changed = parsed(packet)
    for name, value in fields.items():
        layer = next(layer for layer in (TCP, IP, IPv6) if layer in changed and hasattr(changed[layer], name))
        setattr(changed[layer], name, value)
    for layer in (IP, TCP):
        if layer in changed:
            del changed[layer].chksum
    return octets_of(changed)


@pytest.mark.parametrize(
    "fields",
    [
        {"seq": 5},
        {"ack": 2},
        {"window": 9},
        {"flags": "FA"},
        {"flags": "A", "urgptr": 3},
        {"flags": "EA"},
        {"tos": 3},
        {"ttl": 60},
        {"id": 77},
        {"options": [("NOP", None), ("NOP", None), ("Timestamp", (77, 89))]},
        {"reserved": 1},
    ],
    ids=str,
)
def test_what_differs_is_kept_apart_and_in_order(fields: dict[str, object]) -> None:
    packets = tcp_flow(4, pieces(3000, 1000))
    packets[1] = altered(packets[1], **fields)
    assert segmented(packets) == packets
    assert all(header[1] == NONE for header, _ in written(packets))


@pytest.mark.parametrize("fields", [{"tc": 1}, {"fl": 9}, {"hlim": 9}], ids=str)
def test_what_differs_in_ipv6_is_kept_apart(fields: dict[str, object]) -> None:
    packets = tcp_flow(6, pieces(3000, 1000))
    packets[1] = altered(packets[1], **fields)
    assert segmented(packets) == packets
    assert all(header[1] == NONE for header, _ in written(packets))


def test_identification_says_nothing_where_fragments_are_forbidden() -> None:
    """RFC 6864 §4: it is of no meaning in atomic datagrams."""
    packets = [altered(one, flags="A", id=0) for one in tcp_flow(4, pieces(3000, 1000))]
    for at, one in enumerate(packets):
        packets[at] = altered(one, frag=0)
        forbidding = parsed(packets[at])
        forbidding[IP].flags = "DF"
        del forbidding[IP].chksum
        packets[at] = octets_of(forbidding)
    ((header, octets),) = written(packets)
    assert header[1] == TCP4
    assert len(octets) == 52 + 3000


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("where", [10, 16 + 20, 60], ids=["ip-checksum", "tcp-checksum", "payload"])
def test_a_wrong_checksum_is_left_for_the_receiver_to_see(at: int, where: int) -> None:
    packets = tcp_flow(4, pieces(3000, 1000))
    spoiled = bytearray(packets[at])
    spoiled[where] ^= 0x40
    packets[at] = bytes(spoiled)
    alone = [octets for header, octets in written(packets) if header[1] == NONE]
    assert packets[at] in alone
    assert segmented(packets) == packets


def test_a_shorter_segment_ends_a_super_packet() -> None:
    payloads = [bytes(1000), bytes(1000), bytes(999), bytes(1000), bytes(1001)]
    packets = tcp_flow(4, payloads)
    assert [len(octets) - 52 for _, octets in written(packets)] == [2999, 1000, 1001]
    assert segmented(packets) == packets


def test_flows_are_apart_and_each_in_order() -> None:
    flows = [tcp_flow(4, pieces(1500, 500), port=6000 + number) for number in range(20)]
    mixed = [packet for together in zip(*flows, strict=True) for packet in together]
    out = segmented(mixed)
    for flow in flows:
        assert [one for one in out if one in set(flow)] == flow
    few = [packet for together in zip(*flows[:16], strict=True) for packet in together]
    assert len(native.coalesce(few, True)) == 16


def test_acknowledgements_do_not_overtake_data() -> None:
    data = tcp_flow(4, pieces(2000, 1000))
    acknowledgement = octets_of(ip_header(4) / TCP(sport=5000, dport=80, seq=9, ack=2, flags="A"))
    order = [*data, acknowledgement, *tcp_flow(4, pieces(2000, 1000))]
    assert segmented(order) == order


def test_other_packets_do_not_overtake() -> None:
    data = tcp_flow(4, pieces(2000, 1000))
    fragment = octets_of(IP(src="10.45.0.2", dst="192.0.2.80", frag=10) / Raw(bytes(100)))
    ping = octets_of(ip_header(4) / ICMP() / Raw(bytes(56)))
    order = [data[0], ping, data[1], fragment]
    assert segmented(order) == order


def test_no_super_packet_is_longer_than_ip_allows() -> None:
    packets = tcp_flow(6, pieces(140_000, 1400))
    out = written(packets)
    assert all(len(octets) <= 65535 for _, octets in out)
    assert all(len(octets) > 60000 for _, octets in out[:-1])
    assert segmented(packets) == packets


def test_anything_at_all_goes_through_as_it_came() -> None:
    """Invariant: what the kernel segments again is what came, whatever the octets."""
    packets = []
    pool = [one for version in (4, 6) for _ in range(10) for one in tcp_flow(version, pieces(2000, 700))]
    for _ in range(3000):
        base = bytearray(CHOSEN.choice(pool))
        for _ in range(CHOSEN.choice((0, 0, 1, 3))):
            base[CHOSEN.randrange(min(len(base), 70))] = CHOSEN.randrange(256)
        del base[CHOSEN.choice((len(base), len(base), CHOSEN.randrange(1, len(base)))) :]
        packets.append(bytes(base))
    out = segmented(packets)
    assert sorted(out) == sorted(packets)


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
