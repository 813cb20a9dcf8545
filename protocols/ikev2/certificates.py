"""Signatures and certificates in IKE_AUTH (RFC 7296 §2.15, §3.6–3.8, RFC 4754, RFC 7427, RFC 4945).

RSA (PKCS #1 v1.5, PSS) and ECDSA on P-256 and P-384. Path validation is the ``cryptography`` library's;
revocation (CRL, OCSP), raw keys and hash-and-URL certificates are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from protocols.buffer import Reader
from protocols.errors import AuthenticationError, DecodeError, LocalError
from protocols.ikev2.payloads import AuthPayload, CertPayload, IdrPayload
from protocols.ikev2.registry import AuthMethod, CertEncoding, HashAlgorithmId, IdType, NotifyType

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

HASHES: Final[dict[HashAlgorithmId, hashes.HashAlgorithm]] = {
    HashAlgorithmId.SHA2_256: hashes.SHA256(),
    HashAlgorithmId.SHA2_384: hashes.SHA384(),
    HashAlgorithmId.SHA2_512: hashes.SHA512(),
}
"""What we say in SIGNATURE_HASH_ALGORITHMS and accept in method 14 (RFC 7427 §4; SHA-1 MUST NOT: RFC 8247 §3.2)."""

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
}

MINIMUM_RSA_BITS: Final = 2048  # RFC 8247 §3.1.1


def encode_hash_algorithms(algorithms: Iterable[HashAlgorithmId] = tuple(HASHES)) -> bytes:
    """The data of a SIGNATURE_HASH_ALGORITHMS Notify (RFC 7427 §4)."""
    return b"".join([algorithm.to_bytes(2, "big") for algorithm in algorithms])


def decode_hash_algorithms(data: bytes) -> frozenset[HashAlgorithmId]:
    """What a SIGNATURE_HASH_ALGORITHMS Notify lists (RFC 7427 §4)."""
    reader = Reader(data)
    algorithms: set[HashAlgorithmId] = set()
    while reader.remaining:
        algorithms.add(HashAlgorithmId(reader.u16()))
    return frozenset(algorithms)


class Credential:
    """A certificate chain in DER, our own certificate first, and its private key.

    ``pss``: sign with RSASSA-PSS where method 14 and an RSA key meet. Its salt is the library's own random
    choice, so that such runs do not replay octet by octet; without it all signatures are deterministic.
    """

    def __init__(self, chain: tuple[bytes, ...], private_key: PrivateKey, *, pss: bool = False) -> None:
        if not chain:
            raise LocalError("a credential needs a certificate")
        if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.name not in _CURVES:
            raise LocalError(f"keys on {private_key.curve.name} are not implemented")
        certified = x509.load_der_x509_certificate(chain[0]).public_key()
        if not isinstance(certified, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)) or _key_octets(
            certified
        ) != _key_octets(private_key.public_key()):
            raise LocalError("the private key does not belong to the first certificate of the chain")
        self.chain = chain
        self._private_key = private_key
        self._pss = pss

    def cert_payloads(self) -> tuple[CertPayload, ...]:
        """One CERT payload for each certificate, our own first (RFC 7296 §3.6)."""
        return tuple([CertPayload(CertEncoding.X509_SIGNATURE, octets) for octets in self.chain])

    def sign(self, octets: bytes, peer_hashes: frozenset[HashAlgorithmId]) -> AuthPayload:
        """AUTH over ``auth_octets``; ``peer_hashes`` is what the peer's SIGNATURE_HASH_ALGORITHMS lists."""
        key = self._private_key
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return _sign_ecdsa(key, octets, peer_hashes)
        for algorithm, digest in HASHES.items():
            if algorithm in peer_hashes:
                # RFC 7427 §3: MUST be used when both ends have sent their hash algorithms.
                if self._pss:
                    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
                    return _digital(_PSS_IDENTIFIERS[algorithm], key.sign(octets, scheme, digest))
                signature = key.sign(octets, padding.PKCS1v15(), digest)
                return _digital(_RSA_IDENTIFIERS[algorithm], signature)
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


