"""ESP packets (RFC 4303 §2, §3.3.2, §3.4.4): header, padding, encryption and ICV, in both directions.

Every suite that ``protocols.ikev2.suites`` can negotiate: AES-CBC (RFC 3602), 3DES (RFC 2451), AES-CTR
(RFC 3686) and NULL (RFC 2410) with a separate MAC; AES-GCM (RFC 4106), AES-CCM (RFC 4309) and
ChaCha20-Poly1305 (RFC 7634). Of extended sequence numbers (§2.2.1) the high half takes part in the ICV only.
A sealer or opener is keyed once and kept for the life of its SA. Replay and selectors are the matter of
``protocols.esp.sa``.
"""

from __future__ import annotations

import hmac
from functools import cache
from typing import Protocol

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.encryption import ENCRYPTION, aead_of, decryptor_of, encryptor_of
from protocols.ikev2.integrity import INTEGRITY, IntegrityAlgorithm
from protocols.ikev2.suites import EspSuite
from protocols.secret import Secret

HEADER_LENGTH = 8
SPI_LENGTH = 4
SPI_MINIMUM = 256  # RFC 4303 §2.1: 0 is never sent, 1 to 255 are reserved
TRAILER_LENGTH = 2  # pad length and next header
ALIGNMENT = 4  # RFC 4303 §2.4: pad length and next header end on a 32-bit word
SEQUENCE_MASK = 0xFFFFFFFF

UDP_HEADER_LENGTH = 8
OUTER_HEADER_LENGTHS = {4: 20, 6: 40}

_PADDING = bytes(range(1, 256))  # RFC 4303 §2.4: 1, 2, 3, …


class EspSealer(Protocol):
    """One direction of an SA, sending."""

    def seal(self, sequence: int, payload: bytes, next_header: int) -> bytes:
        """The ESP packet that carries ``payload`` under the full (64-bit) ``sequence`` number."""


class EspOpener(Protocol):
    """One direction of an SA, receiving."""

    def open(self, octets: bytes, sequence: int) -> bytes:
        """The plaintext, trailer included, of an ESP packet whose full sequence number is ``sequence``.

        ``DecodeError`` when its length cannot be right, so that there is no ICV to look at;
        ``AuthenticationError`` when the ICV is wrong.
        """


def sealer_of(
    suite: EspSuite, spi: bytes, encryption_key: Secret, integrity_key: Secret, entropy: Entropy
) -> EspSealer:
    """Key the sending direction; the keys have passed ``check_keys``."""
    if suite.aead:
        return _AeadSealer(suite, spi, encryption_key.reveal())
    return _MacSealer(suite, spi, encryption_key.reveal(), integrity_key.reveal(), entropy)


def opener_of(suite: EspSuite, spi: bytes, encryption_key: Secret, integrity_key: Secret) -> EspOpener:
    """Key the receiving direction; the keys have passed ``check_keys``."""
    if suite.aead:
        return _AeadOpener(suite, spi, encryption_key.reveal())
    return _MacOpener(suite, encryption_key.reveal(), integrity_key.reveal())


def inner_mtu(suite: EspSuite, outer_mtu: int, *, outer_version: int, encapsulation: bool) -> int:
    """The longest inner packet whose ESP packet fits into ``outer_mtu`` octets without fragmentation."""
    row = ENCRYPTION[suite.encryption]
    icv_length = row.icv_length or _integrity(suite).icv_length
    room = outer_mtu - OUTER_HEADER_LENGTHS[outer_version] - HEADER_LENGTH - row.iv_length - icv_length
    if encapsulation:
        room -= UDP_HEADER_LENGTH
    return room - room % _alignment(suite) - TRAILER_LENGTH


def check_keys(suite: EspSuite, encryption_key: Secret, integrity_key: Secret) -> None:
    """``LocalError`` when the keys of one direction do not fit the suite."""
    for what, key, expected in (
        ("encryption", encryption_key, suite.encryption_key_length),
        ("integrity", integrity_key, suite.integrity_key_length),
    ):
        length = len(key.reveal())
        if length != expected:
            raise LocalError(f"{suite.name} takes an {what} key of {expected} octets, not {length}")


def _integrity(suite: EspSuite) -> IntegrityAlgorithm:
    # RFC 4303 §3.2: encryption without integrity is not for us; a suite without either does not exist.
    if suite.integrity is None:
        raise LocalError(f"{suite.name} has no integrity algorithm")
    return INTEGRITY[suite.integrity]


def _alignment(suite: EspSuite) -> int:
    return max(ENCRYPTION[suite.encryption].block_length, ALIGNMENT)


@cache
def _trailers(alignment: int, next_header: int) -> tuple[bytes, ...]:
    """Padding, pad length and next header (RFC 4303 §2.4 to §2.6), by the payload's length modulo ``alignment``."""
    pad_lengths = (-(length + TRAILER_LENGTH) % alignment for length in range(alignment))
    return tuple(_PADDING[:pad_length] + bytes((pad_length, next_header)) for pad_length in pad_lengths)


