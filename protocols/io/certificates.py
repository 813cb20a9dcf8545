"""Certificates, CRLs, OCSP responses and keys in files that a configuration names; one line says what is wrong."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509 import ocsp

from protocols.errors import ConfigurationError
from protocols.ikev2.signatures import PRIVATE_KEYS, PrivateKey

PEM_MARK = b"-----BEGIN"


def read_certificates(file: Path, key: str) -> tuple[bytes, ...]:
    """The certificates of a PEM file as DER."""
    try:
        found = x509.load_pem_x509_certificates(_read(file, key))
    except ValueError:
        raise _refused(file, key, "a file without a certificate in PEM", "a PEM file with certificates") from None
    return tuple([certificate.public_bytes(Encoding.DER) for certificate in found])


def read_crls(file: Path, key: str) -> tuple[bytes, ...]:
    """The CRL of a file, in PEM or DER, as DER."""
    octets = _read(file, key)
    try:
        if octets.lstrip().startswith(PEM_MARK):
            return (x509.load_pem_x509_crl(octets).public_bytes(Encoding.DER),)
        return (x509.load_der_x509_crl(octets).public_bytes(Encoding.DER),)
    except ValueError:
        raise _refused(file, key, "a file without a CRL", "a CRL in PEM or DER") from None


def read_ocsp_response(file: Path, key: str) -> bytes:
    """An OCSP response in DER."""
    octets = _read(file, key)
    try:
        ocsp.load_der_ocsp_response(octets)
    except ValueError:
        raise _refused(file, key, "a file without an OCSP response", "an OCSP response in DER") from None
    return octets


def read_private_key(file: Path, key: str) -> PrivateKey:
    """The unencrypted private key of a PEM file."""
    expected = "an unencrypted RSA, ECDSA, Ed25519 or Ed448 key in PEM"
    try:
        found = load_pem_private_key(_read(file, key), password=None)
    except (ValueError, TypeError):
        raise _refused(file, key, "a file without such a key", expected) from None
    if not isinstance(found, PRIVATE_KEYS):
        raise _refused(file, key, "a key of another kind", expected)
    return found


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _refused(file, key, error.strerror or "an unreadable file", "a readable file") from error


def _refused(file: Path, key: str, what: str, expected: str) -> ConfigurationError:
    return ConfigurationError(file=str(file), key=key, value=what, expected=expected)
