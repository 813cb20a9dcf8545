"""One transport connection under the peer machine (RFC 6733 §2.1): octets in and out, its one timer, back-pressure.

A peer that does not read gets no new requests and is cut off when too much waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from protocols.diameter.codec import DiameterMessage
from protocols.diameter.dictionary import DisconnectCause
from protocols.diameter.events import (
    AnswerReceived,
    CloseReason,
    ConnectionEnded,
    Direction,
    DropReason,
    MessageSeen,
    OctetsDropped,
    PeerOpened,
    RequestFailed,
    RequestFailure,
    RequestReceived,
    ServiceChanged,
)
from protocols.diameter.peer import CLOSING_INTERVAL, PeerMachine
from protocols.diameter.routing import Route
from protocols.diameter.uri import Transport
from protocols.diameter.watchdog import WatchdogState
from protocols.errors import LocalError
from protocols.io.diameter.answers import Answer, AnswerOctets
from protocols.io.diameter.observation import PeerChange, PeerStatus, Traffic
from protocols.io.diameter.tls import failure_of
from protocols.path import Endpoint

log = logging.getLogger(__name__)

WRITE_LIMIT = 16 * 1024 * 1024  # octets a peer may leave unread before we cut it off


@dataclass(frozen=True, slots=True, kw_only=True)
class Intended:
    """Whom a connection that we opened is to reach, and how the last attempt ended."""

    host: str
    is_reopening: bool
    last_error: str | None


class ConnectionOwner(Protocol):
    """The node, as its connections know it."""

    ended: Counter[str]

    @property
    def is_traced(self) -> bool:
        """Whether anybody looks at the traffic."""

    def machine_for(self, connection: Connection, intended: Intended | None) -> PeerMachine:
        """The machine of a connection that has come up."""

    def register(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""

    def unregister(self, connection: Connection) -> None:
        """Forget an ended connection, keep its counters."""

    def show(self, traffic: Traffic) -> None:
        """A message or dropped octets crossed the connection."""

    def tell(self, change: PeerChange) -> None:
        """The peer came, went, left or returned to service."""

    def opened(self, connection: Connection) -> None:
        """The capabilities exchange succeeded."""

    def is_connected(self, host: str) -> bool:
        """Whether a connection with a peer is open, whoever opened it."""

    def refused(self, local: Endpoint, remote: Endpoint, why: str, host: str | None = None) -> None:
        """A connection was wanted, and TLS or a limit stood against it; ``host`` is whom we wanted to reach."""

    def route_of(self, host: str) -> Route:
        """The peer's entry in the routing table."""

    def failovers_of(self, host: str) -> int:
        """Requests that were repeated to others since the peer did not answer them."""

    def has_alternative(self, request: DiameterMessage, connection: Connection) -> bool:
        """Whether another peer could take a request over."""

    def serve(self, connection: Connection, request: DiameterMessage) -> None:
        """Answer a request."""


