"""IP, ICMP echo and UDP against Scapy's octets, both ways; flows; every truncation is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers import inet, inet6

from protocols.errors import DecodeError, LocalError
from protocols.ip import ICMP, ICMPV6, TCP, UDP, Flow, IcmpEcho, IpPacket, UdpDatagram, checksum, flow_key, flow_of
from tests.dataplane.packets import udp, wild_packet

V4 = (ip_address("10.45.0.2"), ip_address("192.0.2.80"))
V6 = (ip_address("2001:db8::2"), ip_address("2001:db8:ff::80"))
DATA = b"sixteen and more"


def scapy_header(version: int) -> object:
    source, destination = V4 if version == 4 else V6
    if version == 4:
        return inet.IP(src=str(source), dst=str(destination), id=0)
    return inet6.IPv6(src=str(source), dst=str(destination))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 16])
def test_udp(version: int, length: int) -> None:
    source, destination = V4 if version == 4 else V6
    value = UdpDatagram(source_port=49152, destination_port=7, payload=DATA[:length])
    packet = IpPacket(source=source, destination=destination, protocol=UDP, payload=value.encode(source, destination))
    octets = bytes(scapy_header(version) / inet.UDP(sport=49152, dport=7) / DATA[:length])
    assert packet.encode() == octets
    assert IpPacket.decode(octets) == packet
    assert UdpDatagram.decode(packet) == value


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("request_", [True, False])
def test_icmp_echo(version: int, request_: bool) -> None:
    source, destination = V4 if version == 4 else V6
    value = IcmpEcho(request=request_, identifier=0xABCD, sequence=7, data=DATA)
    protocol = ICMP if version == 4 else ICMPV6
    packet = IpPacket(
        source=source, destination=destination, protocol=protocol, payload=value.encode(source, destination)
    )
    if version == 4:
        layer = inet.ICMP(type=8 if request_ else 0, id=0xABCD, seq=7)
    else:
        layer = (inet6.ICMPv6EchoRequest if request_ else inet6.ICMPv6EchoReply)(id=0xABCD, seq=7)
    octets = bytes(scapy_header(version) / layer / DATA)
    assert packet.encode() == octets
    assert IcmpEcho.decode(IpPacket.decode(octets)) == value


def test_other_icmp_is_no_echo() -> None:
    octets = bytes(scapy_header(4) / inet.ICMP(type=3, code=1) / DATA)
    assert IcmpEcho.decode(IpPacket.decode(octets)) is None


@pytest.mark.parametrize("version", [4, 6])
def test_every_truncation_is_refused(version: int) -> None:
    octets = bytes(scapy_header(version) / inet.UDP(sport=1, dport=7) / DATA)
    for end in range(len(octets)):
        with pytest.raises(DecodeError):
            IpPacket.decode(octets[:end])
        with pytest.raises(DecodeError):
            flow_of(octets[:end])
    packet = IpPacket.decode(octets)
    for end in range(len(packet.payload)):
        with pytest.raises(DecodeError):
            UdpDatagram.decode(replace(packet, payload=packet.payload[:end]))
    echo = IpPacket.decode(bytes(scapy_header(4) / inet.ICMP(id=1, seq=2)))
    for end in range(len(echo.payload)):
        with pytest.raises(DecodeError):
            IcmpEcho.decode(replace(echo, payload=echo.payload[:end]))


@pytest.mark.parametrize("position", [0, 1, 8, 12, 19])
def test_a_damaged_ipv4_header_is_refused(position: int) -> None:
    octets = bytearray(bytes(scapy_header(4) / inet.UDP(sport=1, dport=7) / DATA))
    octets[position] ^= 0x20
    with pytest.raises(DecodeError):
        IpPacket.decode(bytes(octets))


@pytest.mark.parametrize("version", [4, 6])
def test_damaged_checksums_are_refused(version: int) -> None:
    for layer, decode in (
        (inet.UDP(sport=1, dport=7), UdpDatagram.decode),
        (inet.ICMP() if version == 4 else inet6.ICMPv6EchoRequest(), IcmpEcho.decode),
    ):
        octets = bytearray(bytes(scapy_header(version) / layer / DATA))
        octets[-1] ^= 1
        with pytest.raises(DecodeError):
            decode(IpPacket.decode(bytes(octets)))


def test_a_udp_checksum_of_zero_means_none_in_ipv4_only() -> None:
    """RFC 768; RFC 8200 §8.1."""
    v4 = IpPacket.decode(bytes(scapy_header(4) / inet.UDP(sport=1, dport=7, chksum=0) / DATA))
    assert UdpDatagram.decode(v4).payload == DATA
    v6 = IpPacket.decode(bytes(scapy_header(6) / inet.UDP(sport=1, dport=7, chksum=0) / DATA))
    with pytest.raises(DecodeError):
        UdpDatagram.decode(v6)


def flow(version: int, protocol: int, ports: tuple[int | None, int | None], length: int) -> Flow:
    source, destination = V4 if version == 4 else V6
    return Flow(
        version=version,
        source=int(source),
        destination=int(destination),
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
        length=length,
    )


FLOWS = [
    (scapy_header(4) / inet.UDP(sport=1, dport=7), flow(4, UDP, (1, 7), 28)),
    (scapy_header(4) / inet.TCP(sport=80, dport=81), flow(4, TCP, (80, 81), 40)),
    (scapy_header(4) / inet.ICMP(type=8), flow(4, ICMP, (0x0800, 0x0800), 28)),
    (inet.IP(bytes(scapy_header(4))) / b"", flow(4, 0, (None, None), 20)),
    (
        inet.IP(src=str(V4[0]), dst=str(V4[1]), options=[inet.IPOption(b"\x01" * 8)]) / inet.UDP(sport=1, dport=7),
        flow(4, UDP, (1, 7), 36),
    ),
    (
        inet.IP(src=str(V4[0]), dst=str(V4[1]), proto=17, frag=100) / b"12345678",
        flow(4, UDP, (None, None), 28),
    ),
    (scapy_header(6) / inet.UDP(sport=1, dport=7), flow(6, UDP, (1, 7), 48)),
    (
        scapy_header(6) / inet6.IPv6ExtHdrHopByHop() / inet6.IPv6ExtHdrDestOpt() / inet.UDP(sport=1, dport=7),
        flow(6, UDP, (1, 7), 64),
    ),
    (
        scapy_header(6) / inet6.IPv6ExtHdrFragment(offset=0, m=1) / inet.UDP(sport=1, dport=7),
        flow(6, UDP, (1, 7), 56),
    ),
    (
        scapy_header(6) / inet6.IPv6ExtHdrFragment(offset=10, nh=17) / b"12345678",
        flow(6, UDP, (None, None), 56),
    ),
]


@pytest.mark.parametrize(("packet", "expected"), FLOWS, ids=range(len(FLOWS)))
def test_flows(packet: object, expected: Flow) -> None:
    octets = bytes(packet)  # type: ignore[call-overload]
    assert flow_of(octets) == expected
    assert flow_of(octets + b"trailing") == expected


def test_fragments_are_not_reassembled() -> None:
    for octets in (
        bytes(inet.IP(src=str(V4[0]), dst=str(V4[1]), proto=17, flags="MF") / b"12345678"),
        bytes(scapy_header(6) / inet6.IPv6ExtHdrFragment(offset=0, m=1) / inet.UDP(sport=1, dport=7)),
        bytes(
            scapy_header(6)
            / inet6.IPv6ExtHdrHopByHop()
            / inet6.IPv6ExtHdrFragment(offset=0, m=1)
            / inet.UDP(sport=1, dport=7)
        ),
    ):
        with pytest.raises(DecodeError):
            IpPacket.decode(octets)
    atomic = scapy_header(6) / inet6.IPv6ExtHdrFragment(offset=0, m=0) / inet.UDP(sport=1, dport=7)
    assert UdpDatagram.decode(IpPacket.decode(bytes(atomic))).destination_port == 7


def test_what_cannot_be_a_packet() -> None:
    good = IpPacket(source=V4[0], destination=V4[1], protocol=UDP, payload=b"")
    for changes in ({"destination": V6[1]}, {"payload": bytes(65516)}):
        with pytest.raises(LocalError):
            replace(good, **changes).encode()
    with pytest.raises(LocalError):
        UdpDatagram(source_port=1, destination_port=2, payload=bytes(65528)).encode(*V4)


def test_checksum_of_rfc1071() -> None:
    """RFC 1071 §3: the example's sum is ddf2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF
    assert checksum(b"\xff" * 65535) == checksum(b"\xff\x00")


