"""Pseudorandom functions (transform type 2; RFC 7296 §2.13): HMAC, AES-XCBC (RFC 4434), AES-CMAC (RFC 4615)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocols.errors import LocalError
from protocols.ikev2.integrity import AES_BLOCK_LENGTH, CmacKey, KeyedMac, XcbcKey, hmac_of
from protocols.ikev2.registry import PrfId

FIXED_KEY_NONCE_LENGTH: Final = 8  # RFC 7296 §2.14: the first 64 bits of Ni and of Nr


@dataclass(frozen=True, kw_only=True)
class Prf:
    """A pseudorandom function (RFC 7296 §2.13): call it with key and data."""

    name: str
    keyed: Callable[[bytes], KeyedMac]
    output_length: int
    fixed_key: bool = False
    weak: bool = False

    @classmethod
    def of(cls, prf: PrfId) -> Prf:
        """The implementation of a transform; ``LocalError`` when there is none."""
        found = PRFS.get(prf)
        if found is None:
            raise LocalError(f"{prf.name} is not implemented")
        return found

    @property
    def key_length(self) -> int:
        """The preferred key length, which is the length of SK_d and SK_p (RFC 7296 §2.13)."""
        return self.output_length

    def __call__(self, key: bytes, data: bytes) -> bytes:
        """prf(key, data)."""
        return self.keyed(key).compute(data)

    def skeyseed(self, ni: bytes, nr: bytes, shared: bytes) -> bytes:
        """SKEYSEED = prf(Ni | Nr, g^ir) (RFC 7296 §2.14)."""
        if self.fixed_key:
            # §2.14: with AES-XCBC and AES-CMAC only the first 64 bits of each nonce are used
            ni, nr = ni[:FIXED_KEY_NONCE_LENGTH], nr[:FIXED_KEY_NONCE_LENGTH]
        return self(ni + nr, shared)

    def plus(self, key: bytes, seed: bytes, length: int) -> bytes:
        """The first ``length`` octets of prf+(key, seed) (RFC 7296 §2.13)."""
        if length > 255 * self.output_length:
            raise LocalError(f"prf+ gives at most {255 * self.output_length} octets, {length} asked for")
        keyed = self.keyed(key)
        stream = b""
        block = b""
        counter = 1
        while len(stream) < length:
            block = keyed.compute(block + seed + bytes((counter,)))
            stream += block
            counter += 1
        return stream[:length]


def _xcbc(key: bytes) -> KeyedMac:
    """AES-XCBC-PRF-128 (RFC 4434 §2): shorter keys are padded with zeros, longer ones hashed by itself."""
    if len(key) > AES_BLOCK_LENGTH:
        key = XcbcKey(bytes(AES_BLOCK_LENGTH)).compute(key)
    return XcbcKey(key.ljust(AES_BLOCK_LENGTH, b"\0"))


def _cmac(key: bytes) -> KeyedMac:
    """AES-CMAC-PRF-128 (RFC 4615 §3): keys of any length but sixteen octets are hashed by itself."""
    if len(key) != AES_BLOCK_LENGTH:
        key = CmacKey(bytes(AES_BLOCK_LENGTH)).compute(key)
    return CmacKey(key)


PRFS: dict[PrfId, Prf] = {
    # RFC 8247 §2.2 forbids it; Qualcomm's phones offer it, and so does who plays one
    PrfId.PRF_HMAC_MD5: Prf(name="prfmd5", keyed=hmac_of("md5"), output_length=16, weak=True),
    PrfId.PRF_HMAC_SHA1: Prf(name="prfsha1", keyed=hmac_of("sha1"), output_length=20, weak=True),
    PrfId.PRF_HMAC_SHA2_256: Prf(name="prfsha256", keyed=hmac_of("sha256"), output_length=32),
    PrfId.PRF_HMAC_SHA2_384: Prf(name="prfsha384", keyed=hmac_of("sha384"), output_length=48),
    PrfId.PRF_HMAC_SHA2_512: Prf(name="prfsha512", keyed=hmac_of("sha512"), output_length=64),
    PrfId.PRF_AES128_XCBC: Prf(name="prfaesxcbc", keyed=_xcbc, output_length=16, fixed_key=True),
    PrfId.PRF_AES128_CMAC: Prf(name="prfaescmac", keyed=_cmac, output_length=16, fixed_key=True),
}
PRF_NAMES: dict[str, PrfId] = {row.name: identifier for identifier, row in PRFS.items()}
