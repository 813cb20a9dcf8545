"""What a SWm session says of itself: questions to stores, answers to the gateway, observations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aaa.authorization import Refusal
from aaa.hss.port import SubscriberProfile, VectorRequest
from protocols.diameter.dictionary import ServerAssignmentType
from protocols.diameter.swm import Dea
from protocols.eap.aka.temporary import ReauthenticationContext
from protocols.eap.packet import EapType
from protocols.threegpp.identity import Imsi


class AuthenticationState(str, Enum):
    """Where a session stands; the waiting states owe the gateway an answer."""

    IDENTIFYING = "identifying"
    WAITING_FOR_PROFILE = "waiting-for-profile"
    WAITING_FOR_VECTOR = "waiting-for-vector"
    WAITING_FOR_CONTEXT = "waiting-for-context"
    WAITING_FOR_STORAGE = "waiting-for-storage"
    CHALLENGED = "challenged"
    AUTHENTICATED = "authenticated"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerIdentity:
    """Origin-Host and Origin-Realm of the answers."""

    host: str
    realm: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorRequested:
    """MAR. Answer with ``answer_vector``, ``answer_vector_refusal`` or ``answer_refusal``."""

    session_id: str
    request: VectorRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistrationRequested:
    """SAR REGISTRATION: the user is authenticated. Answer with ``answer_profile`` or ``answer_refusal``.

    ``imei`` is of the device that it uses, as far as it told.
    """

    session_id: str
    imsi: Imsi
    imei: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UserDataRequested:
    """SAR AAA_USER_DATA_REQUEST of a user who is registered here. Answered as ``RegistrationRequested``."""

    session_id: str
    imsi: Imsi
    imei: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextRequested:
    """A fast re-authentication identity of ours came (RFC 4187 §5.3). Answer with ``answer_context``."""

    session_id: str
    imsi: Imsi
    username: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextIssued:
    """To be kept before the user hears of its success. Answer with ``answer_kept``."""

    session_id: str
    context: ReauthenticationContext


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerReady:
    """The answer to the DERs whose tokens ``requests`` holds (a retransmission waits with its original)."""

    session_id: str
    requests: tuple[int, ...]
    answer: Dea
    reissued: bytes | None = None  # EAP-Reissued-Payload (RFC 4072 §4.1.2)
    redirect_host: str | None = None  # Redirect-Host (RFC 6733 §6.12)


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
    method: EapType
    fast: bool
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedUnauthenticated:
    """A UE without a USIM has an emergency session (TS 33.402 §13.3)."""

    session_id: str
    imei: str
    apn: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resynchronised:
    """The USIM reported its sequence number (AUTS, TS 33.102 §6.3.5)."""

    session_id: str
    imsi: Imsi
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EquipmentNoted:
    """The device is on the grey list: it may attach, and somebody wants to know."""

    session_id: str
    imei: str | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The user is refused; the answer says so to the gateway."""

    session_id: str
    identity: str
    refusal: Refusal


Question = VectorRequested | RegistrationRequested | UserDataRequested
"""What a session asks the HSS, and waits for."""

TemporaryQuestion = ContextRequested | ContextIssued
"""What a session asks about temporary identities, and waits for."""

Event = (
    Question
    | TemporaryQuestion
    | AnswerReady
    | EapReceived
    | EapSent
    | StateChanged
    | Authenticated
    | AdmittedUnauthenticated
    | Resynchronised
    | EquipmentNoted
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
    imsi: Imsi | None = None
    apn: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeregistrationRequested:
    """SAR USER_DEREGISTRATION: the last session of the user at this server ended. Nothing waits for the answer."""

    imsi: Imsi
    why: ServerAssignmentType


@dataclass(frozen=True, kw_only=True, slots=True)
class DeregisteredByHss:
    """RTR: the HSS ended the registration under this session (TS 29.273 §8.1.2.2.3); Reason-Code and its words."""

    session_id: str
    imsi: Imsi
    reason: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileChangedByHss:
    """PPR: another profile holds for the user of this session (§8.1.2.3); ``None``: it is to be asked for."""

    session_id: str
    imsi: Imsi
    profile: SubscriberProfile | None


SessionEvent = Event | SessionEnded | DeregistrationRequested | DeregisteredByHss | ProfileChangedByHss
