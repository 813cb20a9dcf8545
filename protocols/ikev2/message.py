"""IKEv2 messages (RFC 7296 §3.1): the header, a message as a value, its notation for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, TypeVar

from protocols.buffer import Reader
from protocols.errors import DecodeError
from protocols.ikev2.payloads import (
    ConfigurationPayload,
    EncryptedFragmentPayload,
    EncryptedPayload,
    NotifyPayload,
    Payload,
    decode_payloads,
    encode_payloads,
)
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType

HEADER_LENGTH: Final = 28
MAJOR_VERSION: Final = 2
INITIATOR_FLAG: Final = 0x08
RESPONSE_FLAG: Final = 0x20
_HEADER: Final = Struct("!8s8sBBBBLL")

P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, kw_only=True)
class Header:
    """The IKE header (RFC 7296 §3.1); ``length`` is that of the whole message in octets."""

    spi_i: bytes
    spi_r: bytes
    next_payload: PayloadType
    major: int
    minor: int
    exchange: ExchangeType
    original_initiator: bool
    response: bool
    message_id: int
    length: int

    def encode(self) -> bytes:
        """The 28 octets."""
        return encode_header(
            spi_i=self.spi_i,
            spi_r=self.spi_r,
            next_payload=self.next_payload,
            version=self.major << 4 | self.minor,
            exchange=self.exchange,
            original_initiator=self.original_initiator,
            response=self.response,
            message_id=self.message_id,
            length=self.length,
        )


def encode_header(
    *,
    spi_i: bytes,
    spi_r: bytes,
    next_payload: int,
    exchange: int,
    original_initiator: bool,
    response: bool,
    message_id: int,
    length: int,
    version: int = MAJOR_VERSION << 4,
) -> bytes:
    """The 28 octets of a header (RFC 7296 §3.1)."""
    flags = (INITIATOR_FLAG if original_initiator else 0) | (RESPONSE_FLAG if response else 0)
    return _HEADER.pack(spi_i, spi_r, next_payload, version, exchange, flags, message_id, length)


def decode_header(octets: bytes) -> Header:
    """The header of a datagram; ``DecodeError`` carries INVALID_MAJOR_VERSION for a version above 2.

    An error without a notify is not worth an answer: nothing of the datagram can be trusted.
    """
    spi_i, spi_r, next_payload, version, exchange, flags, message_id, length = _HEADER.unpack(
        Reader(octets).take(HEADER_LENGTH)
    )
    if version >> 4 > MAJOR_VERSION:
        # RFC 7296 §2.5: a higher major version MUST be dropped, and SHOULD be answered.
        raise DecodeError(f"IKE version {version >> 4}", NotifyType.INVALID_MAJOR_VERSION)
    if version >> 4 < MAJOR_VERSION:
        raise DecodeError(f"IKE version {version >> 4}")
    if length != len(octets):
        raise DecodeError(f"a datagram of {len(octets)} octets says it has {length}")
    return Header(
        spi_i=spi_i,
        spi_r=spi_r,
        next_payload=PayloadType.of(next_payload),
        major=version >> 4,
        minor=version & 15,
        exchange=ExchangeType.of(exchange),
        original_initiator=bool(flags & INITIATOR_FLAG),
        response=bool(flags & RESPONSE_FLAG),
        message_id=message_id,
        length=length,
    )


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message in plain text; sealing is the sealer's.

    ``original_initiator``: its sender is the original initiator of the IKE SA (the I flag).
    ``authenticated``: of a received IKE_INTERMEDIATE, what AUTH covers of it (RFC 9242 §3.3.2).
    """

    spi_i: bytes
    spi_r: bytes
    exchange: ExchangeType
    original_initiator: bool
    response: bool
    message_id: int
    payloads: tuple[Payload, ...] = ()
    authenticated: bytes = field(default=b"", compare=False, repr=False)

    def first(self, kind: type[P]) -> P | None:
        """The first payload of a class."""
        for payload in self.payloads:
            if isinstance(payload, kind):
                return payload
        return None

    def all(self, kind: type[P]) -> tuple[P, ...]:
        """Every payload of a class, in order."""
        return tuple([payload for payload in self.payloads if isinstance(payload, kind)])

    def notify(self, kind: NotifyType | int) -> NotifyPayload | None:
        """The first Notify of a type."""
        for payload in self.payloads:
            if isinstance(payload, NotifyPayload) and payload.type == kind:
                return payload
        return None

    def notifies(self, kind: NotifyType | int) -> tuple[NotifyPayload, ...]:
        """Every Notify of a type, in order."""
        return tuple(
            [payload for payload in self.payloads if isinstance(payload, NotifyPayload) and payload.type == kind]
        )

    @property
    def name(self) -> str:
        """Exchange and direction, e.g. ``IKE_AUTH request``."""
        return f"{self.exchange.name} {'response' if self.response else 'request'}"

    def summary(self, notify_names: Mapping[int, str] | None = None) -> str:
        """RFC notation, e.g. ``IKE_SA_INIT request 0 [ SAi1, KEi, Ni ]``.

        ``notify_names`` names notify types of private use.
        """
        names = [self.payload_name(payload, notify_names or {}) for payload in self.payloads]
        inside = f"[ {', '.join(names)} ]" if names else "[ ]"
        return f"{self.name} {self.message_id} {inside}"

    def payload_name(self, payload: Payload, notify_names: Mapping[int, str]) -> str:
        """The notation of one of its payloads, e.g. ``SAi1`` or ``N(COOKIE2)``."""
        end = "r" if self.response else "i"
        if isinstance(payload, NotifyPayload):
            return f"N({notify_names.get(payload.type, payload.type.name)})"
        if isinstance(payload, ConfigurationPayload):
            return f"CP({payload.type.name})"
        if isinstance(payload, (EncryptedPayload, EncryptedFragmentPayload)):
            return f"{payload.payload_type.name} {{...}}"
        kind = payload.payload_type
        if kind == PayloadType.SA:
            if self.exchange == ExchangeType.IKE_SA_INIT:
                return f"SA{end}1"
            return f"SA{end}2" if self.exchange == ExchangeType.IKE_AUTH else "SA"
        if kind == PayloadType.KE:
            return f"KE{end}"
        if kind == PayloadType.NONCE:
            return f"N{end}"
        return kind.name


def decode_message(octets: bytes) -> Message:
    """A datagram with its payloads as they stand; an encrypted payload stays closed."""
    header = decode_header(octets)
    return message_of(header, decode_payloads(header.next_payload, octets[HEADER_LENGTH:]))


def message_of(header: Header, payloads: tuple[Payload, ...]) -> Message:
    """The message that has this header and these payloads."""
    return Message(
        spi_i=header.spi_i,
        spi_r=header.spi_r,
        exchange=header.exchange,
        original_initiator=header.original_initiator,
        response=header.response,
        message_id=header.message_id,
        payloads=payloads,
    )


def encode_message(message: Message) -> bytes:
    """The datagram of a message whose payloads go as they are."""
    first, body = encode_payloads(message.payloads)
    return (
        encode_header(
            spi_i=message.spi_i,
            spi_r=message.spi_r,
            next_payload=first,
            exchange=message.exchange,
            original_initiator=message.original_initiator,
            response=message.response,
            message_id=message.message_id,
            length=HEADER_LENGTH + len(body),
        )
        + body
    )
