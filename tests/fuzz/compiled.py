"""Targets for the compiled core of the data plane: the userspace one is asked the same and must say the same.

Octets are what a peer with the right keys sends (``compiled_open``), what the kernel's stack sends into the tunnel
(``compiled_seal``), and what a TUN device with offload gives and takes (``compiled_segment``, ``compiled_coalesce``).
There are no targets where the core was not built.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from protocols.dataplane.fast.plane import available
from protocols.esp.sa import EspMode
from protocols.esp.tunnel import TunnelPolicy
from protocols.ip import ICMP, IPV6, NO_NEXT_HEADER, TCP, UDP, IpPacket, checksum, pseudo_header
from protocols.path import Endpoint, Path
from protocols.selectors import TrafficSelector
from tests.dataplane.packets import DOWN, HOST_V6, UE_V6, UP, udp
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS, UE_ELSEWHERE, UE_PATH, ue_spec

if available():
    from protocols.dataplane.fast import _native
    from tests.dataplane.both import Both, from_peer, raw_from_peer

SUITES = (
    "aes128gcm16",
    "aes256gcm12-esn",
    "aes128ccm8",
    "chacha20poly1305-esn",
    "null-sha256",
    "null-aescmac-esn",
    "aes128-sha256",
    "aes256-sha512-esn",
    "3des-sha1",
    "aes128ctr-aesxcbc",
)
WITHOUT_RANDOM = SUITES[:6]  # those whose plaintext, trailer and all, can be anything
POLICIES = (
    TunnelPolicy(),
    TunnelPolicy(mss="auto", outer_mtu=1280),
    TunnelPolicy(mss=536, dscp=46),
    TunnelPolicy(outer_mtu=600),
)
PATHS = (UE_PATH, Path(UE_PATH.local, UE_ELSEWHERE), Path(UE_PATH.local, Endpoint(UE_PATH.remote.address, 0)))
SELECTORS = {
    "all": (
        (TrafficSelector.host(UE_ADDRESS), TrafficSelector.host(UE_V6)),
        (TrafficSelector.network("0.0.0.0/0"), TrafficSelector.network("::/0")),
    ),
    "v4": ((TrafficSelector.host(UE_ADDRESS),), (TrafficSelector.host(HOST_ADDRESS),)),
    "v6": ((TrafficSelector.host(UE_V6),), (TrafficSelector.host(HOST_V6),)),
    "ports": (
        (replace(TrafficSelector.host(UE_ADDRESS), protocol=UDP, start_port=5000, end_port=5010),),
        (
            replace(TrafficSelector.network("192.0.2.0/24"), protocol=UDP, start_port=0, end_port=7),
            TrafficSelector.network("192.0.2.0/25"),
        ),
    ),
}
VNET = struct.Struct("=BBHHHH")  # virtio_net_hdr
NEEDS_CHECKSUM = 1
NONE, TCP4, TCP6, UDP_L4 = 0, 1, 4, 5
SEGMENTS_MAXIMUM = 64


@functools.cache
def _both(policy: TunnelPolicy) -> Both:
    return Both("fuzzing", policy=policy)


@contextlib.contextmanager
def _with_sa(policy: TunnelPolicy, suite: str, choice: int) -> Iterator[Both]:
    """Both data planes, with one SA while this lasts."""
    both = _both(policy)
    both.now += 1  # room for ICMP errors
    beet = choice & 0xC0 == 0xC0
    if beet:
        local, remote = SELECTORS["v6" if choice & 1 else "v4"]
    else:
        local, remote = SELECTORS["ports" if choice & 1 else "all"]
    spec = replace(
        ue_spec(suite, replay_window=(64, 32, 1024, 300)[choice >> 1 & 3]),
        local_selectors=local,
        remote_selectors=remote,
        encapsulation=not choice & 8,
        mode=EspMode.BEET if beet else EspMode.TUNNEL,
    )
    both.install(spec)
    try:
        yield both
    finally:
        both.remove(spec.inbound_spi)
        both.events()


def compiled_open(octets: bytes) -> None:
    """ESP of a peer with the keys: suite, SA, way of spoiling, traffic class and path; then three packets' numbers."""
    if len(octets) < 8:
        return
    way, traffic_class, path = octets[2], octets[3], PATHS[octets[4] % len(PATHS)]
    suites = WITHOUT_RANDOM if way & 1 else SUITES
    suite = suites[octets[0] % len(suites)]
    with _with_sa(POLICIES[octets[1] >> 4 & 3], suite, octets[1]) as both:
        (spec,) = both.specs.values()
        body = octets[8:]
        for step in octets[5:8]:
            sequence = step if step < 0x80 else step << 25
            if way & 1:
                packet = raw_from_peer(spec, sequence, body + bytes(-len(body) % 4 if suite.startswith("null") else 0))
            else:
                packet = from_peer(spec, sequence, body, octets[3] if way & 8 else 4 if body[:1] < b"\x50" else IPV6)
            if way & 2 and body:
                packet = packet[: int.from_bytes(body[:2], "big") % (len(packet) + 1)]
            if way & 4 and packet:
                at = int.from_bytes(body[-2:], "big") % len(packet)
                packet = packet[:at] + bytes((packet[at] ^ (way >> 4 or 1),)) + packet[at + 1 :]
            both.receive(packet, path, traffic_class)


