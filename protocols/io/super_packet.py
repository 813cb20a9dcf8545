"""Packets that the kernel hands on coalesced and without checksums, behind a virtio_net_hdr (VIRTIO 1.2 §5.1.6).

UDP becomes datagrams again; TCP stays one long segment, which is a segment like any other (RFC 9293 §3.1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from protocols.ip import UDP, IpPacket, UdpDatagram, checksum

NEEDS_CHECKSUM = 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM
COALESCED_UDP = 5  # VIRTIO_NET_HDR_GSO_UDP_L4
UDP_CHECKSUM_OFFSET = 6

OFFLOAD = struct.Struct("=BBHHHH")
"""struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
NO_OFFLOAD = bytes(OFFLOAD.size)


def whole_packets(octets: bytes, network: int) -> Iterator[bytes]:
    """The IP packets, their checksums complete, behind a virtio_net_hdr and ``network`` octets of a link's header.

    ``DecodeError`` when the headers are not those of the packet.
    """
    flags, kind, _, size, start, offset = OFFLOAD.unpack_from(octets)
    packet = octets[OFFLOAD.size + network :]
    if flags & NEEDS_CHECKSUM:
        packet = _with_checksum(packet, start - network, offset)
    if kind != COALESCED_UDP or not size:
        yield packet
        return
    whole = IpPacket.decode(packet)
    datagram = UdpDatagram.decode(whole)
    for begin in range(0, len(datagram.payload), size):
        part = UdpDatagram(
            source_port=datagram.source_port,
            destination_port=datagram.destination_port,
            payload=datagram.payload[begin : begin + size],
        )
        yield IpPacket(
            source=whole.source,
            destination=whole.destination,
            protocol=UDP,
            payload=part.encode(whole.source, whole.destination),
            ttl=whole.ttl,
        ).encode()


def _with_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """With the checksum that was left to the hardware: its field has the sum of the pseudo-header (RFC 1071)."""
    value = checksum(packet[start:])
    if offset == UDP_CHECKSUM_OFFSET and not value:
        value = 0xFFFF
    at = start + offset
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]
