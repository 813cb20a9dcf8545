"""Tokens of people and programs: who may sign in, and in which role.

A token is 256 random bits, shown once. The file keeps its SHA-256 only. A plain digest is right for such tokens:
nobody can try them all, so that the salt and the slow hash that a password needs would protect nothing more. The file
is read anew when it has changed: a token that is removed stops counting at once, and the cookies it was exchanged for.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from protocols.errors import BackendError, ConfigurationError, LocalError
from protocols.io.configuration import ConfigurationModel, load
from protocols.io.durable import OWNER_ONLY, replace_file

TOKEN_OCTETS = 32
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
CONFIGURED = "operator"  # the name of the configuration's own token
RESERVED = frozenset({CONFIGURED, "loopback", "nobody"})  # names that the audit log gives

logger = logging.getLogger("dashboards")


class Role(str, Enum):
    """What a token is good for: looking, or changing things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"


class Token(ConfigurationModel):
    """A token at rest; ``created`` in seconds since 1970-01-01 UTC."""

    name: str = Field(pattern=NAME_PATTERN)
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: float = Field(ge=0, allow_inf_nan=False)


def _names_differ(value: tuple[Token, ...]) -> tuple[Token, ...]:
    names = [token.name for token in value]
    if len(set(names)) != len(names):
        raise PydanticCustomError("names", "tokens with names that differ from one another")
    return value


class TokenDocument(ConfigurationModel):
    """What the file holds."""

    tokens: Annotated[tuple[Token, ...], AfterValidator(_names_differ)] = ()


def digest(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Tokens:
    """The tokens in a file; without a file there are none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._read_as: tuple[int, int, int] | None = None
        self._known: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """As the file has them now; ``ConfigurationError`` for a bad file, or one that others may read."""
        if self._path is None:
            return ()
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise BackendError(f"{self._path}: {error.strerror}") from None
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                file=str(self._path),
                key="mode",
                value=f"{stat.S_IMODE(status.st_mode):04o}",
                expected=f"{OWNER_ONLY:04o}: tokens are for the owner only",
            )
        read_as = (status.st_ino, status.st_mtime_ns, status.st_size)
        if read_as != self._read_as:
            self._known = load(self._path, TokenDocument).tokens
            self._read_as = read_as
        return self._known

    def find(self, sha256: str) -> Token | None:
        """The token with this digest; none while the file cannot be used, which the log says."""
        try:
            known = self.all()
        except (ConfigurationError, BackendError) as error:
            logger.error("no token counts: %s", error)
            return None
        return next((token for token in known if hmac.compare_digest(token.sha256, sha256)), None)

    def add(self, name: str, role: Role) -> str:
        """Make a token and keep its digest; ``LocalError`` when there is one of this name."""
        with self._alone():
            known = self.all()
            if any(token.name == name for token in known):
                raise LocalError(f"there is a token {name} already: remove it first, or choose another name")
            text = secrets.token_urlsafe(TOKEN_OCTETS)
            self._write((*known, Token(name=name, role=role, sha256=digest(text), created=round(time.time(), 3))))
        return text

    def remove(self, name: str) -> None:
        """Forget a token; ``LocalError`` when there is none of this name."""
        with self._alone():
            known = self.all()
            rest = tuple(token for token in known if token.name != name)
            if len(rest) == len(known):
                raise LocalError(f"there is no token {name}")
            self._write(rest)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time: two commands side by side lose neither's token."""
        assert self._path is not None
        try:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise BackendError(f"{self._path.parent}: {error.strerror}") from None
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        assert self._path is not None
        replace_file(self._path, TokenDocument(tokens=tokens).model_dump_json(indent=1) + "\n")
