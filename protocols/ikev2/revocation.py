"""Revocation of peers' certificates: CRLs (RFC 5280 §6.3) and OCSP inside IKE (RFC 4806, RFC 6960 §4.2).

CRLs come from configuration or in CERT payloads of encoding 7, OCSP responses in CERT payloads of encoding 14.
Nothing is fetched. Left out: delta and indirect CRLs, nonces (RFC 4806 §6: a stapled response has none), the
revocation of OCSP responders themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from protocols.errors import Fact, LocalError
from protocols.ikev2.signatures import PublicKey, check_public_key, refused

CLOCK_TOLERANCE: Final = timedelta(minutes=5)
MAXIMUM_AGE: Final = timedelta(days=1)  # of an OCSP response that does not say when the next one is due
EVIDENCE_MAXIMUM: Final = 8  # CRLs, and OCSP responses, that a peer may send
RESPONDER_CERTIFICATES_MAXIMUM: Final = 4
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512, type(None))  # none: Ed25519, Ed448

UNPARSED: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for objects that are malformed or beyond it."""


class RevocationPolicy(Enum):
    """How much must be known of a peer's certificate."""

    OFF = "off"
    IF_PRESENT = "if-present"
    REQUIRED = "required"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """CRLs and OCSP responses in DER, as a peer sends them."""

    crls: tuple[bytes, ...] = ()
    ocsp_responses: tuple[bytes, ...] = ()


class _Unusable(Exception):
    """Evidence that concerns a certificate and cannot be relied on; the text says why."""


class Revocation:
    """Checks the certificates of a path; ``AuthenticationError`` when one is revoked or not vouched for.

    ``if-present``: evidence that is there decides, and evidence that concerns a certificate but is out of
    date or signed by a stranger refuses it, unless other evidence is good. ``required``: every certificate
    below the trust anchor needs a CRL or an OCSP response that is good. ``responders`` are certificates of
    OCSP responders trusted for every authority (RFC 4806 §3.1 (b)).
    """

    def __init__(
        self,
        policy: RevocationPolicy = RevocationPolicy.OFF,
        *,
        crls: tuple[bytes, ...] = (),
        responders: tuple[bytes, ...] = (),
    ) -> None:
        self.policy = policy
        try:
            self._crls = tuple([x509.load_der_x509_crl(octets) for octets in crls])
            self._responders = tuple([x509.load_der_x509_certificate(octets) for octets in responders])
        except UNPARSED as error:
            raise LocalError("a CRL or a responder's certificate does not parse") from error

    @property
    def responder_keys(self) -> tuple[bytes, ...]:
        """The SubjectPublicKeyInfo of every trusted responder."""
        return tuple(
            [
                responder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                for responder in self._responders
            ]
        )

    def check(self, path: Sequence[x509.Certificate], evidence: Evidence, moment: datetime) -> None:
        """``path`` leads from the peer's own certificate to the trust anchor, which is not checked."""
        if self.policy is RevocationPolicy.OFF:
            return
        if max(len(evidence.crls), len(evidence.ocsp_responses)) > EVIDENCE_MAXIMUM:
            raise refused(f"the peer sent more than {EVIDENCE_MAXIMUM} CRLs or OCSP responses")
        try:
            crls = [*self._crls, *[x509.load_der_x509_crl(octets) for octets in evidence.crls]]
            responses = [ocsp.load_der_ocsp_response(octets) for octets in evidence.ocsp_responses]
        except UNPARSED as error:
            raise refused("a CRL or an OCSP response does not parse") from error
        for certificate, issuer in zip(path, path[1:], strict=False):
            self._check_one(certificate, issuer, crls, responses, moment)

    def _check_one(
        self,
        certificate: x509.Certificate,
        issuer: x509.Certificate,
        crls: list[x509.CertificateRevocationList],
        responses: list[ocsp.OCSPResponse],
        moment: datetime,
    ) -> None:
        name = certificate.subject.rfc4514_string()
        good = False
        doubts: list[str] = []
        for crl in crls:
            try:
                if crl.issuer != issuer.subject:
                    continue
                _check_crl(crl, certificate, issuer, moment)
                good = True
            except _Unusable as doubt:
                doubts.append(f"the CRL of {issuer.subject.rfc4514_string()!r} {doubt}")
            except UNPARSED:
                doubts.append(f"the CRL of {issuer.subject.rfc4514_string()!r} does not parse")
        for response in responses:
            try:
                good |= self._check_ocsp(response, certificate, issuer, moment)
            except _Unusable as doubt:
                doubts.append(f"the OCSP response {doubt}")
            except UNPARSED:
                doubts.append("the OCSP response does not parse")
        if good:
            return
        if doubts:
            raise refused(f"whether certificate {name!r} is revoked cannot be told: {doubts[0]}")
        if self.policy is RevocationPolicy.REQUIRED:
            raise refused(f"no CRL and no OCSP response says that certificate {name!r} is not revoked")

    def _check_ocsp(
        self, response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate, moment: datetime
    ) -> bool:
        """Whether the response vouches for the certificate; false when it is about others."""
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise _Unusable(f"is an error of the responder ({response.response_status.name})")
        single = next((one for one in response.responses if _concerns(one, certificate, issuer)), None)
        if single is None:
            return False
        self._check_responder(response, issuer, moment)
        if single.certificate_status is ocsp.OCSPCertStatus.REVOKED:
            raise refused(
                f"certificate {certificate.subject.rfc4514_string()!r} was revoked at {single.revocation_time_utc}"
                " (OCSP)",
                "certificate-revoked",
                _revoked(certificate, single.revocation_time_utc, "an OCSP response"),
            )
        _check_fresh(single.this_update_utc, single.next_update_utc, moment)
        if single.certificate_status is not ocsp.OCSPCertStatus.GOOD:
            raise _Unusable("says that the responder does not know the certificate")
        return True

    def _check_responder(self, response: ocsp.OCSPResponse, issuer: x509.Certificate, moment: datetime) -> None:
        """RFC 6960 §4.2.2.2: the issuer itself, whom it has authorised, or whom we trust."""
        if not isinstance(response.signature_hash_algorithm, _HASHES):
            raise _Unusable("is signed with another hash than SHA-256, SHA-384 or SHA-512")
        delegates = [
            candidate
            for candidate in response.certificates[:RESPONDER_CERTIFICATES_MAXIMUM]
            if _is_delegate(candidate, issuer, moment)
        ]
        for candidate in (issuer, *delegates, *self._responders):
            if _signed(response, candidate):
                return
        raise _Unusable(f"is not signed by {issuer.subject.rfc4514_string()!r} or a responder of its")


