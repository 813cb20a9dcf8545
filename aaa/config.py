"""The configuration of the AAA node: read once into frozen objects; ``aaa/example.yaml`` shows every key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from protocols.eap.aka.server import IdentityRequest
from protocols.io.configuration import AnyPort, ConfigurationModel, Count, FilePath, Interval, IpAddress

DIAMETER_PORT = 3868  # RFC 6733 §2.1
DEFAULT_SESSION_TIMEOUT = 86_400  # a day; TS 29.273 leaves Session-Timeout to the operator
DEFAULT_UNFINISHED_INTERVAL = 60.0  # longer than a UE retransmits within one EAP round (RFC 7296 §2.4)
DEFAULT_SEQUENCE_BLOCK = 32  # one turn of IND (TS 33.102 §C.3.2)
DEFAULT_RING = 20_000

_FQDN = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*\Z")


def _diameter_identity(value: str) -> str:
    if not _FQDN.match(value):
        raise PydanticCustomError("diameter_identity", "a domain name such as aaa.example.org")
    return value.lower()


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


_IDENTITY_REQUESTS = {
    "any": IdentityRequest.ANY,
    "full-authentication": IdentityRequest.FULL_AUTHENTICATION,
    "permanent": IdentityRequest.PERMANENT,
}


def _identity_request(value: object) -> IdentityRequest:
    if isinstance(value, IdentityRequest):
        return value
    found = _IDENTITY_REQUESTS.get(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("identity_request", "any, full-authentication or permanent")
    return found


DiameterIdentityText = Annotated[str, AfterValidator(_diameter_identity)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]


class IdentitySection(ConfigurationModel):
    """Origin-Host and Origin-Realm (RFC 6733 §6.3, §6.4)."""

    host: DiameterIdentityText
    realm: DiameterIdentityText


class ListenSection(ConfigurationModel):
    """Where Diameter over TCP is served; port 0 lets the system choose.

    ``known_peers`` are the Origin-Hosts that may connect, without it every peer may (RFC 6733 §5.3).
    """

    address: IpAddress = IPv4Address("127.0.0.1")
    port: AnyPort = DIAMETER_PORT
    known_peers: tuple[DiameterIdentityText, ...] | None = None


class EapSection(ConfigurationModel):
    """The EAP-AKA server (RFC 4187).

    ``identity_request`` is what is asked for when the identity is not usable, or always.
    """

    identity_request: Annotated[IdentityRequest, BeforeValidator(_identity_request)] = IdentityRequest.PERMANENT
    always_request_identity: bool = False
    checkcode: bool = True
    result_indications: bool = False


class SessionsSection(ConfigurationModel):
    """Lifetimes of SWm sessions."""

    timeout: Annotated[Count, Field(ge=1, le=0xFFFFFFFF)] = DEFAULT_SESSION_TIMEOUT
    unfinished_interval: Interval = DEFAULT_UNFINISHED_INTERVAL


class TraceSection(ConfigurationModel):
    """What the recorder keeps; with ``export_keys`` records hold the MSK in clear."""

    export_keys: bool = False
    ring: Annotated[Count, Field(ge=1)] = DEFAULT_RING


class HssSection(ConfigurationModel):
    """The HSS in this process."""

    sequence_block: Annotated[Count, Field(ge=1, le=1024)] = DEFAULT_SEQUENCE_BLOCK


class EncryptionSection(ConfigurationModel):
    """Keys of subscribers at rest: sealed under the master keys of a file, in clear without one."""

    master_keys: FilePath | None = None
    create: bool = False


class AaaConfiguration(ConfigurationModel):
    """Everything ``aaa serve`` needs."""

    identity: IdentitySection
    listen: ListenSection = ListenSection()
    database: DatabaseUrl
    control: FilePath
    eap: EapSection = EapSection()
    sessions: SessionsSection = SessionsSection()
    hss: HssSection = HssSection()
    trace: TraceSection = TraceSection()
    encryption: EncryptionSection = EncryptionSection()
