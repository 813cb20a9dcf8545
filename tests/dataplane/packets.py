"""Inner packets for tests: plain ones, and random ones of every sort."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address

from protocols.ip import ICMP, ICMPV6, TCP, UDP, IpPacket, UdpDatagram, checksum, pseudo_header
from protocols.path import Address
from tests.dataplane.pairs import HOST_ADDRESS, UE_ADDRESS

UE_V6, HOST_V6 = ip_address("2001:db8:1::77"), ip_address("2001:db8:ff::1")


def udp(
    source: object = UE_ADDRESS,
    destination: object = HOST_ADDRESS,
    data: bytes = b"hi",
    ports: tuple[int, int] = (5000, 7),
) -> bytes:
    from_, to = ip_address(str(source)), ip_address(str(destination))
    payload = UdpDatagram(source_port=ports[0], destination_port=ports[1], payload=data).encode(from_, to)
    return IpPacket(source=from_, destination=to, protocol=UDP, payload=payload).encode()


UP, DOWN = udp(), udp(HOST_ADDRESS, UE_ADDRESS)


def with_traffic_class(packet: bytes, traffic_class: int) -> bytes:
    """An IP packet, its checksum right, with another traffic class."""
    if packet[0] >> 4 == 6:
        return (6 << 28 | traffic_class << 20).to_bytes(4, "big") + packet[4:]
    header = packet[:1] + bytes([traffic_class]) + packet[2:10] + bytes(2) + packet[12:20]
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + packet[20:]


def wild_packet(chance: random.Random) -> bytes:
    """An IP packet: any protocol, fragments, options, extension headers, spoilt lengths."""
    ports = chance.choice([(5000, 7), (7, 5000), (80, 443), (0, 0xFFFF), (0x8000, 1)])
    protocol = chance.choice([UDP, UDP, TCP, ICMP, 58, 58, 132, 136, 47, 0, 43, 44, 51, 60, 59])
    traffic_class = chance.choice([0, chance.getrandbits(8)])
    payload = struct.pack(">HH", *ports) + chance.randbytes(chance.choice([0, 4, 20, 60]))
    if chance.random() < 0.1:
        payload = payload[: chance.randrange(5)]
    if chance.random() < 0.5:
        hosts = [int(UE_ADDRESS), int(HOST_ADDRESS), int(ip_address("10.45.0.3")), chance.getrandbits(32)]
        words = chance.choice([5, 5, 5, 6, 15, 4])
        length = words * 4 + len(payload)
        fragment = chance.choice([0, 0, 0, 0x2000, 0x4000, 1, 0x1FFF])
        header = struct.pack(
            ">BBHHHBBHII",
            0x40 | words,
            traffic_class,
            length,
            1,
            fragment,
            64,
            protocol,
            0,
            chance.choice(hosts),
            chance.choice(hosts),
        )
        packet = header + bytes(max(words - 5, 0) * 4) + payload
    else:
        addresses = [UE_V6.packed, HOST_V6.packed, UE_V6.packed[:15] + b"\x01", chance.randbytes(16)]
        chain = b""
        first, following = protocol, [chance.choice([0, 43, 44, 51, 60]) for _ in range(chance.choice([0, 0, 1, 2, 3]))]
        for kind in reversed(following):
            more = 0 if kind == 44 else chance.choice([0, 1, 2, 4])
            size = 8 if kind == 44 else (more + 2) * 4 if kind == 51 else (more + 1) * 8
            offset = chance.choice([0, 0, 1, 6, 8, 0xFFF8]) if kind == 44 else 0
            chain = bytes((first, more)) + struct.pack(">H", offset) + bytes(size - 4) + chain
            first = kind
        header = struct.pack(">IHBB", 6 << 28 | traffic_class << 20, len(chain) + len(payload), first, 64)
        packet = header + chance.choice(addresses) + chance.choice(addresses) + chain + payload
    if chance.random() < 0.15:
        packet = packet[: chance.randrange(len(packet) + 1)]
    if chance.random() < 0.15:
        packet += chance.randbytes(9)
    if chance.random() < 0.15 and packet:
        spoilt = bytearray(packet)
        spoilt[chance.randrange(min(len(spoilt), 48))] ^= 1 << chance.randrange(8)
        packet = bytes(spoilt)
    return packet


def wild_syn(chance: random.Random, source: Address, destination: Address) -> bytes:
    """A segment of TCP, mostly a SYN with an MSS option somewhere among others, sometimes with nonsense."""
    mss = b"\x02\x04" + chance.choice([1460, 1380, 536, 65535, 0, chance.getrandbits(16)]).to_bytes(2, "big")
    options = [b"\x01", b"\x01", b"\x03\x03\x07", b"\x04\x02", b"\x08\x0a" + chance.randbytes(8), mss, mss]
    options += chance.choices([b"\x00", b"\x02\x03\x05", b"\x05\x00", b"\x05\x01", b"\x02", b"\xfd\x28"], k=1)
    chance.shuffle(options)
    tail = b"".join(options[: chance.randrange(7)])[:40]
    tail += bytes([chance.choice([0, 1])]) * (-len(tail) % 4)
    words = 5 + len(tail) // 4 + chance.choice([0, 0, 0, 0, 1, -1])
    flags = chance.choice([0x02, 0x02, 0x12, 0xC2, 0x10])
    segment = struct.pack(">HHIIBBHHH", 5000, 80, 7, 0, (words & 15) << 4, flags, 65535, 0, 0) + tail
    segment += chance.randbytes(chance.choice([0, 0, 0, 1, 30]))
    if chance.random() < 0.1:
        segment = segment[: chance.randrange(len(segment))]
    else:
        covered = pseudo_header(source, destination, TCP, len(segment)) + segment
        segment = segment[:16] + checksum(covered).to_bytes(2, "big") + segment[18:]
    packet = IpPacket(source=source, destination=destination, protocol=TCP, payload=segment).encode()
    if packet[0] >> 4 == 4 and chance.random() < 0.1:
        packet = packet[:6] + chance.choice([b"\x20\x00", b"\x00\x01"]) + packet[8:]
    if packet[0] >> 4 == 6 and chance.random() < 0.3:
        fragment = bytes([TCP, 0]) + struct.pack(">HI", chance.choice([0, 1, 8]), 1)
        packet = packet[:4] + struct.pack(">HB", len(segment) + 8, 44) + packet[7:40] + fragment + packet[40:]
    return packet


def long_packet(chance: random.Random, length: int) -> bytes:
    """A packet of ``length`` octets: of either family, DF or not, options, fragments, ICMP errors, odd addresses."""
    protocol = chance.choice([UDP, UDP, UDP, TCP, ICMP, ICMPV6])
    if protocol == TCP:
        start = struct.pack(">HHIIBBHHHBBHI", 5000, 7, 7, 0, 7 << 4, 0x02, 65535, 0, 0, 2, 4, 9000, 0)
    else:
        start = chance.choice([struct.pack(">HHHH", 5000, 7, length, 0), bytes([chance.choice([3, 8, 1, 128, 137])])])
    if chance.random() < 0.4:
        header = struct.pack(">IHBB", 6 << 28 | chance.getrandbits(8) << 20, length - 40, protocol, 64)
        addresses = UE_V6.packed + chance.choice([HOST_V6, HOST_V6, ip_address("ff02::5"), ip_address("::")]).packed
        return (header + addresses + start).ljust(length, b"\x5a")
    options = chance.choice([b"", b"", b"\x01\x94\x04\x00\x00\x07\x04\x00", b"\x44\x04\x05\x00", b"\x94\x09\x00\x00"])
    flags = chance.choice([0, 0, 0, 0x4000, 0x4000, 0x2000, 0x2010, 0x0010, 0x8000])
    to = chance.choice([HOST_ADDRESS, HOST_ADDRESS, HOST_ADDRESS, ip_address("224.0.0.9"), ip_address("0.0.0.0")])
    header = struct.pack(
        ">BBHHHBBH", 0x45 + len(options) // 4, chance.getrandbits(8), length, 99, flags, 64, protocol, 0
    )
    return (header + UE_ADDRESS.packed + to.packed + options + start).ljust(length, b"\x5a")
