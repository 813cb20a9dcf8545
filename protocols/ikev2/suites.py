"""Algorithms of IKEv2 and ESP: tables of what is implemented, suites made of them, PRF and key exchange.

Encryption AES-CBC (RFC 3602) and AES-GCM with a 16-octet ICV (RFC 4106, RFC 5282); integrity and PRF on
HMAC-SHA-1 and HMAC-SHA-2 (RFC 2404, RFC 4868); key exchange X25519 (RFC 8031), ECP (RFC 5903) and MODP
(RFC 3526) with the receiver's checks of RFC 6989. A further algorithm is a row of a table here. PRFs
that take keys of one length only (AES-XCBC) are left out.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import gmpy2
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.entropy import Entropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.registry import EncryptionId, IntegrityId, KeGroup, NotifyType, PrfId


@dataclass(frozen=True, kw_only=True)
class EncryptionAlgorithm:
    """A row: lengths in octets of salt, explicit IV, block and AEAD tag (0: no AEAD), key lengths in bits."""

    name: str
    key_bits: tuple[int, ...]
    salt_length: int
    iv_length: int
    block_length: int
    icv_length: int


ENCRYPTION: dict[EncryptionId, EncryptionAlgorithm] = {
    EncryptionId.ENCR_AES_CBC: EncryptionAlgorithm(
        name="aes{bits}", key_bits=(128, 192, 256), salt_length=0, iv_length=16, block_length=16, icv_length=0
    ),
    EncryptionId.ENCR_AES_GCM_16: EncryptionAlgorithm(
        name="aes{bits}gcm16",
        key_bits=(128, 192, 256),
        salt_length=4,
        iv_length=8,
        block_length=1,
        icv_length=16,
    ),
}


@dataclass(frozen=True, kw_only=True)
class IntegrityAlgorithm:
    """A row: HMAC over ``digest``, cut to ``icv_length``; ``prf`` goes with it when a name says none."""

    name: str
    digest: str
    key_length: int
    icv_length: int
    prf: PrfId


INTEGRITY: dict[IntegrityId, IntegrityAlgorithm] = {
    IntegrityId.AUTH_HMAC_SHA1_96: IntegrityAlgorithm(
        name="sha1", digest="sha1", key_length=20, icv_length=12, prf=PrfId.PRF_HMAC_SHA1
    ),
    IntegrityId.AUTH_HMAC_SHA2_256_128: IntegrityAlgorithm(
        name="sha256", digest="sha256", key_length=32, icv_length=16, prf=PrfId.PRF_HMAC_SHA2_256
    ),
    IntegrityId.AUTH_HMAC_SHA2_384_192: IntegrityAlgorithm(
        name="sha384", digest="sha384", key_length=48, icv_length=24, prf=PrfId.PRF_HMAC_SHA2_384
    ),
    IntegrityId.AUTH_HMAC_SHA2_512_256: IntegrityAlgorithm(
        name="sha512", digest="sha512", key_length=64, icv_length=32, prf=PrfId.PRF_HMAC_SHA2_512
    ),
}


@dataclass(frozen=True)
class Prf:
    """A pseudorandom function on HMAC (RFC 7296 §2.13): call it with key and data."""

    name: str
    digest: str
    output_length: int

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
        return hmac.digest(key, data, self.digest)

    def plus(self, key: bytes, seed: bytes, length: int) -> bytes:
        """The first ``length`` octets of prf+(key, seed) (RFC 7296 §2.13)."""
        if length > 255 * self.output_length:
            raise LocalError(f"prf+ gives at most {255 * self.output_length} octets, {length} asked for")
        keyed = hmac.new(key, digestmod=self.digest)
        stream = b""
        block = b""
        counter = 1
        while len(stream) < length:
            context = keyed.copy()
            context.update(block + seed + bytes((counter,)))
            block = context.digest()
            stream += block
            counter += 1
        return stream[:length]


PRFS: dict[PrfId, Prf] = {
    PrfId.PRF_HMAC_SHA1: Prf("prfsha1", "sha1", 20),
    PrfId.PRF_HMAC_SHA2_256: Prf("prfsha256", "sha256", 32),
    PrfId.PRF_HMAC_SHA2_384: Prf("prfsha384", "sha384", 48),
    PrfId.PRF_HMAC_SHA2_512: Prf("prfsha512", "sha512", 64),
}


class PrivateValue(Protocol):
    """One end's half of a key exchange."""

    public: bytes

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret; ``ValueError`` when the peer's value is not acceptable."""


class KeyExchangeMethod(Protocol):
    """A key exchange group: makes private values from entropy."""

    name: str

    def generate(self, entropy: Entropy) -> PrivateValue:
        """A fresh private value."""


