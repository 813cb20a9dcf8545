"""Super-packets for a TUN device (VIRTIO 1.2 §5.1.6): segments of one TCP flow that came together go together.

What the kernel is given with one write is, to it, what its own GRO makes of segments that arrive one after the other,
and what it forwards becomes the same segments again. A segment may stand in a super-packet when nothing is lost by it:
no options of IP, no fragment, in sequence, of one length but for the last, with equal headers otherwise (RFC 9293 §3.1;
identifications of what may be fragmented count upwards, RFC 6864 §4), and with right checksums. These are summed up for
a super-packet as a whole (RFC 1071 §2): if that is wrong, its packets are written one by one as they are, for their
hosts to judge. Left out: UDP.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache

from protocols.ip import IPV4_HEADER_LENGTH, IPV6_HEADER_LENGTH, PACKET_MAXIMUM, TCP, flow_key

VIRTIO_NET_HEADER = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
NEEDS_CHECKSUM = 1
GSO_TCP = {4: 1, 6: 4}
ALONE = bytes(VIRTIO_NET_HEADER.size)
SEGMENTS_MAXIMUM = 64
RUNS_MAXIMUM = 16  # flows that are put together at a time

_TCP_HEADER_LENGTH = 20
_CHECKSUM_OFFSET = 16
_FLAGS_OFFSET, _OFFSET_OFFSET = 13, 12
_PSH, _ACK = 0x08, 0x10
_SEQUENCE_MASK = 0xFFFFFFFF
_NETWORK = {4: IPV4_HEADER_LENGTH, 6: IPV6_HEADER_LENGTH}
_DONT_FRAGMENT = 0x40

Write = Callable[[Sequence[bytes | bytearray], int], bool]
"""Takes what is written at once, a virtio_net_hdr first, and how many packets it is; whether it was taken."""


class Coalescer:
    """Packets in, super-packets out; those of one flow stay in their order. ``flush`` writes what waits."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._runs: dict[bytes, _Run] = {}

    def take(self, packet: bytes) -> bool:
        """A packet for the kernel; ``False``: it was not taken. One that waits counts as taken."""
        key = flow_key(packet)
        if key is None:
            self.flush()
            return self._write((ALONE, packet), 1)
        run = self._runs.get(key)
        if run is not None:
            if run.append(packet):
                return True
            del self._runs[key]
            self._finish(run)
        if not _may_begin(packet):
            return self._write((ALONE, packet), 1)
        if len(self._runs) == RUNS_MAXIMUM:
            self._finish(self._runs.pop(next(iter(self._runs))))
        self._runs[key] = _Run(packet)
        return True

    def flush(self) -> None:
        """Nothing waits after that."""
        if self._runs:
            runs, self._runs = self._runs, {}
            for run in runs.values():
                self._finish(run)

    def _finish(self, run: _Run) -> None:
        packets = run.packets
        if len(packets) > 1 and run.has_right_sums():
            self._write(run.super_packet(), len(packets))
            return
        for packet in packets:
            self._write((ALONE, packet), 1)


