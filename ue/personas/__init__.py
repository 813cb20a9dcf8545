"""Personas: how real UEs speak on SWu, as defaults that the user's own configuration is laid over.

A persona file has a header (``name``, ``description``, ``lax``) and, under ``configuration``, ordinary keys of the
UE's configuration: how the UE speaks, and nothing of who it is or where. ``lax`` lists in plain sentences which checks
that a UE should make this one is known not to make. ``based_on`` names another persona, or a file, over which this one
is laid: a carrier's profile says what differs and nothing else.

The user's file wins: mappings are laid over one another key by key; a list, a value or null replaces the persona's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, validate
from protocols.io.documents import Document, Words, read_file

DIRECTORY = Path(__file__).parent
SUFFIX = ".yaml"
KEY = "persona"
KEPT = 32
OWN = frozenset(
    {
        KEY, "node", "imsi", "plmn", "usim", "psk", "certificate", "identity", "imei", "apn", "accesses", "data_plane",
        "attach_at_start", "control", "state", "trace", "dns", "additional_pdns",
    }
)  # fmt: skip
"""Keys of the UE's configuration that are the user's: who and where the UE is."""
SHARED = {"data_plane": frozenset({"mtu"})}
"""Keys under one of ``OWN`` that are how the UE speaks all the same."""


class PersonaHeader(ConfigurationModel):
    """Who a persona is, and what it is known not to check."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    description: str = Field(min_length=1)
    based_on: str | None = None
    lax: tuple[str, ...] = ()


class _PersonaFile(PersonaHeader):
    """A persona file; what is under ``configuration`` is validated with the UE's configuration."""

    configuration: dict[str, object]


def shipped() -> tuple[str, ...]:
    """The names of the personas that come with the program."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob(f"*{SUFFIX}")))


def read_persona(path: Path) -> tuple[PersonaHeader, Document]:
    """Header and configuration of a persona file with what it is based on; ``ConfigurationError`` names the place."""
    header, configuration, base = _read_one(path)
    seen = {path.resolve()}
    while base is not None:
        below = base
        if below.resolve() in seen:
            expected = "a persona that is not based on this one"
            raise ConfigurationError(file=str(path), key="based_on", value=Words("a circle"), expected=expected)
        seen.add(below.resolve())
        under, defaults, base = _read_one(below)
        header = header.model_copy(update={"lax": (*under.lax, *header.lax)})
        configuration = configuration.over(defaults)
    return header, configuration


def _read_one(path: Path) -> tuple[PersonaHeader, Document, Path | None]:
    """A file alone, and the one that it is based on."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    return _read(path, changed)


@lru_cache(maxsize=KEPT)
def _read(path: Path, changed: int) -> tuple[PersonaHeader, Document, Path | None]:
    """A file as it was at its last change: a fleet has thousands of UEs of few personas."""
    del changed
    document = read_file(path)
    checked = validate(document, _PersonaFile)
    for key, value in checked.configuration.items():
        shared = SHARED.get(key)
        if key in OWN and not (shared and isinstance(value, Mapping) and shared.issuperset(value)):
            expected = "how the UE speaks; this key is the user's own, in the UE's configuration"
            raise document.error(("configuration", key), Words("a key"), expected)
    header = PersonaHeader(**checked.model_dump(exclude={"configuration"}))
    return header, document.part("configuration"), find_persona(document, path.parent, "based_on")


def persona_file(name: str) -> Path:
    """The file of a persona that is named on the command line."""
    path = find_persona(Document.of({KEY: name}, "command line"), None)
    assert path is not None
    return path


def find_persona(document: Document, directory: Path | None, key: str = KEY) -> Path | None:
    """The file of the persona that a document names: one that is shipped, or a path ending in ``.yaml``."""
    named = document.data.get(key) if isinstance(document.data, Mapping) else None
    if named is None:
        return None
    expected = f"one of {', '.join(shipped())}, or a file whose name ends in {SUFFIX}"
    if not isinstance(named, str):
        raise document.error((key,), Words("something else than text"), expected)
    if named in shipped():
        return DIRECTORY / f"{named}{SUFFIX}"
    path = Path(named).expanduser()
    if path.suffix != SUFFIX:
        raise document.error((key,), named, expected)
    return path if directory is None or path.is_absolute() else directory / path


def over_persona(document: Document, directory: Path | None) -> Document:
    """A UE's configuration over that of the persona it names; in the place of its name stands the persona's header."""
    path = find_persona(document, directory)
    if path is None:
        return document
    header, defaults = read_persona(path)
    merged = document.over(defaults)
    assert isinstance(merged.data, dict)
    return merged.with_value(KEY, header.model_dump())
