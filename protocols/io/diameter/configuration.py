"""What configuration files say of Diameter (RFC 6733): peers, listening, TLS, limits; both nodes share it."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import IPv4Address
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from protocols.diameter.dictionary import S6B_APPLICATION, SWM_APPLICATION, SWX_APPLICATION
from protocols.diameter.framing import HEADER_LENGTH, MESSAGE_LENGTH_LIMIT
from protocols.diameter.uri import PORT, Transport
from protocols.diameter.watchdog import WATCHDOG_INTERVAL, WATCHDOG_INTERVAL_MINIMUM
from protocols.io.configuration import AnyPort, ConfigurationModel, Count, FilePath, Interval, IpAddress, Port, unfit
from protocols.io.diameter.answers import ANSWERS_LIMIT
from protocols.io.diameter.node import REQUESTS_LIMIT
from protocols.io.diameter.sctp import has_sctp

_FQDN = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*\Z")

_WITHOUT_SCTP = "a kernel with SCTP, which this one has not"


def _diameter_identity(value: str) -> str:
    if not _FQDN.match(value):
        raise PydanticCustomError("diameter_identity", "a domain name such as aaa.example.org")
    return value.lower()


DiameterIdentityText = Annotated[str, AfterValidator(_diameter_identity)]
"""A DiameterIdentity (RFC 6733 §4.3.1), in small letters."""


class ApplicationName(str, Enum):
    """The applications of TS 29.273 by the names of their interfaces."""

    SWM = "swm"
    SWX = "swx"
    S6B = "s6b"

    @property
    def identifier(self) -> int:
        """The Application-Id."""
        return {"swm": SWM_APPLICATION, "swx": SWX_APPLICATION, "s6b": S6B_APPLICATION}[self.value]


class PeerSection(ConfigurationModel):
    """A Diameter peer to connect to, and what is routed to it (RFC 6733 §2.6, §2.7).

    ``realms`` are those reached through it; without them its own, and every realm if it is a relay.
    ``applications`` narrow what is sent to it. Of the peers that serve a request those of the lowest
    ``priority`` share the load by ``weight``. ``on_demand``: connect only when a redirect agent names it.
    """

    host: DiameterIdentityText
    address: IpAddress
    port: Port | None = None
    transport: Transport = Transport.TCP
    realms: tuple[DiameterIdentityText, ...] = ()
    applications: tuple[ApplicationName, ...] = ()
    priority: Count = 0
    weight: Annotated[Count, Field(ge=1, le=65535)] = 1
    on_demand: bool = False

    @field_validator("transport")
    @classmethod
    def _spoken_here(cls, value: Transport) -> Transport:
        if value is Transport.SCTP and not has_sctp():
            raise PydanticCustomError("sctp", _WITHOUT_SCTP)
        return value


class ListenSection(ConfigurationModel):
    """Where Diameter is served: TCP, TLS and SCTP; null: not there, 0: the system chooses.

    ``known_peers`` are the Origin-Hosts that may connect, without it every peer may (RFC 6733 §5.3).
    """

    address: IpAddress = IPv4Address("127.0.0.1")
    port: AnyPort | None = PORT
    tls_port: AnyPort | None = None
    sctp_port: AnyPort | None = None
    known_peers: tuple[DiameterIdentityText, ...] | None = None

    @field_validator("sctp_port")
    @classmethod
    def _spoken_here(cls, value: int | None) -> int | None:
        if value is not None and not has_sctp():
            raise PydanticCustomError("sctp", _WITHOUT_SCTP)
        return value

    @model_validator(mode="after")
    def _somewhere(self) -> ListenSection:
        if self.port is self.tls_port is self.sctp_port is None:
            raise PydanticCustomError("listen", "a port, tls_port or sctp_port")
        return self


class TlsSection(ConfigurationModel):
    """PEM files for TLS with mutual authentication (RFC 6733 §13.1): ours, and the authority of the peers."""

    chain: FilePath
    key: FilePath
    authority: FilePath


class LimitsSection(ConfigurationModel):
    """How much peers may ask of this node.

    ``message_length`` in octets; ``requests`` in work at a time, more are answered DIAMETER_TOO_BUSY;
    ``answers``: octets kept to answer duplicates alike.
    """

    message_length: Annotated[Count, Field(ge=1024, le=0xFFFFFF)] = MESSAGE_LENGTH_LIMIT
    requests: Annotated[Count, Field(ge=1)] = REQUESTS_LIMIT
    answers: Annotated[Count, Field(ge=HEADER_LENGTH)] = ANSWERS_LIMIT


class DiameterNodeSection(ConfigurationModel):
    """What every Diameter node has: peers, TLS, the watchdog interval (RFC 3539 §3.4.1), limits."""

    peers: tuple[PeerSection, ...] = ()
    tls: TlsSection | None = None
    watchdog_interval: Annotated[Interval, Field(ge=WATCHDOG_INTERVAL_MINIMUM)] = WATCHDOG_INTERVAL
    limits: LimitsSection = LimitsSection()

    @model_validator(mode="after")
    def _consistent_peers(self) -> DiameterNodeSection:
        if self.tls is None and any(peer.transport is Transport.TLS for peer in self.peers):
            raise unfit("certificates, which a peer with transport: tls needs", "tls")
        hosts = [peer.host for peer in self.peers]
        if len(set(hosts)) != len(hosts):
            raise unfit("every host once", "peers")
        return self
