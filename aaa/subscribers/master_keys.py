"""The master keys under which K, OP and OPc are kept: AES-256-GCM, a nonce for each value, keys with versions.

The file has a line for each version: its number and 64 hexadecimal digits; the highest version seals, all of them
open. A value is bound to its IMSI and column (as associated data), so that no row can be given another's keys.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import BackendError, ConfigurationError

KEY_LENGTH = 32
NONCE_LENGTH = 12  # NIST SP 800-38D §5.2.1.1
WITNESS = b"subscriber keys"

_LINE = re.compile(r"([1-9][0-9]{0,8})\s+([0-9A-Fa-f]{64})\Z")
_COMMENT = (
    "# Master keys of a subscriber database: a version and 64 hexadecimal digits a line; the highest version seals.\n"
)


class _Unshown:
    """Stands for a value that is not printed."""

    def __init__(self, words: str) -> None:
        self._words = words

    def __repr__(self) -> str:
        return self._words


class MasterKeyError(ConfigurationError):
    """The master keys are absent, unreadable or not those of the database; one line, no key in it."""

    def __init__(self, file: str, got: str, expected: str) -> None:
        super().__init__(file=file, key="master keys", value=_Unshown(got), expected=expected)


class MasterKeys:
    """Master keys by version; values are sealed under the newest one and opened under the one that they name."""

    def __init__(self, keys: dict[int, bytes], *, file: str) -> None:
        if not keys:
            raise MasterKeyError(file, "no key", "at least one line with a version and 64 hexadecimal digits")
        self.file = file
        self._ciphers = {version: AESGCM(key) for version, key in keys.items()}

    def __repr__(self) -> str:
        return f"MasterKeys({sorted(self._ciphers)})"

    @property
    def newest(self) -> int:
        """The version that seals."""
        return max(self._ciphers)

    def __contains__(self, version: int) -> bool:
        return version in self._ciphers

    def seal(self, octets: bytes, *associated: str) -> bytes:
        """Nonce, ciphertext and tag under the newest version."""
        nonce = secrets.token_bytes(NONCE_LENGTH)
        return nonce + self._ciphers[self.newest].encrypt(nonce, octets, _associated(self.newest, associated))

    def open(self, version: int, sealed: bytes, *associated: str) -> bytes:
        """The octets again; ``BackendError`` when they are not what was sealed, or the version is not here."""
        cipher = self._ciphers.get(version)
        if cipher is None:
            raise BackendError(f"there is no master key of version {version}")
        try:
            return cipher.decrypt(sealed[:NONCE_LENGTH], sealed[NONCE_LENGTH:], _associated(version, associated))
        except (InvalidTag, ValueError):
            raise BackendError(f"a sealed key does not open under master key {version}") from None

    def is_of(self, version: int, witness: bytes) -> bool:
        """Whether this version is the key that made ``witness``."""
        try:
            return self.open(version, witness, "witness") == WITNESS
        except BackendError:
            return False

    def witness(self) -> bytes:
        """What tells the newest version from another key."""
        return self.seal(WITNESS, "witness")


def read_master_keys(file: Path) -> MasterKeys:
    """The keys of a file; ``MasterKeyError`` when it is unreadable, open to others, or says something else."""
    try:
        with file.open(encoding="ascii") as opened:
            mode = os.fstat(opened.fileno()).st_mode & 0o777
            lines = opened.read().splitlines()
    except OSError as error:
        raise MasterKeyError(str(file), f"{error.strerror}", "a file that `aaa master-key init` made") from None
    except UnicodeDecodeError:
        raise MasterKeyError(str(file), "octets that are no text", "a file that `aaa master-key init` made") from None
    if mode & 0o077:
        raise MasterKeyError(str(file), f"mode {mode:04o}", "a file that its owner alone may read (chmod 600)")
    keys: dict[int, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line.strip())
        if match is None or int(match[1]) in keys:
            got = "another line" if match is None else f"version {match[1]} twice"
            raise MasterKeyError(f"{file}:{number}", got, "a version of its own and 64 hexadecimal digits")
        keys[int(match[1])] = bytes.fromhex(match[2])
    return MasterKeys(keys, file=str(file))


def create_master_keys(file: Path) -> None:
    """Make the file with one new key; ``MasterKeyError`` when it is there already or cannot be made."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MasterKeyError(str(file), "a file that exists", "a new file: without it nobody opens the keys") from None
    except OSError as error:
        raise MasterKeyError(str(file), f"{error.strerror}", "a file that can be made") from None
    with open(descriptor, "w", encoding="ascii") as opened:
        opened.write(_COMMENT + _new_line(1))
        opened.flush()
        os.fsync(opened.fileno())


def add_master_key(file: Path) -> int:
    """Add a new version, which seals from now on; its number."""
    version = read_master_keys(file).newest + 1
    beside = file.with_name(file.name + ".new")
    try:
        text = file.read_text(encoding="ascii")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii") as opened:
            opened.write(text + ("" if text.endswith("\n") else "\n") + _new_line(version))
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, file)
    except OSError as error:
        raise MasterKeyError(str(file), f"{error.strerror}", "a file that can be written") from None
    return version


def _new_line(version: int) -> str:
    return f"{version} {secrets.token_hex(KEY_LENGTH)}\n"


def _associated(version: int, parts: tuple[str, ...]) -> bytes:
    return "\0".join((str(version), *parts)).encode()
