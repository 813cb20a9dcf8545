"""RTP packets (RFC 3550 §5.1) and the two RTCP packets that a call on one port needs: BYE (§6.6) and APP (§6.7).

RTCP travels on the port of RTP (RFC 5761) and in reduced size (RFC 5506). Left out: sender and receiver
reports, whose figures are aggregates; header extensions are skipped, encryption does not exist inside ESP.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from protocols.buffer import Reader
from protocols.errors import DecodeError, LocalError

VERSION = 2
BYE = 203
APP = 204
RTCP_TYPES = range(192, 224)  # RFC 5761 §4: what the second octet of RTCP may be, and of RTP may not
SEQUENCE_MODULUS = 1 << 16
TIMESTAMP_MODULUS = 1 << 32
_RTCP_LENGTH_UNIT = 4


@dataclass(frozen=True, kw_only=True)
class RtpPacket:
    """A packet of a stream; ``timestamp`` counts the codec's samples."""

    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    marker: bool = False
    contributing: tuple[int, ...] = ()

    @classmethod
    def decode(cls, octets: bytes) -> RtpPacket:
        """Parse; another version, bad padding and short packets raise ``DecodeError`` (RFC 3550 §A.1)."""
        reader = Reader(octets)
        first, second = reader.u8(), reader.u8()
        if first >> 6 != VERSION:
            raise DecodeError(f"RTP version {first >> 6}")
        if second in RTCP_TYPES:
            raise DecodeError(f"RTCP packet {second}, not RTP")
        sequence, timestamp, ssrc = reader.u16(), reader.u32(), reader.u32()
        contributing = tuple(reader.u32() for _ in range(first & 0x0F))
        if first & 0x10:
            reader.skip(2)
            reader.skip(reader.u16() * 4)
        payload = reader.rest()
        if first & 0x20:
            if not payload or not 0 < payload[-1] <= len(payload):
                raise DecodeError("RTP padding is longer than its packet")
            payload = payload[: -payload[-1]]
        return cls(
            payload_type=second & 0x7F,
            sequence=sequence,
            timestamp=timestamp,
            ssrc=ssrc,
            payload=payload,
            marker=bool(second & 0x80),
            contributing=contributing,
        )

    def encode(self) -> bytes:
        """The octets, without padding and extension."""
        second = self.payload_type | (0x80 if self.marker else 0)
        if not 0 <= self.payload_type < 128 or second in RTCP_TYPES:
            raise LocalError(f"RTP payload type {self.payload_type}")
        fixed = struct.pack(
            ">BBHII", VERSION << 6 | len(self.contributing), second, self.sequence, self.timestamp, self.ssrc
        )
        return fixed + b"".join(source.to_bytes(4, "big") for source in self.contributing) + self.payload


@dataclass(frozen=True, kw_only=True)
class Bye:
    """The end of a stream (RFC 3550 §6.6)."""

    ssrc: int
    reason: str = ""

    def encode(self) -> bytes:
        """The octets; the reason has at most 255."""
        reason = self.reason.encode()[:255]
        text = bytes([len(reason)]) + reason if reason else b""
        return _rtcp(BYE, 1, self.ssrc.to_bytes(4, "big") + text + bytes(-len(text) % _RTCP_LENGTH_UNIT))


@dataclass(frozen=True, kw_only=True)
class Application:
    """Data of an application (RFC 3550 §6.7); ``data`` has whole words."""

    ssrc: int
    name: bytes
    data: bytes
    subtype: int = 0

    def encode(self) -> bytes:
        """The octets; ``LocalError`` when name or data do not fit the format."""
        if len(self.name) != 4 or len(self.data) % _RTCP_LENGTH_UNIT:
            raise LocalError(f"RTCP APP with a name of {len(self.name)} and data of {len(self.data)} octets")
        return _rtcp(APP, self.subtype, self.ssrc.to_bytes(4, "big") + self.name + self.data)


def is_rtcp(octets: bytes) -> bool:
    """Whether a datagram on the shared port is RTCP (RFC 5761 §4)."""
    return len(octets) > 1 and octets[1] in RTCP_TYPES


def decode_rtcp(octets: bytes) -> tuple[Bye | Application, ...]:
    """The packets of a datagram that are known here, others are passed over; ``DecodeError``."""
    reader = Reader(octets)
    found: list[Bye | Application] = []
    while reader.remaining:
        first, kind = reader.u8(), reader.u8()
        if first >> 6 != VERSION:
            raise DecodeError(f"RTCP version {first >> 6}")
        count = first & 0x1F
        body = reader.sub(reader.u16() * _RTCP_LENGTH_UNIT)
        if kind == BYE and count:
            sources = [body.u32() for _ in range(count)]
            reason = body.take(body.u8()).decode(errors="replace") if body.remaining else ""
            found += [Bye(ssrc=source, reason=reason) for source in sources]
        elif kind == APP:
            found.append(Application(ssrc=body.u32(), name=body.take(4), data=body.rest(), subtype=count))
    return tuple(found)


def _rtcp(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack(">BBH", VERSION << 6 | count, kind, len(body) // _RTCP_LENGTH_UNIT) + body


class ExtendedSequence:
    """Sequence numbers of 16 bits continued to a count that never wraps (RFC 3550 §A.1)."""

    def __init__(self) -> None:
        self._highest: int | None = None

    def extend(self, sequence: int) -> int:
        """The number nearest to the highest so far whose low 16 bits these are; never below zero."""
        if self._highest is None:
            self._highest = sequence
            return sequence
        half = SEQUENCE_MODULUS // 2
        difference = (sequence - self._highest + half) % SEQUENCE_MODULUS - half
        extended = self._highest + difference
        if extended < 0:
            extended += SEQUENCE_MODULUS
        self._highest = max(self._highest, extended)
        return extended
