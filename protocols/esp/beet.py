"""BEET mode (draft-nikander-esp-beet-mode, RFC 7402 appendix B): the inner addresses are the SA's, not the packet's.

The inner IP header is left out: the ESP payload is what followed it, the next header its protocol. IPv4 options go
along behind a pseudo header (protocol 94)::

    Next Header | Header Len (8 octets, the first 8 not counted) | Pad Len | Reserved | NOP* | options

IPv6 extension headers stay where they are, before the upper layer. TTL, DSCP and identification of a packet are those
that its host gives it anew: the outer header, which would carry them, is the socket's. Fragments cannot be carried, as
the fields that tell them apart are in the header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from protocols.errors import DecodeError, LocalError
from protocols.ip import (
    DEFAULT_TTL,
    IPV4_HEADER_LENGTH,
    IPV6_HEADER_LENGTH,
    PACKET_MAXIMUM,
    checksum,
    is_fragment,
)
from protocols.path import Address
from protocols.selectors import TrafficSelector

PSEUDO_HEADER = 94  # IANA: the protocol number of BEET's pseudo header in Linux and HIP
PSEUDO_HEADER_LENGTH = 4
PSEUDO_HEADER_UNIT = 8
OPTIONS_MAXIMUM = 40  # RFC 791 §3.1: a header of 60 octets
_NOP = b"\x01"  # RFC 791 §3.1
_DONT_FRAGMENT = 0x4000  # RFC 6864: the identification means nothing then


def host_of(selectors: tuple[TrafficSelector, ...]) -> Address | None:
    """The one address that all of them select; ``None`` when there are more."""
    addresses = {address for selector in selectors for address in (selector.start, selector.end)}
    return addresses.pop() if len(addresses) == 1 else None


def fits(local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> bool:
    """Whether an SA with these selectors can be in BEET mode: one host of the same IP version on each side."""
    here, there = host_of(local), host_of(remote)
    return here is not None and there is not None and here.version == there.version


@dataclass(frozen=True, kw_only=True)
class InnerAddresses:
    """The two hosts of a BEET SA."""

    local: Address
    remote: Address

    @classmethod
    def of(cls, local: tuple[TrafficSelector, ...], remote: tuple[TrafficSelector, ...]) -> InnerAddresses:
        """By the selectors; ``LocalError`` when they are not of one host each."""
        here, there = host_of(local), host_of(remote)
        if here is None or there is None or here.version != there.version:
            raise LocalError("BEET mode needs selectors of one host on each side, of one IP version")
        return cls(local=here, remote=there)


def strip(packet: bytes) -> tuple[int, bytes]:
    """Next header and ESP payload of an inner packet, which is whole and no fragment (``LocalError``)."""
    if is_fragment(packet):
        raise LocalError("BEET mode cannot carry a fragment")
    if packet[0] >> 4 == 6:
        return packet[6], packet[IPV6_HEADER_LENGTH:]
    header_length, protocol = (packet[0] & 0x0F) * 4, packet[9]
    options, payload = packet[IPV4_HEADER_LENGTH:header_length], packet[header_length:]
    if not options:
        return protocol, payload
    padding = _NOP * (-(PSEUDO_HEADER_LENGTH + len(options)) % PSEUDO_HEADER_UNIT)
    units = (PSEUDO_HEADER_LENGTH + len(padding) + len(options)) // PSEUDO_HEADER_UNIT - 1
    return PSEUDO_HEADER, bytes((protocol, units, len(padding), 0)) + padding + options + payload


def restore(next_header: int, payload: bytes, addresses: InnerAddresses) -> bytes:
    """The inner packet, from the remote host to the local one; ``DecodeError`` on an impossible pseudo header."""
    source, destination = addresses.remote.packed, addresses.local.packed
    if not isinstance(addresses.local, IPv4Address):
        if len(payload) > PACKET_MAXIMUM:
            raise DecodeError(f"{len(payload)} octets do not fit into an IPv6 packet")
        fixed = struct.pack(">IHBB", 6 << 28, len(payload), next_header, DEFAULT_TTL)
        return fixed + source + destination + payload
    options = b""
    if next_header == PSEUDO_HEADER:
        next_header, options, payload = _options(payload)
    header_length = IPV4_HEADER_LENGTH + len(options)
    length = header_length + len(payload)
    if length > PACKET_MAXIMUM:
        raise DecodeError(f"{length} octets do not fit into an IPv4 packet")
    words = 4 << 4 | header_length // 4
    fixed = struct.pack(">BBHHHBB", words, 0, length, 0, _DONT_FRAGMENT, DEFAULT_TTL, next_header)
    header = fixed + bytes(2) + source + destination + options
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def _options(payload: bytes) -> tuple[int, bytes, bytes]:
    """Protocol, IPv4 options and what follows them."""
    if len(payload) < PSEUDO_HEADER_UNIT:
        raise DecodeError(f"a BEET pseudo header in {len(payload)} octets")
    protocol, units, padding = payload[0], payload[1], payload[2]
    start, end = PSEUDO_HEADER_LENGTH + padding, (units + 1) * PSEUDO_HEADER_UNIT
    length = end - start
    if length <= 0 or length > OPTIONS_MAXIMUM or length % 4 or end > len(payload):
        raise DecodeError(f"a BEET pseudo header of {end} octets with {padding} octets of padding")
    return protocol, payload[start:end], payload[end:]
