"""Signatures in AUTH (RFC 7296 §2.15, §3.8, RFC 4754, RFC 7427, RFC 8420).

RSA (PKCS #1 v1.5, PSS), ECDSA on P-256, P-384 and P-521, Ed25519 and Ed448. Left out: DSS (method 3, MUST
NOT: RFC 8247 §3.1), Brainpool curves, PSS with other salts than one as long as the hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from protocols.buffer import Reader
from protocols.errors import AuthenticationError, DecodeError, Fact, LocalError
from protocols.ikev2.payloads import AuthPayload
from protocols.ikev2.registry import AuthMethod, HashAlgorithmId, NotifyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
PRIVATE_KEYS: Final = (
    ec.EllipticCurvePrivateKey,
    rsa.RSAPrivateKey,
    ed25519.Ed25519PrivateKey,
    ed448.Ed448PrivateKey,
)
PUBLIC_KEYS: Final = (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
PssSigner = Callable[[rsa.RSAPrivateKey, bytes, hashes.HashAlgorithm], bytes]
"""Key, message and hash to an RSASSA-PSS signature whose salt is as long as the hash."""

HASHES: Final[dict[HashAlgorithmId, hashes.HashAlgorithm]] = {
    HashAlgorithmId.SHA2_256: hashes.SHA256(),
    HashAlgorithmId.SHA2_384: hashes.SHA384(),
    HashAlgorithmId.SHA2_512: hashes.SHA512(),
}
"""What RSA and ECDSA are signed with in method 14, and accepted (RFC 7427 §4; SHA-1 MUST NOT: RFC 8247 §3.2)."""

ANNOUNCED: Final = (*HASHES, HashAlgorithmId.IDENTITY)
"""What we say in SIGNATURE_HASH_ALGORITHMS; "Identity" stands for Ed25519 and Ed448 (RFC 8420 §2)."""

# AlgorithmIdentifiers in DER are compared as octets, which RFC 7427 §3 allows.
_ECDSA_IDENTIFIERS: Final[dict[HashAlgorithmId, bytes]] = {
    HashAlgorithmId.SHA2_256: bytes.fromhex("300a06082a8648ce3d040302"),  # RFC 7427 A.3.2
    HashAlgorithmId.SHA2_384: bytes.fromhex("300a06082a8648ce3d040303"),  # RFC 7427 A.3.3
    HashAlgorithmId.SHA2_512: bytes.fromhex("300a06082a8648ce3d040304"),  # RFC 7427 A.3.4
}
_RSA_IDENTIFIERS: Final[dict[HashAlgorithmId, bytes]] = {
    HashAlgorithmId.SHA2_256: bytes.fromhex("300d06092a864886f70d01010b0500"),  # RFC 7427 A.1.2
    HashAlgorithmId.SHA2_384: bytes.fromhex("300d06092a864886f70d01010c0500"),  # RFC 7427 A.1.3
    HashAlgorithmId.SHA2_512: bytes.fromhex("300d06092a864886f70d01010d0500"),  # RFC 7427 A.1.4
}
_ED25519: Final = bytes.fromhex("300506032b6570")  # RFC 8420 A.1
_ED448: Final = bytes.fromhex("300506032b6571")  # RFC 8420 A.2
_HASH_OBJECTS: Final[dict[HashAlgorithmId, bytes]] = {
    HashAlgorithmId.SHA2_256: bytes.fromhex("0609608648016503040201"),
    HashAlgorithmId.SHA2_384: bytes.fromhex("0609608648016503040202"),
    HashAlgorithmId.SHA2_512: bytes.fromhex("0609608648016503040203"),
}
_RSASSA_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
_MGF1: Final = bytes.fromhex("06092a864886f70d010108")
_NULL: Final = bytes.fromhex("0500")
_TRAILER: Final = bytes.fromhex("a303020101")


def _tagged(tag: int, *parts: bytes) -> bytes:
    """A DER value of less than 128 octets."""
    content = b"".join(parts)
    return bytes((tag, len(content))) + content


def _pss_identifier(algorithm: HashAlgorithmId, parameters: bytes, trailer: bytes) -> bytes:
    """RSASSA-PSS with one hash for message and MGF1 and a salt as long as the hash (RFC 7427 A.4.3)."""
    digest = _tagged(0x30, _HASH_OBJECTS[algorithm], parameters)
    return _tagged(
        0x30,
        _RSASSA_PSS,
        _tagged(
            0x30,
            _tagged(0xA0, digest),
            _tagged(0xA1, _tagged(0x30, _MGF1, digest)),
            _tagged(0xA2, _tagged(0x02, bytes((HASHES[algorithm].digest_size,)))),
            trailer,
        ),
    )


# What RFC 7427 A.4.3 shows is sent. Others leave out the NULL (RFC 4055 §2.1 has both understood) or the
# trailer field, whose value is the default.
_PSS_IDENTIFIERS: Final[dict[HashAlgorithmId, bytes]] = {
    algorithm: _pss_identifier(algorithm, _NULL, _TRAILER) for algorithm in _HASH_OBJECTS
}
_ECDSA_BY_IDENTIFIER: Final = {octets: algorithm for algorithm, octets in _ECDSA_IDENTIFIERS.items()}
_RSA_BY_IDENTIFIER: Final = {octets: algorithm for algorithm, octets in _RSA_IDENTIFIERS.items()}
_PSS_BY_IDENTIFIER: Final = {
    _pss_identifier(algorithm, parameters, trailer): algorithm
    for algorithm in _HASH_OBJECTS
    for parameters in (_NULL, b"")
    for trailer in (_TRAILER, b"")
}


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A curve with an authentication method of its own (RFC 4754 §3)."""

    method: AuthMethod
    algorithm: HashAlgorithmId
    coordinate_length: int


