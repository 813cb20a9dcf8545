"""IPv4 (RFC 791), IPv6 (RFC 8200), UDP (RFC 768) and echo of ICMP (RFC 792) and ICMPv6 (RFC 4443).

Enough to look at a packet's selectors and to be a small host: no reassembly, IPv4 options and IPv6 extension
headers are passed over on receipt and never sent.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from protocols.buffer import Reader
from protocols.errors import DecodeError, LocalError
from protocols.path import Address

ICMP = 1
IPIP = 4
TCP = 6
UDP = 17
IPV6 = 41
ICMPV6 = 58
NO_NEXT_HEADER = 59
SCTP = 132
UDP_LITE = 136

DEFAULT_TTL = 64  # RFC 1700: the recommended default
IPV4_HEADER_LENGTH = 20
IPV6_HEADER_LENGTH = 40
UDP_HEADER_LENGTH = 8
PACKET_MAXIMUM = 65535

_IPV4_HEADER = struct.Struct(">BxHxxHxBxxII")  # version and length, total length, fragment, protocol, addresses
_PORTS = struct.Struct(">HH")
_PROTOCOLS_WITH_PORTS = frozenset({TCP, UDP, SCTP, UDP_LITE})
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS = 0, 43, 44, 51, 60
_EXTENSIONS = frozenset({_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION_OPTIONS})
_FRAGMENT_OFFSET_MASK = 0x1FFF
_MORE_FRAGMENTS = 0x2000
_NO_FRAGMENT = frozenset({b"\x00\x00", b"\x40\x00"})  # with and without DF
_KEYED_PROTOCOLS = frozenset({bytes([TCP]), bytes([UDP])})
_KEYED_LENGTH = IPV4_HEADER_LENGTH + 4  # addresses and ports
_RESERVED_FRAGMENT_BITS = 0x0006  # RFC 8200 §4.5; an atomic fragment (RFC 6946) is a whole packet


def checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071) of ``octets``."""
    if len(octets) % 2:
        octets += b"\x00"
    total: int = sum(struct.unpack(f">{len(octets) // 2}H", octets))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def checksum_after(before: bytes, old: bytes, new: bytes) -> bytes:
    """The checksum field when one word of what it covers becomes another (RFC 1624 §3, equation 3)."""
    total = (
        (~int.from_bytes(before, "big") & 0xFFFF) + (~int.from_bytes(old, "big") & 0xFFFF) + int.from_bytes(new, "big")
    )
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


class Flow(NamedTuple):
    """What traffic selectors look at in a packet (RFC 4301 §4.4.1.1); addresses are integers.

    A port is ``None`` when the packet has none to show: another protocol, or not the first fragment.
    For ICMP both ports are type and code as in RFC 7296 §3.13.1. ``length`` is the packet's own length.
    """

    version: int
    source: int
    destination: int
    protocol: int
    source_port: int | None
    destination_port: int | None
    length: int


def flow_of(packet: bytes) -> Flow:
    """The selectors of an IP packet; ``DecodeError`` when it is none or is longer than its octets."""
    if not packet:
        raise DecodeError("an empty IP packet")
    version = packet[0] >> 4
    if version == 4:
        return _flow_of_v4(packet)
    if version == 6:
        return _flow_of_v6(packet)
    raise DecodeError(f"IP version {version}")


def flow_key(packet: bytes) -> bytes | None:
    """Octets that stand for the flow of a plain packet, at a fraction of the cost of ``flow_of``.

    Packets with one key differ in their ``Flow`` by its length alone, which is that of their octets. ``None``: neither
    TCP nor UDP, options or extension headers, a fragment, more octets or fewer than the header says; ``flow_of`` can
    tell then.
    """
    length = len(packet)
    if length < _KEYED_LENGTH:
        return None
    if packet[0] == 0x45:
        if packet[2] << 8 | packet[3] != length or packet[6:8] not in _NO_FRAGMENT:
            return None
        protocol = packet[9:10]
        return protocol + packet[12:24] if protocol in _KEYED_PROTOCOLS else None
    if packet[0] >> 4 == 6 and length >= IPV6_HEADER_LENGTH + 4:
        protocol = packet[6:7]
        if protocol in _KEYED_PROTOCOLS and (packet[4] << 8 | packet[5]) + IPV6_HEADER_LENGTH == length:
            return protocol + packet[8:44]
    return None


def transport_of(packet: bytes) -> tuple[int, int | None]:
    """The upper-layer protocol of a packet that ``flow_of`` takes, and where its header begins.

    ``None`` for the place: the packet is a fragment and not the first one.
    """
    if packet[0] >> 4 == 4:
        later = int.from_bytes(packet[6:8], "big") & _FRAGMENT_OFFSET_MASK
        return packet[9], None if later else (packet[0] & 0x0F) * 4
    reader = Reader(packet, IPV6_HEADER_LENGTH)
    protocol, first, _ = _pass_extensions(packet[6], reader)
    return protocol, reader.offset if first else None


