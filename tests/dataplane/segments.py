"""Packets of TCP and UDP as scapy makes them, and what the kernel makes of super-packets, for tests of offload."""

from __future__ import annotations

import random
import struct

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

VNET = struct.Struct("=BBHHHH")  # virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
NEEDS_CHECKSUM = 1
NONE, TCP4, TCP6, UDP_L4 = 0, 1, 4, 5
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (77, 88))]
CHOSEN = random.Random(4500)


def ip_header(version: int, **fields: int) -> Packet:
    if version == 6:
        return IPv6(src="2001:db8::1", dst="2001:db8:ff::2", hlim=61, **fields)
    return IP(src="10.45.0.2", dst="192.0.2.80", ttl=61, **fields)


def octets_of(packet: Packet) -> bytes:
    """As it goes onto the wire: lengths and checksums by scapy."""
    return bytes(packet)


def parsed(octets: bytes) -> Packet:
    return IPv6(octets) if octets[0] >> 4 == 6 else IP(octets)


def checked(octets: bytes) -> Packet:
    """Parse, and have scapy compute lengths and checksums anew: the octets must not change."""
    packet = parsed(octets)
    again = packet.copy()
    for layer in (IP, IPv6, TCP, UDP):
        if layer in again:
            for field in ("len", "plen", "chksum"):
                if field in again[layer].fields:
                    del again[layer].fields[field]
    assert bytes(again) == octets
    return packet


def super_packet(packet: Packet, kind: int, size: int) -> bytes:
    """What the kernel writes into a TUN device: the sum of the pseudo-header where the checksum will be."""
    version = 6 if IPv6 in packet else 4
    network = 40 if version == 6 else 20
    octets = bytearray(octets_of(packet))
    offset = 16 if kind in (TCP4, TCP6) else 6
    transport = (octets[network + 12] >> 4) * 4 if offset == 16 else 8
    struct.pack_into(">H", octets, network + offset, pseudo_sum(bytes(octets), network))
    return VNET.pack(NEEDS_CHECKSUM, kind, network + transport, size, network, offset) + octets


def pseudo_sum(octets: bytes, network: int) -> int:
    """The pseudo-header's sum, not complemented (RFC 9293 §3.1, RFC 8200 §8.1)."""
    version = octets[0] >> 4
    addresses = octets[8:40] if version == 6 else octets[12:20]
    protocol = octets[6] if version == 6 else octets[9]
    covered = addresses + struct.pack(">II", len(octets) - network, protocol)
    total = sum(struct.unpack(f">{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total


def tcp_flow(
    version: int, payloads: list[bytes], *, port: int = 5000, flags: str = "A", identification: int = 1
) -> list[bytes]:
    sequence = 0xFFFFFFF0
    packets = []
    for number, payload in enumerate(payloads):
        fields = {"id": (identification + number) % 2**16} if version == 4 else {}
        last = number == len(payloads) - 1
        transport = TCP(sport=port, dport=80, seq=sequence, ack=1, flags=flags if last else "A", options=TIMESTAMPS)
        packets.append(octets_of(ip_header(version, **fields) / transport / Raw(payload)))
        sequence = (sequence + len(payload)) % 2**32
    return packets


def pieces(length: int, size: int) -> list[bytes]:
    octets = CHOSEN.randbytes(length)
    return [octets[at : at + size] for at in range(0, length, size)]


def altered(packet: bytes, **fields: object) -> bytes:
    """The packet with other fields, and checksums that fit."""
    changed = parsed(packet)
    for name, value in fields.items():
        layer = next(layer for layer in (TCP, IP, IPv6) if layer in changed and hasattr(changed[layer], name))
        setattr(changed[layer], name, value)
    for layer in (IP, TCP):
        if layer in changed:
            del changed[layer].chksum
    return octets_of(changed)


def by_the_kernel(written: bytes) -> list[bytes]:
    """What the kernel makes of a TCP super-packet, or of a single packet, behind its virtio_net_hdr."""
    _, kind, _, size, _, _ = VNET.unpack_from(written)
    octets = written[VNET.size :]
    if kind == NONE:
        return [octets]
    whole = parsed(octets)
    payload = bytes(whole[TCP].payload)
    segments = []
    for number, at in enumerate(range(0, len(payload), size)):
        segment = whole.copy()
        segment[TCP].remove_payload()
        segment[TCP].seq = (whole[TCP].seq + at) % 2**32
        if at + size < len(payload):
            segment[TCP].flags = int(whole[TCP].flags) & ~0x09  # FIN and PSH are the last one's
        if IP in segment:
            segment[IP].id = (whole[IP].id + number) % 2**16
        for layer, name in ((IP, "len"), (IP, "chksum"), (IPv6, "plen"), (TCP, "chksum")):
            if layer in segment:
                delattr(segment[layer], name)
        segments.append(octets_of(segment / Raw(payload[at : at + size])))
    return segments
