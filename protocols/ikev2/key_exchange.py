"""Key exchange methods (transform type 4): MODP, ECP, Brainpool, X25519, X448 and ML-KEM.

RFC 3526 and RFC 7296 Appendix B, RFC 5903 and RFC 5114 (192 and 224 bits), RFC 6954, RFC 8031,
draft-ietf-ipsecme-ikev2-mlkem (FIPS 203); with the receiver's checks of RFC 6989. The responder of a KEM needs
the initiator's value before it has one of its own: ``KeyExchange.respond``. Private values come from
``Entropy``. The groups with small subgroups (22 to 24) are left out. gmpy2 and pycryptodome are imported by what
first needs them: they would take a tenth of the time in which a node starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocols.entropy import Entropy
from protocols.errors import LocalError, RemoteError
from protocols.ikev2.modp import PRIMES
from protocols.ikev2.registry import KeGroup, NotifyType

ML_KEM_SEED_LENGTH: Final = 64  # FIPS 203 §7.1: d and z
ML_KEM_MESSAGE_LENGTH: Final = 32  # FIPS 203 §7.2: m


class PrivateValue(Protocol):
    """The initiator's half of a key exchange."""

    public: bytes

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret; ``ValueError`` when the peer's value is not acceptable."""


class KeyExchangeMethod(Protocol):
    """A key exchange method: makes private values from entropy."""

    name: str

    def generate(self, entropy: Entropy) -> PrivateValue:
        """A fresh private value."""

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """The responder's public value and the shared secret; ``ValueError`` as ``PrivateValue.shared``."""


class X25519Method:
    """X25519 (RFC 7748) in IKEv2 (RFC 8031)."""

    name = "x25519"

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Thirty-two octets of entropy are the private key."""
        return X25519Private(x25519.X25519PrivateKey.from_private_bytes(entropy.octets(32)))

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """A fresh value of our own and what it makes with the peer's."""
        return _respond(self.generate(entropy), peer_public)