def is_fragment(packet: bytes) -> bool:
    """Whether an IP packet is a fragment of another; ``DecodeError`` when its headers are not whole."""
    if packet[0] >> 4 == 4:
        return bool(int.from_bytes(packet[6:8], "big") & (_FRAGMENT_OFFSET_MASK | _MORE_FRAGMENTS))
    return _pass_extensions(packet[6], Reader(packet, IPV6_HEADER_LENGTH))[2]


def _flow_of_v4(packet: bytes) -> Flow:
    if len(packet) < IPV4_HEADER_LENGTH:
        raise DecodeError(f"an IPv4 packet of {len(packet)} octets")
    first, length, offset, protocol, source, destination = _IPV4_HEADER.unpack_from(packet)
    header_length = (first & 0x0F) * 4
    if not IPV4_HEADER_LENGTH <= header_length <= length <= len(packet):
        raise DecodeError(f"IPv4 header {header_length}, total {length}, present {len(packet)} octets")
    ports = (None, None) if offset & _FRAGMENT_OFFSET_MASK else _ports(protocol, packet, header_length, length)
    return Flow(4, source, destination, protocol, *ports, length)


def _flow_of_v6(packet: bytes) -> Flow:
    if len(packet) < IPV6_HEADER_LENGTH:
        raise DecodeError(f"an IPv6 packet of {len(packet)} octets")
    length = IPV6_HEADER_LENGTH + int.from_bytes(packet[4:6], "big")
    if length > len(packet):
        raise DecodeError(f"IPv6 total {length}, present {len(packet)} octets")
    reader = Reader(packet, IPV6_HEADER_LENGTH, length)
    protocol, first, _ = _pass_extensions(packet[6], reader)
    ports = _ports(protocol, packet, reader.offset, length) if first else (None, None)
    return Flow(
        version=6,
        source=int.from_bytes(packet[8:24], "big"),
        destination=int.from_bytes(packet[24:40], "big"),
        protocol=protocol,
        source_port=ports[0],
        destination_port=ports[1],
        length=length,
    )


def _pass_extensions(protocol: int, reader: Reader) -> tuple[int, bool, bool]:
    """Skip extension headers (RFC 8200 §4).

    The upper-layer protocol, whether its header follows, and whether the packet is a fragment.
    """
    fragment = False
    while protocol in _EXTENSIONS:
        kind = protocol
        protocol = reader.u8()
        octet = reader.u8()
        if kind == _FRAGMENT:
            offset_and_flags = reader.u16()
            reader.skip(4)
            fragment = bool(offset_and_flags & ~_RESERVED_FRAGMENT_BITS)
            if offset_and_flags >> 3:
                return protocol, False, True
        elif kind == _AUTHENTICATION:
            reader.skip(octet * 4 + 6)  # RFC 4302 §2.2: in 32-bit words, minus 2
        else:
            reader.skip(octet * 8 + 6)
    return protocol, True, fragment


def _ports(protocol: int, packet: bytes, offset: int, end: int) -> tuple[int | None, int | None]:
    if protocol in _PROTOCOLS_WITH_PORTS and offset + 4 <= end:
        source, destination = _PORTS.unpack_from(packet, offset)
        return source, destination
    if protocol in (ICMP, ICMPV6) and offset + 2 <= end:
        kind = int.from_bytes(packet[offset : offset + 2], "big")
        return kind, kind
    return None, None


@dataclass(frozen=True, kw_only=True)
class IpPacket:
    """An unfragmented IPv4 or IPv6 packet without options or extension headers."""

    source: Address
    destination: Address
    protocol: int
    payload: bytes
    ttl: int = DEFAULT_TTL
    identification: int = 0

    @classmethod
    def decode(cls, octets: bytes) -> IpPacket:
        """Parse; fragments, a wrong IPv4 header checksum and bad lengths raise ``DecodeError``."""
        flow = flow_of(octets)
        if flow.version == 6:
            reader = Reader(octets, IPV6_HEADER_LENGTH, flow.length)
            protocol, _, fragment = _pass_extensions(octets[6], reader)
            if fragment:
                raise DecodeError("an IPv6 fragment")
            return cls(
                source=IPv6Address(flow.source),
                destination=IPv6Address(flow.destination),
                protocol=protocol,
                payload=reader.rest(),
                ttl=octets[7],
            )
        header_length = (octets[0] & 0x0F) * 4
        if checksum(octets[:header_length]):
            raise DecodeError("wrong IPv4 header checksum")
        if int.from_bytes(octets[6:8], "big") & (_FRAGMENT_OFFSET_MASK | _MORE_FRAGMENTS):
            raise DecodeError("an IPv4 fragment")
        return cls(
            source=IPv4Address(flow.source),
            destination=IPv4Address(flow.destination),
            protocol=flow.protocol,
            payload=octets[header_length : flow.length],
            ttl=octets[8],
            identification=int.from_bytes(octets[4:6], "big"),
        )

    def encode(self) -> bytes:
        """The octets; ``LocalError`` when the payload does not fit or the addresses' versions differ."""
        if self.source.version != self.destination.version:
            raise LocalError(f"a packet from {self.source} to {self.destination}")
        if self.source.version == 6:
            if len(self.payload) > PACKET_MAXIMUM:
                raise LocalError(f"{len(self.payload)} octets do not fit into an IPv6 packet")
            fixed = struct.pack(">IHBB", 6 << 28, len(self.payload), self.protocol, self.ttl)
            return fixed + self.source.packed + self.destination.packed + self.payload
        length = IPV4_HEADER_LENGTH + len(self.payload)
        if length > PACKET_MAXIMUM:
            raise LocalError(f"{len(self.payload)} octets do not fit into an IPv4 packet")
        fixed = struct.pack(">BBHHHBB", 0x45, 0, length, self.identification, 0, self.ttl, self.protocol)
        addresses = self.source.packed + self.destination.packed
        header_checksum = checksum(fixed + b"\x00\x00" + addresses)
        return fixed + header_checksum.to_bytes(2, "big") + addresses + self.payload


