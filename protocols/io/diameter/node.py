"""A Diameter node: its peers, the routing of its requests (RFC 6733 §6.1) and the handlers of received ones.

A request goes to a peer that serves its application and is repeated to another one when the first goes
down (§5.5.4). Received requests are handed to handlers, once even when they come twice (§3).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace

from protocols.diameter.capabilities import Capabilities
from protocols.diameter.codec import MESSAGE_LENGTH_LIMIT, DiameterMessage, RequestError
from protocols.diameter.dictionary import DisconnectCause, ResultCode
from protocols.diameter.events import PeerState, RequestFailure
from protocols.diameter.identity import DiameterIdentity, IdentifierSource
from protocols.diameter.peer import REQUEST_INTERVAL, PeerMachine
from protocols.diameter.uri import PORT
from protocols.diameter.watchdog import WATCHDOG_INTERVAL
from protocols.entropy import Entropy
from protocols.errors import BackendError, StackError
from protocols.io.diameter.answers import AnswerCache, Handler
from protocols.io.diameter.connection import Connection, Intended
from protocols.io.diameter.link import RECONNECT_INTERVAL_FIRST, Link, PeerAddress
from protocols.io.diameter.observation import PeerChange, PeerStatus, Traffic
from protocols.io.entropy import SystemEntropy
from protocols.path import Endpoint

log = logging.getLogger(__name__)

CONNECTIONS_LIMIT = 256  # accepted at a time

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
    ) -> None:
        """``known_peers`` are the Origin-Hosts that may connect; without it every peer may."""
        self._entropy: Entropy = SystemEntropy() if entropy is None else entropy
        self.identity = identity if identity.origin_state_id else replace(identity, origin_state_id=int(wall()))
        self._identifiers = IdentifierSource(self._entropy, wall=wall())
        self._watchdog_interval = watchdog_interval
        self._message_length_limit = message_length_limit
        self._services: dict[int, set[int]] = {}
        self.dropped: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._known_peers = None if known_peers is None else {host.lower() for host in known_peers}
        self._reconnect_interval = reconnect_interval
        self._handlers: dict[tuple[int, int], Handler] = {}
        self._connections: list[Connection] = []
        self._links: list[Link] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._traffic_hooks: list[Callable[[Traffic], None]] = []
        self._peer_hooks: list[Callable[[PeerChange], None]] = []
        self._opened = asyncio.Condition()
        self._answers = AnswerCache()
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

    async def listen(self, address: str, port: int = PORT) -> Endpoint:
        """Accept peers on an address; returns where (port 0 asks for a free one)."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: Connection(self, None), address, port, reuse_address=True)
        except OSError as error:
            # asyncio puts a sentence of its own in front of the system's
            why = os.strerror(error.errno) if error.errno else str(error)
            raise BackendError(f"cannot listen on {address} port {port}: {why}") from error
        self._servers.append(server)
        bound = server.sockets[0].getsockname()
        return Endpoint.of(bound[0], bound[1])

    def add_peer(self, peer: PeerAddress) -> None:
        """Keep a connection to ``peer`` from now on."""
        link = Link(self, peer, self._reconnect_interval)
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
        tried: list[Connection] = []
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

    def _route(self, message: DiameterMessage, tried: list[Connection]) -> Connection | None:
        """The peer for a request (RFC 6733 §6.1): the destination itself, else a relay, else its realm."""
        if self._is_closing:
            return None
        host = (message.text("Destination-Host") or "").lower()
        realm = (message.text("Destination-Realm") or "").lower()
        best: tuple[int, Connection] | None = None
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

    def _admit(self, newcomer: Connection, capabilities: Capabilities) -> ResultCode | None:
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

    def register(self, connection: Connection) -> bool:
        """Take a new connection in; False when there are too many."""
        accepted = sum(1 for present in self._connections if present.is_accepted)
        if self._is_closing or (connection.is_accepted and accepted >= CONNECTIONS_LIMIT):
            self.ended["too many connections"] += 1
            return False
        self._connections.append(connection)
        return True

    def unregister(self, connection: Connection) -> None:
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

    def has_alternative(self, request: DiameterMessage, connection: Connection) -> bool:
        """Whether another peer could take a request over."""
        return self._route(request, [connection]) is not None

    def serve(self, connection: Connection, request: DiameterMessage) -> None:
        """Answer a request in its own task."""
        self._spawn(self._serve(connection, request))

    async def _serve(self, connection: Connection, request: DiameterMessage) -> None:
        try:
            answer = await self._answers.answer(request, self._handle)
            connection.send_answer(request, answer)
        finally:
            connection.handled()

    async def _handle(self, request: DiameterMessage) -> DiameterMessage:
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