class X25519Method:
    """X25519 (RFC 7748) in IKEv2 (RFC 8031)."""

    name = "x25519"

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Thirty-two octets of entropy are the private key."""
        return X25519Private(x25519.X25519PrivateKey.from_private_bytes(entropy.octets(32)))


class X25519Private:
    """An X25519 key pair."""

    def __init__(self, private: x25519.X25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """RFC 8031 §2; the library refuses other lengths and an all-zero result (RFC 7748 §6.1)."""
        return self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))


class EcpMethod:
    """A NIST curve (RFC 5903); ``order`` is the order of its base point (FIPS 186-4 D.1.2)."""

    def __init__(self, name: str, curve: ec.EllipticCurve, order: int) -> None:
        self.name = name
        self.curve = curve
        self.order = order
        self.coordinate_length = (curve.key_size + 7) // 8

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Eight octets more than the order has, reduced: FIPS 186-4 B.4.1."""
        surplus = int.from_bytes(entropy.octets(self.coordinate_length + 8), "big")
        return EcpPrivate(self, ec.derive_private_key(surplus % (self.order - 1) + 1, self.curve))


class EcpPrivate:
    """A key pair on a NIST curve; public values are x and y without a leading octet (RFC 5903 §7)."""

    def __init__(self, method: EcpMethod, private: ec.EllipticCurvePrivateKey) -> None:
        self._method = method
        self._private = private
        self.public = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def shared(self, peer_public: bytes) -> bytes:
        """The x coordinate (RFC 5903 §7); a point off the curve is refused (RFC 6989 §2.3)."""
        if len(peer_public) != 2 * self._method.coordinate_length:
            raise ValueError(f"{2 * self._method.coordinate_length} octets expected, got {len(peer_public)}")
        point = ec.EllipticCurvePublicKey.from_encoded_point(self._method.curve, b"\x04" + peer_public)
        return self._private.exchange(ec.ECDH(), point)


class ModpMethod:
    """A MODP group with a safe prime and generator 2 (RFC 3526)."""

    def __init__(self, name: str, prime: str, exponent_length: int) -> None:
        self.name = name
        self.prime = gmpy2.mpz(int(prime.replace(" ", ""), 16))
        self.length = len(prime.replace(" ", "")) // 2
        self.exponent_length = exponent_length

    def generate(self, entropy: Entropy) -> PrivateValue:
        """The exponent is entropy with its top bit set, so that its length is fixed."""
        octets = entropy.octets(self.exponent_length)
        return ModpPrivate(self, int.from_bytes(bytes((octets[0] | 0x80,)) + octets[1:], "big"))


class ModpPrivate:
    """A private exponent and the public value 2^exponent."""

    def __init__(self, method: ModpMethod, exponent: int) -> None:
        self._method = method
        self._exponent = gmpy2.mpz(exponent)
        self.public = self._power(gmpy2.mpz(2))

    def _power(self, base: gmpy2.mpz) -> bytes:
        # powmod_sec runs in a time that does not depend on the exponent.
        result = int(gmpy2.powmod_sec(base, self._exponent, self._method.prime))
        return result.to_bytes(self._method.length, "big")

    def shared(self, peer_public: bytes) -> bytes:
        """g^ir as long as the prime (RFC 7296 §2.14); 1 < r < p-1 is checked (RFC 6989 §2.1)."""
        # RFC 7296 §3.4: the length MUST be that of the prime, zero-padded in front.
        if len(peer_public) != self._method.length:
            raise ValueError(f"{self._method.length} octets expected, got {len(peer_public)}")
        value = gmpy2.mpz(int.from_bytes(peer_public, "big"))
        if not 1 < value < self._method.prime - 1:
            raise ValueError("the public value is 0, 1, p-1 or more")
        return self._power(value)


