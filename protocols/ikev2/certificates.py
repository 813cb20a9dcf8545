"""Certificates in IKE_AUTH (RFC 7296 §3.6, §3.7, RFC 4945): what is shown, asked for, chosen and checked.

Path validation is the ``cryptography`` library's, so that authorities have RSA or ECDSA keys; certified keys
may be Ed25519 and Ed448 too. Left out: raw keys, "hash and URL" (HTTP_CERT_LOOKUP_SUPPORTED is never sent).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import verification

from protocols.errors import Fact, LocalError
from protocols.ikev2.message import Message
from protocols.ikev2.payloads import AuthPayload, CertPayload, CertreqPayload, IdiPayload, IdrPayload
from protocols.ikev2.registry import CertEncoding, HashAlgorithmId, IdType
from protocols.ikev2.revocation import UNPARSED, Evidence, Revocation, RevocationPolicy
from protocols.ikev2.signatures import (
    PRIVATE_KEYS,
    PUBLIC_KEYS,
    PrivateKey,
    PssSigner,
    PublicKey,
    can_sign,
    check_private_key,
    check_public_key,
    refused,
    sign,
)

Identity = IdiPayload | IdrPayload
AUTHORITY_HASH_LENGTH: Final = 20
CERTIFICATES_MAXIMUM: Final = 10  # in one chain of a peer

# RFC 4945 §5.1.3.12: what an extended key usage may say of a key for IKE.
_IKE_USAGES: Final = frozenset(
    {
        x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17"),  # id-kp-ipsecIKE
        x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2"),  # iKEIntermediate
        x509.ObjectIdentifier("2.5.29.37.0"),  # anyExtendedKeyUsage
    }
)
_SERVER_AUTH: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")
_CLIENT_AUTH: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")


@dataclass(frozen=True, kw_only=True)
class Requested:
    """What the CERTREQ payloads of a message ask for (RFC 7296 §3.7, RFC 4806 §3.1)."""

    authorities: frozenset[bytes] = frozenset()
    ocsp: bool = False

    @classmethod
    def of(cls, message: Message) -> Requested:
        """Hashes of authorities' keys, and whether OCSP responses are wanted; a broken list asks for nothing."""
        hashes: set[bytes] = set()
        ocsp = False
        for request in message.all(CertreqPayload):
            octets = request.authorities
            if request.encoding == CertEncoding.OCSP_CONTENT:
                ocsp = True
            elif request.encoding == CertEncoding.X509_SIGNATURE and len(octets) % AUTHORITY_HASH_LENGTH == 0:
                hashes.update(
                    octets[at : at + AUTHORITY_HASH_LENGTH] for at in range(0, len(octets), AUTHORITY_HASH_LENGTH)
                )
        return cls(authorities=frozenset(hashes), ocsp=ocsp)