def compiled_seal(octets: bytes) -> None:
    """Inner packets behind two octets that choose the suite, the SA and the policy."""
    if len(octets) < 3:
        return
    suite, choice = SUITES[octets[0] % len(SUITES)], octets[1]
    with _with_sa(POLICIES[choice >> 4 & 3], suite, choice) as both:
        both.send(octets[2:])
        both.send(octets[2:].ljust(choice << 4, b"\x5a"))


def compiled_segment(octets: bytes) -> None:
    """What a TUN device reads: refused, or the payload comes out whole in segments no longer than the header says."""
    if len(octets) <= VNET.size:
        return
    flags, kind, _, size, network, _ = VNET.unpack_from(octets)
    packet = octets[VNET.size :]
    try:
        segments = _native.segment(octets)
    except ValueError:
        return
    if kind == NONE:
        assert [len(one) for one in segments] == [len(packet)]
        assert flags & NEEDS_CHECKSUM or segments == [packet]
        return
    headers = network + (8 if kind == UDP_L4 else (packet[network + 12] >> 4) * 4)
    assert b"".join(one[headers:] for one in segments) == packet[headers:]
    assert all(headers < len(one) <= headers + size for one in segments)
    for one in segments[:3] + segments[-1:]:
        assert _sums_are_right(one, TCP if kind != UDP_L4 else UDP, network)


def compiled_coalesce(octets: bytes) -> None:
    """Packets of two flows, four octets each: what the kernel segments again is what came, each flow in its order."""
    if len(octets) < 2:
        return
    sequences, packets = [0xFFFFFF00, 7], []
    for at in range(1, min(len(octets) - 3, 4 * SEGMENTS_MAXIMUM * 2), 4):
        number, what, length, change = octets[at : at + 4]
        flow, version = number & 1, 6 if octets[0] & 1 else 4
        packet = _of_flow(version, flow, what, sequences[flow], (length & 0x7F) * (11 if length & 0x80 else 1))
        sequences[flow] = sequences[flow] + (length & 0x7F) * (11 if length & 0x80 else 1) & 0xFFFFFFFF
        if number & 2:
            where = (number >> 2) % len(packet)
            packet = packet[:where] + bytes((change,)) + packet[where + 1 :]
        packets.append(_mended(packet) if number & 0x80 else packet)
    written = _native.coalesce(packets, bool(octets[0] & 2))
    assert all(len(one) - VNET.size <= 0xFFFF for one in written)
    again = [segment for one in written for segment in _native.segment(one)]
    assert sorted(map(_without_atomic_identification, again)) == sorted(map(_without_atomic_identification, packets))
    for ports in {_ports(packet) for packet in packets}:
        assert _of_ports(again, ports) == _of_ports(packets, ports)


def _of_flow(version: int, flow: int, what: int, sequence: int, length: int) -> bytes:
    """A segment or, every other ``what``, a datagram."""
    source, destination = (UE_V6, HOST_V6) if version == 6 else (UE_ADDRESS, HOST_ADDRESS)
    payload = bytes(at & 0xFF for at in range(length))
    ports = struct.pack(">HH", 5000 + flow, 80)
    if what & 1:
        protocol, at, transport = UDP, 6, ports + struct.pack(">HH", 8 + length, 0) + payload
    else:
        flags = 0x10 | what & 0x2E
        header = struct.pack(">IIBBHHH", sequence, 1, 5 << 4, flags, 501, 0, 0)
        protocol, at, transport = TCP, 16, ports + header + payload
    total = checksum(pseudo_header(source, destination, protocol, len(transport)) + transport) or 0xFFFF
    transport = transport[:at] + total.to_bytes(2, "big") + transport[at + 2 :]
    return IpPacket(source=source, destination=destination, protocol=protocol, payload=transport).encode()


def _of_ue(protocol: int, payload: bytes) -> bytes:
    return IpPacket(source=UE_ADDRESS, destination=HOST_ADDRESS, protocol=protocol, payload=payload).encode()


def _mended(packet: bytes) -> bytes:
    """With the checksum of an IPv4 header, where it can be one."""
    if packet[0] != 0x45:
        return packet
    header = packet[:10] + bytes(2) + packet[12:20]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + packet[20:]


