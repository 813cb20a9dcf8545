"""Certification authorities for tests: certificates of gateways and UEs, chains, CRLs and OCSP responses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.ikev2.certificates import Credential
from protocols.ikev2.signatures import PrivateKey, PssSigner

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
LONG = timedelta(days=3650)
GATEWAY_FQDN = "epdg.epc.mnc001.mcc001.pub.3gppnetwork.org"
CURVES: dict[str, ec.EllipticCurve] = {"ecdsa": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}


def make_key(kind: str) -> PrivateKey:
    """``ecdsa`` (P-256), ``p384``, ``p521``, ``rsa``, ``ed25519`` or ``ed448``."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return ec.generate_private_key(CURVES[kind])


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate, the chain to send with it (DER) and its key."""

    certificate: x509.Certificate
    chain: tuple[bytes, ...]
    key: PrivateKey

    def credential(
        self,
        *,
        authorities: tuple[bytes, ...] = (),
        ocsp_responses: tuple[bytes, ...] = (),
        pss: PssSigner | None = None,
    ) -> Credential:
        """As the machine wants it."""
        return Credential(self.chain, self.key, authorities=authorities, ocsp_responses=ocsp_responses, pss=pss)


class Authority:
    """A certification authority; ``above`` makes it an intermediate one."""

    def __init__(self, name: str = "Test CA", *, above: Authority | None = None, signs_crls: bool = True) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        self._above = above
        issuer = above or self
        builder = (
            _builder(self.name, issuer, self.key, MOMENT - LONG, MOMENT + LONG)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(_authority_usage(signs_crls), critical=True)
        )
        self.certificate = builder.sign(issuer.key, hashes.SHA256())
        self.der = self.certificate.public_bytes(Encoding.DER)

    def issue(
        self,
        names: Sequence[str] = (GATEWAY_FQDN, "internet"),
        *,
        kind: str = "ecdsa",
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        begin: datetime = MOMENT - timedelta(days=1),
        end: datetime = MOMENT + timedelta(days=365),
    ) -> Issued:
        """A certificate for hosts, mailboxes and addresses, with this authority in its chain if it is no root."""
        key = make_key(kind)
        certificate = (
            _builder(_name(names[0]), self, key, begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        chain = [certificate.public_bytes(Encoding.DER)]
        authority: Authority | None = self
        while authority is not None and authority._above is not None:
            chain.append(authority.der)
            authority = authority._above
        return Issued(certificate=certificate, chain=tuple(chain), key=key)

    def crl(
        self,
        *revoked: x509.Certificate,
        made: datetime = MOMENT - timedelta(hours=1),
        until: datetime = MOMENT + timedelta(days=7),
        signer: Authority | None = None,
        extension: x509.ExtensionType | None = None,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """A CRL; ``signer`` forges it, ``extension`` is critical."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(made).next_update(until)
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(made)
            builder = builder.add_revoked_certificate(entry.build())
        if extension is not None:
            builder = builder.add_extension(extension, critical=True)
        return builder.sign((signer or self).key, digest or hashes.SHA256()).public_bytes(Encoding.DER)

    def ocsp(
        self,
        certificate: x509.Certificate,
        *,
        status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
        made: datetime = MOMENT - timedelta(hours=1),
        until: datetime | None = MOMENT + timedelta(days=1),
        signer: Issued | None = None,
        algorithm: hashes.HashAlgorithm | None = None,
        digest: hashes.HashAlgorithm | None = None,
    ) -> bytes:
        """An OCSP response about a certificate of ours, signed by us or by a responder that it names."""
        revoked = status is ocsp.OCSPCertStatus.REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=certificate,
            issuer=self.certificate,
            algorithm=algorithm or hashes.SHA1(),
            cert_status=status,
            this_update=made,
            next_update=until,
            revocation_time=made if revoked else None,
            revocation_reason=None,
        )
        responder = self.certificate if signer is None else signer.certificate
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder)
        if signer is None:
            return builder.sign(self.key, digest or hashes.SHA256()).public_bytes(Encoding.DER)
        assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
        return builder.certificates([responder]).sign(signer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _general_name(name: str) -> x509.GeneralName:
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: Authority, key: PrivateKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _authority_usage(signs_crls: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=signs_crls,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, kw_only=True)
class Pki:
    """A CA (DER) and a gateway certificate chain (DER) with its key."""

    authority: bytes
    chain: tuple[bytes, ...]
    key: PrivateKey


def make_pki(
    names: tuple[str, ...] = (GATEWAY_FQDN, "internet", "ims"),
    *,
    kind: str = "ecdsa",
    begin: datetime = MOMENT - timedelta(days=1),
    end: datetime = MOMENT + timedelta(days=365),
) -> Pki:
    """A CA of its own and a gateway certificate for ``names``."""
    authority = Authority()
    issued = authority.issue(names, kind=kind, begin=begin, end=end)
    return Pki(authority=authority.der, chain=issued.chain, key=issued.key)
