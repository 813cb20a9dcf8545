"""The threads of the fast path (``native/loop.c``) and the sockets they read, from asyncio's side.

::

    TUN queue ──► segment ──► seal ──► socket of the path        one thread per worker, no interpreter lock
    TUN queue ◄── coalesce ◄── open ◄── sockets ──► what is no ESP ──► channel ──► FastLink's receiver

Each UDP end point is a group of sockets on one port (SO_REUSEPORT): a program in the kernel gives every worker the SPIs
that are its own and keeps what is no ESP (RFC 3948 §2) in a socket apart, so that a flood of ESP leaves room for IKE.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from protocols.dataplane.fast import plane
from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.userspace.tun import TunCounters
from protocols.errors import BackendError, LocalError
from protocols.esp.sa import DropReason
from protocols.path import Address, Endpoint, Path

if TYPE_CHECKING:
    from protocols.dataplane.fast._native import Core

if plane.available():
    from protocols.dataplane.fast import _native

Receiver = Callable[[bytes, Path], None]

RECEIVE_OCTETS = 65535
DRAIN_LIMIT = 64  # datagrams of the channel before the event loop turns to others
SOCKET_OCTETS = 4 * 1024 * 1024
CHANNEL_OCTETS = 1024 * 1024
SO_SNDBUFFORCE = 32  # <asm-generic/socket.h>
SO_RCVBUFFORCE = 33
SO_ATTACH_REUSEPORT_CBPF = 51
LOAD_WORD, JUMP_IF_EQUAL, MODULO, RETURN_ACCUMULATOR, RETURN = 0x20, 0x15, 0x94, 0x16, 0x06  # <linux/filter.h>

_FRAME = struct.Struct("=BxHH16s16s")  # struct loop_frame
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopCounters:
    """What the workers did since the loop was made. Packets that came are those that went and those dropped, always:

    ``tun_packets`` = ``sealed`` + ``sealing_drops``; ``sealed`` = ``sent`` + ``socket_full`` + ``send_errors`` +
    ``no_socket``; ``received`` = ``keepalives`` + ``short`` + ``other`` + ``other_dropped`` + ``opened`` +
    ``opening_drops``; ``opened`` = ``written`` + ``tun_full`` + ``tun_refused`` + ``no_tun``.
    """

    tun_packets: int
    """Inner packets from the TUN device, super-packets segmented."""
    tun_super_packets: int
    tun_malformed: int
    """Reads whose packet and virtio_net_hdr do not fit one another."""
    sealed: int
    sent: int
    sent_trains: int
    """Messages to the kernel, of which it makes the packets sent."""
    socket_full: int
    send_errors: int
    """Refused by the kernel: no route, too long."""
    no_socket: int
    """Of an SA whose path begins where no socket is."""
    received: int
    """Datagrams of the encapsulating ports, and ESP packets of raw sockets."""
    received_trains: int
    receive_errors: int
    keepalives: int
    short: int
    other: int
    """IKE and whatever else is no ESP."""
    other_dropped: int
    opened: int
    written: int
    written_super_packets: int
    tun_full: int
    tun_refused: int
    no_tun: int
    """Of an SA whose device is not there."""
    turns: int
    """Wake-ups of the workers."""
    sealing_drops: Mapping[str, int]
    """Inner packets not sealed, by ``DropReason``'s words or ``no_room``."""
    opening_drops: Mapping[str, int]
    """ESP packets without an inner packet for the TUN device, likewise."""


class FastLink:
    """One UDP end point of a ``FastLoop`` as a ``protocols.io.link.Link``: ESP stays in the loop."""

    def __init__(self, local: Endpoint, sockets: tuple[socket.socket, ...], close: Callable[[FastLink], None]) -> None:
        self.local = local
        self.dropped: Counter[str] = Counter()
        self._sockets = sockets
        self._close = close

    def send(self, octets: bytes, remote: Endpoint) -> None:
        """Send now or not at all; what cannot be sent is dropped and counted."""
        try:
            self._sockets[-1].sendto(octets, (str(remote.address), remote.port))
        except OSError as error:
            self.dropped[f"send-{errno.errorcode.get(error.errno or 0, 'error')}"] += 1

    def close(self) -> None:
        """Close the sockets; datagrams stop at once."""
        self._close(self)
        for opened in self._sockets:
            opened.close()
        self._sockets = ()


