"""Where a node listens (RFC 6733 §2.1): TCP, TLS and SCTP, each accepted connection in its own task."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from typing import Protocol

from protocols.diameter.uri import Transport
from protocols.errors import BackendError
from protocols.io.diameter.connection import Connection
from protocols.io.diameter.sctp import SctpTransport, sctp_socket
from protocols.io.diameter.tls import HANDSHAKE_INTERVAL, SHUTDOWN_INTERVAL, failure_of
from protocols.io.streams import StreamBinder, listening, listening_socket
from protocols.path import Address, Endpoint

HANDSHAKES_LIMIT = 256  # TLS handshakes at a time
EXHAUSTED_INTERVAL = 1.0  # before accepting again where the process has no file descriptors left


class ListenerOwner(Protocol):
    """The node, as its listeners know it."""

    def accept(self, transport: Transport) -> Connection:
        """A connection for a peer that has come."""

    def refused(self, local: Endpoint, remote: Endpoint, why: str) -> None:
        """A peer came and nothing came of it."""


class Listener:
    """One listening socket, from its making until ``close``."""

    def __init__(
        self,
        owner: ListenerOwner,
        address: Address,
        port: int,
        transport: Transport,
        context: ssl.SSLContext | None,
        bind: StreamBinder = listening_socket,
    ) -> None:
        """Bind and listen; ``context`` for TLS, ``bind`` for TCP and TLS. ``BackendError`` where that fails."""
        self._owner = owner
        self._transport = transport
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            if transport is Transport.SCTP:
                self._socket = listening(sctp_socket(address), address, port)
            else:
                self._socket = bind(address, port)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            kind = "" if transport is Transport.TCP else f" ({transport.value})"
            raise BackendError(f"cannot listen on {address} port {port}{kind}: {why}") from error
        bound = self._socket.getsockname()
        self.endpoint = Endpoint.of(bound[0], bound[1])
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        # Not before the event loop has let go of it
        self._accepting.add_done_callback(lambda _: self._socket.close())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await asyncio.sleep(EXHAUSTED_INTERVAL)
                continue
            if len(self._tasks) >= HANDSHAKES_LIMIT:
                self._refuse(accepted, "too many at a time")
                continue
            task = loop.create_task(self._establish(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Listen no more; handshakes end."""
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _establish(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted.setblocking(False)
        if self._transport is Transport.SCTP:
            try:
                SctpTransport(accepted, self._owner.accept(self._transport))
            except OSError as error:  # gone already
                self._refuse(accepted, error.strerror or "gone")
            return
        remote = _remote(accepted, self.endpoint)
        secure = self._context is not None
        try:
            await loop.connect_accepted_socket(
                lambda: self._owner.accept(self._transport),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=HANDSHAKE_INTERVAL if secure else None,
                ssl_shutdown_timeout=SHUTDOWN_INTERVAL if secure else None,
            )
        except OSError as error:  # ssl.SSLError is one, and so is a connection lost in the handshake
            self._owner.refused(self.endpoint, remote, failure_of(error))

    def _refuse(self, accepted: socket.socket, why: str) -> None:
        remote = _remote(accepted, self.endpoint)
        accepted.close()
        self._owner.refused(self.endpoint, remote, why)


def _remote(accepted: socket.socket, otherwise: Endpoint) -> Endpoint:
    """Where a peer is; a peer that is gone already has no name any more."""
    try:
        name = accepted.getpeername()
    except OSError:
        return otherwise
    return Endpoint.of(name[0], name[1])
