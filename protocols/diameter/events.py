"""What a connection to a Diameter peer tells: its states (RFC 6733 §5.6), events and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocols.diameter.capabilities import Capabilities
from protocols.diameter.codec import DiameterMessage
from protocols.diameter.framing import FramingFault
from protocols.diameter.watchdog import WatchdogState


class PeerState(Enum):
    """States of a connection (RFC 6733 §5.6); I-Open and R-Open are one."""

    CLOSED = "Closed"
    WAIT_CER = "Wait-CER"
    WAIT_CEA = "Wait-I-CEA"
    WAIT_RETURNS = "Wait-Returns"
    OPEN = "Open"
    CLOSING = "Closing"


class CloseReason(Enum):
    """Why a connection ended."""

    DISCONNECTED = "the peer closed the transport connection"
    DISCONNECT_REQUESTED = "the peer asked to disconnect"
    UNWANTED = "the peer asked to disconnect and not to connect again"
    STOPPED = "we asked to disconnect"
    WATCHDOG = "the peer did not answer the watchdog"
    NO_CAPABILITIES = "no capabilities exchange in time"
    NOT_CAPABILITIES = "something else than the capabilities exchange came first"
    REFUSED = "the peer refused the capabilities exchange"
    UNKNOWN_PEER = "the peer is not one of ours"
    NOT_CERTIFIED = "the peer's certificate does not name it"
    ALREADY_CONNECTED = "the peer has a connection already"
    ELECTION_LOST = "the other connection with the peer was elected"
    NO_COMMON_APPLICATION = "no application in common"
    NO_COMMON_SECURITY = "no security mechanism in common"
    MALFORMED_CAPABILITIES = "the capabilities exchange does not parse"
    NOT_DIAMETER = "the octets are not Diameter"


class DropReason(Enum):
    """Why octets or a message were dropped."""

    VERSION = FramingFault.VERSION.value
    LENGTH = FramingFault.LENGTH.value
    TOO_LONG = FramingFault.TOO_LONG.value
    MALFORMED_REQUEST = "malformed request"
    MALFORMED_ANSWER = "malformed answer"
    UNKNOWN_ANSWER = "answer without a request"
    NOT_CAPABILITIES = "message before the capabilities exchange"
    TRUNCATED = "the end of a message is missing"
    AFTER_CLOSE = "octets after the end"


class RequestFailure(Enum):
    """Why a request got no answer."""

    TIME_OUT = "no answer in time"
    PEER_DOWN = "the connection went down"


class Direction(Enum):
    """Seen from this node."""

    IN = "in"
    OUT = "out"


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The connection went from one state to another."""

    old: PeerState
    new: PeerState
    why: str


@dataclass(frozen=True, slots=True)
class PeerOpened:
    """The capabilities exchange succeeded."""

    capabilities: Capabilities


@dataclass(frozen=True, slots=True)
class ServiceChanged:
    """The watchdog took an open connection out of service or returned it."""

    old: WatchdogState
    new: WatchdogState


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request for an application and command that this node serves, its format checked."""

    request: DiameterMessage


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """The answer to one of our requests."""

    request: DiameterMessage
    answer: DiameterMessage


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """One of our requests has no answer."""

    request: DiameterMessage
    why: RequestFailure


@dataclass(frozen=True, slots=True)
class MessageSeen:
    """A message crossed the connection: for the trace. Of a malformed one ``message`` is the header."""

    direction: Direction
    message: DiameterMessage
    octets: bytes


@dataclass(frozen=True, slots=True)
class OctetsDropped:
    """Octets that are no message: for the trace."""

    reason: DropReason
    octets: bytes


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """Nothing follows; the transport connection is to be closed."""

    why: CloseReason
    text: str


PeerEvent = (
    StateChanged
    | PeerOpened
    | ServiceChanged
    | RequestReceived
    | AnswerReceived
    | RequestFailed
    | MessageSeen
    | OctetsDropped
    | ConnectionEnded
)
