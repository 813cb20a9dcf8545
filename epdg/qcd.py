"""The file with the gateway's secrets of quick crash detection (RFC 6290 §5.1): it outlives the process."""

from __future__ import annotations

import os
from pathlib import Path

from protocols.entropy import Entropy
from protocols.errors import ConfigurationError
from protocols.ikev2.tasks.crash_detection import SECRET_LENGTH, SECRETS_MAXIMUM
from protocols.secret import Secret

EXPECTED = f"one to {SECRETS_MAXIMUM} lines of {2 * SECRET_LENGTH} hexadecimal digits, the newest secret first"


def read_secrets(path: Path, entropy: Entropy) -> tuple[Secret, ...]:
    """The secrets, the newest first; a file that does not exist is made with a fresh one.

    ``ConfigurationError`` for other contents, and when it cannot be read or made.
    """
    try:
        try:
            lines = path.read_bytes().split()
        except FileNotFoundError:
            lines = [_make(path, entropy)]
    except OSError as error:
        raise _refused(path, error.strerror or "an unusable file") from error
    try:
        secrets = tuple(Secret(bytes.fromhex(line.decode("ascii"))) for line in lines)
    except ValueError:
        raise _refused(path, "something else") from None
    if not 1 <= len(secrets) <= SECRETS_MAXIMUM:
        raise _refused(path, f"{len(secrets)} lines")
    if any(len(secret.reveal()) != SECRET_LENGTH for secret in secrets):
        raise _refused(path, "a secret of another length")
    return secrets


def _make(path: Path, entropy: Entropy) -> bytes:
    line = entropy.octets(SECRET_LENGTH).hex().encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(line + b"\n")
    return line


def _refused(path: Path, what: str) -> ConfigurationError:
    return ConfigurationError(file=str(path), key="ike.qcd_secret", value=what, expected=EXPECTED)
