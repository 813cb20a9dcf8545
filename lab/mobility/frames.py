"""UDP and ESP over IPv4 in Ethernet frames as packet sockets give them, and their translation (RFC 3022 §2.2, §4.1).

A frame begins with ``virtio_net_hdr`` (PACKET_VNET_HDR): it tells a checksum that is still to be completed, since the
frame has not been on hardware. Left out: what fragments but the first one carry, IPv6, VLANs.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from protocols.path import Endpoint

VNET_HEADER_LENGTH = 10  # struct virtio_net_hdr of <linux/virtio_net.h>
ETHERNET_HEADER_LENGTH = 14
START = VNET_HEADER_LENGTH + ETHERNET_HEADER_LENGTH  # of the IP packet
NEEDS_CHECKSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
ETH_P_IP = b"\x08\x00"
IP_HEADER_LENGTH = 20
UDP_HEADER_LENGTH = 8
UDP, ESP = socket.IPPROTO_UDP, socket.IPPROTO_ESP
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
    if not is_ipv4(frame) or frame[START + 9] not in (UDP, ESP):
        return None
    length = int.from_bytes(frame[START + 2 : START + 4], "big")
    packet = frame[START : START + length]
    begin = (packet[0] & 15) * 4
    place = int.from_bytes(packet[6:8], "big") & FRAGMENT
    ports = (0, 0)
    payload = packet[begin:]
    if place & 0x1FFF:
        payload = b""  # of a packet whose beginning went before
    elif packet[9] == UDP:
        if len(payload) < UDP_HEADER_LENGTH:
            return None
        ports = _PORTS.unpack_from(payload)
        payload = payload[UDP_HEADER_LENGTH:]
    return Carried(
        protocol=packet[9],
        source=Endpoint(IPv4Address(packet[_SOURCE:16]), ports[0]),
        destination=Endpoint(IPv4Address(packet[16:_DESTINATION_END]), ports[1]),
        length=len(packet),
        payload=payload,
        is_fragment=bool(place),
    )


def translated(frame: bytes, source: Endpoint, destination: Endpoint) -> bytes:
    """A frame with UDP between other end points, its checksums adjusted (RFC 3022 §4.1, RFC 1624)."""
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
