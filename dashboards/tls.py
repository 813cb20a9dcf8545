"""TLS of the dashboard's server: its files, tried before anything listens."""

from __future__ import annotations

import ssl
from pathlib import Path

from dashboards.config import TlsConfig
from protocols.errors import ConfigurationError

_CERTIFICATE = "a readable file with the server's certificate in PEM, further ones of its chain behind it"
_KEY = "a readable file with the certificate's private key in PEM, without a passphrase"


def check(file: str, settings: TlsConfig) -> None:
    """``ConfigurationError`` that names the key whose file cannot be used."""
    certificate = _read(file, "tls.certificate", settings.certificate, _CERTIFICATE)
    _read(file, "tls.key", settings.key, _KEY)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate)
    except (ssl.SSLError, ValueError):
        raise _unfit(file, "tls.certificate", settings.certificate, _CERTIFICATE) from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError):
        raise _unfit(file, "tls.key", settings.key, _KEY) from None


def _read(file: str, key: str, path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        raise _unfit(file, key, path, expected) from None


def _unfit(file: str, key: str, path: Path, expected: str) -> ConfigurationError:
    return ConfigurationError(file=file, key=key, value=str(path), expected=expected)
