"""EAP packets (RFC 3748 §4): Request, Response, Success, Failure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from protocols.buffer import Reader
from protocols.errors import DecodeError

HEADER_LENGTH = 4


class EapCode(IntEnum):
    """Codes (RFC 3748 §4)."""

    REQUEST = 1
    RESPONSE = 2
    SUCCESS = 3
    FAILURE = 4


class EapType(IntEnum):
    """Types met on SWu and SWm (RFC 3748 §5 and IANA); any other number is a plain ``int``."""

    IDENTITY = 1
    NOTIFICATION = 2
    NAK = 3
    MD5_CHALLENGE = 4
    TLS = 13
    SIM = 18
    AKA = 23
    MSCHAPV2 = 26
    AKA_PRIME = 50
    EXPANDED = 254


@dataclass(frozen=True, slots=True, kw_only=True)
class EapPacket:
    """One packet; ``type`` is ``None`` and ``data`` empty for Success and Failure."""

    code: EapCode
    identifier: int
    type: int | None = None
    data: bytes = b""

    @classmethod
    def decode(cls, octets: bytes) -> EapPacket:
        """From octets; what follows the Length field's extent is padding (RFC 3748 §4.1)."""
        reader = Reader(octets)
        code, identifier, length = reader.u8(), reader.u8(), reader.u16()
        try:
            known = EapCode(code)
        except ValueError:
            raise DecodeError(f"EAP code {code} is unknown") from None
        if length < HEADER_LENGTH:
            raise DecodeError(f"EAP length {length} is below {HEADER_LENGTH}")
        body = reader.sub(length - HEADER_LENGTH)
        if known in (EapCode.SUCCESS, EapCode.FAILURE):
            body.finish(f"EAP-{known.name.capitalize()}")
            return cls(code=known, identifier=identifier)
        return cls(code=known, identifier=identifier, type=body.u8(), data=body.rest())

    def encode(self) -> bytes:
        """To octets."""
        body = b"" if self.type is None else bytes([self.type]) + self.data
        length = HEADER_LENGTH + len(body)
        return bytes([self.code, self.identifier]) + length.to_bytes(2, "big") + body


def trimmed(octets: bytes) -> bytes:
    """The packet without padding behind it; ``octets`` must have been decoded before."""
    return octets[: int.from_bytes(octets[2:4], "big")]


def success(identifier: int) -> bytes:
    """An EAP-Success that follows the Response of this identifier (RFC 3748 §4.2)."""
    return EapPacket(code=EapCode.SUCCESS, identifier=identifier).encode()


def failure(identifier: int) -> bytes:
    """An EAP-Failure that follows the Response of this identifier (RFC 3748 §4.2)."""
    return EapPacket(code=EapCode.FAILURE, identifier=identifier).encode()


def identity_response(identifier: int, identity: bytes) -> bytes:
    """An EAP-Response/Identity (RFC 3748 §5.1)."""
    packet = EapPacket(code=EapCode.RESPONSE, identifier=identifier, type=EapType.IDENTITY, data=identity)
    return packet.encode()
