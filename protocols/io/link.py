"""Links: what carries UDP payloads between a local end point and the network, and links that wrap links.

A link is made with a receiver and answers ``send``. ``UdpLink`` is a socket; the others wrap a link to
route through a next hop or to lose datagrams, so that faults need no switch in the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from protocols.errors import BackendError
from protocols.io.sockets import (
    BUFFER_OCTETS,
    RECEIVE_ERRORS,
    RECEIVED_TRAFFIC_CLASSES,
    TRAFFIC_CLASS,
    TRAFFIC_CLASS_OCTETS,
    TRAFFIC_CLASSES,
    bind_to_interface,
    family_of,
    path_mtu_between,
    reason_of,
    send_by,
    set_buffers,
)
from protocols.io.turn import turn_of
from protocols.path import Address, Endpoint, Path

RECEIVE_OCTETS = 65535
DRAIN_LIMIT = 64  # datagrams a socket may deliver before the loop turns to others, but for the last train of them
PATHS_KEPT = 4096
UDP_GRO = 104  # <linux/udp.h>, of udp(7)
TRAIN_DATAGRAMS, TRAIN_OCTETS = 64, 65000  # UDP_MAX_SEGMENTS, and what fits into an IP packet
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2  # <linux/udp.h>: the socket option, and its value for RFC 3948
EXTENDED_ERROR = struct.Struct("=IBBBxII")  # sock_extended_err: errno, origin, type, code, info, data
ERROR_ANCILLARY_OCTETS = 512
ORIGINS_OF_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
TRAIN_ANCILLARY_OCTETS = TRAFFIC_CLASS_OCTETS + socket.CMSG_SPACE(TRAFFIC_CLASS.size)  # UDP_GRO says an int, too

Receiver = Callable[[bytes, Path], None]
UnreachableReceiver = Callable[[bytes, Endpoint], None]
"""Takes the octets of a datagram that ICMP says has not arrived, as far as they are quoted, and where it was sent."""


class Link(Protocol):
    """Carries octets; ``local`` is the end point it is bound to."""

    local: Endpoint
    dropped: Counter[str]

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Send to ``remote``; what cannot be sent is dropped and counted.

        ``traffic_class``: DSCP and ECN of this datagram, ``None``: those of all; a link may not be able to set them.
        """

    def close(self) -> None:
        """Let go of the socket; datagrams stop at once."""


@runtime_checkable
class ReportsUnreachable(Protocol):
    """A link that hears of ICMP errors."""

    def report_unreachable(self, told: UnreachableReceiver) -> None:
        """Tell of datagrams that ICMP says have not arrived; anybody on the way can say that."""


@runtime_checkable
class ReportsTrafficClass(Protocol):
    """A link that sees the DSCP and ECN of what arrives."""

    @property
    def traffic_class(self) -> int:
        """Of the datagram that the receiver is just being handed."""

    def report_traffic_class(self) -> None:
        """Look from now on; ``traffic_class`` is 0 before."""


@runtime_checkable
class KnowsPathMtu(Protocol):
    """A link that is told of path MTUs (RFC 1191, RFC 8201)."""

    def path_mtu(self, remote: Endpoint) -> int | None:
        """Octets of the longest IP packet that goes to ``remote`` in one piece; ``None``: not known."""


