"""The reconnecting link to a configured peer (RFC 6733 §2.1, §5.1): connect, wait for the end, connect again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from protocols.diameter.events import CloseReason, PeerState
from protocols.diameter.uri import PORT
from protocols.io.diameter.connection import Connection, ConnectionOwner, Intended
from protocols.io.diameter.observation import PeerStatus

CONNECT_INTERVAL = 5.0  # for a TCP connection to come up; RFC 6733 leaves it to us
RECONNECT_INTERVAL_FIRST = 0.5  # doubles up to the longest; RFC 6733 leaves the way there to us
RECONNECT_INTERVAL_LONGEST = 30.0  # Tc, RFC 6733 §2.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A peer to connect to: its DiameterIdentity, and where it listens."""

    host: str
    address: str
    port: int = PORT


class Link:
    """Keeps a connection to one configured peer until it is stopped."""

    def __init__(self, owner: ConnectionOwner, peer: PeerAddress, first_interval: float) -> None:
        self.peer = peer
        self.connection: Connection | None = None
        self._last_error: str | None = None
        self._is_reopening = False
        self._owner = owner
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
        intended = Intended(host=self.peer.host, is_reopening=self._is_reopening, last_error=self._last_error)
        connection = Connection(self._owner, intended)
        try:
            async with asyncio.timeout(CONNECT_INTERVAL):
                await loop.create_connection(lambda: connection, self.peer.address, self.peer.port)
        except TimeoutError:
            self._last_error = f"{self.peer.address} port {self.peer.port} does not answer"
            return False
        except OSError as error:
            self._last_error = f"{self.peer.address} port {self.peer.port}: {error.strerror or error}"
            return False
        self.connection = connection
        try:
            await connection.closed.wait()
        finally:
            self.connection = None
        self._last_error = connection.end_text
        self._is_reopening = connection.end_reason is CloseReason.WATCHDOG
        return connection.machine.capabilities is not None

    def status(self) -> PeerStatus:
        """The peer while there is no connection."""
        return PeerStatus(host=self.peer.host, state=PeerState.CLOSED.value, last_error=self._last_error)
