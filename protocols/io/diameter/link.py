"""The link to a configured peer (RFC 6733 §2.1, §5.1): connect, wait for the end, connect again.

A peer that has connected to us meanwhile is left alone: one connection with each (§2.1). The link to a peer that
only redirects lead to is opened when one does, and not again after its end (§6.14).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address

from protocols.diameter.events import CloseReason, PeerState
from protocols.diameter.routing import Route
from protocols.diameter.uri import PORT, Transport
from protocols.io.diameter.connection import Connection, ConnectionOwner, Intended
from protocols.io.diameter.observation import PeerStatus
from protocols.io.diameter.sctp import SctpTransport, connect_sctp
from protocols.io.diameter.tls import HANDSHAKE_INTERVAL, SHUTDOWN_INTERVAL, TlsContexts, failure_of
from protocols.path import Endpoint

CONNECT_INTERVAL = 5.0  # for a transport connection to come up; RFC 6733 leaves it to us
RECONNECT_INTERVAL_FIRST = 0.5  # doubles up to the longest; RFC 6733 leaves the way there to us
RECONNECT_INTERVAL_LONGEST = 30.0  # Tc, RFC 6733 §2.1
UNWANTED_INTERVAL = 300.0  # after BUSY or DO_NOT_WANT_TO_TALK_TO_YOU; RFC 6733 §5.4.3: SHOULD NOT attempt at all

_UNKNOWN = Endpoint.of("0.0.0.0", 0)  # of a connection that did not come up


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A peer to connect to: its DiameterIdentity, where it listens, and what is routed to it (``Route``)."""

    host: str
    address: str
    port: int = PORT
    transport: Transport = Transport.TCP
    realms: frozenset[str] = frozenset()
    applications: frozenset[int] = frozenset()
    priority: int = 0
    weight: int = 1
    on_demand: bool = False

    @property
    def route(self) -> Route:
        """The peer's entry in the routing table."""
        return Route(
            host=self.host,
            realms=self.realms,
            applications=self.applications,
            priority=self.priority,
            weight=self.weight,
        )


class Link:
    """Keeps a connection to one configured peer until it is stopped."""

    def __init__(
        self, owner: ConnectionOwner, peer: PeerAddress, first_interval: float, contexts: TlsContexts | None
    ) -> None:
        """``contexts`` are needed for TLS."""
        self.peer = peer
        self.connection: Connection | None = None
        self._last_error: str | None = None
        self._is_reopening = False
        self._is_unwanted = False
        self._owner = owner
        self._contexts = contexts
        self._first_interval = first_interval
        self._stopped = asyncio.Event()
        self.attempt: asyncio.Task[bool] | None = None

    def stop(self) -> None:
        """Do not connect again."""
        self._stopped.set()

    async def run(self) -> None:
        """Connect, wait for the end, wait longer each time nothing came of it (RFC 6733 §2.1)."""
        interval = self._first_interval
        while not self._stopped.is_set():
            was_open = not self._owner.is_connected(self.peer.host) and await self.run_once()
            if was_open:
                interval = self._first_interval
            try:
                async with asyncio.timeout(UNWANTED_INTERVAL if self._is_unwanted else interval):
                    await self._stopped.wait()
            except TimeoutError:
                interval = min(2 * interval, RECONNECT_INTERVAL_LONGEST)

    async def run_once(self) -> bool:
        """One connection from its beginning to its end; True when it was open."""
        peer = self.peer
        intended = Intended(host=peer.host, is_reopening=self._is_reopening, last_error=self._last_error)
        connection = Connection(self._owner, intended, peer.transport)
        try:
            async with asyncio.timeout(CONNECT_INTERVAL):
                await self._establish(connection)
        except TimeoutError:
            self._last_error = f"{peer.address} port {peer.port} does not answer"
            return False
        except OSError as error:
            why = f"{peer.address} port {peer.port}: {failure_of(error)}"
            if isinstance(error, ssl.SSLError) and why != self._last_error:
                self._owner.refused(_UNKNOWN, Endpoint.of(peer.address, peer.port), failure_of(error), peer.host)
            self._last_error = why
            return False
        self.connection = connection
        try:
            await connection.closed.wait()
        finally:
            self.connection = None
        self._last_error = connection.end_text
        self._is_reopening = connection.end_reason is CloseReason.WATCHDOG
        self._is_unwanted = connection.end_reason is CloseReason.UNWANTED
        return connection.machine.capabilities is not None

    async def _establish(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        peer = self.peer
        if peer.transport is Transport.SCTP:
            SctpTransport(await connect_sctp(ip_address(peer.address), peer.port), connection)
        elif peer.transport is Transport.TLS:
            assert self._contexts is not None
            await loop.create_connection(
                lambda: connection,
                peer.address,
                peer.port,
                ssl=self._contexts.client,
                server_hostname=peer.host,
                ssl_handshake_timeout=HANDSHAKE_INTERVAL,
                ssl_shutdown_timeout=SHUTDOWN_INTERVAL,
            )
        else:
            await loop.create_connection(lambda: connection, peer.address, peer.port)

    def status(self, failovers: Counter[str]) -> PeerStatus:
        """The peer while there is no connection."""
        peer = self.peer
        return PeerStatus(
            host=peer.host,
            state=PeerState.CLOSED.value,
            last_error=self._last_error,
            transport=peer.transport.value,
            priority=peer.priority,
            weight=peer.weight,
            failovers=failovers[peer.host.lower()],
        )
