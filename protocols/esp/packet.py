"""ESP packets (RFC 4303 §2, §3.3.2, §3.4.4): header, padding, encryption and ICV, in both directions.

AES-CBC (RFC 3602) with the HMACs of RFC 2404 and RFC 4868; AES-GCM with a 16 octet ICV (RFC 4106).
Of extended sequence numbers (§2.2.1) the high half takes part in the ICV only. A sealer or opener is
keyed once and kept for the life of its SA. Replay and selectors are the matter of ``protocols.esp.sa``.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.registry import EncryptionId
from protocols.ikev2.suites import ENCRYPTION, INTEGRITY, EspSuite
from protocols.secret import Secret

HEADER_LENGTH = 8
SPI_LENGTH = 4
SPI_MINIMUM = 256  # RFC 4303 §2.1: 0 is never sent, 1 to 255 are reserved
TRAILER_LENGTH = 2  # pad length and next header
ALIGNMENT = 4  # RFC 4303 §2.4: pad length and next header end on a 32-bit word
SEQUENCE_MASK = 0xFFFFFFFF

AES_BLOCK_LENGTH = 16
GCM_IV_LENGTH = 8  # RFC 4106 §3.1
GCM_SALT_LENGTH = 4  # RFC 4106 §4
GCM_ICV_LENGTH = 16

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


_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def sealer_of(
    suite: EspSuite, spi: bytes, encryption_key: Secret, integrity_key: Secret, entropy: Entropy
) -> EspSealer:
    """Key the sending direction; the keys have passed ``check_keys``."""
    if suite.aead:
        return _GcmSealer(spi, encryption_key.reveal(), suite.esn)
    return _CbcSealer(suite, spi, encryption_key.reveal(), integrity_key.reveal(), entropy)


def opener_of(suite: EspSuite, spi: bytes, encryption_key: Secret, integrity_key: Secret) -> EspOpener:
    """Key the receiving direction; the keys have passed ``check_keys``."""
    if suite.aead:
        return _GcmOpener(spi, encryption_key.reveal(), suite.esn)
    return _CbcOpener(suite, encryption_key.reveal(), integrity_key.reveal())


def inner_mtu(suite: EspSuite, outer_mtu: int, *, outer_version: int, encapsulation: bool) -> int:
    """The longest inner packet whose ESP packet fits into ``outer_mtu`` octets without fragmentation."""
    row = ENCRYPTION[suite.encryption]
    room = outer_mtu - OUTER_HEADER_LENGTHS[outer_version] - HEADER_LENGTH - row.iv_length - _icv_length(suite)
    if encapsulation:
        room -= UDP_HEADER_LENGTH
    return room - room % max(row.block_length, ALIGNMENT) - TRAILER_LENGTH


def _icv_length(suite: EspSuite) -> int:
    # RFC 4303 §3.2: encryption without integrity is not for us; a suite without either does not exist.
    if suite.integrity is None:
        return ENCRYPTION[suite.encryption].icv_length
    return INTEGRITY[suite.integrity].icv_length


def check_keys(suite: EspSuite, encryption_key: Secret, integrity_key: Secret) -> None:
    """``LocalError`` when ESP does not carry the suite or the keys of one direction do not fit it."""
    if suite.encryption not in (EncryptionId.ENCR_AES_CBC, EncryptionId.ENCR_AES_GCM_16):
        raise LocalError(f"ESP does not carry {suite.name}")
    for what, key, expected in (
        ("encryption", encryption_key, suite.encryption_key_length),
        ("integrity", integrity_key, suite.integrity_key_length),
    ):
        length = len(key.reveal())
        if length != expected:
            raise LocalError(f"{suite.name} takes an {what} key of {expected} octets, not {length}")


def _keyed_hmac(suite: EspSuite, key: bytes) -> HMAC:
    if suite.integrity is None:
        raise LocalError(f"{suite.name} has no integrity algorithm")
    return HMAC(key, _HASHES[INTEGRITY[suite.integrity].digest])


def _trailer(payload_length: int, alignment: int, next_header: int) -> bytes:
    """Padding, pad length and next header (RFC 4303 §2.4 to §2.6)."""
    pad_length = -(payload_length + TRAILER_LENGTH) % alignment
    return _PADDING[:pad_length] + bytes((pad_length, next_header))


def strip_trailer(plaintext: bytes) -> tuple[int, bytes]:
    """Next header and payload; ``DecodeError`` when the padding is not that of RFC 4303 §2.4."""
    end = len(plaintext) - TRAILER_LENGTH
    if end < 0:
        raise DecodeError("an ESP packet without a trailer")
    pad_length = plaintext[end]
    start = end - pad_length
    # RFC 4303 §2.4: the receiver SHOULD inspect the padding.
    if start < 0 or plaintext[start:end] != _PADDING[:pad_length]:
        raise DecodeError("wrong ESP padding")
    return plaintext[end + 1], plaintext[:start]


class _CbcSealer:
    """AES-CBC then HMAC (RFC 3602, RFC 4303 §3.3.2.1).

    One encryptor chains through all packets: a random block goes in front of each plaintext, and what
    it encrypts to is the packet's IV, which nobody can foresee (RFC 3602 §3).
    """

    def __init__(self, suite: EspSuite, spi: bytes, key: bytes, integrity_key: bytes, entropy: Entropy) -> None:
        self._spi = spi
        self._esn = suite.esn
        self._entropy = entropy
        self._icv_length = _icv_length(suite)
        self._encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(AES_BLOCK_LENGTH))).encryptor()
        self._hmac = _keyed_hmac(suite, integrity_key)

    def seal(self, sequence: int, payload: bytes, next_header: int) -> bytes:
        """Build the packet; see ``EspSealer``."""
        plaintext = payload + _trailer(len(payload), AES_BLOCK_LENGTH, next_header)
        protected = (
            self._spi
            + (sequence & SEQUENCE_MASK).to_bytes(4, "big")
            + self._encryptor.update(self._entropy.octets(AES_BLOCK_LENGTH) + plaintext)
        )
        mac = self._hmac.copy()
        mac.update(protected)
        if self._esn:
            mac.update((sequence >> 32).to_bytes(4, "big"))
        return protected + mac.finalize()[: self._icv_length]


class _CbcOpener:
    """HMAC, then AES-CBC (RFC 4303 §3.4.4.1); one decryptor chains through all packets' IVs."""

    def __init__(self, suite: EspSuite, key: bytes, integrity_key: bytes) -> None:
        self._esn = suite.esn
        self._icv_length = _icv_length(suite)
        self._shortest = HEADER_LENGTH + 2 * AES_BLOCK_LENGTH + self._icv_length
        self._decryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(AES_BLOCK_LENGTH))).decryptor()
        self._hmac = _keyed_hmac(suite, integrity_key)

    def open(self, octets: bytes, sequence: int) -> bytes:
        """Verify and decrypt; see ``EspOpener``."""
        end = len(octets) - self._icv_length
        if len(octets) < self._shortest or (end - HEADER_LENGTH) % AES_BLOCK_LENGTH:
            raise DecodeError(f"an ESP packet of {len(octets)} octets")
        mac = self._hmac.copy()
        mac.update(octets[:end])
        if self._esn:
            mac.update((sequence >> 32).to_bytes(4, "big"))
        if not hmac.compare_digest(mac.finalize()[: self._icv_length], octets[end:]):
            raise AuthenticationError("wrong ESP ICV")
        return self._decryptor.update(octets[HEADER_LENGTH:end])[AES_BLOCK_LENGTH:]


