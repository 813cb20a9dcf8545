"""Two ends of a call and a wire between them on virtual time: delay, loss, duplicates and outages by rule."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import Protocol

ROUNDING = 1e-9  # of moments from one clock to the other and back
Rule = Callable[[int, float], Sequence[float]]  # n-th datagram of a direction, now -> delays of its copies


class End(Protocol):
    """What a wire connects."""

    def poll_transmit(self) -> bytes | None:
        """The next datagram."""

    def next_deadline(self) -> float | None:
        """When it wants the time."""

    def handle_timeout(self, now: float) -> None:
        """The time."""


class Wire:
    """Carries what two ends send, each by its own rule; ``offset``: how far the right end's clock is ahead."""

    def __init__(
        self,
        left: End,
        right: End,
        deliver_left: Callable[[bytes, float], object],
        deliver_right: Callable[[bytes, float], object],
        *,
        to_left: Rule,
        to_right: Rule,
        offset: float = 0.0,
    ) -> None:
        self.now = 0.0
        self._ends = {"left": left, "right": right}
        self._clock = {"left": 0.0, "right": offset}
        self._deliver = {"left": deliver_left, "right": deliver_right}
        self._rules = {"left": to_left, "right": to_right}
        self._sent = {"left": count(), "right": count()}
        self._order = count()
        self._under_way: list[tuple[float, int, str, bytes]] = []

    def run(self, until: float) -> None:
        """Advance from one thing that happens to the next."""
        while True:
            self._collect()
            moments = [self._under_way[0][0]] if self._under_way else []
            for name, end in self._ends.items():
                deadline = end.next_deadline()
                if deadline is not None:
                    moments.append(deadline - self._clock[name])
            if not moments or min(moments) > until:
                self.now = until
                return
            self.now = max(self.now, min(moments))
            while self._under_way and self._under_way[0][0] <= self.now:
                _, _, name, octets = heapq.heappop(self._under_way)
                self._deliver[name](octets, self.now + self._clock[name])
            for name, end in self._ends.items():
                end.handle_timeout(self.now + self._clock[name] + ROUNDING)

    def _collect(self) -> None:
        for name, other in (("left", "right"), ("right", "left")):
            while (octets := self._ends[name].poll_transmit()) is not None:
                for delay in self._rules[other](next(self._sent[other]), self.now):
                    heapq.heappush(self._under_way, (self.now + delay, next(self._order), other, octets))
