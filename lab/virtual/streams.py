"""Stream connections in memory (what TCP is elsewhere), on the timers of a loop.

Octets arrive whole and in order, ``delays`` of the server's address later, each way. A server that is
*silent* (its machine hangs, or is cut off) takes nothing and says nothing, until it is heard again.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
from collections.abc import Callable
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any

from protocols.path import Address, Endpoint

FIRST_PORT, LAST_PORT = 49152, 65535  # RFC 6335 §6: the dynamic ports

ProtocolFactory = Callable[[], asyncio.Protocol]

# whose connections are opened in this context; what the routing table decides elsewhere
SOURCE: ContextVar[Address | None] = ContextVar("SOURCE", default=None)


class VirtualSocket(socket.socket):
    """A listening end point or an accepted connection, in the place of a socket; no file is opened for it."""

    def __init__(self, network: StreamNetwork, local: Endpoint, accepted: VirtualTransport | None = None) -> None:
        # without socket.socket's own: it would open one
        self._network = network
        self._local = local
        self.accepted = accepted
        self.waiting: asyncio.Queue[VirtualTransport] = asyncio.Queue()

    def __repr__(self) -> str:
        return f"<VirtualSocket {self._local}>"

    def fileno(self) -> int:
        """None."""
        return -1

    def getsockname(self) -> tuple[str, int]:
        """Address and port."""
        return str(self._local.address), self._local.port

    def getpeername(self) -> tuple[str, int]:
        """Of the peer of an accepted one."""
        if self.accepted is None:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        found: tuple[str, int] = self.accepted.get_extra_info("peername")
        return found

    def setblocking(self, flag: bool) -> None:
        """Nothing blocks."""

    def setsockopt(self, *options: object) -> None:
        """There is nothing to set."""

    def close(self) -> None:
        """Listen no more, or let go of a connection that nobody took."""
        if self.accepted is not None:
            self.accepted.abort()
        else:
            self._network.unlisten(self._local)
            while not self.waiting.empty():
                self.waiting.get_nowait().abort()


class VirtualTransport(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: StreamNetwork, local: Endpoint, remote: Endpoint, server: Address) -> None:
        super().__init__()
        self._network = network
        self._server = server
        self._local, self._remote = local, remote
        self._protocol: asyncio.BaseProtocol | None = None
        self._peer: VirtualTransport | None = None
        self._is_closing = False
        self._is_lost = False
        self._is_paused = True  # until there is somebody to tell
        self._kept: list[Callable[[], None]] = []  # what arrived while reading was paused
        self._why: Exception | None = None
        self._latest = 0.0

    @classmethod
    def pair(
        cls, network: StreamNetwork, client: Endpoint, server: Endpoint
    ) -> tuple[VirtualTransport, VirtualTransport]:
        """Both ends, the client's first."""
        one = cls(network, client, server, server.address)
        other = cls(network, server, client, server.address)
        one._peer, other._peer = other, one
        return one, other

    def begin(self, protocol: asyncio.BaseProtocol) -> None:
        """The connection is there."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._is_lost:  # before anybody had it
            self._network.loop.call_soon(protocol.connection_lost, self._why)
        self.resume_reading()

    # --- asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # Any: asyncio's own signature
        """Where both ends are."""
        if name == "sockname":
            return str(self._local.address), self._local.port
        if name == "peername":
            return str(self._remote.address), self._remote.port
        return VirtualSocket(self._network, self._local, self) if name == "socket" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is told from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is told."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """Whether this end has closed it."""
        return self._is_closing

    def is_reading(self) -> bool:
        """Whether octets are handed on as they come."""
        return not self._is_paused

    def pause_reading(self) -> None:
        """Hand on nothing for now."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Hand on what has come meanwhile."""
        self._is_paused = False
        while self._kept and not self._is_paused:
            self._kept.pop(0)()

    def get_write_buffer_size(self) -> int:
        """Everything is on its way at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def can_write_eof(self) -> bool:
        """Half a connection is not needed by anybody here."""
        return False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        if not self._is_closing and data:
            octets = bytes(data)
            self._network.note(self._local, self._remote, octets)
            for edit in self._network.edits:
                octets = edit(octets)
            self._later(lambda peer: peer._arrived(lambda: peer._data(octets)))

    def close(self) -> None:
        """What was written arrives; then the peer learns of the end."""
        if not self._is_closing:
            self._is_closing = True
            self._later(lambda peer: peer._arrived(peer._ended))
            self._network.loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End at once; what is on its way is lost to this end."""
        if not self._is_lost:
            was_closing, self._is_closing = self._is_closing, True
            if not was_closing:
                self._later(lambda peer: peer._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")))
            self._network.loop.call_soon(self._lose, None)

    # --- arrivals

    def _later(self, arrive: Callable[[VirtualTransport], None]) -> None:
        """At the peer, after what was sent before."""
        peer = self._peer
        assert peer is not None
        if self._server in self._network.silent:
            self._network.held.append((self._server, lambda: arrive(peer)))
            return
        loop = self._network.loop
        self._latest = max(self._latest, loop.time() + self._network.delays.get(self._server, 0.0))
        loop.call_at(self._latest, arrive, peer)

    def _arrived(self, what: Callable[[], None]) -> None:
        if self._is_paused:
            self._kept.append(what)
        else:
            what()

    def _data(self, octets: bytes) -> None:
        if not self._is_closing and isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(octets)

    def _ended(self) -> None:
        protocol = self._protocol
        if not self._is_closing and isinstance(protocol, asyncio.Protocol) and not protocol.eof_received():
            self.close()

    def _lose(self, error: Exception | None) -> None:
        if self._is_lost:
            return
        self._is_closing = self._is_lost = True
        self._why = error
        self._network.lost(self)
        if self._protocol is not None:
            self._protocol.connection_lost(error)


class StreamNetwork:
    """Who listens where, and the delay to each server's address in seconds, each way.

    Each of ``edits`` says what comes of octets that are written (somebody on the way who changes them).
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.servers: dict[Endpoint, VirtualSocket] = {}
        self.delays: dict[Address, float] = {}
        self.silent: set[Address] = set()
        self.held: list[tuple[Address, Callable[[], None]]] = []
        self.open: list[VirtualTransport] = []
        self.edits: list[Callable[[bytes], bytes]] = []
        self._next_port = FIRST_PORT
        self._digest = hashlib.sha256()

    def listen(self, address: Address, port: int) -> VirtualSocket:
        """A listening socket; port 0 asks for a free one. ``OSError`` when somebody listens there."""
        endpoint = Endpoint(address, port or self._free_port(address))
        if endpoint in self.servers:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self.servers[endpoint] = listening = VirtualSocket(self, endpoint)
        return listening

    def unlisten(self, endpoint: Endpoint) -> None:
        """Nobody listens there any more."""
        self.servers.pop(endpoint, None)

    async def connect(self, factory: ProtocolFactory, remote: Endpoint) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Connect: one round trip. ``ConnectionRefusedError`` where nobody listens, silence from who is silent."""
        if remote.address in self.silent:
            await self.loop.create_future()  # until whoever waits gives up
        delay = self.delays.get(remote.address, 0.0)
        await asyncio.sleep(delay)
        server = self.servers.get(remote)
        if server is None:
            await asyncio.sleep(delay)
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        source = SOURCE.get() or _loopback(remote.address)
        client, accepted = VirtualTransport.pair(self, Endpoint(source, self._free_port(source)), remote)
        self.open += [client, accepted]
        server.waiting.put_nowait(accepted)
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            client.abort()  # nobody waits for it any more: the server learns of it
            raise
        protocol = factory()
        client.begin(protocol)
        return client, protocol

    def silence(self, address: Address) -> None:
        """A server's address says and takes nothing from now on; its connections stay open."""
        self.silent.add(address)

    def hear(self, address: Address) -> None:
        """What was held back arrives now, as by TCP's retransmissions."""
        self.silent.discard(address)
        for _, arrive in [each for each in self.held if each[0] == address]:
            self.loop.call_soon(arrive)
        self.held = [each for each in self.held if each[0] != address]

    def lost(self, transport: VirtualTransport) -> None:
        """One end is closed."""
        if transport in self.open:
            self.open.remove(transport)

    def note(self, source: Endpoint, destination: Endpoint, octets: bytes) -> None:
        """Octets on their way."""
        self._digest.update(f"{self.loop.time()!r} {source} {destination} {len(octets)} ".encode() + octets)

    def digest(self) -> str:
        """Of everything that was written so far, with its moment: equal in runs that are equal."""
        return self._digest.hexdigest()

    def _free_port(self, address: Address) -> int:
        while True:
            port = self._next_port
            self._next_port = FIRST_PORT if port == LAST_PORT else port + 1
            if Endpoint(address, port) not in self.servers:
                return port


def _loopback(remote: Address) -> Address:
    return ip_address("127.0.0.1" if remote.version == 4 else "::1")
