"""One transport connection to a Diameter peer as a machine (RFC 6733 §5.6): the peer state machine.

Capabilities exchange, disconnection, the requests and answers that cross it and the protocol errors that a
node answers by itself (§7.1.3). The watchdog and the requests that wait are objects of their own beside it.
While a reopened connection is not in service yet, requests that arrive are served, not thrown away.

An accepted connection waits in Wait-Returns while the one that we opened to the same peer may win the election
(§5.6.4); who holds both says how it ends. Left out: relaying, redirecting others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import replace
from enum import Enum

from protocols.diameter.capabilities import Admission, Capabilities, admit_all, capability_avps
from protocols.diameter.codec import (
    Address,
    Avp,
    DiameterMessage,
    MalformedMessage,
    RequestError,
    check_request,
    decode_message,
    encode_message,
)
from protocols.diameter.delivery import bound_to, check_delivery
from protocols.diameter.dictionary import BASE_APPLICATION, CommandCode, DisconnectCause, ResultCode
from protocols.diameter.events import (
    AnswerReceived,
    CloseReason,
    ConnectionEnded,
    Direction,
    DropReason,
    MessageSeen,
    OctetsDropped,
    PeerEvent,
    PeerOpened,
    PeerState,
    RequestFailed,
    RequestFailure,
    RequestReceived,
    ServiceChanged,
    StateChanged,
)
from protocols.diameter.framing import MESSAGE_LENGTH_LIMIT, Framer, FramingError
from protocols.diameter.handshake import Election, HandshakeFailure, answer_cer, take_cea
from protocols.diameter.identity import DiameterIdentity, IdentifierSource
from protocols.diameter.pending import PendingRequests
from protocols.diameter.watchdog import WATCHDOG_INTERVAL, Watchdog, WatchdogState, WatchdogStep
from protocols.entropy import Entropy
from protocols.errors import LocalError
from protocols.timers import TimerTable

HANDSHAKE_INTERVAL = 10.0  # for CER or CEA; RFC 6733 §5.6.1 leaves it to us
CLOSING_INTERVAL = 3.0  # for DPA, or for the peer to disconnect after ours; RFC 6733 §5.6 leaves it to us
REQUEST_INTERVAL = 10.0  # for an answer; RFC 6733 leaves it to us

_BASE_COMMANDS = frozenset(
    {CommandCode.CAPABILITIES_EXCHANGE, CommandCode.DEVICE_WATCHDOG, CommandCode.DISCONNECT_PEER}
)


_BEFORE_OPEN = (PeerState.WAIT_CER, PeerState.WAIT_CEA, PeerState.WAIT_RETURNS)


class PeerTimer(Enum):
    """Timers of a connection."""

    HANDSHAKE = "handshake"
    WATCHDOG = "watchdog"
    CLOSING = "closing"


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
        self._identity = identity
        self._local_addresses = local_addresses
        self._services = services
        self._identifiers = identifiers
        self._expected_host = expected_host
        self._admission = admission
        self._framer = Framer(message_length_limit)
        self._timers: TimerTable[PeerTimer] = TimerTable()
        self._output: list[bytes] = []
        self._events: deque[PeerEvent] = deque()
        self._pending = PendingRequests()
        self._watchdog = Watchdog(reopening=reopening, interval=watchdog_interval, entropy=entropy)
        self._cer: DiameterMessage | None = None
        self._disconnect: int | None = None
        self._close_reason = CloseReason.DISCONNECTED
        self.state = PeerState.CLOSED
        self.capabilities: Capabilities | None = None
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.dropped: Counter[DropReason] = Counter()

    @property
    def is_usable(self) -> bool:
        """Whether requests may be sent: open and in service."""
        return self.state is PeerState.OPEN and self._watchdog.state is WatchdogState.OKAY

    @property
    def watchdog(self) -> WatchdogState:
        """What the watchdog thinks of an open connection."""
        return self._watchdog.state

    @property
    def pending_requests(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    # Inputs

    def start_initiator(self, now: float) -> None:
        """I-Rcv-Conn-Ack: the connection that we opened is up; CER -->"""
        self._start(PeerState.WAIT_CEA, "connected", now)
        self._cer = self._base_request(
            CommandCode.CAPABILITIES_EXCHANGE, capability_avps(self._identity, self._local_addresses)
        )
        self._send(self._cer)

    def start_responder(self, now: float) -> None:
        """A connection was accepted; its CER must follow (RFC 6733 §5.6.1)."""
        self._start(PeerState.WAIT_CER, "accepted", now)

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

    def disconnected(self, now: float, why: str | None = None) -> None:
        """Peer-Disc: the transport connection is gone."""
        if self.state is not PeerState.CLOSED:
            if self._framer.pending:
                self._drop(DropReason.TRUNCATED)
            self._end(self._close_reason, why or self._close_reason.value)

    def lose_election(self) -> None:
        """The other connection with this peer stays, this one ends (RFC 6733 §5.6.4)."""
        if self.state is not PeerState.CLOSED:
            self._end(CloseReason.ELECTION_LOST, CloseReason.ELECTION_LOST.value)

    def win_election(self, now: float) -> None:
        """I-Peer-Disc in Wait-Returns: our other connection came to nothing, the CER is judged anew."""
        if self.state is PeerState.WAIT_RETURNS and self._cer is not None:
            cer, self._cer = self._cer, None
            self._take_cer(cer, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due at ``now``."""
        for request in self._pending.expired(now):
            self._events.append(RequestFailed(request, RequestFailure.TIME_OUT))
        for timer in self._timers.expired(now):
            if timer is PeerTimer.WATCHDOG:
                self._watchdog_elapsed(now)
            elif timer is PeerTimer.HANDSHAKE:
                self._end(CloseReason.NO_CAPABILITIES, CloseReason.NO_CAPABILITIES.value)
            elif timer is PeerTimer.CLOSING:
                self._end(self._close_reason, self._close_reason.value)

    def send_request(self, message: DiameterMessage, now: float, timeout: float = REQUEST_INTERVAL) -> DiameterMessage:
        """Send-Message: give a request its identifiers and send it; ``LocalError`` out of service.

        An End-to-End Identifier that the message has already is kept: failover repeats a request with it.
        """
        if not self.is_usable:
            raise LocalError(f"the peer is {self.state.value}, {self.watchdog.value}")
        request = replace(
            message,
            hop_by_hop=self._unused_hop_by_hop(),
            end_to_end=message.end_to_end or self._identifiers.end_to_end(),
        )
        self._pending.add(request, now + timeout)
        self._send(request)
        return request

    def withdraw(self, request: DiameterMessage) -> bool:
        """Forget a pending request, to send it elsewhere; False when it is answered or failed already."""
        return self._pending.withdraw(request)

    def send_answer(self, request: DiameterMessage, answer: DiameterMessage) -> bool:
        """Answer a received request; False when the connection is gone.

        Identifiers, the P flag and Proxy-Info AVPs are the request's (RFC 6733 §6.2).
        """
        if self.state not in (PeerState.OPEN, PeerState.CLOSING):
            return False
        self._send(bound_to(request, answer))
        return True

    def send_octets(self, octets: bytes) -> bool:
        """Send an answer that was encoded elsewhere as it is, sound or not; ``DecodeError`` without a header."""
        if self.state not in (PeerState.OPEN, PeerState.CLOSING):
            return False
        try:
            message = decode_message(octets)
        except MalformedMessage as malformed:
            message = malformed.header
        self._put(message, octets)
        return True

    def stop(self, cause: DisconnectCause, now: float) -> None:
        """Stop: DPR --> and wait for DPA; at once where there is no open peer."""
        if self.state is PeerState.OPEN:
            self._begin_closing(CloseReason.STOPPED, now)
            dpr = self._base_request(
                CommandCode.DISCONNECT_PEER, (Avp.of("Disconnect-Cause", cause), *self._identity.state_avps())
            )
            self._disconnect = dpr.hop_by_hop
            self._send(dpr)
        elif self.state in _BEFORE_OPEN:
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
        deadlines = (self._timers.next_deadline(), self._pending.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

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
            self._take_cer(message, now)
        elif self._cer is not None and self.state is PeerState.WAIT_CEA:
            self._take_cea(message, self._cer, now)
        elif self.state is PeerState.WAIT_RETURNS:
            # The peer MUST NOT send before CEA
            self.dropped[DropReason.NOT_CAPABILITIES] += 1
            self._end(CloseReason.NOT_CAPABILITIES, f"{message.name} came before CEA")
        else:
            self._alive(now)
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
        if self.state in _BEFORE_OPEN:
            self._end(CloseReason.MALFORMED_CAPABILITIES, str(error))

    def _take_cer(self, message: DiameterMessage, now: float) -> None:
        answer, outcome = answer_cer(
            message, identity=self._identity, addresses=self._local_addresses, admission=self._admission
        )
        if answer is not None:
            self._send(answer)
        if isinstance(outcome, Election):
            self._cer = message
            self._change(PeerState.WAIT_RETURNS, "our own connection to the peer goes on")
        else:
            self._conclude(outcome, now)

    def _take_cea(self, message: DiameterMessage, cer: DiameterMessage, now: float) -> None:
        self._conclude(take_cea(message, cer, identity=self._identity, expected_host=self._expected_host), now)

    def _conclude(self, outcome: Capabilities | HandshakeFailure, now: float) -> None:
        if isinstance(outcome, Capabilities):
            self._open(outcome, now)
            return
        if outcome.why is CloseReason.NOT_CAPABILITIES:
            self.dropped[DropReason.NOT_CAPABILITIES] += 1
        self._end(outcome.why, outcome.text)

    def _take_request(self, message: DiameterMessage, now: float) -> None:
        try:
            if message.application == BASE_APPLICATION and message.command in _BASE_COMMANDS:
                check_request(message)
                self._take_base_request(message, now)
            elif self.state is PeerState.CLOSING:
                raise RequestError(ResultCode.DIAMETER_UNABLE_TO_DELIVER, "the connection is closing")
            else:
                check_delivery(message, identity=self._identity, services=self._services)
                check_request(message)
                self._events.append(RequestReceived(message))
        except RequestError as error:
            self._refuse(message, error)

    def _take_base_request(self, message: DiameterMessage, now: float) -> None:
        if message.command == CommandCode.DEVICE_WATCHDOG:
            self._answer(message, ResultCode.DIAMETER_SUCCESS, self._identity.state_avps())
        elif message.command == CommandCode.DISCONNECT_PEER:
            self._answer(message, ResultCode.DIAMETER_SUCCESS)
            if self.state is PeerState.OPEN:
                # RFC 6733 §5.4: the receiver of the DPA disconnects; we only if it does not
                # RFC 6733 §5.4.3: after any other cause than REBOOTING we SHOULD NOT attempt reconnection
                is_back_soon = message.integer("Disconnect-Cause") == DisconnectCause.REBOOTING
                self._begin_closing(CloseReason.DISCONNECT_REQUESTED if is_back_soon else CloseReason.UNWANTED, now)
        else:
            # RFC 6733 §5.6 knows no CER on an open connection
            raise RequestError(ResultCode.DIAMETER_UNABLE_TO_COMPLY, "capabilities were exchanged already")

    def _take_answer(self, message: DiameterMessage) -> None:
        if message.command == CommandCode.DEVICE_WATCHDOG and self._watchdog.is_answered_by(message.hop_by_hop):
            self._watchdog_answered()
            return
        if message.command == CommandCode.DISCONNECT_PEER and message.hop_by_hop == self._disconnect:
            self._end(CloseReason.STOPPED, CloseReason.STOPPED.value)
            return
        request = self._pending.take(message)
        # RFC 6733 §3: an answer with an unknown Hop-by-Hop Identifier MUST be discarded
        if request is None:
            self.dropped[DropReason.UNKNOWN_ANSWER] += 1
        else:
            self._events.append(AnswerReceived(request, message))

    # Watchdog (RFC 3539, Appendix A)

    def _alive(self, now: float) -> None:
        if self.state is PeerState.OPEN:
            before = self.watchdog
            is_rearmed = self._watchdog.received()
            self._report_service(before)
            if is_rearmed:
                self._set_watchdog(now)

    def _watchdog_answered(self) -> None:
        if self.state is PeerState.OPEN:
            before = self.watchdog
            step = self._watchdog.answered()
            self._report_service(before)
            if step is WatchdogStep.SEND:
                self._send_watchdog()

    def _watchdog_elapsed(self, now: float) -> None:
        before = self.watchdog
        step = self._watchdog.elapsed()
        self._report_service(before)
        if step is WatchdogStep.CLOSE:
            self._end(CloseReason.WATCHDOG, CloseReason.WATCHDOG.value)
            return
        if step is WatchdogStep.SEND:
            self._send_watchdog()
        self._set_watchdog(now)

    def _report_service(self, before: WatchdogState) -> None:
        if self.watchdog is not before:
            self._events.append(ServiceChanged(before, self.watchdog))

    def _set_watchdog(self, now: float) -> None:
        self._timers.set(PeerTimer.WATCHDOG, now + self._watchdog.jittered_interval())

    def _send_watchdog(self) -> None:
        dwr = self._base_request(CommandCode.DEVICE_WATCHDOG, self._identity.state_avps())
        self._watchdog.sent(dwr.hop_by_hop)
        self._send(dwr)

    # Building blocks

    def _start(self, state: PeerState, why: str, now: float) -> None:
        if self.state is not PeerState.CLOSED:
            raise LocalError(f"a connection starts once, this one is {self.state.value}")
        self._timers.set(PeerTimer.HANDSHAKE, now + HANDSHAKE_INTERVAL)
        self._change(state, why)

    def _is_closed(self) -> bool:
        return self.state is PeerState.CLOSED

    def _drop(self, reason: DropReason) -> None:
        """Count and show what is left in the stream."""
        self.dropped[reason] += 1
        self._events.append(OctetsDropped(reason, self._framer.clear()))

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

    def _answer(self, request: DiameterMessage, result: ResultCode, avps: tuple[Avp, ...] = ()) -> None:
        self._send(self._identity.answer(request, result, avps))

    def _refuse(self, request: DiameterMessage, error: RequestError) -> None:
        self._send(self._identity.refusal(request, error))

    def _send(self, message: DiameterMessage) -> None:
        self._put(message, encode_message(message))

    def _put(self, message: DiameterMessage, octets: bytes) -> None:
        self._output.append(octets)
        self.sent[message.name] += 1
        self._events.append(MessageSeen(Direction.OUT, message, octets))

    def _open(self, capabilities: Capabilities, now: float) -> None:
        self.capabilities = capabilities
        self._timers.cancel(PeerTimer.HANDSHAKE)
        self._change(PeerState.OPEN, f"capabilities exchanged with {capabilities.host}")
        self._events.append(PeerOpened(capabilities))
        self._set_watchdog(now)
        if self._watchdog.opened() is WatchdogStep.SEND:
            self._send_watchdog()

    def _change(self, new: PeerState, why: str) -> None:
        old, self.state = self.state, new
        self._events.append(StateChanged(old, new, why))

    def _begin_closing(self, why: CloseReason, now: float) -> None:
        self._close_reason = why
        self._change(PeerState.CLOSING, why.value)
        self._timers.clear()
        self._timers.set(PeerTimer.CLOSING, now + CLOSING_INTERVAL)

    def _end(self, why: CloseReason, text: str) -> None:
        """Error, Disc: everything pending fails and the transport connection is to be closed."""
        self._timers.clear()
        self._change(PeerState.CLOSED, text)
        for request in self._pending.clear():
            self._events.append(RequestFailed(request, RequestFailure.PEER_DOWN))
        self._events.append(ConnectionEnded(why, text))
