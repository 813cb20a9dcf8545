"""A host behind a tunnel with the services that traffic is measured against, as one machine.

ICMP and UDP echo (``InProcessHost``), voice calls on ``VOICE_PORT``, and over TCP echo (RFC 862), discard
(RFC 863) and character generator (RFC 864). Another port of TCP is answered with RST.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from protocols.dataplane.userspace.host import ECHO_PORT, InProcessHost
from protocols.dataplane.userspace.segment import Flags, TcpSegment
from protocols.dataplane.userspace.tcp import TcpConnection, TcpState
from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.ip import TCP, UDP, IpPacket, UdpDatagram
from protocols.media.answerer import Answerer
from protocols.media.voice import VOICE_PORT
from protocols.path import Address, Endpoint

DISCARD_PORT = 9  # RFC 863
GENERATOR_PORT = 19  # RFC 864
CONNECTIONS_MAXIMUM = 4096
GENERATED = bytes(range(0x20, 0x7F)) * 64  # RFC 864 recommends printable ASCII

_Key = tuple[Address, int, int]  # the peer, the own port


@dataclass(kw_only=True)
class ServiceCounters:
    """Connections taken, refused because there are too many, segments for no service, what could not be read."""

    connections: int = 0
    refused: int = 0
    resets: int = 0
    malformed: int = 0


class ServiceHost:
    """One address of a network behind the gateway; IP packets in, IP packets out."""

    def __init__(self, address: Address, entropy: Entropy) -> None:
        self.address = address
        self.echo = InProcessHost(address)
        self.voice = Answerer(entropy)
        self.counters = ServiceCounters()
        self._entropy = entropy
        self._connections: dict[_Key, TcpConnection] = {}
        self._out: deque[bytes] = deque()
        self._timers: list[tuple[float, int, _Key, TcpConnection]] = []
        self._armed: dict[_Key, float] = {}
        self._order = count()

    def receive(self, packet: bytes, now: float) -> None:
        """Take an IP packet."""
        try:
            request = IpPacket.decode(packet)
            if request.destination == self.address:
                if request.protocol == TCP:
                    self._receive_segment(request, TcpSegment.decode(request), now)
                    return
                if request.protocol == UDP:
                    datagram = UdpDatagram.decode(request)
                    if datagram.destination_port == VOICE_PORT:
                        caller = Endpoint(request.source, datagram.source_port)
                        self.voice.receive(datagram.payload, caller, now)
                        return
        except DecodeError:
            self.counters.malformed += 1
            return
        answer = self.echo.receive(packet)
        if answer is not None:
            self._out.append(answer)

    def poll_event(self) -> None:
        """A host has no events."""

    def poll_transmit(self) -> bytes | None:
        """The next IP packet to send, ``None`` when there is none."""
        if self._out:
            return self._out.popleft()
        spoken = self.voice.poll_transmit()
        if spoken is None:
            return None
        payload, caller = spoken
        datagram = UdpDatagram(source_port=VOICE_PORT, destination_port=caller.port, payload=payload)
        return self._packet(caller.address, UDP, datagram.encode(self.address, caller.address))

    def next_deadline(self) -> float | None:
        """When a call or a connection has something to do."""
        deadlines = (self._next_of_connections(), self.voice.next_deadline())
        return min((each for each in deadlines if each is not None), default=None)

    def _next_of_connections(self) -> float | None:
        while self._timers and self._armed.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        self.voice.handle_timeout(now)
        while (deadline := self._next_of_connections()) is not None and deadline <= now:
            _, _, key, connection = heapq.heappop(self._timers)
            del self._armed[key]
            connection.handle_timeout(now)
            self._pump_connection(key, connection, now)

    def _receive_segment(self, packet: IpPacket, segment: TcpSegment, now: float) -> None:
        key = (packet.source, segment.source_port, segment.destination_port)
        connection = self._connections.get(key)
        if connection is None or (connection.state is TcpState.TIME_WAIT and Flags.SYN in segment.flags):
            if segment.destination_port not in _SERVICES or segment.flags & ~Flags.PSH != Flags.SYN:
                self._reset(packet.source, segment)
                return
            if len(self._connections) >= CONNECTIONS_MAXIMUM:
                self.counters.refused += 1
                return
            self.counters.connections += 1
            connection = TcpConnection(
                local_port=segment.destination_port,
                remote_port=segment.source_port,
                initial_sequence=int.from_bytes(self._entropy.octets(4), "big"),
            )
            connection.accept(segment, now)
            self._connections[key] = connection
        else:
            connection.receive(segment, now)
        self._pump_connection(key, connection, now)

    def _reset(self, remote: Address, segment: TcpSegment) -> None:
        """RFC 9293 §3.10.7.1: no connection."""
        if Flags.RST in segment.flags:
            return
        self.counters.resets += 1
        length = len(segment.payload) + (Flags.SYN in segment.flags) + (Flags.FIN in segment.flags)
        acknowledged = Flags.ACK in segment.flags
        answer = TcpSegment(
            source_port=segment.destination_port,
            destination_port=segment.source_port,
            sequence=segment.acknowledgment if acknowledged else 0,
            acknowledgment=0 if acknowledged else segment.sequence + length,
            flags=Flags.RST if acknowledged else Flags.RST | Flags.ACK,
            window=0,
        )
        self._send(remote, TCP, answer.encode(self.address, remote))

    def _pump_connection(self, key: _Key, connection: TcpConnection, now: float) -> None:
        if connection.state is not TcpState.CLOSED:
            _SERVICES[key[2]](connection, now)
        remote = key[0]
        while (segment := connection.poll_transmit()) is not None:
            self._send(remote, TCP, segment.encode(self.address, remote))
        if connection.state is TcpState.CLOSED:
            if self._connections.get(key) is connection:
                del self._connections[key]
                self._armed.pop(key, None)
            return
        self._arm(key, connection)

    def _send(self, remote: Address, protocol: int, payload: bytes) -> None:
        self._out.append(self._packet(remote, protocol, payload))

    def _packet(self, remote: Address, protocol: int, payload: bytes) -> bytes:
        return IpPacket(source=self.address, destination=remote, protocol=protocol, payload=payload).encode()

    def _arm(self, key: _Key, connection: TcpConnection) -> None:
        deadline = connection.next_deadline()
        if deadline is None:
            self._armed.pop(key, None)
        elif self._armed.get(key) != deadline:
            self._armed[key] = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), key, connection))


def _echo(connection: TcpConnection, now: float) -> None:
    """RFC 862; what cannot be sent back yet is not read: the window says so."""
    _answer(connection, connection.read(now, connection.room), now)


def _discard(connection: TcpConnection, now: float) -> None:
    connection.read(now)
    _answer(connection, b"", now)


def _generate(connection: TcpConnection, now: float) -> None:
    """RFC 864: until the caller goes away."""
    connection.read(now)
    more = connection.sends and connection.room >= len(GENERATED)
    _answer(connection, GENERATED if more and not connection.finished_receiving else b"", now)


def _answer(connection: TcpConnection, octets: bytes, now: float) -> None:
    if octets and connection.sends:
        connection.send(octets, now)
    if connection.finished_receiving and not connection.waiting:
        connection.close(now)


_SERVICES: dict[int, Callable[[TcpConnection, float], None]] = {
    ECHO_PORT: _echo,
    DISCARD_PORT: _discard,
    GENERATOR_PORT: _generate,
}