_CURVES: Final[dict[str, _Curve]] = {
    "secp256r1": _Curve(
        method=AuthMethod.ECDSA_WITH_SHA_256_ON_P_256,
        algorithm=HashAlgorithmId.SHA2_256,
        coordinate_length=32,
    ),
    "secp384r1": _Curve(
        method=AuthMethod.ECDSA_WITH_SHA_384_ON_P_384,
        algorithm=HashAlgorithmId.SHA2_384,
        coordinate_length=48,
    ),
    "secp521r1": _Curve(
        method=AuthMethod.ECDSA_WITH_SHA_512_ON_P_521,
        algorithm=HashAlgorithmId.SHA2_512,
        coordinate_length=66,
    ),
}

MINIMUM_RSA_BITS: Final = 2048  # RFC 8247 §3.1.1


def encode_hash_algorithms(algorithms: Iterable[HashAlgorithmId] = ANNOUNCED) -> bytes:
    """The data of a SIGNATURE_HASH_ALGORITHMS Notify (RFC 7427 §4)."""
    return b"".join([algorithm.to_bytes(2, "big") for algorithm in algorithms])


def decode_hash_algorithms(data: bytes) -> frozenset[HashAlgorithmId]:
    """What a SIGNATURE_HASH_ALGORITHMS Notify lists (RFC 7427 §4)."""
    reader = Reader(data)
    algorithms: set[HashAlgorithmId] = set()
    while reader.remaining:
        algorithms.add(HashAlgorithmId(reader.u16()))
    return frozenset(algorithms)


def refused(why: str, reason: str = "", facts: Mapping[str, Fact] | None = None) -> AuthenticationError:
    """An ``AuthenticationError`` that the peer is told as AUTHENTICATION_FAILED."""
    return AuthenticationError(why, NotifyType.AUTHENTICATION_FAILED, reason=reason, facts=facts)


# --- keys


def check_private_key(key: PrivateKey) -> None:
    """``LocalError`` for a key that nothing here can sign with."""
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise LocalError(f"keys on {key.curve.name} are not implemented")


def check_public_key(key: object) -> PublicKey:
    """The key of a peer's certificate, if it is of a kind and a size to trust; ``AuthenticationError``."""
    if not isinstance(key, PUBLIC_KEYS):
        raise refused("the certificate's key is neither RSA nor on an elliptic curve")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MINIMUM_RSA_BITS:
        raise refused(f"an RSA key of {key.key_size} bits is too short")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise refused(f"keys on {key.curve.name} are not accepted")
    return key


