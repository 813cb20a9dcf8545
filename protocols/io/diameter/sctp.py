"""Diameter over SCTP (RFC 6733 §2.1.1): a one-to-one socket under asyncio's transport interface.

Every message is one SCTP user message on stream zero, in order, with the payload protocol identifier of
Diameter in clear text. Left out: DTLS (RFC 6083), several streams and
unordered delivery (which §2.1.1 recommends and leaves open), several addresses.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import deque

from protocols.diameter.framing import Framer
from protocols.io.sockets import family_of
from protocols.path import Address

IPPROTO_SCTP = 132
_SCTP_NODELAY = 3
_SCTP_DEFAULT_SEND_PARAM = 10
# struct sctp_sndrcvinfo (RFC 6458 §5.3.2): the identifier lies in network order
_SEND_INFORMATION = struct.Struct("=HHHxx4sIIIIi")
PAYLOAD_DIAMETER = 46  # RFC 6733 §2.1.1, §11.5
_LENGTH_LIMIT = 0xFFFFFF  # our own messages: whatever has an encoding
_READ_SIZE = 256 * 1024
_WRITE_HIGH, _WRITE_LOW = 64 * 1024, 16 * 1024  # octets; asyncio's own water marks


def has_sctp() -> bool:
    """Whether this kernel has SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def sctp_socket(address: Address) -> socket.socket:
    """A socket for ``address``'s IP version that does not block and sends at once; ``OSError`` without SCTP."""
    made = socket.socket(family_of(address), socket.SOCK_STREAM, IPPROTO_SCTP)
    try:
        made.setblocking(False)
        made.setsockopt(IPPROTO_SCTP, _SCTP_NODELAY, 1)
        identifier = PAYLOAD_DIAMETER.to_bytes(4, "big")
        information = _SEND_INFORMATION.pack(0, 0, 0, identifier, 0, 0, 0, 0, 0)
        made.setsockopt(IPPROTO_SCTP, _SCTP_DEFAULT_SEND_PARAM, information)
    except OSError:
        made.close()
        raise
    return made


async def connect_sctp(address: Address, port: int) -> socket.socket:
    """A connected socket; ``OSError``."""
    loop = asyncio.get_running_loop()
    made = sctp_socket(address)
    try:
        code = made.connect_ex((str(address), port))
        if code == errno.EINPROGRESS:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(made, lambda: None if ready.done() else ready.set_result(None))
            try:
                await ready
            finally:
                loop.remove_writer(made)
            code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "")
    except BaseException:
        made.close()
        raise
    return made


class SctpTransport(asyncio.Transport):
    """A connected socket as a transport: what is written goes out message by message."""

    def __init__(self, connected: socket.socket, protocol: asyncio.Protocol) -> None:
        extra = {"socket": connected, "sockname": connected.getsockname(), "peername": connected.getpeername()}
        super().__init__(extra)
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._protocol = protocol
        self._framer = Framer(_LENGTH_LIMIT)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._is_paused = False
        self._is_closing = False
        self._is_lost = False
        protocol.connection_made(self)
        if not self._is_closing:
            self._loop.add_reader(connected, self._readable)

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or the connection ended."""
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        """Octets that wait."""
        return self._queued

    def pause_reading(self) -> None:
        """Let the peer wait."""
        self._loop.remove_reader(self._socket)

    def resume_reading(self) -> None:
        """Read on."""
        if not self._is_closing:
            self._loop.add_reader(self._socket, self._readable)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue whole messages."""
        if self._is_closing:
            return
        self._framer.feed(bytes(data))
        while (message := self._framer.next()) is not None:
            self._queue.append(message)
            self._queued += len(message)
        self._flush()
        if self._queued > _WRITE_HIGH and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        """Close when everything is out."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.remove_reader(self._socket)
            if not self._queue:
                self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """ABORT, without what waits (RFC 6733 §2.1)."""
        self._is_closing = True
        self._queue.clear()
        self._queued = 0
        self._loop.remove_reader(self._socket)
        if not self._is_lost:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._loop.call_soon(self._lose, None)

    def _readable(self) -> None:
        try:
            octets = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if octets:
            self._protocol.data_received(octets)
        else:
            self._lose(None)

    def _flush(self) -> None:
        while self._queue:
            try:
                self._socket.send(self._queue[0])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._socket, self._writable)
                return
            except OSError as error:
                self._loop.call_soon(self._lose, error)
                return
            self._queued -= len(self._queue.popleft())

    def _writable(self) -> None:
        self._loop.remove_writer(self._socket)
        self._flush()
        if self._is_paused and self._queued < _WRITE_LOW:
            self._is_paused = False
            self._protocol.resume_writing()
        if self._is_closing and not self._queue:
            self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._protocol.connection_lost(error)
