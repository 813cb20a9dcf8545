"""The Encrypted payload (RFC 7296 §3.14, AEAD by RFC 5282) and the Encrypted Fragment payload (RFC 7383 §2.5).

Ciphers and their keys: ``protection``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.ikev2.fragment import FRAGMENT_HEADER_LENGTH, Fragment, find_encrypted, find_fragment, split
from protocols.ikev2.keymat import IkeKeys, int_auth_content
from protocols.ikev2.message import HEADER_LENGTH, Header, Message, encode_header, message_of
from protocols.ikev2.payloads import GENERIC_HEADER_LENGTH, decode_payloads, encode_payloads
from protocols.ikev2.protection import protection_of
from protocols.ikev2.registry import ExchangeType, NotifyType, PayloadType
from protocols.ikev2.suites import IkeSuite


class MessageSealer(Protocol):
    """What an IKE SA asks of its sealer: the seam where messages can be edited."""

    def seal(self, message: Message) -> bytes:
        """The protected datagram of a message."""

    def open(self, octets: bytes, header: Header) -> Message:
        """The message in a protected datagram; ``RemoteError`` when it is not genuine or does not parse."""

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        """The message in fragments of at most ``limit`` octets each."""

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        """One fragment, decrypted; ``RemoteError`` when it is not genuine."""


class Sealer:
    """Seals what this end of an IKE SA sends and opens what it receives."""

    def __init__(self, suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> None:
        self._protection = protection_of(suite, keys, original_initiator, entropy)

    def seal(self, message: Message) -> bytes:
        """The datagram: header and one SK payload with all of the message's payloads inside."""
        first, inner = encode_payloads(message.payloads)
        return self._seal(message, PayloadType.SK, first, b"", inner)

    def seal_fragments(self, message: Message, limit: int) -> tuple[bytes, ...]:
        """The datagrams, each with one SKF payload and none of more than ``limit`` octets (RFC 7383 §2.5)."""
        first, inner = encode_payloads(message.payloads)
        around = HEADER_LENGTH + GENERIC_HEADER_LENGTH + FRAGMENT_HEADER_LENGTH + self._protection.overhead
        room = limit - around - 1
        while room > 0 and around + room + self._protection.padding(room) + 1 > limit:
            room -= 1  # to a whole number of blocks
        chunks = split(inner, room)
        datagrams: list[bytes] = []
        for number, chunk in enumerate(chunks, 1):
            numbers = number.to_bytes(2, "big") + len(chunks).to_bytes(2, "big")
            # §2.5: the type of the first inner payload stands in the first fragment, zero in the others
            kind = first if number == 1 else PayloadType.NONE
            datagrams.append(self._seal(message, PayloadType.SKF, kind, numbers, chunk))
        return tuple(datagrams)

    def open(self, octets: bytes, header: Header) -> Message:
        """The message in a datagram whose header is decoded already.

        ``AuthenticationError``: the ICV is wrong. ``DecodeError`` without a notify: there is no well-formed
        SK payload, so nothing is authenticated and nothing should be answered. ``DecodeError`` with a
        notify: the message is the peer's, and its plaintext does not parse. Payloads in front of SK are
        passed over, the plaintext alone counts.
        """
        kind, first, start = find_encrypted(octets, header.next_payload)
        if kind != PayloadType.SK:
            raise DecodeError("there is no encrypted payload")
        inner = self._unseal(octets, start)
        message = message_of(header, decode_payloads(first, inner))
        if header.exchange == ExchangeType.IKE_INTERMEDIATE:
            return replace(message, authenticated=int_auth_content(octets[:start], inner))
        return message

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        """One fragment, decrypted (RFC 7383 §2.6); errors as those of ``open``."""
        place = find_fragment(octets, header.next_payload)
        content = self._unseal(octets, place.start)
        clear = octets[: place.start - FRAGMENT_HEADER_LENGTH] if place.number == 1 else b""
        return Fragment(number=place.number, total=place.total, first=place.first, content=content, clear=clear)

    def _seal(self, message: Message, kind: PayloadType, first: int, numbers: bytes, content: bytes) -> bytes:
        """The header intact but for length and type, the generic header, a fragment's numbers, the content."""
        protection = self._protection
        padding = protection.padding(len(content))
        sealed_length = len(numbers) + len(content) + padding + 1 + protection.overhead + GENERIC_HEADER_LENGTH
        header = encode_header(
            spi_i=message.spi_i,
            spi_r=message.spi_r,
            next_payload=kind,
            exchange=message.exchange,
            original_initiator=message.original_initiator,
            response=message.response,
            message_id=message.message_id,
            length=HEADER_LENGTH + sealed_length,
        )
        clear = header + bytes((first, 0)) + sealed_length.to_bytes(2, "big") + numbers
        return protection.protect(clear, content + bytes(padding) + bytes((padding,)))

    def _unseal(self, octets: bytes, start: int) -> bytes:
        plaintext = self._protection.unprotect(octets, start)
        if not plaintext or plaintext[-1] >= len(plaintext):
            raise DecodeError("more padding than plaintext", NotifyType.INVALID_SYNTAX)
        return plaintext[: len(plaintext) - 1 - plaintext[-1]]
