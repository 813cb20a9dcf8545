"""The configuration of the AAA node: read once into frozen objects; ``aaa/example.yaml`` shows every key."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from aaa.eap_configuration import EapSection
from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, Count, FilePath, Interval
from protocols.io.diameter.configuration import (
    DiameterIdentityText,
    DiameterNodeSection,
    ListenSection,
    PeerSection,
)

DEFAULT_SESSION_TIMEOUT = 86_400  # a day; TS 29.273 leaves Session-Timeout to the operator
DEFAULT_UNFINISHED_INTERVAL = 60.0  # longer than a UE retransmits within one EAP round (RFC 7296 §2.4)
DEFAULT_SEQUENCE_BLOCK = 32  # one turn of IND (TS 33.102 §C.3.2)
DEFAULT_HSS_TIMEOUT = 5.0  # shorter than a gateway waits for its DEA
DEFAULT_POLL_INTERVAL = 5.0
DEFAULT_RING = 20_000


def _database_url(value: str, info: ValidationInfo) -> str:
    """A URL that SQLAlchemy understands; a relative SQLite file lies beside the configuration file."""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):  # a ValueError's text may hold a part of the password
        raise PydanticCustomError("database_url", "an SQLAlchemy URL such as sqlite:///aaa.db")
    directory = info.context.get("directory") if isinstance(info.context, Mapping) else None
    file = url.database
    if url.get_backend_name() != "sqlite":
        return value
    if file in (None, "", ":memory:"):
        raise PydanticCustomError("database_url", "a database in a file: one in memory forgets its SQN")
    assert file is not None
    if directory is not None and not file.startswith("file:") and not Path(file).is_absolute():
        url = url.set(database=str(Path(directory) / file))
    return url.render_as_string(hide_password=False)


DatabaseUrl = Annotated[str, AfterValidator(_database_url)]


class IdentitySection(ConfigurationModel):
    """Origin-Host and Origin-Realm (RFC 6733 §6.3, §6.4)."""

    host: DiameterIdentityText
    realm: DiameterIdentityText


class SessionsSection(ConfigurationModel):
    """Lifetimes of SWm sessions."""

    timeout: Annotated[Count, Field(ge=1, le=0xFFFFFFFF)] = DEFAULT_SESSION_TIMEOUT
    unfinished_interval: Interval = DEFAULT_UNFINISHED_INTERVAL


class TraceSection(ConfigurationModel):
    """What the recorder keeps; with ``export_keys`` records hold the MSK in clear."""

    export_keys: bool = False
    ring: Annotated[Count, Field(ge=1)] = DEFAULT_RING


class Role(str, Enum):
    """What a process serves: SWm, SWx, or both."""

    AAA = "aaa"
    HSS = "hss"
    BOTH = "both"


class Connection(str, Enum):
    """How the AAA server of a process with both roles reaches the HSS: by a call, or over Diameter."""

    IN_PROCESS = "in-process"
    SWX = "swx"


class HssSection(ConfigurationModel):
    """The HSS: the one of this process, and where the AAA server finds one elsewhere.

    ``identity`` and ``listen`` are those of the HSS here, ``peers`` lead the AAA server to one elsewhere, in
    ``realm`` (its own without it). ``timeout`` is how long an answer on SWx may take.
    ``poll_interval``: how often the HSS looks for changes that others made in the database.
    """

    connection: Connection = Connection.IN_PROCESS
    identity: IdentitySection | None = None
    listen: ListenSection | None = None
    peers: tuple[PeerSection, ...] = ()
    realm: DiameterIdentityText | None = None
    timeout: Interval = DEFAULT_HSS_TIMEOUT
    poll_interval: Interval | None = DEFAULT_POLL_INTERVAL
    sequence_block: Annotated[Count, Field(ge=1, le=1024)] = DEFAULT_SEQUENCE_BLOCK


class AaaConfiguration(ConfigurationModel):
    """Everything ``aaa serve`` needs; ``check`` says what a role needs besides."""

    identity: IdentitySection
    listen: ListenSection = ListenSection()
    database: DatabaseUrl | None = None
    control: FilePath
    eap: EapSection = EapSection()
    sessions: SessionsSection = SessionsSection()
    hss: HssSection = HssSection()
    trace: TraceSection = TraceSection()
    diameter: DiameterNodeSection = DiameterNodeSection()

    @model_validator(mode="after")
    def _secured(self) -> AaaConfiguration:
        if self.listen.tls_port is not None and self.diameter.tls is None:
            raise PydanticCustomError("tls", "certificates under diameter.tls, which listen.tls_port needs")
        return self

    def uses_swx(self, role: Role) -> bool:
        """Whether the AAA server of a process in ``role`` has its HSS behind Diameter."""
        return role is Role.AAA or (role is Role.BOTH and self.hss.connection is Connection.SWX)

    def check(self, role: Role, file: str) -> None:
        """``ConfigurationError`` for the first key that ``role`` needs and the file does not have."""
        if role is not Role.AAA and self.database is None:
            raise _missing(file, "database", "a database URL, where the HSS finds its subscribers")
        if role is Role.HSS or (role is Role.BOTH and self.uses_swx(role)):
            if self.hss.identity is None:
                raise _missing(file, "hss.identity", "the host and realm that the HSS has on SWx")
            if role is Role.BOTH and self.hss.identity.host == self.identity.host:
                raise ConfigurationError(
                    file=file,
                    key="hss.identity.host",
                    value=self.hss.identity.host,
                    expected="another host than identity.host: AAA server and HSS are two nodes on SWx",
                )
        if role is Role.AAA and self.eap.temporary is not None and self.database is None:
            raise _missing(file, "database", "a database URL, where eap.temporary keeps re-authentication contexts")
        if role is Role.AAA and not (self.hss.peers or self.diameter.peers):
            raise _missing(file, "hss.peers", "an HSS or an agent to connect to, because the role is aaa")


def _missing(file: str, key: str, expected: str) -> ConfigurationError:
    return ConfigurationError(file=file, key=key, value=None, expected=expected)
