"""The MSS option of TCP's SYN segments (RFC 9293 §3.7.1), lowered to what a tunnel carries in one packet.

What has no MSS option is left alone, as are options that make no sense: they are for the hosts to judge.
"""

from __future__ import annotations

from protocols.ip import TCP, checksum_after, transport_of

TCP_HEADER_LENGTH = 20
IP_HEADER_LENGTHS = {4: 20, 6: 40}

_CHECKSUM_OFFSET = 16
_SYN = 0x02
_END_OF_OPTIONS, _NO_OPERATION, _MAXIMUM_SEGMENT_SIZE, _MSS_LENGTH = 0, 1, 2, 4


def mss_for(mtu: int, version: int) -> int:
    """The MSS of packets of at most ``mtu`` octets without options of IP or TCP (RFC 6691 §2)."""
    return mtu - IP_HEADER_LENGTHS[version] - TCP_HEADER_LENGTH


def is_syn(packet: bytes) -> bool:
    """Whether a whole IP packet, or the first fragment of one, is a SYN segment of TCP."""
    start = _tcp_header(packet)
    return start is not None and bool(packet[start + 13] & _SYN)


def clamped(packet: bytes, maximum: int) -> bytes:
    """A SYN with an MSS of at most ``maximum``, its checksum updated (RFC 1624); anything else as it is."""
    start = _tcp_header(packet)
    if start is None or not packet[start + 13] & _SYN:
        return packet
    place = _mss_place(packet, start)
    if place is None:
        return packet
    old = packet[place : place + 2]
    if int.from_bytes(old, "big") <= maximum:
        return packet
    new = maximum.to_bytes(2, "big")
    at = start + _CHECKSUM_OFFSET
    if (place - start) % 2:  # the sum is over words from the header's start on: here the octets stand in two
        checksum = checksum_after(packet[at : at + 2], old[::-1], new[::-1])
    else:
        checksum = checksum_after(packet[at : at + 2], old, new)
    return packet[:at] + checksum + packet[at + 2 : place] + new + packet[place + 2 :]


def _tcp_header(packet: bytes) -> int | None:
    protocol, start = transport_of(packet)
    if protocol != TCP or start is None or len(packet) < start + TCP_HEADER_LENGTH:
        return None
    return start


def _mss_place(packet: bytes, start: int) -> int | None:
    """Where the value of the MSS option stands."""
    end = min(start + (packet[start + 12] >> 4) * 4, len(packet))
    place = start + TCP_HEADER_LENGTH
    while place + 1 < end:
        kind, length = packet[place], packet[place + 1]
        if kind == _NO_OPERATION:
            place += 1
            continue
        if kind == _END_OF_OPTIONS or length < 2 or place + length > end:
            return None
        if kind == _MAXIMUM_SEGMENT_SIZE:
            return place + 2 if length == _MSS_LENGTH else None
        place += length
    return None
