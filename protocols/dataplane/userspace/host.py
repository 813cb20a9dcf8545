"""Hosts without a kernel: one that answers echo requests, and one that sends them and keeps the score.

Echo of ICMP (RFC 792), ICMPv6 (RFC 4443) and UDP (RFC 862). Both are machines: inner IP packets in and
out, time as a parameter. They stand at the ends of a tunnel, or behind the far end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise

from protocols.errors import DecodeError, LocalError
from protocols.ip import ICMP, ICMPV6, UDP, IcmpEcho, IpPacket, UdpDatagram, icmp_of
from protocols.path import Address

ECHO_PORT = 7  # RFC 862
FLOW_INTERVAL = 0.02  # 50 packets per second, as many as a voice codec sends
FLOW_PAYLOAD_LENGTH = 56  # as ping's default: 84 octets of IPv4
FLOW_PORT = 49152  # RFC 6335 §6: the first dynamic port
FLOW_HISTORY = 65536  # packets remembered: 20 minutes at 50 per second
FLOW_PATIENCE = 1.0  # seconds until a packet without an answer counts as lost
NUMBER_LENGTH = 8


@dataclass(kw_only=True)
class HostCounters:
    """What a host saw; ``refused`` is a packet for another address, ``ignored`` one it has no answer to."""

    received: int = 0
    icmp_echoes: int = 0
    udp_echoes: int = 0
    refused: int = 0
    ignored: int = 0
    malformed: int = 0


class InProcessHost:
    """An IP host with some addresses that answers ICMP echo and UDP echo, and nothing else."""

    def __init__(self, *addresses: Address) -> None:
        if not addresses:
            raise LocalError("a host without an address")
        self.addresses = addresses
        self.counters = HostCounters()

    def receive(self, packet: bytes) -> bytes | None:
        """Take an IP packet; the packet to send back, ``None`` when there is no answer to it."""
        self.counters.received += 1
        try:
            request = IpPacket.decode(packet)
            if request.destination not in self.addresses:
                self.counters.refused += 1
                return None
            payload = self._answer(request)
        except DecodeError:
            self.counters.malformed += 1
            return None
        if payload is None:
            self.counters.ignored += 1
            return None
        return IpPacket(
            source=request.destination,
            destination=request.source,
            protocol=request.protocol,
            payload=payload,
            identification=request.identification,
        ).encode()

    def _answer(self, request: IpPacket) -> bytes | None:
        if request.protocol == icmp_of(request.destination):
            echo = IcmpEcho.decode(request)
            if echo is None or not echo.request:
                return None
            self.counters.icmp_echoes += 1
            return replace(echo, request=False).encode(request.destination, request.source)
        if request.protocol != UDP:
            return None
        datagram = UdpDatagram.decode(request)
        # Two echo servers that answer each other never stop: port 7 gets no answer from port 7.
        if datagram.destination_port != ECHO_PORT or datagram.source_port == ECHO_PORT:
            return None
        self.counters.udp_echoes += 1
        return UdpDatagram(
            source_port=ECHO_PORT,
            destination_port=datagram.source_port,
            payload=datagram.payload,
        ).encode(request.destination, request.source)


class FlowKind(str, Enum):
    """What an ``EchoClient`` sends."""

    ICMP = "icmp"
    UDP = "udp"


@dataclass(kw_only=True, slots=True)
class Sample:
    """One request: when it went and when its answer came."""

    sequence: int
    sent: float
    received: float | None = None


@dataclass(frozen=True, kw_only=True)
class FlowStatistics:
    """A flow between two moments; intervals in milliseconds, ``None`` where nothing was received.

    Counted are the requests sent in that time: ``sent`` = ``received`` + ``lost`` + ``in_flight``.
    ``longest_gap_ms`` is the longest time in which no answer came, from ``since`` (or the first request)
    to ``until`` (or now, or the end of the flow); an undisturbed flow's is about its interval.
    """

    sent: int
    received: int
    lost: int
    in_flight: int
    longest_gap_ms: float
    rtt_minimum_ms: float | None
    rtt_average_ms: float | None
    rtt_maximum_ms: float | None


class EchoClient:
    """Sends echo requests at a rate and remembers when each was sent and answered.

    ``start`` arms it; then ``next_deadline``, ``handle_timeout`` and ``poll_packet`` as any machine, and
    ``receive`` for every packet that arrives: it says whether the packet was its own. ``now`` never runs
    backwards. The request's number travels in its payload (64 bits) and in the ICMP sequence number.
    """

    def __init__(
        self,
        *,
        source: Address,
        destination: Address,
        kind: FlowKind = FlowKind.ICMP,
        interval: float = FLOW_INTERVAL,
        payload_length: int = FLOW_PAYLOAD_LENGTH,
        identifier: int = FLOW_PORT,
        history: int = FLOW_HISTORY,
    ) -> None:
        if interval <= 0:
            raise LocalError(f"a flow with an interval of {interval} s")
        if payload_length < NUMBER_LENGTH:
            raise LocalError(f"a payload of {payload_length} octets, {NUMBER_LENGTH} carry the number")
        if source.version != destination.version:
            raise LocalError(f"a flow from {source} to {destination}")
        self.source = source
        self.destination = destination
        self.kind = kind
        self.interval = interval
        self.sent = 0
        self.received = 0
        self.duplicates = 0
        self.malformed = 0
        self._identifier = identifier
        self._filling = bytes(payload_length - NUMBER_LENGTH)
        self._samples: deque[Sample] = deque(maxlen=history)
        self._packets: deque[bytes] = deque()
        self._deadline: float | None = None
        self._stopped: float | None = None
        self._now = 0.0

    def start(self, now: float) -> None:
        """Send from now on."""
        self._now = now
        self._stopped = None
        self._deadline = now

    def stop(self, now: float) -> None:
        """Send no more; answers still count."""
        self._now = now
        if self._deadline is not None:
            self._deadline = None
            self._stopped = now

    @property
    def running(self) -> bool:
        """Whether it sends."""
        return self._deadline is not None

    def next_deadline(self) -> float | None:
        """When the next request is due."""
        return self._deadline

    def handle_timeout(self, now: float) -> None:
        """Send the request that is due; those a late caller has missed are not made up for."""
        self._now = now
        if self._deadline is None or now < self._deadline:
            return
        self._send(now)
        missed = int((now - self._deadline) / self.interval)
        self._deadline += (missed + 1) * self.interval

    def poll_packet(self) -> bytes | None:
        """The next IP packet to send, ``None`` when there is none."""
        return self._packets.popleft() if self._packets else None

    def receive(self, packet: bytes, now: float) -> bool:
        """Take an IP packet; ``False`` when it answers no request of this flow."""
        self._now = now
        try:
            payload = self._answered(IpPacket.decode(packet))
        except DecodeError:
            self.malformed += 1
            return False
        if payload is None:
            return False
        if len(payload) < NUMBER_LENGTH:
            self.malformed += 1
            return False
        sample = self._sample(int.from_bytes(payload[:NUMBER_LENGTH], "big"))
        if sample is None:
            return False
        if sample.received is not None:
            self.duplicates += 1
        else:
            sample.received = now
            self.received += 1
        return True

    def statistics(self, since: float | None = None, until: float | None = None) -> FlowStatistics:
        """What became of the requests sent from ``since`` to ``until``, by default of all remembered."""
        end = self._now if self._stopped is None else self._stopped
        if until is not None:
            end = min(until, end)
        samples = [sample for sample in self._samples if sample.sent <= end and (since is None or sample.sent >= since)]
        trips = [sample.received - sample.sent for sample in samples if sample.received is not None]
        patient = self._now - FLOW_PATIENCE
        in_flight = sum(sample.received is None and sample.sent > patient for sample in samples)
        return FlowStatistics(
            sent=len(samples),
            received=len(trips),
            lost=len(samples) - len(trips) - in_flight,
            in_flight=in_flight,
            longest_gap_ms=self._longest_gap(since, end) * 1000,
            rtt_minimum_ms=min(trips) * 1000 if trips else None,
            rtt_average_ms=sum(trips) / len(trips) * 1000 if trips else None,
            rtt_maximum_ms=max(trips) * 1000 if trips else None,
        )

    def _longest_gap(self, since: float | None, end: float) -> float:
        if not self._samples:
            return 0.0
        first = self._samples[0].sent
        start = first if since is None else max(first, since)
        if end <= start:
            return 0.0
        arrivals = sorted(
            sample.received
            for sample in self._samples
            if sample.received is not None and start <= sample.received <= end
        )
        moments = [start, *arrivals, end]
        return max(later - earlier for earlier, later in pairwise(moments))

    def _send(self, now: float) -> None:
        number = self.sent
        data = number.to_bytes(NUMBER_LENGTH, "big") + self._filling
        if self.kind is FlowKind.ICMP:
            payload = IcmpEcho(request=True, identifier=self._identifier, sequence=number & 0xFFFF, data=data).encode(
                self.source, self.destination
            )
            protocol = icmp_of(self.source)
        else:
            payload = UdpDatagram(source_port=self._identifier, destination_port=ECHO_PORT, payload=data).encode(
                self.source, self.destination
            )
            protocol = UDP
        self._samples.append(Sample(sequence=self.sent, sent=now))
        self.sent += 1
        self._packets.append(
            IpPacket(
                source=self.source,
                destination=self.destination,
                protocol=protocol,
                payload=payload,
                identification=number & 0xFFFF,
            ).encode()
        )

    def _answered(self, packet: IpPacket) -> bytes | None:
        """The payload that came back, ``None`` when the packet is somebody else's."""
        if (packet.source, packet.destination) != (self.destination, self.source):
            return None
        if self.kind is FlowKind.UDP:
            if packet.protocol != UDP:
                return None
            datagram = UdpDatagram.decode(packet)
            ours = (datagram.source_port, datagram.destination_port) == (ECHO_PORT, self._identifier)
            return datagram.payload if ours else None
        if packet.protocol not in (ICMP, ICMPV6):
            return None
        echo = IcmpEcho.decode(packet)
        if echo is None or echo.request or echo.identifier != self._identifier:
            return None
        return echo.data

    def _sample(self, number: int) -> Sample | None:
        """The remembered request with this number."""
        if not self._samples:
            return None
        index = number - self._samples[0].sequence
        return self._samples[index] if 0 <= index < len(self._samples) else None
