"""The configuration of the AAA node: read once into frozen objects; ``aaa/example.yaml`` shows every key."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from aaa.eap_configuration import EapSection
from aaa.emergency import EmergencyPolicy
from aaa.equipment import EquipmentList, EquipmentStatus, parse_list, parse_pattern
from aaa.faults.rule import FaultRule, Point
from aaa.hss.profile import PDN_TYPES
from aaa.sessions import UNFINISHED_LIMIT
from aaa.subscribers.subscriber import PdnType
from protocols.diameter.uri import Transport
from protocols.errors import ConfigurationError
from protocols.io.configuration import ConfigurationModel, Count, Digits, FilePath, Interval, LoggingSection, unfit
from protocols.io.diameter.configuration import (
    DiameterIdentityText,
    DiameterNodeSection,
    ListenSection,
    PeerSection,
)
from protocols.io.telemetry import TelemetrySection
from protocols.threegpp.identity import Apn

DEFAULT_SESSION_TIMEOUT = 86_400  # a day; TS 29.273 leaves Session-Timeout to the operator
DEFAULT_UNFINISHED_INTERVAL = 60.0  # longer than a UE retransmits within one EAP round (RFC 7296 §2.4)
DEFAULT_SEQUENCE_BLOCK = 32  # one turn of IND (TS 33.102 §C.3.2)
DEFAULT_HSS_TIMEOUT = 5.0  # shorter than a gateway waits for its DEA
DEFAULT_POLL_INTERVAL = 5.0
DEFAULT_RING = 20_000
DEFAULT_EMERGENCY_RATE = 1_000_000  # bit/s: a voice or video call
DEFAULT_EMERGENCY_QCI = 5  # IMS signalling


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


def _shown_database_url(value: str) -> str:
    """Without its password, and without the query, where drivers take passwords as well."""
    return make_url(value).set(query={}).render_as_string(hide_password=True)


DatabaseUrl = Annotated[str, AfterValidator(_database_url), PlainSerializer(_shown_database_url)]


def _apn_name(value: str) -> str:
    try:
        return str(Apn(value))
    except ValueError:
        raise PydanticCustomError("apn", "an APN such as sos") from None


class IdentitySection(ConfigurationModel):
    """Origin-Host and Origin-Realm (RFC 6733 §6.3, §6.4)."""

    host: DiameterIdentityText
    realm: DiameterIdentityText


class SessionsSection(ConfigurationModel):
    """Lifetimes of SWm sessions, and how many there may be without success."""

    timeout: Annotated[Count, Field(ge=1, le=0xFFFFFFFF)] = DEFAULT_SESSION_TIMEOUT
    unfinished_interval: Interval = DEFAULT_UNFINISHED_INTERVAL
    unfinished_limit: Annotated[Count, Field(ge=1)] = UNFINISHED_LIMIT


class TraceSection(ConfigurationModel):
    """What the recorder keeps; with ``export_keys`` records hold the MSK in clear."""

    enabled: bool = True
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
    ``poll_interval``: how often the HSS looks for changes that others made in the database. ``vectors``: files of
    vectors to hand out in place of made ones, one for each subscriber.
    """

    connection: Connection = Connection.IN_PROCESS
    identity: IdentitySection | None = None
    listen: ListenSection | None = None
    peers: tuple[PeerSection, ...] = ()
    realm: DiameterIdentityText | None = None
    timeout: Interval = DEFAULT_HSS_TIMEOUT
    poll_interval: Interval | None = DEFAULT_POLL_INTERVAL
    vectors: tuple[FilePath, ...] = ()
    sequence_block: Annotated[Count, Field(ge=1, le=1024)] = DEFAULT_SEQUENCE_BLOCK


class EncryptionSection(ConfigurationModel):
    """Keys of subscribers at rest: sealed under the master keys of a file, in clear without one."""

    master_keys: FilePath | None = None
    create: bool = False


