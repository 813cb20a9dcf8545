"""A Diameter node: its peers, the routing of its requests (RFC 6733 §6.1) and the handlers of received ones.

A request goes where the routing table says and is repeated to another peer when the first goes down (§5.5.4).
Received requests are handed to handlers, once even when they come twice (§3).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

from protocols.diameter.capabilities import Capabilities, Judgement, wins_election
from protocols.diameter.codec import DiameterMessage, RequestError
from protocols.diameter.dictionary import DisconnectCause, ResultCode
from protocols.diameter.events import PeerState, RequestFailure
from protocols.diameter.framing import MESSAGE_LENGTH_LIMIT
from protocols.diameter.identity import DiameterIdentity, IdentifierSource
from protocols.diameter.peer import REQUEST_INTERVAL, PeerMachine
from protocols.diameter.routing import Route, RoutingTable, is_redirect
from protocols.diameter.uri import PORT, Transport
from protocols.diameter.watchdog import WATCHDOG_INTERVAL
from protocols.entropy import Entropy
from protocols.errors import BackendError, Fact, LocalError, StackError
from protocols.histogram import Histogram
from protocols.io.diameter.answers import ANSWERS_LIMIT, Answer, AnswerCache, Handler
from protocols.io.diameter.connection import Connection, Intended
from protocols.io.diameter.link import RECONNECT_INTERVAL_FIRST, Link, PeerAddress
from protocols.io.diameter.listener import Listener
from protocols.io.diameter.observation import PeerChange, PeerStatus, Traffic
from protocols.io.diameter.tls import TlsContexts, certified_names
from protocols.io.entropy import SystemEntropy
from protocols.io.streams import StreamBinder, listening_socket
from protocols.path import Endpoint

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECTIONS_LIMIT = 256  # accepted at a time
REQUESTS_LIMIT = 1000  # in work at a time
STATES_LIMIT = 10_000  # peers whose last Origin-State-Id is known
REDIRECT_INTERVAL = 5.0  # for the connection to a host that a redirect names; RFC 6733 leaves it to us

_TRY_ELSEWHERE = frozenset({ResultCode.DIAMETER_UNABLE_TO_DELIVER, ResultCode.DIAMETER_TOO_BUSY})


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
        requests_limit: int = REQUESTS_LIMIT,
        answers_limit: int = ANSWERS_LIMIT,
        tls: TlsContexts | None = None,
        bind: StreamBinder = listening_socket,
    ) -> None:
        """``known_peers`` are the Origin-Hosts that may connect; without it every peer may.

        ``requests_limit``: requests in work before others get DIAMETER_TOO_BUSY; ``answers_limit``: octets kept
        for duplicates.
        """
        self._entropy: Entropy = SystemEntropy() if entropy is None else entropy
        self.identity = identity if identity.origin_state_id else replace(identity, origin_state_id=int(wall()))
        self._identifiers = IdentifierSource(self._entropy, wall=wall())
        self._watchdog_interval = watchdog_interval
        self._message_length_limit = message_length_limit
        self._services: dict[int, set[int]] = {}
        self.dropped: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.failovers: Counter[str] = Counter()
        self.redirected = 0
        self.round_trips: dict[str, Histogram] = {}
        self.unanswered: Counter[str] = Counter()
        self._known_peers = None if known_peers is None else {host.lower() for host in known_peers}
        self._reconnect_interval = reconnect_interval
        self._handlers: dict[tuple[int, int], Handler] = {}
        self._connections: list[Connection] = []
        self._links: list[Link] = []
        self._listeners: list[Listener] = []
        self._on_demand: dict[str, Link] = {}
        self._electing: dict[Connection, str] = {}
        self._table = RoutingTable()
        self._tasks: set[asyncio.Task[Any]] = set()  # of any result
        self._traffic_hooks: list[Callable[[Traffic], None]] = []
        self._peer_hooks: list[Callable[[PeerChange], None]] = []
        self._restart_hooks: list[Callable[[str], None]] = []
        self._states: OrderedDict[str, int] = OrderedDict()  # the last Origin-State-Id by host
        self._opened = asyncio.Condition()
        self._answers = AnswerCache(answers_limit)
        self._requests_limit = requests_limit
        self._tls = tls
        self._bind = bind
        self._is_closing = False

    # Configuration

    def on_request(self, application: int, command: int, handler: Handler) -> None:
        """Serve a command: ``handler`` gets a checked request and returns the answer.

        ``RequestError`` from it becomes its answer, any other error DIAMETER_UNABLE_TO_COMPLY.
        """
        self._handlers[application, command] = handler
        self._services.setdefault(application, set()).add(int(command))

    def on_traffic(self, hook: Callable[[Traffic], None]) -> Callable[[], None]:
        """Show every message and every dropped octet to ``hook``; returns how to stop that."""
        self._traffic_hooks.append(hook)
        return lambda: self._traffic_hooks.remove(hook)

    def on_peer(self, hook: Callable[[PeerChange], None]) -> Callable[[], None]:
        """Tell ``hook`` when peers come and go; returns how to stop that."""
        self._peer_hooks.append(hook)
        return lambda: self._peer_hooks.remove(hook)

    def on_restart(self, hook: Callable[[str], None]) -> None:
        """Tell ``hook`` the host of a peer that comes back without its state (Origin-State-Id, RFC 6733 §8.16).

        It is called before any request of the peer's is served.
        """
        self._restart_hooks.append(hook)

    async def listen(self, address: str, port: int = PORT, transport: Transport = Transport.TCP) -> Endpoint:
        """Accept peers on an address; returns where (port 0 asks for a free one). ``BackendError``."""
        context = self._tls.server if transport is Transport.TLS and self._tls is not None else None
        if transport is Transport.TLS and context is None:
            raise LocalError("TLS without certificates")
        listener = Listener(self, ip_address(address), port, transport, context, self._bind)
        self._listeners.append(listener)
        return listener.endpoint

    def add_peer(self, peer: PeerAddress) -> None:
        """Keep a connection to ``peer`` from now on; or, on demand, know where it is."""
        if peer.transport is Transport.TLS and self._tls is None:
            raise LocalError("TLS without certificates")
        peer = replace(peer, host=peer.host.lower())
        link = Link(self, peer, self._reconnect_interval, self._tls)
        self._links.append(link)
        self._table.add(peer.route)
        if peer.on_demand:
            self._on_demand[peer.host] = link
        else:
            self._spawn(link.run())

    async def close(self, cause: DisconnectCause = DisconnectCause.REBOOTING) -> None:
        """Disconnect from every peer with DPR, stop listening, fail what is pending."""
        self._is_closing = True
        for listener in self._listeners:
            await listener.close()
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
        await self._answers.close()

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

    def figures(self) -> dict[str, Fact]:
        """Of requests that were sent: how long answers took, and how many there were none to, by command."""
        return {
            "round_trips": {name: taken.view() for name, taken in self.round_trips.items()},
            "unanswered": dict(self.unanswered),
        }

    async def request(self, message: DiameterMessage, timeout: float = REQUEST_INTERVAL) -> DiameterMessage:
        """Send a request and return its answer, as ``_answered`` does; how long that took is kept by command."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            answer = await self._answered(message, timeout)
        except BackendError:
            self.unanswered[message.name] += 1
            raise
        self.round_trips.setdefault(message.name, Histogram()).add(loop.time() - start)
        return answer

    async def _answered(self, message: DiameterMessage, timeout: float) -> DiameterMessage:
        """The answer to a request; ``BackendError`` without a peer or an answer in time,
        or when the answer is of another session (RFC 6733 §8.8).

        When the peer goes down, cannot deliver or is too busy, the request goes to the next one of the routing
        table, with the T flag if the first gave no answer (RFC 6733 §3, §5.5.4, §7.1.3); after a redirect
        indication to the host that it names, if that is one of ours (§6.1.8). No host gets a request twice.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        tried: set[str] = set()
        answer: DiameterMessage | None = None
        failure = "no open Diameter peer"
        left: str | None = None
        to: str | None = None
        while True:
            connection = self._route(message, tried) if to is None else self._in_service().get(to)
            if connection is None:
                if answer is not None:
                    return answer
                raise BackendError(f"{message.name}: {failure} for application {message.application}")
            host = connection.name.lower()
            tried.add(host)
            if left is not None:
                self.failovers[left] += 1
                left = None
            to = None
            sent, result = await self._exchange(connection, message, deadline)
            if isinstance(result, DiameterMessage):
                if result.octets("Session-Id") not in (None, message.octets("Session-Id")):
                    self.dropped["answer of another session"] += 1
                    raise BackendError(f"{message.name}: the answer of {connection.name} is of another session")
                if is_redirect(result):
                    to = await self._follow(message, result, by=host, tried=tried, deadline=deadline)
                elif not (result.error and _base_result(result) in _TRY_ELSEWHERE):
                    return result
                answer = result
                message = replace(message, end_to_end=sent.end_to_end, retransmitted=False)
            elif result is RequestFailure.TIME_OUT:
                raise BackendError(f"{message.name}: no answer from {connection.name} in {timeout:g} s")
            else:
                failure = f"the connection to {connection.name} went down and there is no other"
                message = replace(message, end_to_end=sent.end_to_end, retransmitted=True)
                left = host

    async def _exchange(
        self, connection: Connection, message: DiameterMessage, deadline: float
    ) -> tuple[DiameterMessage, DiameterMessage | RequestFailure]:
        """The request as it was sent, and its answer or why there is none."""
        sent, outcome = connection.send_request(message, deadline - asyncio.get_running_loop().time())
        try:
            return sent, await outcome
        except asyncio.CancelledError:
            connection.withdraw(sent)
            raise

    async def _follow(
        self, request: DiameterMessage, answer: DiameterMessage, *, by: str, tried: set[str], deadline: float
    ) -> str | None:
        """The host in service that a redirect indication leads to; ``None`` where it cannot be followed.

        Hosts that had the request already are no way out of a loop; those that are not configured are not
        connected to.
        """
        loop = asyncio.get_running_loop()
        hosts = self._table.learn(request, answer, by=by, now=loop.time())
        for host in hosts:
            if host in tried:
                continue
            link = self._on_demand.get(host)
            if host not in self._in_service() and link is not None:
                await self._open(link, min(REDIRECT_INTERVAL, deadline - loop.time()))
            connection = self._in_service().get(host)
            capabilities = None if connection is None else connection.machine.capabilities
            # RFC 6733 §2.7: the target MUST have advertised the application
            if capabilities is not None and capabilities.supports(request.application):
                self.redirected += 1
                return host
        self.dropped["redirect indication that leads nowhere"] += 1
        log.warning("%s redirects to %s: none of them can be asked", by, ", ".join(hosts) or "nobody")
        return None

    async def _open(self, link: Link, timeout: float) -> None:
        """Connect on demand; back when the peer is in service, when the attempt failed, or after ``timeout``."""
        if link.attempt is None or link.attempt.done():
            link.attempt = self._spawn(link.run_once())
        opened = self._spawn(self.wait_open(timeout, link.peer.host))
        try:
            await asyncio.wait({opened, link.attempt}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            await asyncio.gather(opened, return_exceptions=True)

    def _in_service(self) -> dict[str, Connection]:
        """Connections to which requests may go, by host in small letters."""
        return {
            connection.machine.capabilities.host.lower(): connection
            for connection in self._connections
            if connection.is_usable and connection.machine.capabilities is not None
        }

    def _route(self, message: DiameterMessage, tried: set[str]) -> Connection | None:
        """The connection to the next hop (RFC 6733 §6.1)."""
        if self._is_closing:
            return None
        usable = self._in_service()
        now = asyncio.get_running_loop().time()
        host = self._table.choose(message, _capabilities(usable), now, tried=tried)
        return None if host is None else usable[host]

    def peers(self) -> tuple[PeerStatus, ...]:
        """All connections, and the configured peers that have none."""
        absent = [
            link.status(self.failovers)
            for link in self._links
            if link.connection is None and not self.is_connected(link.peer.host)
        ]
        return (*(connection.status() for connection in self._connections), *absent)

    # Called by connections

    def machine_for(self, connection: Connection, intended: Intended | None) -> PeerMachine:
        """The machine of a connection that has come up."""
        return PeerMachine(
            identity=self.identity,
            local_addresses=(connection.local.address,),
            services=self._services,
            identifiers=self._identifiers,
            entropy=self._entropy,
            expected_host=None if intended is None else intended.host,
            admission=lambda capabilities: self._admit(connection, capabilities),
            reopening=intended is not None and intended.is_reopening,
            watchdog_interval=self._watchdog_interval,
            message_length_limit=self._message_length_limit,
        )

    def _admit(self, newcomer: Connection, capabilities: Capabilities) -> Judgement:
        """Judge a CER: known peers only, and one connection each (RFC 6733 §5.3, §5.6).

        A greater Origin-State-Id says that the peer lost its state (§8.16): its old connection goes.
        """
        host = capabilities.host.lower()
        if host == self.identity.host.lower() or (self._known_peers is not None and host not in self._known_peers):
            return Judgement.UNKNOWN_PEER
        if newcomer.certificate is None:
            # Whom we reach over TLS nobody may pretend to be without
            if any(link.peer.host == host and link.peer.transport is Transport.TLS for link in self._links):
                return Judgement.NOT_CERTIFIED
        elif host not in certified_names(newcomer.certificate):
            return Judgement.NOT_CERTIFIED
        for connection in list(self._connections):
            if connection is newcomer:
                continue
            state, present = connection.machine.state, connection.machine.capabilities
            if state is PeerState.OPEN and present is not None and present.host.lower() == host:
                if capabilities.origin_state_id <= present.origin_state_id:
                    return Judgement.ALREADY_CONNECTED
                connection.abort()
            elif state is PeerState.WAIT_RETURNS and self._electing.get(connection) == host:
                return Judgement.ALREADY_CONNECTED
            elif state is PeerState.WAIT_CEA and connection.intended is not None and connection.intended.host == host:
                # RFC 6733 §5.6.4: the winner closes the connection that it initiated
                if not wins_election(self.identity.host, host):
                    self._electing[newcomer] = host
                    return Judgement.ELECTION
                connection.lose_election()
        return Judgement.ACCEPTED

    def register(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many, or one with that peer already."""
        accepted = sum(1 for present in self._connections if present.is_accepted)
        if self._is_closing or (connection.is_accepted and accepted >= CONNECTIONS_LIMIT):
            self.ended["too many connections"] += 1
            return False
        if connection.intended is not None and self.is_connected(connection.intended.host):
            return False
        self._connections.append(connection)
        return True

    def unregister(self, connection: Connection) -> None:
        """Forget an ended connection, keep its counters."""
        if connection in self._connections:
            self._connections.remove(connection)
        self._electing.pop(connection, None)
        for reason, count in connection.machine.dropped.items():
            self.dropped[reason.value] += count
        capabilities = connection.machine.capabilities
        if capabilities is not None and not self.is_connected(capabilities.host):
            self._table.lost(capabilities.host)
        if connection.intended is not None:
            # RFC 6733 §5.6, I-Peer-Disc in Wait-Returns
            for other in self._electing_with(connection.intended.host):
                other.win_election()

    def opened(self, connection: Connection) -> None:
        """RFC 6733 §5.6, I-Rcv-CEA in Wait-Returns: the accepted connection with the same peer goes."""
        for other in self._electing_with(connection.name):
            if other is not connection:
                other.lose_election()
        self._note_state(connection.machine.capabilities)

    def _note_state(self, capabilities: Capabilities | None) -> None:
        """RFC 6733 §8.16: a greater Origin-State-Id means that the sessions under the lower one are gone."""
        if capabilities is None or not capabilities.origin_state_id:
            return
        host = capabilities.host.lower()
        before = self._states.pop(host, None)
        self._states[host] = capabilities.origin_state_id
        if len(self._states) > STATES_LIMIT:
            self._states.popitem(last=False)
        if before is not None and before < capabilities.origin_state_id:
            for hook in self._restart_hooks:
                hook(capabilities.host)

    def _electing_with(self, host: str) -> list[Connection]:
        found = [each for each, peer in self._electing.items() if peer == host.lower()]
        for each in found:
            del self._electing[each]
        return found

    def is_connected(self, host: str) -> bool:
        """Whether a connection with a peer is open, whoever opened it."""
        return any(
            connection.has_host(host) and connection.machine.state is PeerState.OPEN for connection in self._connections
        )

    def accept(self, transport: Transport) -> Connection:
        """A connection for a peer that has come."""
        return Connection(self, None, transport)

    def refused(self, local: Endpoint, remote: Endpoint, why: str, host: str | None = None) -> None:
        """A connection was wanted, and TLS or a limit stood against it; ``host`` is whom we wanted to reach."""
        self.ended["no transport connection"] += 1
        text = f"{host or remote} refused: {why}"
        self.tell(PeerChange(peer=host, local=local, remote=remote, is_up=False, text=text))

    def route_of(self, host: str) -> Route:
        """The peer's entry in the routing table."""
        return self._table.route(host)

    def failovers_of(self, host: str) -> int:
        """Requests that were repeated to others since the peer did not answer them."""
        return self.failovers[host.lower()]

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

    def has_alternative(self, request: DiameterMessage, connection: Connection) -> bool:
        """Whether another peer could take a request over."""
        usable = self._in_service()
        now = asyncio.get_running_loop().time()
        tried = {connection.name.lower()}
        return bool(self._table.candidates(request, _capabilities(usable), now, tried=tried))

    def serve(self, connection: Connection, request: DiameterMessage) -> None:
        """Answer a request; DIAMETER_TOO_BUSY when there is too much to do (RFC 6733 §7.1.3)."""
        if self._answers.in_work >= self._requests_limit and not self._answers.knows(request):
            self.dropped["too busy"] += 1
            connection.send_answer(request, self.identity.answer(request, ResultCode.DIAMETER_TOO_BUSY))
        else:
            self._answers.answer(request, self._handle).add_done_callback(partial(_send, connection, request))

    async def _handle(self, request: DiameterMessage) -> Answer:
        handler = self._handlers[request.application, request.command]
        try:
            return await handler(request)
        except RequestError as error:
            return self.identity.refusal(request, error)
        except StackError as error:
            log.warning("%s: %s", request.name, error)
            return self.identity.answer(request, ResultCode.DIAMETER_UNABLE_TO_COMPLY)
        except Exception:  # noqa: BLE001  the top of a handler's task
            log.exception("%s", request.name)
            return self.identity.answer(request, ResultCode.DIAMETER_UNABLE_TO_COMPLY)

    async def _wake(self) -> None:
        async with self._opened:
            self._opened.notify_all()

    def _spawn(self, work: Coroutine[object, None, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _send(connection: Connection, request: DiameterMessage, answer: asyncio.Future[Answer]) -> None:
    """``answer`` is made, or given up since the node closes."""
    if not answer.cancelled() and answer.exception() is None:
        connection.send_answer(request, answer.result())


def _capabilities(usable: dict[str, Connection]) -> list[Capabilities]:
    return [each.machine.capabilities for each in usable.values() if each.machine.capabilities is not None]


def _base_result(answer: DiameterMessage) -> int | None:
    """The Result-Code of an answer that may be anything."""
    try:
        return answer.integer("Result-Code")
    except RequestError:
        return None
