"""TCP segments (RFC 9293 §3.1); of the options the maximum segment size, others are passed over."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from protocols.buffer import Reader
from protocols.errors import DecodeError, LocalError
from protocols.ip import PACKET_MAXIMUM, TCP, IpPacket, checksum, pseudo_header
from protocols.path import Address

HEADER_LENGTH = 20
SEQUENCE_MODULUS = 1 << 32
_END, _NO_OPERATION, _MSS = 0, 1, 2


class Flags(IntFlag):
    """The control bits (RFC 9293 §3.1)."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20


@dataclass(frozen=True, kw_only=True)
class TcpSegment:
    """A segment; ``mss`` is its option (§3.7.1), ``None`` without."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: Flags
    window: int
    payload: bytes = b""
    mss: int | None = None

    @classmethod
    def decode(cls, packet: IpPacket) -> TcpSegment:
        """Parse a packet's payload; a bad checksum or length raises ``DecodeError``."""
        octets = packet.payload
        reader = Reader(octets)
        source_port, destination_port = reader.u16(), reader.u16()
        sequence, acknowledgment = reader.u32(), reader.u32()
        offset, control, window = reader.u8() >> 4, reader.u8(), reader.u16()
        reader.skip(4)  # checksum, urgent pointer
        if checksum(pseudo_header(packet.source, packet.destination, TCP, len(octets)) + octets):
            raise DecodeError("wrong TCP checksum")
        options = reader.sub(offset * 4 - HEADER_LENGTH)
        return cls(
            source_port=source_port,
            destination_port=destination_port,
            sequence=sequence,
            acknowledgment=acknowledgment,
            flags=Flags(control & 0x3F),
            window=window,
            payload=reader.rest(),
            mss=_mss_of(options),
        )

    def encode(self, source: Address, destination: Address) -> bytes:
        """The octets with the checksum for a packet between these addresses."""
        options = b"" if self.mss is None else struct.pack(">BBH", _MSS, 4, self.mss)
        length = HEADER_LENGTH + len(options) + len(self.payload)
        if length > PACKET_MAXIMUM:
            raise LocalError(f"{len(self.payload)} octets do not fit into a TCP segment")
        head = struct.pack(
            ">HHIIBBH",
            self.source_port,
            self.destination_port,
            self.sequence % SEQUENCE_MODULUS,
            self.acknowledgment % SEQUENCE_MODULUS,
            (HEADER_LENGTH + len(options)) // 4 << 4,
            self.flags,
            self.window,
        )
        tail = b"\x00\x00" + options + self.payload
        covered = pseudo_header(source, destination, TCP, length) + head + b"\x00\x00" + tail
        return head + checksum(covered).to_bytes(2, "big") + tail


def _mss_of(options: Reader) -> int | None:
    """RFC 9293 §3.2: an option's length is checked, what follows the end is not looked at."""
    while options.remaining:
        kind = options.u8()
        if kind == _END:
            break
        if kind == _NO_OPERATION:
            continue
        length = options.u8()
        if length < 2:
            raise DecodeError(f"a TCP option of {length} octets")
        value = options.take(length - 2)
        if kind == _MSS and len(value) == 2:
            return int.from_bytes(value, "big") or None
    return None
