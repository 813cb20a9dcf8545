"""Ciphers of the Encrypted payload with their keys (RFC 7296 §3.14; AEAD by RFC 5282, RFC 7634).

Contexts are keyed once for an SA and kept. A plaintext is protected under clear octets of known length,
which the ICV covers: that serves the Encrypted payload and its fragments alike.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.encryption import ENCRYPTION, aead_of, decryptor_of, encryptor_of
from protocols.ikev2.integrity import INTEGRITY
from protocols.ikev2.keymat import IkeKeys
from protocols.ikev2.suites import IkeSuite
from protocols.secret import Secret


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


class EncryptThenMac:
    """Encryption with a MAC over everything before the ICV (RFC 7296 §3.14): AES-CBC, 3DES, AES-CTR."""

    def __init__(
        self, suite: IkeSuite, entropy: Entropy, send: tuple[Secret, Secret], receive: tuple[Secret, Secret]
    ) -> None:
        if suite.integrity is None:
            raise LocalError(f"{suite.name} has no integrity algorithm")
        row, integrity = ENCRYPTION[suite.encryption], INTEGRITY[suite.integrity]
        self._block_length = row.block_length
        self._icv_length = integrity.icv_length
        self._shortest = row.iv_length + row.block_length
        self.overhead = row.iv_length + integrity.icv_length
        self._encryptor = encryptor_of(suite.encryption, send[0].reveal(), entropy)
        self._decryptor = decryptor_of(suite.encryption, receive[0].reveal())
        self._send_mac = integrity.keyed(send[1].reveal())
        self._receive_mac = integrity.keyed(receive[1].reveal())

    def padding(self, length: int) -> int:
        """Up to the next whole block; none with AES-CTR (RFC 5930 §2.4)."""
        return -(length + 1) % self._block_length

    def protect(self, clear: bytes, plaintext: bytes) -> bytes:
        """``clear``, IV, ciphertext, ICV."""
        octets = clear + self._encryptor.encrypt(plaintext)
        return octets + self._send_mac.compute(octets)[: self._icv_length]

    def unprotect(self, octets: bytes, clear_length: int) -> bytes:
        """The padded plaintext; the ICV is checked before anything is decrypted."""
        end = len(octets) - self._icv_length
        length = end - clear_length
        # An IV is one block or, with AES-CTR, of any length: whole blocks follow it either way.
        if length < self._shortest or length % self._block_length:
            raise DecodeError(f"{length} octets of IV and ciphertext in blocks of {self._block_length}")
        if not hmac.compare_digest(self._receive_mac.compute(octets[:end])[: self._icv_length], octets[end:]):
            raise AuthenticationError("the integrity check value is wrong")
        return self._decryptor.decrypt(octets[clear_length:end])


class AeadProtection:
    """AES-GCM, AES-CCM (RFC 5282), ChaCha20-Poly1305 (RFC 7634): the clear octets are associated data (§5.1)."""

    def __init__(self, suite: IkeSuite, send: Secret, receive: Secret) -> None:
        row = ENCRYPTION[suite.encryption]
        self._iv_length = row.iv_length
        self.overhead = row.iv_length + row.icv_length
        self._send, self._send_salt = aead_of(suite.encryption, send.reveal())
        self._receive, self._receive_salt = aead_of(suite.encryption, receive.reveal())
        self._counter = 0

    def padding(self, length: int) -> int:
        """None is needed (RFC 5282 §3)."""
        return 0

    def protect(self, clear: bytes, plaintext: bytes) -> bytes:
        """``clear``, IV, ciphertext, ICV; the IV counts, so that it never comes twice (RFC 5282 §3.1)."""
        self._counter += 1
        iv = self._counter.to_bytes(self._iv_length, "big")
        return clear + iv + self._send.encrypt(self._send_salt + iv, plaintext, clear)

    def unprotect(self, octets: bytes, clear_length: int) -> bytes:
        """The padded plaintext."""
        start = clear_length + self._iv_length
        if len(octets) < clear_length + self.overhead:
            raise DecodeError(f"{len(octets) - clear_length} octets have no room for IV and ICV")
        nonce = self._receive_salt + octets[clear_length:start]
        return self._receive.decrypt(nonce, octets[start:], octets[:clear_length])


def protection_of(suite: IkeSuite, keys: IkeKeys, original_initiator: bool, entropy: Entropy) -> Protection:
    """The protection of one end; the original initiator sends with SK_ei and SK_ai (RFC 7296 §2.14)."""
    i, r = (keys.sk_ei, keys.sk_ai), (keys.sk_er, keys.sk_ar)
    send, receive = (i, r) if original_initiator else (r, i)
    if suite.aead:
        return AeadProtection(suite, send[0], receive[0])
    return EncryptThenMac(suite, entropy, send, receive)
