"""A test's own certification authority: keys of several kinds, certificates of gateways and UEs with SANs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.ikev2.signatures import PrivateKey

AuthorityKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CLOCK_TOLERANCE = timedelta(hours=1)
LIFETIME = timedelta(days=1)


def generate_key(kind: str = "ecdsa") -> PrivateKey:
    """A private key: ``ecdsa`` is P-256, ``rsa`` has 2048 bits; ``p384``, ``p521``, ``ed25519``, ``ed448``."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    return _generate_authority_key(kind)


def _generate_authority_key(kind: str) -> AuthorityKey:
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves: dict[str, ec.EllipticCurve] = {"p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
    return ec.generate_private_key(curves.get(kind, ec.SECP256R1()))


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def certificate_der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        """Unencrypted PKCS #8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class CertificateAuthority:
    """A self-signed authority that issues certificates valid from an hour ago for a day."""

    def __init__(self, name: str = "ePDG test authority", *, kind: str = "ecdsa") -> None:
        key = _generate_authority_key(kind)
        subject = _name(name)
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        builder = (
            _builder(subject, subject, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        self._key = key
        self.credentials = Credentials(certificate=builder.sign(key, hashes.SHA256()), key=key)

    def issue(
        self,
        *,
        names: Sequence[str],
        kind: str = "ecdsa",
        common_name: str | None = None,
        client: bool = False,
        diameter: bool = False,
    ) -> Credentials:
        """A server's or client's certificate with every one of ``names`` as dNSName or rfc822Name.

        An ePDG that returns the APN as IDr (TS 24.302 §7.4.1.1) needs its FQDN and its APNs here: a
        strongSwan UE checks the returned IDr against the certificate. ``diameter``: for both ends of TLS.
        """
        key = generate_key(kind)
        issuer = self.credentials
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH]
        if diameter:
            usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(_name(common_name or names[0]), issuer.certificate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
        )
        return Credentials(certificate=builder.sign(self._key, hashes.SHA256()), key=key)

    def crl(self, *revoked: Credentials) -> bytes:
        """A CRL in PEM."""
        moment = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.credentials.certificate.subject)
            .last_update(moment - CLOCK_TOLERANCE)
            .next_update(moment + LIFETIME)
        )
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            builder = builder.add_revoked_certificate(entry.revocation_date(moment).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _general_name(name: str) -> x509.GeneralName:
    return x509.RFC822Name(name) if "@" in name else x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    moment = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - CLOCK_TOLERANCE)
        .not_valid_after(moment + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
