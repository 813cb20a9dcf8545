"""Keyed integrity (transform type 3): HMAC (RFC 2404, RFC 4868), AES-XCBC-96 (RFC 3566), AES-CMAC-96 (RFC 4494).

A ``KeyedMac`` is keyed once for an SA and kept. AES-XCBC-MAC, which no library at hand offers, is put
together from the library's AES-CBC as RFC 3566 §4 says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hmac import HMAC

from protocols.ikev2.registry import IntegrityId, PrfId

AES_BLOCK_LENGTH: Final = 16

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "md5": hashes.MD5(),  # noqa: S303 - HMAC-MD5 as RFC 2403 has it
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


class KeyedMac(Protocol):
    """A MAC with its key."""

    def compute(self, data: bytes) -> bytes:
        """The whole MAC of ``data``, not cut yet."""


class HmacKey:
    """HMAC (RFC 2104); a copy of the keyed context does the work."""

    def __init__(self, digest: str, key: bytes) -> None:
        self._context = HMAC(key, _HASHES[digest])

    def compute(self, data: bytes) -> bytes:
        """The whole MAC."""
        context = self._context.copy()
        context.update(data)
        return context.finalize()


class CmacKey:
    """AES-CMAC (RFC 4493)."""

    def __init__(self, key: bytes) -> None:
        self._context = CMAC(AES(key))

    def compute(self, data: bytes) -> bytes:
        """The whole MAC."""
        context = self._context.copy()
        context.update(data)
        return context.finalize()


class XcbcKey:
    """AES-XCBC-MAC (RFC 3566 §4): CBC under K1, the last block masked with K2 (whole) or K3 (padded).

    One CBC encryptor serves all messages: it chains on from the last MAC, and taking that MAC into the
    first block of the next message takes it out again, so that each starts from zero.
    """

    def __init__(self, key: bytes) -> None:
        derive = Cipher(AES(key), CBC(bytes(AES_BLOCK_LENGTH)))
        # RFC 3566 §4 step 1: K1, K2, K3 are the encryptions of 0x01…, 0x02…, 0x03…, each on its own
        first, self._whole, self._padded = (
            derive.encryptor().update(bytes((number,)) * AES_BLOCK_LENGTH) for number in (1, 2, 3)
        )
        self._encryptor = Cipher(AES(first), CBC(bytes(AES_BLOCK_LENGTH))).encryptor()
        self._chained = bytes(AES_BLOCK_LENGTH)

    def compute(self, data: bytes) -> bytes:
        """The whole MAC."""
        rest = len(data) % AES_BLOCK_LENGTH
        if rest or not data:
            data += b"\x80" + bytes(AES_BLOCK_LENGTH - rest - 1)
            mask = self._padded
        else:
            mask = self._whole
        masked = data[:-AES_BLOCK_LENGTH] + _xor(data[-AES_BLOCK_LENGTH:], mask)
        masked = _xor(masked[:AES_BLOCK_LENGTH], self._chained) + masked[AES_BLOCK_LENGTH:]
        self._chained = self._encryptor.update(masked)[-AES_BLOCK_LENGTH:]
        return self._chained


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(AES_BLOCK_LENGTH, "big")


def hmac_of(digest: str) -> Callable[[bytes], KeyedMac]:
    """What keys an HMAC over ``digest``."""

    def keyed(key: bytes) -> KeyedMac:
        return HmacKey(digest, key)

    return keyed


@dataclass(frozen=True, kw_only=True)
class IntegrityAlgorithm:
    """A row: ``keyed`` makes the MAC, cut to ``icv_length``; ``prf`` goes with it when a name says none."""

    name: str
    keyed: Callable[[bytes], KeyedMac]
    key_length: int
    icv_length: int
    prf: PrfId
    weak: bool = False


INTEGRITY: dict[IntegrityId, IntegrityAlgorithm] = {
    # RFC 8247 §2.4: MUST-; SHA-1 is weak here, though HMAC-SHA-1 is not broken
    # RFC 8247 §2.3 forbids it, as the PRF
    IntegrityId.AUTH_HMAC_MD5_96: IntegrityAlgorithm(
        name="md5", keyed=hmac_of("md5"), key_length=16, icv_length=12, prf=PrfId.PRF_HMAC_MD5, weak=True
    ),
    IntegrityId.AUTH_HMAC_SHA1_96: IntegrityAlgorithm(
        name="sha1", keyed=hmac_of("sha1"), key_length=20, icv_length=12, prf=PrfId.PRF_HMAC_SHA1, weak=True
    ),
    IntegrityId.AUTH_HMAC_SHA2_256_128: IntegrityAlgorithm(
        name="sha256", keyed=hmac_of("sha256"), key_length=32, icv_length=16, prf=PrfId.PRF_HMAC_SHA2_256
    ),
    IntegrityId.AUTH_HMAC_SHA2_384_192: IntegrityAlgorithm(
        name="sha384", keyed=hmac_of("sha384"), key_length=48, icv_length=24, prf=PrfId.PRF_HMAC_SHA2_384
    ),
    IntegrityId.AUTH_HMAC_SHA2_512_256: IntegrityAlgorithm(
        name="sha512", keyed=hmac_of("sha512"), key_length=64, icv_length=32, prf=PrfId.PRF_HMAC_SHA2_512
    ),
    IntegrityId.AUTH_AES_XCBC_96: IntegrityAlgorithm(
        name="aesxcbc", keyed=XcbcKey, key_length=16, icv_length=12, prf=PrfId.PRF_AES128_XCBC
    ),
    IntegrityId.AUTH_AES_CMAC_96: IntegrityAlgorithm(
        name="aescmac", keyed=CmacKey, key_length=16, icv_length=12, prf=PrfId.PRF_AES128_CMAC
    ),
}
INTEGRITY_NAMES: dict[str, IntegrityId] = {row.name: identifier for identifier, row in INTEGRITY.items()}


def integrity_key_length(integrity: IntegrityId | None) -> int:
    """Octets of an integrity key, 0 for none."""
    return 0 if integrity is None else INTEGRITY[integrity].key_length
