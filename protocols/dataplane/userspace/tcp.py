"""A TCP connection without a kernel (RFC 9293): enough for a flow through a tunnel, as a pure machine.

Retransmission by RFC 6298, congestion control by RFC 5681 with RFC 6582's answer to partial acknowledgments,
resets and SYNs in the window answered as RFC 5961 says. Left out: every option but MSS, so windows of 64 KiB,
no selective acknowledgments; urgent data; delayed acknowledgments; simultaneous open.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from enum import Enum

from protocols.dataplane.userspace.congestion import CongestionWindow, RetransmissionTimeout
from protocols.dataplane.userspace.segment import SEQUENCE_MODULUS, Flags, TcpSegment
from protocols.errors import LocalError

OWN_MSS = 1220  # fits IPv6 in the 1280 octets that every link carries
DEFAULT_MSS = 536  # RFC 9293 §3.7.1: of a peer that names none
MSS_MINIMUM = 48  # whatever a peer names: Linux's tcp_min_snd_mss (CVE-2019-11479)
RECEIVE_WINDOW = 65535
SEND_BUFFER = 262144
GIVE_UP_INTERVAL = 900.0  # R2 (RFC 9293 §3.8.3) is at least 100 s; Linux's 15 retransmissions take this long
TIME_WAIT_INTERVAL = 60.0  # twice a maximum segment lifetime of 30 s, as Linux has it


class TcpState(Enum):
    """RFC 9293 §3.3.2; LISTEN is its owner's."""

    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"
    CLOSED = "CLOSED"


@dataclass(kw_only=True)
class TcpCounters:
    """Octets that the application has given and got, and what it took."""

    sent: int = 0
    acknowledged: int = 0
    received: int = 0
    segments_out: int = 0
    segments_in: int = 0
    retransmissions: int = 0
    timeouts: int = 0
    fast_retransmissions: int = 0


_S = TcpState
_RECEIVING = frozenset({_S.ESTABLISHED, _S.FIN_WAIT_1, _S.FIN_WAIT_2})
_MAY_SEND = frozenset({_S.SYN_SENT, _S.SYN_RECEIVED, _S.ESTABLISHED, _S.CLOSE_WAIT})
_SYNCHRONIZED_SENDING = frozenset({_S.ESTABLISHED, _S.CLOSE_WAIT, _S.FIN_WAIT_1, _S.CLOSING, _S.LAST_ACK})


