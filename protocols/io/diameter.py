"""Diameter over TCP with asyncio (RFC 6733 §2.1, §5.1, §6): a node with its peers, requests and handlers.

The node connects to configured peers and connects again when a connection ends, accepts peers, routes a
request to a peer that serves its application, repeats it to another one when the first goes down
(RFC 6733 §5.5.4) and hands received requests to handlers, once even when they come twice (§3). Left out:
TLS, SCTP, redirects.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace

from protocols.diameter.codec import (
    MESSAGE_LENGTH_LIMIT,
    Avp,
    DiameterMessage,
    RequestError,
    Result,
    answer_to,
    redact,
)
from protocols.diameter.dictionary import DisconnectCause, ResultCode
from protocols.diameter.peer import (
    CLOSING_INTERVAL,
    REQUEST_INTERVAL,
    SWM,
    WATCHDOG_INTERVAL,
    AnswerReceived,
    Application,
    Capabilities,
    CloseReason,
    ConnectionEnded,
    DiameterIdentity,
    Direction,
    DropReason,
    IdentifierSource,
    MessageSeen,
    OctetsDropped,
    PeerMachine,
    PeerOpened,
    PeerState,
    RequestFailed,
    RequestFailure,
    RequestReceived,
    ServiceChanged,
    WatchdogState,
)
from protocols.entropy import Entropy
from protocols.errors import BackendError, LocalError, StackError
from protocols.path import Endpoint
from protocols.trace.records import JsonValue, Kind

__all__ = [
    "SWM",
    "Application",
    "DiameterIdentity",
    "DiameterNode",
    "DisconnectCause",
    "PeerAddress",
    "PeerChange",
    "PeerStatus",
    "Traffic",
]

log = logging.getLogger(__name__)

PORT = 3868  # RFC 6733 §2.1
CONNECT_INTERVAL = 5.0  # for a TCP connection to come up; RFC 6733 leaves it to us
RECONNECT_INTERVAL_FIRST = 0.5  # doubles up to the longest; RFC 6733 leaves the way there to us
RECONNECT_INTERVAL_LONGEST = 30.0  # Tc, RFC 6733 §2.1
CONNECTIONS_LIMIT = 256  # accepted at a time
HANDLERS_LIMIT = 1000  # requests of one connection in work before we stop reading
WRITE_LIMIT = 16 * 1024 * 1024  # octets a peer may leave unread before we cut it off
DUPLICATES_INTERVAL = 240.0  # RFC 6733 §3: End-to-End Identifiers stay unique for at least 4 minutes
DUPLICATES_LIMIT = 10_000

_TRY_ELSEWHERE = frozenset({ResultCode.DIAMETER_UNABLE_TO_DELIVER, ResultCode.DIAMETER_TOO_BUSY})

Handler = Callable[[DiameterMessage], Awaitable[DiameterMessage]]


class SystemEntropy:
    """Random octets of the operating system."""

    def octets(self, length: int) -> bytes:
        """``length`` random octets."""
        return os.urandom(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A peer to connect to: its DiameterIdentity, and where it listens."""

    host: str
    address: str
    port: int = PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """One message, or octets that are none (``message`` None, ``dropped`` says why), as it crossed TCP."""

    direction: Direction
    local: Endpoint
    remote: Endpoint
    peer: str | None
    octets: bytes
    message: DiameterMessage | None
    dropped: DropReason | None = None

    def records(self, *, interface: str = "SWm", export_keys: bool = False) -> list[tuple[Kind, dict[str, JsonValue]]]:
        """Bodies for the trace; without ``export_keys`` the data of secret AVPs is zeroed in the octets."""
        octets = self.octets if export_keys or self.message is None else redact(self.octets)
        bodies: list[tuple[Kind, dict[str, JsonValue]]] = [
            (
                Kind.DATAGRAM,
                {
                    "direction": self.direction.value,
                    "transport": "tcp",
                    "local": str(self.local),
                    "remote": str(self.remote),
                    "payload": octets.hex(),
                    "protocol": "unknown" if self.message is None else "diameter",
                },
            )
        ]
        if self.message is not None:
            bodies.append(
                (
                    Kind.MESSAGE,
                    {
                        "protocol": "diameter",
                        "direction": self.direction.value,
                        "interface": interface,
                        "peer": self.peer or str(self.remote),
                        "name": self.message.name,
                        "summary": self.message.summary(),
                        "detail": self.message.detail(),
                        "retransmission": self.message.retransmitted,
                    },
                )
            )
        return bodies


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """A peer came up, left or returned to service, or went down."""

    peer: str | None
    local: Endpoint
    remote: Endpoint
    is_up: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What is known of one peer; of a configured one also while there is no connection."""

    host: str | None
    realm: str | None
    state: str
    watchdog: str | None
    local: Endpoint | None
    remote: Endpoint | None
    accepted: bool
    applications: tuple[int, ...]
    pending_requests: int
    sent: dict[str, int]
    received: dict[str, int]
    dropped: dict[str, int]
    last_error: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """The status for the control interface."""
        return {
            "host": self.host,
            "realm": self.realm,
            "state": self.state,
            "watchdog": self.watchdog,
            "local": None if self.local is None else str(self.local),
            "remote": None if self.remote is None else str(self.remote),
            "accepted": self.accepted,
            "applications": list(self.applications),
            "pending_requests": self.pending_requests,
            "sent": dict(self.sent),
            "received": dict(self.received),
            "dropped": dict(self.dropped),
            "last_error": self.last_error,
        }


class DiameterNode:
    """A Diameter client and server on one event loop; ``close`` ends everything it started."""

    def __init__(
        self,
        identity: DiameterIdentity,
        *,
        entropy: Entropy | None = None,
        wall: Callable[[], float] = time.time,
        known_peers: frozenset[str] | None = None,
        watchdog_interval: float = WATCHDOG_INTERVAL,
        reconnect_interval: float = RECONNECT_INTERVAL_FIRST,
        message_length_limit: int = MESSAGE_LENGTH_LIMIT,
    ) -> None:
        """``known_peers`` are the Origin-Hosts that may connect; without it every peer may."""
        self.entropy: Entropy = SystemEntropy() if entropy is None else entropy
        self.identity = identity if identity.origin_state_id else replace(identity, origin_state_id=int(wall()))
        self.identifiers = IdentifierSource(self.entropy, wall=wall())
        self.watchdog_interval = watchdog_interval
        self.message_length_limit = message_length_limit
        self.services: dict[int, set[int]] = {}
        self.dropped: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._known_peers = None if known_peers is None else {host.lower() for host in known_peers}
        self._reconnect_interval = reconnect_interval
        self._handlers: dict[tuple[int, int], Handler] = {}
        self._connections: list[_Connection] = []
        self._links: list[_Link] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._traffic_hooks: list[Callable[[Traffic], None]] = []
        self._peer_hooks: list[Callable[[PeerChange], None]] = []
        self._opened = asyncio.Condition()
        self._answers: OrderedDict[tuple[bytes, int, int, bytes], tuple[float, asyncio.Future[DiameterMessage]]] = (
            OrderedDict()
        )
        self._is_closing = False

    # Configuration

    def on_request(self, application: int, command: int, handler: Handler) -> None:
        """Serve a command: ``handler`` gets a checked request and returns the answer.

        ``RequestError`` from it becomes its answer, any other error DIAMETER_UNABLE_TO_COMPLY.
        """
        self._handlers[application, command] = handler
        self.services.setdefault(application, set()).add(int(command))

    def on_traffic(self, hook: Callable[[Traffic], None]) -> Callable[[], None]:
        """Show every message and every dropped octet to ``hook``; returns how to stop that."""
        self._traffic_hooks.append(hook)
        return lambda: self._traffic_hooks.remove(hook)

    def on_peer(self, hook: Callable[[PeerChange], None]) -> Callable[[], None]:
        """Tell ``hook`` when peers come and go; returns how to stop that."""
        self._peer_hooks.append(hook)
        return lambda: self._peer_hooks.remove(hook)

    async def listen(self, address: str, port: int = PORT) -> Endpoint:
        """Accept peers on an address; returns where (port 0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _Connection(self, None), address, port, reuse_address=True)
        except OSError as error:
            raise BackendError(f"cannot listen on {address} port {port}: {error.strerror or error}") from error
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return Endpoint.of(bound[0], bound[1])

    def add_peer(self, peer: PeerAddress) -> None:
        """Keep a connection to ``peer`` from now on."""
        link = _Link(self, peer, self._reconnect_interval)
        self._links.append(link)
        self._spawn(link.run())

    async def close(self, cause: DisconnectCause = DisconnectCause.REBOOTING) -> None:
        """Disconnect from every peer with DPR, stop listening, fail what is pending."""
        self._is_closing = True
        for server in self._servers:
            server.close()
        for link in self._links:
            link.stop()
        connections = list(self._connections)
        for connection in connections:
            connection.stop(cause)
        await asyncio.gather(*(connection.closed.wait() for connection in connections))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        for _, answer in self._answers.values():
            answer.cancel()
        self._answers.clear()

    # Requests

    async def wait_open(self, timeout: float, host: str | None = None) -> None:
        """Wait until some peer, or ``host``, is in service; ``BackendError`` when none is in time."""
        try:
            async with asyncio.timeout(timeout), self._opened:
                await self._opened.wait_for(
                    lambda: any(
                        connection.is_usable and (host is None or connection.has_host(host))
                        for connection in self._connections
                    )
                )
        except TimeoutError:
            raise BackendError(f"no open Diameter connection{f' to {host}' if host else ''}") from None

    async def request(self, message: DiameterMessage, timeout: float = REQUEST_INTERVAL) -> DiameterMessage:
        """Send a request and return its answer; ``BackendError`` without a peer or an answer in time.

        When the peer goes down or cannot deliver, the request goes to another one that serves the
        application, with the T flag if the first gave no answer (RFC 6733 §3, §5.5.4, §7.1.3).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        tried: list[_Connection] = []
        answer: DiameterMessage | None = None
        failure = "no open Diameter peer"
        while True:
            connection = self._route(message, tried)
            if connection is None:
                if answer is not None:
                    return answer
                raise BackendError(f"{message.name}: {failure} for application {message.application}")
            tried.append(connection)
            sent, outcome = connection.send_request(message, deadline - loop.time())
            try:
                result = await outcome
            except asyncio.CancelledError:
                connection.withdraw(sent)
                raise
            if isinstance(result, DiameterMessage):
                if not (result.error and _base_result(result) in _TRY_ELSEWHERE):
                    return result
                answer = result
                message = replace(message, end_to_end=sent.end_to_end, retransmitted=False)
            elif result is RequestFailure.TIME_OUT:
                raise BackendError(f"{message.name}: no answer from {connection.name} in {timeout:g} s")
            else:
                failure = f"the connection to {connection.name} went down and there is no other"
                message = replace(message, end_to_end=sent.end_to_end, retransmitted=True)

    def _route(self, message: DiameterMessage, tried: list[_Connection]) -> _Connection | None:
        """The peer for a request (RFC 6733 §6.1): the destination itself, else a relay, else its realm."""
        if self._is_closing:
            return None
        host = (message.text("Destination-Host") or "").lower()
        realm = (message.text("Destination-Realm") or "").lower()
        best: tuple[int, _Connection] | None = None
        for connection in self._connections:
            capabilities = connection.machine.capabilities
            if not connection.is_usable or capabilities is None or connection in tried:
                continue
            if not capabilities.supports(message.application):
                continue
            if host and capabilities.host.lower() == host:
                rank = 0
            elif not host and realm and capabilities.realm.lower() == realm and not capabilities.is_relay:
                rank = 1
            elif capabilities.is_relay:
                rank = 2
            elif realm and capabilities.realm.lower() == realm:
                rank = 3
            else:
                rank = 4
            if best is None or rank < best[0]:
                best = (rank, connection)
        return None if best is None else best[1]

    def peers(self) -> tuple[PeerStatus, ...]:
        """All connections, and the configured peers that have none."""
        absent = [link.status() for link in self._links if link.connection is None]
        return (*(connection.status() for connection in self._connections), *absent)

    # Called by connections

    def admit(self, newcomer: _Connection, capabilities: Capabilities) -> ResultCode | None:
        """Judge a CER: known peers only, and one connection each (RFC 6733 §5.3, §5.6).

        A greater Origin-State-Id says that the peer lost its state (§8.16): its old connection goes.
        """
        host = capabilities.host.lower()
        if self._known_peers is not None and host not in self._known_peers:
            return ResultCode.DIAMETER_UNKNOWN_PEER
        for connection in list(self._connections):
            present = connection.machine.capabilities
            if connection is newcomer or present is None or not connection.has_host(host):
                continue
            if connection.machine.state is not PeerState.OPEN:
                continue
            if capabilities.origin_state_id <= present.origin_state_id:
                return ResultCode.ELECTION_LOST
            connection.abort()
        return None

    def register(self, connection: _Connection) -> bool:
        """Take a new connection in; False when there are too many."""
        accepted = sum(1 for present in self._connections if present.link is None)
        if self._is_closing or (connection.link is None and accepted >= CONNECTIONS_LIMIT):
            self.ended["too many connections"] += 1
            return False
        self._connections.append(connection)
        return True

    def unregister(self, connection: _Connection) -> None:
        """Forget an ended connection, keep its counters."""
        if connection in self._connections:
            self._connections.remove(connection)
        for reason, count in connection.machine.dropped.items():
            self.dropped[reason.value] += count

    def show(self, traffic: Traffic) -> None:
        """Hand traffic to the hooks."""
        for hook in self._traffic_hooks:
            hook(traffic)

    def tell(self, change: PeerChange) -> None:
        """Hand a change to the hooks, wake whoever waits for a peer."""
        for hook in self._peer_hooks:
            hook(change)
        if change.is_up:
            self._spawn(self._wake())

    @property
    def is_traced(self) -> bool:
        """Whether anybody looks at the traffic."""
        return bool(self._traffic_hooks)

    def has_alternative(self, request: DiameterMessage, connection: _Connection) -> bool:
        """Whether another peer could take a request over."""
        return self._route(request, [connection]) is not None

    def serve(self, connection: _Connection, request: DiameterMessage) -> None:
        """Answer a request in its own task."""
        self._spawn(self._serve(connection, request))

    async def _serve(self, connection: _Connection, request: DiameterMessage) -> None:
        try:
            answer = await self._answer(request)
            connection.send_answer(request, answer)
        finally:
            connection.handled()

    async def _answer(self, request: DiameterMessage) -> DiameterMessage:
        """RFC 6733 §3: a duplicate (Origin-Host and End-to-End Identifier) causes the same answer."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._answers:
            key, (until, kept) = next(iter(self._answers.items()))
            if until > now and len(self._answers) < DUPLICATES_LIMIT:
                break
            if not kept.done():
                break
            del self._answers[key]
        key = (
            (request.octets("Origin-Host") or b"").lower(),
            request.end_to_end,
            request.command,
            request.octets("Session-Id") or b"",
        )
        present = self._answers.get(key)
        if present is not None:
            return await asyncio.shield(present[1])
        future: asyncio.Future[DiameterMessage] = loop.create_future()
        self._answers[key] = (now + DUPLICATES_INTERVAL, future)
        try:
            answer = await self._handle(request)
        except asyncio.CancelledError:
            self._answers.pop(key, None)
            future.cancel()
            raise
        future.set_result(answer)
        return answer

    async def _handle(self, request: DiameterMessage) -> DiameterMessage:
        handler = self._handlers[request.application, request.command]
        try:
            return await handler(request)
        except RequestError as error:
            failed = () if error.failed is None else (Avp.of("Failed-AVP", (error.failed,)),)
            return self._refusal(request, error.result, (Avp.of("Error-Message", str(error)), *failed))
        except StackError as error:
            log.warning("%s: %s", request.name, error)
            return self._refusal(request, ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        except Exception:  # noqa: BLE001  the top of a handler's task
            log.exception("%s", request.name)
            return self._refusal(request, ResultCode.DIAMETER_UNABLE_TO_COMPLY)

    def _refusal(self, request: DiameterMessage, result: ResultCode, avps: tuple[Avp, ...] = ()) -> DiameterMessage:
        return answer_to(
            request,
            origin_host=self.identity.host,
            origin_realm=self.identity.realm,
            result=Result.of(result),
            avps=avps,
        )

    async def _wake(self) -> None:
        async with self._opened:
            self._opened.notify_all()

    def _spawn(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _base_result(answer: DiameterMessage) -> int | None:
    """The Result-Code of an answer that may be anything."""
    try:
        return answer.integer("Result-Code")
    except RequestError:
        return None


class _Link:
    """Keeps a connection to one configured peer."""

    def __init__(self, node: DiameterNode, peer: PeerAddress, first_interval: float) -> None:
        self.peer = peer
        self.connection: _Connection | None = None
        self.last_error: str | None = None
        self.is_reopening = False
        self._node = node
        self._first_interval = first_interval
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Do not connect again."""
        self._stopped.set()

    async def run(self) -> None:
        """Connect, wait for the end, wait longer each time nothing came of it (RFC 6733 §2.1)."""
        interval = self._first_interval
        while not self._stopped.is_set():
            was_open = await self._connect()
            if was_open:
                interval = self._first_interval
            try:
                async with asyncio.timeout(interval):
                    await self._stopped.wait()
            except TimeoutError:
                interval = min(2 * interval, RECONNECT_INTERVAL_LONGEST)

    async def _connect(self) -> bool:
        """One connection from its beginning to its end; True when it was open."""
        loop = asyncio.get_running_loop()
        connection = _Connection(self._node, self)
        try:
            async with asyncio.timeout(CONNECT_INTERVAL):
                await loop.create_connection(lambda: connection, self.peer.address, self.peer.port)
        except TimeoutError:
            self.last_error = f"{self.peer.address} port {self.peer.port} does not answer"
            return False
        except OSError as error:
            self.last_error = f"{self.peer.address} port {self.peer.port}: {error.strerror or error}"
            return False
        self.connection = connection
        try:
            await connection.closed.wait()
        finally:
            self.connection = None
        self.last_error = connection.end_text
        self.is_reopening = connection.end_reason is CloseReason.WATCHDOG
        return connection.machine.capabilities is not None

    def status(self) -> PeerStatus:
        """The peer while there is no connection."""
        return PeerStatus(
            host=self.peer.host,
            realm=None,
            state=PeerState.CLOSED.value,
            watchdog=None,
            local=None,
            remote=None,
            accepted=False,
            applications=(),
            pending_requests=0,
            sent={},
            received={},
            dropped={},
            last_error=self.last_error,
        )


class _Connection(asyncio.Protocol):
    """Pumps one TCP connection into its machine and carries out what the machine says."""

    machine: PeerMachine
    local: Endpoint
    remote: Endpoint

    def __init__(self, node: DiameterNode, link: _Link | None) -> None:
        self.link = link
        self.closed = asyncio.Event()
        self.end_reason: CloseReason | None = None
        self.end_text: str | None = None
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outcomes: dict[int, asyncio.Future[DiameterMessage | RequestFailure]] = {}
        self._requests: dict[int, DiameterMessage] = {}
        self._in_work = 0
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
        return self.link.peer.host if self.link is not None else str(self.remote)

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
        """The TCP connection is up."""
        assert isinstance(transport, asyncio.Transport)
        local, remote = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self.local = Endpoint.of(local[0], local[1])
        # A peer that is gone already has no name any more
        self.remote = Endpoint.of(remote[0], remote[1]) if remote else self.local
        node = self._node
        self.machine = PeerMachine(
            identity=node.identity,
            local_addresses=(self.local.address,),
            services=node.services,
            identifiers=node.identifiers,
            entropy=node.entropy,
            expected_host=None if self.link is None else self.link.peer.host,
            admission=lambda capabilities: node.admit(self, capabilities),
            reopening=self.link is not None and self.link.is_reopening,
            watchdog_interval=node.watchdog_interval,
            message_length_limit=node.message_length_limit,
        )
        if not node.register(self):
            transport.abort()
            self.closed.set()
            return
        self._transport = transport
        if self.link is None:
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
        """The TCP connection is gone."""
        self._transport = None
        self.machine.disconnected(self._loop.time())
        self._pump()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.closed.is_set():
            self._node.unregister(self)
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

    def send_answer(self, request: DiameterMessage, answer: DiameterMessage) -> None:
        """Send an answer if the connection is still there."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > WRITE_LIMIT:
            log.warning("%s does not read: %d octets wait", self.name, transport.get_write_buffer_size())
            transport.abort()
            return
        try:
            self.machine.send_answer(request, answer)
        except LocalError:
            log.exception("an answer to %s of %s that has no encoding", request.name, self.name)
        self._pump()

    def handled(self) -> None:
        """A request of this peer is out of work: read on."""
        self._in_work -= 1
        if self._in_work == HANDLERS_LIMIT // 2 and self._transport is not None:
            self._transport.resume_reading()

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
        machine = self.machine
        capabilities = machine.capabilities
        return PeerStatus(
            host=capabilities.host if capabilities else None if self.link is None else self.link.peer.host,
            realm=capabilities.realm if capabilities else None,
            state=machine.state.value,
            watchdog=machine.watchdog.value,
            local=self.local,
            remote=self.remote,
            accepted=self.link is None,
            applications=tuple(sorted(capabilities.applications)) if capabilities else (),
            pending_requests=machine.pending_requests,
            sent=dict(machine.sent),
            received=dict(machine.received),
            dropped={reason.value: count for reason, count in machine.dropped.items()},
            last_error=None if self.link is None else self.link.last_error,
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
            if self._node.is_traced:
                self._show(event.direction, event.octets, event.message, None)
        elif isinstance(event, RequestReceived):
            self._in_work += 1
            if self._in_work == HANDLERS_LIMIT and self._transport is not None:
                self._transport.pause_reading()
            self._node.serve(self, event.request)
        elif isinstance(event, AnswerReceived):
            self._settle(event.request, event.answer)
        elif isinstance(event, RequestFailed):
            self._settle(event.request, event.why)
        elif isinstance(event, OctetsDropped):
            log.info("%s: %s", self.remote, event.reason.value)
            self._show(Direction.IN, event.octets, None, event.reason)
        elif isinstance(event, PeerOpened):
            self._was_open = True
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
            if self._node.has_alternative(request, self) and self.machine.withdraw(request):
                self._settle(request, RequestFailure.PEER_DOWN)

    def _settle(self, request: DiameterMessage, outcome: DiameterMessage | RequestFailure) -> None:
        self._requests.pop(request.hop_by_hop, None)
        future = self._outcomes.pop(request.hop_by_hop, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    def _finish(self, event: ConnectionEnded) -> None:
        self.end_reason, self.end_text = event.why, event.text
        self._node.ended[event.why.value] += 1
        if self._was_open:
            self._tell(False, f"{self.name}: {event.text}")
        else:
            log.info("connection with %s ended: %s", self.remote, event.text)
        if self._transport is not None:
            self._transport.close()

    def _show(
        self, direction: Direction, octets: bytes, message: DiameterMessage | None, dropped: DropReason | None
    ) -> None:
        capabilities = self.machine.capabilities
        self._node.show(
            Traffic(
                direction=direction,
                local=self.local,
                remote=self.remote,
                peer=None if capabilities is None else capabilities.host,
                octets=octets,
                message=message,
                dropped=dropped,
            )
        )

    def _tell(self, is_up: bool, text: str) -> None:
        self._node.tell(PeerChange(peer=self.name, local=self.local, remote=self.remote, is_up=is_up, text=text))

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
