"""One transport connection to a Diameter peer as a machine (RFC 6733 §5, RFC 3539 §3.4.1).

Capabilities exchange, watchdog, disconnection, matching of answers, request time-outs and the protocol
errors a node answers by itself. A connection that its opener lost by the watchdog begins in REOPEN and is
returned to service after three answered watchdogs (RFC 3539 §3.4.1 [5]); they follow one another at once
instead of one per Tw, and requests that arrive meanwhile are served, not thrown away.

Left out: the election of RFC 6733 §5.6.4 (a second connection of the same peer is rejected as in I-Open
and R-Open, unless the peer's Origin-State-Id shows that it has restarted), TLS, redirects, relaying.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from protocols.diameter.codec import (
    MESSAGE_LENGTH_LIMIT,
    Address,
    Avp,
    DiameterMessage,
    Framer,
    FramingError,
    FramingFault,
    MalformedMessage,
    RequestError,
    Result,
    answer_to,
    check_request,
    decode_message,
    encode_message,
)
from protocols.diameter.dictionary import (
    BASE_APPLICATION,
    RELAY_APPLICATION,
    SWM_APPLICATION,
    VENDOR_3GPP,
    CommandCode,
    DisconnectCause,
    ResultCode,
)
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.timers import TimerTable

WATCHDOG_INTERVAL = 30.0  # Twinit, RFC 3539 §3.4.1 [1]
WATCHDOG_INTERVAL_MINIMUM = 6.0  # RFC 3539 §3.4.1 [1]: MUST NOT be set lower
WATCHDOG_JITTER = 2.0  # RFC 3539 §3.4.1 [1]: between -2 and 2 seconds
REOPEN_WATCHDOGS = 3  # RFC 3539 §3.4.1 [5]
HANDSHAKE_INTERVAL = 10.0  # for CER or CEA; RFC 6733 §5.6.1 leaves it to us
CLOSING_INTERVAL = 3.0  # for DPA, or for the peer to disconnect after ours; RFC 6733 §5.6 leaves it to us
REQUEST_INTERVAL = 10.0  # for an answer; RFC 6733 leaves it to us

NO_INBAND_SECURITY = 0  # RFC 6733 §6.10


@dataclass(frozen=True, slots=True)
class Application:
    """An authentication application; ``vendor`` is zero for those of the IETF."""

    identifier: int
    vendor: int = 0


SWM = Application(SWM_APPLICATION, VENDOR_3GPP)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiameterIdentity:
    """Who we are (RFC 6733 §5.3): ``host`` and ``realm`` are DiameterIdentity texts.

    ``served_realms`` are realms besides ``realm`` for which requests are taken. ``origin_state_id`` grows
    with every restart (§8.16), zero leaves the AVP out.
    """

    host: str
    realm: str
    applications: tuple[Application, ...] = (SWM,)
    product_name: str = "ePDG emulator"
    vendor_id: int = 0
    supported_vendors: tuple[int, ...] = (VENDOR_3GPP,)
    served_realms: tuple[str, ...] = ()
    origin_state_id: int = 0

    def origin_avps(self) -> tuple[Avp, ...]:
        """Origin-Host and Origin-Realm."""
        return (Avp.of("Origin-Host", self.host), Avp.of("Origin-Realm", self.realm))

    def state_avps(self) -> tuple[Avp, ...]:
        """Origin-State-Id where it is kept."""
        return (Avp.of("Origin-State-Id", self.origin_state_id),) if self.origin_state_id else ()

    def serves_realm(self, realm: str) -> bool:
        """Whether requests to ``realm`` are for us (RFC 6733 §6.1.4); realms compare without case."""
        return realm.lower() in {name.lower() for name in (self.realm, *self.served_realms)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """Who the peer is, from its CER or CEA."""

    host: str
    realm: str
    applications: frozenset[int]
    product_name: str
    origin_state_id: int
    addresses: tuple[Address, ...]

    @property
    def is_relay(self) -> bool:
        """Whether it forwards every application (RFC 6733 §2.4)."""
        return RELAY_APPLICATION in self.applications

    def supports(self, application: int) -> bool:
        """Whether a request of ``application`` may be sent to it (RFC 6733 §5.3)."""
        return self.is_relay or application in self.applications

    @classmethod
    def from_message(cls, message: DiameterMessage) -> Capabilities:
        """Read a CER or CEA; every kind of Application-Id AVP counts (RFC 6733 §5.3)."""
        applications: set[int] = set()
        containers = (message, *message.groups("Vendor-Specific-Application-Id"))
        for container in containers:
            for name in ("Auth-Application-Id", "Acct-Application-Id"):
                applications.update(value for value in container.values(name) if isinstance(value, int))
        host, realm = message.text("Origin-Host"), message.text("Origin-Realm")
        if not host or not realm:
            raise DecodeError(f"{message.name} without Origin-Host or Origin-Realm")
        return cls(
            host=host,
            realm=realm,
            applications=frozenset(applications),
            product_name=message.text("Product-Name") or "",
            origin_state_id=message.integer("Origin-State-Id") or 0,
            addresses=tuple(
                value for value in message.values("Host-IP-Address") if isinstance(value, IPv4Address | IPv6Address)
            ),
        )


class IdentifierSource:
    """Hop-by-Hop and End-to-End Identifiers (RFC 6733 §3), one source for all connections of a node."""

    def __init__(self, entropy: Entropy, *, wall: float) -> None:
        self._hop_by_hop = int.from_bytes(entropy.octets(4), "big")
        low = int.from_bytes(entropy.octets(4), "big") & 0xFFFFF
        self._end_to_end = (int(wall) & 0xFFF) << 20 | low

    def hop_by_hop(self) -> int:
        """The next Hop-by-Hop Identifier: counts up from a random start."""
        self._hop_by_hop = (self._hop_by_hop + 1) & 0xFFFFFFFF
        return self._hop_by_hop

    def end_to_end(self) -> int:
        """The next End-to-End Identifier: counts up from time and random octets."""
        self._end_to_end = (self._end_to_end + 1) & 0xFFFFFFFF
        return self._end_to_end


class PeerState(Enum):
    """States of a connection (RFC 6733 §5.6); I-Open and R-Open are one."""

    CLOSED = "Closed"
    WAIT_CER = "Wait-CER"
    WAIT_CEA = "Wait-I-CEA"
    OPEN = "Open"
    CLOSING = "Closing"


class WatchdogState(Enum):
    """Whether an open connection is in service (RFC 3539, Appendix A)."""

    OKAY = "OKAY"
    SUSPECT = "SUSPECT"
    REOPEN = "REOPEN"


class PeerTimer(Enum):
    """Timers of a connection."""

    HANDSHAKE = "handshake"
    WATCHDOG = "watchdog"
    CLOSING = "closing"


class CloseReason(Enum):
    """Why a connection ended."""

    DISCONNECTED = "the peer closed the transport connection"
    DISCONNECT_REQUESTED = "the peer asked to disconnect"
    STOPPED = "we asked to disconnect"
    WATCHDOG = "the peer did not answer the watchdog"
    NO_CAPABILITIES = "no capabilities exchange in time"
    NOT_CAPABILITIES = "something else than the capabilities exchange came first"
    REFUSED = "the peer refused the capabilities exchange"
    UNKNOWN_PEER = "the peer is not one of ours"
    ALREADY_CONNECTED = "the peer has a connection already"
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

Admission = Callable[[Capabilities], ResultCode | None]
"""Judges a CER: ``None`` to accept, else DIAMETER_UNKNOWN_PEER or ELECTION_LOST."""


def admit_all(capabilities: Capabilities) -> ResultCode | None:
    """Accept every peer (RFC 6733 §5.3 leaves it to local policy)."""
    return None


class PeerMachine:
    """One connection. Feed it octets and time, poll octets, events and the next deadline."""

    def __init__(
        self,
        *,
        identity: DiameterIdentity,
        local_addresses: tuple[Address, ...],
        services: Mapping[int, Collection[int]],
        identifiers: IdentifierSource,
        entropy: Entropy,
        expected_host: str | None = None,
        admission: Admission = admit_all,
        reopening: bool = False,
        watchdog_interval: float = WATCHDOG_INTERVAL,
        message_length_limit: int = MESSAGE_LENGTH_LIMIT,
    ) -> None:
        """``services`` maps served applications to their command codes and is read at every request.

        ``expected_host`` is the peer we connect to, ``reopening`` that its last connection was lost by
        the watchdog.
        """
        if watchdog_interval < WATCHDOG_INTERVAL_MINIMUM:
            raise LocalError(f"a watchdog interval below {WATCHDOG_INTERVAL_MINIMUM} s (RFC 3539 §3.4.1)")
        self._identity = identity
        self._local_addresses = local_addresses
        self._services = services
        self._identifiers = identifiers
        self._entropy = entropy
        self._expected_host = expected_host
        self._admission = admission
        self._watchdog_interval = watchdog_interval
        self._framer = Framer(message_length_limit)
        self._timers: TimerTable[PeerTimer] = TimerTable()
        self._output: list[bytes] = []
        self._events: deque[PeerEvent] = deque()
        self._pending: dict[int, DiameterMessage] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._handshake: DiameterMessage | None = None
        self._watchdog_pending: int | None = None
        self._disconnect: int | None = None
        self._watchdog = WatchdogState.REOPEN if reopening else WatchdogState.OKAY
        self._reopen_answers = 0
        self._close_reason = CloseReason.DISCONNECTED
        self.state = PeerState.CLOSED
        self.capabilities: Capabilities | None = None
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.dropped: Counter[DropReason] = Counter()

    @property
    def is_usable(self) -> bool:
        """Whether requests may be sent: open and in service."""
        return self.state is PeerState.OPEN and self._watchdog is WatchdogState.OKAY

    @property
    def watchdog(self) -> WatchdogState:
        """What the watchdog thinks of an open connection."""
        return self._watchdog

    @property
    def pending_requests(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    # Inputs

    def start_initiator(self, now: float) -> None:
        """I-Rcv-Conn-Ack: the connection that we opened is up; CER -->"""
        if self.state is not PeerState.CLOSED:
            raise LocalError(f"a connection starts once, this one is {self.state.value}")
        cer = DiameterMessage(
            command=CommandCode.CAPABILITIES_EXCHANGE,
            application=BASE_APPLICATION,
            request=True,
            hop_by_hop=self._identifiers.hop_by_hop(),
            end_to_end=self._identifiers.end_to_end(),
            avps=(*self._identity.origin_avps(), *self._capability_avps()),
        )
        self._handshake = cer
        self._timers.set(PeerTimer.HANDSHAKE, now + HANDSHAKE_INTERVAL)
        self._change(PeerState.WAIT_CEA, "connected")
        self._send(cer)

    def start_responder(self, now: float) -> None:
        """A connection was accepted; its CER must follow (RFC 6733 §5.6.1)."""
        if self.state is not PeerState.CLOSED:
            raise LocalError(f"a connection starts once, this one is {self.state.value}")
        self._timers.set(PeerTimer.HANDSHAKE, now + HANDSHAKE_INTERVAL)
        self._change(PeerState.WAIT_CER, "accepted")

    def receive(self, octets: bytes, now: float) -> None:
        """Take octets of the stream."""
        self._framer.feed(octets)
        while not self._is_closed():
            try:
                message_octets = self._framer.next()
            except FramingError as error:
                self._drop(DropReason(error.fault.value))
                self._end(CloseReason.NOT_DIAMETER, str(error))
                return
            if message_octets is None:
                return
            self._take(message_octets, now)
        if self._framer.pending:
            self._drop(DropReason.AFTER_CLOSE)

    def disconnected(self, now: float) -> None:
        """Peer-Disc: the transport connection is gone."""
        if self.state is not PeerState.CLOSED:
            if self._framer.pending:
                self._drop(DropReason.TRUNCATED)
            self._end(self._close_reason, self._close_reason.value)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at ``now``."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, hop_by_hop = heapq.heappop(self._deadlines)
            request = self._pending.pop(hop_by_hop, None)
            if request is not None:
                self._events.append(RequestFailed(request, RequestFailure.TIME_OUT))
        for timer in self._timers.expired(now):
            if timer is PeerTimer.WATCHDOG:
                self._watchdog_expired(now)
            elif timer is PeerTimer.HANDSHAKE:
                self._end(CloseReason.NO_CAPABILITIES, CloseReason.NO_CAPABILITIES.value)
            elif timer is PeerTimer.CLOSING:
                self._end(self._close_reason, self._close_reason.value)

    def send_request(self, message: DiameterMessage, now: float, timeout: float = REQUEST_INTERVAL) -> DiameterMessage:
        """Send-Message: give a request its identifiers and send it; ``LocalError`` out of service.

        An End-to-End Identifier that the message has already is kept: failover repeats a request with it.
        """
        if not self.is_usable:
            raise LocalError(f"the peer is {self.state.value}, {self._watchdog.value}")
        request = replace(
            message,
            hop_by_hop=self._unused_hop_by_hop(),
            end_to_end=message.end_to_end or self._identifiers.end_to_end(),
        )
        self._pending[request.hop_by_hop] = request
        heapq.heappush(self._deadlines, (now + timeout, request.hop_by_hop))
        self._send(request)
        return request

    def withdraw(self, request: DiameterMessage) -> bool:
        """Forget a pending request, to send it elsewhere; False when it is answered or failed already."""
        return self._pending.pop(request.hop_by_hop, None) is not None

    def send_answer(self, request: DiameterMessage, answer: DiameterMessage) -> bool:
        """Answer a received request; False when the connection is gone.

        Identifiers, the P flag and Proxy-Info AVPs are the request's (RFC 6733 §6.2).
        """
        if self.state not in (PeerState.OPEN, PeerState.CLOSING):
            return False
        avps = answer.avps
        proxies = request.find_all("Proxy-Info")
        if proxies and answer.find_all("Proxy-Info") != proxies:
            avps = (*(avp for avp in avps if avp not in answer.find_all("Proxy-Info")), *proxies)
        self._send(
            replace(
                answer,
                request=False,
                retransmitted=False,
                command=request.command,
                application=request.application,
                proxiable=request.proxiable,
                hop_by_hop=request.hop_by_hop,
                end_to_end=request.end_to_end,
                avps=avps,
            )
        )
        return True

    def stop(self, cause: DisconnectCause, now: float) -> None:
        """Stop: DPR --> and wait for DPA; at once where there is no open peer."""
        if self.state is PeerState.OPEN:
            self._close_reason = CloseReason.STOPPED
            self._change(PeerState.CLOSING, CloseReason.STOPPED.value)
            self._timers.clear()
            self._timers.set(PeerTimer.CLOSING, now + CLOSING_INTERVAL)
            dpr = self._base_request(
                CommandCode.DISCONNECT_PEER, (Avp.of("Disconnect-Cause", cause), *self._identity.state_avps())
            )
            self._disconnect = dpr.hop_by_hop
            self._send(dpr)
        elif self.state in (PeerState.WAIT_CER, PeerState.WAIT_CEA):
            self._end(CloseReason.STOPPED, CloseReason.STOPPED.value)

    # Outputs

    def poll_transmit(self) -> bytes | None:
        """Octets to write, ``None`` when there are none."""
        if not self._output:
            return None
        octets = b"".join(self._output)
        self._output.clear()
        return octets

    def poll_event(self) -> PeerEvent | None:
        """The next event, ``None`` when there is none."""
        return self._events.popleft() if self._events else None

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` is due."""
        while self._deadlines and self._deadlines[0][1] not in self._pending:
            heapq.heappop(self._deadlines)
        deadline = self._timers.next_deadline()
        if not self._deadlines:
            return deadline
        first = self._deadlines[0][0]
        return first if deadline is None else min(first, deadline)

    # Messages

    def _take(self, octets: bytes, now: float) -> None:
        try:
            message = decode_message(octets)
        except MalformedMessage as error:
            self._take_malformed(error, octets)
            return
        self.received[message.name] += 1
        self._events.append(MessageSeen(Direction.IN, message, octets))
        if self.state is PeerState.WAIT_CER:
            self._take_first(message, now)
        elif self.state is PeerState.WAIT_CEA:
            self._take_capabilities_answer(message, now)
        else:
            self._alive(message, now)
            if message.request:
                self._take_request(message, now)
            else:
                self._take_answer(message)

    def _take_malformed(self, error: MalformedMessage, octets: bytes) -> None:
        """RFC 6733 §7.1.5: a request is answered 5014 with the AVP, an answer is dropped."""
        header = error.header
        self.dropped[DropReason.MALFORMED_REQUEST if header.request else DropReason.MALFORMED_ANSWER] += 1
        self._events.append(MessageSeen(Direction.IN, header, octets))
        if header.request:
            self._refuse(header, RequestError(ResultCode.DIAMETER_INVALID_AVP_LENGTH, str(error), error.failed))
        if self.state in (PeerState.WAIT_CER, PeerState.WAIT_CEA):
            self._end(CloseReason.MALFORMED_CAPABILITIES, str(error))

    def _take_first(self, message: DiameterMessage, now: float) -> None:
        """<-- CER (RFC 6733 §5.6.1: close the connection if any message other than a CER arrives)."""
        if not (message.request and message.command == CommandCode.CAPABILITIES_EXCHANGE):
            self.dropped[DropReason.NOT_CAPABILITIES] += 1
            self._end(CloseReason.NOT_CAPABILITIES, f"{message.name} came before CER")
            return
        try:
            if message.error:
                raise RequestError(ResultCode.DIAMETER_INVALID_HDR_BITS, "the E flag in a request")
            check_request(message)
            capabilities = Capabilities.from_message(message)
            security = message.values("Inband-Security-Id")
        except RequestError as error:
            self._refuse(message, error, self._capability_avps())
            self._end(CloseReason.MALFORMED_CAPABILITIES, str(error))
            return
        except DecodeError as error:
            self._end(CloseReason.MALFORMED_CAPABILITIES, str(error))
            return
        refusal = self._judge(capabilities, security)
        if refusal is not None:
            result, reason = refusal
            self._answer_base(message, result, self._capability_avps())
            self._end(reason, f"{capabilities.host}: {reason.value}")
            return
        self._answer_base(message, ResultCode.DIAMETER_SUCCESS, self._capability_avps())
        self._open(capabilities, now)

    def _judge(self, capabilities: Capabilities, security: tuple[object, ...]) -> tuple[ResultCode, CloseReason] | None:
        admission = self._admission(capabilities)
        if admission is ResultCode.DIAMETER_UNKNOWN_PEER:
            return admission, CloseReason.UNKNOWN_PEER
        if admission is not None:
            return admission, CloseReason.ALREADY_CONNECTED
        # RFC 6733 §5.3: a receiver without applications in common MUST answer so
        if not self._in_common(capabilities):
            return ResultCode.DIAMETER_NO_COMMON_APPLICATION, CloseReason.NO_COMMON_APPLICATION
        # RFC 6733 §5.3: likewise without a security mechanism in common
        if security and NO_INBAND_SECURITY not in security:
            return ResultCode.DIAMETER_NO_COMMON_SECURITY, CloseReason.NO_COMMON_SECURITY
        return None

    def _take_capabilities_answer(self, message: DiameterMessage, now: float) -> None:
        """<-- CEA (I-Rcv-CEA, I-Rcv-Non-CEA)."""
        handshake = self._handshake
        if (
            message.request
            or message.command != CommandCode.CAPABILITIES_EXCHANGE
            or handshake is None
            or message.hop_by_hop != handshake.hop_by_hop
        ):
            self.dropped[DropReason.NOT_CAPABILITIES] += 1
            self._end(CloseReason.NOT_CAPABILITIES, f"{message.name} came before CEA")
            return
        try:
            result = Result.from_message(message)
            if not result.is_success:
                text = message.text("Error-Message")
                self._end(CloseReason.REFUSED, f"{result}{f': {text}' if text else ''}")
                return
            capabilities = Capabilities.from_message(message)
        except (RequestError, DecodeError) as error:
            self._end(CloseReason.MALFORMED_CAPABILITIES, str(error))
            return
        expected = self._expected_host
        if expected is not None and expected.lower() != capabilities.host.lower():
            self._end(CloseReason.UNKNOWN_PEER, f"{capabilities.host} answered for {expected}")
        elif not self._in_common(capabilities):
            self._end(CloseReason.NO_COMMON_APPLICATION, f"no application in common with {capabilities.host}")
        else:
            self._open(capabilities, now)

    def _take_request(self, message: DiameterMessage, now: float) -> None:
        try:
            if message.application == BASE_APPLICATION and message.command in _BASE_COMMANDS:
                check_request(message)
                self._take_base_request(message, now)
            elif self.state is PeerState.CLOSING:
                raise RequestError(ResultCode.DIAMETER_UNABLE_TO_DELIVER, "the connection is closing")
            else:
                self._check_service(message)
                check_request(message)
                self._events.append(RequestReceived(message))
        except RequestError as error:
            self._refuse(message, error)

    def _take_base_request(self, message: DiameterMessage, now: float) -> None:
        if message.command == CommandCode.DEVICE_WATCHDOG:
            self._answer_base(message, ResultCode.DIAMETER_SUCCESS, self._identity.state_avps())
        elif message.command == CommandCode.DISCONNECT_PEER:
            self._answer_base(message, ResultCode.DIAMETER_SUCCESS)
            if self.state is PeerState.OPEN:
                self._close_reason = CloseReason.DISCONNECT_REQUESTED
                self._change(PeerState.CLOSING, CloseReason.DISCONNECT_REQUESTED.value)
                self._timers.clear()
                # RFC 6733 §5.4: the receiver of the DPA disconnects; we only if it does not
                self._timers.set(PeerTimer.CLOSING, now + CLOSING_INTERVAL)
        else:
            # RFC 6733 §5.6 knows no CER on an open connection
            raise RequestError(ResultCode.DIAMETER_UNABLE_TO_COMPLY, "capabilities were exchanged already")

    def _check_service(self, message: DiameterMessage) -> None:
        """Whether a request is for us: header, application, command, destination (RFC 6733 §6.1.4)."""
        if message.error:
            raise RequestError(ResultCode.DIAMETER_INVALID_HDR_BITS, "the E flag in a request")
        commands = self._services.get(message.application)
        if commands is None and message.application != BASE_APPLICATION:
            raise RequestError(
                ResultCode.DIAMETER_APPLICATION_UNSUPPORTED,
                f"application {message.application} is not served",
            )
        if commands is None or message.command not in commands:
            raise RequestError(ResultCode.DIAMETER_COMMAND_UNSUPPORTED, f"command {message.command} is not served")
        host = message.text("Destination-Host")
        if host is not None and host.lower() != self._identity.host.lower():
            raise RequestError(ResultCode.DIAMETER_UNABLE_TO_DELIVER, f"this is not {host}")
        realm = message.text("Destination-Realm")
        if host is None and realm is not None and not self._identity.serves_realm(realm):
            raise RequestError(ResultCode.DIAMETER_REALM_NOT_SERVED, f"realm {realm} is not served here")

    def _take_answer(self, message: DiameterMessage) -> None:
        if message.command == CommandCode.DEVICE_WATCHDOG and message.hop_by_hop == self._watchdog_pending:
            self._watchdog_pending = None
            if self._watchdog is WatchdogState.REOPEN and self.state is PeerState.OPEN:
                self._reopen_answers += 1
                if self._reopen_answers < REOPEN_WATCHDOGS:
                    self._send_watchdog()
                else:
                    self._change_service(WatchdogState.OKAY)
            return
        if message.command == CommandCode.DISCONNECT_PEER and message.hop_by_hop == self._disconnect:
            self._end(CloseReason.STOPPED, CloseReason.STOPPED.value)
            return
        request = self._pending.get(message.hop_by_hop)
        # RFC 6733 §3: an answer with an unknown Hop-by-Hop Identifier MUST be discarded
        if (
            request is None
            or request.command != message.command
            or request.application != message.application
            or request.end_to_end != message.end_to_end
        ):
            self.dropped[DropReason.UNKNOWN_ANSWER] += 1
            return
        del self._pending[message.hop_by_hop]
        self._events.append(AnswerReceived(request, message))

    # Watchdog (RFC 3539, Appendix A)

    def _alive(self, message: DiameterMessage, now: float) -> None:
        """OnReceive: any message shows that the peer is there."""
        if self.state is not PeerState.OPEN:
            return
        if self._watchdog is WatchdogState.SUSPECT:
            self._change_service(WatchdogState.OKAY)
        if self._watchdog is WatchdogState.OKAY:
            self._set_watchdog(now)

    def _watchdog_expired(self, now: float) -> None:
        """OnTimerElapsed."""
        if self._watchdog is WatchdogState.SUSPECT:
            self._end(CloseReason.WATCHDOG, CloseReason.WATCHDOG.value)
            return
        if self._watchdog_pending is None:
            self._send_watchdog()
        elif self._watchdog is WatchdogState.OKAY:
            self._change_service(WatchdogState.SUSPECT)
        elif self._reopen_answers < 0:
            self._end(CloseReason.WATCHDOG, CloseReason.WATCHDOG.value)
            return
        else:
            self._reopen_answers = -1
        self._set_watchdog(now)

    def _set_watchdog(self, now: float) -> None:
        """Tw = Twinit with a jitter of ±2 s (RFC 3539 §3.4.1 [1])."""
        fraction = int.from_bytes(self._entropy.octets(4), "big") / 0x100000000
        jitter = (2 * fraction - 1) * WATCHDOG_JITTER
        self._timers.set(PeerTimer.WATCHDOG, now + self._watchdog_interval + jitter)

    def _send_watchdog(self) -> None:
        dwr = self._base_request(CommandCode.DEVICE_WATCHDOG, self._identity.state_avps())
        self._watchdog_pending = dwr.hop_by_hop
        self._send(dwr)

    # Building blocks

    def _is_closed(self) -> bool:
        return self.state is PeerState.CLOSED

    def _drop(self, reason: DropReason) -> None:
        """Count and show what is left in the stream."""
        self.dropped[reason] += 1
        self._events.append(OctetsDropped(reason, self._framer.clear()))

    def _in_common(self, capabilities: Capabilities) -> bool:
        """RFC 6733 §5.3: a relay has every application in common; the vendor does not count."""
        return capabilities.is_relay or any(
            application.identifier in capabilities.applications or application.identifier == RELAY_APPLICATION
            for application in self._identity.applications
        )

    def _capability_avps(self) -> tuple[Avp, ...]:
        """What follows Origin-Realm in CER and CEA (RFC 6733 §5.3.1).

        A vendor's application is named in Vendor-Specific-Application-Id and, for peers that read only
        those, in Auth-Application-Id as well.
        """
        identity = self._identity
        return (
            *(Avp.of("Host-IP-Address", address) for address in self._local_addresses),
            Avp.of("Vendor-Id", identity.vendor_id),
            Avp.of("Product-Name", identity.product_name),
            *identity.state_avps(),
            *(Avp.of("Supported-Vendor-Id", vendor) for vendor in identity.supported_vendors),
            *(Avp.of("Auth-Application-Id", application.identifier) for application in identity.applications),
            *(
                Avp.of(
                    "Vendor-Specific-Application-Id",
                    (
                        Avp.of("Vendor-Id", application.vendor),
                        Avp.of("Auth-Application-Id", application.identifier),
                    ),
                )
                for application in identity.applications
                if application.vendor
            ),
        )

    def _base_request(self, command: CommandCode, avps: tuple[Avp, ...]) -> DiameterMessage:
        return DiameterMessage(
            command=command,
            application=BASE_APPLICATION,
            request=True,
            hop_by_hop=self._unused_hop_by_hop(),
            end_to_end=self._identifiers.end_to_end(),
            avps=(*self._identity.origin_avps(), *avps),
        )

    def _unused_hop_by_hop(self) -> int:
        """RFC 6733 §3: unique on a connection at any time, also after 2^32 requests."""
        while (hop_by_hop := self._identifiers.hop_by_hop()) in self._pending:
            continue
        return hop_by_hop

    def _answer_base(self, request: DiameterMessage, result: ResultCode, avps: tuple[Avp, ...] = ()) -> None:
        self._send(
            answer_to(
                request,
                origin_host=self._identity.host,
                origin_realm=self._identity.realm,
                result=Result.of(result),
                avps=avps,
            )
        )

    def _refuse(self, request: DiameterMessage, error: RequestError, avps: tuple[Avp, ...] = ()) -> None:
        """Answer with the error, its text and the AVP to blame (RFC 6733 §7.1.5, §7.3, §7.5)."""
        failed = () if error.failed is None else (Avp.of("Failed-AVP", (error.failed,)),)
        self._answer_base(request, error.result, (*avps, Avp.of("Error-Message", str(error)), *failed))

    def _send(self, message: DiameterMessage) -> None:
        octets = encode_message(message)
        self._output.append(octets)
        self.sent[message.name] += 1
        self._events.append(MessageSeen(Direction.OUT, message, octets))

    def _open(self, capabilities: Capabilities, now: float) -> None:
        self.capabilities = capabilities
        self._timers.cancel(PeerTimer.HANDSHAKE)
        self._change(PeerState.OPEN, f"capabilities exchanged with {capabilities.host}")
        self._events.append(PeerOpened(capabilities))
        self._set_watchdog(now)
        if self._watchdog is WatchdogState.REOPEN:
            self._send_watchdog()

    def _change(self, new: PeerState, why: str) -> None:
        old, self.state = self.state, new
        self._events.append(StateChanged(old, new, why))

    def _change_service(self, new: WatchdogState) -> None:
        old, self._watchdog = self._watchdog, new
        self._events.append(ServiceChanged(old, new))

    def _end(self, why: CloseReason, text: str) -> None:
        """Error, Disc: everything pending fails and the transport connection is to be closed."""
        self._timers.clear()
        self._change(PeerState.CLOSED, text)
        for request in self._pending.values():
            self._events.append(RequestFailed(request, RequestFailure.PEER_DOWN))
        self._pending.clear()
        self._deadlines.clear()
        self._events.append(ConnectionEnded(why, text))


_BASE_COMMANDS = frozenset(
    {CommandCode.CAPABILITIES_EXCHANGE, CommandCode.DEVICE_WATCHDOG, CommandCode.DISCONNECT_PEER}
)