class TcpConnection:
    """One end of a connection; sequence numbers inside never wrap."""

    def __init__(self, *, local_port: int, remote_port: int, initial_sequence: int, mss: int = OWN_MSS) -> None:
        self.local_port = local_port
        self.remote_port = remote_port
        self.state = TcpState.CLOSED
        self.failure: str | None = None  # why it ended otherwise than by FIN
        self.counters = TcpCounters()
        self._own_mss = mss
        self._mss = min(mss, DEFAULT_MSS)
        self._iss = initial_sequence % SEQUENCE_MODULUS
        self._una = self._nxt = self._max = self._iss
        self._window = 0
        self._window_updated = (-1, -1)  # SND.WL1, SND.WL2
        self._buffer = bytearray()  # from SND.UNA on
        self._fin: int | None = None  # its sequence number
        self._irs = 0
        self._rcv_nxt = 0
        self._rcv_fin: int | None = None
        self._pieces: dict[int, bytes] = {}
        self._pieces_length = 0
        self._starts: list[int] = []  # of the pieces, a heap
        self._inbox = bytearray()
        self._advertised = RECEIVE_WINDOW
        self._congestion = CongestionWindow(self._mss)
        self._retransmit = False
        self._acknowledge = False
        self._probe = False
        self._out: deque[TcpSegment] = deque()
        self._rto = RetransmissionTimeout()
        self._timed: tuple[int, float] | None = None
        self._timer: float | None = None
        self._stalled_since: float | None = None
        self._last_sent = 0.0
        self._now = 0.0

    # --- the application

    def open(self, now: float) -> None:
        """Active OPEN (RFC 9293 §3.10.1)."""
        self._now = now
        self.state = TcpState.SYN_SENT

    def accept(self, segment: TcpSegment, now: float) -> None:
        """Passive OPEN with the SYN that came (RFC 9293 §3.10.7.2)."""
        self._now = now
        self._take_syn(segment)
        self._window = segment.window
        self.state = TcpState.SYN_RECEIVED

    def send(self, octets: bytes, now: float) -> int:
        """Queue octets; how many there was room for. ``LocalError`` after ``close`` and when it is over."""
        if not self.sends:
            raise LocalError(f"a TCP connection in state {self.state.value} sends no more")
        self._now = now
        taken = octets[: max(0, SEND_BUFFER - len(self._buffer))]
        self._buffer += taken
        self.counters.sent += len(taken)
        return len(taken)

    def read(self, now: float, maximum: int = RECEIVE_WINDOW) -> bytes:
        """What has come in order since the last time, at most so much."""
        self._now = now
        octets = bytes(self._inbox[:maximum])
        del self._inbox[: len(octets)]
        if octets and self._advertised < self._own_mss:
            self._acknowledge = True  # RFC 9293 §3.8.6.2.2: the window opens by a segment at least
        return octets

    def close(self, now: float) -> None:
        """Nothing more to send: FIN after what is queued (RFC 9293 §3.10.4)."""
        self._now = now
        if self._fin is not None or self.state in (TcpState.CLOSED, TcpState.TIME_WAIT):
            return
        if self.state is TcpState.SYN_SENT:
            self._finish(None)
            return
        self._fin = max(self._una, self._iss + 1) + len(self._buffer)
        if self.state is TcpState.CLOSE_WAIT:
            self.state = TcpState.LAST_ACK
        elif self.state is TcpState.ESTABLISHED:
            self.state = TcpState.FIN_WAIT_1

    def abort(self, now: float) -> None:
        """ABORT (RFC 9293 §3.10.5): RST, and over."""
        self._now = now
        if self.state in (TcpState.CLOSED, TcpState.SYN_SENT, TcpState.TIME_WAIT):
            self._finish("aborted")
            return
        self._finish("aborted")
        self._out.append(self._segment(Flags.RST | Flags.ACK, self._nxt))

    @property
    def finished_receiving(self) -> bool:
        """Whether the peer's FIN has come and everything before it."""
        return self._rcv_fin is not None and self._rcv_nxt > self._rcv_fin

    @property
    def round_trip(self) -> float | None:
        """The smoothed round-trip time in seconds."""
        return self._rto.smoothed

    @property
    def waiting(self) -> int:
        """Octets that have come and were not read."""
        return len(self._inbox)

    @property
    def sends(self) -> bool:
        """Whether ``send`` is possible."""
        return self.state in _MAY_SEND and self._fin is None

    @property
    def room(self) -> int:
        """How many octets ``send`` would take."""
        return max(0, SEND_BUFFER - len(self._buffer))

    # --- the machine

    def poll_event(self) -> None:
        """A connection has no events."""

    def next_deadline(self) -> float | None:
        """When a retransmission, a probe or the end of TIME-WAIT is due."""
        return self._timer

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        self._now = now
        if self._timer is None or now < self._timer:
            return
        self._timer = None
        if self.state is TcpState.TIME_WAIT:
            self._finish(None)
            return
        if self._stalled_since is None:
            self._stalled_since = now
        if now - self._stalled_since >= GIVE_UP_INTERVAL:
            self._finish("the peer does not answer")
            return
        self._rto.backoff += 1
        self._timed = None
        if self._window == 0 and self._nxt == self._una and self._is_open():
            self._probe = True  # RFC 9293 §3.8.6.1
            return
        self.counters.timeouts += 1
        self._congestion.expired(self._max - self._una, again=self._rto.backoff > 1)
        self._nxt = self._una

    def poll_transmit(self) -> TcpSegment | None:
        """The next segment to send, ``None`` when there is none."""
        segment = self._out.popleft() if self._out else self._next_segment()
        if segment is not None:
            self.counters.segments_out += 1
        return segment

    def receive(self, segment: TcpSegment, now: float) -> None:
        """SEGMENT ARRIVES (RFC 9293 §3.10.7)."""
        self._now = now
        self.counters.segments_in += 1
        if self.state is TcpState.CLOSED:
            return
        if self.state is TcpState.SYN_SENT:
            self._receive_in_syn_sent(segment)
            return
        sequence = self._unwrap(segment.sequence, self._rcv_nxt)
        if not self._acceptable(sequence, segment):
            if Flags.RST not in segment.flags:
                self._acknowledge = True
            return
        if Flags.RST in segment.flags:
            if sequence == self._rcv_nxt:
                self._finish("reset by the peer")
            else:
                self._acknowledge = True  # RFC 5961 §3.2: challenged
            return
        if Flags.SYN in segment.flags:
            self._acknowledge = True  # RFC 5961 §4.2
            return
        if Flags.ACK not in segment.flags:
            return
        if not self._receive_acknowledgment(segment, sequence):
            return
        self._receive_data(segment, sequence)

    # --- receiving

    def _receive_in_syn_sent(self, segment: TcpSegment) -> None:
        acknowledgment = self._unwrap(segment.acknowledgment, self._una)
        acknowledges = Flags.ACK in segment.flags
        if acknowledges and not self._iss < acknowledgment <= self._max:
            if Flags.RST not in segment.flags:
                self._out.append(self._segment(Flags.RST, acknowledgment))
            return
        if Flags.RST in segment.flags:
            if acknowledges:
                self._finish("refused by the peer")
            return
        if Flags.SYN not in segment.flags or not acknowledges:
            return
        self._take_syn(segment)
        self._acknowledged(acknowledgment)
        self._update_window(segment, self._irs, acknowledgment)
        self.state = TcpState.ESTABLISHED
        self._acknowledge = True

    def _take_syn(self, segment: TcpSegment) -> None:
        self._irs = segment.sequence
        self._rcv_nxt = segment.sequence + 1
        self._mss = min(self._own_mss, max(segment.mss or DEFAULT_MSS, MSS_MINIMUM))
        self._congestion = CongestionWindow(self._mss)

    def _acceptable(self, sequence: int, segment: TcpSegment) -> bool:
        """RFC 9293 §3.10.7.4, first check."""
        length = len(segment.payload) + (Flags.SYN in segment.flags) + (Flags.FIN in segment.flags)
        window = self._free()
        if not length:
            return self._rcv_nxt <= sequence < self._rcv_nxt + max(window, 1)
        if not window:
            return False
        return sequence < self._rcv_nxt + window and sequence + length > self._rcv_nxt

    def _receive_acknowledgment(self, segment: TcpSegment, sequence: int) -> bool:
        """The fifth check; whether the segment is gone on with."""
        acknowledgment = self._unwrap(segment.acknowledgment, self._una)
        if self.state is TcpState.SYN_RECEIVED:
            if not self._una < acknowledgment <= self._max:
                self._out.append(self._segment(Flags.RST, acknowledgment))
                return False
            self.state = TcpState.ESTABLISHED if self._fin is None else TcpState.FIN_WAIT_1
        if acknowledgment > self._max:
            self._acknowledge = True
            return False
        if acknowledgment > self._una:
            self._acknowledged(acknowledgment)
        elif (
            acknowledgment == self._una
            and self._max > self._una
            and not segment.payload
            and Flags.FIN not in segment.flags
            and segment.window == self._window
        ) and self._congestion.duplicate(self._max, self._max - self._una):
            self.counters.fast_retransmissions += 1
            self._retransmit = True
        self._update_window(segment, sequence, acknowledgment)
        if not self._window:
            self._stalled_since = None  # RFC 9293 §3.8.6.1: as long as it answers, it is waited for
        if self._fin is not None and self._una > self._fin:
            if self.state is TcpState.FIN_WAIT_1:
                self.state = TcpState.FIN_WAIT_2
            elif self.state is TcpState.CLOSING:
                self._wait()
            elif self.state is TcpState.LAST_ACK:
                self._finish(None)
                return False
        return True

    def _acknowledged(self, acknowledgment: int) -> None:
        """New octets have arrived: SND.UNA, round-trip time, congestion window, timer."""
        acked = acknowledgment - self._una
        data = acked - (self._una == self._iss) - (self._fin is not None and acknowledgment > self._fin)
        del self._buffer[:data]
        self.counters.acknowledged += data
        self._una = acknowledgment
        self._nxt = max(self._nxt, acknowledgment)
        self._rto.backoff = 0
        self._stalled_since = None
        if self._timed is not None and acknowledgment >= self._timed[0]:
            self._rto.sample(self._now - self._timed[1])
            self._timed = None
        self._retransmit = self._congestion.acknowledged(acknowledgment, acked, self._max - self._una)
        self._timer = None if self._una == self._max else self._now + self._rto.interval()

    def _update_window(self, segment: TcpSegment, sequence: int, acknowledgment: int) -> None:
        if self._window_updated <= (sequence, acknowledgment):
            self._window = segment.window
            self._window_updated = (sequence, acknowledgment)

    def _receive_data(self, segment: TcpSegment, sequence: int) -> None:
        payload = segment.payload
        if Flags.FIN in segment.flags and self._rcv_fin is None:
            self._rcv_fin = sequence + len(payload)
        if payload and self.state in _RECEIVING:
            early = max(0, self._rcv_nxt - sequence)
            kept = payload[early : max(0, self._rcv_nxt + self._free() - sequence)]
            start = sequence + early
            room = RECEIVE_WINDOW - self._pieces_length  # pieces may overlap: bounded all together
            if len(self._pieces.get(start, b"")) < len(kept) <= room:
                if start not in self._pieces:
                    heapq.heappush(self._starts, start)
                self._pieces_length += len(kept) - len(self._pieces.get(start, b""))
                self._pieces[start] = kept
        if payload or Flags.FIN in segment.flags:
            self._acknowledge = True
        before = self._rcv_nxt
        while self._starts and self._starts[0] <= self._rcv_nxt:
            start = heapq.heappop(self._starts)
            piece = self._pieces.pop(start)
            self._pieces_length -= len(piece)
            new = piece[self._rcv_nxt - start :]
            self._inbox += new
            self._rcv_nxt += len(new)
        self.counters.received += self._rcv_nxt - before
        if self._rcv_nxt == before and payload:
            # RFC 5681 §4.2: at once, and by itself: with data it would be no duplicate acknowledgment.
            self._out.append(self._segment(Flags.ACK, self._nxt))
            self._acknowledge = False
        if self._rcv_fin == self._rcv_nxt:
            self._rcv_nxt += 1
            self._receive_fin()

    def _receive_fin(self) -> None:
        if self.state is TcpState.ESTABLISHED:
            self.state = TcpState.CLOSE_WAIT
        elif self.state is TcpState.FIN_WAIT_1:
            self.state = TcpState.CLOSING
        elif self.state is TcpState.FIN_WAIT_2:
            self._wait()

    def _wait(self) -> None:
        self.state = TcpState.TIME_WAIT
        self._timer = self._now + TIME_WAIT_INTERVAL

    def _finish(self, failure: str | None) -> None:
        self.state = TcpState.CLOSED
        self.failure = failure
        self._timer = None
        self._buffer.clear()
        self._pieces.clear()
        self._starts.clear()
        self._acknowledge = self._retransmit = self._probe = False

    # --- sending

    def _is_open(self) -> bool:
        return self.state in _SYNCHRONIZED_SENDING

    def _next_segment(self) -> TcpSegment | None:
        if self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED) and self._nxt == self._iss:
            flags = Flags.SYN if self.state is TcpState.SYN_SENT else Flags.SYN | Flags.ACK
            self._advance(1)
            return self._segment(flags, self._iss, mss=self._own_mss)
        if self._is_open():
            if self._retransmit:
                self._retransmit = False
                if (again := self._data(self._una, self._mss)) is not None:
                    self.counters.retransmissions += 1
                    self._timed = None
                    self._timer = self._now + self._rto.interval()
                    return again
            if (segment := self._new_data()) is not None:
                return segment
        if self._acknowledge:
            self._acknowledge = False
            return self._segment(Flags.ACK, self._nxt)
        return None

    def _new_data(self) -> TcpSegment | None:
        """From SND.NXT on, as much as windows and MSS allow; a small segment only if nothing better comes."""
        flight = self._nxt - self._una
        if not flight and self._max == self._una and self._now - self._last_sent > self._rto.interval():
            self._congestion.idle()
        waiting = len(self._buffer) - flight
        usable = 1 if self._probe else min(self._congestion.octets, self._window) - flight
        length = min(self._mss, waiting, usable)
        ends = self._fin is not None and flight + max(length, 0) == len(self._buffer)
        if length <= 0 and not (ends and self._fin == self._nxt):
            if waiting > 0 and not flight and self._timer is None:
                self._timer = self._now + self._rto.interval()  # the window is shut: probe it
            return None
        if 0 < length < min(self._mss, waiting) and flight and not self._probe:
            return None  # RFC 9293 §3.8.6.2.1: silly window
        self._probe = False
        segment = self._data(self._nxt, max(length, 0))
        if segment is not None:
            self._advance(len(segment.payload) + (Flags.FIN in segment.flags))
        return segment

    def _data(self, sequence: int, maximum: int) -> TcpSegment | None:
        """The segment that begins at a sequence number, with FIN if that is its place."""
        offset = sequence - self._una
        payload = bytes(self._buffer[offset : offset + maximum])
        flags = Flags.ACK
        if self._fin is not None and sequence + len(payload) == self._fin:
            flags |= Flags.FIN
        if payload and offset + len(payload) == len(self._buffer):
            flags |= Flags.PSH
        if not payload and Flags.FIN not in flags:
            return None
        self._acknowledge = False
        return self._segment(flags, sequence, payload)

    def _advance(self, length: int) -> None:
        again = self._nxt < self._max
        self.counters.retransmissions += again
        self._nxt += length
        if self._timed is None and not again and not self._rto.backoff:
            self._timed = (self._nxt, self._now)  # RFC 6298 §3: Karn's algorithm
        self._max = max(self._max, self._nxt)
        self._last_sent = self._now
        if self._timer is None:
            self._timer = self._now + self._rto.interval()

    def _segment(self, flags: Flags, sequence: int, payload: bytes = b"", mss: int | None = None) -> TcpSegment:
        self._advertised = self._free()
        return TcpSegment(
            source_port=self.local_port,
            destination_port=self.remote_port,
            sequence=sequence % SEQUENCE_MODULUS,
            acknowledgment=self._rcv_nxt % SEQUENCE_MODULUS if Flags.ACK in flags else 0,
            flags=flags,
            window=self._advertised,
            payload=payload,
            mss=mss,
        )

    def _free(self) -> int:
        return max(0, RECEIVE_WINDOW - len(self._inbox))

    @staticmethod
    def _unwrap(value: int, reference: int) -> int:
        """The number nearest to a reference whose low 32 bits these are."""
        half = SEQUENCE_MODULUS // 2
        return reference + (value - reference + half) % SEQUENCE_MODULUS - half
