"""A process's own IP packets beside the kernel's stack, from an address that the kernel has, too.

For flows of a node's own where a compiled loop or the kernel carries ESP and the process sees no inner packets. A
packet socket (packet(7)) with a filter hears those of its reservations. The kernel, which sees them as well, must not
answer: a socket that takes nothing holds the port, so that there is no ICMP error (UDP) and no RST (TCP, a listening
socket: Linux asks its filter before anything else). To echo replies of ICMP the kernel answers nothing.

Into a TUN device packets go directly, whatever the routes; without a device by the routes and policies of their
addresses and protocol (before Linux 6.4 a policy for one protocol does not see them). Coalesced UDP is handed on
datagram by datagram, coalesced TCP as one long segment. Left out: fragments, and IPv6 packets with extension headers;
they are not heard. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from protocols.errors import BackendError, DecodeError, LocalError
from protocols.io import packet_filter
from protocols.io.link import DRAIN_LIMIT
from protocols.io.namespace import NetworkNamespace
from protocols.io.packet_filter import Check
from protocols.io.packet_socket import (
    ETH_P_IP,
    ETH_P_IPV6,
    PACKET_HOST,
    TRANSPORTS,
    checks_of,
    open_packet_socket,
    overflown,
    read_packet,
)
from protocols.io.routed import RoutedPackets
from protocols.io.sockets import BUFFER_OCTETS, family_of
from protocols.io.super_packet import NO_OFFLOAD, whole_packets
from protocols.ip import ICMP, ICMPV6, TCP, UDP
from protocols.path import Address

T = TypeVar("T")
_Opened = tuple[socket.socket, RoutedPackets | None]

ECHO_REPLIES = {ICMP: 0, ICMPV6: 129}


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """A port of TCP or UDP at an address; of ICMP ``port`` is the identifier of echo requests."""

    protocol: int
    address: Address
    port: int


class PacketPort:
    """Nothing is open before the first reservation and after the last."""

    def __init__(
        self,
        receive: Callable[[bytes], object],
        device: str | None = None,
        namespace: NetworkNamespace | None = None,
    ) -> None:
        """``receive`` takes whole IP packets. ``namespace``: where the device is, if not where the process runs.

        ``device``: the tunnel; ``None`` where the kernel transforms what its routes and policies say, and what comes
        out of ESP appears on whichever device ESP came in by.
        """
        self._receive = receive
        self._device = device
        self._namespace = namespace
        self._held: dict[Reservation, socket.socket | None] = {}
        self._sockets: _Sockets | None = None
        self._dropped: Counter[str] = Counter()

    @property
    def dropped(self) -> Counter[str]:
        """Packets neither sent nor received, by reason."""
        if self._sockets is not None:
            self._dropped += self._sockets.overflown()
        return self._dropped

    def reserve(self, protocol: int, address: Address, port: int) -> None:
        """Hear what comes for a port from now on, and keep the kernel from answering it.

        ``LocalError`` when it is reserved already; ``BackendError`` when the kernel refuses: the port is in use, say.
        """
        reservation = Reservation(protocol=protocol, address=address, port=port)
        if reservation in self._held:
            raise LocalError(f"port {port} of {address} is reserved already")
        with ExitStack() as undo:
            if self._sockets is None:
                self._sockets = _Sockets(self._inside(lambda: _open(self._device)), self._device, self._drain)
                undo.callback(self._close_sockets)
            held = self._inside(lambda: _hold(reservation))
            if held is not None:
                undo.callback(held.close)
            try:
                self._sockets.hear((*self._held, reservation))
            except OSError as error:
                raise BackendError(f"cannot hear packets of {len(self._held) + 1} ports: {error.strerror}") from error
            self._held[reservation] = held
            undo.pop_all()

    def release(self, protocol: int, address: Address, port: int) -> None:
        """The port is the kernel's again; one that is not reserved is passed over."""
        reservation = Reservation(protocol=protocol, address=address, port=port)
        if reservation not in self._held:
            return
        held = self._held.pop(reservation)
        if held is not None:
            held.close()
        if not self._held:
            self._close_sockets()
        elif self._sockets is not None:
            self._sockets.hear(tuple(self._held))

    def send(self, packet: bytes) -> bool:
        """Send an IP packet as it is; ``False`` when it was dropped, and counted."""
        if self._sockets is None:
            self._dropped["send-nothing-reserved"] += 1
            return False
        try:
            self._sockets.send(packet)
        except OSError as error:
            self._dropped[_reason("send", error)] += 1
            return False
        return True

    def close(self) -> None:
        """Release everything."""
        for reservation in tuple(self._held):
            self.release(reservation.protocol, reservation.address, reservation.port)

    def _inside(self, function: Callable[[], T]) -> T:
        return function() if self._namespace is None else self._namespace.call(function)

    def _close_sockets(self) -> None:
        if self._sockets is not None:
            self._dropped += self._sockets.overflown()
            self._sockets.close()
            self._sockets = None

    def _drain(self) -> None:
        for _ in range(DRAIN_LIMIT):
            if self._sockets is None:
                return
            try:
                packets = self._sockets.receive()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._dropped[_reason("receive", error)] += 1
                continue
            except DecodeError:
                self._dropped["receive-malformed"] += 1
                continue
            for packet in packets:
                self._receive(packet)


