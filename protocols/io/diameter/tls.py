"""TLS under Diameter (RFC 6733 §2.1, §13.1): before the first message, both ends with certificates.

At least TLS 1.2, the library's default ciphers: those that §13.1 names (RC4, 3DES) are gone from TLS (RFC 7465,
RFC 8996). The name in the certificate of a peer that we connect to is checked in the handshake, that of an
accepted one against the Origin-Host of its CER.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from protocols.errors import ConfigurationError

HANDSHAKE_INTERVAL = 5.0  # RFC 6733 leaves it to us
SHUTDOWN_INTERVAL = 1.0  # for the peer's close_notify


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """For connections that we open, and for those that we accept."""

    client: ssl.SSLContext
    server: ssl.SSLContext

    @classmethod
    def load(cls, *, chain: Path, key: Path, authority: Path) -> TlsContexts:
        """From PEM files; ``ConfigurationError`` names the one that is wrong."""
        _check_certificates(authority, "tls.authority")
        _check_certificates(chain, "tls.chain")
        _check_key(key)
        client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (client, server):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            # RFC 6733 §13.1: nodes MUST mutually authenticate
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_cert_chain(chain, key)
            except ssl.SSLError:
                raise ConfigurationError(
                    file=str(key),
                    key="tls.key",
                    value="another key",
                    expected="the key of the certificate in tls.chain",
                ) from None
            context.load_verify_locations(authority)
        return cls(client, server)


def _check_certificates(file: Path, key: str) -> None:
    try:
        x509.load_pem_x509_certificates(_read(file, key))
    except ValueError:
        what, expected = "a file without a certificate in PEM", "a PEM file with certificates"
        raise ConfigurationError(file=str(file), key=key, value=what, expected=expected) from None


def _check_key(file: Path) -> None:
    try:
        load_pem_private_key(_read(file, "tls.key"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        what, expected = "a file without such a key", "an unencrypted private key in PEM"
        raise ConfigurationError(file=str(file), key="tls.key", value=what, expected=expected) from None


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        what = error.strerror or "an unreadable file"
        raise ConfigurationError(file=str(file), key=key, value=what, expected="a readable file") from None


def certified_names(certificate: bytes) -> frozenset[str]:
    """The DNS names of a certificate (DER) that has been verified, in small letters."""
    try:
        extensions = x509.load_der_x509_certificate(certificate).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return frozenset()
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))


def failure_of(error: Exception) -> str:
    """What went wrong in a handshake, without the library's file and line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
