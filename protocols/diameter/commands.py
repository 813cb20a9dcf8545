"""What the commands of SWm, SWx and S6b have in common, and the session commands of SWm and S6b.

STR/STA, ASR/ASA and RAR/RAA (RFC 6733 §8.3 to §8.5) have one form in both applications; ``swm`` and
``s6b`` give each its application. ``from_message`` of a request raises ``RequestError`` with what to answer;
of an answer, ``DecodeError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Self

from protocols.diameter.codec import (
    Avp,
    AvpContainer,
    AvpValue,
    DiameterMessage,
    RequestError,
    Result,
    answer_to,
    check_request,
)
from protocols.diameter.dictionary import CommandCode, ReAuthRequestType, ResultCode, TerminationCause
from protocols.errors import DecodeError


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


def build_request(command: CommandCode, application: int, avps: tuple[Avp, ...]) -> DiameterMessage:
    """A request; the connection that sends it sets the identifiers."""
    return DiameterMessage(command=command, application=application, request=True, proxiable=True, avps=avps)


def session_avps(application: int, session_id: str, origin_host: str, origin_realm: str) -> tuple[Avp, ...]:
    """The head of a request within a session: Session-Id first (RFC 6733 §8.8)."""
    return (
        Avp.of("Session-Id", session_id),
        Avp.of("Auth-Application-Id", application),
        Avp.of("Origin-Host", origin_host),
        Avp.of("Origin-Realm", origin_realm),
    )


def optional(name: str, value: AvpValue | None) -> tuple[Avp, ...]:
    """The AVP, or none."""
    return () if value is None else (Avp.of(name, value),)


def check_command(message: DiameterMessage, command: CommandCode, application: int, *, request: bool) -> None:
    """``DecodeError`` for another command, or a request where an answer was expected."""
    if message.command != command or message.application != application or message.request != request:
        raise DecodeError(f"{message.name} of application {message.application} where another was expected")


def checked_request(message: DiameterMessage, command: CommandCode, application: int) -> None:
    """A request of that command that keeps its Command Code Format, or ``RequestError``."""
    check_command(message, command, application, request=True)
    check_request(message)


@contextmanager
def decoding_answer(message: DiameterMessage, command: CommandCode, application: int) -> Iterator[None]:
    """What is wrong inside an answer is a ``DecodeError``: nobody answers an answer."""
    check_command(message, command, application, request=False)
    try:
        yield
    except RequestError as error:
        raise DecodeError(f"{message.name}: {error}") from error


@contextmanager
def decoding_request(message: DiameterMessage) -> Iterator[None]:
    """A value without meaning inside a request is answered with 5004 (RFC 6733 §7.1.5)."""
    try:
        yield
    except DecodeError as error:
        raise RequestError(ResultCode.DIAMETER_INVALID_AVP_VALUE, f"{message.name}: {error}") from error


def needed_text(container: AvpContainer, name: str) -> str:
    """A text AVP that must be there; ``DecodeError`` without it."""
    value = container.text(name)
    if value is None:
        raise DecodeError(f"{name} is missing")
    return value


def needed_integer(container: AvpContainer, name: str) -> int:
    """An integer AVP that must be there; ``DecodeError`` without it."""
    value = container.integer(name)
    if value is None:
        raise DecodeError(f"{name} is missing")
    return value


def addresses(container: AvpContainer, name: str) -> tuple[IPv4Address | IPv6Address, ...]:
    """The IPv4 and IPv6 addresses of every AVP of that name."""
    return tuple(value for value in container.values(name) if isinstance(value, IPv4Address | IPv6Address))


def answer_session(message: DiameterMessage) -> str:
    """RFC 6733 §7.2: only an answer with the E flag may lack its Session-Id."""
    session = message.session_id
    if session is None and not message.error:
        raise DecodeError(f"{message.name} without Session-Id")
    return session or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTerminationRequest:
    """Session-Termination-Request (RFC 6733 §8.4.1): the access gateway's session is over."""

    application: ClassVar[int]

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    user_name: str | None = None
    termination_cause: int = TerminationCause.DIAMETER_LOGOUT
    destination_host: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.SESSION_TERMINATION,
            self.application,
            (
                *session_avps(self.application, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                *optional("Destination-Host", self.destination_host),
                Avp.of("Termination-Cause", self.termination_cause),
                *optional("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.SESSION_TERMINATION, cls.application)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            user_name=message.text("User-Name"),
            termination_cause=needed_integer(message, "Termination-Cause"),
            destination_host=message.text("Destination-Host"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortSessionRequest:
    """Abort-Session-Request (RFC 6733 §8.5.1): the AAA server ends a session at its gateway."""

    application: ClassVar[int]

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str
    user_name: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.ABORT_SESSION,
            self.application,
            (
                *session_avps(self.application, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                Avp.of("Destination-Host", self.destination_host),
                *optional("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.ABORT_SESSION, cls.application)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            destination_host=needed_text(message, "Destination-Host"),
            user_name=message.text("User-Name"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReAuthRequest:
    """Re-Auth-Request (RFC 6733 §8.3.1): the AAA server has a changed profile for a session."""

    application: ClassVar[int]

    session_id: str
    origin_host: str
    origin_realm: str
    destination_realm: str
    destination_host: str
    re_auth_request_type: int = ReAuthRequestType.AUTHORIZE_ONLY
    user_name: str | None = None

    def to_message(self) -> DiameterMessage:
        """Build the request; the connection that sends it sets the identifiers."""
        return build_request(
            CommandCode.RE_AUTH,
            self.application,
            (
                *session_avps(self.application, self.session_id, self.origin_host, self.origin_realm),
                Avp.of("Destination-Realm", self.destination_realm),
                Avp.of("Destination-Host", self.destination_host),
                Avp.of("Re-Auth-Request-Type", self.re_auth_request_type),
                *optional("User-Name", self.user_name),
            ),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self:
        """Decode and check against the command's format."""
        checked_request(message, CommandCode.RE_AUTH, cls.application)
        return cls(
            session_id=needed_text(message, "Session-Id"),
            origin_host=needed_text(message, "Origin-Host"),
            origin_realm=needed_text(message, "Origin-Realm"),
            destination_realm=needed_text(message, "Destination-Realm"),
            destination_host=needed_text(message, "Destination-Host"),
            re_auth_request_type=needed_integer(message, "Re-Auth-Request-Type"),
            user_name=message.text("User-Name"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAnswer:
    """An answer that says no more than a result: STA, ASA, RAA."""

    application: ClassVar[int]
    command: ClassVar[CommandCode]

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
            avps=optional("Error-Message", self.error_message),
        )

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Self:
        """Decode."""
        with decoding_answer(message, cls.command, cls.application):
            return cls(
                session_id=answer_session(message),
                origin_host=needed_text(message, "Origin-Host"),
                origin_realm=needed_text(message, "Origin-Realm"),
                result=Result.from_message(message),
                error_message=message.text("Error-Message"),
            )