class Credential:
    """A certificate chain in DER, our own certificate first, and its private key.

    ``authorities`` are certificates above the chain, which are not sent: CERTREQ may name them.
    ``ocsp_responses`` are sent to peers that ask for OCSP. ``pss``: sign with RSASSA-PSS where method 14 and
    an RSA key meet (``signatures.library_pss``).
    """

    def __init__(
        self,
        chain: tuple[bytes, ...],
        private_key: PrivateKey,
        *,
        authorities: tuple[bytes, ...] = (),
        ocsp_responses: tuple[bytes, ...] = (),
        pss: PssSigner | None = None,
    ) -> None:
        if not chain:
            raise LocalError("a credential needs a certificate")
        if not isinstance(private_key, PRIVATE_KEYS):
            raise LocalError("a credential needs an RSA, ECDSA, Ed25519 or Ed448 key")
        check_private_key(private_key)
        self._certificate = x509.load_der_x509_certificate(chain[0])
        certified = self._certificate.public_key()
        if not isinstance(certified, PUBLIC_KEYS) or _key_octets(certified) != _key_octets(private_key.public_key()):
            raise LocalError("the private key does not belong to the first certificate of the chain")
        self.chain = chain
        self._private_key = private_key
        self._pss = pss
        self._ocsp_responses = ocsp_responses
        above = [x509.load_der_x509_certificate(octets) for octets in (*chain[1:], *authorities)]
        self._authority_hashes = frozenset([authority_hash(certificate) for certificate in above])

    def cert_payloads(self) -> tuple[CertPayload, ...]:
        """One CERT payload for each certificate, our own first (RFC 7296 §3.6)."""
        return tuple([CertPayload(CertEncoding.X509_SIGNATURE, octets) for octets in self.chain])

    def ocsp_payloads(self) -> tuple[CertPayload, ...]:
        """One CERT payload for each OCSP response (RFC 4806 §4.2)."""
        return tuple([CertPayload(CertEncoding.OCSP_CONTENT, octets) for octets in self._ocsp_responses])

    def sign(self, octets: bytes, peer_hashes: frozenset[HashAlgorithmId]) -> AuthPayload:
        """AUTH over ``auth_octets``; ``peer_hashes`` is what the peer's SIGNATURE_HASH_ALGORITHMS lists."""
        return sign(self._private_key, octets, peer_hashes, self._pss)

    def suits(self, peer_hashes: frozenset[HashAlgorithmId]) -> bool:
        """Whether the peer takes signatures of this key."""
        return can_sign(self._private_key, peer_hashes)

    def leads_to(self, authorities: frozenset[bytes]) -> bool:
        """Whether one of the authorities that the peer named stands above our certificate."""
        return not self._authority_hashes.isdisjoint(authorities)

    def carries(self, identity: Identity) -> bool:
        """Whether the certificate is for this identity."""
        return _Names.of(self._certificate).carry(identity)


def choose(
    credentials: Sequence[Credential],
    requested: Requested,
    peer_hashes: frozenset[HashAlgorithmId],
    identity: Identity | None,
) -> Credential:
    """The credential to show: one that the peer's CERTREQ leads to, then one for the identity, then the first.

    RFC 7296 §3.7 has CERTREQ as a suggestion: without a match the first one that the peer can verify is shown.
    """
    usable = [credential for credential in credentials if credential.suits(peer_hashes)]
    if not usable:
        raise refused("no certificate of ours has a key whose signatures the peer takes")
    return max(
        usable,
        key=lambda credential: (
            credential.leads_to(requested.authorities),
            identity is not None and credential.carries(identity),
        ),
    )


