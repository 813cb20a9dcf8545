"""Super-packets of TCP for a TUN device, in Python and compiled; scapy says what is in them and what they become."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.packet import Raw

from protocols.dataplane.fast.plane import available
from protocols.dataplane.userspace.coalescing import ALONE, Coalescer
from tests.dataplane.segments import (
    CHOSEN,
    NEEDS_CHECKSUM,
    NONE,
    TCP4,
    TCP6,
    VNET,
    altered,
    by_the_kernel,
    ip_header,
    octets_of,
    parsed,
    pieces,
    pseudo_sum,
    tcp_flow,
)

Coalesce = Callable[[list[bytes]], list[bytes]]


def in_python(packets: list[bytes]) -> list[bytes]:
    out: list[bytes] = []
    told: list[int] = []

    def write(parts: Sequence[bytes | bytearray], number: int) -> bool:
        out.append(b"".join(parts))
        told.append(number)
        return True

    coalescer = Coalescer(write)
    for packet in packets:
        assert coalescer.take(packet)
    coalescer.flush()
    assert sum(told) == len(packets)
    return out


def compiled(packets: list[bytes]) -> list[bytes]:
    from protocols.dataplane.fast import _native

    return [bytes(one) for one in _native.coalesce(packets, False)]


@pytest.fixture(params=["python", "compiled"])
def coalesce(request: pytest.FixtureRequest) -> Coalesce:
    if request.param == "python":
        return in_python
    if not available():
        pytest.skip("the extension of the fast path is not built")
    return compiled


def written(coalesce: Coalesce, packets: list[bytes]) -> list[tuple[tuple[int, ...], bytes]]:
    return [(VNET.unpack_from(one), one[VNET.size :]) for one in coalesce(packets)]


def segmented(coalesce: Coalesce, packets: list[bytes]) -> list[bytes]:
    """What the kernel makes of what is written."""
    return [segment for one in coalesce(packets) for segment in by_the_kernel(one)]


@pytest.mark.skipif(not available(), reason="the extension of the fast path is not built")
def test_both_write_the_same() -> None:
    """Of packets whose checksums are right: which go together, with which header."""
    flows = [
        tcp_flow(version, [CHOSEN.randbytes(length) for length in lengths], port=6000 + number, flags=flags)
        for number, (version, lengths, flags) in enumerate(
            (version, lengths, flags)
            for version in (4, 6)
            for lengths in ([1310] * 70, [9, 9, 9, 8, 9], [1], [5, 6, 6], [536] * 3 + [100])
            for flags in ("A", "PA", "FA")
        )
    ]
    for _ in range(30):
        taken = [list(flow) for flow in CHOSEN.sample(flows, 14)]
        mixed: list[bytes] = []
        while taken:
            flow = CHOSEN.choice(taken)
            for _ in range(CHOSEN.choice((1, 1, 4, 40))):
                if flow:
                    mixed.append(flow.pop(0))
            if not flow:
                taken.remove(flow)
        assert sorted(in_python(mixed)) == sorted(compiled(mixed))


def test_what_the_kernel_does_not_take_is_told_for_each_packet() -> None:
    refused: list[int] = []

    def write(parts: Sequence[bytes | bytearray], number: int) -> bool:
        refused.append(number)
        return False

    coalescer = Coalescer(write)
    assert not coalescer.take(b"no IP packet")
    flow = tcp_flow(4, pieces(3000, 1000))
    assert all(coalescer.take(packet) for packet in flow)  # they wait
    assert refused == [1]
    coalescer.flush()
    coalescer.flush()
    assert refused == [1, 3]


def test_what_is_alone_has_an_empty_header() -> None:
    (packet,) = tcp_flow(4, [bytes(100)])
    assert in_python([packet]) == [ALONE + packet]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", ["A", "PA"])
@pytest.mark.parametrize("length", [3000, 20001])
def test_segments_become_a_super_packet_and_are_themselves_again(
    coalesce: Coalesce, version: int, flags: str, length: int
) -> None:
    packets = tcp_flow(version, pieces(length, 1310), flags=flags)
    ((header, octets),) = written(coalesce, packets)
    network = 20 if version == 4 else 40
    assert header == (NEEDS_CHECKSUM, TCP4 if version == 4 else TCP6, network + 32, 1310, network, 16)
    assert octets[network + 16 : network + 18] == pseudo_sum(octets, network).to_bytes(2, "big")
    whole = parsed(octets)
    assert str(whole[TCP].flags) == flags
    assert whole[TCP].payload.load == b"".join(parsed(one)[TCP].payload.load for one in packets)
    if version == 4:
        assert whole[IP].len == len(octets)
    assert segmented(coalesce, packets) == packets


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
def test_what_differs_is_kept_apart_and_in_order(coalesce: Coalesce, fields: dict[str, object]) -> None:
    packets = tcp_flow(4, pieces(3000, 1000))
    packets[1] = altered(packets[1], **fields)
    assert segmented(coalesce, packets) == packets
    assert all(header[1] == NONE for header, _ in written(coalesce, packets))


@pytest.mark.parametrize("fields", [{"tc": 1}, {"fl": 9}, {"hlim": 9}], ids=str)
def test_what_differs_in_ipv6_is_kept_apart(coalesce: Coalesce, fields: dict[str, object]) -> None:
    packets = tcp_flow(6, pieces(3000, 1000))
    packets[1] = altered(packets[1], **fields)
    assert segmented(coalesce, packets) == packets
    assert all(header[1] == NONE for header, _ in written(coalesce, packets))


def test_identification_says_nothing_where_fragments_are_forbidden(coalesce: Coalesce) -> None:
    """RFC 6864 §4: it is of no meaning in atomic datagrams."""
    packets = [altered(one, flags="A", id=0) for one in tcp_flow(4, pieces(3000, 1000))]
    for at, one in enumerate(packets):
        packets[at] = altered(one, frag=0)
        forbidding = parsed(packets[at])
        forbidding[IP].flags = "DF"
        del forbidding[IP].chksum
        packets[at] = octets_of(forbidding)
    ((header, octets),) = written(coalesce, packets)
    assert header[1] == TCP4
    assert len(octets) == 52 + 3000


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("where", [10, 16 + 20, 60], ids=["ip-checksum", "tcp-checksum", "payload"])
def test_a_wrong_checksum_is_left_for_the_receiver_to_see(coalesce: Coalesce, at: int, where: int) -> None:
    packets = tcp_flow(4, pieces(3000, 1000))
    spoiled = bytearray(packets[at])
    spoiled[where] ^= 0x40
    packets[at] = bytes(spoiled)
    alone = [octets for header, octets in written(coalesce, packets) if header[1] == NONE]
    assert packets[at] in alone
    assert segmented(coalesce, packets) == packets


def test_a_shorter_segment_ends_a_super_packet(coalesce: Coalesce) -> None:
    payloads = [bytes(1000), bytes(1000), bytes(999), bytes(1000), bytes(1001)]
    packets = tcp_flow(4, payloads)
    assert [len(octets) - 52 for _, octets in written(coalesce, packets)] == [2999, 1000, 1001]
    assert segmented(coalesce, packets) == packets


def test_flows_are_apart_and_each_in_order(coalesce: Coalesce) -> None:
    flows = [tcp_flow(4, pieces(1500, 500), port=6000 + number) for number in range(20)]
    mixed = [packet for together in zip(*flows, strict=True) for packet in together]
    out = segmented(coalesce, mixed)
    for flow in flows:
        assert [one for one in out if one in set(flow)] == flow
    few = [packet for together in zip(*flows[:16], strict=True) for packet in together]
    assert len(coalesce(few)) == 16


def test_acknowledgements_do_not_overtake_data(coalesce: Coalesce) -> None:
    data = tcp_flow(4, pieces(2000, 1000))
    acknowledgement = octets_of(ip_header(4) / TCP(sport=5000, dport=80, seq=9, ack=2, flags="A"))
    order = [*data, acknowledgement, *tcp_flow(4, pieces(2000, 1000))]
    assert segmented(coalesce, order) == order


def test_other_packets_do_not_overtake(coalesce: Coalesce) -> None:
    data = tcp_flow(4, pieces(2000, 1000))
    fragment = octets_of(IP(src="10.45.0.2", dst="192.0.2.80", frag=10) / Raw(bytes(100)))
    ping = octets_of(ip_header(4) / ICMP() / Raw(bytes(56)))
    order = [data[0], ping, data[1], fragment]
    assert segmented(coalesce, order) == order


def test_no_super_packet_is_longer_than_ip_allows(coalesce: Coalesce) -> None:
    packets = tcp_flow(6, pieces(140_000, 1400))
    out = written(coalesce, packets)
    assert all(len(octets) <= 65535 for _, octets in out)
    assert all(len(octets) > 60000 for _, octets in out[:-1])
    assert segmented(coalesce, packets) == packets


def test_anything_at_all_goes_through_as_it_came(coalesce: Coalesce) -> None:
    """Invariant: what the kernel segments again is what came, whatever the octets."""
    packets = []
    pool = [one for version in (4, 6) for _ in range(10) for one in tcp_flow(version, pieces(2000, 700))]
    for _ in range(3000):
        base = bytearray(CHOSEN.choice(pool))
        for _ in range(CHOSEN.choice((0, 0, 1, 3))):
            base[CHOSEN.randrange(min(len(base), 70))] = CHOSEN.randrange(256)
        del base[CHOSEN.choice((len(base), len(base), CHOSEN.randrange(1, len(base)))) :]
        packets.append(bytes(base))
    out = segmented(coalesce, packets)
    assert sorted(out) == sorted(packets)