def _equipment_patterns(value: object, info: ValidationInfo) -> object:
    """Patterns in a list, or in a file that lies beside the configuration file."""
    if isinstance(value, str):
        directory = info.context.get("directory") if isinstance(info.context, Mapping) else None
        file = Path(value).expanduser()
        try:
            text = (file if directory is None else Path(directory) / file).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            raise PydanticCustomError("equipment_file", "a list, or a text file that can be read") from None
        try:
            return parse_list(text)
        except ValueError as error:
            raise PydanticCustomError("equipment_file", "a file with {expected}", {"expected": str(error)}) from None
    return value


def _equipment_pattern(value: str) -> str:
    try:
        return parse_pattern(value)
    except ValueError as error:
        raise PydanticCustomError("equipment_pattern", "{expected}", {"expected": str(error)}) from None


EquipmentPatterns = Annotated[
    tuple[Annotated[Digits, AfterValidator(_equipment_pattern)], ...], BeforeValidator(_equipment_patterns)
]


class EquipmentSection(ConfigurationModel):
    """Which devices may attach: each list is IMEIs and beginnings of such, or a file of them."""

    white: EquipmentPatterns = ()
    grey: EquipmentPatterns = ()
    black: EquipmentPatterns = ()
    unknown: EquipmentStatus = EquipmentStatus.WHITE
    unidentified: EquipmentStatus = EquipmentStatus.WHITE

    @model_validator(mode="after")
    def _listed_once(self) -> EquipmentSection:
        patterns = (*self.white, *self.grey, *self.black)
        if len(set(patterns)) != len(patterns):
            raise PydanticCustomError("equipment", "every device in one list only")
        return self

    def as_list(self) -> EquipmentList:
        """The list that a server asks."""
        patterns: dict[str, EquipmentStatus] = {}
        for status, listed in (
            (EquipmentStatus.WHITE, self.white),
            (EquipmentStatus.GREY, self.grey),
            (EquipmentStatus.BLACK, self.black),
        ):
            patterns |= dict.fromkeys(listed, status)
        return EquipmentList(patterns=patterns, unknown=self.unknown, unidentified=self.unidentified)


class UnauthenticatedEmergency(str, Enum):
    """Whether UEs that cannot be authenticated have emergency sessions."""

    ALLOW = "allow"
    REFUSE = "refuse"


class EmergencySection(ConfigurationModel):
    """Emergency sessions: the profile of their APN, which no subscription has (TS 23.401 §4.3.12)."""

    apn: Annotated[Digits, AfterValidator(_apn_name)]
    unauthenticated: UnauthenticatedEmergency = UnauthenticatedEmergency.REFUSE
    pdn_type: PdnType = PdnType.IPV4V6
    ambr_uplink_bits: Annotated[Count, Field(ge=1)] = DEFAULT_EMERGENCY_RATE
    ambr_downlink_bits: Annotated[Count, Field(ge=1)] = DEFAULT_EMERGENCY_RATE
    qci: Annotated[Count, Field(ge=1, le=254)] = DEFAULT_EMERGENCY_QCI
    priority_level: Annotated[Count, Field(ge=1, le=15)] = 1


def _named_once(rules: tuple[FaultRule, ...]) -> tuple[FaultRule, ...]:
    if len({rule.name for rule in rules}) != len(rules):
        raise PydanticCustomError("fault_names", "every rule's name once")
    return rules


FaultRules = Annotated[tuple[FaultRule, ...], AfterValidator(_named_once)]