def authority_hash(certificate: x509.Certificate) -> bytes:
    """How CERTREQ names an authority: SHA-1 of its SubjectPublicKeyInfo (RFC 7296 §3.7)."""
    octets = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def _key_octets(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def evidence_in(message: Message) -> tuple[tuple[bytes, ...], Evidence]:
    """The CERT payloads of a message: the chain, the peer's own certificate first, and what is for revocation."""

    def of(encoding: CertEncoding) -> tuple[bytes, ...]:
        return tuple([payload.data for payload in message.all(CertPayload) if payload.encoding == encoding])

    evidence = Evidence(crls=of(CertEncoding.CRL), ocsp_responses=of(CertEncoding.OCSP_CONTENT))
    return of(CertEncoding.X509_SIGNATURE), evidence


class CertificateVerifier:
    """Checks a peer's certificate chain against trust anchors; ``moment`` tells the time, with its zone."""

    def __init__(
        self, anchors: tuple[bytes, ...], moment: Callable[[], datetime], *, revocation: Revocation | None = None
    ) -> None:
        if not anchors:
            raise LocalError("a certificate verifier needs a trust anchor")
        self._anchors = tuple([x509.load_der_x509_certificate(octets) for octets in anchors])
        self._store = verification.Store(list(self._anchors))
        self._moment = moment
        self._revocation = revocation or Revocation()
        # RFC 5280 §6.1 without the web's own rules on extensions: IKE certificates need not have been made
        # for TLS. Issuers have to be authorities.
        self._authority_policy = verification.ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
        )
        self._end_policy = verification.ExtensionPolicy.permit_all()

    def authorities(self) -> bytes:
        """The Certification Authority field of CERTREQ (RFC 7296 §3.7): SHA-1 of each anchor's key."""
        return b"".join([authority_hash(anchor) for anchor in self._anchors])

    def requests(self) -> tuple[CertreqPayload, ...]:
        """CERTREQ for certificates, and a separate one for OCSP where it counts (RFC 4806 §4.1)."""
        certificates = CertreqPayload(CertEncoding.X509_SIGNATURE, self.authorities())
        if self._revocation.policy is RevocationPolicy.OFF:
            return (certificates,)
        responders = b"".join(
            [hashlib.sha1(key, usedforsecurity=False).digest() for key in self._revocation.responder_keys]
        )
        return certificates, CertreqPayload(CertEncoding.OCSP_CONTENT, responders)

    def verify(
        self,
        chain: tuple[bytes, ...],
        identity: Identity | None,
        names: tuple[str, ...] = (),
        *,
        evidence: Evidence | None = None,
        client: bool = False,
    ) -> PublicKey:
        """The peer's public key, or ``AuthenticationError`` with one reason.

        ``chain`` is DER, the peer's own certificate first, the others in any order. The certificate must
        carry ``identity`` (what the peer says it is, RFC 4945 §3.1) and, when ``names`` are given, one of
        them (whom we meant to reach). ``client``: the peer is a UE, whose extended key usage may say so.
        """
        if not chain:
            raise refused("the peer sent no certificate", "certificate-missing")
        if len(chain) > CERTIFICATES_MAXIMUM:
            raise refused(f"the peer sent more than {CERTIFICATES_MAXIMUM} certificates")
        try:
            own, *others = [x509.load_der_x509_certificate(octets) for octets in chain]
            moment = self._moment()
            path = self._verify_path(own, others, moment)
            _check_usage(own, client=client)
            _check_names(own, identity, names)
            self._revocation.check(path, evidence or Evidence(), moment)
            return check_public_key(own.public_key())
        except UNPARSED as error:
            # The library parses names, extensions and keys only when they are asked for.
            raise refused(f"a certificate does not parse: {' '.join(str(error).split())}") from error

    def _verify_path(
        self, own: x509.Certificate, others: list[x509.Certificate], moment: datetime
    ) -> list[x509.Certificate]:
        """The path from the peer's own certificate to a trust anchor."""
        for certificate in (own, *others):
            early = moment < certificate.not_valid_before_utc
            if early or moment > certificate.not_valid_after_utc:
                when = "is valid from" if early else "expired at"
                limit = certificate.not_valid_before_utc if early else certificate.not_valid_after_utc
                subject = certificate.subject.rfc4514_string()
                raise refused(
                    f"certificate {subject!r} {when} {limit}",
                    "certificate-early" if early else "certificate-expired",
                    {"subject": subject, "limit": str(limit), "now": str(moment)},
                )
        verifier = (
            verification.PolicyBuilder()
            .store(self._store)
            .time(moment)
            .extension_policies(ca_policy=self._authority_policy, ee_policy=self._end_policy)
            .build_client_verifier()
        )
        try:
            return verifier.verify(own, others).chain
        except verification.VerificationError as error:
            subject, why = own.subject.rfc4514_string(), self._why(own, others)
            facts: dict[str, Fact] = {
                "subject": subject,
                "why": why,
                "anchors": [anchor.subject.rfc4514_string() for anchor in self._anchors],
            }
            raise refused(f"certificate {subject!r} {why}", "certificate-untrusted", facts) from error

    def _why(self, own: x509.Certificate, others: list[x509.Certificate]) -> str:
        """A plain reason why no path was found; the library only says that there is none."""
        if own.issuer == own.subject:
            return "is self-signed and no trust anchor"
        issuers = [candidate for candidate in (*self._anchors, *others) if candidate.subject == own.issuer]
        if not issuers:
            return f"is issued by {own.issuer.rfc4514_string()!r}, which is no trust anchor"
        if not any(_issued(own, issuer) for issuer in issuers):
            return f"is not signed by the {own.issuer.rfc4514_string()!r} that we know"
        if any(isinstance(one.public_key(), ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) for one in issuers):
            return f"is issued by {own.issuer.rfc4514_string()!r}, whose key is neither RSA nor ECDSA"
        return "has no valid path to a trust anchor"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_usage(certificate: x509.Certificate, *, client: bool) -> None:
    """Key usage and extended key usage, where they are there (RFC 4945 §5.1.3.2, §5.1.3.12)."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        if not usage.digital_signature and not usage.content_commitment:
            raise refused("the certificate's key usage allows no signatures")
    except x509.ExtensionNotFound:
        pass
    try:
        extended = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if (_IKE_USAGES | {_CLIENT_AUTH if client else _SERVER_AUTH}).isdisjoint(extended):
            kind = "clients" if client else "servers"
            raise refused(f"the certificate's extended key usage allows neither {kind} nor IKE")
    except x509.ExtensionNotFound:
        pass


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Subject and subject alternative names of a certificate."""

    subject: bytes
    hosts: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    mailboxes: tuple[str, ...] = ()

    @classmethod
    def of(cls, certificate: x509.Certificate) -> _Names:
        subject = certificate.subject.public_bytes()
        try:
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return cls(subject=subject)
        return cls(
            subject=subject,
            hosts=tuple(alternative.get_values_for_type(x509.DNSName)),
            addresses=tuple([str(address) for address in alternative.get_values_for_type(x509.IPAddress)]),
            mailboxes=tuple(alternative.get_values_for_type(x509.RFC822Name)),
        )

    def shown(self) -> list[Fact]:
        """All but the subject."""
        return [*self.hosts, *self.addresses, *self.mailboxes]

    def carry(self, identity: Identity) -> bool:
        """Whether an identity stands in the certificate (RFC 4945 §3.1.1 to §3.1.5)."""
        if identity.id_type == IdType.ID_FQDN:
            name = identity.data.decode("ascii", "backslashreplace")
            return any(_host_matches(name, host) for host in self.hosts)
        if identity.id_type == IdType.ID_RFC822_ADDR:
            return identity.data.decode("ascii", "backslashreplace") in self.mailboxes
        if identity.id_type in _ADDRESS_LENGTHS:
            fits = len(identity.data) == _ADDRESS_LENGTHS[identity.id_type]
            return fits and str(ip_address(identity.data)) in self.addresses
        return identity.id_type == IdType.ID_DER_ASN1_DN and identity.data == self.subject