def _gcm_associated_data(spi: bytes, sequence: int, esn: bool) -> bytes:
    """SPI and sequence number, all 64 bits of it with ESN (RFC 4106 §5)."""
    if esn:
        return spi + sequence.to_bytes(8, "big")
    return spi + sequence.to_bytes(4, "big")


class _GcmSealer:
    """AES-GCM (RFC 4106); the IV is the sequence number, never repeated."""

    def __init__(self, spi: bytes, key: bytes, esn: bool) -> None:
        self._spi = spi
        self._esn = esn
        self._salt = key[-GCM_SALT_LENGTH:]
        self._gcm = AESGCM(key[:-GCM_SALT_LENGTH])

    def seal(self, sequence: int, payload: bytes, next_header: int) -> bytes:
        """Build the packet; see ``EspSealer``."""
        iv = sequence.to_bytes(GCM_IV_LENGTH, "big")
        ciphertext = self._gcm.encrypt(
            self._salt + iv,
            payload + _trailer(len(payload), ALIGNMENT, next_header),
            _gcm_associated_data(self._spi, sequence, self._esn),
        )
        return self._spi + iv[4:] + iv + ciphertext


class _GcmOpener:
    """AES-GCM (RFC 4106), receiving."""

    def __init__(self, spi: bytes, key: bytes, esn: bool) -> None:
        self._spi = spi
        self._esn = esn
        self._salt = key[-GCM_SALT_LENGTH:]
        self._gcm = AESGCM(key[:-GCM_SALT_LENGTH])

    def open(self, octets: bytes, sequence: int) -> bytes:
        """Verify and decrypt; see ``EspOpener``."""
        ciphertext_start = HEADER_LENGTH + GCM_IV_LENGTH
        if len(octets) < ciphertext_start + ALIGNMENT + GCM_ICV_LENGTH:
            raise DecodeError(f"an ESP packet of {len(octets)} octets")
        try:
            return self._gcm.decrypt(
                self._salt + octets[HEADER_LENGTH:ciphertext_start],
                octets[ciphertext_start:],
                _gcm_associated_data(self._spi, sequence, self._esn),
            )
        except InvalidTag:
            raise AuthenticationError("wrong ESP ICV") from None
