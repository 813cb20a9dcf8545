"""The Encrypted payload (RFC 7296 §3.14, AEAD by RFC 5282) and the Encrypted Fragment payload (RFC 7383 §2.5).

Contexts are keyed once for an SA and kept.
"""

from __future__ import annotations

import hmac
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.fragment import FRAGMENT_HEADER_LENGTH, Fragment, find_encrypted, find_fragment, split
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.message import HEADER_LENGTH, Header, Message, encode_header, message_of
from protocols.ikev2.payloads import GENERIC_HEADER_LENGTH, decode_payloads, encode_payloads
from protocols.ikev2.registry import EncryptionId, NotifyType, PayloadType
from protocols.ikev2.suites import INTEGRITY, IkeSuite
from protocols.secret import Secret

BLOCK_LENGTH: Final = 16
GCM_SALT_LENGTH: Final = 4
GCM_IV_LENGTH: Final = 8
GCM_ICV_LENGTH: Final = 16


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


class Protection(Protocol):
    """A cipher with its keys: protects plaintext under a clear header of known length."""

    overhead: int
    """Octets besides plaintext and padding: IV and ICV."""

    def padding(self, length: int) -> int:
        """Octets of padding for a plaintext of ``length`` octets and its Pad Length octet."""

    def protect(self, clear: bytes, plaintext: bytes) -> bytes:
        """``clear``, IV, ciphertext, ICV."""

    def unprotect(self, octets: bytes, clear_length: int) -> bytes:
        """The padded plaintext; ``AuthenticationError`` unless the ICV is right."""


class CbcProtection:
    """AES-CBC with an HMAC over everything before the ICV (RFC 7296 §3.14)."""

    def __init__(
        self, suite: IkeSuite, entropy: Entropy, send: tuple[Secret, Secret], receive: tuple[Secret, Secret]
    ) -> None:
        if suite.integrity is None:
            raise LocalError(f"{suite.name} has no integrity algorithm")
        row = INTEGRITY[suite.integrity]
        self._entropy = entropy
        self._icv_length = row.icv_length
        self.overhead = BLOCK_LENGTH + row.icv_length
        # One encryptor for the SA: a random block goes through it first, and what comes out is the IV, which
        # nobody can predict (RFC 7296 §3.14). The chain goes on from there as CBC wants it. Decryption of a
        # block needs only the block before it, so that the decryptor need not be keyed again either.
        self._encryptor = Cipher(AES(send[0].reveal()), CBC(bytes(BLOCK_LENGTH))).encryptor()
        self._decryptor = Cipher(AES(receive[0].reveal()), CBC(bytes(BLOCK_LENGTH))).decryptor()
        self._send_hmac = hmac.new(send[1].reveal(), digestmod=row.digest)
        self._receive_hmac = hmac.new(receive[1].reveal(), digestmod=row.digest)

    def padding(self, length: int) -> int:
        """Up to the next whole block."""
        return -(length + 1) % BLOCK_LENGTH

    def protect(self, clear: bytes, plaintext: bytes) -> bytes:
        """``clear``, IV, ciphertext, ICV."""
        octets = clear + self._encryptor.update(self._entropy.octets(BLOCK_LENGTH) + plaintext)
        context = self._send_hmac.copy()
        context.update(octets)
        return octets + context.digest()[: self._icv_length]

    def unprotect(self, octets: bytes, clear_length: int) -> bytes:
        """The padded plaintext; the ICV is checked before anything is decrypted."""
        end = len(octets) - self._icv_length
        length = end - clear_length
        if length < 2 * BLOCK_LENGTH or length % BLOCK_LENGTH:
            raise DecodeError(f"{length} octets of IV and ciphertext in blocks of {BLOCK_LENGTH}")
        context = self._receive_hmac.copy()
        context.update(octets[:end])
        if not hmac.compare_digest(context.digest()[: self._icv_length], octets[end:]):
            raise AuthenticationError("the integrity check value is wrong")
        return self._decryptor.update(octets[clear_length:end])[BLOCK_LENGTH:]


class GcmProtection:
    """AES-GCM with a 16-octet ICV (RFC 5282): the clear octets are the associated data (§5.1)."""

    overhead = GCM_IV_LENGTH + GCM_ICV_LENGTH

    def __init__(self, send: Secret, receive: Secret) -> None:
        # RFC 5282 §7.1: the salt is the last four octets of the key material.
        self._send = AESGCM(send.reveal()[:-GCM_SALT_LENGTH])
        self._send_salt = send.reveal()[-GCM_SALT_LENGTH:]
        self._receive = AESGCM(receive.reveal()[:-GCM_SALT_LENGTH])
        self._receive_salt = receive.reveal()[-GCM_SALT_LENGTH:]
        self._counter = 0

    def padding(self, length: int) -> int:
        """None is needed (RFC 5282 §3)."""
        return 0

    def protect(self, clear: bytes, plaintext: bytes) -> bytes:
        """``clear``, IV, ciphertext, ICV; the IV counts, so that it never comes twice (RFC 5282 §3.1)."""
        self._counter += 1
        iv = self._counter.to_bytes(GCM_IV_LENGTH, "big")
        return clear + iv + self._send.encrypt(self._send_salt + iv, plaintext, clear)

    def unprotect(self, octets: bytes, clear_length: int) -> bytes:
        """The padded plaintext."""
        start = clear_length + GCM_IV_LENGTH
        if len(octets) < start + GCM_ICV_LENGTH:
            raise DecodeError(f"{len(octets) - clear_length} octets have no room for IV and ICV")
        nonce = self._receive_salt + octets[clear_length:start]
        try:
            return self._receive.decrypt(nonce, octets[start:], octets[:clear_length])
        except InvalidTag as error:
            raise AuthenticationError("the integrity check value is wrong") from error


def _cbc(suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> Protection:
    i, r = (keys.sk_ei, keys.sk_ai), (keys.sk_er, keys.sk_ar)
    return CbcProtection(suite, entropy, i, r) if original_initiator else CbcProtection(suite, entropy, r, i)


def _gcm(suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> Protection:
    i, r = keys.sk_ei, keys.sk_er
    return GcmProtection(i, r) if original_initiator else GcmProtection(r, i)


_PROTECTIONS = {EncryptionId.ENCR_AES_CBC: _cbc, EncryptionId.ENCR_AES_GCM_16: _gcm}


class Sealer:
    """Seals what this end of an IKE SA sends and opens what it receives."""

    def __init__(self, suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> None:
        self._protection = _PROTECTIONS[suite.encryption](suite, keys, original_initiator, entropy)

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
        return message_of(header, decode_payloads(first, self._unseal(octets, start)))

    def open_fragment(self, octets: bytes, header: Header) -> Fragment:
        """One fragment, decrypted (RFC 7383 §2.6); errors as those of ``open``."""
        place = find_fragment(octets, header.next_payload)
        content = self._unseal(octets, place.start)
        return Fragment(number=place.number, total=place.total, first=place.first, content=content)

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
