"""Inner packets that are too long for the tunnel (RFC 4301 §8.2.1): IPv4 fragments, "packet too big".

What may be fragmented is (RFC 791 §3.2), before ESP; for what may not, IPv4 with DF and IPv6, there is an ICMP error to
its source (RFC 1191 §4; RFC 4443 §3.2). An IPv6 packet of 1280 octets is never too long (RFC 8200 §5): the outer one is
fragmented then. Errors come from the address that the packet was for: a tunnel's end has no other address that the
kernel behind a TUN device takes for somebody else's, and whoever hears of a path MTU goes by the packet quoted.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from protocols.ip import (
    DEFAULT_TTL,
    ICMP,
    ICMPV6,
    IPV4_HEADER_LENGTH,
    IPV6_HEADER_LENGTH,
    IpPacket,
    checksum,
    pseudo_header,
    transport_of,
)

IPV4_MTU_MINIMUM = 68  # RFC 791 §3.2: every node forwards that much
IPV6_MTU_MINIMUM = 1280  # RFC 8200 §5
ICMP_ERROR_MAXIMUM = 576  # RFC 1812 §4.3.2.3
ICMPV6_ERROR_MAXIMUM = 1280  # RFC 4443 §2.4 (c)

_ICMP_HEADER_LENGTH = 8
_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 4  # RFC 792, RFC 1191 §4
_PACKET_TOO_BIG = 2  # RFC 4443 §3.2
_ICMP_QUERIES = frozenset({0, 8, 9, 10, 13, 14, 15, 16, 17, 18})  # RFC 1122 §3.2.2; all others are errors
_ICMPV6_QUERIES_FROM = 128  # RFC 4443 §2.1
_NDP_REDIRECT = 137
_DONT_FRAGMENT, _MORE_FRAGMENTS, _OFFSET_MASK = 0x4000, 0x2000, 0x1FFF
_OPTION_COPIED = 0x80  # RFC 791 §3.1
_END_OF_OPTIONS, _NO_OPERATION = 0, 1


def limit_of(version: int, inner_mtu: int) -> int:
    """The longest packet of an IP version that goes in one piece where ESP leaves ``inner_mtu`` octets."""
    return max(inner_mtu, IPV4_MTU_MINIMUM if version == 4 else IPV6_MTU_MINIMUM)


def may_be_fragmented(packet: bytes) -> bool:
    """Whether it is IPv4 without DF; routers do not fragment IPv6 (RFC 8200 §4.5)."""
    return packet[0] >> 4 == 4 and not packet[6] << 8 & _DONT_FRAGMENT


def fragments_of(packet: bytes, mtu: int) -> list[bytes]:
    """An IPv4 packet in pieces of at most ``mtu`` octets, the header included (RFC 791 §3.2).

    A fragment is fragmented further; options go into the later pieces where they say so.
    """
    header_length = (packet[0] & 0x0F) * 4
    later_options = _copied_options(packet[IPV4_HEADER_LENGTH:header_length])
    flags = int.from_bytes(packet[6:8], "big")
    start, more = flags & _OFFSET_MASK, flags & _MORE_FRAGMENTS
    payload = packet[header_length:]
    pieces: list[bytes] = []
    at = 0
    while True:
        options = packet[IPV4_HEADER_LENGTH:header_length] if at == 0 else later_options
        room = max(mtu - IPV4_HEADER_LENGTH - len(options), 8)
        last = len(payload) - at <= room
        piece = payload[at:] if last else payload[at : at + room - room % 8]
        flags_and_offset = start + at // 8 | (more if last else _MORE_FRAGMENTS)
        pieces.append(_ipv4(packet, options, flags_and_offset, piece))
        if last:
            return pieces
        at += len(piece)


def too_big(packet: bytes, mtu: int) -> bytes | None:
    """The ICMP error that tells a packet's source that ``mtu`` octets fit; ``None``: to such a packet there is none.

    There is none to ICMP errors, multicast, later fragments, and sources that are no single node (RFC 1122 §3.2.2,
    RFC 4443 §2.4 (e)).
    """
    protocol, start = transport_of(packet)
    if start is None:
        return None
    if packet[0] >> 4 == 4:
        source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        if not (_answers(source) and _answers(destination)) or _is_icmp_error(protocol, packet, start):
            return None
        room = ICMP_ERROR_MAXIMUM - IPV4_HEADER_LENGTH - _ICMP_HEADER_LENGTH
        header = struct.pack(">BBHHH", _UNREACHABLE, _FRAGMENTATION_NEEDED, 0, 0, mtu)
        message = header + packet[:room]
        message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
        answer = IpPacket(source=destination, destination=source, protocol=ICMP, payload=message, ttl=DEFAULT_TTL)
        return answer.encode()
    source6, destination6 = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    if not (_answers(source6) and _answers(destination6)) or _is_icmp_error(protocol, packet, start):
        return None
    room = ICMPV6_ERROR_MAXIMUM - IPV6_HEADER_LENGTH - _ICMP_HEADER_LENGTH
    message = struct.pack(">BBHI", _PACKET_TOO_BIG, 0, 0, mtu) + packet[:room]
    covered = pseudo_header(destination6, source6, ICMPV6, len(message)) + message
    message = message[:2] + checksum(covered).to_bytes(2, "big") + message[4:]
    return IpPacket(source=destination6, destination=source6, protocol=ICMPV6, payload=message).encode()


def _answers(address: IPv4Address | IPv6Address) -> bool:
    limited_broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return not (address.is_multicast or address.is_unspecified or limited_broadcast)


def _is_icmp_error(protocol: int, packet: bytes, start: int) -> bool:
    kind = packet[start] if start < len(packet) else 0
    if protocol == ICMP:
        return kind not in _ICMP_QUERIES
    return protocol == ICMPV6 and (kind < _ICMPV6_QUERIES_FROM or kind == _NDP_REDIRECT)


def _ipv4(packet: bytes, options: bytes, flags_and_offset: int, payload: bytes) -> bytes:
    header_length = IPV4_HEADER_LENGTH + len(options)
    header = (
        bytes([0x40 | header_length // 4, packet[1]])
        + (header_length + len(payload)).to_bytes(2, "big")
        + packet[4:6]
        + flags_and_offset.to_bytes(2, "big")
        + packet[8:10]
        + b"\x00\x00"
        + packet[12:20]
        + options
    )
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def _copied_options(options: bytes) -> bytes:
    """Those that stand in every fragment (RFC 791 §3.1), filled up to whole words; up to one that makes no sense."""
    copied = b""
    at = 0
    while at < len(options) and options[at] != _END_OF_OPTIONS:
        if options[at] == _NO_OPERATION:
            at += 1
            continue
        length = options[at + 1] if at + 1 < len(options) else 0
        if length < 2 or at + length > len(options):
            break
        if options[at] & _OPTION_COPIED:
            copied += options[at : at + length]
        at += length
    return copied + bytes(-len(copied) % 4)
