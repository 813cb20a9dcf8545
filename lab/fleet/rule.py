"""Subscribers by rule: nobody has to keep a list, whoever has the master key can make each of them again.

The UE of index i (from 0) has the IMSI ``first_imsi + i`` in as many digits, and

    K   = HMAC-SHA-256(master, "K:" || IMSI), its first 16 octets
    OPc = HMAC-SHA-256(master, "OPc:" || IMSI), its first 16 octets

with the IMSI in ASCII digits; the algorithm is Milenage (TS 35.206).
"""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from protocols.errors import BackendError, ConfigurationError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

MASTER_OCTETS = 32
MASTER_OCTETS_MINIMUM = 16
KEY_OCTETS = 16  # K and OPc of Milenage (TS 35.205 §7)


@dataclass(frozen=True, kw_only=True)
class SubscriberRule:
    """Who the UEs of a fleet are."""

    first_imsi: Imsi
    master: Secret

    def imsi(self, index: int) -> Imsi:
        """The IMSI of a UE; ``ConfigurationError`` where the digits end."""
        first = self.first_imsi.digits
        digits = f"{int(first) + index:0{len(first)}}"
        if len(digits) > len(first):
            last = 10 ** len(first) - 1 - int(first)
            raise ConfigurationError(
                file="subscribers",
                key="first_imsi",
                value=first,
                expected=f"an IMSI that {index} others can follow, not {last}",
            )
        return Imsi(digits)

    def keys(self, index: int) -> tuple[Secret, Secret]:
        """K and OPc of a UE."""
        imsi = self.imsi(index).digits
        return self._key("K", imsi), self._key("OPc", imsi)

    def _key(self, label: str, imsi: str) -> Secret:
        return Secret(hmac.digest(self.master.reveal(), f"{label}:{imsi}".encode(), "sha256")[:KEY_OCTETS])


def read_master(path: Path, *, create: bool = False) -> Secret:
    """The master key of a file, in hexadecimal; with ``create`` it is made where there is none, for its owner only."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        if not create:
            raise _refused(path, "no such file") from None
        text = os.urandom(MASTER_OCTETS).hex()
        _write_private(path, text + "\n")
    except UnicodeDecodeError:
        raise _refused(path, "octets that are not ASCII") from None
    except OSError as error:
        raise _refused(path, error.strerror or "an unreadable file") from None
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) < MASTER_OCTETS_MINIMUM:
        raise _refused(path, "text that is not shown")
    return Secret(octets)


def _refused(path: Path, what: str) -> ConfigurationError:
    expected = f"a file with at least {MASTER_OCTETS_MINIMUM} octets in hexadecimal"
    return ConfigurationError(file=str(path), key="(file)", value=what, expected=expected)


def _write_private(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}") from error
