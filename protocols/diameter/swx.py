"""SWx between 3GPP AAA server and HSS (TS 29.273 §8): MAR/MAA, SAR/SAA, RTR/RTA, PPR/PPA as values.

Sessions are implicitly terminated (§8.2.1): every message says NO_STATE_MAINTAINED and bears a new
Session-Id. User-Name is the IMSI's digits. ``from_message`` of a request raises ``RequestError`` with what
to answer; of an answer, ``DecodeError``. Left out: Active-APN (restoration), Access-Network-Info and
Local-Time-Zone in PPA, Supported-Features (passed over when received).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from protocols.diameter.codec import (
    Avp,
    AvpGroup,
    DiameterMessage,
    RequestError,
    Result,
    answer_to,
    example_of,
)
from protocols.diameter.commands import (
    answer_session,
    build_request,
    checked_request,
    decoding_answer,
    decoding_request,
    needed_integer,
    needed_text,
    optional,
)
from protocols.diameter.dictionary import (
    SWX_APPLICATION,
    VENDOR_3GPP,
    AuthSessionState,
    CommandCode,
    RatType,
    ReasonCode,
    ResultCode,
    ServerAssignmentType,
)
from protocols.diameter.profile import Non3gppUserData, TerminalInformation, agent_info, agent_within
from protocols.errors import DecodeError

EAP_AKA = "EAP-AKA"  # SIP-Authentication-Scheme, TS 29.273 §8.2.3.9
EAP_AKA_PRIME = "EAP-AKA'"

RAND_LENGTH = 16
AUTN_LENGTH = 16
AUTS_LENGTH = 14

RESET_INDICATION = 0x00000001  # PPR-Flags, TS 29.273 §8.2.3.17


@dataclass(frozen=True, slots=True, kw_only=True)
class Mar:
    """Multimedia-Auth-Request (TS 29.273 §8.2.2.1): vectors are asked for.

    ``scheme`` is ``EAP_AKA`` or ``EAP_AKA_PRIME``; ``resynchronisation`` is RAND and AUTS of the UE's refusal
    (TS 33.102 §6.3.5). ``access_network_identity`` is the network name of EAP-AKA' (TS 24.302 §8.1.1.4).
    """

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    user_name: str
    scheme: str = EAP_AKA
    number_of_items: int = 1
    resynchronisation: tuple[bytes, bytes] | None = None
    destination_host: str | None = None
    rat_type: int | None = RatType.WLAN
    access_network_identity: str | None = None
    visited_network: str | None = None
    terminal_information: TerminalInformation | None = None
    aaa_failure_indication: int | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        sip_authorization = None if self.resynchronisation is None else b"".join(self.resynchronisation)
        item = (
            Avp.of("3GPP-SIP-Authentication-Scheme", self.scheme),
            *optional("3GPP-SIP-Authorization", sip_authorization),
        )
        return build_request(
            CommandCode.MULTIMEDIA_AUTH,
            SWX_APPLICATION,
            (
                *_request_avps(self),
                *optional("RAT-Type", self.rat_type),
                *optional("ANID", self.access_network_identity),
                *optional("Visited-Network-Identifier", self.visited_network),
                *(() if self.terminal_information is None else (self.terminal_information.to_avp(),)),
                Avp.of("3GPP-SIP-Auth-Data-Item", item),
                Avp.of("3GPP-SIP-Number-Auth-Items", self.number_of_items),
                *optional("AAA-Failure-Indication", self.aaa_failure_indication),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Mar:
        """Decode and check against the command's format.

        A request for resynchronisation may leave out the scheme: some AAA servers do. It is EAP-AKA then.
        """
        checked_request(message, CommandCode.MULTIMEDIA_AUTH, SWX_APPLICATION)
        item = message.group("3GPP-SIP-Auth-Data-Item") or AvpGroup(())
        authorization = item.find("3GPP-SIP-Authorization")
        scheme = item.text("3GPP-SIP-Authentication-Scheme")
        if scheme is None:
            if authorization is None:
                missing = example_of("3GPP-SIP-Authentication-Scheme")
                whole = Avp.of("3GPP-SIP-Auth-Data-Item", (missing,))
                raise RequestError(ResultCode.DIAMETER_MISSING_AVP, "3GPP-SIP-Authentication-Scheme is missing", whole)
            scheme = EAP_AKA
        resynchronisation = None
        if authorization is not None:
            octets = authorization.data
            if len(octets) != RAND_LENGTH + AUTS_LENGTH:
                raise RequestError(
                    ResultCode.DIAMETER_INVALID_AVP_VALUE,
                    f"3GPP-SIP-Authorization of {len(octets)} octets is not RAND and AUTS",
                    authorization,
                )
            resynchronisation = (octets[:RAND_LENGTH], octets[RAND_LENGTH:])
        return cls(
            **_request_fields(message),
            scheme=scheme,
            number_of_items=needed_integer(message, "3GPP-SIP-Number-Auth-Items"),
            resynchronisation=resynchronisation,
            destination_host=message.text("Destination-Host"),
            rat_type=message.integer("RAT-Type"),
            access_network_identity=message.text("ANID"),
            visited_network=message.text("Visited-Network-Identifier"),
            terminal_information=TerminalInformation.within(message),
            aaa_failure_indication=message.integer("AAA-Failure-Indication"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthItem:
    """SIP-Auth-Data-Item of an answer (TS 29.273 §8.2.3.6): one vector.

    SIP-Authenticate is RAND and AUTN, SIP-Authorization XRES. With EAP-AKA' ``ck`` and ``ik`` are CK' and IK'.
    """

    rand: bytes
    autn: bytes
    xres: bytes = field(repr=False)
    ck: bytes = field(repr=False)
    ik: bytes = field(repr=False)
    scheme: str = EAP_AKA

    def to_avp(self, number: int) -> Avp:
        """Encode as the item of that SIP-Item-Number, which counts from 1."""
        return Avp.of(
            "3GPP-SIP-Auth-Data-Item",
            (
                Avp.of("3GPP-SIP-Item-Number", number),
                Avp.of("3GPP-SIP-Authentication-Scheme", self.scheme),
                Avp.of("3GPP-SIP-Authenticate", self.rand + self.autn),
                Avp.of("3GPP-SIP-Authorization", self.xres),
                Avp.of("Confidentiality-Key", self.ck),
                Avp.of("Integrity-Key", self.ik),
            ),
        )

    @classmethod
    def from_group(cls, group: AvpGroup) -> AuthItem:
        """Decode; ``DecodeError`` on what is missing or of another length than TS 33.102 §6.3 gives it."""
        authenticate = group.octets("3GPP-SIP-Authenticate")
        if authenticate is None or len(authenticate) != RAND_LENGTH + AUTN_LENGTH:
            raise DecodeError("3GPP-SIP-Authenticate is not RAND and AUTN")
        xres = group.octets("3GPP-SIP-Authorization")
        if xres is None or not 4 <= len(xres) <= 16:
            raise DecodeError("3GPP-SIP-Authorization is not an XRES")
        ck, ik = group.octets("Confidentiality-Key"), group.octets("Integrity-Key")
        if ck is None or ik is None or len(ck) != 16 or len(ik) != 16:
            raise DecodeError("Confidentiality-Key or Integrity-Key is not a key of 16 octets")
        return cls(
            rand=authenticate[:RAND_LENGTH],
            autn=authenticate[RAND_LENGTH:],
            xres=xres,
            ck=ck,
            ik=ik,
            scheme=needed_text(group, "3GPP-SIP-Authentication-Scheme"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Maa:
    """Multimedia-Auth-Answer (TS 29.273 §8.2.2.1); ``server_name`` is another AAA server that has the user."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    user_name: str | None = None
    items: tuple[AuthItem, ...] = ()
    server_name: str | None = None
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        return _answer(
            request,
            self,
            (
                *optional("User-Name", self.user_name),
                *optional("3GPP-SIP-Number-Auth-Items", len(self.items) or None),
                *(item.to_avp(number) for number, item in enumerate(self.items, 1)),
                *optional("3GPP-AAA-Server-Name", self.server_name),
                *optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Maa:
        """Decode; items come in the order of their SIP-Item-Number (TS 29.229 §6.3.14)."""
        with decoding_answer(message, CommandCode.MULTIMEDIA_AUTH, SWX_APPLICATION):
            groups = message.groups("3GPP-SIP-Auth-Data-Item")
            groups = tuple(sorted(groups, key=lambda group: group.integer("3GPP-SIP-Item-Number") or 0))
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                user_name=message.text("User-Name"),
                items=tuple(AuthItem.from_group(group) for group in groups),
                server_name=message.text("3GPP-AAA-Server-Name"),
                error_message=message.text("Error-Message"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sar:
    """Server-Assignment-Request (TS 29.273 §8.2.2.3): what ``server_assignment_type`` says.

    PGW_UPDATE names the PGW of an APN: ``pgw`` (host name or address), ``service_selection``,
    ``context_identifier``; without ``pgw`` the HSS forgets the one it holds (§8.1.2.2.2.1).
    """

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    user_name: str
    server_assignment_type: ServerAssignmentType
    destination_host: str | None = None
    service_selection: str | None = None
    context_identifier: int | None = None
    pgw: str | None = None
    visited_network: str | None = None
    terminal_information: TerminalInformation | None = None
    emergency_services: int | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.SERVER_ASSIGNMENT,
            SWX_APPLICATION,
            (
                *_request_avps(self),
                *optional("Service-Selection", self.service_selection),
                *optional("Context-Identifier", self.context_identifier),
                *agent_info(self.pgw),
                *optional("Visited-Network-Identifier", self.visited_network),
                Avp.of("Server-Assignment-Type", self.server_assignment_type),
                *(() if self.terminal_information is None else (self.terminal_information.to_avp(),)),
                *optional("Emergency-Services", self.emergency_services),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Sar:
        """Decode and check against the command's format; an unknown assignment type is answered with 5004."""
        checked_request(message, CommandCode.SERVER_ASSIGNMENT, SWX_APPLICATION)
        with decoding_request(message):
            assignment = needed_integer(message, "Server-Assignment-Type")
            if assignment not in ServerAssignmentType._value2member_map_:
                raise RequestError(
                    ResultCode.DIAMETER_INVALID_AVP_VALUE,
                    f"Server-Assignment-Type {assignment}",
                    message.find("Server-Assignment-Type"),
                )
            return cls(
                **_request_fields(message),
                server_assignment_type=ServerAssignmentType(assignment),
                destination_host=message.text("Destination-Host"),
                service_selection=message.text("Service-Selection"),
                context_identifier=message.integer("Context-Identifier"),
                pgw=agent_within(message),
                visited_network=message.text("Visited-Network-Identifier"),
                terminal_information=TerminalInformation.within(message),
                emergency_services=message.integer("Emergency-Services"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Saa:
    """Server-Assignment-Answer (TS 29.273 §8.2.2.3); ``server_name`` is the AAA server that has the user."""

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    user_name: str | None = None
    user_data: Non3gppUserData | None = None
    server_name: str | None = None
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        return _answer(
            request,
            self,
            (
                *optional("User-Name", self.user_name),
                *(() if self.user_data is None else (self.user_data.to_avp(),)),
                *optional("3GPP-AAA-Server-Name", self.server_name),
                *optional("Error-Message", self.error_message),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Saa:
        """Decode."""
        with decoding_answer(message, CommandCode.SERVER_ASSIGNMENT, SWX_APPLICATION):
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                user_name=message.text("User-Name"),
                user_data=Non3gppUserData.within(message),
                server_name=message.text("3GPP-AAA-Server-Name"),
                error_message=message.text("Error-Message"),
            )


@dataclass(frozen=True, slots=True)
class DeregistrationReason:
    """Deregistration-Reason (TS 29.229 §6.3.16): a code, and words for people."""

    code: int = ReasonCode.PERMANENT_TERMINATION
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rtr:
    """Registration-Termination-Request (TS 29.273 §8.2.2.4): the HSS ends the user's registration."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_host: str
    destination_realm: str
    user_name: str
    deregistration_reason: DeregistrationReason = DeregistrationReason()

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        reason = (
            Avp.of("Reason-Code", self.deregistration_reason.code),
            *optional("Reason-Info", self.deregistration_reason.text),
        )
        return build_request(
            CommandCode.REGISTRATION_TERMINATION,
            SWX_APPLICATION,
            (*_request_avps(self), Avp.of("Deregistration-Reason", reason)),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Rtr:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.REGISTRATION_TERMINATION, SWX_APPLICATION)
        reason = message.group("Deregistration-Reason") or AvpGroup(())
        return cls(
            **_request_fields(message),
            destination_host=needed_text(message, "Destination-Host"),
            deregistration_reason=DeregistrationReason(
                needed_integer(reason, "Reason-Code"), reason.text("Reason-Info")
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ppr:
    """Push-Profile-Request (TS 29.273 §8.2.2.2): the user's profile has changed, or ``flags`` asks for something."""

    session_id: str
    origin_host: str
    origin_realm: str
    destination_host: str
    destination_realm: str
    user_name: str
    user_data: Non3gppUserData | None = None
    flags: int | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.PUSH_PROFILE,
            SWX_APPLICATION,
            (
                *_request_avps(self),
                *(() if self.user_data is None else (self.user_data.to_avp(),)),
                *optional("PPR-Flags", self.flags),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Ppr:
        """Decode and check against the command's format; a profile without meaning is answered with 5004."""
        checked_request(message, CommandCode.PUSH_PROFILE, SWX_APPLICATION)
        with decoding_request(message):
            return cls(
                **_request_fields(message),
                destination_host=needed_text(message, "Destination-Host"),
                user_data=Non3gppUserData.within(message),
                flags=message.integer("PPR-Flags"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ResultAnswer:
    """RTA and PPA: a result and no more."""

    command: ClassVar[CommandCode]

    session_id: str
    origin_host: str
    origin_realm: str
    result: Result
    error_message: str | None = None

    def to_message(self, request: DiameterMessage) -> DiameterMessage:
        """Build the answer to ``request`` (RFC 6733 §6.2)."""
        return _answer(request, self, optional("Error-Message", self.error_message))

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self:
        """Decode."""
        with decoding_answer(message, cls.command, SWX_APPLICATION):
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                error_message=message.text("Error-Message"),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rta(_ResultAnswer):
    """Registration-Termination-Answer (TS 29.273 §8.2.2.4)."""

    command: ClassVar[CommandCode] = CommandCode.REGISTRATION_TERMINATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Ppa(_ResultAnswer):
    """Push-Profile-Answer (TS 29.273 §8.2.2.2)."""

    command: ClassVar[CommandCode] = CommandCode.PUSH_PROFILE


def _implicit_session() -> tuple[Avp, ...]:
    """Vendor-Specific-Application-Id and Auth-Session-State of every SWx message (TS 29.273 §8.2.1)."""
    return (
        Avp.of(
            "Vendor-Specific-Application-Id",
            (Avp.of("Vendor-Id", VENDOR_3GPP), Avp.of("Auth-Application-Id", SWX_APPLICATION)),
        ),
        Avp.of("Auth-Session-State", AuthSessionState.NO_STATE_MAINTAINED),
    )


def _request_avps(request: Mar | Sar | Rtr | Ppr) -> tuple[Avp, ...]:
    return (
        Avp.of("Session-Id", request.session_id),
        *_implicit_session(),
        Avp.of("Origin-Host", request.origin_host),
        Avp.of("Origin-Realm", request.origin_realm),
        *optional("Destination-Host", request.destination_host),
        Avp.of("Destination-Realm", request.destination_realm),
        Avp.of("User-Name", request.user_name),
    )


def _request_fields(message: DiameterMessage) -> dict[str, str]:
    """What ``checked_request`` has found in every request, by field."""
    return {
        "session_id": needed_text(message, "Session-Id"),
        "origin_host": needed_text(message, "Origin-Host"),
        "origin_realm": needed_text(message, "Origin-Realm"),
        "destination_realm": needed_text(message, "Destination-Realm"),
        "user_name": needed_text(message, "User-Name"),
    }


def _answer(request: DiameterMessage, answer: Maa | Saa | _ResultAnswer, avps: tuple[Avp, ...]) -> DiameterMessage:
    return answer_to(
        request,
        origin_host=answer.origin_host,
        origin_realm=answer.origin_realm,
        result=answer.result,
        avps=(*_implicit_session(), *avps),
    )