def pseudo_header(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """What UDP and ICMPv6 checksums cover besides the payload (RFC 768; RFC 8200 §8.1)."""
    if source.version == 6:
        return source.packed + destination.packed + struct.pack(">II", length, protocol)
    return source.packed + destination.packed + struct.pack(">HH", protocol, length)


@dataclass(frozen=True, kw_only=True)
class UdpDatagram:
    """A UDP datagram (RFC 768); its checksum needs the addresses of the packet around it."""

    source_port: int
    destination_port: int
    payload: bytes

    @classmethod
    def decode(cls, packet: IpPacket) -> UdpDatagram:
        """Parse a packet's payload; a wrong length or checksum raises ``DecodeError``."""
        reader = Reader(packet.payload)
        source_port, destination_port, length, received = (
            reader.u16(),
            reader.u16(),
            reader.u16(),
            reader.u16(),
        )
        if length < UDP_HEADER_LENGTH:
            raise DecodeError(f"UDP length {length}")
        payload = reader.take(length - UDP_HEADER_LENGTH)
        if received:
            covered = pseudo_header(packet.source, packet.destination, UDP, length) + packet.payload[:length]
            if checksum(covered):
                raise DecodeError("wrong UDP checksum")
        elif packet.source.version == 6:
            raise DecodeError("UDP over IPv6 without a checksum (RFC 8200 §8.1)")
        return cls(source_port=source_port, destination_port=destination_port, payload=payload)

    def encode(self, source: Address, destination: Address) -> bytes:
        """The octets with the checksum for a packet between these addresses."""
        length = UDP_HEADER_LENGTH + len(self.payload)
        if length > PACKET_MAXIMUM:
            raise LocalError(f"{len(self.payload)} octets do not fit into a UDP datagram")
        ports = struct.pack(">HHH", self.source_port, self.destination_port, length)
        covered = pseudo_header(source, destination, UDP, length) + ports + b"\x00\x00" + self.payload
        # RFC 768: a computed checksum of zero is transmitted as all ones.
        return ports + (checksum(covered) or 0xFFFF).to_bytes(2, "big") + self.payload


_ECHO_TYPES = {ICMP: (8, 0), ICMPV6: (128, 129)}  # protocol → request, reply


@dataclass(frozen=True, kw_only=True)
class IcmpEcho:
    """Echo request or reply of ICMP (RFC 792) or ICMPv6 (RFC 4443 §4)."""

    request: bool
    identifier: int
    sequence: int
    data: bytes

    @classmethod
    def decode(cls, packet: IpPacket) -> IcmpEcho | None:
        """Parse a packet's payload, ``None`` when it is other ICMP; a bad checksum raises ``DecodeError``."""
        types = _ECHO_TYPES.get(packet.protocol)
        if types is None:
            raise DecodeError(f"protocol {packet.protocol} is not ICMP")
        covered = packet.payload
        if packet.protocol == ICMPV6:
            covered = pseudo_header(packet.source, packet.destination, ICMPV6, len(covered)) + covered
        reader = Reader(packet.payload)
        kind, code = reader.u8(), reader.u8()
        reader.skip(2)
        if checksum(covered):
            raise DecodeError("wrong ICMP checksum")
        if kind not in types or code:
            return None
        return cls(
            request=kind == types[0],
            identifier=reader.u16(),
            sequence=reader.u16(),
            data=reader.rest(),
        )

    def encode(self, source: Address, destination: Address) -> bytes:
        """The octets, ICMPv6 for IPv6 addresses, with the checksum for a packet between them."""
        protocol = icmp_of(source)
        kind = _ECHO_TYPES[protocol][0 if self.request else 1]
        rest = struct.pack(">HH", self.identifier, self.sequence) + self.data
        covered = bytes([kind, 0, 0, 0]) + rest
        if protocol == ICMPV6:
            covered = pseudo_header(source, destination, protocol, len(covered)) + covered
        return bytes([kind, 0]) + checksum(covered).to_bytes(2, "big") + rest


def icmp_of(address: Address) -> int:
    """The protocol number of ICMP for an address's version."""
    return ICMPV6 if address.version == 6 else ICMP