class AaaConfiguration(ConfigurationModel):
    """Everything ``aaa serve`` needs; ``check`` says what a role needs besides."""

    identity: IdentitySection
    listen: ListenSection = ListenSection()
    database: DatabaseUrl | None = None
    control: FilePath
    logging: LoggingSection = LoggingSection()
    eap: EapSection = EapSection()
    sessions: SessionsSection = SessionsSection()
    hss: HssSection = HssSection()
    trace: TraceSection = TraceSection()
    telemetry: TelemetrySection | None = None
    diameter: DiameterNodeSection = DiameterNodeSection()
    faults: FaultRules = ()
    equipment: EquipmentSection = EquipmentSection()
    encryption: EncryptionSection = EncryptionSection()
    emergency: EmergencySection | None = None

    @model_validator(mode="after")
    def _secured(self) -> AaaConfiguration:
        if self.telemetry is not None and not self.trace.enabled:
            raise unfit("true, where there is telemetry: spans are made of the trace", "trace", "enabled")
        if self.diameter.tls is None:
            if self.listen.tls_port is not None:
                raise unfit("certificates, which listen.tls_port needs", "diameter", "tls")
            if self.hss.listen is not None and self.hss.listen.tls_port is not None:
                raise unfit("certificates, which hss.listen.tls_port needs", "diameter", "tls")
            if any(peer.transport is Transport.TLS for peer in self.hss.peers):
                raise unfit("certificates, which transport: tls needs", "diameter", "tls")
        hosts = [peer.host for peer in (*self.diameter.peers, *self.hss.peers)]
        if len(set(hosts)) != len(hosts):
            raise unfit("every host once under diameter.peers and hss.peers", "hss", "peers")
        return self

    def emergency_policy(self) -> EmergencyPolicy | None:
        """What emergency sessions are granted; ``None``: they are sessions like others."""
        section = self.emergency
        if section is None:
            return None
        return EmergencyPolicy(
            apn=section.apn,
            unauthenticated=section.unauthenticated is UnauthenticatedEmergency.ALLOW,
            pdn_type=PDN_TYPES[section.pdn_type],
            ambr_uplink_bits=section.ambr_uplink_bits,
            ambr_downlink_bits=section.ambr_downlink_bits,
            qci=section.qci,
            priority_level=section.priority_level,
        )

    def uses_swx(self, role: Role) -> bool:
        """Whether the AAA server of a process in ``role`` has its HSS behind Diameter."""
        return role is Role.AAA or (role is Role.BOTH and self.hss.connection is Connection.SWX)

    @property
    def hss_identity(self) -> IdentitySection:
        """Who the HSS is on SWx: an HSS alone may say it under ``identity``."""
        return self.hss.identity or self.identity

    def hss_listen(self, role: Role) -> ListenSection:
        """Where the HSS listens: one that is alone may say it under ``listen``, the other needs no fixed port."""
        if self.hss.listen is not None:
            return self.hss.listen
        return self.listen if role is Role.HSS else ListenSection(port=0)

    def check(self, role: Role, file: str) -> None:
        """``ConfigurationError`` for the first key that ``role`` needs and the file does not have."""
        if role is not Role.AAA and self.database is None:
            raise _missing(file, "database", "a database URL, where the HSS finds its subscribers")
        if role is Role.BOTH and self.uses_swx(role):
            if self.hss.identity is None:
                raise _missing(file, "hss.identity", "the host and realm that the HSS has on SWx")
            if self.hss.identity.host == self.identity.host:
                raise ConfigurationError(
                    file=file,
                    key="hss.identity.host",
                    value=self.hss.identity.host,
                    expected="another host than identity.host: AAA server and HSS are two nodes on SWx",
                )
            if self.hss.listen is not None and self.hss.listen.port is None:
                raise _missing(file, "hss.listen.port", "a TCP port, to which the AAA server beside it connects")
        if role is Role.AAA:
            for number, rule in enumerate(self.faults):
                if rule.action.needs_key:
                    raise ConfigurationError(
                        file=file,
                        key=f"faults.{number}.action",
                        value=rule.action.described(Point.VECTOR),
                        expected="another action: this one needs the subscribers' keys, and the role is aaa",
                    )
        own = self.hss_identity.host if role is Role.HSS else self.identity.host
        for key, peers in (("diameter.peers", self.diameter.peers), ("hss.peers", self.hss.peers)):
            for number, peer in enumerate(peers):
                if peer.host == own:
                    expected = "another node than this one itself"
                    raise ConfigurationError(file=file, key=f"{key}.{number}.host", value=own, expected=expected)
        if role is Role.AAA and self.eap.temporary is not None and self.database is None:
            raise _missing(file, "database", "a database URL, where eap.temporary keeps re-authentication contexts")
        if role is Role.AAA and not (self.hss.peers or self.diameter.peers):
            raise _missing(file, "hss.peers", "an HSS or an agent to connect to, because the role is aaa")


def _missing(file: str, key: str, expected: str) -> ConfigurationError:
    return ConfigurationError(file=file, key=key, value=None, expected=expected)
