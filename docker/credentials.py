"""A demonstration authority and gateway certificate, made once: ``ca.pem``, ``gateway.{pem,key}``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=825)


def ensure_credentials(directory: Path, names: Sequence[str]) -> None:
    """Make the three files unless the gateway's certificate is there and names all of ``names``."""
    certificate_file = directory / "gateway.pem"
    if certificate_file.exists():
        present = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        sans = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if set(names) <= set(sans.get_values_for_type(x509.DNSName)):
            return
    authority_key = ec.generate_private_key(ec.SECP256R1())
    gateway_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ePDG emulator demonstration authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)

    def builder(name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )

    authority = (
        builder(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    gateway = (
        builder(subject, gateway_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    key_file = os.open(directory / "gateway.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(key_file, "wb") as file:
        file.write(
            gateway_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    (directory / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    certificate_file.write_bytes(gateway.public_bytes(serialization.Encoding.PEM))