class FastLoop:
    """Carries packets between TUN queues and sockets by the SAs of a ``FastDataPlane``'s core.

    Links and devices come and go while it runs. ``failed`` is told of each that ended by itself (somebody deleted the
    device); the others go on. ``LocalError``: asked for something illegal now. ``BackendError``: the kernel refused.
    """

    def __init__(
        self, core: Core, *, workers: int = 1, failed: Callable[[BackendError], object] = _logger.warning
    ) -> None:
        if plane.why_not() is not None:
            raise BackendError(f"the fast data plane was not built: {plane.why_not()}")
        self.workers = workers
        self._failed = failed
        self._channel, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            self._channel.setblocking(False)
            _set_buffers(far_end, 0, CHANNEL_OCTETS)
            try:
                self._loop = _native.Loop(core, workers, far_end.fileno())
            except BaseException:
                self._channel.close()
                raise
        self._sources: dict[int, _Owner] = {}
        self._links: dict[Endpoint, tuple[Receiver, list[int]]] = {}
        self._devices: dict[int, tuple[FastTun, list[int]]] = {}
        self._raw: dict[Address, tuple[socket.socket, int]] = {}
        self._running: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ what it works on

    def open_link(self, local: Endpoint, receive: Receiver) -> FastLink:
        """Open an encapsulating port (RFC 3948); ``receive`` gets what is no ESP, markers included, in asyncio."""
        sockets = _open_group(local, self.workers)
        bound = Endpoint(local.address, sockets[0].getsockname()[1])
        sources: list[int] = []
        try:
            for worker, opened in enumerate(sockets):
                sources.append(self._add_socket(opened, bound, worker % self.workers, worker == self.workers))
        except BaseException:
            self._remove(sources)
            for opened in sockets:
                opened.close()
            raise
        self._links[bound] = receive, sources
        return FastLink(bound, sockets, self._close_link)

    def open_raw(self, address: Address) -> None:
        """Send and receive ESP without UDP from an address (IP protocol 50, RFC 4303 §2); needs CAP_NET_RAW."""
        if address in self._raw:
            raise LocalError(f"ESP of {address} is open already")
        try:
            opened = socket.socket(_family(address), socket.SOCK_RAW, socket.IPPROTO_ESP)
            with contextlib.ExitStack() as undo:
                undo.callback(opened.close)
                _set_buffers(opened, SOCKET_OCTETS, SOCKET_OCTETS)
                opened.bind((str(address), 0))
                source = self._add_socket(opened, Endpoint(address, 0), 0, False, encapsulation=False)
                undo.pop_all()
        except OSError as error:
            raise BackendError(f"cannot use ESP of {address}: {error.strerror}") from error
        self._raw[address] = opened, source

    def close_raw(self, address: Address) -> None:
        """Undo ``open_raw``."""
        opened, source = self._raw.pop(address)
        self._remove([source])
        opened.close()

    def add_device(
        self, device: FastTun, number: int = 0, *, failed: Callable[[BackendError], object] | None = None
    ) -> None:
        """Read and write a TUN device that has a queue for every worker.

        It takes the packets of the SAs that ``Core.set_device`` has given its ``number``. ``failed`` is told once when
        it has ended by itself, in the place of the loop's.
        """
        if not 0 <= number < _native.DEVICES:
            raise LocalError(f"{number} is no number of a TUN device, there are {_native.DEVICES}")
        if number in self._devices:
            raise LocalError(f"the fast path has a TUN device {number} already")
        if len(device.queues) != self.workers:
            raise LocalError(f"TUN device {device.name} has {len(device.queues)} queues for {self.workers} workers")
        owner = _Owner(f"TUN device {device.name}", failed or self._failed)
        sources: list[int] = []
        try:
            for worker, descriptor in enumerate(device.queues):
                source = self._loop.add_queue(descriptor, worker, number, device.udp_offload)
                self._sources[source] = owner
                sources.append(source)
        except OSError as error:
            self._remove(sources)
            raise BackendError(f"TUN device {device.name}: {error.strerror}") from error
        self._devices[number] = device, sources

    def remove_device(self, device: FastTun) -> None:
        """Let go of a device before it is closed."""
        for number, (known, sources) in self._devices.items():
            if known is device:
                self._remove(sources)
                del self._devices[number]
                return
        raise LocalError(f"TUN device {device.name} is not in the fast path")

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin the threads, and hand out what they tell in the running event loop."""
        if self._running is not None:
            raise LocalError("the fast path runs already")
        loop = asyncio.get_running_loop()
        try:
            self._loop.start()
        except OSError as error:
            raise BackendError(f"threads of the fast path: {error.strerror}") from error
        loop.add_reader(self._channel.fileno(), self._drain)
        loop.add_reader(self._loop.eventfd, self._tell_failures)
        self._running = loop

    def stop(self) -> None:
        """End the threads and wait for them; links and devices stay, ``start`` goes on."""
        self._loop.stop()
        if self._running is not None:
            self._running.remove_reader(self._channel.fileno())
            self._running.remove_reader(self._loop.eventfd)
            self._running = None

    def close(self) -> None:
        """Stop, and let go of links and devices; they are their owners' to close."""
        self.stop()
        for address in list(self._raw):
            self.close_raw(address)
        self._remove(list(self._sources))
        self._links.clear()
        self._devices.clear()
        self._channel.close()

    def device_counters(self, number: int) -> TunCounters:
        """What the workers have done for all devices that had this number."""
        read, written, refused = self._loop.device_counters(number)
        return TunCounters(read=read, written=written, refused=refused)

    @property
    def counters(self) -> LoopCounters:
        """Of all workers together, without stopping them."""
        counters, sealing, opening = self._loop.counters()
        return LoopCounters(sealing_drops=_by_reason(sealing), opening_drops=_by_reason(opening), **counters)

    # ------------------------------------------------------------------ inside

    def _add_socket(
        self, opened: socket.socket, local: Endpoint, worker: int, urgent: bool, *, encapsulation: bool = True
    ) -> int:
        try:
            source = self._loop.add_socket(
                opened.fileno(), worker, encapsulation, local.address.packed, local.port, urgent
            )
        except OSError as error:
            raise BackendError(f"UDP {local} in the fast path: {error.strerror}") from error
        name = f"UDP {local}" if encapsulation else f"ESP of {local.address}"
        self._sources[source] = _Owner(name, self._failed)
        return source

    def _remove(self, sources: list[int]) -> None:
        for source in sources:
            self._loop.remove(source)
            del self._sources[source]

    def _close_link(self, link: FastLink) -> None:
        _, sources = self._links.pop(link.local, (None, []))
        self._remove(sources)

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                framed = self._channel.recv(_FRAME.size + RECEIVE_OCTETS)
            except BlockingIOError:
                return
            version, local_port, remote_port, local, remote = _FRAME.unpack_from(framed)
            path = Path(
                Endpoint(_address(version, local), local_port), Endpoint(_address(version, remote), remote_port)
            )
            receive, _ = self._links.get(path.local, (None, []))
            if receive is not None:
                receive(framed[_FRAME.size :], path)
            if self._running is None:
                return

    def _tell_failures(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._loop.eventfd)
        while (found := self._loop.failure()) is not None:
            source, number = found
            self._sources[source].end(number)