def can_sign(key: PrivateKey, peer_hashes: frozenset[HashAlgorithmId]) -> bool:
    """Whether a peer with these SIGNATURE_HASH_ALGORITHMS takes signatures of the key.

    Ed25519 and Ed448 need "Identity" (RFC 8420 §2); RSA and ECDSA have methods of their own besides.
    """
    if isinstance(key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
        return HashAlgorithmId.IDENTITY in peer_hashes
    return True


# --- signing


def library_pss(key: rsa.RSAPrivateKey, octets: bytes, digest: hashes.HashAlgorithm) -> bytes:
    """RSASSA-PSS with the library's own random salt: it takes none from outside, so these do not replay."""
    return key.sign(octets, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)


def sign(
    key: PrivateKey, octets: bytes, peer_hashes: frozenset[HashAlgorithmId], pss: PssSigner | None = None
) -> AuthPayload:
    """AUTH over ``auth_octets``; ``peer_hashes`` is what the peer's SIGNATURE_HASH_ALGORITHMS lists.

    ``pss``: sign with RSASSA-PSS where method 14 and an RSA key meet. All other signatures are deterministic.
    """
    if not can_sign(key, peer_hashes):
        raise LocalError("the peer does not announce Identity, which Ed25519 and Ed448 need")
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return _digital(_ED25519, key.sign(octets))
    if isinstance(key, ed448.Ed448PrivateKey):
        return _digital(_ED448, key.sign(octets))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _sign_ecdsa(key, octets, peer_hashes)
    for algorithm, digest in HASHES.items():
        if algorithm in peer_hashes:
            # RFC 7427 §3: MUST be used when both ends have sent their hash algorithms.
            if pss is not None:
                return _digital(_PSS_IDENTIFIERS[algorithm], pss(key, octets, digest))
            return _digital(_RSA_IDENTIFIERS[algorithm], key.sign(octets, padding.PKCS1v15(), digest))
    # RFC 7296 §3.8: SHA-1 unless something else is known of the peer.
    return AuthPayload(AuthMethod.RSA_DIGITAL_SIGNATURE, key.sign(octets, padding.PKCS1v15(), hashes.SHA1()))


def _sign_ecdsa(key: ec.EllipticCurvePrivateKey, octets: bytes, peer_hashes: frozenset[HashAlgorithmId]) -> AuthPayload:
    """Deterministic ECDSA (RFC 6979), with the curve's own hash if the peer has it."""
    curve = _CURVES[key.curve.name]
    for algorithm in (curve.algorithm, *HASHES):
        if algorithm in peer_hashes:
            scheme = ec.ECDSA(HASHES[algorithm], deterministic_signing=True)
            return _digital(_ECDSA_IDENTIFIERS[algorithm], key.sign(octets, scheme))
    r, s = decode_dss_signature(key.sign(octets, ec.ECDSA(HASHES[curve.algorithm], deterministic_signing=True)))
    # RFC 4754 §7: r and s one after another, each as long as the curve's order.
    length = curve.coordinate_length
    return AuthPayload(curve.method, r.to_bytes(length, "big") + s.to_bytes(length, "big"))


def _digital(identifier: bytes, signature: bytes) -> AuthPayload:
    """Method 14 (RFC 7427 §3): length of the AlgorithmIdentifier, itself, the signature."""
    return AuthPayload(AuthMethod.DIGITAL_SIGNATURE, bytes((len(identifier),)) + identifier + signature)


# --- verifying


def verify_auth(public_key: PublicKey, auth: AuthPayload, octets: bytes) -> None:
    """Check the signature in AUTH over ``auth_octets``; ``AuthenticationError`` when it is wrong."""
    try:
        if auth.method == AuthMethod.DIGITAL_SIGNATURE:
            _verify_digital(public_key, auth.data, octets)
        elif auth.method == AuthMethod.RSA_DIGITAL_SIGNATURE:
            _verify_rsa(public_key, auth.data, octets)
        else:
            _verify_ecdsa(public_key, auth, octets)
    except (InvalidSignature, UnsupportedAlgorithm) as error:
        raise refused("the signature in AUTH is wrong", "signature-wrong") from error


def _verify_digital(public_key: PublicKey, data: bytes, octets: bytes) -> None:
    reader = Reader(data)
    try:
        identifier = reader.take(reader.u8())
        signature = reader.rest()
    except DecodeError as error:
        raise DecodeError(f"AUTH of method 14: {error}", NotifyType.INVALID_SYNTAX) from error
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        if identifier == _ED25519:
            public_key.verify(signature, octets)
            return
    elif isinstance(public_key, ed448.Ed448PublicKey):
        if identifier == _ED448:
            public_key.verify(signature, octets)
            return
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        algorithm = _ECDSA_BY_IDENTIFIER.get(identifier)
        if algorithm is not None:
            public_key.verify(signature, octets, ec.ECDSA(HASHES[algorithm]))
            return
    else:
        algorithm = _RSA_BY_IDENTIFIER.get(identifier)
        if algorithm is not None:
            public_key.verify(signature, octets, padding.PKCS1v15(), HASHES[algorithm])
            return
        algorithm = _PSS_BY_IDENTIFIER.get(identifier)
        if algorithm is not None:
            digest = HASHES[algorithm]
            scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
            public_key.verify(signature, octets, scheme, digest)
            return
    raise refused(f"signature algorithm {identifier.hex()} does not go with the certificate's key")


def _verify_rsa(public_key: PublicKey, signature: bytes, octets: bytes) -> None:
    """Method 1 does not say its hash (RFC 7296 §3.8): SHA-1 is the default, SHA-2 is met too."""
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise refused("AUTH is an RSA signature, the certificate's key is not RSA")
    for digest in (hashes.SHA1(), *HASHES.values()):
        try:
            public_key.verify(signature, octets, padding.PKCS1v15(), digest)
            return
        except InvalidSignature:
            continue
    raise InvalidSignature


def _verify_ecdsa(public_key: PublicKey, auth: AuthPayload, octets: bytes) -> None:
    """Methods 9, 10 and 11 (RFC 4754): r and s one after another."""
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise refused(f"AUTH is of method {auth.method.name}, which the certificate's key cannot make")
    curve = _CURVES.get(public_key.curve.name)
    if curve is None or curve.method != auth.method:
        raise refused(f"AUTH is of method {auth.method.name}, the key is on {public_key.curve.name}")
    length = curve.coordinate_length
    if len(auth.data) != 2 * length:
        raise InvalidSignature
    signature = encode_dss_signature(
        int.from_bytes(auth.data[:length], "big"), int.from_bytes(auth.data[length:], "big")
    )
    public_key.verify(signature, octets, ec.ECDSA(HASHES[curve.algorithm]))
