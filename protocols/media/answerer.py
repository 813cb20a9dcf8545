"""The answering ends of all calls that come to one port, as one machine: a ``VoiceEndpoint`` for each caller."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count

from protocols.entropy import Entropy
from protocols.errors import DecodeError
from protocols.media.rtp import is_rtcp, ssrc_of
from protocols.media.voice import VoiceEndpoint
from protocols.path import Endpoint

CALLS_MAXIMUM = 4096
CALLS_KEPT = 256  # that have ended

_Key = tuple[Endpoint, int]  # the caller and its SSRC


class Answerer:
    """Datagrams of callers in, datagrams to them out; calls are told apart by end point and SSRC."""

    def __init__(self, entropy: Entropy) -> None:
        self.answered = 0
        self.refused = 0  # there are too many calls
        self.malformed = 0
        self._entropy = entropy
        self._calls: dict[_Key, VoiceEndpoint] = {}
        self._out: deque[tuple[bytes, Endpoint]] = deque()
        self._timers: list[tuple[float, int, _Key]] = []
        self._armed: dict[_Key, float] = {}
        self._order = count()

    def receive(self, payload: bytes, caller: Endpoint, now: float) -> None:
        """Take a datagram's payload; a call begins with speech."""
        try:
            key = (caller, ssrc_of(payload))
        except DecodeError:
            self.malformed += 1
            return
        call = self._calls.get(key)
        if call is None:
            if is_rtcp(payload):
                return
            call = VoiceEndpoint(ssrc=int.from_bytes(self._entropy.octets(4), "big"), answering=True)
            if not call.receive(payload, now):
                self.malformed += 1
                return
            if not self._make_room():
                self.refused += 1
                return
            self.answered += 1
            self._calls[key] = call
        else:
            call.receive(payload, now)
        self._pump(key, call)

    def poll_event(self) -> None:
        """There are no events."""

    def poll_transmit(self) -> tuple[bytes, Endpoint] | None:
        """The next payload and whom to send it to, ``None`` when there is none."""
        return self._out.popleft() if self._out else None

    def next_deadline(self) -> float | None:
        """When a call has something to do."""
        while self._timers and self._armed.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def handle_timeout(self, now: float) -> None:
        """Run what is due."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            key = heapq.heappop(self._timers)[2]
            del self._armed[key]
            call = self._calls[key]
            call.handle_timeout(now)
            self._pump(key, call)

    def calls(self) -> tuple[VoiceEndpoint, ...]:
        """Those that are remembered, oldest first."""
        return tuple(self._calls.values())

    def call(self, ssrc: int) -> VoiceEndpoint | None:
        """The call of a caller with this SSRC, the latest of several, also when it has ended."""
        return next((call for call in reversed(self._calls.values()) if call.remote_ssrc == ssrc), None)

    def _make_room(self) -> bool:
        ended = [key for key, call in self._calls.items() if not call.running]
        if len(ended) >= CALLS_KEPT or len(self._calls) >= CALLS_MAXIMUM:
            for key in ended[:1]:
                del self._calls[key]
                self._armed.pop(key, None)
        return len(self._calls) < CALLS_MAXIMUM

    def _pump(self, key: _Key, call: VoiceEndpoint) -> None:
        while (payload := call.poll_transmit()) is not None:
            self._out.append((payload, key[0]))
        deadline = call.next_deadline()
        if deadline is None:
            self._armed.pop(key, None)
        elif self._armed.get(key) != deadline:
            self._armed[key] = deadline
            heapq.heappush(self._timers, (deadline, next(self._order), key))
