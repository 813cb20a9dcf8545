"""Links: what carries UDP payloads between a local end point and the network, and links that wrap links.

A link is made with a receiver and answers ``send``. ``UdpLink`` is a socket; the others wrap a link to
route through a next hop or to lose datagrams, so that faults need no switch in the product.
"""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from protocols.errors import BackendError
from protocols.path import Address, Endpoint, Path

RECEIVE_OCTETS = 65535
DRAIN_LIMIT = 64  # datagrams a socket may deliver before the loop turns to others
BUFFER_OCTETS = 4 * 1024 * 1024

Receiver = Callable[[bytes, Path], None]


class Link(Protocol):
    """Carries octets; ``local`` is the end point it is bound to."""

    local: Endpoint
    dropped: Counter[str]

    def send(self, octets: bytes, remote: Endpoint) -> None:
        """Send to ``remote``; what cannot be sent is dropped and counted."""

    def close(self) -> None:
        """Let go of the socket; datagrams stop at once."""


Opener = Callable[[Receiver], Link]


class UdpLink:
    """A UDP socket on the running loop: a reader that drains the socket, no task per datagram."""

    def __init__(self, local: Endpoint, receive: Receiver) -> None:
        """Bind; ``BackendError`` says in one line what is wrong with the address or port."""
        self.dropped: Counter[str] = Counter()
        self._receive = receive
        family = socket.AF_INET6 if local.address.version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_OCTETS)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_OCTETS)
            self._socket.bind((str(local.address), local.port))
        except OSError as error:
            self._socket.close()
            raise BackendError(f"cannot use UDP {local}: {_reason(error)}") from error
        bound = self._socket.getsockname()
        self.local = Endpoint(local.address, bound[1])
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def mark(self, dscp: int) -> None:
        """Send with this DSCP from now on (RFC 2474), IKE and ESP alike."""
        if self.local.address.version == 6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)

    def send(self, octets: bytes, remote: Endpoint) -> None:
        """Send now or not at all: the network may lose a datagram, and a full buffer is such a loss."""
        try:
            self._socket.sendto(octets, (str(remote.address), remote.port))
        except OSError as error:
            self.dropped[f"send-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def close(self) -> None:
        """Close the socket."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                octets, source = self._socket.recvfrom(RECEIVE_OCTETS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an ICMP error of an earlier datagram, say
                self.dropped[f"receive-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
                return
            self._receive(octets, Path(self.local, Endpoint.of(source[0], source[1])))
            if self._socket.fileno() < 0:
                return


class NextHopLink:
    """Sends everything to a next hop on the same port, as a host does that has no route but its router.

    The hop is on the path, not at its end: addresses of the peers stay what the caller says they are.
    """

    def __init__(self, opener: Opener, hop: Address, receive: Receiver) -> None:
        self._hop = hop
        self._receive = receive
        self._peers: dict[int, Endpoint] = {}
        self._inner = opener(self._received)
        self.local = self._inner.local
        self.dropped = self._inner.dropped

    def send(self, octets: bytes, remote: Endpoint) -> None:
        """By way of the hop."""
        self._peers[remote.port] = remote
        self._inner.send(octets, Endpoint(self._hop, remote.port))

    def close(self) -> None:
        """Close the inner link."""
        self._inner.close()

    def _received(self, octets: bytes, path: Path) -> None:
        peer = self._peers.get(path.remote.port)
        if peer is None or path.remote.address != self._hop:
            self.dropped["not-from-the-hop"] += 1
            return
        self._receive(octets, Path(path.local, peer))


class LossyLink:
    """Loses datagrams: a share of those sent and of those received, by a seeded generator."""

    def __init__(
        self, opener: Opener, receive: Receiver, *, send_loss: float = 0.0, receive_loss: float = 0.0, seed: int = 0
    ) -> None:
        self._receive = receive
        self._send_loss = send_loss
        self._receive_loss = receive_loss
        self._random = random.Random(seed)
        self._inner = opener(self._received)
        self.local = self._inner.local
        self.dropped = self._inner.dropped

    def send(self, octets: bytes, remote: Endpoint) -> None:
        """Pass on what is not lost."""
        if self._lost(self._send_loss):
            self.dropped["lost-outbound"] += 1
        else:
            self._inner.send(octets, remote)

    def close(self) -> None:
        """Close the inner link."""
        self._inner.close()

    def _received(self, octets: bytes, path: Path) -> None:
        if self._lost(self._receive_loss):
            self.dropped["lost-inbound"] += 1
        else:
            self._receive(octets, path)

    def _lost(self, share: float) -> bool:
        return share > 0 and (share >= 1 or self._random.random() < share)


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use"
    if error.errno == errno.EACCES:
        return "ports below 1024 need root (choose 15000 and 14500, say)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine does not have the address"
    return error.strerror or str(error)
