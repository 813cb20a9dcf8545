"""UDP and ESP in Ethernet frames as packet sockets give them, and their translation (RFC 3022 §2.2, §4.1; IPv4 alone).

A frame begins with ``virtio_net_hdr`` (PACKET_VNET_HDR): it tells a checksum that is still to be completed, since the
frame has not been on hardware. Left out: what fragments but the first one carry, VLANs, IPv6's extension headers but
that of fragments (RFC 8200 §4.5).
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from protocols.path import Address, Endpoint

VNET_HEADER_LENGTH = 10  # struct virtio_net_hdr of <linux/virtio_net.h>
ETHERNET_HEADER_LENGTH = 14
START = VNET_HEADER_LENGTH + ETHERNET_HEADER_LENGTH  # of the IP packet
NEEDS_CHECKSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
ETH_P_IP, ETH_P_IPV6 = b"\x08\x00", b"\x86\xdd"
IP_HEADER_LENGTH = 20
IPV6_HEADER_LENGTH = 40
FRAGMENT_HEADER_LENGTH = 8
UDP_HEADER_LENGTH = 8
UDP, ESP = socket.IPPROTO_UDP, socket.IPPROTO_ESP
IPV6_FRAGMENT = socket.IPPROTO_FRAGMENT
FRAGMENT = 0x3FFF  # More Fragments and the offset of RFC 791 §3.1
_IP_CHECKSUM, _SOURCE, _DESTINATION_END = 10, 12, 20
_UDP_CHECKSUM = 6
Octets = bytes | bytearray
_PORTS = struct.Struct("!HH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a frame carries: ``length`` of the IP packet in octets; ports are 0 where there are none to see."""

    protocol: int
    source: Endpoint
    destination: Endpoint
    length: int
    payload: bytes
    is_fragment: bool


def is_ipv4(frame: bytes) -> bool:
    """Whether a frame carries IPv4, and not ARP, say."""
    return len(frame) >= START + IP_HEADER_LENGTH and frame[START - 2 : START] == ETH_P_IP


def carried(frame: bytes) -> Carried | None:
    """The UDP datagram or ESP packet in a frame; ``None``: it carries something else."""
    if is_ipv4(frame):
        return _carried_by_ipv4(frame)
    if len(frame) >= START + IPV6_HEADER_LENGTH and frame[START - 2 : START] == ETH_P_IPV6:
        return _carried_by_ipv6(frame)
    return None


def _carried_by_ipv4(frame: bytes) -> Carried | None:
    header = frame[START : START + IP_HEADER_LENGTH]
    packet = frame[START : START + _number(header, 2)]
    place = _number(header, 6) & FRAGMENT
    source, destination = IPv4Address(header[_SOURCE:16]), IPv4Address(header[16:_DESTINATION_END])
    return _carried(header[9], source, destination, packet, (header[0] & 15) * 4, bool(place), bool(place & 0x1FFF))


def _carried_by_ipv6(frame: bytes) -> Carried | None:
    packet = frame[START : START + IPV6_HEADER_LENGTH + _number(frame, START + 4)]
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    protocol, begin = packet[6], IPV6_HEADER_LENGTH
    if protocol != IPV6_FRAGMENT:
        return _carried(protocol, source, destination, packet, begin, False, False)
    begin += FRAGMENT_HEADER_LENGTH
    if len(packet) < begin:
        return None
    is_later = bool(_number(packet, IPV6_HEADER_LENGTH + 2) >> 3)
    return _carried(packet[IPV6_HEADER_LENGTH], source, destination, packet, begin, True, is_later)


def _carried(
    protocol: int, source: Address, destination: Address, packet: bytes, begin: int, is_fragment: bool, is_later: bool
) -> Carried | None:
    """``begin``: where the headers of IP are over; ``is_later``: of a packet whose beginning went before."""
    if protocol not in (UDP, ESP):
        return None
    ports = (0, 0)
    payload = b"" if is_later else packet[begin:]
    if protocol == UDP and not is_later:
        if len(payload) < UDP_HEADER_LENGTH:
            return None
        ports = _PORTS.unpack_from(payload)
        payload = payload[UDP_HEADER_LENGTH:]
    return Carried(
        protocol=protocol,
        source=Endpoint(source, ports[0]),
        destination=Endpoint(destination, ports[1]),
        length=len(packet),
        payload=payload,
        is_fragment=is_fragment,
    )


def translated(frame: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    """A frame with UDP over IPv4 between other end points, its checksums adjusted (RFC 3022 §4.1, RFC 1624)."""
    changed = bytearray(frame)
    addresses = slice(START + _SOURCE, START + _DESTINATION_END)
    udp = START + (frame[START] & 15) * 4
    ports = slice(udp, udp + _PORTS.size)
    changed[addresses] = source.address.packed + destination.address.packed
    changed[ports] = _PORTS.pack(source.port, destination.port)
    _adjust(changed, START + _IP_CHECKSUM, frame[addresses], changed[addresses])
    at = udp + _UDP_CHECKSUM
    if frame[0] & NEEDS_CHECKSUM:  # so far it is the sum of the pseudo-header, which has no ports, not complemented
        _put(changed, at, _folded(_number(frame, at), frame[addresses], changed[addresses]))
    elif frame[at : at + 2] != bytes(2):  # RFC 768: none was made
        _adjust(changed, at, frame[addresses] + frame[ports], changed[addresses] + changed[ports])
        if changed[at : at + 2] == bytes(2):
            _put(changed, at, 0xFFFF)
    return bytes(changed)


def _adjust(frame: bytearray, at: int, old: Octets, new: Octets) -> None:
    """HC' = ~(~HC + ~m + m') of RFC 1624 §3."""
    _put(frame, at, ~_folded(~_number(frame, at) & 0xFFFF, old, new) & 0xFFFF)


def _folded(total: int, old: Octets, new: Octets) -> int:
    """A sum in ones' complement with other words in the place of some."""
    words = struct.Struct(f"!{len(old) // 2}H")
    total += sum(words.unpack(new)) + sum(~word & 0xFFFF for word in words.unpack(old))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _number(frame: Octets, at: int) -> int:
    return int.from_bytes(frame[at : at + 2], "big")


def _put(frame: bytearray, at: int, value: int) -> None:
    frame[at : at + 2] = value.to_bytes(2, "big")