class _Sockets:
    """The packet socket, and raw ones where the routes say where packets go."""

    def __init__(self, opened: _Opened, device: str | None, drain: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._device = device
        self._packets, self._routed = opened
        self._loop.add_reader(self._packets.fileno(), drain)

    def hear(self, reservations: Sequence[Reservation]) -> None:
        """Take the packets of these, instead of those so far."""
        packet_filter.attach(self._packets, packet_filter.any_of([_checks(each) for each in reservations]))

    def overflown(self) -> Counter[str]:
        """What found the buffer full since the last time."""
        return +Counter({"receive-buffer-full": overflown(self._packets)})

    def send(self, packet: bytes) -> None:
        """``OSError`` when it does not go."""
        if self._device is not None:
            protocol = ETH_P_IP if packet[0] >> 4 == 4 else ETH_P_IPV6
            self._packets.sendto(NO_OFFLOAD + packet, (self._device, protocol))
        elif self._routed is not None:
            self._routed.send(packet)

    def receive(self) -> tuple[bytes, ...]:
        """The IP packets of one that has arrived; ``BlockingIOError`` when none has."""
        packet = read_packet(self._packets)
        if not packet.whole:
            raise DecodeError("a packet without its end")
        return tuple(whole_packets(packet.octets, packet.network))

    def close(self) -> None:
        self._loop.remove_reader(self._packets.fileno())
        self._packets.close()
        if self._routed is not None:
            self._routed.close()


def _open(device: str | None) -> _Opened:
    with ExitStack() as undo:
        try:
            packets = undo.enter_context(open_packet_socket(device, buffer_octets=BUFFER_OCTETS, outgoing=False))
            routed = RoutedPackets(names_protocol=True) if device is None else None
        except PermissionError as error:
            raise BackendError("traffic of the node's own beside the kernel's needs root or CAP_NET_RAW") from error
        except OSError as error:
            where = "all devices" if device is None else f"device {device}"
            raise BackendError(f"cannot hear packets of {where}: {error.strerror}") from error
        undo.pop_all()
    return packets, routed


def _hold(reservation: Reservation) -> socket.socket | None:
    """A socket that has the port and takes nothing."""
    if reservation.protocol in ECHO_REPLIES:
        return None
    kind = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}.get(reservation.protocol)
    if kind is None:
        raise LocalError(f"protocol {reservation.protocol} has no ports that can be reserved")
    with ExitStack() as undo:
        try:
            held = undo.enter_context(socket.socket(family_of(reservation.address), kind))
            packet_filter.attach(held, packet_filter.NOTHING)
            held.bind((str(reservation.address), reservation.port))
            if kind is socket.SOCK_STREAM:
                held.listen(1)
        except OSError as error:
            name = "TCP" if kind is socket.SOCK_STREAM else "UDP"
            where = f"{name} port {reservation.port} of {reservation.address}"
            raise BackendError(f"cannot reserve {where}: {error.strerror}") from error
        undo.pop_all()
    return held


def _checks(reservation: Reservation) -> list[Check]:
    """What a packet for a reservation looks like."""
    protocol, port = reservation.protocol, reservation.port
    octet, half, _, transport = TRANSPORTS[reservation.address.version]
    ports: list[Check] = [(half, transport + 2, 0xFFFF, port)]
    if protocol in ECHO_REPLIES:
        ports = [(octet, transport, 0xFF, ECHO_REPLIES[protocol]), (half, transport + 4, 0xFFFF, port)]
    return checks_of(PACKET_HOST, reservation.address, protocol) + ports


def _reason(what: str, error: OSError) -> str:
    return f"{what}-{errno.errorcode.get(error.errno or 0, 'error')}"