class X25519Private:
    """An X25519 key pair."""

    def __init__(self, private: x25519.X25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """RFC 8031 §2; the library refuses other lengths and an all-zero result (RFC 7748 §6.1)."""
        return self._private.exchange(x25519.X25519PublicKey.from_public_bytes(peer_public))


class X448Method:
    """X448 (RFC 7748) in IKEv2 (RFC 8031)."""

    name = "x448"

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Fifty-six octets of entropy are the private key."""
        return X448Private(x448.X448PrivateKey.from_private_bytes(entropy.octets(56)))

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """A fresh value of our own and what it makes with the peer's."""
        return _respond(self.generate(entropy), peer_public)


class X448Private:
    """An X448 key pair."""

    def __init__(self, private: x448.X448PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        """RFC 8031 §2; the library refuses other lengths and an all-zero result (RFC 7748 §6.2)."""
        return self._private.exchange(x448.X448PublicKey.from_public_bytes(peer_public))


class EcpMethod:
    """A curve over a prime field, of cofactor 1: NIST's (RFC 5903, RFC 5114) or Brainpool's (RFC 6954)."""

    def __init__(self, name: str, curve: ec.EllipticCurve) -> None:
        self.name = name
        self.curve = curve
        self.coordinate_length = (curve.key_size + 7) // 8

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Eight octets more than the order has, reduced: FIPS 186-4 B.4.1."""
        surplus = int.from_bytes(entropy.octets(self.coordinate_length + 8), "big")
        return EcpPrivate(self, ec.derive_private_key(surplus % (self.curve.group_order - 1) + 1, self.curve))

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """A fresh value of our own and what it makes with the peer's."""
        return _respond(self.generate(entropy), peer_public)


class EcpPrivate:
    """A key pair on such a curve; public values are x and y without a leading octet (RFC 5903 §7)."""

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
        self.prime = int(prime, 16)
        self.length = len(prime) // 2
        self.exponent_length = exponent_length

    def generate(self, entropy: Entropy) -> PrivateValue:
        """The exponent is entropy with its top bit set, so that its length is fixed."""
        octets = entropy.octets(self.exponent_length)
        return ModpPrivate(self, int.from_bytes(bytes((octets[0] | 0x80,)) + octets[1:], "big"))

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """A fresh value of our own and what it makes with the peer's."""
        return _respond(self.generate(entropy), peer_public)


class ModpPrivate:
    """A private exponent and the public value 2^exponent."""

    def __init__(self, method: ModpMethod, exponent: int) -> None:
        self._method = method
        self._exponent = exponent
        self.public = self._power(2)

    def _power(self, base: int) -> bytes:
        import gmpy2

        # powmod_sec runs in a time that does not depend on the exponent.
        result = int(gmpy2.powmod_sec(base, self._exponent, self._method.prime))
        return result.to_bytes(self._method.length, "big")

    def shared(self, peer_public: bytes) -> bytes:
        """g^ir as long as the prime (RFC 7296 §2.14); 1 < r < p-1 is checked (RFC 6989 §2.1)."""
        # RFC 7296 §3.4: the length MUST be that of the prime, zero-padded in front.
        if len(peer_public) != self._method.length:
            raise ValueError(f"{self._method.length} octets expected, got {len(peer_public)}")
        value = int.from_bytes(peer_public, "big")
        if not 1 < value < self._method.prime - 1:
            raise ValueError("the public value is 0, 1, p-1 or more")
        return self._power(value)


class DecapsulationKey(Protocol):
    """What a library's ML-KEM private key offers."""

    def public_octets(self) -> bytes:
        """The encapsulation key ek (FIPS 203 §7.1)."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret; ``ValueError`` when the length is wrong (FIPS 203 §7.3)."""


class _Library768:
    def __init__(self, seed: bytes) -> None:
        self._private = mlkem.MLKEM768PrivateKey.from_seed_bytes(seed)

    def public_octets(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._private.decapsulate(ciphertext)


class _Library1024:
    def __init__(self, seed: bytes) -> None:
        self._private = mlkem.MLKEM1024PrivateKey.from_seed_bytes(seed)

    def public_octets(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._private.decapsulate(ciphertext)


class _Library512:
    """pycryptodome's, since ``cryptography`` has no ML-KEM-512; it names the two operations privately."""

    def __init__(self, seed: bytes) -> None:
        from Crypto.PublicKey import MLKEM

        self._private = MLKEM.construct(param_set=MLKEM.ML_KEM_512, seed=seed)

    def public_octets(self) -> bytes:
        return self._private.ek

    def decapsulate(self, ciphertext: bytes) -> bytes:
        return self._private._decaps(ciphertext)


Encapsulation = Callable[[bytes, Entropy], tuple[bytes, bytes]]
"""Ciphertext and shared secret from an encapsulation key; ``ValueError`` when its check fails (FIPS 203 §7.2)."""


def encapsulate_768(peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
    """ML-KEM-768's encapsulation; the library takes its randomness itself, ``entropy`` is not asked."""
    shared, ciphertext = mlkem.MLKEM768PublicKey.from_public_bytes(peer_public).encapsulate()
    return ciphertext, shared


def encapsulate_1024(peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
    """ML-KEM-1024's encapsulation; the library takes its randomness itself, ``entropy`` is not asked."""
    shared, ciphertext = mlkem.MLKEM1024PublicKey.from_public_bytes(peer_public).encapsulate()
    return ciphertext, shared


def encapsulate_512(peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
    """ML-KEM-512's encapsulation, from entropy."""
    from Crypto.PublicKey import MLKEM

    key = MLKEM.construct(param_set=MLKEM.ML_KEM_512, ek=peer_public)
    shared, ciphertext = key._encaps(entropy.octets(ML_KEM_MESSAGE_LENGTH))
    return ciphertext, shared


class MlKemMethod:
    """ML-KEM (FIPS 203): the initiator's value is the encapsulation key, the responder's the ciphertext.

    ``encapsulate`` is a port, since the library draws the random message of ML-KEM-768 and -1024 itself.
    """

    def __init__(self, name: str, key: Callable[[bytes], DecapsulationKey], encapsulate: Encapsulation) -> None:
        self.name = name
        self._key = key
        self._encapsulate = encapsulate

    def generate(self, entropy: Entropy) -> PrivateValue:
        """Sixty-four octets of entropy are the seed d | z (FIPS 203 §7.1)."""
        return MlKemPrivate(self._key(entropy.octets(ML_KEM_SEED_LENGTH)))

    def respond(self, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """Encapsulate to the peer's key, whose type and modulus are checked (FIPS 203 §7.2)."""
        return self._encapsulate(peer_public, entropy)


class MlKemPrivate:
    """An ML-KEM decapsulation key."""

    def __init__(self, key: DecapsulationKey) -> None:
        self._key = key
        self.public = key.public_octets()

    def shared(self, peer_public: bytes) -> bytes:
        """What the ciphertext holds; a forged one gives a secret that nobody else has (FIPS 203 §6.3)."""
        return self._key.decapsulate(peer_public)


def _respond(private: PrivateValue, peer_public: bytes) -> tuple[bytes, bytes]:
    return private.public, private.shared(peer_public)


def _modp(bits: int, exponent_bits: int) -> ModpMethod:
    return ModpMethod(f"modp{bits}", PRIMES[KeGroup[f"MODP_{bits}"]], (exponent_bits + 7) // 8)


KEY_EXCHANGES: dict[KeGroup, KeyExchangeMethod] = {
    KeGroup.CURVE25519: X25519Method(),
    KeGroup.CURVE448: X448Method(),
    KeGroup.ECP_256: EcpMethod("ecp256", ec.SECP256R1()),
    KeGroup.ECP_384: EcpMethod("ecp384", ec.SECP384R1()),
    KeGroup.ECP_521: EcpMethod("ecp521", ec.SECP521R1()),
    KeGroup.ECP_224: EcpMethod("ecp224", ec.SECP224R1()),
    KeGroup.ECP_192: EcpMethod("ecp192", ec.SECP192R1()),
    KeGroup.BRAINPOOL_P256R1: EcpMethod("ecp256bp", ec.BrainpoolP256R1()),
    KeGroup.BRAINPOOL_P384R1: EcpMethod("ecp384bp", ec.BrainpoolP384R1()),
    KeGroup.BRAINPOOL_P512R1: EcpMethod("ecp512bp", ec.BrainpoolP512R1()),
    # Exponents by the larger estimate of RFC 3526 §8; group 5's for the two groups that it does not estimate.
    KeGroup.MODP_2048: _modp(2048, 320),
    KeGroup.MODP_3072: _modp(3072, 420),
    KeGroup.MODP_4096: _modp(4096, 480),
    KeGroup.MODP_6144: _modp(6144, 540),
    KeGroup.MODP_8192: _modp(8192, 620),
    KeGroup.MODP_1536: _modp(1536, 240),
    KeGroup.MODP_1024: _modp(1024, 240),
    KeGroup.MODP_768: _modp(768, 240),
    KeGroup.ML_KEM_512: MlKemMethod("mlkem512", _Library512, encapsulate_512),
    KeGroup.ML_KEM_768: MlKemMethod("mlkem768", _Library768, encapsulate_768),
    KeGroup.ML_KEM_1024: MlKemMethod("mlkem1024", _Library1024, encapsulate_1024),
}
GROUP_NAMES: dict[str, KeGroup] = {row.name: identifier for identifier, row in KEY_EXCHANGES.items()} | {
    "curve25519": KeGroup.CURVE25519,
    "curve448": KeGroup.CURVE448,
}
# RFC 8247 §2.4: 1 MUST NOT, 2 and 5 SHOULD NOT; 25 is of the strength of group 2
WEAK_GROUPS: Final = frozenset({KeGroup.MODP_768, KeGroup.MODP_1024, KeGroup.MODP_1536, KeGroup.ECP_192})


def _method(group: KeGroup) -> KeyExchangeMethod:
    found = KEY_EXCHANGES.get(group)
    if found is None:
        raise LocalError(f"{group.name} is not implemented")
    return found


def _refused(group: KeGroup, error: ValueError) -> RemoteError:
    # RFC 6989 §2.5: INVALID_SYNTAX is what a request with such a value is answered with.
    return RemoteError(f"bad {group.name} public value: {error}", NotifyType.INVALID_SYNTAX)


class KeyExchange:
    """The initiator's end of a key exchange (RFC 7296 §2.14): ``group``, ``public`` for KE, ``shared``."""

    def __init__(self, group: KeGroup, private: PrivateValue) -> None:
        self.group = group
        self.public = private.public
        self._private = private

    @classmethod
    def generate(cls, group: KeGroup, entropy: Entropy) -> KeyExchange:
        """A fresh private value; ``LocalError`` when the group is not implemented."""
        return cls(group, _method(group).generate(entropy))

    def shared(self, peer_public: bytes) -> bytes:
        """The shared secret; ``RemoteError`` when the peer's value fails RFC 6989's checks."""
        try:
            return self._private.shared(peer_public)
        except ValueError as error:
            raise _refused(self.group, error) from error

    @staticmethod
    def respond(group: KeGroup, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
        """The responder's end in one step: its public value for KE, and the shared secret.

        ``RemoteError`` when the peer's value fails RFC 6989's or FIPS 203's checks, ``LocalError`` when the
        group is not implemented.
        """
        try:
            return _method(group).respond(peer_public, entropy)
        except ValueError as error:
            raise _refused(group, error) from error
