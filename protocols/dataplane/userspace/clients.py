"""The near ends of a voice call and of a TCP flow, in the shape of ``EchoClient``: IP packets in and out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from protocols.dataplane.userspace.host import ECHO_PORT
from protocols.dataplane.userspace.segment import TcpSegment
from protocols.dataplane.userspace.tcp import TcpConnection
from protocols.entropy import Entropy
from protocols.errors import DecodeError, LocalError
from protocols.ip import TCP, UDP, IpPacket, UdpDatagram
from protocols.media.voice import VOICE_PORT, VoiceEndpoint, VoiceStatistics
from protocols.path import Address

RECORD_LENGTH = 1000  # octets of a TCP flow's request
PROGRESS_HISTORY = 65536  # arrivals remembered
_PATTERN = bytes(range(251)) * 5  # longer than a record and a period together


class StreamKind(str, Enum):
    """What is more than echo requests."""

    VOICE = "voice"
    TCP = "tcp"


class VoiceClient:
    """Calls ``VOICE_PORT`` of a host."""

    kind = StreamKind.VOICE

    def __init__(self, *, source: Address, destination: Address, interval: float, port: int, entropy: Entropy) -> None:
        if source.version != destination.version:
            raise LocalError(f"a call from {source} to {destination}")
        self.source = source
        self.destination = destination
        self.interval = interval
        self.malformed = 0
        self.call = VoiceEndpoint(ssrc=int.from_bytes(entropy.octets(4), "big"), interval=interval)
        self._port = port

    @property
    def running(self) -> bool:
        """Whether it sends."""
        return self.call.running

    @property
    def sent(self) -> int:
        """Packets sent."""
        return self.call.sent

    def start(self, now: float) -> None:
        """Call."""
        self.call.start(now)

    def stop(self, now: float) -> None:
        """Hang up."""
        self.call.stop(now)

    def next_deadline(self) -> float | None:
        """When the next packet is due."""
        return self.call.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Send what is due."""
        self.call.handle_timeout(now)

    def poll_packet(self) -> bytes | None:
        """The next IP packet to send, ``None`` when there is none."""
        payload = self.call.poll_transmit()
        if payload is None:
            return None
        datagram = UdpDatagram(source_port=self._port, destination_port=VOICE_PORT, payload=payload)
        return IpPacket(
            source=self.source,
            destination=self.destination,
            protocol=UDP,
            payload=datagram.encode(self.source, self.destination),
        ).encode()

    def receive(self, packet: bytes, now: float) -> bool:
        """Take an IP packet; ``False`` when it is not of this call."""
        try:
            found = IpPacket.decode(packet)
            if (found.source, found.destination, found.protocol) != (self.destination, self.source, UDP):
                return False
            datagram = UdpDatagram.decode(found)
        except DecodeError:
            self.malformed += 1
            return False
        if (datagram.source_port, datagram.destination_port) != (VOICE_PORT, self._port):
            return False
        self.call.receive(datagram.payload, now)
        return True

    def statistics(self, now: float, since: float | None, until: float | None) -> VoiceStatistics:
        """The score of both directions."""
        return self.call.statistics(now, since, until)


@dataclass(frozen=True, kw_only=True)
class TcpStatistics:
    """A TCP flow between two moments: octets echoed then; the other figures are of the whole connection.

    ``longest_stall_ms`` is the longest time without an arrival, the window's edges included; ``withheld`` are
    records that were due while the send buffer was full.
    """

    state: str
    failure: str | None
    octets_sent: int
    octets_received: int
    throughput_kbps: float
    longest_stall_ms: float
    rtt_ms: float | None
    retransmissions: int
    fast_retransmissions: int
    timeouts: int
    withheld: int
    corrupted: int


