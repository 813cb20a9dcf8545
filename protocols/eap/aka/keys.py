"""Keys of EAP-AKA full authentication (RFC 4187 §7) and the cipher of AT_ENCR_DATA (§10.12)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.algorithms import fips186
from protocols.errors import DecodeError
from protocols.secret import Secret

K_ENCR_LENGTH = 16
K_AUT_LENGTH = 16
MSK_LENGTH = 64
EMSK_LENGTH = 64
_CIPHER_BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AkaKeys:
    """The Master Key and what the generator makes of it, in its order."""

    mk: Secret
    k_encr: Secret
    k_aut: Secret
    msk: Secret
    emsk: Secret


def derive_keys(identity: bytes, *, ik: bytes, ck: bytes, compress: fips186.Compression | None = None) -> AkaKeys:
    """MK = SHA1(Identity | IK | CK), then K_encr, K_aut, MSK, EMSK (RFC 4187 §7).

    ``identity`` is the last one the peer sent, octet for octet.
    """
    mk = hashlib.sha1(identity + ik + ck, usedforsecurity=False).digest()
    stream = fips186.generate(mk, K_ENCR_LENGTH + K_AUT_LENGTH + MSK_LENGTH + EMSK_LENGTH, compress)
    k_aut_at = K_ENCR_LENGTH
    msk_at = k_aut_at + K_AUT_LENGTH
    emsk_at = msk_at + MSK_LENGTH
    return AkaKeys(
        mk=Secret(mk),
        k_encr=Secret(stream[:k_aut_at]),
        k_aut=Secret(stream[k_aut_at:msk_at]),
        msk=Secret(stream[msk_at:emsk_at]),
        emsk=Secret(stream[emsk_at:]),
    )


def decrypt_attributes(k_encr: Secret, iv: bytes, ciphertext: bytes) -> bytes:
    """The nested attributes of AT_ENCR_DATA: AES-128-CBC (RFC 4187 §10.12)."""
    if not ciphertext or len(ciphertext) % _CIPHER_BLOCK:
        raise DecodeError(f"AT_ENCR_DATA holds {len(ciphertext)} octets, no multiple of {_CIPHER_BLOCK}")
    decryptor = Cipher(algorithms.AES(k_encr.reveal()), modes.CBC(iv)).decryptor()
    return decryptor.update(ciphertext) + decryptor.finalize()