_ADDRESS_LENGTHS: Final = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16}


def _check_names(certificate: x509.Certificate, identity: Identity | None, names: tuple[str, ...]) -> None:
    """The subject alternative names against the peer's identity and the names that we accept."""
    found = _Names.of(certificate)
    if identity is not None and not found.carry(identity):
        facts: dict[str, Fact] = {"carried": found.shown(), "wanted": [_shown(identity)]}
        text = f"the certificate is not for {_shown(identity)}, which the peer says it is"
        raise refused(text, "certificate-names", facts)
    if names and not any(_host_matches(name, host) for name in names for host in found.hosts):
        carried = ", ".join(map(str, found.shown())) or "no names"
        text = f"the certificate is for {carried}, not for {' or '.join(names)}"
        raise refused(text, "certificate-names", {"carried": found.shown(), "wanted": [*names]})


def _shown(identity: Identity) -> str:
    """An identity as text."""
    if identity.id_type in (IdType.ID_FQDN, IdType.ID_RFC822_ADDR):
        return identity.data.decode("ascii", "backslashreplace")
    if identity.id_type in _ADDRESS_LENGTHS:
        if len(identity.data) != _ADDRESS_LENGTHS[identity.id_type]:
            raise refused("the peer's identity is no address")
        return str(ip_address(identity.data))
    if identity.id_type == IdType.ID_DER_ASN1_DN:
        return identity.data.hex()
    return f"an identity of type {identity.id_type.name}"


def _host_matches(name: str, host: str) -> bool:
    """RFC 6125 §6.4: without regard to case; a wildcard stands for one leftmost label."""
    wanted = name.rstrip(".").lower()
    carried = host.rstrip(".").lower()
    if carried.startswith("*."):
        return wanted.partition(".")[2] == carried[2:] and not wanted.startswith(".")
    return wanted == carried
