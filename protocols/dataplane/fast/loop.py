"""The threads of the fast path (``native/loop.c``) and the sockets they read, from asyncio's side.

::

    TUN queue ──► segment ──► seal ──► socket of the path        one thread per worker, no interpreter lock
    TUN queue ◄── coalesce ◄── open ◄── sockets ──► what is no ESP ──► channel ──► FastLink's receiver
    too long for the path ──► a channel of its own ──► too_long: fragments, ICMP

Packets from a device are sealed by the one of its SAs that selects them, packets of an SA go to its device.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from protocols.dataplane.fast import plane
from protocols.dataplane.fast.link import FastLink, FastRawLink, SocketsLink
from protocols.dataplane.fast.tun import FastTun
from protocols.dataplane.userspace.tun import TunCounters
from protocols.errors import BackendError, LocalError
from protocols.io.link import Receiver
from protocols.io.sockets import set_buffers
from protocols.ip import PACKET_MAXIMUM
from protocols.path import Address, Endpoint

if TYPE_CHECKING:
    from protocols.dataplane.fast._native import Core

if plane.available():
    from protocols.dataplane.fast import _native

RECEIVE_OCTETS = 65535
DRAIN_LIMIT = 64  # datagrams of the channel before the event loop turns to others
LONG_LIMIT = 16  # packets of theirs, which take longer
CHANNEL_OCTETS = 1024 * 1024

_FRAME = struct.Struct("=B?HH16s16s")  # struct loop_frame

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopCounters:
    """What the workers did since the loop was made. Packets that came are those that went and those dropped, always:

    ``tun_packets`` = ``sealed`` + ``long`` + ``long_dropped`` + ``sealing_drops``; ``sealed`` = ``sent`` +
    ``socket_full`` + ``send_errors`` + ``no_socket``; ``received`` = ``keepalives`` + ``short`` + ``other`` +
    ``other_dropped`` + ``opened`` + ``opening_drops``; ``opened`` = ``written`` + ``tun_full`` + ``tun_refused`` +
    ``no_tun``.
    """

    tun_packets: int
    """Inner packets from the TUN device, super-packets segmented."""
    tun_super_packets: int
    tun_malformed: int
    """Reads whose packet and virtio_net_hdr do not fit one another."""
    long: int
    """Too long for their path and handed up, to be fragmented or answered."""
    long_dropped: int
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
    unreachable: int
    """ICMP errors about what is no ESP, for those who want them reported."""
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
    """Inner packets not sealed, by ``DropReason``'s words or ``no_room``. ``too_big``: of super-packets, of which
    one packet has been handed up."""
    opening_drops: Mapping[str, int]
    """ESP packets without an inner packet for the TUN device, likewise."""


class FastLoop:
    """Carries packets between TUN queues and sockets by the SAs of a ``FastDataPlane``'s core.

    Links and devices come and go while it runs. ``failed`` is told of each that ended by itself (somebody deleted the
    device); the others go on. ``too_long`` gets inner packets that an SA takes and its path does not carry in one
    piece, with the number of their device, for its plane's ``send_inner``. ``LocalError``: asked for something illegal
    now. ``BackendError``: the kernel refused.
    """

    def __init__(
        self,
        core: Core,
        *,
        too_long: Callable[[bytes, int], object],
        workers: int = 1,
        failed: Callable[[BackendError], object] = _logger.warning,
    ) -> None:
        if plane.why_not() is not None:
            raise BackendError(f"the fast data plane was not built: {plane.why_not()}")
        self.workers = workers
        self._failed = failed
        self._too_long = too_long
        with contextlib.ExitStack() as undo:
            try:
                self._channel, far_end = _channel(undo)
                self._long_channel, long_end = _channel(undo)
                with far_end, long_end:
                    self._loop = _native.Loop(core, workers, far_end.fileno(), long_end.fileno())
            except OSError as error:
                raise BackendError(f"the fast path: {error.strerror}") from error
            undo.pop_all()
        self._sources: dict[int, _Owner] = {}
        self._links: dict[Endpoint, FastLink] = {}
        self._devices: dict[int, tuple[FastTun, list[int]]] = {}
        self._raw: dict[Address, FastRawLink] = {}
        self._running: asyncio.AbstractEventLoop | None = None

    # ------------------------------------------------------------------ what it works on

    def open_link(self, local: Endpoint, receive: Receiver) -> FastLink:
        """Open an encapsulating port (RFC 3948); ``receive`` gets what is no ESP, markers included, in asyncio."""
        link = FastLink(self, local, receive)
        self._links[link.local] = link
        return link

    def open_raw(self, beside: Endpoint) -> FastRawLink:
        """Send and receive ESP without UDP from an address (IP protocol 50, RFC 4303 §2); needs CAP_NET_RAW.

        ``beside``: the encapsulating port of the address, which its packets are taken to have come to.
        """
        if beside.address in self._raw:
            raise LocalError(f"ESP of {beside.address} is open already")
        link = self._raw[beside.address] = FastRawLink(self, beside)
        return link

    def add_device(
        self, device: FastTun, number: int = 0, *, failed: Callable[[BackendError], object] | None = None
    ) -> None:
        """Read and write a TUN device that has a queue for every worker.

        Its SAs are those of the plane that has its ``number``. ``failed`` is told once when
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
            self.remove(sources)
            raise BackendError(f"TUN device {device.name}: {error.strerror}") from error
        self._devices[number] = device, sources

    def remove_device(self, device: FastTun) -> None:
        """Let go of a device before it is closed."""
        for number, (known, sources) in self._devices.items():
            if known is device:
                self.remove(sources)
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
        loop.add_reader(self._long_channel.fileno(), self._drain_long)
        loop.add_reader(self._loop.eventfd, self._tell_failures)
        self._running = loop

    def stop(self) -> None:
        """End the threads and wait for them; links and devices stay, ``start`` goes on."""
        self._loop.stop()
        if self._running is not None:
            self._running.remove_reader(self._channel.fileno())
            self._running.remove_reader(self._long_channel.fileno())
            self._running.remove_reader(self._loop.eventfd)
            self._running = None

    def close(self) -> None:
        """Stop, and let go of links and devices; they are their owners' to close."""
        self.stop()
        self.remove(list(self._sources))
        self._links.clear()
        self._raw.clear()
        self._devices.clear()
        self._channel.close()
        self._long_channel.close()

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

    def add_group(self, sockets: tuple[socket.socket, ...], local: Endpoint) -> list[int]:
        """For ``FastLink``."""
        sources: list[int] = []
        for worker, opened in enumerate(sockets):
            try:
                source = self._loop.add_socket(
                    opened.fileno(),
                    worker % self.workers,
                    True,
                    local.address.packed,
                    local.port,
                    worker == self.workers,
                )
            except OSError as error:
                self.remove(sources)
                raise BackendError(f"UDP {local} in the fast path: {error.strerror}") from error
            self._sources[source] = _Owner(f"UDP {local}", self._failed)
            sources.append(source)
        return sources

    def add_raw(self, opened: socket.socket, beside: Endpoint) -> list[int]:
        """For ``FastRawLink``."""
        address = beside.address
        try:
            source = self._loop.add_socket(opened.fileno(), 0, False, address.packed, beside.port, False)
        except OSError as error:
            raise BackendError(f"ESP of {address} in the fast path: {error.strerror}") from error
        self._sources[source] = _Owner(f"ESP of {address}", self._failed)
        return [source]

    def remove(self, sources: list[int]) -> None:
        """Let go of sources that are there."""
        for source in sources:
            if self._sources.pop(source, None) is not None:
                self._loop.remove(source)

    def forget(self, link: SocketsLink) -> None:
        """For links."""
        self._links = {local: each for local, each in self._links.items() if each is not link}
        self._raw = {address: each for address, each in self._raw.items() if each is not link}

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            try:
                framed = self._channel.recv(_FRAME.size + RECEIVE_OCTETS)
            except BlockingIOError:
                return
            version, error, local_port, remote_port, local, remote = _FRAME.unpack_from(framed)
            link = self._links.get(Endpoint(_address(version, local), local_port))
            if link is not None:
                take = link.take_error if error else link.take
                take(framed[_FRAME.size :], Endpoint(_address(version, remote), remote_port))
            if self._running is None:
                return

    def _drain_long(self) -> None:
        for _ in range(LONG_LIMIT):
            try:
                packet = self._long_channel.recv(1 + PACKET_MAXIMUM)
            except BlockingIOError:
                return
            self._too_long(packet[1:], packet[0])
            if self._running is None:
                return

    def _tell_failures(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._loop.eventfd)
        while (found := self._loop.failure()) is not None:
            source, number = found
            self._sources[source].end(number)


def _channel(undo: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Our end and that of the threads."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    undo.callback(near.close)
    undo.callback(far.close)
    near.setblocking(False)
    set_buffers(far, 0, CHANNEL_OCTETS)
    return near, far


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
    reasons = {reason.value: count for reason, count in plane.by_reason(counts).items()}
    if counts[_native.NO_ROOM]:
        reasons["no_room"] = counts[_native.NO_ROOM]
    return reasons


def _address(version: int, packed: bytes) -> Address:
    return IPv4Address(packed[:4]) if version == 4 else IPv6Address(packed)
