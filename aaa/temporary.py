"""Temporary identities of this node: the keys in their file, and what is kept for fast re-authentication.

The file holds the keys of pseudonyms and re-authentication identities, newest first, for this node alone to read. A
key is replaced when its time is over, or by command; older ones still read what they made.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from protocols.eap.aka.temporary import KeyRing, ReauthenticationContext, TemporaryKey
from protocols.entropy import Entropy
from protocols.errors import BackendError, ConfigurationError, DecodeError
from protocols.secret import Secret
from protocols.threegpp.identity import Imsi

KEY = "eap.temporary.key_file"

_log = logging.getLogger(__name__)


class ContextStore(Protocol):
    """Where sealed contexts lie, one for a subscriber; calls block, failures are ``BackendError``."""

    def take(self, imsi: Imsi, username: str) -> bytes | None:
        """Hand out the context of a re-authentication identity, and forget it."""

    def keep(self, imsi: Imsi, username: str, sealed: bytes) -> None:
        """Keep one, durably before this returns, in place of the subscriber's last."""


class KeyFile:
    """The keys of temporary identities in a file; ``wall`` is seconds since the epoch."""

    def __init__(self, path: Path, *, interval: float, kept: int, entropy: Entropy, wall: Callable[[], float]) -> None:
        """``interval`` is the life of a key in seconds, ``kept`` how many older ones stay. ``ConfigurationError``."""
        self._path = path
        self._interval = interval
        self._kept = kept
        self._entropy = entropy
        self._wall = wall
        self._ring, self._created = self._read() or self._made()

    @property
    def ring(self) -> KeyRing:
        """The keys; a newest one whose time is over is replaced first."""
        if self._wall() - self._created >= self._interval:
            try:
                self.roll()
            except BackendError as error:
                _log.error("%s; the old key stays in use", error)
                self._created = self._wall()  # not again with every user
        return self._ring

    def roll(self) -> int:
        """Begin with a new key; its index. ``BackendError`` when the file cannot be written."""
        rolled, created = self._ring.rolled(self._entropy, keep=self._kept), self._wall()
        try:
            self._write(rolled, created)
        except OSError as error:
            raise BackendError(f"{self._path} cannot be written: {error.strerror}") from error
        self._ring, self._created = rolled, created
        return rolled.keys[0].index

    def _made(self) -> tuple[KeyRing, float]:
        """The first key of a node."""
        ring, created = KeyRing.of(self._entropy), self._wall()
        try:
            self._write(ring, created)
        except OSError as error:
            raise self._unusable(error.strerror or "an error") from error
        return ring, created

    def _read(self) -> tuple[KeyRing, float] | None:
        """What the file holds, ``None`` when there is none."""
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                octets = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error.strerror or "an error") from error
        if mode & 0o077:
            raise self._unusable(f"mode {mode:04o}", "a file that its owner alone may read (chmod 600)")
        try:
            value = json.loads(octets)
            keys = tuple(_key(each) for each in value["keys"])
            created = float(value["created"])
            if not math.isfinite(created):
                raise ValueError("no time")
            return KeyRing(keys), created
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # whose text may hold keys
            raise self._unusable("a file that holds no keys") from None

    def _write(self, ring: KeyRing, created: float) -> None:
        """The whole file in one step, readable by its owner only."""
        keys = [{"index": each.index, "key": each.key.reveal().hex()} for each in ring.keys]
        new = self._path.with_name(f"{self._path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"created": created, "keys": keys}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def _unusable(
        self,
        why: str,
        expected: str = "a file that this server can make, read and write: it holds the keys of temporary identities",
    ) -> ConfigurationError:
        return ConfigurationError(file=str(self._path), key=KEY, value=why, expected=expected)


def _key(entry: Mapping[str, object]) -> TemporaryKey:
    """One key of the file; ``ValueError`` when it is none."""
    index, key = entry["index"], entry["key"]
    if type(index) is not int or not isinstance(key, str):
        raise ValueError("no key")
    return TemporaryKey(index, Secret(bytes.fromhex(key)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryIdentities:
    """Keys and contexts together; ``lifetime`` is how long after full authentication a context is used, in seconds."""

    keys: KeyFile
    contexts: ContextStore
    lifetime: float
    wall: Callable[[], float]

    def take(self, imsi: Imsi, username: str) -> ReauthenticationContext | None:
        """The context of an identity, once; ``None`` when there is none that may be used. ``BackendError``."""
        sealed = self.contexts.take(imsi, username)
        if sealed is None:
            return None
        try:
            context = ReauthenticationContext.open(self.keys.ring, username, sealed)
        except DecodeError as error:
            _log.info("subscriber %s: %s", imsi, error)
            return None
        age = self.wall() - (context.established or 0.0)
        return context if age <= self.lifetime else None

    def keep(self, context: ReauthenticationContext) -> None:
        """Keep a context, durably before this returns. ``BackendError``."""
        if context.established is None:
            context = replace(context, established=self.wall())
        self.contexts.keep(context.imsi, context.username, context.seal(self.keys.ring))