def _check_crl(
    crl: x509.CertificateRevocationList, certificate: x509.Certificate, issuer: x509.Certificate, moment: datetime
) -> None:
    public_key = issuer.public_key()
    if not isinstance(
        public_key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
    ) or not crl.is_signature_valid(public_key):
        raise _Unusable("is not signed by it")
    if not isinstance(crl.signature_hash_algorithm, _HASHES):
        raise _Unusable("is signed with another hash than SHA-256, SHA-384 or SHA-512")
    usage = _key_usage(issuer)
    if usage is not None and not usage.crl_sign:
        raise _Unusable("is signed with a key that may not sign CRLs")  # RFC 5280 §6.3.3 (f)
    if any(extension.critical for extension in crl.extensions):
        raise _Unusable("is of a special kind (it has a critical extension)")  # RFC 5280 §5.2
    entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if entry is not None:
        # Also on an old CRL: what is revoked stays so (RFC 5280 §3.3).
        raise refused(
            f"certificate {certificate.subject.rfc4514_string()!r} was revoked at {entry.revocation_date_utc} (CRL)",
            "certificate-revoked",
            _revoked(certificate, entry.revocation_date_utc, "a CRL"),
        )
    if crl.next_update_utc is None:
        raise _Unusable("does not say when the next one is due")  # RFC 5280 §5.1.2.5
    _check_fresh(crl.last_update_utc, crl.next_update_utc, moment)


def _revoked(certificate: x509.Certificate, since: datetime | None, source: str) -> dict[str, Fact]:
    """What is known of a revocation."""
    return {"subject": certificate.subject.rfc4514_string(), "since": str(since), "source": source}


def _check_fresh(this_update: datetime, next_update: datetime | None, moment: datetime) -> None:
    """RFC 6960 §3.2, RFC 5280 §6.3.3 (a)."""
    if this_update > moment + CLOCK_TOLERANCE:
        raise _Unusable(f"is of the future ({this_update})")
    until = next_update if next_update is not None else this_update + MAXIMUM_AGE
    if moment > until + CLOCK_TOLERANCE:
        raise _Unusable(f"is out of date since {until}")


def _concerns(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the CertID is the certificate's (RFC 6960 §4.1.1)."""
    if single.serial_number != certificate.serial_number:
        return False
    algorithm = single.hash_algorithm
    return single.issuer_name_hash == _hashed(algorithm, issuer.subject.public_bytes()) and (
        single.issuer_key_hash == _hashed(algorithm, _key_bits(check_public_key(issuer.public_key())))
    )


def _hashed(algorithm: hashes.HashAlgorithm, octets: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(octets)
    return digest.finalize()


def _key_bits(key: PublicKey) -> bytes:
    """The value of the subjectPublicKey BIT STRING."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _is_delegate(candidate: x509.Certificate, issuer: x509.Certificate, moment: datetime) -> bool:
    """Issued by the authority itself, valid now, with id-kp-OCSPSigning (RFC 6960 §4.2.2.2)."""
    try:
        candidate.verify_directly_issued_by(issuer)
        usage = candidate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (*UNPARSED, InvalidSignature, x509.ExtensionNotFound):
        return False
    in_time = candidate.not_valid_before_utc <= moment <= candidate.not_valid_after_utc
    return in_time and ExtendedKeyUsageOID.OCSP_SIGNING in usage


def _signed(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, octets, signature = signer.public_key(), response.tbs_response_bytes, response.signature
    digest = response.signature_hash_algorithm
    try:
        if isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
            key.verify(signature, octets)
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, octets, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey) and digest is not None:
            key.verify(signature, octets, padding.PKCS1v15(), digest)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