def _key_octets(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _refused(why: str) -> AuthenticationError:
    return AuthenticationError(why, NotifyType.AUTHENTICATION_FAILED)


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
        raise _refused("the signature in AUTH is wrong") from error


def _verify_digital(public_key: PublicKey, data: bytes, octets: bytes) -> None:
    reader = Reader(data)
    try:
        identifier = reader.take(reader.u8())
        signature = reader.rest()
    except DecodeError as error:
        raise DecodeError(f"AUTH of method 14: {error}", NotifyType.INVALID_SYNTAX) from error
    if isinstance(public_key, ec.EllipticCurvePublicKey):
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
    raise _refused(f"signature algorithm {identifier.hex()} does not go with the certificate's key")


def _verify_rsa(public_key: PublicKey, signature: bytes, octets: bytes) -> None:
    """Method 1 does not say its hash (RFC 7296 §3.8): SHA-1 is the default, SHA-2 is met too."""
    if not isinstance(public_key, rsa.RSAPublicKey):
        raise _refused("AUTH is an RSA signature, the certificate's key is not RSA")
    for digest in (hashes.SHA1(), *HASHES.values()):
        try:
            public_key.verify(signature, octets, padding.PKCS1v15(), digest)
            return
        except InvalidSignature:
            continue
    raise InvalidSignature


def _verify_ecdsa(public_key: PublicKey, auth: AuthPayload, octets: bytes) -> None:
    """Methods 9 and 10 (RFC 4754): r and s one after another."""
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise _refused(f"AUTH is of method {auth.method.name}, which the certificate's key cannot make")
    curve = _CURVES.get(public_key.curve.name)
    if curve is None or curve.method != auth.method:
        raise _refused(f"AUTH is of method {auth.method.name}, the key is on {public_key.curve.name}")
    length = curve.coordinate_length
    if len(auth.data) != 2 * length:
        raise InvalidSignature
    signature = encode_dss_signature(
        int.from_bytes(auth.data[:length], "big"), int.from_bytes(auth.data[length:], "big")
    )
    public_key.verify(signature, octets, ec.ECDSA(HASHES[curve.algorithm]))


# RFC 4945 §5.1.3.12: what an extended key usage may say of a key for IKE.
_IKE_USAGES: Final = frozenset(
    {
        x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1"),  # id-kp-serverAuth
        x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17"),  # id-kp-ipsecIKE
        x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2"),  # iKEIntermediate
        x509.ObjectIdentifier("2.5.29.37.0"),  # anyExtendedKeyUsage
    }
)


# What the library raises for certificates that are malformed or beyond it.
_UNPARSED: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


class CertificateVerifier:
    """Checks a peer's certificate chain against trust anchors; ``moment`` tells the time, with its zone."""

    def __init__(self, anchors: tuple[bytes, ...], moment: Callable[[], datetime]) -> None:
        if not anchors:
            raise LocalError("a certificate verifier needs a trust anchor")
        self._anchors = tuple([x509.load_der_x509_certificate(octets) for octets in anchors])
        self._store = verification.Store(list(self._anchors))
        self._moment = moment
        # RFC 5280 §6.1 without the web's own rules on extensions: IKE certificates need not have been made
        # for TLS. Issuers have to be authorities.
        self._authority_policy = verification.ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
        )
        self._end_policy = verification.ExtensionPolicy.permit_all()

    def authorities(self) -> bytes:
        """The Certification Authority field of CERTREQ (RFC 7296 §3.7): SHA-1 of each anchor's key."""
        return b"".join(
            [
                hashlib.sha1(
                    anchor.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                    usedforsecurity=False,
                ).digest()
                for anchor in self._anchors
            ]
        )

    def verify(self, chain: tuple[bytes, ...], identity: IdrPayload | None, names: tuple[str, ...] = ()) -> PublicKey:
        """The peer's public key, or ``AuthenticationError`` with one reason.

        ``chain`` is DER, the peer's own certificate first, the others in any order. The certificate must
        carry ``identity`` (what the peer says it is, RFC 4945 §3.1) and, when ``names`` are given, one of
        them (whom we meant to reach).
        """
        if not chain:
            raise _refused("the peer sent no certificate")
        try:
            own, *others = [x509.load_der_x509_certificate(octets) for octets in chain]
            self._verify_path(own, others)
            _check_usage(own)
            _check_names(own, identity, names)
            public_key = own.public_key()
        except _UNPARSED as error:
            # The library parses names, extensions and keys only when they are asked for.
            raise _refused(f"a certificate does not parse: {' '.join(str(error).split())}") from error
        if isinstance(public_key, rsa.RSAPublicKey):
            if public_key.key_size < MINIMUM_RSA_BITS:
                raise _refused(f"an RSA key of {public_key.key_size} bits is too short")
            return public_key
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            return public_key
        raise _refused("the certificate's key is neither RSA nor on an elliptic curve")

    def verify_auth(self, public_key: PublicKey, auth: AuthPayload, octets: bytes) -> None:
        """Check AUTH with the key that ``verify`` returned; ``AuthenticationError`` when it is wrong."""
        verify_auth(public_key, auth, octets)

    def _verify_path(self, own: x509.Certificate, others: list[x509.Certificate]) -> None:
        moment = self._moment()
        for certificate in (own, *others):
            subject = certificate.subject.rfc4514_string()
            if moment > certificate.not_valid_after_utc:
                raise _refused(f"certificate {subject!r} expired at {certificate.not_valid_after_utc}")
            if moment < certificate.not_valid_before_utc:
                raise _refused(f"certificate {subject!r} is valid from {certificate.not_valid_before_utc} only")
        verifier = (
            verification.PolicyBuilder()
            .store(self._store)
            .time(moment)
            .extension_policies(ca_policy=self._authority_policy, ee_policy=self._end_policy)
            .build_client_verifier()
        )
        try:
            verifier.verify(own, others)
        except verification.VerificationError as error:
            raise _refused(f"certificate {own.subject.rfc4514_string()!r} {self._why(own, others)}") from error

    def _why(self, own: x509.Certificate, others: list[x509.Certificate]) -> str:
        """A plain reason why no path was found; the library only says that there is none."""
        if own.issuer == own.subject:
            return "is self-signed and no trust anchor"
        issuers = [candidate for candidate in (*self._anchors, *others) if candidate.subject == own.issuer]
        if not issuers:
            return f"is issued by {own.issuer.rfc4514_string()!r}, which is no trust anchor"
        if not any(_issued(own, issuer) for issuer in issuers):
            return f"is not signed by the {own.issuer.rfc4514_string()!r} that we know"
        return "has no valid path to a trust anchor"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_usage(certificate: x509.Certificate) -> None:
    """Key usage and extended key usage, where they are there (RFC 4945 §5.1.3.2, §5.1.3.12)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature and not usage.content_commitment:
            raise _refused("the certificate's key usage allows no signatures")
    except x509.ExtensionNotFound:
        pass
    try:
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if _IKE_USAGES.isdisjoint(extended):
            raise _refused("the certificate's extended key usage allows neither servers nor IKE")
    except x509.ExtensionNotFound:
        pass


def _check_names(certificate: x509.Certificate, identity: IdrPayload | None, names: tuple[str, ...]) -> None:
    """The subject alternative names against the peer's identity and the names that we accept."""
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = alternative.get_values_for_type(x509.DNSName)
        addresses = [str(address) for address in alternative.get_values_for_type(x509.IPAddress)]
        mailboxes = alternative.get_values_for_type(x509.RFC822Name)
    except x509.ExtensionNotFound:
        hosts, addresses, mailboxes = [], [], []
    if identity is not None:
        shown, found = _shown(identity, certificate, hosts, addresses, mailboxes)
        if not found:
            raise _refused(f"the certificate is not for {shown}, which the peer says it is")
    if names and not any(_host_matches(name, host) for name in names for host in hosts):
        carried = ", ".join([*hosts, *addresses, *mailboxes]) or "no names"
        raise _refused(f"the certificate is for {carried}, not for {' or '.join(names)}")


