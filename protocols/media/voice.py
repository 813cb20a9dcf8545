"""An RTP-like voice call: a stream each way on one port, both ends keeping the score of both directions.

Streams are RTP (RFC 3550) with payloads of the size of AMR 12.2 (RFC 4867, octet-aligned); where speech would be
stands when the packet was sent, the pace, and how far the other end's reports have come. Each end reports every
packet's arrival in RTCP APP packets "VLOG", again until it sees that the report has come: an outage of one
direction hides nothing for long. The end is RTCP BYE. Sequence numbers begin at 0 and not at random (RFC 3550
§5.1), so that the log of an end that starts later has the sender's numbers; no sender and receiver reports.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from protocols.buffer import Reader
from protocols.errors import DecodeError, LocalError
from protocols.media.log import Entry, Figures, PacketFate, figures
from protocols.media.rtp import (
    SEQUENCE_MODULUS,
    TIMESTAMP_MODULUS,
    Application,
    Bye,
    ExtendedSequence,
    RtpPacket,
    decode_rtcp,
    is_rtcp,
)
from protocols.media.score import Opinion, score

VOICE_PORT = 5004  # RFC 3551 §8: RTP's default port
VOICE_INTERVAL = 0.02  # RFC 4867: one AMR frame in a packet
IDLE_INTERVAL = 120.0  # an answering end outlives outages, not a caller that is gone
HISTORY = 32768  # packets remembered of each direction: ten minutes at 50 per second
REPORT_INTERVAL = 0.2
REPORT_MAXIMUM = 128  # packets in one report: 668 octets
SETTLE_INTERVAL = 1.0  # for packets out of order and duplicates, before a packet's fate is reported
INTERVAL_MINIMUM = 0.0005  # an answering end takes up the caller's pace, not any pace
PATIENCE = 3.0  # seconds until a packet that nobody has reported counts as lost
PAYLOAD_TYPE = 96  # RFC 3551: the first dynamic one
CLOCK_RATE = 8000  # RTP timestamps per second (RFC 4867 §4.1)
REPORT_NAME = b"VLOG"

T = TypeVar("T")

_AMR_HEADER = b"\xf0\x3c"  # RFC 4867 §4.4: no mode request; one frame of 12.2 kbit/s, undamaged
_SPEECH_LENGTH = 31  # 244 bits
_TICKS = 10_000  # per second, of the moments in payloads and reports
_TICK_MODULUS = 1 << 32
_NOTE = struct.Struct(">III")  # sent, interval, reports are known up to here
_ENTRY = struct.Struct(">BI")  # copies, arrival of the first


@dataclass(frozen=True, kw_only=True)
class VoiceStatistics:
    """Both directions between two moments as one end knows them; ``in_flight``: own packets not told of yet.

    The other end's clock is taken to differ by what makes the shortest transit of both directions the same.
    """

    outbound: Figures
    inbound: Figures
    outbound_opinion: Opinion | None
    inbound_opinion: Opinion | None
    in_flight: int


@dataclass(kw_only=True, slots=True)
class _Arrival:
    """A packet of the other end: when its first copy came, and when it was sent by the other's clock."""

    first: float
    sent: float
    copies: int = 1


@dataclass(kw_only=True)
class VoiceCounters:
    """What else came: octets that are no packet of a call, packets of another call."""

    malformed: int = 0
    foreign: int = 0


