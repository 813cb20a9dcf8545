"""SWm between ePDG and 3GPP AAA server (TS 29.273 §7): DER/DEA, AAR/AAA, STR/STA, ASR/ASA, RAR/RAA as values.

``from_message`` of a request raises ``RequestError`` with what to answer; of an answer, ``DecodeError``.
A DEA holds at most one APN-Configuration. Left out: Trace-Info, Access-Network-Info, Emergency-Info,
Redirect-Host and Load (passed over when received).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocols.diameter.codec import Address, Avp, DiameterMessage, RequestError, Result, answer_to
from protocols.diameter.commands import (
    AbortSessionRequest,
    ReAuthRequest,
    SessionAnswer,
    SessionIdSource,
    SessionTerminationRequest,
    answer_session,
    build_request,
    checked_request,
    decoding_answer,
    needed_integer,
    needed_text,
    optional,
    session_avps,
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
from protocols.diameter.profile import (
    GTPV2_SUPPORTED,
    MIP6_INTEGRATED,
    OLR_DEFAULT_ALGO,
    Ambr,
    ApnConfiguration,
    Arp,
    OverloadReport,
    QosProfile,
    TerminalInformation,
    agent_info,
    agent_within,
    msisdn_within,
    overload_avps,
    overload_features,
    overload_features_within,
    subscription_id,
)
from protocols.errors import DecodeError
from protocols.secret import Secret

__all__ = [
    "SWM_APPLICATION",
    "VENDOR_3GPP",
    "EMERGENCY_INDICATION",
    "GTPV2_SUPPORTED",
    "MIP6_INTEGRATED",
    "OLR_DEFAULT_ALGO",
    "Aaa",
    "Aar",
    "Ambr",
    "ApnConfiguration",
    "Arp",
    "Asa",
    "Asr",
    "AuthRequestType",
    "CommandCode",
    "Dea",
    "Der",
    "ExperimentalResultCode",
    "OverloadReport",
    "PdnType",
    "QosProfile",
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
    "WLAN_LOCATION_INFO_REQUEST",
]

EMERGENCY_INDICATION = 0x00000001  # Emergency-Services, TS 29.273 §7.2.3.4
WLAN_LOCATION_INFO_REQUEST = 0x00000001  # AAR-Flags, TS 29.273 §7.2.3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Der:
    """Diameter-EAP-Request (TS 29.273 §7.2.2.1.1): an EAP packet of the UE on its way to the AAA server.

    ``eap_payload`` may be empty to begin (RFC 4072 §3.1). ``state`` repeats what the last DEA held.
    ``emergency_services`` and ``overload_features`` are masks (``EMERGENCY_INDICATION``, ``OLR_DEFAULT_ALGO``).
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
    overload_features: int | None = None
    state: tuple[bytes, ...] = ()

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.DIAMETER_EAP,
            SWM_APPLICATION,
            (
                *session_avps(SWM_APPLICATION, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *optional("Destination-Host", self.destination_host),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *optional("User-Name", self.user_name),
                Avp.of("EAP-Payload", self.eap_payload),
                *optional("RAT-Type", self.rat_type),
                *optional("Service-Selection", self.service_selection),
                *optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *optional("Visited-Network-Identifier", self.visited_network_identifier),
                *optional("AAA-Failure-Indication", self.aaa_failure_indication),
                *optional("UE-Local-IP-Address", self.ue_local_ip),
                *(() if self.terminal_information is None else (self.terminal_information.to_avp(),)),
                *optional("Emergency-Services", self.emergency_services),
                *overload_features(self.overload_features),
                *(Avp.of("State", state) for state in self.state),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Der:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.DIAMETER_EAP, SWM_APPLICATION)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            eap_payload=message.octets("EAP-Payload") or b"",
            destination_host=message.text("Destination-Host"),
            user_name=message.text("User-Name"),
            auth_request_type=needed_integer(message, "Auth-Request-Type"),
            service_selection=message.text("Service-Selection"),
            rat_type=message.integer("RAT-Type"),
            ue_local_ip=message.address("UE-Local-IP-Address"),
            visited_network_identifier=message.text("Visited-Network-Identifier"),
            terminal_information=TerminalInformation.within(message),
            mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
            aaa_failure_indication=message.integer("AAA-Failure-Indication"),
            emergency_services=message.integer("Emergency-Services"),
            overload_features=overload_features_within(message),
            state=tuple(avp.data for avp in message.find_all("State")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dea:
    """Diameter-EAP-Answer (TS 29.273 §7.2.2.1.2); ``user_name`` is the user's permanent identity.

    ``subscription_id`` is the MSISDN, ``mip6_agent_info`` a PGW by host name or address. With ``overload`` the
    answer says OC-Supported-Features too (RFC 7683 §5.1.2): only for a request that said it.
    """

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    auth_request_type: int = AuthRequestType.AUTHORIZE_AUTHENTICATE
    eap_payload: bytes | None = None
    master_session_key: Secret | None = None
    user_name: str | None = None
    apn_oi_replacement: str | None = None
    apn_configuration: ApnConfiguration | None = None
    session_timeout: int | None = None
    mip6_feature_vector: int | None = None
    mobile_node_identifier: str | None = None
    subscription_id: str | None = None
    mip6_agent_info: str | None = None
    charging_characteristics: str | None = None
    multi_round_timeout: int | None = None
    overload_features: int | None = None
    overload: OverloadReport | None = None
    state: tuple[bytes, ...] = ()
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        key = None if self.master_session_key is None else self.master_session_key.reveal()
        return answer_to(
            request,
            origin_host=self.origin_host,
            origin_realm=self.origin_realm,
            result=self.result,
            avps=(
                Avp.of("Auth-Application-Id", SWM_APPLICATION),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *optional("EAP-Payload", self.eap_payload),
                *optional("User-Name", self.user_name),
                *optional("Session-Timeout", self.session_timeout),
                *optional("Multi-Round-Time-Out", self.multi_round_timeout),
                *optional("EAP-Master-Session-Key", key),
                *optional("APN-OI-Replacement", self.apn_oi_replacement),
                *(() if self.apn_configuration is None else (self.apn_configuration.to_avp(),)),
                *optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *optional("Mobile-Node-Identifier", self.mobile_node_identifier),
                *subscription_id(self.subscription_id),
                *agent_info(self.mip6_agent_info),
                *optional("3GPP-Charging-Characteristics", self.charging_characteristics),
                *overload_avps(self.overload_features, self.overload),
                *(Avp.of("State", state) for state in self.state),
                *optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Dea:
        """Decode; an answer with the E flag needs no more than its result (RFC 6733 §7.2)."""
        with decoding_answer(message, CommandCode.DIAMETER_EAP, SWM_APPLICATION):
            key = message.octets("EAP-Master-Session-Key")
            apn = message.group("APN-Configuration")
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                auth_request_type=_answered_type(message, AuthRequestType.AUTHORIZE_AUTHENTICATE),
                eap_payload=message.octets("EAP-Payload"),
                master_session_key=None if key is None else Secret(key),
                user_name=message.text("User-Name"),
                apn_oi_replacement=message.text("APN-OI-Replacement"),
                apn_configuration=None if apn is None else ApnConfiguration.from_group(apn),
                session_timeout=message.integer("Session-Timeout") or None,  # RFC 6733 §8.13: zero is no end
                mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
                mobile_node_identifier=message.text("Mobile-Node-Identifier"),
                subscription_id=msisdn_within(message),
                mip6_agent_info=agent_within(message),
                charging_characteristics=message.text("3GPP-Charging-Characteristics"),
                multi_round_timeout=message.integer("Multi-Round-Time-Out"),
                overload_features=overload_features_within(message),
                overload=OverloadReport.within(message),
                state=tuple(avp.data for avp in message.find_all("State")),
                error_message=message.text("Error-Message"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Aar:
    """AA-Request (TS 29.273 §7.2.2.1.3): the ePDG asks for the present profile, after an RAR.

    ``aar_flags`` is a mask (``WLAN_LOCATION_INFO_REQUEST``).
    """

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str | None = None
    user_name: str | None = None
    auth_request_type: int = AuthRequestType.AUTHORIZE_ONLY
    aar_flags: int | None = None
    ue_local_ip: Address | None = None
    overload_features: int | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.AA,
            SWM_APPLICATION,
            (
                *session_avps(SWM_APPLICATION, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *optional("Destination-Host", self.destination_host),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *optional("User-Name", self.user_name),
                *overload_features(self.overload_features),
                *optional("AAR-Flags", self.aar_flags),
                *optional("UE-Local-IP-Address", self.ue_local_ip),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Aar:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.AA, SWM_APPLICATION)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            destination_host=message.text("Destination-Host"),
            user_name=message.text("User-Name"),
            auth_request_type=needed_integer(message, "Auth-Request-Type"),
            aar_flags=message.integer("AAR-Flags"),
            ue_local_ip=message.address("UE-Local-IP-Address"),
            overload_features=overload_features_within(message),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Aaa:
    """AA-Answer (TS 29.273 §7.2.2.1.4): the profile as it is now, or why there is none any more."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    auth_request_type: int = AuthRequestType.AUTHORIZE_ONLY
    user_name: str | None = None
    apn_oi_replacement: str | None = None
    apn_configuration: ApnConfiguration | None = None
    session_timeout: int | None = None
    subscription_id: str | None = None
    charging_characteristics: str | None = None
    overload_features: int | None = None
    overload: OverloadReport | None = None
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
                *optional("User-Name", self.user_name),
                *optional("APN-OI-Replacement", self.apn_oi_replacement),
                *(() if self.apn_configuration is None else (self.apn_configuration.to_avp(),)),
                *subscription_id(self.subscription_id),
                *optional("3GPP-Charging-Characteristics", self.charging_characteristics),
                *optional("Session-Timeout", self.session_timeout),
                *overload_avps(self.overload_features, self.overload),
                *optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Aaa:
        """Decode; an answer with the E flag needs no more than its result (RFC 6733 §7.2)."""
        with decoding_answer(message, CommandCode.AA, SWM_APPLICATION):
            apn = message.group("APN-Configuration")
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                auth_request_type=_answered_type(message, AuthRequestType.AUTHORIZE_ONLY),
                user_name=message.text("User-Name"),
                apn_oi_replacement=message.text("APN-OI-Replacement"),
                apn_configuration=None if apn is None else ApnConfiguration.from_group(apn),
                session_timeout=message.integer("Session-Timeout") or None,  # RFC 6733 §8.13: zero is no end
                subscription_id=msisdn_within(message),
                charging_characteristics=message.text("3GPP-Charging-Characteristics"),
                overload_features=overload_features_within(message),
                overload=OverloadReport.within(message),
                error_message=message.text("Error-Message"),
            )


def _answered_type(message: DiameterMessage, default: AuthRequestType) -> int:
    value = message.integer("Auth-Request-Type")
    if value is None and not message.error:
        raise DecodeError(f"{message.name} without Auth-Request-Type")
    return default if value is None else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Str(SessionTerminationRequest):
    """Session-Termination-Request (TS 29.273 §7.2.2.2.1): User-Name is required here."""

    application: ClassVar[int] = SWM_APPLICATION

    user_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sta(SessionAnswer):
    """Session-Termination-Answer (TS 29.273 §7.2.2.2.2)."""

    application: ClassVar[int] = SWM_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.SESSION_TERMINATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Asr(AbortSessionRequest):
    """Abort-Session-Request (TS 29.273 §7.2.2.3.1): the AAA server ends a session at the ePDG."""

    application: ClassVar[int] = SWM_APPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Asa(SessionAnswer):
    """Abort-Session-Answer (TS 29.273 §7.2.2.3.2)."""

    application: ClassVar[int] = SWM_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.ABORT_SESSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Rar(ReAuthRequest):
    """Re-Auth-Request (TS 29.273 §7.2.2.4.1): the AAA server has a changed profile for a session."""

    application: ClassVar[int] = SWM_APPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Raa(SessionAnswer):
    """Re-Auth-Answer (TS 29.273 §7.2.2.4.2)."""

    application: ClassVar[int] = SWM_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.RE_AUTH
