"""SWm between ePDG and 3GPP AAA server (TS 29.273 §7): DER/DEA, STR/STA, ASR/ASA, RAR/RAA as values.

``from_message`` of a request raises ``RequestError`` with what to answer; of an answer, ``DecodeError``.
A DEA holds at most one APN-Configuration here. Left out: AAR/AAA (authorization without EAP), trace and
QoS profiles inside an APN-Configuration (they are kept out when received).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TypeVar

from protocols.diameter.codec import (
    Address,
    Avp,
    AvpContainer,
    AvpGroup,
    AvpValue,
    DiameterMessage,
    RequestError,
    Result,
    answer_to,
    check_request,
)
from protocols.diameter.dictionary import (
    SWM_APPLICATION,
    VENDOR_3GPP,
    AuthRequestType,
    CommandCode,
    ExperimentalResultCode,
    PdnType,
    RatType,
    ReAuthRequestType,
    ResultCode,
    TerminationCause,
)
from protocols.errors import DecodeError
from protocols.secret import Secret

__all__ = [
    "SWM_APPLICATION",
    "VENDOR_3GPP",
    "GTPV2_SUPPORTED",
    "MIP6_INTEGRATED",
    "Ambr",
    "ApnConfiguration",
    "Asa",
    "Asr",
    "AuthRequestType",
    "CommandCode",
    "Dea",
    "Der",
    "ExperimentalResultCode",
    "PdnType",
    "Raa",
    "Rar",
    "RatType",
    "ReAuthRequestType",
    "RequestError",
    "Result",
    "ResultCode",
    "SessionIdSource",
    "Sta",
    "Str",
    "TerminalInformation",
    "TerminationCause",
]

MIP6_INTEGRATED = 0x0000000000000001  # RFC 5447 §4.2.5
GTPV2_SUPPORTED = 0x0000400000000000  # TS 29.273 §9.2.3.2.3


class SessionIdSource:
    """Makes Session-Ids (RFC 6733 §8.8): ``<Origin-Host>;<high 32 bits>;<low 32 bits>[;<optional>]``."""

    def __init__(self, origin_host: str, *, wall: float) -> None:
        self._origin_host = origin_host
        # The RFC's way: the high 32 bits from the time of start, the low 32 counting
        self._counter = (int(wall) & 0xFFFFFFFF) << 32

    def next(self, optional: str = "") -> str:
        """A Session-Id that this source never gave before."""
        self._counter += 1
        high, low = self._counter >> 32, self._counter & 0xFFFFFFFF
        tail = f";{optional}" if optional else ""
        return f"{self._origin_host};{high};{low}{tail}"


@dataclass(frozen=True, slots=True)
class Ambr:
    """Aggregate maximum bit rates in bits per second (TS 29.272 §7.3.41)."""

    uplink: int
    downlink: int


@dataclass(frozen=True, slots=True)
class TerminalInformation:
    """Terminal-Information (TS 29.272 §7.3.3): the IMEI's 14 or 15 digits, two of the software."""

    imei: str
    software_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApnConfiguration:
    """APN-Configuration (TS 29.272 §7.3.35, TS 29.273 §7.2.3.1); ``service_selection`` is the APN.

    ``served_party_addresses`` holds the static addresses of the user, at most one of each version.
    """

    context_identifier: int
    service_selection: str
    pdn_type: PdnType = PdnType.IPv4
    ambr: Ambr | None = None
    served_party_addresses: tuple[Address, ...] = ()

    def to_avp(self) -> Avp:
        """Encode as the group."""
        members = [
            Avp.of("Context-Identifier", self.context_identifier),
            *(Avp.of("Served-Party-IP-Address", address) for address in self.served_party_addresses),
            Avp.of("PDN-Type", self.pdn_type),
            Avp.of("Service-Selection", self.service_selection),
        ]
        if self.ambr is not None:
            members.append(
                Avp.of(
                    "AMBR",
                    (
                        Avp.of("Max-Requested-Bandwidth-UL", self.ambr.uplink),
                        Avp.of("Max-Requested-Bandwidth-DL", self.ambr.downlink),
                    ),
                )
            )
        return Avp.of("APN-Configuration", tuple(members))

    @classmethod
    def from_group(cls, group: AvpGroup) -> ApnConfiguration:
        """Decode the group's members; ``DecodeError`` on what is missing or has no meaning."""
        pdn_type = _needed_integer(group, "PDN-Type")
        if pdn_type not in PdnType._value2member_map_:
            raise DecodeError(f"PDN-Type {pdn_type}")
        ambr = group.group("AMBR")
        return cls(
            context_identifier=_needed_integer(group, "Context-Identifier"),
            service_selection=_needed_text(group, "Service-Selection"),
            pdn_type=PdnType(pdn_type),
            ambr=None
            if ambr is None
            else Ambr(
                _needed_integer(ambr, "Max-Requested-Bandwidth-UL"),
                _needed_integer(ambr, "Max-Requested-Bandwidth-DL"),
            ),
            served_party_addresses=tuple(
                address
                for address in group.values("Served-Party-IP-Address")
                if isinstance(address, IPv4Address | IPv6Address)
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Der:
    """Diameter-EAP-Request (TS 29.273 §7.2.2.1.1): an EAP packet of the UE on its way to the AAA server.

    ``eap_payload`` may be empty to begin (RFC 4072 §3.1). ``state`` repeats what the last DEA held.
    """

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    eap_payload: bytes
    destination_host: str | None = None
    user_name: str | None = None
    auth_request_type: int = AuthRequestType.AUTHORIZE_AUTHENTICATE
    service_selection: str | None = None
    rat_type: int | None = RatType.WLAN
    ue_local_ip: Address | None = None
    visited_network_identifier: str | None = None
    terminal_information: TerminalInformation | None = None
    mip6_feature_vector: int | None = None
    aaa_failure_indication: int | None = None
    emergency_services: int | None = None
    state: tuple[bytes, ...] = ()

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return _request(
            CommandCode.DIAMETER_EAP,
            (
                *_session_avps(self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *_optional("Destination-Host", self.destination_host),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *_optional("User-Name", self.user_name),
                Avp.of("EAP-Payload", self.eap_payload),
                *_optional("RAT-Type", self.rat_type),
                *_optional("Service-Selection", self.service_selection),
                *_optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *_optional("Visited-Network-Identifier", self.visited_network_identifier),
                *_optional("AAA-Failure-Indication", self.aaa_failure_indication),
                *_optional("UE-Local-IP-Address", self.ue_local_ip),
                *_terminal_information(self.terminal_information),
                *_optional("Emergency-Services", self.emergency_services),
                *(Avp.of("State", state) for state in self.state),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Der:
        """Decode and check against the command's format."""
        _expect(message, CommandCode.DIAMETER_EAP, request=True)
        check_request(message)
        terminal = message.group("Terminal-Information")
        imei = None if terminal is None else terminal.text("IMEI")
        return cls(
            session_id=_needed_text(message, "Session-Id"),
            origin_host=_needed_text(message, "Origin-Host"),
            origin_realm=_needed_text(message, "Origin-Realm"),
            destination_realm=_needed_text(message, "Destination-Realm"),
            eap_payload=message.octets("EAP-Payload") or b"",
            destination_host=message.text("Destination-Host"),
            user_name=message.text("User-Name"),
            auth_request_type=_needed_integer(message, "Auth-Request-Type"),
            service_selection=message.text("Service-Selection"),
            rat_type=message.integer("RAT-Type"),
            ue_local_ip=message.address("UE-Local-IP-Address"),
            visited_network_identifier=message.text("Visited-Network-Identifier"),
            terminal_information=None
            if terminal is None or imei is None
            else TerminalInformation(imei, terminal.text("Software-Version")),
            mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
            aaa_failure_indication=message.integer("AAA-Failure-Indication"),
            emergency_services=message.integer("Emergency-Services"),
            state=tuple(avp.data for avp in message.find_all("State")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dea:
    """Diameter-EAP-Answer (TS 29.273 §7.2.2.1.2); ``user_name`` is the user's permanent identity."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    auth_request_type: int = AuthRequestType.AUTHORIZE_AUTHENTICATE
    eap_payload: bytes | None = None
    master_session_key: Secret | None = None
    user_name: str | None = None
    apn_configuration: ApnConfiguration | None = None
    session_timeout: int | None = None
    mip6_feature_vector: int | None = None
    multi_round_timeout: int | None = None
    state: tuple[bytes, ...] = ()
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        return answer_to(
            request,
            origin_host=self.origin_host,
            origin_realm=self.origin_realm,
            result=self.result,
            avps=(
                Avp.of("Auth-Application-Id", SWM_APPLICATION),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *_optional("EAP-Payload", self.eap_payload),
                *_optional("User-Name", self.user_name),
                *_optional("Session-Timeout", self.session_timeout),
                *_optional("Multi-Round-Time-Out", self.multi_round_timeout),
                *_optional(
                    "EAP-Master-Session-Key",
                    None if self.master_session_key is None else self.master_session_key.reveal(),
                ),
                *(() if self.apn_configuration is None else (self.apn_configuration.to_avp(),)),
                *_optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *(Avp.of("State", state) for state in self.state),
                *_optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Dea:
        """Decode; an answer with the E flag needs no more than its result (RFC 6733 §7.2)."""
        _expect(message, CommandCode.DIAMETER_EAP, request=False)
        try:
            key = message.octets("EAP-Master-Session-Key")
            apn = message.group("APN-Configuration")
            auth_request_type = message.integer("Auth-Request-Type")
            if auth_request_type is None:
                if not message.error:
                    raise DecodeError("DEA without Auth-Request-Type")
                auth_request_type = AuthRequestType.AUTHORIZE_AUTHENTICATE
            return cls(
                session_id=_answer_session(message),
                origin_host=_needed_text(message, "Origin-Host"),
                origin_realm=_needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                auth_request_type=auth_request_type,
                eap_payload=message.octets("EAP-Payload"),
                master_session_key=None if key is None else Secret(key),
                user_name=message.text("User-Name"),
                apn_configuration=None if apn is None else ApnConfiguration.from_group(apn),
                session_timeout=message.integer("Session-Timeout"),
                mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
                multi_round_timeout=message.integer("Multi-Round-Time-Out"),
                state=tuple(avp.data for avp in message.find_all("State")),
                error_message=message.text("Error-Message"),
            )
        except RequestError as error:
            raise DecodeError(f"{message.name}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Str:
    """Session-Termination-Request (TS 29.273 §7.2.2.3.1)."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    user_name: str
    termination_cause: int = TerminationCause.DIAMETER_LOGOUT
    destination_host: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return _request(
            CommandCode.SESSION_TERMINATION,
            (
                *_session_avps(self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *_optional("Destination-Host", self.destination_host),
                Avp.of("Termination-Cause", self.termination_cause),
                Avp.of("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Str:
        """Decode and check against the command's format."""
        _expect(message, CommandCode.SESSION_TERMINATION, request=True)
        check_request(message)
        return cls(
            session_id=_needed_text(message, "Session-Id"),
            origin_host=_needed_text(message, "Origin-Host"),
            origin_realm=_needed_text(message, "Origin-Realm"),
            destination_realm=_needed_text(message, "Destination-Realm"),
            user_name=_needed_text(message, "User-Name"),
            termination_cause=_needed_integer(message, "Termination-Cause"),
            destination_host=message.text("Destination-Host"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asr:
    """Abort-Session-Request (TS 29.273 §7.2.2.2.1): the AAA server ends a session at the ePDG."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str
    user_name: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return _request(
            CommandCode.ABORT_SESSION,
            (
                *_session_avps(self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                Avp.of("Destination-Host", self.destination_host),
                *_optional("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Asr:
        """Decode and check against the command's format."""
        _expect(message, CommandCode.ABORT_SESSION, request=True)
        check_request(message)
        return cls(
            session_id=_needed_text(message, "Session-Id"),
            origin_host=_needed_text(message, "Origin-Host"),
            origin_realm=_needed_text(message, "Origin-Realm"),
            destination_realm=_needed_text(message, "Destination-Realm"),
            destination_host=_needed_text(message, "Destination-Host"),
            user_name=message.text("User-Name"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rar:
    """Re-Auth-Request (TS 29.273 §7.2.2.4.1): the AAA server has a changed profile for a session."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str
    re_auth_request_type: int = ReAuthRequestType.AUTHORIZE_ONLY
    user_name: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return _request(
            CommandCode.RE_AUTH,
            (
                *_session_avps(self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                Avp.of("Destination-Host", self.destination_host),
                Avp.of("Re-Auth-Request-Type", self.re_auth_request_type),
                *_optional("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Rar:
        """Decode and check against the command's format."""
        _expect(message, CommandCode.RE_AUTH, request=True)
        check_request(message)
        return cls(
            session_id=_needed_text(message, "Session-Id"),
            origin_host=_needed_text(message, "Origin-Host"),
            origin_realm=_needed_text(message, "Origin-Realm"),
            destination_realm=_needed_text(message, "Destination-Realm"),
            destination_host=_needed_text(message, "Destination-Host"),
            re_auth_request_type=_needed_integer(message, "Re-Auth-Request-Type"),
            user_name=message.text("User-Name"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _SessionAnswer:
    """What the answers that say no more than a result have in common."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        return answer_to(
            request,
            origin_host=self.origin_host,
            origin_realm=self.origin_realm,
            result=self.result,
            avps=_optional("Error-Message", self.error_message),
        )


_SessionAnswerT = TypeVar("_SessionAnswerT", bound=_SessionAnswer)


def _session_answer(answer: type[_SessionAnswerT], message: DiameterMessage, command: CommandCode) -> _SessionAnswerT:
    _expect(message, command, request=False)
    try:
        return answer(
            session_id=_answer_session(message),
            origin_host=_needed_text(message, "Origin-Host"),
            origin_realm=_needed_text(message, "Origin-Realm"),
            result=Result.from_message(message),
            error_message=message.text("Error-Message"),
        )
    except RequestError as error:
        raise DecodeError(f"{message.name}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sta(_SessionAnswer):
    """Session-Termination-Answer (TS 29.273 §7.2.2.3.2)."""

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Sta:
        """Decode."""
        return _session_answer(cls, message, CommandCode.SESSION_TERMINATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asa(_SessionAnswer):
    """Abort-Session-Answer (TS 29.273 §7.2.2.2.2)."""

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Asa:
        """Decode."""
        return _session_answer(cls, message, CommandCode.ABORT_SESSION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Raa(_SessionAnswer):
    """Re-Auth-Answer (TS 29.273 §7.2.2.4.2)."""

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Raa:
        """Decode."""
        return _session_answer(cls, message, CommandCode.RE_AUTH)


def _request(command: CommandCode, avps: tuple[Avp, ...]) -> DiameterMessage:
    return DiameterMessage(command=command, application=SWM_APPLICATION, request=True, proxiable=True, avps=avps)


def _session_avps(session_id: str, origin_host: str, origin_realm: str) -> tuple[Avp, ...]:
    return (
        Avp.of("Session-Id", session_id),
        Avp.of("Auth-Application-Id", SWM_APPLICATION),
        Avp.of("Origin-Host", origin_host),
        Avp.of("Origin-Realm", origin_realm),
    )


def _optional(name: str, value: AvpValue | None) -> tuple[Avp, ...]:
    return () if value is None else (Avp.of(name, value),)


def _terminal_information(terminal: TerminalInformation | None) -> tuple[Avp, ...]:
    if terminal is None:
        return ()
    members = (Avp.of("IMEI", terminal.imei), *_optional("Software-Version", terminal.software_version))
    return (Avp.of("Terminal-Information", members),)


def _expect(message: DiameterMessage, command: CommandCode, *, request: bool) -> None:
    if message.command != command or message.application != SWM_APPLICATION or message.request != request:
        raise DecodeError(f"{message.name} of application {message.application} where another was expected")


def _needed_text(container: AvpContainer, name: str) -> str:
    value = container.text(name)
    if value is None:
        raise DecodeError(f"{name} is missing")
    return value


def _needed_integer(container: AvpContainer, name: str) -> int:
    value = container.integer(name)
    if value is None:
        raise DecodeError(f"{name} is missing")
    return value


def _answer_session(message: DiameterMessage) -> str:
    """RFC 6733 §7.2: only an answer with the E flag may lack its Session-Id."""
    session = message.session_id
    if session is None and not message.error:
        raise DecodeError(f"{message.name} without Session-Id")
    return session or ""