def test_packets_with_one_key_are_of_one_flow() -> None:
    """Invariant: ``flow_of`` takes what has a key, says as many octets as there are, and one flow for one key."""
    chance = random.Random("keys")
    flows: dict[bytes, tuple[object, ...]] = {}
    keyed = 0
    for _ in range(20_000):
        packet = wild_packet(chance)
        key = flow_key(packet)
        if key is None:
            continue
        keyed += 1
        flow = flow_of(packet)
        assert flow.length == len(packet)
        assert flow.source_port is not None
        assert flows.setdefault(key, flow[:-1]) == flow[:-1]
    assert keyed > 500
    assert len(flows) < keyed - 200


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda packet: packet[:23],
        lambda packet: packet[:-1],
        lambda packet: packet + b"x",
        lambda packet: packet[:6] + b"\x20\x00" + packet[8:],
        lambda packet: packet[:6] + b"\x00\x01" + packet[8:],
        lambda packet: b"\x46" + packet[1:],
        lambda packet: packet[:9] + b"\x01" + packet[10:],
        lambda packet: b"",
    ],
    ids=["headers", "short", "long", "first fragment", "later fragment", "options", "ICMP", "nothing"],
)
def test_what_is_not_plain_has_no_key(spoilt: Callable[[bytes], bytes]) -> None:
    assert flow_key(udp()) is not None
    assert flow_key(spoilt(udp())) is None
