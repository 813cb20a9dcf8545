"""What a SWm session says of itself: questions to stores, answers to the gateway, observations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aaa.authorization import Refusal
from protocols.diameter.swm import Dea
from protocols.eap.aka import server as aka
from protocols.threegpp.identity import Imsi


class AuthenticationState(str, Enum):
    """Where a session stands; the waiting states owe the gateway an answer."""

    IDENTIFYING = "identifying"
    WAITING_FOR_PROFILE = "waiting-for-profile"
    WAITING_FOR_VECTOR = "waiting-for-vector"
    CHALLENGED = "challenged"
    AUTHENTICATED = "authenticated"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerIdentity:
    """Origin-Host and Origin-Realm of the answers."""

    host: str
    realm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequested:
    """Answer with ``answer_profile`` or ``answer_backend_failure``."""

    session_id: str
    imsi: Imsi


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorRequested:
    """Answer with ``answer_vector``, ``answer_vector_refusal`` or ``answer_backend_failure``."""

    session_id: str
    imsi: Imsi
    resynchronisation: aka.Resynchronisation | None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerReady:
    """The answer to the DERs whose tokens ``requests`` holds (a retransmission waits with its original)."""

    session_id: str
    requests: tuple[int, ...]
    answer: Dea
    reissued: bytes | None = None  # EAP-Reissued-Payload (RFC 4072 §4.1.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class EapReceived:
    """An EAP packet came from the user, for the trace."""

    session_id: str
    packet: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EapSent:
    """An EAP packet goes to the user, for the trace."""

    session_id: str
    packet: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChanged:
    """The session's state changed."""

    session_id: str
    old: AuthenticationState | None
    new: AuthenticationState | None
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Authenticated:
    """The user is authenticated and authorised."""

    session_id: str
    imsi: Imsi
    apn: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resynchronised:
    """The USIM reported its sequence number (AUTS, TS 33.102 §6.3.5)."""

    session_id: str
    imsi: Imsi
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The user is refused; the answer says so to the gateway."""

    session_id: str
    identity: str
    refusal: Refusal


Event = (
    ProfileRequested
    | VectorRequested
    | AnswerReady
    | EapReceived
    | EapSent
    | StateChanged
    | Authenticated
    | Resynchronised
    | Refused
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionEnded:
    """A session that was not refused left the table; ``text`` is one plain sentence."""

    session_id: str
    identity: str
    was_authenticated: bool
    expired: bool
    text: str


SessionEvent = Event | SessionEnded
