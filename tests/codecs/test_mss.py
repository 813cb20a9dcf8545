"""The MSS of SYNs, lowered with the checksum kept right (RFC 1624), judged by Scapy."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from protocols.esp.mss import clamped, is_syn, mss_for

V4 = IP(src="10.45.0.2", dst="192.0.2.80")
V6 = IPv6(src="2001:db8::2", dst="2001:db8::80")
OPTIONS = {
    "alone": [("MSS", 1460)],
    "Linux": [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)],
    "second": [("WScale", 7), ("MSS", 1460), ("SAckOK", b"")],  # at an odd place
    "after two": [("NOP", None), ("NOP", None), ("MSS", 1460)],
    "after one": [("NOP", None), ("MSS", 1460)],
}


def rebuilt(octets: bytes) -> bytes:
    """With the checksums that Scapy computes."""
    packet = IP(octets) if octets[0] >> 4 == 4 else IPv6(octets)
    del packet[TCP].chksum
    if octets[0] >> 4 == 4:
        del packet.chksum
    return bytes(packet)


@pytest.mark.parametrize("flags", ["S", "SA", "SEC"])
@pytest.mark.parametrize("header", [V4, V6, V6 / IPv6ExtHdrDestOpt()], ids=["IPv4", "IPv6", "IPv6 with an extension"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_option_is_lowered_and_nothing_else_changes(
    flags: str, header: Packet, options: list[tuple[str, object]]
) -> None:
    for sequence in (0, 0xFFFF, 0x12345678):
        octets = bytes(header / TCP(sport=40000, dport=443, flags=flags, seq=sequence, options=options))
        for maximum in (1360, 1, 0x0100):
            result = clamped(octets, maximum)
            again = IP(result) if result[0] >> 4 == 4 else IPv6(result)
            assert dict(again[TCP].options)["MSS"] == maximum
            assert rebuilt(result) == result
            before = (IP(octets) if octets[0] >> 4 == 4 else IPv6(octets))[TCP].options
            assert [each for each in again[TCP].options if each[0] != "MSS"] == [
                each for each in before if each[0] != "MSS"
            ]
            assert len(result) == len(octets)


@pytest.mark.parametrize(
    "packet",
    [
        V4 / TCP(flags="S", options=[("MSS", 1360)]),
        V4 / TCP(flags="S", options=[("MSS", 500)]),
        V4 / TCP(flags="S"),
        V4 / TCP(flags="A", options=[("MSS", 1460)]),
        V4 / TCP(flags="PA") / Raw(b"data"),
        V4 / UDP() / Raw(bytes(60)),
        IP(src="10.45.0.2", dst="192.0.2.80", frag=100, proto=6) / Raw(b"\x02" * 40),
        V6 / IPv6ExtHdrFragment(offset=100, nh=6) / Raw(b"\x02" * 40),
    ],
    ids=["just right", "less", "no option", "no SYN", "data", "UDP", "later fragment", "later IPv6 fragment"],
)
def test_what_is_left_alone(packet: Packet) -> None:
    octets = bytes(packet)
    assert clamped(octets, 1360) is octets


@pytest.mark.parametrize(
    "options",
    [
        b"\x02",
        b"\x02\x04",
        b"\x02\x00\xff\xff",
        b"\x02\x03\xff\xff",
        b"\x05\xff\x02\x04",
        b"\x00\x02\x04\xff\xff",
    ],
)
def test_options_that_make_no_sense_are_left_alone(options: bytes) -> None:
    header = bytes(TCP(flags="S"))[:20]
    for padding in range(4):
        filled = options + bytes(padding)
        length = 20 + len(filled)
        octets = bytes(V4 / Raw(header[:12] + bytes([length // 4 << 4]) + header[13:] + filled))
        octets = octets[:9] + b"\x06" + octets[10:]
        assert clamped(octets, 100) is octets


def test_truncated_segments_are_no_syns() -> None:
    octets = bytes(V4 / TCP(flags="S", options=[("MSS", 1460)]))
    assert is_syn(octets)
    for length in range(20, 40):
        assert not is_syn(octets[:length])
        assert clamped(octets[:length], 100) == octets[:length]


def test_mss_of_an_mtu() -> None:
    assert (mss_for(1400, 4), mss_for(1400, 6)) == (1360, 1340)