def _shown(
    identity: IdrPayload,
    certificate: x509.Certificate,
    hosts: list[str],
    addresses: list[str],
    mailboxes: list[str],
) -> tuple[str, bool]:
    """An identity as text, and whether the certificate carries it (RFC 4945 §3.1.1 to §3.1.5)."""
    if identity.id_type == IdType.ID_FQDN:
        name = identity.data.decode("ascii", "backslashreplace")
        return name, any(_host_matches(name, host) for host in hosts)
    if identity.id_type == IdType.ID_RFC822_ADDR:
        name = identity.data.decode("ascii", "backslashreplace")
        return name, name in mailboxes
    if identity.id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR):
        if len(identity.data) != (4 if identity.id_type == IdType.ID_IPV4_ADDR else 16):
            raise _refused("the peer's identity is no address")
        name = str(ip_address(identity.data))
        return name, name in addresses
    if identity.id_type == IdType.ID_DER_ASN1_DN:
        return identity.data.hex(), identity.data == certificate.subject.public_bytes()
    return f"an identity of type {identity.id_type.name}", False


def _host_matches(name: str, host: str) -> bool:
    """RFC 6125 §6.4: without regard to case; a wildcard stands for one leftmost label."""
    wanted = name.rstrip(".").lower()
    carried = host.rstrip(".").lower()
    if carried.startswith("*."):
        return wanted.partition(".")[2] == carried[2:] and not wanted.startswith(".")
    return wanted == carried