class TcpClient:
    """Sends records at a rate to a host's echo service and checks what comes back."""

    kind = StreamKind.TCP

    def __init__(self, *, source: Address, destination: Address, interval: float, port: int, entropy: Entropy) -> None:
        if source.version != destination.version:
            raise LocalError(f"a connection from {source} to {destination}")
        self.source = source
        self.destination = destination
        self.interval = interval
        self.malformed = 0
        self.withheld = 0
        self.corrupted = 0
        self.connection = TcpConnection(
            local_port=port, remote_port=ECHO_PORT, initial_sequence=int.from_bytes(entropy.octets(4), "big")
        )
        self._next_record: float | None = None
        self._started: float | None = None
        self._stopped: float | None = None
        self._progress: deque[tuple[float, int]] = deque(maxlen=PROGRESS_HISTORY)
        self._records: deque[tuple[float, int]] = deque(maxlen=PROGRESS_HISTORY)

    @property
    def running(self) -> bool:
        """Whether it sends records."""
        return self._next_record is not None

    @property
    def sent(self) -> int:
        """Octets given to TCP."""
        return self.connection.counters.sent

    def start(self, now: float) -> None:
        """Connect."""
        self._started = now
        self._next_record = now
        self.connection.open(now)

    def stop(self, now: float) -> None:
        """Close."""
        if self._next_record is not None:
            self._next_record = None
            self._stopped = now
        self.connection.close(now)

    def next_deadline(self) -> float | None:
        """When a record or TCP's own timer is due."""
        deadlines = (self._next_record, self.connection.next_deadline())
        return min((each for each in deadlines if each is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        self.connection.handle_timeout(now)
        if self._next_record is None or now < self._next_record:
            return
        if not self.connection.sends:
            self._next_record, self._stopped = None, now  # refused, reset or given up
            return
        if self.connection.room >= RECORD_LENGTH:
            offset = self.sent % 251
            self.connection.send(_PATTERN[offset : offset + RECORD_LENGTH], now)
            self._records.append((now, RECORD_LENGTH))
        else:
            self.withheld += 1
        missed = int((now - self._next_record) / self.interval)
        self._next_record += (missed + 1) * self.interval

    def poll_packet(self) -> bytes | None:
        """The next IP packet to send, ``None`` when there is none."""
        segment = self.connection.poll_transmit()
        if segment is None:
            return None
        return IpPacket(
            source=self.source,
            destination=self.destination,
            protocol=TCP,
            payload=segment.encode(self.source, self.destination),
        ).encode()

    def receive(self, packet: bytes, now: float) -> bool:
        """Take an IP packet; ``False`` when it is not of this connection."""
        try:
            found = IpPacket.decode(packet)
            if (found.source, found.destination, found.protocol) != (self.destination, self.source, TCP):
                return False
            segment = TcpSegment.decode(found)
        except DecodeError:
            self.malformed += 1
            return False
        connection = self.connection
        if (segment.source_port, segment.destination_port) != (connection.remote_port, connection.local_port):
            return False
        before = connection.counters.received
        connection.receive(segment, now)
        octets = connection.read(now)
        if octets:
            offset = before % 251
            expected = (_PATTERN * (len(octets) // len(_PATTERN) + 2))[offset : offset + len(octets)]
            self.corrupted += octets != expected
            self._progress.append((now, len(octets)))
        if connection.finished_receiving:
            connection.close(now)
        return True

    def statistics(self, now: float, since: float | None, until: float | None) -> TcpStatistics:
        """The flow from ``since`` (or its start) to ``until`` (or now, or its end)."""
        start = self._started if self._started is not None else now
        if since is not None:
            start = max(start, since)
        end = self._stopped if self._stopped is not None else now
        if until is not None:
            end = min(end, until)
        arrivals = [each for each in self._progress if start <= each[0] <= end]
        received = sum(octets for _, octets in arrivals)
        moments = [start, *(moment for moment, _ in arrivals), max(start, end)]
        counters = self.connection.counters
        trip = self.connection.round_trip
        return TcpStatistics(
            state=self.connection.state.value,
            failure=self.connection.failure,
            octets_sent=sum(octets for moment, octets in self._records if start <= moment <= end),
            octets_received=received,
            throughput_kbps=received * 8 / 1000 / (end - start) if end > start else 0.0,
            longest_stall_ms=max(later - earlier for earlier, later in pairwise(moments)) * 1000,
            rtt_ms=None if trip is None else trip * 1000,
            retransmissions=counters.retransmissions,
            fast_retransmissions=counters.fast_retransmissions,
            timeouts=counters.timeouts,
            withheld=self.withheld,
            corrupted=self.corrupted,
        )
