"""Configuration of the dashboard: where it listens, which nodes it shows, and who may come in."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from protocols.io.configuration import (
    ConfigurationModel,
    Count,
    Endpoint,
    FilePath,
    Interval,
    LoggingSection,
    TextSecret,
)

NodeKind = Literal["epdg", "aaa", "hss", "ue", "lab"]
TOKEN_CHARACTERS = 16  # the fewest a configured token may have


def _long_enough(value: TextSecret | None) -> TextSecret | None:
    if value is not None and len(value.reveal().decode()) < TOKEN_CHARACTERS:
        raise PydanticCustomError("token", f"at least {TOKEN_CHARACTERS} characters")
    return value


_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """RFC 6454 §6.1: as browsers write them. Every origin at once ("*") would open the nodes to any page."""
    for origin in value:
        if not _ORIGIN.fullmatch(origin):
            raise PydanticCustomError("origin", "origins such as https://bench.example.net:8443, in lower case")
    return value


class TlsConfig(ConfigurationModel):
    """The server's certificate chain and its private key, PEM files."""

    certificate: FilePath
    key: FilePath


class NodeConfig(ConfigurationModel):
    """One node: the name people see, what it is, and its control socket."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: NodeKind
    control: FilePath


def _names_differ(value: tuple[NodeConfig, ...]) -> tuple[NodeConfig, ...]:
    names = [node.name for node in value]
    if len(set(names)) != len(names):
        raise PydanticCustomError("names", "nodes with names that differ from one another")
    return value


class DashboardsConfig(ConfigurationModel):
    """What ``dashboards serve -c`` reads."""

    listen: Endpoint = Field(default="127.0.0.1:8080", validate_default=True)
    nodes: Annotated[tuple[NodeConfig, ...], Field(min_length=1), AfterValidator(_names_differ)]
    token: Annotated[TextSecret | None, AfterValidator(_long_enough)] = None
    tokens: FilePath | None = None
    require_sign_in: bool = False
    audit_log: FilePath | None = None
    audit_octets: Annotated[Count, Field(ge=4096, le=1 << 28)] = 4 << 20
    tls: TlsConfig | None = None
    cors_origins: Annotated[tuple[str, ...], AfterValidator(_origins)] = ()
    hosts: tuple[str, ...] = ()
    poll_interval: Interval = 2.0
    call_timeout: Interval = 5.0
    heartbeat_interval: Interval = 15.0
    reader_timeout: Interval = 30.0
    event_ring: Annotated[Count, Field(ge=16, le=1 << 18)] = 4096
    event_readers: Annotated[Count, Field(ge=1, le=4096)] = 64
    results: FilePath | None = None
    trace_ring: Annotated[Count, Field(ge=100, le=1 << 21)] = 50_000
    logging: LoggingSection = LoggingSection()

    @property
    def open_to_read(self) -> bool:
        """Whether anybody may read: only while none but this machine can connect, and unless that is not wanted."""
        return self.listen.address.is_loopback and not self.require_sign_in