KEY_EXCHANGES: dict[KeGroup, KeyExchangeMethod] = {
    KeGroup.CURVE25519: X25519Method(),
    KeGroup.ECP_256: EcpMethod(
        "ecp256", ec.SECP256R1(), 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    ),
    KeGroup.ECP_384: EcpMethod(
        "ecp384",
        ec.SECP384R1(),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
    # RFC 3526 §3; the exponent's 320 bits are §8's larger estimate for this group.
    KeGroup.MODP_2048: ModpMethod(
        "modp2048",
        "FFFFFFFF FFFFFFFF C90FDAA2 2168C234 C4C6628B 80DC1CD1 29024E08 8A67CC74 "
        "020BBEA6 3B139B22 514A0879 8E3404DD EF9519B3 CD3A431B 302B0A6D F25F1437 "
        "4FE1356D 6D51C245 E485B576 625E7EC6 F44C42E9 A637ED6B 0BFF5CB6 F406B7ED "
        "EE386BFB 5A899FA5 AE9F2411 7C4B1FE6 49286651 ECE45B3D C2007CB8 A163BF05 "
        "98DA4836 1C55D39A 69163FA8 FD24CF5F 83655D23 DCA3AD96 1C62F356 208552BB "
        "9ED52907 7096966D 670C354E 4ABC9804 F1746C08 CA18217C 32905E46 2E36CE3B "
        "E39E772C 180E8603 9B2783A2 EC07A28F B5C55DF0 6F4C52C9 DE2BCBF6 95581718 "
        "3995497C EA956AE5 15D22618 98FA0510 15728E5A 8AACAA68 FFFFFFFF FFFFFFFF",
        40,
    ),
}


class KeyExchange:
    """One end of a key exchange (RFC 7296 §2.14): ``group``, ``public`` for the KE payload, ``shared``."""

    def __init__(self, group: KeGroup, private: PrivateValue) -> None:
        self.group = group
        self.public = private.public
        self._private = private

    @classmethod
    def generate(cls, group: KeGroup, entropy: Entropy) -> KeyExchange:
        """A fresh private value; ``LocalError`` when the group is not implemented."""
        method = KEY_EXCHANGES.get(group)
        if method is None:
            raise LocalError(f"{group.name} is not implemented")
        return cls(group, method.generate(entropy))

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret; ``RemoteError`` when the peer's value fails RFC 6989's checks."""
        try:
            return self._private.shared(peer_public)
        except ValueError as error:
            # RFC 6989 §2.5: INVALID_SYNTAX is what a request with such a value is answered with.
            raise RemoteError(f"bad {self.group.name} public value: {error}", NotifyType.INVALID_SYNTAX) from error


def _encryption_name(encryption: EncryptionId, bits: int | None) -> str:
    return ENCRYPTION[encryption].name.format(bits=bits)


ENCRYPTION_NAMES: dict[str, tuple[EncryptionId, int]] = {
    row.name.format(bits=bits): (identifier, bits) for identifier, row in ENCRYPTION.items() for bits in row.key_bits
}
INTEGRITY_NAMES: dict[str, IntegrityId] = {row.name: identifier for identifier, row in INTEGRITY.items()}
PRF_NAMES: dict[str, PrfId] = {row.name: identifier for identifier, row in PRFS.items()}
GROUP_NAMES: dict[str, KeGroup] = {row.name: identifier for identifier, row in KEY_EXCHANGES.items()} | {
    "curve25519": KeGroup.CURVE25519
}


def _check_encryption(encryption: EncryptionId, bits: int | None, integrity: IntegrityId | None) -> None:
    row = ENCRYPTION.get(encryption)
    if row is None or bits not in row.key_bits:
        raise ValueError(f"{encryption.name} with a key of {bits} bits is not implemented")
    if row.icv_length and integrity is not None:
        raise ValueError(f"{encryption.name} has its own integrity, {integrity.name} cannot go with it")
    if not row.icv_length and integrity is None:
        raise ValueError(f"{encryption.name} needs an integrity algorithm")
    if integrity is not None and integrity not in INTEGRITY:
        raise ValueError(f"{integrity.name} is not implemented")


@dataclass(frozen=True, kw_only=True)
class IkeSuite:
    """The algorithms of an IKE SA; ``integrity`` is ``None`` with AEAD.

    ``ValueError`` when one is not implemented or they do not go together.
    """

    encryption: EncryptionId
    encryption_key_bits: int | None
    integrity: IntegrityId | None
    prf: PrfId
    group: KeGroup

    def __post_init__(self) -> None:
        _check_encryption(self.encryption, self.encryption_key_bits, self.integrity)
        if self.prf not in PRFS:
            raise ValueError(f"{self.prf.name} is not implemented")
        if self.group not in KEY_EXCHANGES:
            raise ValueError(f"{self.group.name} is not implemented")

    @classmethod
    def of(cls, text: str) -> IkeSuite:
        """Parse e.g. ``aes128-sha256-x25519``, ``aes256gcm16-prfsha384-ecp384``; ``ValueError`` if bad."""
        found = _Tokens(text)
        if found.esn is not None:
            raise ValueError(f"{text!r}: an IKE suite has no ESN")
        if found.group is None:
            raise ValueError(f"{text!r} names no key exchange group (of {', '.join(GROUP_NAMES)})")
        prf = found.prf
        if prf is None:
            if found.integrity is None:
                raise ValueError(f"{text!r} names no PRF (of {', '.join(PRF_NAMES)})")
            prf = INTEGRITY[found.integrity].prf
        return cls(
            encryption=found.encryption,
            encryption_key_bits=found.bits,
            integrity=found.integrity,
            prf=prf,
            group=found.group,
        )

    @cached_property
    def name(self) -> str:
        """The text that ``of`` takes."""
        parts = [_encryption_name(self.encryption, self.encryption_key_bits)]
        if self.integrity is not None:
            parts.append(INTEGRITY[self.integrity].name)
        if self.integrity is None or INTEGRITY[self.integrity].prf != self.prf:
            parts.append(PRFS[self.prf].name)
        parts.append(KEY_EXCHANGES[self.group].name)
        return "-".join(parts)

    @property
    def aead(self) -> bool:
        """Whether encryption protects integrity too (RFC 5282)."""
        return self.integrity is None

    @property
    def encryption_key_length(self) -> int:
        """Octets of SK_e, with the salt (RFC 5282 §7.1)."""
        return encryption_key_length(self.encryption, self.encryption_key_bits)

    @property
    def integrity_key_length(self) -> int:
        """Octets of SK_a; 0 with AEAD."""
        return integrity_key_length(self.integrity)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class EspSuite:
    """The algorithms of a child SA; ``group`` is ``None`` without its own key exchange."""

    encryption: EncryptionId
    encryption_key_bits: int | None
    integrity: IntegrityId | None
    group: KeGroup | None = None
    esn: bool = False

    def __post_init__(self) -> None:
        _check_encryption(self.encryption, self.encryption_key_bits, self.integrity)
        if self.group is not None and self.group not in KEY_EXCHANGES:
            raise ValueError(f"{self.group.name} is not implemented")

    @classmethod
    def of(cls, text: str) -> EspSuite:
        """Parse e.g. ``aes128-sha256``, ``aes128gcm16-x25519-esn``; ``ValueError`` on bad text."""
        found = _Tokens(text)
        if found.prf is not None:
            raise ValueError(f"{text!r}: an ESP suite has no PRF")
        return cls(
            encryption=found.encryption,
            encryption_key_bits=found.bits,
            integrity=found.integrity,
            group=found.group,
            esn=bool(found.esn),
        )

    @cached_property
    def name(self) -> str:
        """The text that ``of`` takes."""
        parts = [_encryption_name(self.encryption, self.encryption_key_bits)]
        if self.integrity is not None:
            parts.append(INTEGRITY[self.integrity].name)
        if self.group is not None:
            parts.append(KEY_EXCHANGES[self.group].name)
        if self.esn:
            parts.append("esn")
        return "-".join(parts)

    @property
    def aead(self) -> bool:
        """Whether encryption protects integrity too (RFC 4106)."""
        return self.integrity is None

    @property
    def encryption_key_length(self) -> int:
        """Octets of KEYMAT for encryption in one direction, with the salt (RFC 4106 §8.1)."""
        return encryption_key_length(self.encryption, self.encryption_key_bits)

    @property
    def integrity_key_length(self) -> int:
        """Octets of KEYMAT for integrity in one direction; 0 with AEAD."""
        return integrity_key_length(self.integrity)

    def without_group(self) -> EspSuite:
        """The same suite as IKE_AUTH negotiates it, without a key exchange of its own (RFC 7296 §1.2)."""
        return self if self.group is None else replace(self, group=None)

    def __str__(self) -> str:
        return self.name


def encryption_key_length(encryption: EncryptionId, bits: int | None) -> int:
    """Octets of key and salt together."""
    return (bits or 0) // 8 + ENCRYPTION[encryption].salt_length


def integrity_key_length(integrity: IntegrityId | None) -> int:
    """Octets of an integrity key, 0 for none."""
    return 0 if integrity is None else INTEGRITY[integrity].key_length


class _Tokens:
    """A suite's text taken apart at its dashes, each kind at most once."""

    def __init__(self, text: str) -> None:
        head, *rest = text.strip().lower().split("-")
        if head not in ENCRYPTION_NAMES:
            raise ValueError(f"{text!r} starts with no encryption (of {', '.join(ENCRYPTION_NAMES)})")
        self.encryption, self.bits = ENCRYPTION_NAMES[head]
        self.integrity: IntegrityId | None = None
        self.prf: PrfId | None = None
        self.group: KeGroup | None = None
        self.esn: bool | None = None
        for token in rest:
            if token in INTEGRITY_NAMES and self.integrity is None:
                self.integrity = INTEGRITY_NAMES[token]
            elif token in PRF_NAMES and self.prf is None:
                self.prf = PRF_NAMES[token]
            elif token in GROUP_NAMES and self.group is None:
                self.group = GROUP_NAMES[token]
            elif token in ("esn", "noesn") and self.esn is None:
                self.esn = token == "esn"
            else:
                raise ValueError(f"{text!r}: {token!r} is unknown or there twice")
