"""The sockets of the fast path, as links: what is no ESP comes to asyncio, ESP stays in the loop.

A UDP end point is a group of sockets on one port (SO_REUSEPORT): a program in the kernel gives every worker the SPIs
that are its own and keeps what is no ESP (RFC 3948 §2) in a socket apart, so that a flood of ESP leaves room for IKE.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from typing import Protocol

from protocols.errors import BackendError
from protocols.io import packet_filter
from protocols.io.link import Receiver, UnreachableReceiver
from protocols.io.packet_filter import JUMP_IF_EQUAL, LOAD_WORD, MODULO, RETURN, RETURN_ACCUMULATOR
from protocols.io.raw import NO_PORT, open_esp
from protocols.io.sockets import (
    BUFFER_OCTETS,
    RECEIVE_ERRORS,
    bind_to_interface,
    family_of,
    path_mtu_between,
    reason_of,
    send_by,
    set_buffers,
)
from protocols.path import Endpoint, Path


class Sockets(Protocol):
    """What a link wants of the loop."""

    workers: int

    def add_group(self, sockets: tuple[socket.socket, ...], local: Endpoint) -> list[int]:
        """Read a socket for each worker, and one for what is no ESP; their numbers. ``BackendError``."""

    def add_raw(self, opened: socket.socket, beside: Endpoint) -> list[int]:
        """Read a raw socket of ESP; ``beside``: the end point that its packets are taken to have come to."""

    def remove(self, sources: list[int]) -> None:
        """Let go of sockets; of those that are gone already nothing happens."""

    def forget(self, link: SocketsLink) -> None:
        """A link is being closed."""


class SocketsLink:
    """What both kinds of links have in common: the last socket is the one to send by."""

    def __init__(self, loop: Sockets, local: Endpoint, sockets: tuple[socket.socket, ...], sources: list[int]) -> None:
        self.local = local
        self.dropped: Counter[str] = Counter()
        self._loop = loop
        self._sockets = sockets
        self._sources = sources
        self._marked = 0

    def mark(self, dscp: int) -> None:
        """Send with this DSCP from now on (RFC 2474) what has no traffic class of its own; ESP has."""
        self._marked = dscp << 2

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Send now or not at all; what cannot be sent is dropped and counted."""
        if traffic_class is None:
            traffic_class = self._marked
        error = send_by(self._sockets[-1], (octets,), remote, traffic_class, 0)
        if error is not None:
            self.dropped[f"send-{error}"] += 1

    def close(self) -> None:
        """Close the sockets; datagrams stop at once. Again is harmless."""
        self._loop.forget(self)
        self._loop.remove(self._sources)
        self._sources = []
        for opened in self._sockets:
            opened.close()


class FastLink(SocketsLink):
    """An encapsulating port (RFC 3948); ``receive`` gets what is no ESP, non-ESP markers included, in asyncio."""

    def __init__(self, loop: Sockets, local: Endpoint, receive: Receiver) -> None:
        """Bind; ``BackendError`` in one line."""
        with contextlib.ExitStack() as undo:
            sockets = _open_group(local, loop.workers, undo)
            bound = Endpoint(local.address, sockets[0].getsockname()[1])
            super().__init__(loop, bound, sockets, loop.add_group(sockets, bound))
            undo.pop_all()
        self._receive = receive
        self._interface: str | None = None
        self._unreachable: UnreachableReceiver | None = None

    def path_mtu(self, remote: Endpoint) -> int | None:
        """What the kernel takes it to be, by its routes and by ICMP."""
        return path_mtu_between(self.local.address, remote, self._interface)

    def report_unreachable(self, told: UnreachableReceiver) -> None:
        """Tell of ICMP errors about what is no ESP."""
        self._unreachable = told
        for opened in self._sockets:  # the kernel gives an error to any of the group
            opened.setsockopt(*RECEIVE_ERRORS[self.local.address.version], 1)

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only, whichever the routes prefer; ``BackendError``.

        A socket leaves its group when it is bound to an interface: a new group takes the place of the old one.
        """
        old, sources = self._sockets, self._sources
        try:
            with contextlib.ExitStack() as undo:
                sockets = _open_group(self.local, self._loop.workers, undo, interface, shared=True)
                self._sources = self._loop.add_group(sockets, self.local)
                undo.pop_all()
        except BackendError:
            self.close()
            raise
        self._sockets, self._interface = sockets, interface
        if self._unreachable is not None:
            self.report_unreachable(self._unreachable)
        self._loop.remove(sources)
        for opened in old:
            opened.close()

    def take(self, octets: bytes, remote: Endpoint) -> None:
        """A datagram that is no ESP."""
        self._receive(octets, Path(self.local, remote))

    def take_error(self, octets: bytes, remote: Endpoint) -> None:
        """A datagram that has not arrived, as far as ICMP quotes it."""
        if self._unreachable is not None:
            self._unreachable(octets, remote)


class FastRawLink(SocketsLink):
    """ESP straight on IP (RFC 4303, protocol 50) from an address; nothing that is no ESP comes by it."""

    def __init__(self, loop: Sockets, beside: Endpoint) -> None:
        """Bind; ``BackendError`` in one line."""
        address = beside.address
        with contextlib.ExitStack() as undo:
            opened = undo.enter_context(open_esp(address))
            super().__init__(loop, Endpoint(address, NO_PORT), (opened,), loop.add_raw(opened, beside))
            undo.pop_all()

    def send(self, octets: bytes, remote: Endpoint, traffic_class: int | None = None) -> None:
        """Send now or not at all; ports mean nothing."""
        super().send(octets, Endpoint(remote.address, NO_PORT), traffic_class)

    def bind_to(self, interface: str) -> None:
        """Send and receive by this network interface only; ``BackendError``."""
        try:
            bind_to_interface(self._sockets[0], interface, f"ESP on {self.local.address}")
        except BackendError:
            self.close()
            raise


def _open_group(
    local: Endpoint, workers: int, undo: contextlib.ExitStack, interface: str | None = None, *, shared: bool = False
) -> tuple[socket.socket, ...]:
    """Sockets on one port: one for the ESP of each worker, and the last for what is no ESP; ``undo`` closes them.

    ``shared``: the port is ours already, else it must be nobody's.
    """
    sockets: list[socket.socket] = []
    bound = local
    try:
        for number in range(workers + 1):
            opened = undo.enter_context(socket.socket(family_of(local.address), socket.SOCK_DGRAM))
            opened.setblocking(False)
            set_buffers(opened, BUFFER_OCTETS, BUFFER_OCTETS)
            if interface is not None:
                bind_to_interface(opened, interface, f"UDP {local}")
            if shared or number > 0:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            opened.bind((str(bound.address), bound.port))
            if number == 0:
                # Only now: the port must not be another program's, which would share it.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                bound = Endpoint(local.address, opened.getsockname()[1])
            sockets.append(opened)
        _steer(sockets[0], workers)
    except OSError as error:
        raise BackendError(f"cannot use UDP {local}: {reason_of(error)}") from error
    return tuple(sockets)


def _steer(opened: socket.socket, workers: int) -> None:
    """Steer by the first word: an SPI to a worker, the non-ESP marker to the last; shorter is the first's."""
    packet_filter.steer(
        opened,
        (
            (LOAD_WORD, 0, 0, 0),
            (JUMP_IF_EQUAL, 2, 0, 0),
            (MODULO, 0, 0, workers),
            (RETURN_ACCUMULATOR, 0, 0, 0),
            (RETURN, 0, 0, workers),
        ),
    )