class Connection(asyncio.Protocol):
    """Pumps one transport connection into its machine and carries out what the machine says."""

    machine: PeerMachine
    local: Endpoint
    remote: Endpoint

    def __init__(self, owner: ConnectionOwner, intended: Intended | None, transport: Transport = Transport.TCP) -> None:
        """``intended`` is ``None`` for an accepted connection."""
        self.intended = intended
        self.kind = transport
        self.certificate: bytes | None = None
        self.tls_version: str | None = None
        self.closed = asyncio.Event()
        self.end_reason: CloseReason | None = None
        self.end_text: str | None = None
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outcomes: dict[int, asyncio.Future[DiameterMessage | RequestFailure]] = {}
        self._requests: dict[int, DiameterMessage] = {}
        self._is_congested = False
        self._was_open = False
        self._is_pumping = False
        self._is_flushing = False

    @property
    def name(self) -> str:
        """The peer's identity as far as it is known."""
        capabilities = self.machine.capabilities
        if capabilities is not None:
            return capabilities.host
        return self.intended.host if self.intended is not None else str(self.remote)

    @property
    def is_accepted(self) -> bool:
        """Whether the peer connected to us."""
        return self.intended is None

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent now."""
        return self._transport is not None and not self._is_congested and self.machine.is_usable

    def has_host(self, host: str) -> bool:
        """Whether the peer is ``host``; identities compare without case."""
        capabilities = self.machine.capabilities
        return capabilities is not None and capabilities.host.lower() == host.lower()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport connection is up, over TLS its handshake is done."""
        assert isinstance(transport, asyncio.Transport)
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self.local = Endpoint.of(local[0], local[1])
        # A peer that is gone already has no name any more
        self.remote = Endpoint.of(remote[0], remote[1]) if remote else self.local
        secure = transport.get_extra_info("ssl_object")
        if secure is not None:
            self.certificate, self.tls_version = secure.getpeercert(binary_form=True), secure.version()
        self.machine = self._owner.machine_for(self, self.intended)
        if not self._owner.register(self):
            transport.abort()
            self.closed.set()
            return
        self._transport = transport
        if self.intended is None:
            self.machine.start_responder(self._loop.time())
        else:
            self.machine.start_initiator(self._loop.time())
        self._pump()

    def data_received(self, data: bytes) -> None:
        """Octets arrived."""
        if self._transport is not None:
            self.machine.receive(data, self._loop.time())
            self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport connection is gone."""
        self._transport = None
        # An alert: with TLS 1.3 the server judges our certificate when we are done already
        why = f"the peer ended TLS: {failure_of(exc)}" if isinstance(exc, ssl.SSLError) else None
        self.machine.disconnected(self._loop.time(), why)
        self._pump()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.closed.is_set():
            self._owner.unregister(self)
            self.closed.set()

    def pause_writing(self) -> None:
        """The peer does not read: no new requests for it."""
        self._is_congested = True

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._is_congested = False

    # Called by the node

    def send_request(
        self, message: DiameterMessage, timeout: float
    ) -> tuple[DiameterMessage, asyncio.Future[DiameterMessage | RequestFailure]]:
        """Send; the future gets the answer or why there is none."""
        sent = self.machine.send_request(message, self._loop.time(), timeout)
        outcome: asyncio.Future[DiameterMessage | RequestFailure] = self._loop.create_future()
        self._outcomes[sent.hop_by_hop] = outcome
        self._requests[sent.hop_by_hop] = sent
        self._pump()
        return sent, outcome

    def withdraw(self, sent: DiameterMessage) -> None:
        """Nobody waits for the answer any more."""
        self._requests.pop(sent.hop_by_hop, None)
        self._outcomes.pop(sent.hop_by_hop, None)
        self.machine.withdraw(sent)

    def send_answer(self, request: DiameterMessage, answer: Answer) -> None:
        """Send an answer if the connection is still there."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > WRITE_LIMIT:
            log.warning("%s does not read: %d octets wait", self.name, transport.get_write_buffer_size())
            transport.abort()
            return
        try:
            if isinstance(answer, AnswerOctets):
                for octets in answer.messages:
                    self.machine.send_octets(octets)
            else:
                self.machine.send_answer(request, answer)
        except LocalError:
            log.exception("an answer to %s of %s that has no encoding", request.name, self.name)
        self._pump()

    def lose_election(self) -> None:
        """The other connection with this peer stays (RFC 6733 §5.6.4)."""
        self.machine.lose_election()
        self._pump()

    def win_election(self) -> None:
        """Our own connection to this peer came to nothing: this one may open."""
        self.machine.win_election(self._loop.time())
        self._pump()

    def stop(self, cause: DisconnectCause) -> None:
        """Disconnect with DPR."""
        self.machine.stop(cause, self._loop.time())
        self._pump()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def status(self) -> PeerStatus:
        """What is known of the peer."""
        machine, intended = self.machine, self.intended
        capabilities = machine.capabilities
        route = self._owner.route_of(self.name)
        return PeerStatus(
            transport=self.kind.value,
            tls=self.tls_version,
            in_service=self.is_usable,
            priority=route.priority,
            weight=route.weight,
            failovers=self._owner.failovers_of(self.name),
            host=capabilities.host if capabilities else None if intended is None else intended.host,
            realm=capabilities.realm if capabilities else None,
            state=machine.state.value,
            watchdog=machine.watchdog.value,
            local=self.local,
            remote=self.remote,
            accepted=self.is_accepted,
            applications=tuple(sorted(capabilities.applications)) if capabilities else (),
            pending_requests=machine.pending_requests,
            sent=dict(machine.sent),
            received=dict(machine.received),
            dropped={reason.value: count for reason, count in machine.dropped.items()},
            last_error=None if intended is None else intended.last_error,
        )

    # The pump

    def _pump(self) -> None:
        """Write, carry out events, arm the one timer; again until the machine is silent."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while True:
                octets = self.machine.poll_transmit()
                if octets is not None and self._transport is not None:
                    self._transport.write(octets)
                event = self.machine.poll_event()
                if event is None:
                    break
                self._carry_out(event)
        finally:
            self._is_pumping = False
        self._arm()

    def _carry_out(self, event: object) -> None:
        if isinstance(event, MessageSeen):
            if self._owner.is_traced:
                self._show(event.direction, event.octets, event.message, None)
        elif isinstance(event, RequestReceived):
            self._owner.serve(self, event.request)
        elif isinstance(event, AnswerReceived):
            self._settle(event.request, event.answer)
        elif isinstance(event, RequestFailed):
            self._settle(event.request, event.why)
        elif isinstance(event, OctetsDropped):
            log.info("%s: %s", self.remote, event.reason.value)
            self._show(Direction.IN, event.octets, None, event.reason)
        elif isinstance(event, PeerOpened):
            self._was_open = True
            self._owner.opened(self)
            if self.machine.is_usable:
                self._tell(True, f"{self.name} is up")
        elif isinstance(event, ServiceChanged):
            self._change_service(event)
        elif isinstance(event, ConnectionEnded):
            self._finish(event)

    def _change_service(self, event: ServiceChanged) -> None:
        """RFC 3539 §3.4.1 [3]: a suspected peer's requests go to another one, if there is one."""
        if event.new is WatchdogState.OKAY:
            self._tell(True, f"{self.name} is in service again")
            return
        self._tell(False, f"{self.name} does not answer the watchdog")
        for request in list(self._requests.values()):
            if self._owner.has_alternative(request, self) and self.machine.withdraw(request):
                self._settle(request, RequestFailure.PEER_DOWN)

    def _settle(self, request: DiameterMessage, outcome: DiameterMessage | RequestFailure) -> None:
        self._requests.pop(request.hop_by_hop, None)
        future = self._outcomes.pop(request.hop_by_hop, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _finish(self, event: ConnectionEnded) -> None:
        self.end_reason, self.end_text = event.why, event.text
        self._owner.ended[event.why.value] += 1
        if self._was_open:
            self._tell(False, f"{self.name}: {event.text}")
        else:
            log.info("connection with %s ended: %s", self.remote, event.text)
        if self._transport is not None and event.why is CloseReason.NOT_DIAMETER:
            # RFC 6733 §2.1: what cannot be parsed MUST end with a RESET
            ends = self._transport.get_extra_info("socket")
            ends.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif self._transport is not None:
            self._transport.close()

    def _show(
        self, direction: Direction, octets: bytes, message: DiameterMessage | None, dropped: DropReason | None
    ) -> None:
        capabilities = self.machine.capabilities
        self._owner.show(
            Traffic(
                direction=direction,
                local=self.local,
                remote=self.remote,
                peer=None if capabilities is None else capabilities.host,
                octets=octets,
                message=message,
                transport=self.kind,
                dropped=dropped,
            )
        )

    def _tell(self, is_up: bool, text: str) -> None:
        self._owner.tell(PeerChange(peer=self.name, local=self.local, remote=self.remote, is_up=is_up, text=text))

    def _arm(self) -> None:
        deadline = self.machine.next_deadline()
        if self.end_reason is not None:
            self._limit_flush()
            return
        if self._timer is not None:
            if deadline is not None and self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and self._transport is not None:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _limit_flush(self) -> None:
        """What the peer does not read must not keep an ended connection."""
        if self._timer is not None and not self._is_flushing:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None and not self._is_flushing:
            self._is_flushing = True
            self._timer = self._loop.call_later(CLOSING_INTERVAL, self.abort)

    def _expire(self) -> None:
        self._timer = None
        # call_at may fire a clock tick early
        self.machine.handle_timeout(max(self._loop.time(), self.machine.next_deadline() or 0.0))
        self._pump()