class _Run:
    """Segments of a flow that follow one another."""

    def __init__(self, packet: bytes) -> None:
        self.packets = [packet]
        self._version = packet[0] >> 4
        self._network = network = _NETWORK[self._version]
        self._headers = network + (packet[network + _OFFSET_OFFSET] >> 4) * 4
        self._octets = self._longest = len(packet)
        self._unpack = _layout(self._version, self._headers)
        self._head, self._life, sequence, middle, self._rest = self._unpack(packet)
        self._next = (sequence + len(packet) - self._headers) & _SEQUENCE_MASK
        self._pushed = bool(packet[network + _FLAGS_OFFSET] & _PSH)
        self._closed = self._pushed
        self._plain = middle
        self._last = middle[:5] + bytes([middle[5] | _PSH]) + middle[6:]
        self._numbered = self._version == 4 and not packet[6] & _DONT_FRAGMENT

    def append(self, packet: bytes) -> bool:
        """Take the next segment; ``False`` when it is none that can stand here."""
        length = len(packet)
        if self._closed or not self._headers < length <= self._longest:
            return False
        head, life, sequence, middle, rest = self._unpack(packet)
        if sequence != self._next or head != self._head or life != self._life or rest != self._rest:
            return False
        if middle != self._plain and middle != self._last:
            return False
        carried = length - self._headers
        packets, octets = self.packets, self._octets + carried
        if octets > PACKET_MAXIMUM or len(packets) == SEGMENTS_MAXIMUM:
            return False
        if self._numbered and not self._is_counted(packet):
            return False
        packets.append(packet)
        self._octets = octets
        self._next = (sequence + carried) & _SEQUENCE_MASK
        self._pushed = middle is not self._plain and middle == self._last
        self._closed = self._pushed or length < self._longest
        return True

    def _is_counted(self, packet: bytes) -> bool:
        first, number = int.from_bytes(self.packets[0][4:6], "big"), int.from_bytes(packet[4:6], "big")
        return number == (first + len(self.packets)) & 0xFFFF

    def has_right_sums(self) -> bool:
        """Whether all words that checksums cover add up to nothing (RFC 1071 §2).

        Words are taken with their octets swapped, which changes nothing (§2 (B)) and fills odd packets up with zero.
        """
        packets, network = self.packets, self._network
        number = len(packets)
        headers = sum(map(_words, [packet[:network] for packet in packets]))
        if self._version == 4 and headers % 0xFFFF:
            return False
        addresses = packets[0][12:20] if self._version == 4 else packets[0][8:40]
        lengths = sum(map(len, packets)) - number * network
        pseudo_headers = number * _words(addresses) + (number * TCP + lengths << 8)
        return (sum(map(_words, packets)) - headers + pseudo_headers) % 0xFFFF == 0

    def super_packet(self) -> list[bytes | bytearray]:
        """Header and octets; its checksum is left to the kernel, which wants the sum of the pseudo header there."""
        network, headers, first = self._network, self._headers, self.packets[0]
        header = bytearray(first[:headers])
        carried = self._octets - network
        if self._version == 4:
            header[2:4] = self._octets.to_bytes(2, "big")
            header[10:12] = bytes(2)
            header[10:12] = (~(int.from_bytes(header[:network], "big") % 0xFFFF) & 0xFFFF).to_bytes(2, "big")
            addresses = header[12:20]
        else:
            header[4:6] = carried.to_bytes(2, "big")
            addresses = header[8:40]
        if self._pushed:
            header[network + _FLAGS_OFFSET] |= _PSH
        at = network + _CHECKSUM_OFFSET
        pseudo_header = (int.from_bytes(addresses, "big") + TCP + carried) % 0xFFFF or 0xFFFF
        header[at : at + 2] = pseudo_header.to_bytes(2, "big")
        size = self._longest - headers
        offload = VIRTIO_NET_HEADER.pack(
            NEEDS_CHECKSUM, GSO_TCP[self._version], headers, size, network, _CHECKSUM_OFFSET
        )
        return [offload, header, *[packet[headers:] for packet in self.packets]]


def _may_begin(packet: bytes) -> bool:
    """Whether a packet that has a ``flow_key`` is a segment that carries something, and nothing out of the ordinary."""
    network = IPV4_HEADER_LENGTH if packet[0] == 0x45 else IPV6_HEADER_LENGTH
    if packet[9 if network == IPV4_HEADER_LENGTH else 6] != TCP or len(packet) <= network + _TCP_HEADER_LENGTH:
        return False
    headers = network + (packet[network + _OFFSET_OFFSET] >> 4) * 4
    usual = packet[network + _FLAGS_OFFSET] & ~_PSH == _ACK
    return usual and network + _TCP_HEADER_LENGTH <= headers < len(packet)


@cache
def _layout(version: int, headers: int) -> Callable[[bytes], tuple[bytes, bytes, int, bytes, bytes]]:
    """Unpacks what segments of a flow have in common, and their sequence number.

    Version with traffic class (and flow label), lifetime (and flags), sequence number, acknowledgment to window, and
    what follows the checksum.
    """
    if version == 4:
        return struct.Struct(f">2s4x3s15xI8s2x{headers - 38}s").unpack_from
    return struct.Struct(f">4s3xs36xI8s2x{headers - 58}s").unpack_from


def _words(octets: bytes) -> int:
    return int.from_bytes(octets, "little")
