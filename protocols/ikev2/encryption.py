"""Encryption (transform type 1) as IKE's Encrypted payload and ESP both use it: ciphers that are keyed once.

AES-CBC (RFC 3602), 3DES (RFC 2451), AES-CTR (RFC 3686, RFC 5930) and NULL (RFC 2410), which need an
integrity algorithm beside them; AES-GCM (RFC 4106), AES-CCM (RFC 4309), both in IKE by RFC 5282, and
ChaCha20-Poly1305 (RFC 7634), which do not. The library takes GCM ICVs of 8 and 12 octets in its general
interface only, so that opening those keys a context for each packet; everything else is keyed for an SA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR, GCM

from protocols.entropy import Entropy
from protocols.errors import AuthenticationError
from protocols.ikev2.registry import EncryptionId

AES_KEYS: Final = (128, 192, 256)
GCM_TAG_LENGTH: Final = 16
COUNTER_IV_LENGTH: Final = 8  # RFC 3686 §3.1, RFC 4106 §3.1, RFC 4309 §3.1, RFC 7634 §2
CTR_NONCE_LENGTH: Final = 4  # RFC 3686 §4
FIRST_COUNTER: Final = (1).to_bytes(4, "big")  # RFC 3686 §4


class Encryptor(Protocol):
    """One direction of an SA, sending, without integrity."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """IV and ciphertext; ``plaintext`` is padded to whole blocks."""


class Decryptor(Protocol):
    """One direction of an SA, receiving, after the ICV was right."""

    def decrypt(self, octets: bytes) -> bytes:
        """The padded plaintext of IV and ciphertext, whose length was checked."""


class Aead(Protocol):
    """A cipher with integrity of its own; nonces and associated data are the caller's."""

    def encrypt(self, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Ciphertext and ICV."""

    def decrypt(self, nonce: bytes, octets: bytes, associated_data: bytes) -> bytes:
        """The plaintext; ``AuthenticationError`` unless the ICV is right."""


class _CbcEncryptor:
    """CBC whose one context chains through all packets.

    A random block goes in front of each plaintext, and what it encrypts to is the IV, which nobody can
    foresee (RFC 3602 §3, RFC 7296 §3.14).
    """

    def __init__(self, algorithm: BlockCipherAlgorithm, entropy: Entropy) -> None:
        self._block_length = algorithm.block_size // 8
        self._context = Cipher(algorithm, CBC(bytes(self._block_length))).encryptor()
        self._entropy = entropy

    def encrypt(self, plaintext: bytes) -> bytes:
        """IV and ciphertext."""
        return self._context.update(self._entropy.octets(self._block_length) + plaintext)


class _CbcDecryptor:
    """CBC; decrypting a block needs only the block before it, so that one context serves all packets."""

    def __init__(self, algorithm: BlockCipherAlgorithm) -> None:
        self._block_length = algorithm.block_size // 8
        self._context = Cipher(algorithm, CBC(bytes(self._block_length))).decryptor()

    def decrypt(self, octets: bytes) -> bytes:
        """The padded plaintext."""
        return self._context.update(octets)[self._block_length :]


class _CtrCipher:
    """AES-CTR: nonce, IV and a block counter from one (RFC 3686 §4); the IV counts packets (§3.1)."""

    def __init__(self, key: bytes) -> None:
        self._nonce = key[-CTR_NONCE_LENGTH:]
        self._context = Cipher(AES(key[:-CTR_NONCE_LENGTH]), CTR(bytes(16))).encryptor()
        self._packets = 0

    def encrypt(self, plaintext: bytes) -> bytes:
        """IV and ciphertext."""
        self._packets += 1
        iv = self._packets.to_bytes(COUNTER_IV_LENGTH, "big")
        return iv + self._apply(iv, plaintext)

    def decrypt(self, octets: bytes) -> bytes:
        """The padded plaintext."""
        return self._apply(octets[:COUNTER_IV_LENGTH], octets[COUNTER_IV_LENGTH:])

    def _apply(self, iv: bytes, octets: bytes) -> bytes:
        self._context.reset_nonce(self._nonce + iv + FIRST_COUNTER)
        return self._context.update(octets)


class _NullCipher:
    """NULL (RFC 2410): no IV, the plaintext as it is."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """The plaintext."""
        return plaintext

    def decrypt(self, octets: bytes) -> bytes:
        """The plaintext."""
        return octets


class _LibraryAead:
    """An AEAD object of the library's."""

    def __init__(self, cipher: AESGCM | AESCCM | ChaCha20Poly1305) -> None:
        self.encrypt = cipher.encrypt  # every packet of a tunnel passes here
        self._decrypt = cipher.decrypt

    def decrypt(self, nonce: bytes, octets: bytes, associated_data: bytes) -> bytes:
        """The plaintext."""
        try:
            return self._decrypt(nonce, octets, associated_data)
        except InvalidTag:
            raise AuthenticationError("the integrity check value is wrong") from None


class _ShortTagGcm:
    """AES-GCM whose ICV is the tag's first octets (RFC 4106 §6)."""

    def __init__(self, key: bytes, icv_length: int) -> None:
        self._cipher = AESGCM(key)
        self._algorithm = AES(key)
        self._icv_length = icv_length

    def encrypt(self, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
        """Ciphertext and ICV."""
        return self._cipher.encrypt(nonce, plaintext, associated_data)[: self._icv_length - GCM_TAG_LENGTH]

    def decrypt(self, nonce: bytes, octets: bytes, associated_data: bytes) -> bytes:
        """The plaintext."""
        tag = octets[-self._icv_length :]
        context = Cipher(self._algorithm, GCM(nonce, tag, min_tag_length=self._icv_length)).decryptor()
        context.authenticate_additional_data(associated_data)
        plaintext = context.update(octets[: -self._icv_length])
        try:
            return plaintext + context.finalize()
        except InvalidTag:
            raise AuthenticationError("the integrity check value is wrong") from None


@dataclass(frozen=True, kw_only=True)
class EncryptionAlgorithm:
    """A row: lengths in octets of salt, explicit IV, block and AEAD tag (0: no AEAD), key lengths in bits.

    ``key_bits`` are what the Key Length attribute may say; it is empty where the transform has none and
    ``fixed_key_length`` counts instead (RFC 7296 §3.3.5).
    """

    name: str
    key_bits: tuple[int, ...] = AES_KEYS
    fixed_key_length: int = 0
    salt_length: int
    iv_length: int = COUNTER_IV_LENGTH
    block_length: int = 1
    icv_length: int = 0
    weak: bool = False

    def names(self) -> dict[str, int | None]:
        """The readable names and the key length in bits that each of them means."""
        if not self.key_bits:
            return {self.name: None}
        return {self.name.format(bits=bits): bits for bits in self.key_bits}


def _gcm(icv_length: int) -> EncryptionAlgorithm:
    return EncryptionAlgorithm(name=f"aes{{bits}}gcm{icv_length}", salt_length=4, icv_length=icv_length)


def _ccm(icv_length: int) -> EncryptionAlgorithm:
    # RFC 4309 §4, RFC 5282 §7.1: the salt has three octets
    return EncryptionAlgorithm(name=f"aes{{bits}}ccm{icv_length}", salt_length=3, icv_length=icv_length)


ENCRYPTION: dict[EncryptionId, EncryptionAlgorithm] = {
    EncryptionId.ENCR_AES_CBC: EncryptionAlgorithm(name="aes{bits}", salt_length=0, iv_length=16, block_length=16),
    EncryptionId.ENCR_AES_CTR: EncryptionAlgorithm(name="aes{bits}ctr", salt_length=CTR_NONCE_LENGTH),
    EncryptionId.ENCR_AES_GCM_8: _gcm(8),
    EncryptionId.ENCR_AES_GCM_12: _gcm(12),
    EncryptionId.ENCR_AES_GCM_16: _gcm(16),
    EncryptionId.ENCR_AES_CCM_8: _ccm(8),
    EncryptionId.ENCR_AES_CCM_12: _ccm(12),
    EncryptionId.ENCR_AES_CCM_16: _ccm(16),
    # RFC 7634 §4: the Key Length attribute MUST NOT be sent
    EncryptionId.ENCR_CHACHA20_POLY1305: EncryptionAlgorithm(
        name="chacha20poly1305", key_bits=(), fixed_key_length=32, salt_length=4, icv_length=16
    ),
    EncryptionId.ENCR_3DES: EncryptionAlgorithm(
        name="3des", key_bits=(), fixed_key_length=24, salt_length=0, iv_length=8, block_length=8, weak=True
    ),
    # RFC 8221 §5: for ESP without confidentiality; never for IKE
    EncryptionId.ENCR_NULL: EncryptionAlgorithm(name="null", key_bits=(), salt_length=0, iv_length=0, weak=True),
}
ENCRYPTION_NAMES: dict[str, tuple[EncryptionId, int | None]] = {
    name: (identifier, bits) for identifier, row in ENCRYPTION.items() for name, bits in row.names().items()
}

_ENCRYPTORS: dict[EncryptionId, Callable[[bytes, Entropy], Encryptor]] = {
    EncryptionId.ENCR_AES_CBC: lambda key, entropy: _CbcEncryptor(AES(key), entropy),
    EncryptionId.ENCR_3DES: lambda key, entropy: _CbcEncryptor(TripleDES(key), entropy),
    EncryptionId.ENCR_AES_CTR: lambda key, entropy: _CtrCipher(key),
    EncryptionId.ENCR_NULL: lambda key, entropy: _NullCipher(),
}
_DECRYPTORS: dict[EncryptionId, Callable[[bytes], Decryptor]] = {
    EncryptionId.ENCR_AES_CBC: lambda key: _CbcDecryptor(AES(key)),
    EncryptionId.ENCR_3DES: lambda key: _CbcDecryptor(TripleDES(key)),
    EncryptionId.ENCR_AES_CTR: _CtrCipher,
    EncryptionId.ENCR_NULL: lambda key: _NullCipher(),
}
_AEADS: dict[EncryptionId, Callable[[bytes], Aead]] = {
    EncryptionId.ENCR_AES_GCM_8: lambda key: _ShortTagGcm(key, 8),
    EncryptionId.ENCR_AES_GCM_12: lambda key: _ShortTagGcm(key, 12),
    EncryptionId.ENCR_AES_GCM_16: lambda key: _LibraryAead(AESGCM(key)),
    EncryptionId.ENCR_AES_CCM_8: lambda key: _LibraryAead(AESCCM(key, 8)),
    EncryptionId.ENCR_AES_CCM_12: lambda key: _LibraryAead(AESCCM(key, 12)),
    EncryptionId.ENCR_AES_CCM_16: lambda key: _LibraryAead(AESCCM(key, 16)),
    EncryptionId.ENCR_CHACHA20_POLY1305: lambda key: _LibraryAead(ChaCha20Poly1305(key)),
}


def encryptor_of(encryption: EncryptionId, key: bytes, entropy: Entropy) -> Encryptor:
    """The sending side of a cipher without integrity; ``key`` includes the nonce of AES-CTR."""
    return _ENCRYPTORS[encryption](key, entropy)


def decryptor_of(encryption: EncryptionId, key: bytes) -> Decryptor:
    """The receiving side of a cipher without integrity; ``key`` includes the nonce of AES-CTR."""
    return _DECRYPTORS[encryption](key)


def aead_of(encryption: EncryptionId, key: bytes) -> tuple[Aead, bytes]:
    """A cipher with integrity, and the salt, which is the end of the key material (RFC 5282 §7.1)."""
    end = len(key) - ENCRYPTION[encryption].salt_length
    return _AEADS[encryption](key[:end]), key[end:]


def encryption_key_length(encryption: EncryptionId, bits: int | None) -> int:
    """Octets of key and salt together."""
    row = ENCRYPTION[encryption]
    return (bits // 8 if bits else row.fixed_key_length) + row.salt_length