class VoiceEndpoint:
    """One end of a call, for datagrams of one port; the answering one begins at the other's first packet.

    The caller ``start``s and ``stop``s. An answering end stops at BYE, and after ``IDLE_INTERVAL`` without a
    packet until the next one. ``now`` is the only clock, moments in logs are this end's.
    """

    def __init__(
        self, *, ssrc: int, interval: float = VOICE_INTERVAL, answering: bool = False, history: int = HISTORY
    ) -> None:
        if not 0 < interval * _TICKS < _TICK_MODULUS:
            raise LocalError(f"a voice stream with an interval of {interval} s")
        self.ssrc = ssrc
        self.interval = interval
        self.answering = answering
        self.remote_ssrc: int | None = None
        self.counters = VoiceCounters()
        self.sent = 0
        self.ended = False  # by BYE of either end
        self._history = history
        self._sent: deque[Entry] = deque(maxlen=history)
        self._received: deque[Entry] = deque(maxlen=history)
        self._arrivals: dict[int, _Arrival] = {}
        self._fates: dict[int, tuple[int, float]] = {}  # of own packets: copies, arrival by the other's clock
        self._told = 0  # own packets before this one have been reported
        self._peer_told = 0  # the other's packets before this one: it knows
        self._marks: deque[tuple[float, int]] = deque()  # when which number became the highest
        self._highest = -1
        self._settled = 0
        self._extended = ExtendedSequence()
        self._out: deque[bytes] = deque()
        self._next_packet: float | None = None
        self._next_report: float | None = None
        self._heard: float | None = None
        self._epoch: float | None = None
        self._shortest_out: float | None = None  # other's clock minus own, plus transit
        self._shortest_in: float | None = None  # own clock minus other's, plus transit

    @property
    def running(self) -> bool:
        """Whether it sends its stream."""
        return self._next_packet is not None

    def start(self, now: float) -> None:
        """Send from now on."""
        self.ended = False
        self._begin(now)

    def stop(self, now: float) -> None:
        """End the call: everything is reported, BYE goes, nothing is sent any more."""
        if self._epoch is None or self.ended:
            return
        self._end(now)

    def receive(self, octets: bytes, now: float) -> bool:
        """Take a datagram's payload; ``False`` when it is no packet of this call (counted)."""
        try:
            if is_rtcp(octets):
                return self._receive_control(octets, now)
            packet = RtpPacket.decode(octets)
            note = _read_note(packet.payload)
        except DecodeError:
            self.counters.malformed += 1
            return False
        if not self._of_this_call(packet.ssrc):
            return False
        if self._epoch is None:
            self._epoch = now
        sent, interval, known = note
        self._heard = now
        self._peer_told = max(self._peer_told, min(known, self._highest + 1))
        self._remember(self._extended.extend(packet.sequence), sent, now)
        if self.answering and not self.ended and not self.running:
            self.interval = interval
            self._begin(now)
        elif self._next_report is None and not self.ended:
            self._next_report = now + REPORT_INTERVAL
        return True

    def poll_event(self) -> None:
        """A call has no events."""

    def poll_transmit(self) -> bytes | None:
        """The next datagram to send, ``None`` when there is none."""
        return self._out.popleft() if self._out else None

    def next_deadline(self) -> float | None:
        """When the next packet or report is due."""
        return min((each for each in (self._next_packet, self._next_report) if each is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Send what is due; packets that a late caller has missed are not made up for."""
        if self.answering and self.running and self._heard is not None and now - self._heard >= IDLE_INTERVAL:
            self._next_packet = self._next_report = None
            return
        if self._next_packet is not None and now >= self._next_packet:
            self._send(now)
            missed = int((now - self._next_packet) / self.interval)
            self._next_packet += (missed + 1) * self.interval
        if self._next_report is not None and now >= self._next_report:
            self._next_report = now + REPORT_INTERVAL
            self._report(now)

    def sent_log(self, since: float | None = None, until: float | None = None) -> tuple[Entry, ...]:
        """The packets sent from ``since`` to before ``until``: number and moment."""
        return _between(self._sent, since, until)

    def received_log(self, since: float | None = None, until: float | None = None) -> tuple[Entry, ...]:
        """The packets received from ``since`` to before ``until``, every copy: number and moment."""
        return _between(self._received, since, until)

    def statistics(self, now: float, since: float | None = None, until: float | None = None) -> VoiceStatistics:
        """Both directions, of the packets sent from ``since`` to before ``until``."""
        outbound, in_flight = self._outbound(now, since, until)
        inbound = self._inbound(now, since, until)
        return VoiceStatistics(
            outbound=figures(outbound, since, until),
            inbound=figures(inbound, since, until),
            outbound_opinion=score(outbound, since, until),
            inbound_opinion=score(inbound, since, until),
            in_flight=in_flight,
        )

    # --- receiving

    def _of_this_call(self, ssrc: int) -> bool:
        if self.remote_ssrc is None:
            self.remote_ssrc = ssrc
        if ssrc != self.remote_ssrc:
            self.counters.foreign += 1
            return False
        return True

    def _receive_control(self, octets: bytes, now: float) -> bool:
        found = decode_rtcp(octets)
        if any(not self._of_this_call(each.ssrc) for each in found):
            return False
        self._heard = now
        for each in found:
            if isinstance(each, Application):
                if each.name == REPORT_NAME:
                    self._take_report(each.data)
            elif self.answering and self._epoch is not None and not self.ended:
                self._end(now)
        return True

    def _remember(self, sequence: int, sent: float, now: float) -> None:
        self._received.append((sequence, now))
        known = self._arrivals.get(sequence)
        if known is not None:
            known.copies += 1
            return
        self._arrivals[sequence] = _Arrival(first=now, sent=sent)
        if len(self._arrivals) > self._history:
            del self._arrivals[next(iter(self._arrivals))]
        if sequence > self._highest:
            self._highest = sequence
            if not self.ended:  # or nothing is reported any more
                self._marks.append((now, sequence))
        transit = now - sent
        self._shortest_in = transit if self._shortest_in is None else min(self._shortest_in, transit)

    def _take_report(self, data: bytes) -> None:
        reader = Reader(data)
        first, count = reader.u32(), reader.u16()
        reader.skip(2)
        for sequence, entry in enumerate(_ENTRY.iter_unpack(reader.take(count * _ENTRY.size)), first):
            copies, ticks = entry
            if not copies or not self._told <= sequence < self.sent:
                continue
            arrival = ticks / _TICKS
            self._fates[sequence] = (copies, arrival)
            offset = sequence - self._sent[0][0]
            if offset >= 0:
                difference = arrival - self._sent[offset][1]
                self._shortest_out = difference if self._shortest_out is None else min(self._shortest_out, difference)
        if first <= self._told:
            self._told = max(self._told, min(first + count, self.sent))
        while len(self._fates) > self._history:
            del self._fates[next(iter(self._fates))]

    # --- sending

    def _begin(self, now: float) -> None:
        if self._epoch is None:
            self._epoch = now
        self._next_packet = now
        self._next_report = now + REPORT_INTERVAL

    def _end(self, now: float) -> None:
        self._settled = self._highest + 1
        self._peer_told = max(self._peer_told, self._settled - self._history)  # of earlier ones nothing is known
        self._marks.clear()
        while self._report(now):
            self._peer_told += REPORT_MAXIMUM  # nothing is said twice any more
        self._out.append(Bye(ssrc=self.ssrc, reason="end of call").encode())
        self._next_packet = self._next_report = None
        self.ended = True

    def _send(self, now: float) -> None:
        note = _NOTE.pack(self._ticks(now), round(self.interval * _TICKS), self._told)
        packet = RtpPacket(
            payload_type=PAYLOAD_TYPE,
            sequence=self.sent % SEQUENCE_MODULUS,
            timestamp=round((now - self._origin()) * CLOCK_RATE) % TIMESTAMP_MODULUS,
            ssrc=self.ssrc,
            payload=_AMR_HEADER + note + bytes(_SPEECH_LENGTH - len(note)),
            marker=self.sent == 0,  # RFC 3551 §4.1: the beginning of a talkspurt
        )
        self._sent.append((self.sent, now))
        self.sent += 1
        self._out.append(packet.encode())

    def _report(self, now: float) -> bool:
        """Tell of the packets whose fate is settled, as many as one report holds; whether there were any."""
        while self._marks and self._marks[0][0] <= now - SETTLE_INTERVAL:
            self._settled = self._marks.popleft()[1] + 1
        first = self._peer_told
        last = min(self._settled, first + REPORT_MAXIMUM)
        if last <= first:
            return False
        entries = bytearray()
        for sequence in range(first, last):
            arrival = self._arrivals.get(sequence)
            if arrival is None:
                entries += _ENTRY.pack(0, 0)
            else:
                entries += _ENTRY.pack(min(arrival.copies, 255), self._ticks(arrival.first))
        data = struct.pack(">IHH", first, last - first, 0) + entries + bytes(-len(entries) % 4)
        self._out.append(Application(ssrc=self.ssrc, name=REPORT_NAME, data=data).encode())
        return True

    def _origin(self) -> float:
        assert self._epoch is not None  # nothing is sent before it is set
        return self._epoch

    def _ticks(self, moment: float) -> int:
        return round((moment - self._origin()) * _TICKS) % _TICK_MODULUS

    # --- the score

    def _clock_difference(self) -> float:
        """The other end's moments minus this end's: half of what the shortest transits differ by."""
        if self._shortest_in is None:
            return 0.0
        if self._shortest_out is None:
            return -self._shortest_in
        return (self._shortest_out - self._shortest_in) / 2

    def _outbound(self, now: float, since: float | None, until: float | None) -> tuple[list[PacketFate], int]:
        difference = self._clock_difference()
        fates = []
        in_flight = 0
        for sequence, sent in islice(self._sent, *_part(self._sent, since, until, key=_moment)):
            known = self._fates.get(sequence)
            if known is not None:
                copies, arrival = known
                fates.append(PacketFate(sequence=sequence, sent=sent, received=arrival - difference, copies=copies))
            elif sequence < self._told or sent <= now - PATIENCE:
                fates.append(PacketFate(sequence=sequence, sent=sent, received=None, copies=0))
            else:
                in_flight += 1
        return fates, in_flight

    def _inbound(self, now: float, since: float | None, until: float | None) -> list[PacketFate]:
        """The other's packets up to the last one seen; when a lost one was sent is told by its neighbours."""
        difference = self._clock_difference()
        oldest = self._highest - self._history  # numbers may jump: what is missing is bounded as well
        known = sorted(each for each in self._arrivals if each > oldest)
        start, end = _part(known, since, until, key=lambda sequence: self._arrivals[sequence].sent - difference)
        fates: list[PacketFate] = []
        before: tuple[int, float] | None = None
        for sequence in known[start:end]:
            arrival = self._arrivals[sequence]
            sent = arrival.sent - difference
            if before is not None:
                step = (sent - before[1]) / (sequence - before[0])
                fates += [
                    PacketFate(sequence=missing, sent=before[1] + step * (missing - before[0]), received=None, copies=0)
                    for missing in range(before[0] + 1, sequence)
                    if arrival.first <= now - SETTLE_INTERVAL
                ]
            fates.append(PacketFate(sequence=sequence, sent=sent, received=arrival.first, copies=arrival.copies))
            before = (sequence, sent)
        return fates


def _moment(entry: Entry) -> float:
    return entry[1]


def _part(
    entries: Sequence[T], since: float | None, until: float | None, *, key: Callable[[T], float]
) -> tuple[int, int]:
    """The indices of a window in what is ordered by ``key``, with what was under way when it began and one behind."""
    start = 0 if since is None else bisect_left(entries, since - PATIENCE, key=key)
    end = len(entries) if until is None else min(len(entries), bisect_left(entries, until, key=key) + 1)
    return max(0, start - 1), max(start, end)


def _read_note(payload: bytes) -> tuple[float, float, int]:
    """When a packet was sent by its sender's clock, the pace, and what it knows of its own packets' fate."""
    reader = Reader(payload)
    reader.skip(len(_AMR_HEADER))
    sent, interval, known = _NOTE.unpack(reader.take(_NOTE.size))
    if interval / _TICKS < INTERVAL_MINIMUM:
        raise DecodeError(f"a voice packet of a stream with an interval of {interval / _TICKS} s")
    return sent / _TICKS, interval / _TICKS, known


def _between(log: Sequence[Entry], since: float | None, until: float | None) -> tuple[Entry, ...]:
    start = 0 if since is None else bisect_left(log, since, key=_moment)
    end = len(log) if until is None else bisect_left(log, until, key=_moment)
    return tuple(islice(log, start, end))
