"""A certification authority and a gateway certificate (TS 33.310 §6.1.3b, RFC 4945): ``epdg pki init``.

The certificate carries the ePDG FQDN and the APNs as subject alternative names: phones check the FQDN,
strongSwan checks whatever IDr comes back, which is the APN.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from protocols.errors import BackendError

AUTHORITY_LIFETIME = timedelta(days=3650)
CERTIFICATE_LIFETIME = timedelta(days=825)
BACKDATED = timedelta(hours=1)  # clocks of phones run late
RSA_BITS = 2048
IKE_INTERMEDIATE = x509.ObjectIdentifier("1.3.6.1.5.5.8.2.2")  # RFC 4945 §5.1.3.12

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class PkiFiles:
    """Where the pieces lie."""

    authority: Path
    authority_key: Path
    chain: Path
    key: Path


def files_in(directory: Path) -> PkiFiles:
    """The names used in a directory."""
    return PkiFiles(
        authority=directory / "ca.pem",
        authority_key=directory / "ca.key",
        chain=directory / "gateway.pem",
        key=directory / "gateway.key",
    )


def make_pki(directory: Path, names: tuple[str, ...], *, use_rsa: bool = False) -> PkiFiles:
    """Make a CA and a gateway certificate for ``names``; existing files are an error (``BackendError``)."""
    files = files_in(directory)
    for path in (files.authority, files.authority_key, files.chain, files.key):
        if path.exists():
            raise BackendError(f"{path} exists already; choose another directory or remove it")
    now = datetime.now(UTC)
    ca_key: PrivateKey = _new_key(use_rsa)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{names[0]} test CA"[:64])])
    authority = (
        _builder(subject, subject, ca_key, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = _new_key(use_rsa)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    certificate = (
        _builder(name, subject, key, now, CERTIFICATE_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, IKE_INTERMEDIATE]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(files.authority, authority.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(files.authority_key, _pem(ca_key), 0o600)
        _write(files.chain, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
        _write(files.key, _pem(key), 0o600)
    except OSError as error:
        raise BackendError(f"cannot write to {directory}: {error.strerror or error}") from error
    return files


def read_chain(path: Path) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER; ``BackendError`` says what is wrong with it."""
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise BackendError(f"{path} holds no certificate in PEM") from error
    return tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in found)


def read_key(path: Path) -> PrivateKey:
    """The private key of a PEM file; ``BackendError`` says what is wrong with it."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError) as error:
        raise BackendError(f"{path} holds no unencrypted private key in PEM") from error
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise BackendError(f"{path} holds a key that is neither ECDSA nor RSA")
    return key


def _new_key(use_rsa: bool) -> PrivateKey:
    if use_rsa:
        return rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PrivateKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, octets: bytes, mode: int) -> None:
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_bytes(octets)
