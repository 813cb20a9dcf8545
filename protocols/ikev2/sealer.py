"""The Encrypted payload (RFC 7296 §3.14, AEAD by RFC 5282): sealing and opening of messages.

Fragments (RFC 7383) are left out. Ciphers and their keys: ``protection``.
"""

from __future__ import annotations

from typing import Protocol

from protocols.buffer import Reader
from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import HEADER_LENGTH, Header, Message, encode_header, message_of
from protocols.ikev2.payloads import GENERIC_HEADER_LENGTH, decode_payloads, encode_payloads
from protocols.ikev2.protection import protection_of
from protocols.ikev2.registry import NotifyType, PayloadType
from protocols.ikev2.suites import IkeSuite


class MessageSealer(Protocol):
    """What an IKE SA asks of its sealer: the seam where messages can be edited."""

    def seal(self, message: Message) -> bytes:
        """The protected datagram of a message."""

    def open(self, octets: bytes, header: Header) -> Message:
        """The message in a protected datagram; ``RemoteError`` when it is not genuine or does not parse."""


class Sealer:
    """Seals what this end of an IKE SA sends and opens what it receives."""

    def __init__(self, suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> None:
        self._protection = protection_of(suite, keys, original_initiator, entropy)

    def seal(self, message: Message) -> bytes:
        """The datagram: header and one SK payload with all of the message's payloads inside."""
        protection = self._protection
        first, inner = encode_payloads(message.payloads)
        padding = protection.padding(len(inner))
        sealed_length = len(inner) + padding + 1 + protection.overhead + GENERIC_HEADER_LENGTH
        header = encode_header(
            spi_i=message.spi_i,
            spi_r=message.spi_r,
            next_payload=PayloadType.SK,
            exchange=message.exchange,
            original_initiator=message.original_initiator,
            response=message.response,
            message_id=message.message_id,
            length=HEADER_LENGTH + sealed_length,
        )
        clear = header + bytes((first, 0)) + sealed_length.to_bytes(2, "big")
        return protection.protect(clear, inner + bytes(padding) + bytes((padding,)))

    def open(self, octets: bytes, header: Header) -> Message:
        """The message in a datagram whose header is decoded already.

        ``AuthenticationError``: the ICV is wrong. ``DecodeError`` without a notify: there is no well-formed
        SK payload, so nothing is authenticated and nothing should be answered. ``DecodeError`` with a
        notify: the message is the peer's, and its plaintext does not parse. Payloads in front of SK are
        passed over, the plaintext alone counts.
        """
        first, start = _find_encrypted(octets, header.next_payload)
        plaintext = self._protection.unprotect(octets, start)
        if not plaintext or plaintext[-1] >= len(plaintext):
            raise DecodeError("more padding than plaintext", NotifyType.INVALID_SYNTAX)
        return message_of(header, decode_payloads(first, plaintext[: len(plaintext) - 1 - plaintext[-1]]))


def _find_encrypted(octets: bytes, first_type: int) -> tuple[int, int]:
    """The type of the first payload inside SK, and where SK's IV begins; SK has to be last (§3.14)."""
    reader = Reader(octets, HEADER_LENGTH)
    kind = first_type
    while kind:
        following = reader.u8()
        reader.skip(1)
        length = reader.u16() - GENERIC_HEADER_LENGTH
        start = reader.offset
        reader.skip(length)
        if kind == PayloadType.SK:
            reader.finish("the encrypted payload")
            return following, start
        kind = following
    raise DecodeError("there is no encrypted payload")