@runtime_checkable
class SocketLink(Protocol):
    """A link that is a socket of the system's."""

    def mark(self, dscp: int) -> None:
        """Send with this DSCP from now on (RFC 2474) what has no traffic class of its own."""

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only, whichever the routes prefer; ``BackendError``."""


Opener = Callable[[Receiver], Link]


class PathsBySource(dict[tuple[Any, ...], Path]):
    """Paths by the source as a socket names it: one object for all its datagrams, so that they are told by that."""

    def __init__(self, local: Endpoint) -> None:
        super().__init__()
        self._local = local

    def __missing__(self, source: tuple[Any, ...]) -> Path:
        if len(self) >= PATHS_KEPT:
            self.clear()
        path = self[source] = Path(self._local, Endpoint.of(source[0], source[1]))
        return path


class BoundLink:
    """What links of one bound socket on the running loop have in common; ``name`` is for errors."""

    def __init__(self, opened: socket.socket, local: Endpoint, name: str, receive: Receiver) -> None:
        self.local = local
        self.dropped: Counter[str] = Counter()
        self.traffic_class = 0
        self._socket = opened
        self._name = name
        self._receive = receive
        self._marked = 0
        self._paths = PathsBySource(local)
        self._loop = asyncio.get_running_loop()
        self._turn = turn_of(self._loop)

    def mark(self, dscp: int) -> None:
        """Send with this DSCP from now on (RFC 2474) what has no traffic class of its own."""
        self._marked = dscp << 2
        self._socket.setsockopt(*TRAFFIC_CLASSES[self.local.address.version], self._marked)

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only, whichever the routes prefer; ``BackendError``."""
        try:
            bind_to_interface(self._socket, interface, self._name)
        except BackendError:
            self.close()
            raise

    def close(self) -> None:
        """Close the socket; again is harmless."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()


class UdpLink(BoundLink):
    """A UDP socket on the running loop: a reader that drains the socket, no task per datagram.

    In the turn of a reader (``protocols.io.turn``) datagrams of one length to one end point wait for one another, and
    the kernel gets them as a train with one call (UDP_SEGMENT); where traffic classes are reported, it may hand over
    trains likewise (UDP_GRO). Nothing but the number of calls tells a train from its datagrams.
    """

    def __init__(self, local: Endpoint, receive: Receiver) -> None:
        """Bind; ``BackendError`` says in one line what is wrong with the address or port."""
        with contextlib.ExitStack() as undo:
            try:
                opened = undo.enter_context(socket.socket(family_of(local.address), socket.SOCK_DGRAM))
                opened.setblocking(False)
                set_buffers(opened, BUFFER_OCTETS, BUFFER_OCTETS)
                opened.bind((str(local.address), local.port))
            except OSError as error:
                raise BackendError(f"cannot use UDP {local}: {reason_of(error)}") from error
            bound = Endpoint(local.address, opened.getsockname()[1])
            super().__init__(opened, bound, f"UDP {bound}", receive)
            undo.pop_all()
        self._unreachable: UnreachableReceiver | None = None
        self._interface: str | None = None
        self._esp_is_taken_out = False
        self._train: list[bytes] = []
        self._train_octets = 0
        self._train_to: tuple[Endpoint, int] | None = None
        self._loop.add_reader(self._socket.fileno(), self._drain)

    def report_traffic_class(self) -> None:
        """Ask for the traffic class of what arrives, and for trains, which come with it."""
        self._socket.setsockopt(*RECEIVED_TRAFFIC_CLASSES[self.local.address.version], 1)
        if not self._esp_is_taken_out:  # the kernel would take a train for one ESP packet
            with contextlib.suppress(OSError):  # Linux 5.0
                self._socket.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        self._loop.remove_reader(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), self._drain_with_traffic_class)

    def path_mtu(self, remote: Endpoint) -> int | None:
        """What the kernel takes it to be, by its routes and by ICMP (ip(7), IP_MTU: of a connected socket)."""
        return path_mtu_between(self.local.address, remote, self._interface)

    def report_unreachable(self, told: UnreachableReceiver) -> None:
        """Tell of ICMP errors."""
        self._unreachable = told
        self._socket.setsockopt(*RECEIVE_ERRORS[self.local.address.version], 1)

    def take_out_esp(self) -> None:
        """Leave ESP in UDP to the kernel from now on (RFC 3948); IKE and what is too short still arrive.

        ``BackendError``: it has none.
        """
        take_out_esp(self._socket)
        self._esp_is_taken_out = True

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only, whichever the routes prefer; ``BackendError``."""
        super().bind_to(interface)
        self._interface = interface

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Send now, or with the train of this turn, or not at all: a full buffer is a loss as on the network."""
        if traffic_class is None:
            traffic_class = self._marked
        if not self._turn.open:
            self._send_alone(octets, remote, traffic_class)
            return
        train, length = self._train, len(octets)
        if train:
            octets_now = self._train_octets + length
            if (
                0 < length <= len(train[0]) == len(train[-1])
                and octets_now <= TRAIN_OCTETS
                and len(train) < TRAIN_DATAGRAMS
                and self._train_to == (remote, traffic_class)
            ):
                train.append(octets)
                self._train_octets = octets_now
                return
            self._send_train()
        else:
            self._turn.at_end(self._send_train)
        self._train.append(octets)
        self._train_octets = length
        self._train_to = remote, traffic_class

    def _send_train(self) -> None:
        """Send what waits; one by one where the kernel does not take a train: too long for the path, say."""
        train = self._train
        if not train or self._train_to is None:
            return
        self._train = []
        remote, traffic_class = self._train_to
        if len(train) > 1:
            error = send_by(self._socket, train, remote, traffic_class, self._marked)
            if error is None:
                return
            if error in ("EAGAIN", "ENOBUFS"):
                self.dropped[f"send-{error}"] += len(train)
                return
        for octets in train:
            self._send_alone(octets, remote, traffic_class)

    def _send_alone(self, octets: bytes, remote: Endpoint, traffic_class: int) -> None:
        error = send_by(self._socket, (octets,), remote, traffic_class, self._marked)
        if error is not None:
            self.dropped[f"send-{error}"] += 1

    def close(self) -> None:
        """Close the socket; what waits goes first."""
        if self._socket.fileno() >= 0:
            self._send_train()
        super().close()

    def _drain(self) -> None:
        self._turn.begin()
        try:
            for _ in range(DRAIN_LIMIT):
                try:
                    octets, source = self._socket.recvfrom(RECEIVE_OCTETS)
                except OSError as error:
                    self._not_received(error)
                    return
                self._receive(octets, self._paths[source])
                if self._socket.fileno() < 0:
                    return
        finally:
            self._turn.end()

    def _drain_with_traffic_class(self) -> None:
        self._turn.begin()
        try:
            left = DRAIN_LIMIT
            while left > 0:
                try:
                    octets, ancillary, _, source = self._socket.recvmsg(RECEIVE_OCTETS, TRAIN_ANCILLARY_OCTETS)
                except OSError as error:
                    self._not_received(error)
                    return
                left -= self._received(octets, ancillary, self._paths[source])
                if self._socket.fileno() < 0:
                    return
        finally:
            self._turn.end()

    def _received(self, octets: bytes, ancillary: list[tuple[int, int, bytes]], path: Path) -> int:
        """Hand over a datagram or the train of datagrams; how many they were."""
        self.traffic_class, segment_length = 0, 0
        for level, kind, value in ancillary:  # IPv4's traffic class is one octet, IPv6's an integer
            number = int.from_bytes(value, sys.byteorder)
            if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                segment_length = number
            else:
                self.traffic_class = number
        length = len(octets)
        if not 0 < segment_length < length:
            self._receive(octets, path)
            return 1
        for start in range(0, length, segment_length):
            self._receive(octets[start : start + segment_length], path)
            if self._socket.fileno() < 0:
                break
        return length // segment_length

    def _not_received(self, error: OSError) -> None:
        if not isinstance(error, BlockingIOError | InterruptedError):  # an ICMP error of an earlier datagram, say
            self.dropped[f"receive-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1
        self._drain_errors()  # the error itself may have been reported to a sender

    def _drain_errors(self) -> None:
        """The error queue (ip(7)), a bounded number at a time."""
        for _ in range(DRAIN_LIMIT):
            if self._unreachable is None or self._socket.fileno() < 0:
                return
            try:
                octets, ancillary, _, address = self._socket.recvmsg(
                    RECEIVE_OCTETS, ERROR_ANCILLARY_OCTETS, socket.MSG_ERRQUEUE
                )
            except OSError:
                return
            for _, _, data in ancillary:
                if len(data) >= EXTENDED_ERROR.size and EXTENDED_ERROR.unpack_from(data)[1] in ORIGINS_OF_ICMP:
                    self._unreachable(octets, Endpoint.of(address[0], address[1]))


def take_out_esp(udp: socket.socket) -> None:
    """Let the kernel take the ESP packets out of a UDP socket; ``BackendError``: it cannot."""
    try:
        udp.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    except OSError as error:
        raise BackendError(f"UDP encapsulation of ESP in the kernel: {error.strerror}") from error


class _WrappingLink:
    """What links that wrap links have in common: what the inner one knows of, as far as it does."""

    def __init__(self, inner: Link) -> None:
        self._inner = inner
        self._reporter = inner if isinstance(inner, ReportsTrafficClass) else None
        self.local = inner.local
        self.dropped = inner.dropped

    @property
    def traffic_class(self) -> int:
        """Of the datagram that arrives."""
        return 0 if self._reporter is None else self._reporter.traffic_class

    def report_traffic_class(self) -> None:
        """Where the inner link can."""
        if self._reporter is not None:
            self._reporter.report_traffic_class()

    def path_mtu(self, remote: Endpoint) -> int | None:
        """Where the inner link knows it."""
        return self._inner.path_mtu(remote) if isinstance(self._inner, KnowsPathMtu) else None

    def close(self) -> None:
        """Close the inner link."""
        self._inner.close()


class NextHopLink(_WrappingLink):
    """Sends everything to a next hop on the same port, as a host does that has no route but its router.

    The hop is on the path, not at its end: addresses of the peers stay what the caller says they are.
    """

    def __init__(self, opener: Opener, hop: Address, receive: Receiver) -> None:
        self._hop = hop
        self._receive = receive
        self._peers: dict[int, Endpoint] = {}
        super().__init__(opener(self._received))

    def path_mtu(self, remote: Endpoint) -> int | None:
        """To the hop."""
        return super().path_mtu(Endpoint(self._hop, remote.port))

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """By way of the hop."""
        self._peers[remote.port] = remote
        self._inner.send(octets, Endpoint(self._hop, remote.port), traffic_class)

    def _received(self, octets: bytes, path: Path) -> None:
        peer = self._peers.get(path.remote.port)
        if peer is None or path.remote.address != self._hop:
            self.dropped["not-from-the-hop"] += 1
            return
        self._receive(octets, Path(path.local, peer))


class LossyLink(_WrappingLink):
    """Loses datagrams: a share of those sent and of those received, by a seeded generator."""

    def __init__(
        self, opener: Opener, receive: Receiver, *, send_loss: float = 0.0, receive_loss: float = 0.0, seed: int = 0
    ) -> None:
        self._receive = receive
        self._send_loss = send_loss
        self._receive_loss = receive_loss
        self._random = random.Random(seed)
        super().__init__(opener(self._received))

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Pass on what is not lost."""
        if self._lost(self._send_loss):
            self.dropped["lost-outbound"] += 1
        else:
            self._inner.send(octets, remote, traffic_class)

    def _received(self, octets: bytes, path: Path) -> None:
        if self._lost(self._receive_loss):
            self.dropped["lost-inbound"] += 1
        else:
            self._receive(octets, path)

    def _lost(self, share: float) -> bool:
        return share > 0 and (share >= 1 or self._random.random() < share)