def strip_trailer(plaintext: bytes) -> tuple[int, bytes]:
    """Next header and payload; ``DecodeError`` when the padding is not that of RFC 4303 §2.4."""
    end = len(plaintext) - TRAILER_LENGTH
    if end < 0:
        raise DecodeError("an ESP packet without a trailer")
    pad_length = plaintext[end]
    start = end - pad_length
    # RFC 4303 §2.4: the receiver SHOULD inspect the padding.
    if start < 0 or (pad_length and plaintext[start:end] != _PADDING[:pad_length]):
        raise DecodeError("wrong ESP padding")
    return plaintext[end + 1], plaintext[:start]


class _MacSealer:
    """Encryption, then MAC (RFC 4303 §3.3.2.1)."""

    def __init__(self, suite: EspSuite, spi: bytes, key: bytes, integrity_key: bytes, entropy: Entropy) -> None:
        row = _integrity(suite)
        self._spi = spi
        self._esn = suite.esn
        self._alignment = _alignment(suite)
        self._icv_length = row.icv_length
        self._encryptor = encryptor_of(suite.encryption, key, entropy)
        self._mac = row.keyed(integrity_key)

    def seal(self, sequence: int, payload: bytes, next_header: int) -> bytes:
        """Build the packet; see ``EspSealer``."""
        protected = (
            self._spi
            + (sequence & SEQUENCE_MASK).to_bytes(4, "big")
            + self._encryptor.encrypt(payload + _trailers(self._alignment, next_header)[len(payload) % self._alignment])
        )
        covered = protected + (sequence >> 32).to_bytes(4, "big") if self._esn else protected
        return protected + self._mac.compute(covered)[: self._icv_length]


class _MacOpener:
    """MAC, then decryption (RFC 4303 §3.4.4.1)."""

    def __init__(self, suite: EspSuite, key: bytes, integrity_key: bytes) -> None:
        row, integrity = ENCRYPTION[suite.encryption], _integrity(suite)
        self._esn = suite.esn
        self._alignment = _alignment(suite)
        self._clear_length = HEADER_LENGTH + row.iv_length
        self._icv_length = integrity.icv_length
        self._shortest = self._clear_length + self._alignment + integrity.icv_length
        self._decryptor = decryptor_of(suite.encryption, key)
        self._mac = integrity.keyed(integrity_key)

    def open(self, octets: bytes, sequence: int) -> bytes:
        """Verify and decrypt; see ``EspOpener``."""
        end = len(octets) - self._icv_length
        if len(octets) < self._shortest or (end - self._clear_length) % self._alignment:
            raise DecodeError(f"an ESP packet of {len(octets)} octets")
        covered = octets[:end] + (sequence >> 32).to_bytes(4, "big") if self._esn else octets[:end]
        if not hmac.compare_digest(self._mac.compute(covered)[: self._icv_length], octets[end:]):
            raise AuthenticationError("wrong ESP ICV")
        return self._decryptor.decrypt(octets[HEADER_LENGTH:end])


class _AeadSealer:
    """AES-GCM, AES-CCM, ChaCha20-Poly1305; the IV is the sequence number, never repeated (RFC 4106 §3.1)."""

    def __init__(self, suite: EspSuite, spi: bytes, key: bytes) -> None:
        self._spi = spi
        self._esn = suite.esn
        self._iv_length = ENCRYPTION[suite.encryption].iv_length
        aead, self._salt = aead_of(suite.encryption, key)
        self._encrypt = aead.encrypt

    def seal(self, sequence: int, payload: bytes, next_header: int) -> bytes:
        """Build the packet; see ``EspSealer``."""
        iv = sequence.to_bytes(self._iv_length, "big")
        header = self._spi + iv[4:]
        return (
            header
            + iv
            + self._encrypt(
                self._salt + iv,
                payload + _trailers(ALIGNMENT, next_header)[len(payload) % ALIGNMENT],
                # SPI and sequence number, all 64 bits of it with ESN (RFC 4106 §5, RFC 4309 §5, RFC 7634 §2.1)
                self._spi + iv if self._esn else header,
            )
        )


class _AeadOpener:
    """The same ciphers, receiving."""

    def __init__(self, suite: EspSuite, spi: bytes, key: bytes) -> None:
        row = ENCRYPTION[suite.encryption]
        self._spi = spi
        self._esn = suite.esn
        self._ciphertext_start = HEADER_LENGTH + row.iv_length
        self._shortest = self._ciphertext_start + ALIGNMENT + row.icv_length
        aead, self._salt = aead_of(suite.encryption, key)
        self._decrypt = aead.decrypt

    def open(self, octets: bytes, sequence: int) -> bytes:
        """Verify and decrypt; see ``EspOpener``."""
        if len(octets) < self._shortest:
            raise DecodeError(f"an ESP packet of {len(octets)} octets")
        start = self._ciphertext_start
        return self._decrypt(
            self._salt + octets[HEADER_LENGTH:start],
            octets[start:],
            self._spi + sequence.to_bytes(8 if self._esn else 4, "big"),
        )
