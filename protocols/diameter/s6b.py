"""S6b between PDN gateway and 3GPP AAA server (TS 29.273 §9): AAR/AAA, STR/STA, ASR/ASA, RAR/RAA as values.

The PGW of a GTP or PMIPv6 session authorises it and tells the AAA server who it is. ``from_message`` of a
request raises ``RequestError`` with what to answer; of an answer, ``DecodeError``. Left out: DER/DEA and
MIP6 security (DSMIPv6), QoS-Resources, Trace-Info, Redirect-Host (passed over when received).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from protocols.diameter.codec import Avp, DiameterMessage, Result, answer_to
from protocols.diameter.commands import (
    AbortSessionRequest,
    ReAuthRequest,
    SessionAnswer,
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
from protocols.diameter.dictionary import S6B_APPLICATION, AuthRequestType, CommandCode
from protocols.diameter.profile import (
    ApnConfiguration,
    OverloadReport,
    agent_info,
    agent_within,
    overload_avps,
    overload_features,
    overload_features_within,
)
from protocols.errors import DecodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Aar:
    """AA-Request (TS 29.273 §9.2.2.2.1, §9.2.2.5.1): ``mip6_agent_info`` is the PGW by host name or address."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str | None = None
    auth_request_type: int = AuthRequestType.AUTHORIZE_ONLY
    user_name: str | None = None
    rat_type: int | None = None
    mip6_agent_info: str | None = None
    mip6_feature_vector: int | None = None
    visited_network_identifier: str | None = None
    service_selection: str | None = None
    overload_features: int | None = None
    emergency_services: int | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.AA,
            S6B_APPLICATION,
            (
                *session_avps(S6B_APPLICATION, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *optional("Destination-Host", self.destination_host),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *optional("RAT-Type", self.rat_type),
                *optional("User-Name", self.user_name),
                *optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *agent_info(self.mip6_agent_info),
                *optional("Visited-Network-Identifier", self.visited_network_identifier),
                *optional("Service-Selection", self.service_selection),
                *overload_features(self.overload_features),
                *optional("Emergency-Services", self.emergency_services),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Aar:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.AA, S6B_APPLICATION)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            destination_host=message.text("Destination-Host"),
            auth_request_type=needed_integer(message, "Auth-Request-Type"),
            user_name=message.text("User-Name"),
            rat_type=message.integer("RAT-Type"),
            mip6_agent_info=agent_within(message),
            mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
            visited_network_identifier=message.text("Visited-Network-Identifier"),
            service_selection=message.text("Service-Selection"),
            overload_features=overload_features_within(message),
            emergency_services=message.integer("Emergency-Services"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Aaa:
    """AA-Answer (TS 29.273 §9.2.2.2.2, §9.2.2.5.2); ``session_timeout`` in seconds."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    auth_request_type: int = AuthRequestType.AUTHORIZE_ONLY
    mip6_feature_vector: int | None = None
    session_timeout: int | None = None
    apn_configuration: ApnConfiguration | None = None
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
                Avp.of("Auth-Application-Id", S6B_APPLICATION),
                Avp.of("Auth-Request-Type", self.auth_request_type),
                *optional("MIP6-Feature-Vector", self.mip6_feature_vector),
                *optional("Session-Timeout", self.session_timeout),
                *(() if self.apn_configuration is None else (self.apn_configuration.to_avp(),)),
                *overload_avps(self.overload_features, self.overload),
                *optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Aaa:
        """Decode; an answer with the E flag needs no more than its result (RFC 6733 §7.2)."""
        with decoding_answer(message, CommandCode.AA, S6B_APPLICATION):
            apn = message.group("APN-Configuration")
            auth_request_type = message.integer("Auth-Request-Type")
            if auth_request_type is None and not message.error:
                raise DecodeError("AAA without Auth-Request-Type")
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                auth_request_type=AuthRequestType.AUTHORIZE_ONLY if auth_request_type is None else auth_request_type,
                mip6_feature_vector=message.integer("MIP6-Feature-Vector"),
                session_timeout=message.integer("Session-Timeout") or None,  # RFC 6733 §8.13: zero is no end
                apn_configuration=None if apn is None else ApnConfiguration.from_group(apn),
                overload_features=overload_features_within(message),
                overload=OverloadReport.within(message),
                error_message=message.text("Error-Message"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Str(SessionTerminationRequest):
    """Session-Termination-Request (TS 29.273 §9.2.2.3.1)."""

    application: ClassVar[int] = S6B_APPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Sta(SessionAnswer):
    """Session-Termination-Answer (TS 29.273 §9.2.2.3.2)."""

    application: ClassVar[int] = S6B_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.SESSION_TERMINATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Asr(AbortSessionRequest):
    """Abort-Session-Request (TS 29.273 §9.2.2.4.1)."""

    application: ClassVar[int] = S6B_APPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Asa(SessionAnswer):
    """Abort-Session-Answer (TS 29.273 §9.2.2.4.2)."""

    application: ClassVar[int] = S6B_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.ABORT_SESSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Rar(ReAuthRequest):
    """Re-Auth-Request (TS 29.273 §9.2.2.6.1)."""

    application: ClassVar[int] = S6B_APPLICATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Raa(SessionAnswer):
    """Re-Auth-Answer (TS 29.273 §9.2.2.6.2)."""

    application: ClassVar[int] = S6B_APPLICATION
    command: ClassVar[CommandCode] = CommandCode.RE_AUTH