def _without_atomic_identification(packet: bytes) -> bytes:
    """RFC 6864 §4: it says nothing where there are no fragments, and so may change."""
    if packet[0] >> 4 != 4 or not packet[6] & 0x40:
        return packet
    return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]


def _ports(packet: bytes) -> bytes:
    """What tells flows apart: protocol, addresses and ports, of packets without options and extensions."""
    if packet[0] >> 4 == 4:
        return packet[9:10] + packet[12:24]
    return packet[6:7] + packet[8:44]


def _of_ports(packets: list[bytes], ports: bytes) -> list[bytes]:
    return [_without_atomic_identification(one) for one in packets if _ports(one) == ports]


def _sums_are_right(packet: bytes, protocol: int, network: int) -> bool:
    """The header's and the transport's, as ones' complement sums that come to nothing."""
    if packet[0] >> 4 == 4 and checksum(packet[:network]):
        return False
    at = 12 if packet[0] >> 4 == 4 else 8
    half = 4 if packet[0] >> 4 == 4 else 16
    source, destination = (ip_address(packet[at + n * half : at + (n + 1) * half]) for n in (0, 1))
    transport = packet[network:]
    return not checksum(pseudo_header(source, destination, protocol, len(transport)) + transport)


TARGETS: tuple[Callable[[bytes], None], ...] = (
    (compiled_open, compiled_seal, compiled_segment, compiled_coalesce) if available() else ()
)


def seeds(name: str) -> Iterator[bytes]:
    """Packets of each suite, sound and spoilt; super-packets; flows."""
    v6 = udp(UE_V6, HOST_V6, bytes(40))
    if name == "compiled_open":
        for number in range(len(SUITES)):
            yield bytes((number, number << 1, 0, 3, number, 1, 2, 2)) + (DOWN if number % 2 else udp(HOST_V6, UE_V6))
            yield bytes((number, number << 1, (2, 4, 0x14, 8)[number % 4], 3, 0, 1, 2, 2)) + DOWN
        for pseudo in (b"\x11\x01\x00\x00", b"\x11\x01\x04\x00\x01\x01\x01\x01", b"\x11\x20\xfc\x00" + bytes(252)):
            yield bytes((0, 0xC0, 8, 94, 0, 1, 2, 3)) + pseudo + bytes(12) + UP[20:]
        yield bytes((6, 0xC1, 8, UDP, 0, 1, 2, 3)) + UP[20:]
        for number in (0, 4):
            for trailer in (b"\x00\x04", b"\x01\x02\x02\x04", b"\x02\x02\x04", b"\xff\x04", bytes((0, NO_NEXT_HEADER))):
                yield bytes((number, 0x12, 1, 1, 0, 1, 0xFF, 0x81)) + DOWN + bytes(-len(DOWN + trailer) % 4) + trailer
    elif name == "compiled_seal":
        syn = struct.pack(">HHIIBBHHHBBH", 5000, 80, 7, 0, 6 << 4, 2, 501, 0, 0, 2, 4, 1460)
        for number in range(len(SUITES)):
            for packet in (UP, v6, UP[:21], _of_ue(TCP, syn)):
                yield bytes((number, (0, 1, 0x18, 0x20, 0x36)[number % 5])) + packet
        for choice, packet in ((0xC0, UP), (0xC1, v6), (0xE0, _of_ue(TCP, syn))):
            yield bytes((1, choice)) + packet
        yield b"\0\xc0\x46" + UP[1:2] + (len(UP) + 4).to_bytes(2, "big") + UP[4:20] + b"\x94\x04\0\0" + UP[20:]
        yield b"\0\x10" + _of_ue(ICMP, bytes(3000))
    elif name == "compiled_segment":
        for version in (4, 6):
            network = 20 if version == 4 else 40
            for what, kind, offset, headers in ((0, TCP4 if version == 4 else TCP6, 16, 20), (1, UDP_L4, 6, 8)):
                packet = _of_flow(version, 0, what, 5, 1000)
                for size in (1, 100, 1000, 65535):
                    yield VNET.pack(NEEDS_CHECKSUM, kind, network + headers, size, network, offset) + packet
                yield VNET.pack(NEEDS_CHECKSUM, NONE, 0, 0, network, offset) + packet
        yield VNET.pack(0, NONE, 0, 0, 0, 0) + v6
    else:
        for first in range(4):
            for what in range(2):
                yield bytes((first,)) + bytes((0, what, 0xC0, 0)) * 20 + bytes((1, what, 9, 0)) * 3
                yield bytes((first,)) + bytes((0x82 | 5 << 2, what, 0xC0, 7)) * 9 + bytes((0x80, what | 8, 1, 0)) * 9