class _Owner:
    """What has one source or, a device, several."""

    def __init__(self, name: str, failed: Callable[[BackendError], object]) -> None:
        self._name = name
        self._failed = failed
        self._ended = False

    def end(self, number: int) -> None:
        """One of the sources has ended by itself."""
        if not self._ended:
            self._ended = True
            self._failed(BackendError(f"{self._name}: {os.strerror(number)}"))


def _by_reason(counts: list[int]) -> dict[str, int]:
    reasons = {getattr(_native, each.name): each.value for each in DropReason if hasattr(_native, each.name)}
    reasons[_native.NO_ROOM] = "no_room"
    return {reason: counts[code] for code, reason in reasons.items() if counts[code]}


def _address(version: int, packed: bytes) -> Address:
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed)


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _set_buffers(opened: socket.socket, receive: int, send: int) -> None:
    """As asked for with CAP_NET_ADMIN, else as much as the system gives."""
    for forced, usual, octets in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, receive),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, send),
    ):
        if octets:
            try:
                opened.setsockopt(socket.SOL_SOCKET, forced, octets)
            except PermissionError:
                opened.setsockopt(socket.SOL_SOCKET, usual, octets)


def _open_group(local: Endpoint, workers: int) -> tuple[socket.socket, ...]:
    """Sockets on one port: one for the ESP of each worker, and the last for what is no ESP."""
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        bound = local
        try:
            for number in range(workers + 1):
                opened = socket.socket(_family(local.address), socket.SOCK_DGRAM)
                undo.callback(opened.close)
                opened.setblocking(False)
                _set_buffers(opened, SOCKET_OCTETS, SOCKET_OCTETS)
                if number > 0:
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                opened.bind((str(bound.address), bound.port))
                if number == 0:
                    # Only now: the port must not be another program's, which would share it.
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    bound = Endpoint(local.address, opened.getsockname()[1])
                sockets.append(opened)
            _attach(sockets[0], workers)
        except OSError as error:
            reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise BackendError(f"cannot use UDP {local}: {reason}") from error
        undo.pop_all()
        return tuple(sockets)


def _attach(opened: socket.socket, workers: int) -> None:
    """Steer by the first word: an SPI to a worker, the non-ESP marker to the last; shorter is the first's."""
    program = b"".join(
        _INSTRUCTION.pack(*words)
        for words in (
            (LOAD_WORD, 0, 0, 0),
            (JUMP_IF_EQUAL, 2, 0, 0),
            (MODULO, 0, 0, workers),
            (RETURN_ACCUMULATOR, 0, 0, 0),
            (RETURN, 0, 0, workers),
        )
    )
    kept = ctypes.create_string_buffer(program, len(program))
    packed = _PROGRAM.pack(len(program) // _INSTRUCTION.size, ctypes.addressof(kept))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, packed)
