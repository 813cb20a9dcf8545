"""IPv4 fragments and "packet too big", judged by Scapy: its reassembly, its reading of ICMP, its checksums."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPerror, IPOption_NOP, IPOption_RR, IPOption_Security, defragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_Redirect,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet, Raw

from protocols.esp.path_mtu import fragments_of, limit_of, may_be_fragmented, too_big

DATA = bytes(index * 7 % 251 for index in range(3000))
V4 = IP(src="10.45.0.2", dst="192.0.2.80", id=4711, tos=0xB9, ttl=17)
V6 = IPv6(src="2001:db8::2", dst="2001:db8::80")


def right(octets: bytes) -> Packet:
    """As Scapy reads it, when its checksums are those of Scapy."""
    packet = IP(octets)
    copy = IP(octets)
    del copy.chksum
    assert bytes(copy) == octets
    return packet


@pytest.mark.parametrize("mtu", [68, 576, 577, 583, 1280, 1399])
@pytest.mark.parametrize("length", [0, 1, 1371, 1372, 1380, 2999])
def test_fragments_are_put_together_by_scapy(mtu: int, length: int) -> None:
    whole = bytes(V4 / UDP(sport=5000, dport=7) / Raw(DATA[:length]))
    pieces = [right(each) for each in fragments_of(whole, mtu)]
    assert all(len(bytes(piece)) <= mtu for piece in pieces)
    assert all(len(piece.payload) % 8 == 0 for piece in pieces[:-1])
    assert {(piece.id, piece.tos, piece.ttl, piece.proto) for piece in pieces} == {(4711, 0xB9, 17, 17)}
    (again,) = defragment(pieces)
    del again.chksum
    assert bytes(IP(bytes(again))) == whole


def test_a_fragment_is_fragmented_further() -> None:
    whole = bytes(V4 / UDP(sport=5000, dport=7) / Raw(DATA))
    twice = [piece for part in fragments_of(whole, 1400) for piece in fragments_of(part, 600)]
    assert len(twice) > 5
    (again,) = defragment([right(piece) for piece in twice])
    del again.chksum
    assert bytes(IP(bytes(again))) == whole


def test_options_are_copied_into_later_fragments_when_they_say_so() -> None:
    """RFC 791 §3.1: security is copied, record route is not."""
    options = [IPOption_RR(routers=["0.0.0.0", "0.0.0.0"]), IPOption_NOP(), IPOption_Security(security=5)]
    whole = bytes(IP(src="10.45.0.2", dst="192.0.2.80", id=1, options=options) / UDP() / Raw(DATA[:1400]))
    first, *later = (right(piece) for piece in fragments_of(whole, 600))
    assert bytes(first)[20 : first.ihl * 4] == whole[20 : (whole[0] & 15) * 4]
    assert later
    for piece in later:
        (security, *ends) = piece.options
        assert isinstance(security, IPOption_Security)
        assert all(end.option == 0 for end in ends)
    assert b"".join(bytes(piece.payload) for piece in (first, *later)) == whole[(whole[0] & 15) * 4 :]


@pytest.mark.parametrize(
    "options", [b"\x82\x00\x00\x00", b"\x82\xff\x00\x00", b"\x01\x01\x01\x82", b"\x82\x01\x82\x03"]
)
def test_options_that_make_no_sense_go_into_the_first_fragment_only(options: bytes) -> None:
    whole = bytes(IP(src="10.45.0.2", dst="192.0.2.80", ihl=6, len=1224) / Raw(options + DATA[:1200]))
    first, *later = fragments_of(whole, 600)
    assert first[20:24] == options
    assert [each[0] for each in later] == [0x45] * len(later)


def test_what_may_be_fragmented() -> None:
    assert may_be_fragmented(bytes(V4 / UDP()))
    assert may_be_fragmented(bytes(IP(flags="MF") / UDP()))
    assert not may_be_fragmented(bytes(IP(flags="DF") / UDP()))
    assert not may_be_fragmented(bytes(V6 / UDP()))
    assert (limit_of(4, 1000), limit_of(4, 10), limit_of(6, 1000), limit_of(6, 1400)) == (1000, 68, 1280, 1400)


@pytest.mark.parametrize("length", [0, 500, 1400, 2999])
def test_fragmentation_needed(length: int) -> None:
    """RFC 1191 §4: type 3, code 4, the next hop's MTU, and the packet's beginning."""
    sent = bytes(IP(src="10.45.0.2", dst="192.0.2.80", flags="DF") / UDP(sport=5000, dport=7) / Raw(DATA[:length]))
    octets = too_big(sent, 1387)
    assert octets is not None
    assert len(octets) <= 576
    answer = right(octets)
    assert (answer.src, answer.dst) == ("192.0.2.80", "10.45.0.2")
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1387)
    assert octets[28:] == sent[:548]
    assert answer[IPerror].dst == "192.0.2.80"
    checked = answer.copy()
    del checked[ICMP].chksum
    assert bytes(checked) == octets


@pytest.mark.parametrize("length", [0, 1300, 2999])
def test_packet_too_big(length: int) -> None:
    """RFC 4443 §3.2, as much of the packet as fits into 1280 octets."""
    sent = bytes(V6 / UDP(sport=5000, dport=7) / Raw(DATA[:length]))
    octets = too_big(sent, 1390)
    assert octets is not None
    assert len(octets) == min(1280, 48 + len(sent))
    answer = IPv6(octets)
    assert (answer.src, answer.dst) == ("2001:db8::80", "2001:db8::2")
    assert (answer[ICMPv6PacketTooBig].mtu, answer[ICMPv6PacketTooBig].code) == (1390, 0)
    assert octets[48:] == sent[:1232]
    checked = IPv6(octets)
    del checked[ICMPv6PacketTooBig].cksum
    assert bytes(checked) == octets


@pytest.mark.parametrize(
    "packet",
    [
        IP(src="10.45.0.2", dst="192.0.2.80", flags="DF") / ICMP(type=3, code=4),
        IP(src="10.45.0.2", dst="192.0.2.80", flags="DF") / ICMP(type=11),
        IP(src="10.45.0.2", dst="224.0.0.251", flags="DF") / UDP(),
        IP(src="10.45.0.2", dst="255.255.255.255", flags="DF") / UDP(),
        IP(src="0.0.0.0", dst="192.0.2.80", flags="DF") / UDP(),
        IP(src="10.45.0.2", dst="192.0.2.80", flags="DF", frag=10) / UDP(),
        V6 / ICMPv6DestUnreach(),
        V6 / ICMPv6ND_Redirect(),
        IPv6(src="2001:db8::2", dst="ff02::1") / UDP(),
        IPv6(src="::", dst="2001:db8::80") / UDP(),
        V6 / IPv6ExtHdrFragment(offset=10, nh=17) / Raw(b"x" * 16),
    ],
)
def test_nobody_is_told_about(packet: Packet) -> None:
    """RFC 1122 §3.2.2, RFC 4443 §2.4 (e)."""
    assert too_big(bytes(packet), 1400) is None


def test_pings_are_answered() -> None:
    assert too_big(bytes(IP(src="10.45.0.2", dst="192.0.2.80", flags="DF") / ICMP() / Raw(DATA)), 1400) is not None
    assert too_big(bytes(V6 / ICMPv6EchoRequest() / Raw(DATA)), 1400) is not None
