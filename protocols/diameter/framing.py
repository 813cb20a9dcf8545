"""A stream cut into Diameter messages by their headers (RFC 6733 §3)."""

from __future__ import annotations

from enum import Enum

from protocols.errors import DecodeError

HEADER_LENGTH = 20
VERSION = 1
MESSAGE_LENGTH_LIMIT = 65_536  # the length field allows 16 MiB (RFC 6733 §3); a peer has no need of it here


class FramingFault(Enum):
    """Why a stream cannot be cut into messages."""

    VERSION = "not Diameter version 1"
    LENGTH = "impossible message length"
    TOO_LONG = "message longer than allowed"


class FramingError(DecodeError):
    """A stream that is not Diameter; nothing after this can be read."""

    def __init__(self, fault: FramingFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class Framer:
    """Cuts a stream into messages by their length field (RFC 6733 §3)."""

    def __init__(self, limit: int = MESSAGE_LENGTH_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Octets that wait for the rest of their message."""
        return len(self._buffer)

    def clear(self) -> bytes:
        """Give up: what was waiting."""
        octets = bytes(self._buffer)
        self._buffer.clear()
        return octets

    def feed(self, octets: bytes) -> None:
        """Append received octets."""
        self._buffer += octets

    def next(self) -> bytes | None:
        """The next whole message; ``FramingError`` when the stream is not Diameter: it cannot be resumed."""
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            raise FramingError(FramingFault.VERSION, f"Diameter version {buffer[0]}")
        if len(buffer) < 4:
            return None
        length = int.from_bytes(buffer[1:4], "big")
        if length < HEADER_LENGTH or length % 4:
            raise FramingError(FramingFault.LENGTH, f"message length {length}")
        if length > self._limit:
            raise FramingError(FramingFault.TOO_LONG, f"message of {length} octets, {self._limit} allowed")
        if len(buffer) < length:
            return None
        message = bytes(buffer[:length])
        del buffer[:length]
        return message
