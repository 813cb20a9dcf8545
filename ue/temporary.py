"""Pseudonym and fast re-authentication context of the UE, which outlive the process where a file is given for them.

The file holds keys: it is readable by its owner only and replaced atomically.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocols.eap.aka.peer import Pseudonym, ReauthenticationContext, TemporaryIdentities
from protocols.eap.packet import EapType
from protocols.errors import BackendError, ConfigurationError
from protocols.io.durable import replace_file
from protocols.secret import Secret

METHODS = {"aka": EapType.AKA, "aka-prime": EapType.AKA_PRIME}
_WORDS = {method: word for word, method in METHODS.items()}


class TemporaryIdentityStore(Protocol):
    """Where the temporary identities of one subscriber are kept."""

    def load(self) -> TemporaryIdentities:
        """What was last saved; nothing when that never happened."""

    def save(self, held: TemporaryIdentities) -> None:
        """Keep this; on return it is durable as far as the store is."""


class MemoryTemporaryIdentityStore:
    """Identities that live as long as the process."""

    def __init__(self, held: TemporaryIdentities | None = None) -> None:
        self._held = held or TemporaryIdentities()

    def load(self) -> TemporaryIdentities:
        """What is held."""
        return self._held

    def save(self, held: TemporaryIdentities) -> None:
        """Replace it."""
        self._held = held


class FileTemporaryIdentityStore:
    """Identities of one subscriber in a JSON file."""

    def __init__(self, path: Path, imsi: str) -> None:
        self._path = path
        self._imsi = imsi

    def load(self) -> TemporaryIdentities:
        """What the file holds, nothing where there is none or it is another subscriber's."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return TemporaryIdentities()
        except (OSError, UnicodeDecodeError) as error:
            raise BackendError(f"{self._path}: {error}") from error
        try:
            kept = _Kept.model_validate_json(text)
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"])) or "file"
            expected = "what this UE has written, or no such file"
            # the value may be a key
            raise ConfigurationError(file=str(self._path), key=key, value="something else", expected=expected) from None
        return kept.identities() if kept.imsi == self._imsi else TemporaryIdentities()

    def save(self, held: TemporaryIdentities) -> None:
        """Replace the file; it is on disk on return."""
        kept: dict[str, object] = {"imsi": self._imsi}
        if held.pseudonym is not None:
            kept["pseudonym"] = {"method": _WORDS[held.pseudonym.method], "username": held.pseudonym.username}
        context = held.reauthentication
        if context is not None:
            kept["reauthentication"] = {
                "method": _WORDS[context.method],
                "identity": context.identity,
                "counter": context.counter,
                "network_name": context.network_name,
                "k_encr": context.k_encr.reveal().hex(),
                "k_aut": context.k_aut.reveal().hex(),
                "k_re": context.k_re.reveal().hex(),
            }
        replace_file(self._path, json.dumps(kept))


_Method = Field(pattern="^aka(-prime)?$")
_Key = Field(pattern="^([0-9a-f]{2}){16,32}$")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _KeptPseudonym(_Model):
    method: str = _Method
    username: str


class _KeptContext(_Model):
    method: str = _Method
    identity: str
    counter: int = Field(ge=0, le=0xFFFF)
    network_name: str
    k_encr: str = _Key
    k_aut: str = _Key
    k_re: str = _Key


class _Kept(_Model):
    """The file's contents."""

    imsi: str
    pseudonym: _KeptPseudonym | None = None
    reauthentication: _KeptContext | None = None

    def identities(self) -> TemporaryIdentities:
        pseudonym, context = self.pseudonym, self.reauthentication
        return TemporaryIdentities(
            pseudonym=None
            if pseudonym is None
            else Pseudonym(method=METHODS[pseudonym.method], username=pseudonym.username),
            reauthentication=None
            if context is None
            else ReauthenticationContext(
                method=METHODS[context.method],
                identity=context.identity,
                counter=context.counter,
                k_encr=Secret(bytes.fromhex(context.k_encr)),
                k_aut=Secret(bytes.fromhex(context.k_aut)),
                k_re=Secret(bytes.fromhex(context.k_re)),
                network_name=context.network_name,
            ),
        )
