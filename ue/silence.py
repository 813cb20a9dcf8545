"""Silence as a hint that a path is bad (RFC 4555 §3.5, §3.12; RFC 4621 §5.1.1): much is sent and nothing comes back.

A pure machine over two counters of the data plane, that of inner packets sent and that of packets that show that
the gateway is heard where it should be. It looks twice per ``interval`` while there is traffic, and not at all
without: an idle UE is quiet, and RFC 7296's liveness check stands behind. Two looks with nothing heard and
something sent before the second are a hint, and so is a stream from the gateway that breaks off: so long that
``STREAM_PACKETS`` should have come. Where the path is well a hint costs one exchange, at most one a second, and
only while there is something to lose; traffic in one direction is asked about at that pace.
"""

from __future__ import annotations

from collections import deque

HINT_INTERVAL = 1.0  # between two hints
RHYTHM_LOOKS = 8  # over which the pace of what comes is taken, and after which nothing more is expected
STREAM_PACKETS = 5


class SilenceWatch:
    """``stirred`` with every packet, ``look`` when ``deadline`` has come."""

    def __init__(self, interval: float) -> None:
        self._look_interval = interval / 2
        self.deadline: float | None = None
        self._sent = 0
        self._heard = 0
        self._unanswered = False  # something was sent before the last look, and nothing has come since
        self._rhythm: deque[int] = deque(maxlen=RHYTHM_LOOKS)
        self._silent = 0  # looks in a row without anything heard
        self._hinted: float | None = None

    def stirred(self, now: float) -> bool:
        """A packet was sent or has come; whether ``deadline`` is new."""
        if self.deadline is not None:
            return False
        self.deadline = now + self._look_interval
        return True

    def moved(self) -> None:
        """The path is another one: nothing is known of it."""
        self._unanswered, self._hinted = False, None
        self._rhythm.clear()

    def look(self, sent: int, heard: int, now: float) -> bool:
        """Take the counters; whether the silence is a hint. ``deadline`` is ``None`` when nothing is expected."""
        out, came = sent - self._sent, heard - self._heard
        self._sent, self._heard = sent, heard
        self.deadline = now + self._look_interval
        if came or out < 0:  # counters go down when a child SA goes
            self._rhythm.append(max(came, 0))
            self._unanswered, self._silent = False, 0
            return False
        self._silent += 1
        expected = sum(self._rhythm) / RHYTHM_LOOKS * self._silent
        hint = (self._unanswered or expected >= STREAM_PACKETS) and self._allowed(now)
        if hint:
            self._hinted = now
            self._unanswered = False
            self._rhythm.clear()
        elif out:
            self._unanswered = True
        if not out and not self._unanswered and (self._silent >= RHYTHM_LOOKS or not self._rhythm):
            self.deadline = None
            self._rhythm.clear()
        return hint

    def _allowed(self, now: float) -> bool:
        return self._hinted is None or now - self._hinted >= HINT_INTERVAL
